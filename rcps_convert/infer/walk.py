"""Solve for the action of every tensor of a traced model.

Inputs have known actions, parameters and hidden tensors have unknown ones; rules relate them, and
`axis.unify` solves. What stays open becomes regular. All problems are collected.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .. import rules as _rules  # noqa: F401 - registers the rules
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis, Mismatch
from ..algebra.specs import Spec
from ..errors import BreaksSymmetryError, ConversionError, NoRuleError, Refusal, Where
from ..graph.closed_modules import CLOSED
from ..graph.precision import double_precision, widened
from ..graph.trace import Node, Ref, Trace
from ..graph.writes import changed_parameters, is_inplace, written_refs
from ..rules.node import RuleNode, Swap
from ..rules.pins import Pin
from ..rules.pointwise import pointwise
from ..rules.registry import RULES, Anchor, Const, is_pointwise, op_name, require_no_ids
from ..tie.passage import Passage
from . import constants
from .cuts import Asked, Cut
from .mirrors import MirroredPairs, pair_parameters
from .outputs import pin_output, specs_of
from .stretch import Hint, Stretches, Tested, earlier
from .weight_numbers import find_weight_numbers, free_apart

SHAPE_ONLY = {
    "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty",
}  # fmt: skip
"""Operators that use their operand's shape and dtype, not its values."""

RESTARTS = 12
"""How many places a stretch may be begun at before a refused node, per model."""

STATISTICS = ("batch_norm", "instance_norm")
"""Operators whose fourth and fifth operand are running statistics, not constants."""


@dataclass
class Inference:
    """The solution for one model, over one or more traces that share its parameters.

    Attributes:
        parameters: action per parameter name.
        statistics: action per buffer that holds running statistics.
        values: per trace, the action of every result: `Action`, `Const`, nested, or None where unknown.
        outputs: per output leaf, its action; None for a leaf that is no tensor of the inputs.
        made: the same per trace: a train-mode forward may return more.
        problems: everything that stands in the way.
        averaged: buffers to replace by their mean with their mirror image, with their actions.
        passages: for each module that runs on both strands, how reverse complement passes it.
        wanted: parameters inside modules the trace does not look into that a rule asked for.
        pins: constants that met computed values.
        mirrors: parameters that are the mirror images of others.
        broken: those that are not invariant under the action found for them.
        anchors: per trace, the lengths of which a result reads one edge only, by the result's name.
        guarded: lengths read by operators that cannot be re-anchored; they must stay aligned.
        forced: for each convolution whose filters an output's action made fixed channels, the results
            (of the first trace) that carry these channels.
        tested: stretches of the graph whose action was established by testing, per trace.
        refused: per trace, the nodes that their rules refused, in graph order.
        lost: a stretch that was asked for was not closed.
        rounded: a constant is invariant, or a stretch obeys the law, only to the rounding of float32.
    """

    parameters: dict[str, Action] = field(default_factory=dict)
    statistics: dict[str, Action] = field(default_factory=dict)
    values: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[Action | None] = field(default_factory=list)
    made: list[list[Action | None]] = field(default_factory=list)
    problems: list[ConversionError] = field(default_factory=list)
    averaged: dict[str, Action] = field(default_factory=dict)
    passages: dict[str, Passage] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)
    pins: list[Pin] = field(default_factory=list)
    mirrors: MirroredPairs = field(default_factory=MirroredPairs)
    broken: list[Pin] = field(default_factory=list)
    forced: list[frozenset[str]] = field(default_factory=list)
    tested: list[list[Tested]] = field(default_factory=list)
    refused: list[list[Node]] = field(default_factory=list)
    lost: bool = False
    rounded: bool = False
    anchors: list[dict[str, list[Anchor]]] = field(default_factory=list)
    guarded: list[Anchor] = field(default_factory=list)

    def report(self, problem: ConversionError) -> None:
        """Collect a problem, once per place."""
        known = {(p.what, p.where and (p.where.path, p.where.source)) for p in self.problems}
        if (problem.what, problem.where and (problem.where.path, problem.where.source)) not in known:
            self.problems.append(problem)

    def average_buffers(self) -> None:
        """Average with its mirror image each buffer that is refused otherwise, or that rounding made uneven."""
        refused = {p.const.buffer: p.action.walk() for p in self.broken if p.const.buffer}
        words = {constants.refusal(p, p.action.walk()).what for p in self.broken if p.const.buffer}
        self.problems = [p for p in self.problems if p.what not in words]
        self.broken = [p for p in self.broken if not p.const.buffer]
        uneven = {p.const.buffer: p.action.walk() for p in self.pins if p.const.buffer and constants.is_rounded(p)}
        self.averaged = {str(name): action for name, action in {**uneven, **refused}.items()}


def infer(
    traces: list[Trace],
    inputs: list[Action | None],
    outputs: list[Spec | str],
    *,
    cuts: Mapping[str, Cut] | None = None,
    symmetrise_buffers: bool = False,
    lengths: Iterable[tuple[str, int]] = (),
) -> Inference:
    """The actions of a model's parameters, results and outputs.

    Args:
        traces: of one model, sharing its parameters.
        inputs: action of each input leaf, None for leaves that are no tensors.
        outputs: spec of each output leaf, or ``"auto"``.
        cuts: how reverse complement passes through the modules the traces do not look into, by path.
        symmetrise_buffers: a buffer that is not invariant is to be averaged instead of refused.
        lengths: axes of parameters, as (name, dimension), that are longer than the length they meet.
    """
    longer = tuple(lengths)
    settings = (traces, inputs, outputs, cuts or {}, longer, dict[Any, int | None]())
    hints: tuple[Hint, ...] = ()
    result = _solve(*settings, hints)
    for _ in range(RESTARTS):
        found = next(
            ((r, h) for h in _hints(traces, result) if _helps(r := _solve(*settings, (*hints, h)), result)), None
        )
        if found is None:
            break
        result, hints = found[0], (*hints, found[1])
    if symmetrise_buffers:
        result.average_buffers()
    result.rounded = _is_rounded(result)
    return result


def _is_rounded(result: Inference) -> bool:
    """Whether a constant, or a stretch with one, keeps the law only to the rounding of float32."""
    kept = (p for p in result.pins if p.const.buffer not in result.averaged)
    return any(t.rounded for walk in result.tested for t in walk) or any(map(constants.is_rounded, kept))


def _solve(
    traces: list[Trace],
    inputs: list[Action | None],
    outputs: list[Spec | str],
    cuts: Mapping[str, Cut],
    lengths: Iterable[tuple[str, int]],
    memory: dict[Any, int | None],
    hints: tuple[Hint, ...],
) -> Inference:
    result = Inference()
    for name, dim in lengths:
        result.parameters[name] = _longer(traces[0], name, dim, result.parameters.get(name))
    walks = [_Walk(trace, result, hints, memory, cuts) for trace in traces]
    for walk in walks:
        walk.run(inputs)
    unasked = {name: action for name, action in result.parameters.items() if name not in result.wanted}
    free_apart([(w.trace, w.weight_numbers) for w in walks], unasked)
    for problem in result.mirrors.problems:
        result.report(problem)
    for pin in result.pins:
        with suppress(Mismatch), ax.attempt():
            constants.complete(pin)
    filters = _open_filters(traces[0], result.values[0])
    _pin_outputs(traces, result, outputs)
    result.forced = [carriers for term, carriers in filters if ax.is_trivial(term)]
    constants.pin(result.pins)
    ax.settle_partnered(_shown_axes(traces, result))
    ax.settle(_all_axes(result))
    for broken, action in constants.broken(result.pins):
        result.report(constants.refusal(broken, action))
        result.broken.append(broken)
    return result


def _hints(traces: list[Trace], result: Inference) -> Iterator[Hint]:
    """Where stretches could begin so that the first problem of a solution goes away."""
    walks = [*zip(traces, result.values, result.refused, strict=True)]
    places = {p.where.node for p in result.broken}
    for trace, env, refused in walks:
        if refused:
            yield from earlier(trace, env, refused[:1])
            return
    for trace, env, _ in walks:
        nodes = [n for n in trace.nodes if n.name in places]
        for group in [nodes, *([n] for n in nodes)][: 1 if len(nodes) == 1 else None]:
            yield from earlier(trace, env, group)
        if nodes:
            return


def _helps(new: Inference, old: Inference) -> bool:
    """Whether a solution with another hint is nearer to one without problems."""
    first = old.problems[0]
    return not new.lost and (first.what, first.where) not in {(p.what, p.where) for p in new.problems}


class _Walk:
    """One pass over one trace."""

    def __init__(
        self,
        trace: Trace,
        result: Inference,
        hints: tuple[Hint, ...] | None = None,
        memory: dict[Any, int | None] | None = None,
        cuts: Mapping[str, Cut] | None = None,
    ) -> None:
        self.trace, self.result, self.cuts = trace, result, cuts or {}
        self.env: dict[str, Any] = {}
        self.swaps: list[Swap] = []
        self.refused: list[Node] = []
        self.stretches = None if hints is None else Stretches(trace, self.env, result.pins, hints, memory)
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
        self._order_problems(before)
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
        for node in self.trace.nodes:
            if self.stretches is not None and self.stretches.takes(node):
                continue
            if node.name in self.shapes_only and isinstance(node.value, Tensor):
                self.env[node.name] = _unknown(node.value)
            elif node.op is operator.getitem:
                whole = self.env.get(node.args[0].name)
                self.env[node.name] = None if whole is None else whole[node.args[1]]
            elif not op_name(node.op).startswith(("_assert", "sym_")):
                self.env[node.name] = self._node(node)

    def _sources(self, inputs: list[Action | None]) -> None:
        statistics = {
            n.args[i].name
            for n in self.trace.nodes
            if op_name(n.op) in STATISTICS
            for i in (3, 4)
            if isinstance(n.args[i], Ref)
        }
        given = iter(inputs)
        for name, source in self.trace.sources.items():
            if source.kind == "input":
                action = next(given)
                at_its_lengths = None if action is None else action.resized(source.value.shape)
                self.env[name] = source.value if action is None else at_its_lengths or action
            elif source.kind == "parameter":
                self.env[name] = self.result.parameters.setdefault(source.target, _unknown(source.value))
            elif name in statistics:
                self.env[name] = self.result.statistics.setdefault(source.target, _unknown(source.value))
            elif name in self.trace.written:
                self.env[name] = None
                if name not in self.weight_numbers:
                    self._refuse_written(source.target)
            else:
                buffer = source.target if source.kind == "buffer" else None
                self.env[name] = Const(source.value.detach().clone(), buffer)

    def _refuse_written(self, name: str) -> None:
        self.result.report(
            NoRuleError(
                f"the buffer {name} is updated from hidden values",
                where=Where(name.rpartition(".")[0]),
                why="only the running statistics of norm layers are understood as state",
                do="keep the update outside of forward, or convert the submodules that do not hold it",
            )
        )

    def _node(self, node: Node) -> Any:
        if node.name in self.weight_numbers.private:
            return None
        if node.name in self.weight_numbers.numbers:
            return Action(tuple(ax.trivial(1) for _ in node.shape))
        operands = [self.env.get(r) for r in node.refs()]
        if any(o is None for o in operands):
            return None
        if node.op is CLOSED:
            return self._apply(node)
        if op_name(node.op) in SHAPE_ONLY:
            return self._fold(node, shape_only=True)
        random = torch.Tag.nondeterministic_seeded in getattr(node.op, "tags", ())
        if not random and not any(_is_symbolic(o) for o in operands):
            return self._fold(node)
        return self._apply(node)

    def _fold(self, node: Node, *, shape_only: bool = False) -> Any:
        """Evaluate a node whose operands are known."""

        def fill(leaf: Any) -> Any:
            if not isinstance(leaf, Ref):
                return widened(leaf)
            value = self.env[leaf.name]
            if isinstance(value, Const):
                return value.value
            return torch.zeros(value.shape) if isinstance(value, Action) and shape_only else value

        args, kwargs = pytree.tree_map(fill, (node.args, node.kwargs))
        if shape_only and node.value.dtype != torch.float32 and "dtype" not in kwargs:
            kwargs = {**kwargs, "dtype": widened(node.value.dtype)}
        blank = op_name(node.op) in ("empty", "empty_like", "new_empty")  # filled later, or never read
        try:
            with double_precision():
                found = node.op(*args, **kwargs)
            value = pytree.tree_map(lambda v: _constant(v, blank) if isinstance(v, Tensor) else v, found)
        except Exception as fact:
            self.result.report(self._uncovered(node, f"evaluating it failed: {fact}"))
            return None
        only = next((self.env[r] for r in node.refs()), None)
        if (
            isinstance(value, Const)
            and isinstance(only, Const)
            and only.buffer
            and torch.equal(only.value, value.value)
        ):
            value = Const(value.value, only.buffer)
        return RuleNode(node, self.result.pins).constant(value) if node.name in self.trace.written else value

    def _apply(self, node: Node) -> Any:
        function: Any = self._cross if node.op is CLOSED else _lookup(node.op)
        if not all(isinstance(s, int) for v in pytree.tree_leaves(node.value) for s in getattr(v, "shape", ())):
            self.result.report(self._uncovered(node, "the size of its result depends on the values of a tensor"))
            return None
        if function is None:
            return self._refused(node, self._uncovered(node, "no rule says how reverse complement passes through it"))
        site, known = RuleNode(node, self.result.pins), len(self.result.pins)
        problem: ConversionError | None = None
        wants_constants, takes_ids = getattr(function, "settings", (node.op is CLOSED,) * 2)
        args, kwargs = self._operands(site, wants_constants)
        try:
            with ax.attempt():
                if not takes_ids:
                    require_no_ids(pytree.tree_leaves((args, kwargs)), site)
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
            del self.result.pins[known:]
            return self._refused(node, problem)
        for refusal in [*site.deferred, *self._unanchored(site, args)]:
            self.result.report(refusal.at(node.where, _got(args, kwargs)))
        self.swaps += site.swaps
        return value

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
        if site.node.name in self.caught and not ids:
            self.anchors[site.node.name] = site.anchors
            return []
        if site.node.name not in self.caught:
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
        return NoRuleError(
            f"no rule for {node.op}" if node.op is not CLOSED else f"no rule for this call of {node.where.path}",
            where=node.where,
            got="; ".join(operands) or None,
            why=why,
            do="register one with rcps_convert.rule, or write this step with operators that have one"
            + (inside if node.where.path and node.op is not CLOSED else ""),
        )


def _shapes_only(trace: Trace) -> set[str]:
    """Results of which only the shape is read."""
    outputs = {o.name for o in trace.outputs if isinstance(o, Ref)}
    read = {r for n in trace.nodes if op_name(n.op) not in SHAPE_ONLY for r in n.refs()}
    shaped = {r for n in trace.nodes if op_name(n.op) in SHAPE_ONLY for r in n.refs()}
    return shaped - read - outputs - set(trace.sources) - {n.name for n in trace.nodes if is_inplace(n.op)}


def changed_in_forward(parameter: str, by: str = "", where: Where | None = None) -> ConversionError:
    """The refusal of a forward that writes into a parameter.

    Args:
        parameter: its name.
        by: the operator that does it, where that is known.
        where: its place, where that is known.
    """
    return NoRuleError(
        f"{by or 'something'} changes the parameter {parameter} in forward",
        where=where or Where(parameter.rpartition(".")[0]),
        why="a tied parameter is computed whenever it is read, so what is written into it would be lost",
        do="change it between training steps, or compute a changed one and use that (w.clamp(-1, 1))",
    )


def _constant(value: Tensor, blank: bool) -> Const:
    return Const(torch.zeros_like(value) if blank else value)


def _longer(trace: Trace, name: str, dim: int, known: Action | None) -> Action:
    """The unknown action of a parameter one axis of which holds more positions than are used."""
    action = known or _unknown(next(s.value for s in trace.sources.values() if s.target == name))
    return action.with_axis(dim, ax.length(action.shape[dim], ax.Role("length", steps=None)))


def _unknown(value: Tensor) -> Action:
    return Action(tuple(ax.Var(s) for s in value.shape))


def _is_symbolic(value: Any) -> bool:
    return any(isinstance(leaf, Action) for leaf in pytree.tree_leaves(value))


def _lookup(op: Any) -> Any:
    """An operator's rule; an in-place operator has that of its plain twin."""
    if op in RULES:
        return RULES[op]
    name = op_name(op)
    if is_inplace(op) and name.endswith("_"):
        packet = getattr(getattr(torch.ops, op.namespace), name[:-1], None)
        twin = getattr(packet, op._overloadname, None) or getattr(packet, "default", None)
        if twin in RULES:
            return RULES[twin]
    return pointwise if is_pointwise(op) else None


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
    return BreaksSymmetryError(
        f"the operands of {op_name(node.op)} transform in ways that do not fit together",
        where=node.where,
        got=got,
        why=str(fact),
        do="check the layout of the operands there, and that lengths and channels meet their like",
    )


# --- what the outputs and the constants demand --------------------------------------------------


def _open_filters(trace: Trace, env: dict[str, Any]) -> list[tuple[Axis, frozenset[str]]]:
    """The open filter axes of convolutions along a length, with the results that carry them."""
    found = []
    for node in trace.nodes:
        y = env.get(node.name)
        if not op_name(node.op).startswith("conv") or not isinstance(y, Action):
            continue
        weight = env[node.args[1].name]
        slides = isinstance(weight, Action) and any(ax.is_length(t) and t.size > 1 for t in weight.axes[2:])
        mine = set(ax.free(weight.axes[0])) if slides else set()
        if mine:
            names = (n.name for n in trace.nodes if _carries(env.get(n.name), mine))
            found.append((weight.axes[0], frozenset(names)))
    return found


def _carries(value: Any, variables: set[ax.Var]) -> bool:
    actions = (a for a in pytree.tree_leaves(value) if isinstance(a, Action))
    return any(variables & set(ax.free(t)) for a in actions for t in a.axes)


def _pin_outputs(traces: list[Trace], result: Inference, specs: list[Spec | str]) -> None:
    for trace, env in zip(traces, result.values, strict=True):
        mine = specs_of(trace, traces[0], specs)
        actions: list[Action | None] = []
        for i, (leaf, spec) in enumerate(zip(trace.outputs, mine, strict=True)):
            value = env.get(leaf.name) if isinstance(leaf, Ref) else leaf
            if isinstance(value, Const):
                value = Action(tuple(ax.trivial(s) for s in value.value.shape))
            actions.append(value if isinstance(value, Action) else None)
            if isinstance(value, Action):
                where = next((n.where for n in trace.nodes if isinstance(leaf, Ref) and n.name == leaf.name), None)
                name = f"output {i}" if len(mine) > 1 else "the output"
                problem = pin_output(value, spec, where or Where(), name)
                if problem is not None:
                    result.report(problem)
        result.made.append(actions)
    result.outputs = result.made[0]


def _all_axes(result: Inference) -> Iterable[Axis]:
    groups = [result.parameters, *result.values, result.statistics]
    for group in groups:
        for action in pytree.tree_leaves(list(group.values())):
            if isinstance(action, Action):
                yield from action.axes
    for pin in result.pins:
        yield from pin.action.axes


def _shown_axes(traces: list[Trace], result: Inference) -> Iterable[Axis]:
    """The axes of what is used by itself: parameters without a partner, and results that something reads."""
    for name, action in result.parameters.items():
        if result.mirrors.partner(name) is None:
            yield from action.axes
    for trace, env in zip(traces, result.values, strict=True):
        read = {r for n in trace.nodes if n.op is not operator.getitem for r in n.refs()}
        read |= {leaf.name for leaf in trace.outputs if isinstance(leaf, Ref)}
        for name in read - trace.sources.keys():
            if isinstance(env.get(name), Action):
                yield from env[name].axes
