"""Which parameters inside of modules that inference left out read the channels that are to be reordered.

A module that runs on both strands keeps its weights, so inference does not ask what they are. But they read channels
in an order. The model is inferred once more with nothing left out; variables of both solutions that stand at the same
places are the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ...algebra import axis as ax
from ...algebra.action import Action
from ...algebra.arguments import Example
from ...algebra.axis import Axis, Prod, Sum, Var
from ...algebra.specs import Spec
from ...errors import ConversionError
from ...graph.export import trace
from ..inference import OpenTerms
from ..leaving_out import plain_copy
from ..solve import infer


def left_out(
    model: nn.Module,
    example: Example,
    actions: list[Action | None],
    wanted: Sequence[Spec | str],
    terms: OpenTerms,
    paths: Sequence[str],
) -> dict[str, Action]:
    """The actions of parameters and statistics that a solution left out, in its variables.

    Args:
        model: not touched.
        example, actions: what it is called with, and the action of each of its leaves.
        wanted: spec of each output.
        terms: of the solution that left modules out.
        paths: of these modules.

    Returns: by name; empty where the whole model cannot be traced.
    """
    try:
        whole = infer([trace(plain_copy(model), example)], actions, list(wanted)).open_terms
    except ConversionError:
        return {}
    every = {**whole.parameters, **whole.statistics}
    inside = {name for name in every if any(name.startswith(f"{path}.") for path in paths)}
    known = {name: a for name, a in {**terms.parameters, **terms.statistics}.items() if name not in inside}
    ours: dict[Var, set[Axis]] = {}
    for name in known.keys() & every.keys():
        for mine, theirs in zip(known[name].axes, every[name].axes, strict=True):
            _link(mine, theirs, ours)
    same = {v: next(iter(found)) for v, found in ours.items() if len(found) == 1}
    return {
        name: Action(tuple(_renamed(t, lambda v: same.get(v, v)) for t in every[name].axes), every[name].value)
        for name in sorted(inside)
    }


def _link(mine: Axis, theirs: Axis, ours: dict[Var, set[Axis]]) -> None:
    """Note which variables stand at the same places of two terms."""
    if isinstance(theirs, Var):
        ours.setdefault(theirs, set()).add(mine)
        return
    left, right = _parts(mine), _parts(theirs)
    if type(mine) is type(theirs) and [p.size for p in left] == [p.size for p in right]:
        for a, b in zip(left, right, strict=True):
            _link(a, b, ours)


def _parts(term: Axis) -> tuple[Axis, ...]:
    return term.factors if isinstance(term, Prod) else term.parts if isinstance(term, Sum) else ()


def _renamed(term: Axis, name: Callable[[Var], Axis]) -> Axis:
    """A term with other variables."""
    if isinstance(term, Var):
        return name(term)
    if isinstance(term, Prod):
        return ax.product(_renamed(f, name) for f in term.factors)
    return ax.total(_renamed(p, name) for p in term.parts) if isinstance(term, Sum) else term
