"""What becomes of a converted model: it is saved, copied, traced, accelerated, hooked, pruned, and changed in part.

Each is judged by the oracle: the law still holds, or a call is refused; or the outputs are those of before.
"""

from __future__ import annotations

import io
import pickle
import random
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from rcps_convert import (
    ConversionError,
    accelerate,
    apply_recipe,
    bake,
    load,
    load_plain_state_dict,
    recipe,
    save,
)

from .grammar import Case, build
from .oracle import Judge, Wrong

COUNT = 3
"""Lives that each model leads."""


@dataclass
class Lived:
    """A converted model, in eval mode and float64.

    Attributes:
        case, seed: of its program.
        plain: with the weights it was built with.
        model: not to be changed.
        dice: for choices.
    """

    case: Case
    seed: int
    plain: nn.Module
    model: nn.Module
    dice: random.Random

    @property
    def judge(self) -> Judge:
        """Of the model."""
        return Judge(self.case, self.model, self.seed + 7)

    def rebuilt(self) -> nn.Module:
        """The plain model, made anew."""
        return build(self.case.source, self.seed).double().eval()

    def same(self, check: str, other: Callable[..., Any]) -> None:
        """Another model computes what this one does, for random and for padded inputs."""
        judge = self.judge
        for way in ("random", "padded"):
            judge.same(check, judge.inputs(3, self.case.length, way), other)

    def lawful(self, check: str, model: nn.Module) -> None:
        """The law holds for some samples of a batch, or the call is refused."""
        with suppress(ConversionError):
            Judge(self.case, model, self.seed + 8).law(check, 3, self.case.length, "random", [0, 2])

    def parts(self, model: nn.Module) -> list[nn.Module]:
        """The user's modules without parts of their own."""
        return [m for m in model.modules() if type(m).__module__.startswith("torch.nn.modules") and not [*m.children()]]


Life = Callable[[Lived], None]

LIVES: dict[str, Life] = {}
"""By name."""


def life(function: Life) -> Life:
    """Register one."""
    LIVES[function.__name__.strip("_")] = function
    return function


def lead(lived: Lived, ours: Callable[[str], Any]) -> None:
    """Some lives, each on copies.

    Args:
        lived: the model.
        ours: a context in which other exceptions than refusals are findings.
    """
    for name in lived.dice.sample(sorted(LIVES), COUNT):
        with ours(name):
            LIVES[name](lived)


# --- kept -----------------------------------------------------------------------------------------


@life
def _recipe(lived: Lived) -> None:
    again = apply_recipe(lived.rebuilt(), recipe(lived.model))
    again.load_state_dict(lived.model.state_dict())
    lived.same("recipe", again.eval())


@life
def _file(lived: Lived) -> None:
    file = io.BytesIO()
    save(lived.model, file)
    file.seek(0)
    lived.same("file", load(file, lived.rebuilt()).eval())


@life
def _pickled(lived: Lived) -> None:
    module = types.ModuleType("fuzzed")
    vars(module).update(lived.plain.forward.__globals__)  # type: ignore[attr-defined]
    module.Net = type(lived.plain)  # type: ignore[attr-defined]
    before = sys.modules.get("fuzzed")
    sys.modules["fuzzed"] = module
    try:
        again = pickle.loads(pickle.dumps(lived.model))
    finally:
        if before is None:
            del sys.modules["fuzzed"]
        else:
            sys.modules["fuzzed"] = before
    lived.same("pickled", again.eval())


@life
def _copied(lived: Lived) -> None:
    twin = deepcopy(lived.model)
    x = lived.judge.inputs(3, lived.case.length)
    before = lived.judge.run(x)
    with torch.no_grad():
        for p in twin.parameters():
            if p.is_floating_point():
                p.mul_(1.5)
    lived.lawful("a copy, changed", twin)
    if any(not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, lived.judge.run(x), strict=True)):
        raise Wrong("a copy, changed", "its original changed with it")


@life
def _plain_weights(lived: Lived) -> None:
    if lived.case.ask.get("strategy"):
        return
    twin = deepcopy(lived.model)
    with torch.no_grad():
        for p in twin.parameters():
            if p.is_floating_point():
                p.zero_()
    load_plain_state_dict(twin, bake(lived.model).state_dict())
    lived.same("plain weights", twin)


# --- computed otherwise ---------------------------------------------------------------------------


@life
def _baked_for_one_length(lived: Lived) -> None:
    if sum(slot.kind in ("onehot", "ids") for slot in lived.case.inputs) > 1:
        return  # the longest input counts, which may be another one
    try:
        baked = bake(lived.model, length=lived.case.length)
    except ConversionError:
        return
    lived.same("baked for one length", baked.eval())


@life
def _accelerated(lived: Lived) -> None:
    if lived.case.ask.get("strategy") == '"conjoined"':
        return
    x = lived.judge.inputs(3, lived.case.length)
    fast = accelerate(lived.model, tuple(x), backend="torch", verbose=False)
    lived.same("accelerated", fast)
    lived.lawful("accelerated", fast)


@life
def _exported(lived: Lived) -> None:
    x = lived.judge.inputs(3, lived.case.length)
    with suppress(Exception):  # a plain model may not be one that torch.export takes
        torch.export.export(lived.plain, tuple(x))
        with suppress(ConversionError):
            program = torch.export.export(lived.model, tuple(x)).module()
            lived.judge.same("exported", x, program)


@life
def _apart_in_memory(lived: Lived) -> None:
    judge = lived.judge
    x = judge.inputs(3, lived.case.length)
    with suppress(ConversionError):
        judge.same("apart in memory", x, lambda *given: lived.model(*map(_spread, given)))


def _spread(x: Tensor) -> Tensor:
    """The same numbers, every other one of twice the memory."""
    return torch.stack([x, x], -1)[..., 0]


@life
def _averaged(lived: Lived) -> None:
    twin = deepcopy(lived.model)
    average = AveragedModel(twin)
    average.update_parameters(twin)
    with torch.no_grad():
        for p in twin.parameters():
            if p.is_floating_point():
                p.add_(0.1)
    average.update_parameters(twin)
    lived.lawful("averaged", average.eval())


# --- changed in part ------------------------------------------------------------------------------


@life
def _hooked(lived: Lived) -> None:
    """A hook that keeps the law, or breaks it: then the call is refused."""
    twin = deepcopy(lived.model)
    parts = lived.parts(twin)
    if parts:
        hook = lived.dice.choice([_halved, _tilted, _first_doubled])
        lived.dice.choice(parts).register_forward_hook(hook)
        lived.lawful(f"hooked ({hook.__name__.strip('_')})", twin)


def _halved(module: nn.Module, args: Any, out: Any) -> Any:
    return out / 2 if isinstance(out, Tensor) and out.is_floating_point() else out


def _tilted(module: nn.Module, args: Any, out: Any) -> Any:
    if not isinstance(out, Tensor) or not out.is_floating_point() or not out.dim():
        return out
    return out * (1 + torch.arange(out.shape[-1], dtype=out.dtype))


def _first_doubled(module: nn.Module, args: Any, out: Any) -> Any:
    if not isinstance(out, Tensor) or not out.is_floating_point() or out.dim() < 2:
        return out
    return torch.cat([2 * out[:, :1], out[:, 1:]], 1)


@life
def _part_replaced(lived: Lived) -> None:
    """Another layer of the same shape, untied, in the place of one: the call is refused, or the law still holds."""
    twin, rebuilt = deepcopy(lived.model), lived.rebuilt()
    names = [n for n, m in rebuilt.named_modules() if n and not [*m.children()] and [*m.parameters()]]
    names = [n for n in names if n in dict(twin.named_modules())]
    if names:
        name = lived.dice.choice(names)
        twin.set_submodule(name, rebuilt.get_submodule(name))
        lived.lawful("part replaced", twin)


@life
def _pruned(lived: Lived) -> None:
    twin = deepcopy(lived.model)
    layers = [m for m in twin.modules() if isinstance(m, (nn.Conv1d, nn.Linear))]
    if layers:
        with suppress(ConversionError):
            prune.random_unstructured(lived.dice.choice(layers), "weight", amount=0.4)
        lived.lawful("pruned", twin)


@life
def _written(lived: Lived) -> None:
    """Numbers written into full weights, as a checkpoint loader or a clip does."""
    twin = deepcopy(lived.model)
    generator = torch.Generator().manual_seed(lived.seed)
    layers = [m for m in twin.modules() if isinstance(m, (nn.Conv1d, nn.Linear, nn.Embedding))]
    with suppress(ConversionError), torch.no_grad():
        for m in layers:
            m.weight = nn.Parameter(torch.randn(m.weight.shape, generator=generator, dtype=m.weight.dtype))
    lived.lawful("written", twin)
