"""Solve for the action of every tensor of a traced model.

Inputs have known actions, parameters and hidden tensors have unknown ones; rules relate them (`walk`), and
`axis.unify` solves. What stays open becomes regular. All problems are collected.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from .._torch import pytree
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis, Mismatch
from ..algebra.specs import Spec
from ..errors import NoRuleError, Where
from ..graph.trace import Node, Ref, Trace
from ..rules.pointwise import range_of, rule_of
from ..rules.registry import Const, facts_of
from . import constants, one_sided
from .cuts import Cut
from .directions import ASSUMED, Directions
from .inference import Inference, OpenTerms
from .outputs import pin_output, specs_of
from .states import train_mode_states
from .stretch import WEIGHED, Hint, Memory, earlier
from .unread import ASSUMED as UNREAD
from .unread import Unread
from .walk import Walk, unknown_action
from .weight_numbers import free_apart

RESTARTS = 12
"""Maximum number of earlier start points tried per model."""


def infer(
    traces: list[Trace],
    inputs: list[Action | None],
    outputs: list[Spec | str],
    *,
    cuts: Mapping[str, Cut] | None = None,
    symmetrise_buffers: bool = False,
    lengths: Iterable[tuple[str, int]] = (),
    memory: Memory | None = None,
    known: tuple[Hint, ...] = (),
    restarts: int = RESTARTS,
    spreads: bool = True,
) -> Inference:
    """The actions of a model's parameters, results and outputs.

    Args:
        traces: of one model, sharing its parameters.
        inputs: action of each input leaf, None for leaves that are no tensors.
        outputs: spec of each output leaf, or ``"auto"``.
        cuts: how reverse complement passes through the modules the traces do not look into, by path.
        symmetrise_buffers: a buffer that is not invariant is to be averaged instead of refused.
        lengths: axes of parameters, as (name, dimension), that are longer than the length they meet.
        memory: of stretches that were met in other solutions for the model.
        known: where stretches had to begin in another solution for the model; tried first.
        restarts: maximum number of earlier start points that are tried for a stretch.
        spreads: a mask that is padded on one side may get an entry for each channel.
    """
    memory = Memory() if memory is None else memory
    directions, unread = list(map(Directions, traces)), list(map(Unread, traces))
    given = inputs, outputs, cuts or {}, tuple(lengths), memory
    solve = partial(_solve, traces, directions, unread, *given, spreads=spreads)
    search = partial(_searched, partial(_with_hints, solve, traces), unread, memory, restarts)

    def solved(assumed: frozenset[str]) -> Inference:
        found = search(known, {"assumed": assumed})
        opened = found.uneven_buffers() if symmetrise_buffers and found.problems else frozenset()
        return _better(found, search(found.hints, {"assumed": assumed, "opened": opened})) if opened else found

    def settled(assumed: frozenset[str]) -> Inference:
        found = solved(assumed)
        doubts, tried = set(found.doubts), {assumed}
        for doubt in sorted(doubts) if found.problems else ():
            tried.add(found.assumed | {doubt})
            new = solved(found.assumed | {doubt})
            found, doubts = _better(new, found), doubts | new.doubts
        every = found.assumed | doubts
        return _better(solved(every), found) if found.problems and every not in tried else found

    read_twice = any(found.by_node for found in directions) and solve(known, {}).problems
    result = settled(frozenset({ASSUMED})) if read_twice else settled(frozenset())
    if read_twice and result.problems:
        result = _either(settled(frozenset()), result)
    if symmetrise_buffers:
        result.average_buffers()
    result.rounded = _is_rounded(result)
    return result


def _better(new: Inference, old: Inference) -> Inference:
    """A solution with another assumption if it has fewer problems, or as many but fewer for want of a rule."""
    few, many = ((len(r.problems), sum(isinstance(p, NoRuleError) for p in r.problems)) for r in (new, old))
    return new if few < many else old


def _either(plain: Inference, assumed: Inference) -> Inference:
    """The better solution, without and with readings from either end; without, it tells what stood in their way too."""
    result = _better(assumed, plain)
    if result is plain and plain.problems:
        for problem in assumed.problems:
            plain.report(problem)
    return result


def _searched(
    search: Callable[..., Inference],
    unread: list[Unread],
    memory: Memory,
    restarts: int,
    known: tuple[Hint, ...],
    assumed: Mapping[str, Any],
) -> Inference:
    """A solution; as soon as there are problems, with zeros where no output depends on a constant.

    Args:
        search: `_with_hints`, given what solves and the traces.
        unread: per trace, the entries of constants that nothing reads.
        memory: of stretches; each search has a budget of its own.
        restarts: maximum number of earlier start points.
        known: where stretches begin in another solution; tried first.
        assumed: what is assumed, by attribute of `Inference`.
    """
    memory.guesses = 0
    plain = search(known, 0, assumed)
    if not plain.problems:
        return plain
    if any(u.entries for u in unread):
        found = search(known, restarts, {**assumed, "assumed": assumed["assumed"] | {UNREAD}})
        if not found.problems:
            return found
        memory.guesses = 0
    return search(known, restarts, assumed, plain)


def _with_hints(
    solve: Callable[..., Inference],
    traces: list[Trace],
    known: tuple[Hint, ...],
    restarts: int,
    assumed: Mapping[str, Any],
    begun: Inference | None = None,
) -> Inference:
    """A solution, with stretches that begin wherever that makes problems go away.

    Args:
        solve: `_solve`, given everything but hints and assumptions.
        traces: of the model.
        known: where stretches begin in another solution; tried first.
        restarts: maximum number of earlier start points.
        assumed: what is assumed, by attribute of `Inference`.
        begun: the solution without earlier start points, if that is known.
    """
    hints, result = (known, solve(known, assumed)) if begun is None else (begun.hints, begun)
    if result.lost:  # they are of another solution, which left out other modules
        hints, result = (), solve((), assumed)
    for _ in range(restarts):
        tried = ((solve((*hints, h), assumed, trial=True), h) for h in _hints(traces, result))
        found = next(((r, h) for r, h in tried if _helps(r, result)), None)
        if found is None:
            break
        result, hints = found[0], (*hints, found[1])
    result.hints = hints
    return result


def _is_rounded(result: Inference) -> bool:
    """Whether a constant, or a stretch with one, keeps the law only to the rounding of float32."""
    kept = (p for p in result.pins if p.const.buffer not in result.averaged)
    return any(t.rounded for walk in result.tested for t in walk) or any(map(constants.is_rounded, kept))


def _solve(
    traces: list[Trace],
    directions: list[Directions],
    unread: list[Unread],
    inputs: list[Action | None],
    outputs: list[Spec | str],
    cuts: Mapping[str, Cut],
    lengths: Iterable[tuple[str, int]],
    memory: Memory,
    hints: tuple[Hint, ...],
    assumed: Mapping[str, Any],
    *,
    spreads: bool = True,
    trial: bool = False,
) -> Inference:
    """The solution with some hints and assumptions; in a trial it is left at the first stretch that obeys no law."""
    result = Inference(**assumed)
    for name, dim in lengths:
        result.parameters[name] = _longer(traces[0], name, dim, result.parameters.get(name))
    each = zip(traces, directions, unread, strict=True)
    walks = [Walk(trace, result, hints, memory, cuts, found, u, trial=trial) for trace, found, u in each]
    result.states = train_mode_states((w.trace, w.weight_numbers) for w in walks)
    traced: dict[int, int] = {}  # the trace of each pin
    for number, walk in enumerate(walks):
        walk.run(inputs)
        if trial and result.lost:
            return result
        traced |= {id(p): number for p in result.pins if id(p) not in traced}
    unasked = {name: action for name, action in result.parameters.items() if name not in result.wanted}
    free_apart([(w.trace, w.weight_numbers) for w in walks], unasked)
    for problem in result.mirrors.problems:
        result.report(problem)
    for pin in sorted(result.pins, key=constants.rows_read, reverse=True):  # a table by those that read most of it
        with suppress(Mismatch), ax.attempt():
            constants.complete(pin)
    filters = _open_filters(traces[0], result.values[0])
    _pin_outputs(traces, result, outputs)
    result.forced = [carriers for term, carriers in filters if ax.is_trivial(term)]
    constants.pin(result.pins)
    result.open_terms = OpenTerms.of(result.parameters, result.statistics, result.values[0])
    ax.settle_partnered(_shown_axes(traces, result))
    ax.settle(all_axes(result), _needed(result.parameters))
    result.spread = [{} for _ in traces]
    for broken, action in constants.broken(result.pins):
        number = traced[id(broken)]
        mirrored = spreads and constants.is_mirror(broken, action)
        spread = one_sided.spread(broken, result.values[number]) if mirrored else {}
        result.spread[number] |= spread
        if spread:
            continue
        result.report(constants.refusal(broken, action))
        result.broken.append(broken)
    return result


def _hints(traces: list[Trace], result: Inference) -> Iterator[Hint]:
    """Where stretches could begin so that the first problem of a solution goes away."""
    walks = [*zip(traces, result.values, result.refused, strict=True)]
    places = {p.where.node for p in result.broken}
    for trace, env, refused in walks:
        if refused:
            if rule_of(refused[0].op) is None and result.assumes(WEIGHED):
                alike = [n for n in trace.nodes if n.op is refused[0].op and n.scope == refused[0].scope]
                yield from earlier(trace, env, alike, weighed=True)
            yield from earlier(trace, env, refused[:1])
            return
    for trace, env, _ in walks:
        nodes = [n for n in trace.nodes if n.name in places]
        for group in _groups(nodes):
            yield from earlier(trace, env, group)
        if nodes:
            return


def _groups(nodes: list[Node]) -> list[list[Node]]:
    """Nodes that one stretch may hold, the likeliest first: those of one call of one module, all, each alone."""
    calls = {n.scope: [m for m in nodes if m.scope == n.scope] for n in nodes}
    found = [*calls.values(), nodes, *([n] for n in nodes)]
    return [group for i, group in enumerate(found) if group and group not in found[:i]]


def _helps(new: Inference, old: Inference) -> bool:
    """Whether a solution with another hint is nearer to one without problems.

    It has lost the first problem, or it has lost another one and met none that is new.
    """
    before, after = ([(p.what, p.where) for p in found.problems] for found in (old, new))
    return not new.lost and (before[0] not in after or set(after) < set(before))


def _longer(trace: Trace, name: str, dim: int, known: Action | None) -> Action:
    """The unknown action of a parameter one axis of which holds more positions than are used."""
    action = known or unknown_action(next(s.value for s in trace.sources.values() if s.target == name))
    return action.with_axis(dim, ax.length(action.shape[dim], ax.Role("length", steps=None)))


def _open_filters(trace: Trace, env: dict[str, Any]) -> list[tuple[Axis, frozenset[str]]]:
    """The open filter axes of convolutions along a length, with the results that carry them."""
    found, carriers = [], _carriers(trace, env)
    for node in trace.nodes:
        y = env.get(node.name)
        at, axis = facts_of(node.op).weight, facts_of(node.op).filters
        if at is None or axis is None or not isinstance(y, Action):
            continue
        weight = env[node.args[at].name]
        slides = isinstance(weight, Action) and any(ax.is_length(t) and t.size > 1 for t in weight.axes[2:])
        mine = set(ax.free(weight.axes[axis])) if slides else set()
        if mine:
            found.append((weight.axes[axis], frozenset().union(*(carriers.get(v, ()) for v in mine))))
    return found


def _needed(parameters: Mapping[str, Action]) -> Iterator[list[ax.Var]]:
    """Of each parameter that changes its sign the open axes, one of which has to swap entries: else it is zero."""
    for action in parameters.values():
        if action.replaced(lambda v: ax.trivial(v.size)).is_negation():
            yield [v for term in action.axes for v in ax.free(term)]


def _carriers(trace: Trace, env: dict[str, Any]) -> dict[ax.Var, list[str]]:
    """For each open variable the results with an axis that is made of it."""
    found: dict[ax.Var, list[str]] = {}
    for node in trace.nodes:
        actions = (a for a in pytree.tree_leaves(env.get(node.name)) if isinstance(a, Action))
        for v in dict.fromkeys(v for a in actions for t in a.axes for v in ax.free(t)):
            found.setdefault(v, []).append(node.name)
    return found


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
                problem = pin_output(value, spec, where or Where(), name, _limits(trace, leaf))
                if problem is not None:
                    result.report(problem)
        result.made.append(actions)
    result.outputs = result.made[0]


def _limits(trace: Trace, leaf: Any) -> str:
    """What keeps an output from changing its sign, in words: the operator it comes from, but for its shape."""
    by_name = {n.name: n for n in trace.nodes}
    node = by_name.get(leaf.name) if isinstance(leaf, Ref) else None
    while node is not None:
        found, refs = range_of(node.op), node.refs()
        if found or len(refs) != 1 or not facts_of(node.op).signs:
            return found
        node = by_name.get(refs[0])
    return ""


def all_axes(result: Inference) -> Iterable[Axis]:
    """Every axis of a solution: of parameters, results, statistics and constants."""
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
