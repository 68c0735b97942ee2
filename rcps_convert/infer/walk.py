"""One pass over one trace: each node meets its rule, constants are evaluated, refusals open stretches."""

from __future__ import annotations

import operator
import re
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import rules as _rules  # noqa: F401 - registers the rules
from .._torch import draws_random_numbers, op_name, pytree
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Mismatch
from ..errors import BreaksSymmetryError, ConversionError, NoRuleError, Refusal, Where
from ..graph.closed_modules import CLOSED
from ..graph.precision import WIDER, double_precision, widened
from ..graph.trace import Node, Ref, Source, Trace
from ..graph.writes import changed_in_forward, changed_parameters, is_inplace, written_refs
from ..rules.common import MOVED
from ..rules.directions import TURNS, joined, standing
from ..rules.node import RuleNode, Swap
from ..rules.pins import is_short
from ..rules.pointwise import rule_of
from ..rules.registry import Anchor, Const, Facts, facts_of, is_silent, require_fit
from ..rules.shape import moves
from . import constants
from .cuts import Asked, Cut
from .directions import ASSUMED, Directions
from .inference import Inference
from .mirrors import pair_parameters
from .one_sided import OneSided
from .own_precision import OwnPrecision
from .stretch import WEIGHED, Hint, Memory, Stretches
from .torn import Torn
from .unread import ASSUMED as UNREAD
from .unread import Unread
from .weight_numbers import find_weight_numbers


class Walk:
    """One pass over one trace.

    Args:
        trace: the trace.
        result: gets what is found.
        hints: where stretches begin in spite of rules; None for a walk without stretches.
        memory: of stretches that were met before.
        cuts: how reverse complement passes through the modules the trace does not look into, by path.
        directions: lengths that the trace reads from either end, if that may be assumed.
        unread: entries of constants that no output depends on; they count as zero, if that may be assumed.
        trial: the walk ends at the first stretch that was asked for and obeys no law.
    """

    def __init__(
        self,
        trace: Trace,
        result: Inference,
        hints: tuple[Hint, ...] | None = None,
        memory: Memory | None = None,
        cuts: Mapping[str, Cut] | None = None,
        directions: Directions | None = None,
        unread: Unread | None = None,
        *,
        trial: bool = False,
    ) -> None:
        self.trial = trial
        self.trace, self.result, self.cuts = trace, result, cuts or {}
        self.env: dict[str, Any] = {}
        self.own = OwnPrecision(trace)
        self.swaps: list[Swap] = []
        self.torn, self.one_sided = Torn(trace), OneSided(trace)
        read_twice = directions is not None and bool(directions.by_node)
        self.directions = directions if read_twice and result.assumes(ASSUMED) else None
        self.unread = unread if UNREAD in result.assumed else None
        self.refused: list[Node] = []
        weighed = partial(result.assumes, WEIGHED)
        zeros = self.unread is not None
        self.stretches = (
            None if hints is None else Stretches(trace, self.env, result.pins, hints, memory, weighed, zeros=zeros)
        )
        self.shapes_only = _shapes_only(trace)
        self.weight_numbers = find_weight_numbers(trace)
        result.values.append(self.env)
        self.anchors: dict[str, list[Anchor]] = {}
        result.anchors.append(self.anchors)
        self.caught = {name for call in trace.calls if call.made is not None for name in call.nodes}

    def run(self, inputs: list[Action | None]) -> None:
        """Infer every result; a refused node opens a stretch, unless the walk is without hints (None)."""
        self._sources(inputs)
        before = len(self.result.problems)
        self._nodes()
        if self.stretches is not None:
            self.stretches.finish()
            for problem in self.stretches.problems:
                self.result.report(problem)
            self.result.lost |= self.stretches.lost
            self.result.tested.append(self.stretches.tested)
        for problem in self.torn.problems():
            self.result.report(problem)
        self._order_problems(before)
        self.swaps += self.directions.swaps if self.directions is not None else []
        pair_parameters(self.trace, self.env, self.weight_numbers, self.swaps, self.result.mirrors)
        for node, parameter in changed_parameters(self.trace):
            self.result.report(changed_in_forward(parameter, op_name(node.op), node.where))

    def _order_problems(self, before: int) -> None:
        """Put the problems of this walk in graph order: those of stretches were found late."""
        place = {n.name: i for i, n in enumerate(self.trace.nodes)}
        mine = self.result.problems[before:]
        self.result.problems[before:] = sorted(mine, key=lambda p: place.get(p.where.node or "", -1) if p.where else -1)
        still = {p.where.node for p in mine if p.where}
        self.result.refused.append([n for n in self.refused if n.name in still])

    def _nodes(self) -> None:
        for traced in self.trace.nodes:
            node = self._seen(traced)
            self.torn.carry(node)
            if self.stretches is not None and not self._joins(node) and self.stretches.takes(node):
                if self.trial and self.stretches.lost:
                    return
                continue
            if node.name in self.shapes_only and isinstance(node.value, Tensor):
                self.env[node.name] = Const(torch.zeros((), dtype=node.value.dtype).expand(node.value.shape))
            elif node.op is operator.getitem:
                whole = self.env.get(node.args[0].name)
                self.env[node.name] = None if whole is None else whole[node.args[1]]
            elif not is_silent(node.op):
                self.env[node.name] = self._result(node)

    def _seen(self, node: Node) -> Node:
        """A node as its reading of a length from one end sees it."""
        reading = self.directions.of(node) if self.directions is not None else None
        if reading is None or node.name in reading.joins:
            return node
        x = self.env.get(reading.given)
        if reading.start not in self.env and isinstance(x, Action) and ax.lengthen(x.axes[reading.dim]):
            self.env[reading.start] = standing(x, reading.dim)
        if reading.start not in self.env:
            return node
        self.result.as_they_are.add(node.name)
        return reading.seen(node)

    def _joins(self, node: Node) -> bool:
        """Whether a node joins two readings of a length; no law of several nodes reaches beyond it."""
        reading = self.directions.of(node) if self.directions is not None else None
        return reading is not None and node.name in reading.joins and reading.start in self.env

    def _result(self, node: Node) -> Any:
        """What a node makes: of both readings of a length, if it joins them; else what its rule says."""
        reading = self.directions.of(node) if self.directions is not None else None
        if reading is None or not self._joins(node):
            return self._node(node)
        one, other = (self.env.get(r) for r in node.refs())
        if not isinstance(one, Action) or not isinstance(other, Action):
            return None
        try:
            for a, b in zip(one.axes, other.axes, strict=True):
                ax.unify(a, b)
            whole = joined(node, one, self.env[reading.given].axes[reading.dim], reading.turned_back(node))
            self.result.readings.append(node.where)
            return whole
        except Refusal as fact:
            self.result.report(fact.at(node.where, _got((one, other), {})))
        except Mismatch as fact:
            self.result.report(_disagreement(node, fact, _got((one, other), {})))
        return None

    def _sources(self, inputs: list[Action | None]) -> None:
        statistics = {
            n.args[i].name for n in self.trace.nodes for i in facts_of(n.op).statistics if isinstance(n.args[i], Ref)
        }
        given = iter(inputs)
        for name, source in self.trace.sources.items():
            if source.kind == "input":
                action = next(given)
                at_its_lengths = None if action is None else action.resized(source.value.shape)
                self.env[name] = source.value if action is None else at_its_lengths or action
            elif source.kind == "parameter" or source.target in self.result.opened:
                self.env[name] = self.result.parameters.setdefault(source.target, unknown_action(source.value))
            elif name in statistics or source.target in self.result.states:
                self.env[name] = self.result.statistics.setdefault(source.target, unknown_action(source.value))
            elif source.kind == "held":
                self.env[name] = None
                self.result.report(constants.held_elsewhere(source.target))
            elif name in self.trace.written:
                self.env[name] = None
                if name not in self.weight_numbers:
                    self._refuse_written(source.target)
            else:
                self.env[name] = self._read(name, _held(source))

    def _refuse_written(self, name: str) -> None:
        self.result.report(
            NoRuleError(
                f"the buffer {name} is updated from hidden values",
                where=Where(name.rpartition(".")[0]),
                why="statistics that eval-mode forward updates, or that are no fractions, are not understood as state",
                do="update it in train mode only, where it can be averaged over both strands, or outside of forward; "
                "or convert the submodules that do not hold it",
            )
        )

    def _node(self, node: Node) -> Any:
        if node.name in self.weight_numbers.private:
            return None
        if node.name in self.weight_numbers.numbers:
            return Action(tuple(ax.trivial(1) for _ in node.shape))
        operands = {r: self.env.get(r) for r in node.refs()}
        if any(o is None for o in operands.values()):
            return None
        if node.op is CLOSED:
            return self._apply(node)
        if facts_of(node.op).shape_only:
            return self._fold(node, shape_only=True)
        random = draws_random_numbers(node.op)
        if not random and not any(_is_symbolic(operands[r]) for r in _read(node)):
            return self._fold(node)
        return self._apply(node)

    def _fold(self, node: Node, *, shape_only: bool = False) -> Any:
        """Evaluate a node of whose operands the values are known, or the shape only is read."""
        shapes = {r: self._blank(r) for r in node.refs() if _is_symbolic(self.env[r])}
        env = ChainMap(shapes, self.env) if shapes else self.env

        def fill(leaf: Any) -> Any:
            if not isinstance(leaf, Ref):
                return widened(leaf)
            value = env[leaf.name]
            return value.value if isinstance(value, Const) else value

        args, kwargs = pytree.tree_map(fill, (node.args, node.kwargs))
        if shape_only and node.value.dtype != torch.float32 and "dtype" not in kwargs:
            kwargs = {**kwargs, "dtype": widened(node.value.dtype)}
        blank = facts_of(node.op).blank  # filled later, or never read
        try:
            with double_precision():
                found = node.op(*args, **kwargs)
            found = found if shape_only else self.own.settle(node, env, found)
            self.result.steps |= frozenset(self.own.steps.sizes)
            self.result.steps_by_numbers |= frozenset(self.own.by_numbers.sizes)
            value = pytree.tree_map(
                lambda v: self._noted(node, _constant(v, blank)) if isinstance(v, Tensor) else v, found
            )
        except Exception as fact:
            self.result.report(self._uncovered(node, f"evaluating it failed: {fact}"))
            return None
        if isinstance(value, Const):
            value = self._read(node.name, replace(value, turned=self.one_sided.turned(node, env)))
        return RuleNode(node, self.result.pins).constant(value) if node.name in self.trace.written else value

    def _noted(self, node: Node, made: Const) -> Const:
        """A constant that a node computes, with what is known of the numbers it holds."""
        only = next((self.env[r] for r in node.refs()), None)
        if not isinstance(only, Const):
            return replace(made, rounded=self._rounds(node, made.value))
        same = only.buffer and torch.equal(only.value, made.value)
        held = only if moves(node.op) else made
        rounds = self._rounds(node, made.value)
        return Const(made.value, only.buffer if same else None, held.entries_of, rounds, held.attribute)

    def _blank(self, name: str) -> Const:
        """A tensor of the shape and dtype of a result."""
        return Const(torch.zeros(self.env[name].shape, dtype=self.own.wide(name)))

    def _read(self, name: str, const: Const) -> Const:
        """A constant with zeros where no output depends on it, if that may be assumed."""
        return const if self.unread is None else replace(const, value=self.unread.without(name, const.value))

    def _rounds(self, node: Node, value: Tensor) -> bool:
        """Whether a value is computed from numbers that the model rounded to float32."""
        operands = (self.env.get(r) for r in node.refs())
        return any(isinstance(c, Const) and c.rounded for c in operands) and not is_short(value)

    def _apply(self, node: Node) -> Any:
        function: Any = self._cross if node.op is CLOSED else rule_of(node.op)
        if not all(isinstance(s, int) for v in pytree.tree_leaves(node.value) for s in getattr(v, "shape", ())):
            self.result.report(self._uncovered(node, SIZED_BY_VALUES))
            return None
        if function is None:
            return self._refused(node, self._uncovered(node, facts_of(node.op).unruled or UNRULED))
        site, known = self._site(node), len(self.result.pins)
        problem: ConversionError | None = None
        facts: Facts = CROSSED if node.op is CLOSED else function.facts
        args, kwargs = self._operands(site, facts.constants)
        try:
            with ax.attempt():
                require_fit(facts, pytree.tree_leaves((args, kwargs)), site)
                value = function(site, *args, **kwargs)
                if written_refs(node) and not is_inplace(node.op):
                    raise ValueError("it writes into another of its operands, such as out=")
                if is_inplace(node.op):
                    for before, after in zip(args[0].axes, value.axes, strict=True):
                        ax.unify(before, after)
                _check_shape(node, value)
                for pin in site.pins[known:]:
                    constants.complete(pin)
        except Refusal as fact:
            problem = fact.at(node.where, _got(args, kwargs))
        except Mismatch as fact:
            problem = _disagreement(node, fact, _got(args, kwargs))
        except (TypeError, IndexError, KeyError, AttributeError, ValueError) as fact:
            problem = self._uncovered(node, f"its rule does not cover this call: {fact}")
        if problem is not None:
            self.result.clashed |= {p.const.entries_of for p in self.result.pins[known:] if p.const.entries_of}
            del self.result.pins[known:]
            cause = site.deferred[0].at(node.where, _got(args, kwargs)) if site.deferred else problem
            return self._refused(node, cause)
        for refusal in [*site.deferred, *self._unanchored(site, args)]:
            self.result.report(refusal.at(node.where, _got(args, kwargs)))
        self.swaps += site.swaps
        if site.torn:
            self.torn.cut(node)
        if site.torn or node.op in TURNS:
            self.result.as_they_are.add(node.name)
        return value

    def _site(self, node: Node) -> RuleNode:
        """A node for its rule; what the rule would assume is noted on the solution."""
        return RuleNode(
            node,
            self.result.pins,
            assumes=self.result.assumes,
            mends=self.torn.mends(node),
            rejoined=partial(self.torn.rejoined, node),
            one_of_two=self.directions is not None and self._reads(node),
        )

    def _reads(self, node: Node) -> bool:
        """Whether a node belongs to one of two readings of a length, which was met."""
        reading = self.directions.of(node) if self.directions is not None else None
        return reading is not None and node.name not in reading.joins and reading.start in self.env

    def _refused(self, node: Node, problem: ConversionError) -> Any:
        """Open a stretch at a node without result; its action, if the law holds for the node alone."""
        self.refused.append(node)
        if self.stretches is None:
            self.result.report(problem)
            return None
        self.stretches.begin(node, problem)
        return self.env.get(node.name)

    def _cross(self, site: RuleNode, operands: list[Any], path: str, number: int) -> tuple[Action, ...]:
        """Pass through a module that is not looked into."""
        cut, call = self.cuts[path], self.trace.closed[path, number]
        site.parameters = Asked(path, self.trace.first_name, self.result.parameters, self.result.wanted)
        made = cut(site, operands, call)
        found = cut.passage(operands, made, number)
        if found is not None and path in self.result.passages:
            self.result.passages[path].join(found)
        elif found is not None:
            self.result.passages[path] = found
        return made

    def _unanchored(self, site: RuleNode, args: Any) -> list[Refusal]:
        """Note where edges are read; refuse what cannot be re-anchored and is not aligned."""
        ids = any(isinstance(a, Action) and a.value is not None for a in pytree.tree_leaves(args))
        if site.node.name in self.caught and not ids and not site.torn:
            self.anchors[site.node.name] = site.anchors
            return []
        if site.node.name not in self.caught or site.torn:
            self.result.guarded += site.anchors
        return [a.refusal for a in site.anchors if not a.aligned]

    def _operands(self, site: RuleNode, constants: bool) -> Any:
        def fill(leaf: Any) -> Any:
            value = self.env[leaf.name] if isinstance(leaf, Ref) else leaf
            if isinstance(value, Const) and not constants:
                return site.constant(value)
            if isinstance(leaf, Ref) and isinstance(value, Action):
                value = Action(value.axes, value.value)  # rules may return an operand's own action: one per operand
                site.operands[id(value)] = leaf.name
            return value

        return pytree.tree_map(fill, (site.node.args, site.node.kwargs))

    def _uncovered(self, node: Node, why: str) -> ConversionError:
        operands = [str(a) for r in node.refs() if isinstance(a := self.env.get(r), Action)]
        inside = f', or pass on_unsupported="both_strands" to run {node.where.path} on both strands'
        whole = ', or use strategy="conjoined" for the whole model'
        return NoRuleError(
            f"no rule for {node.op}" if node.op is not CLOSED else f"no rule for this call of {node.where.path}",
            where=node.where,
            got="; ".join(operands) or None,
            why=why,
            do=(WITHOUT_A_MASK if why == SIZED_BY_VALUES else WITH_A_RULE)
            + (inside if node.where.path and node.op is not CLOSED else whole),
        )


UNRULED = "no rule says how reverse complement passes through it"
WITH_A_RULE = "register one with rcps_convert.rule, or write this step with operators that have one"
SIZED_BY_VALUES = "the size of its result depends on the values of a tensor"
WITHOUT_A_MASK = (
    "choose entries by a list of numbers that __init__ makes (mask.nonzero().flatten().tolist()), or set others to zero"
)

CROSSED = Facts(constants=True, ids=True, signs=True)
"""What the passage of a module that is not looked into takes."""


def _shapes_only(trace: Trace) -> set[str]:
    """Results of which only the shape is read, perhaps by way of others of which only the shape is read."""
    outputs = {o.name for o in trace.outputs if isinstance(o, Ref)}
    found, read, shaped = set[str](), set[str](), set[str]()
    for node in reversed(trace.nodes):
        if node.name in shaped - read - outputs and not is_inplace(node.op):
            found.add(node.name)
        else:
            read |= {*_read(node)}
        shaped |= {*node.refs()}
    return found


def _read(node: Node) -> tuple[str, ...]:
    """Names of the results whose values a node reads; of its other operands it reads the shape only."""
    facts = facts_of(node.op)
    if facts.shape_only:
        return ()
    args = [a for i, a in enumerate(node.args) if i not in facts.like]
    return tuple(leaf.name for leaf in pytree.tree_leaves((args, node.kwargs)) if isinstance(leaf, Ref))


def _held(source: Source) -> Const:
    """A buffer, or a tensor that forward holds, in double precision."""
    value, buffer = source.value.detach(), source.target if source.kind == "buffer" else None
    wide = value.to(WIDER.get(value.dtype, value.dtype), copy=True)
    rounded = value.dtype in (torch.float32, torch.complex64) and not is_short(wide)
    named = source.kind == "constant" and "lifted_tensor" not in source.target
    return Const(wide, buffer, buffer, rounded, source.target if named else None)


def _constant(value: Tensor, blank: bool) -> Const:
    return Const(torch.zeros_like(value) if blank else value)


def unknown_action(value: Tensor) -> Action:
    """The action of a tensor of which nothing is known yet: every axis is open."""
    return Action(tuple(ax.Var(s) for s in value.shape))


def _is_symbolic(value: Any) -> bool:
    return any(isinstance(leaf, Action) for leaf in pytree.tree_leaves(value))


def _check_shape(node: Node, value: Any) -> None:
    """A rule must return one action per result, of its shape."""
    wanted = [tuple(v.shape) for v in pytree.tree_leaves(node.value) if isinstance(v, Tensor)]
    found = [a.shape for a in pytree.tree_leaves(value) if isinstance(a, Action)]
    if wanted != found:
        raise ValueError(f"the rule gave shapes {found}, the operator {wanted}")


def _got(args: Any, kwargs: Any) -> str | None:
    operands = [str(a.walk()) for a in pytree.tree_leaves((args, kwargs)) if isinstance(a, Action)]
    return "; ".join(operands) or None


def _disagreement(node: Node, fact: Mismatch, got: str | None) -> ConversionError:
    do = "check the layout of the operands there, and that lengths and channels meet their like"
    if re.fullmatch(r"(\d+) fixed against \1 reversed|(\d+) reversed against \2 fixed", str(fact)):
        do += "; a kernel or a table that forward computes, as from positions, is to be its own mirror image, or a "
        do += "parameter"
    if re.fullmatch(r"(\d+) reversed against \d+ pairs( \+ \d+ fixed)?", str(fact)):
        do += f"; {MOVED}"
    return BreaksSymmetryError(
        f"the operands of {op_name(node.op)} transform in ways that do not fit together",
        where=node.where,
        got=got,
        why=str(fact),
        do=do,
    )


# --- what the outputs and the constants demand --------------------------------------------------
