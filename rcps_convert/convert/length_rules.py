"""What the operators of a model do to the lengths of its inputs, as rules that tell one length from another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from .._torch import pytree
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example, places
from ..algebra.specs import Spec
from ..graph.sandbox import positional_names
from ..infer.inference import Inference
from ..rules.registry import Anchor
from ..tie.length_guard import LengthRule

ONE_SIZE = (
    "this axis holds positions and something else in one, so the model was looked at with the example's size only"
)
"""Why an input is refused whose positions have no axis of their own."""

Chains = dict[int, set[tuple[ax.Step, ...]]]
"""What the operators do to each input length, by the length of the example."""


def chains_of(inference: Inference) -> Chains:
    """What the operators do to each input length, in every trace."""
    found: Chains = {}
    for term in _terms(inference):
        role = ax.role(term)
        if role is not None and role.steps:
            found.setdefault(role.start, set()).add(role.steps)
    return found


def hidden_lengths(inference: Inference) -> set[int]:
    """The sizes of all lengths, in every trace."""
    return {t.size for t in _terms(inference) if ax.ends(t) is not None}


def _terms(inference: Inference) -> Iterator[ax.Axis]:
    """The axes of all results, in every trace."""
    for env in inference.values:
        for action in pytree.tree_leaves(list(env.values())):
            yield from action.axes if isinstance(action, Action) else ()


def length_rules(
    model: nn.Module, example: Example, actions: Sequence[Action | None], chains: Chains, why: str = ""
) -> list[LengthRule]:
    """A rule for each input length that has a chain.

    Args:
        model: what is called.
        example, actions: with what.
        chains: by length.
        why: why a length is refused; by default a remainder.
    """
    found, where = [], places(positional_names(model), example)
    for (argument, place), action in zip(where, actions, strict=True):
        for dim, term in enumerate(action.axes if action is not None else ()):
            mine = chains.get(term.size) if ax.ends(term) is not None else None
            if mine:
                rule = LengthRule(argument, place, dim, term.size, tuple(_longest(mine)))
                found.append(LengthRule(**{**vars(rule), "why": why}) if why else rule)
    return found


def one_size_rules(
    model: nn.Module, example: Example, actions: Sequence[Action | None], specs: Sequence[Spec | None]
) -> list[LengthRule]:
    """A rule for each input axis that holds positions and is no length: no other size of it is looked at.

    Args:
        model: what is called.
        example, actions, specs: with what.
    """
    found = []
    for (argument, place), action, spec in zip(places(positional_names(model), example), actions, specs, strict=True):
        channel = spec.channel() if spec is not None else None
        for dim, term in enumerate(action.axes if action is not None else ()):
            known = ax.is_trivial(term) or ax.role(term) is not None or ax.ends(term) is not None
            if not (known or (channel is not None and ax.same(term, channel)) or ax.units(term)):
                step = ax.Step(1, 0, only=term.size)
                found.append(LengthRule(argument, place, dim, term.size, ((step,),), ONE_SIZE))
    return found


def needing_alignment(chains: Chains) -> Chains:
    """The chains with a step that is not aligned at every length."""
    some = {start: {c for c in mine if not all(s.always for s in c)} for start, mine in chains.items()}
    return {start: mine for start, mine in some.items() if mine}


def guarded_chains(anchors: Iterable[Anchor], actions: Sequence[Action | None]) -> Chains:
    """The chains that end with an operator that cannot be re-anchored."""
    found: Chains = {}
    for anchor in anchors:
        starts = [anchor.history] if anchor.history else [(n, (ax.Step(1, 0, only=n),)) for n in _lengths(actions)]
        for start, steps in starts:
            found.setdefault(start, set()).add(steps)
    return found


def _lengths(actions: Sequence[Action | None]) -> list[int]:
    return sorted({t.size for a in actions if a is not None for t in a.axes if ax.ends(t) is not None})


def _longest(chains: set[tuple[ax.Step, ...]]) -> list[tuple[ax.Step, ...]]:
    """Chains that are not the beginning of another."""
    return [c for c in chains if not any(o != c and o[: len(c)] == c for o in chains)]
