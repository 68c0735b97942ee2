"""A model that obeys the law with any weights: what its outputs are, and at which other lengths it was checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example
from ..algebra.nesting import output_specs, structure_names
from ..algebra.opened import opened, output_leaves
from ..algebra.specs import Spec
from ..errors import ConversionError, NeedsChoiceError
from ..infer.outputs import AUTO, auto_words
from ..measure.along_sequence import FOLLOWS, following, growing
from ..measure.large import fails_as_given, fails_where_large, fails_with_gradients
from ..measure.lengths import Variants
from ..measure.probe import Probe
from ..measure.report import allowed_actions
from ..measure.verification import Verification
from ..measure.verify import verify
from .counted import counted
from .length_checks import LengthChecks


@dataclass(frozen=True)
class AsItIs:
    """What was found of a model that needs no tying.

    Attributes:
        verification: the check of the law.
        outputs: a line for each output: what it is taken for.
        checked: other lengths at which the law was checked too, in positions.
        situations: in which it was checked too, in words.
        by_sizes: forward may go by the sizes of its inputs.
    """

    verification: Verification
    outputs: list[str]
    checked: list[int]
    situations: list[str]
    by_sizes: bool


def as_it_is(
    model: nn.Module, example: Example, specs: list[Spec | None], actions: list[Action | None], outputs: Any
) -> AsItIs | None:
    """What a model is that obeys the law with any weights; None where it does not.

    Args:
        model: not touched.
        example: what it is called with.
        specs, actions: per input leaf.
        outputs: the user's specs.

    Raises:
        NeedsChoiceError: it does, if an axis of an `"auto"` output that is no length is reversed.
    """
    try:
        probe = Probe(model, example, specs, actions)
        made = opened(probe.usual_outputs())
        wanted = output_specs(outputs, made)
        allowed = partial(allowed_actions, wanted, None)
        if fails_as_given(probe, allowed):
            return None
        found = verify(model, example, specs, actions, allowed, diagnose=False, probe=probe)
        holds = found.passed and not (fails_where_large(probe, allowed) or fails_with_gradients(probe, allowed))
        checks = _lengths(probe, model, wanted, found) if holds else None
        if checks is not None and counted(model, model, example, partial(_measured, specs, actions, allowed)):
            return None
    except ConversionError:
        raise
    except Exception:  # the model does not run as given; tracing reports why
        return None
    if checks is None:
        return None
    rows = [*zip(structure_names(made), found.outputs, wanted, strict=False)]
    _require_lengths(probe, rows)
    lines = [_line(name, action, spec) for name, action, spec in rows if action is not None]
    return AsItIs(found, lines, sorted(set(checks.checked)), checks.situations, not checks.by_no_size)


def _measured(specs: Any, actions: Any, allowed: Any, model: nn.Module, example: Example) -> Verification:
    return verify(model, example, specs, actions, allowed, 1, diagnose=False)


def _lengths(probe: Probe, model: nn.Module, wanted: Sequence[Spec | str], found: Verification) -> LengthChecks | None:
    """The check at other lengths, of those the model takes; None where the law fails at one."""
    example, specs, given = probe.example, probe.specs, probe.actions
    checks = LengthChecks(model, example, given, Variants(model, example, given).survey(), [])
    allowed = partial(allowed_actions, wanted, found.outputs)

    def measure(example: Example, actions: list[Action | None], outputs: Any, *_: bool) -> Verification:
        return verify(model, example, specs, actions, allowed, diagnose=False)

    checks.run(measure, [])
    return None if checks.problem is not None or checks.failed or checks.limits else checks


def _require_lengths(probe: Probe, rows: Sequence[tuple[str, Action | None, Spec | str]]) -> None:
    """Refuse an `"auto"` output of which an axis is reversed that is not seen to run along the sequence.

    Raises:
        NeedsChoiceError: there is one.
    """
    reversed_dims = [_reversed(action) if spec == AUTO else [] for _, action, spec in rows]
    along = growing(probe) if any(reversed_dims) else []
    doubtful = [(i, d) for i, dims in enumerate(reversed_dims) for d in dims if d not in along[i]]
    verdicts = following(probe, lambda drawn: output_leaves(probe.outputs(drawn))) if doubtful else []
    for index, dim in doubtful:
        if verdicts[index][dim] != FOLLOWS:
            name, action, _ = rows[index]
            raise NeedsChoiceError(
                f"output {name}: is axis {dim} a length?",
                got=str(action),
                why="reverse complement reverses this axis, as it does the bases ACGT and strands too, and running the "
                "model does not show that it follows the sequence",
                do='say what the output is in outputs=: tracks such as "+-", Tracks.pairs([3, 2, 1, 0]) for a number '
                'per base, or Tracks(".", layout="n c l") for positions',
            )


def _reversed(action: Action | None) -> list[int]:
    """The axes of an output that are reversed."""
    return [] if action is None else [d for d, t in enumerate(action.axes) if ax.ends(t) is not None and t.size > 1]


def _line(name: str, action: Action, spec: Spec | str) -> str:
    """An output in words: what it is taken for."""
    return f"{name}: {auto_words(action) if spec == AUTO else spec}, shape {action.shape}, {action.walk()}"
