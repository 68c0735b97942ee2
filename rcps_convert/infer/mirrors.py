"""Pairs of tensors that reverse complement swaps: each is the mirror image of the other.

A rule states such a pair (`Swap`) where an operator has one weight for each reading direction. The two
may have been computed from parameters, by the same operators: then it is these parameters that swap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .._torch import op_name, pytree
from ..algebra import axis as ax
from ..algebra.action import Action
from ..errors import BreaksSymmetryError, ConversionError, NoRuleError, Refusal, Where
from ..graph.trace import Node, Ref, Trace
from ..graph.writes import written_refs
from ..rules.node import Swap
from ..rules.registry import Const, facts_of
from .weight_numbers import WeightNumbers


@dataclass
class MirroredPairs:
    """Parameters that are the mirror images of others.

    Attributes:
        originals: for each image the parameter it is computed from, by name.
        own: parameters that both directions use: each must be its own mirror image.
        problems: why a pair cannot be that.
    """

    originals: dict[str, str] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    problems: list[ConversionError] = field(default_factory=list)

    def partner(self, name: str) -> str | None:
        """The other one of a pair; None for a parameter that is in none."""
        found = self.originals.get(name)
        return found or next((image for image, own in self.originals.items() if own == name), None)


def pair_parameters(
    trace: Trace, env: dict[str, Any], weight_numbers: WeightNumbers, swaps: Sequence[Swap], mirrors: MirroredPairs
) -> None:
    """Find the parameters behind pairs of results, and make their actions agree.

    Args:
        trace: a traced model.
        env: what is known of each of its results: `Action`, `Const`, or None.
        weight_numbers: what of it stands apart from the inputs.
        swaps: pairs that rules stated.
        mirrors: gets what is found.
    """
    pairing = _Pairing(trace, env, weight_numbers, mirrors)
    for swap in swaps:
        where = next(n.where for n in trace.nodes if n.name == swap.node)
        try:
            pairing.pair(swap.image, swap.original)
        except (Refusal, ax.Mismatch) as fact:
            mirrors.problems.append(_problem(fact, where))
    mirrors.problems += pairing.read_alone({s.node for s in swaps})


def _problem(fact: Refusal | ax.Mismatch, where: Where) -> ConversionError:
    if isinstance(fact, Refusal):
        return fact.at(where)
    return BreaksSymmetryError(
        "the weights of the two directions cannot be mirror images of each other",
        where=where,
        why=str(fact),
        do="compute them in the same way from parameters of the same shape",
    )


class _Pairing:
    """Walks back from two results, in step, to the parameters they were computed from."""

    def __init__(
        self, trace: Trace, env: dict[str, Any], weight_numbers: WeightNumbers, mirrors: MirroredPairs
    ) -> None:
        self.trace, self.env, self.weight_numbers, self.mirrors = trace, env, weight_numbers, mirrors
        self.nodes = {n.name: n for n in trace.nodes}
        self.paired: set[str] = set()

    def pair(self, image: str, original: str) -> None:
        """Two results that are mirror images: the same parameter, two parameters, or the same computation of such."""
        sources = [self.trace.sources.get(n) for n in (image, original)]
        if all(s is not None and s.kind in ("parameter", "input") for s in sources):
            self._record(image, original, *(s.target for s in sources if s))
            return
        if image == original or {image, original} <= self.paired or self._same_constant(image, original):
            return
        if all(s is not None and s.kind == "buffer" for s in sources):
            _refuse_statistics(*(s.target for s in sources if s))
        self.paired |= {image, original}
        nodes = [self.nodes.get(n) for n in (image, original)]
        number = (
            image in self.weight_numbers or original in self.weight_numbers
        )  # no rule has looked at how it was computed
        if number or not all(nodes) or not computed_alike(nodes[0], nodes[1]):  # type: ignore[arg-type]
            _refuse_unlike(*(op_name(n.op) if n else "a constant" for n in nodes))
        for a, b in zip(nodes[0].refs(), nodes[1].refs(), strict=True):  # type: ignore[union-attr]
            self.pair(a, b)

    def _same_constant(self, a: str, b: str) -> bool:
        one, other = self.env.get(a), self.env.get(b)
        return isinstance(one, Const) and isinstance(other, Const) and torch.equal(one.value, other.value)

    def _record(self, image: str, original: str, image_name: str, original_name: str) -> None:
        one, other, names = self.env[image], self.env[original], {image_name, original_name}
        for a, b in zip(one.axes, other.axes, strict=True):
            ax.unify(a, b)
        partners = {p for n in names if (p := self.mirrors.partner(n))}
        if partners - names or (partners and len(names) == 1) or (self.mirrors.own & names and len(names) == 2):
            _refuse_third(image_name, original_name)
        if len(names) == 1:
            self.mirrors.own |= names
            return
        self.paired |= {image, original}
        if not partners:
            self.mirrors.originals[image_name] = original_name

    def read_alone(self, swapping: set[str]) -> list[ConversionError]:
        """Every other use of a tensor that has a partner: alone it obeys no law of its own."""
        tensors = {n for n in self.paired if isinstance(self.env.get(n), Action)}
        live = live_nodes(self.trace)
        return [
            BreaksSymmetryError(
                f"{op_name(node.op)} reads the weight of one direction alone",
                where=node.where,
                why="reverse complement swaps it with the weight of the other direction, which is not read there",
                do="do the same with the weights of both directions, or keep it out of forward",
            )
            for node in self.trace.nodes
            if node.name in live - swapping - self.paired
            and node.name not in self.weight_numbers
            and tensors & set(node.refs())
        ]


def live_nodes(trace: Trace) -> set[str]:
    """Nodes on which the outputs depend; a parametrized layer may look at its weights more often than it uses them."""
    live = {leaf.name for leaf in trace.outputs if isinstance(leaf, Ref)}
    for node in reversed(trace.nodes):
        if node.name in live or written_refs(node):
            live |= {node.name, *(() if facts_of(node.op).shape_only else node.refs())}
    return live


def computed_alike(a: Node, b: Node) -> bool:
    """Whether two nodes do the same to their operands, one by one."""
    (left, form), (right, other) = (pytree.tree_flatten((n.args, n.kwargs)) for n in (a, b))
    return a.op is b.op and form == other and all(map(_alike, left, right))


def _alike(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (isinstance(a, Ref) or a == b)


def _refuse_unlike(image: str, original: str) -> None:
    raise Refusal(
        NoRuleError,
        "the weights of the two directions are computed in different ways",
        why=f"one comes from {image}, the other from {original}; one must be the mirror image of the other",
        do="compute the weights of both directions by the same operators, each from parameters of its own",
    )


def _refuse_statistics(image: str, original: str) -> None:
    raise Refusal(
        NoRuleError,
        "each direction keeps statistics of its own in buffers",
        got=f"{image} and {original}",
        why="they would have to stay mirror images of each other, and each is updated by itself",
        do="normalise behind the place where the directions are joined, or with a norm that keeps nothing (LayerNorm, "
        "GroupNorm)",
    )


def _refuse_third(image: str, original: str) -> None:
    raise Refusal(
        BreaksSymmetryError,
        f"{image} and {original} are the weights of two directions, and one of them is paired with another weight",
        why="each of the two must be the mirror image of the other",
        do="use the same two weights wherever one of them is used",
    )
