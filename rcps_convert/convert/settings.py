"""The settings of a conversion: one object, checked once, read by every stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict, get_args

from torch import nn

from ..strands.conjoined import Merge
from ..strands.layers_to_mix import Filter

Strategy = Literal["tied", "conjoined", "mixed"]
Init = Literal["keep", "project", "match"]
OnUnsupported = Literal["error", "both_strands"]
MergeWord = Literal["mean", "sum", "max"]

MEANINGLESS: dict[str, tuple[str, ...]] = {
    "tied": ("merge", "post_hoc", "mix"),
    "conjoined": ("mix", "init", "sequences", "on_unsupported", "symmetrise_buffers"),
    "mixed": ("post_hoc", "init", "sequences", "on_unsupported", "symmetrise_buffers"),
}
"""Settings that have no meaning with a strategy."""


@dataclass(frozen=True)
class Settings:
    """The keywords of `convert_model` and `plan_conversion` that say how a model is analysed and converted.

    Attributes:
        inputs, outputs, layout: what the tensors are, as given.
        strategy: ``"tied"``, ``"conjoined"`` or ``"mixed"``.
        merge: how the two readings of an output become one.
        post_hoc: both strands are read in eval mode only.
        mix: which layers read the other strand.
        init: what the tied weights start from.
        sequences: inputs that the pairs of a trained model are looked for with; None for random DNA.
        on_unsupported: what happens to a submodule that cannot be inferred.
        symmetrise_buffers: buffers that are not invariant are averaged.
        verify: the law is measured before the model is handed out.

    Raises:
        ValueError: a value that is none of those a setting takes, or settings that do not go together.
    """

    inputs: Any = "ACGT"
    outputs: Any = "auto"
    layout: Any = "auto"
    strategy: Strategy = "tied"
    merge: Merge = "mean"
    post_hoc: bool = False
    mix: Filter = None
    init: Init = "keep"
    sequences: Any = None
    on_unsupported: OnUnsupported = "error"
    symmetrise_buffers: bool = False
    verify: bool = True

    def __post_init__(self) -> None:
        self._require_word("strategy", Strategy)
        self._require_word("init", Init)
        self._require_word("on_unsupported", OnUnsupported)
        for name in ("post_hoc", "symmetrise_buffers", "verify"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r}: use True or False")
        is_function = callable(self.merge) and not isinstance(self.merge, nn.Module)
        if not is_function and self.merge not in get_args(MergeWord):
            raise ValueError(f"merge={self.merge!r}: use {_listed(MergeWord)}, or a function of two tensors")
        self._require_filter()
        for name in MEANINGLESS[self.strategy]:
            if not _is_default(name, getattr(self, name)):
                raise ValueError(f"{name}= has no meaning with strategy={self.strategy!r}")
        if self.init != "match" and self.sequences is not None:
            raise ValueError(f'sequences= has no meaning with init={self.init!r}: it is for init="match"')

    def _require_word(self, name: str, words: Any) -> None:
        value = getattr(self, name)
        if not isinstance(value, str) or value not in get_args(words):
            raise ValueError(f"{name}={value!r}: use {_listed(words)}")

    def _require_filter(self) -> None:
        mix = self.mix
        names = [mix] if isinstance(mix, str) else mix
        is_list = isinstance(names, (list, tuple)) and all(isinstance(n, str) for n in names)
        if mix is not None and not is_list and (not callable(mix) or isinstance(mix, nn.Module)):
            raise ValueError(f"mix={mix!r}: use a function of path and module, or module paths such as 'tower.*'")


DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(Settings)}
"""The value of each setting that is not given."""


def tie_init(init: str) -> str:
    """What a tie starts from: matched channels are pairs, and each pair takes its mean."""
    return "project" if init == "match" else init


def _is_default(name: str, value: Any) -> bool:
    return value is None if DEFAULTS[name] is None else bool(value == DEFAULTS[name])


class Keywords(TypedDict, total=False):
    """The settings as keywords, for signatures that take all of them."""

    inputs: Any
    outputs: Any
    layout: Any
    strategy: Strategy
    merge: MergeWord | Callable[..., Any]
    post_hoc: bool
    mix: Filter
    init: Init
    sequences: Any
    on_unsupported: OnUnsupported
    symmetrise_buffers: bool
    verify: bool


def _listed(words: Any) -> str:
    *some, last = map(repr, get_args(words))
    return f"{', '.join(some)} or {last}"
