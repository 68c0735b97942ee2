"""Solving with submodules left out: what `rc_leaf` declares, read-outs, and what no rule covers.

Trace and infer; where something stands in the way, leave out the smallest submodule that holds it, run
it on both strands instead, and infer again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example
from ..algebra.axis import follows
from ..algebra.specs import Spec
from ..errors import BreaksSymmetryError, ConversionError, NoRuleError, TraceError, Where
from ..geometry import anchor
from ..graph.closed_modules import ModuleCall, outermost, recording
from ..graph.copies import keeps_hooks
from ..graph.export import does_not_run, trace
from ..graph.modes_alike import modes_alike
from ..graph.progress import stage
from ..graph.sandbox import call, fresh_copy, quiet
from ..graph.trace import Node, Ref, Trace
from ..measure.axis_roles import branches
from ..measure.lengths import Survey, Variants
from ..measure.probe import Probe
from ..measure.runs import run_of
from ..measure.ways import is_affordable
from ..tie.norms import unpool
from ..tie.symmetriser import symmetrised, unsymmetrised
from .anchors import cut_to_length, plan_calls
from .constants import rows_read
from .cuts import Cut, Declaration, Symmetrised, declarations_of, declared
from .inference import Inference
from .readouts import find_readouts
from .solve import infer
from .states import reads_uneven_buffers
from .stretch import Hint, Memory
from .sums import regrouped

MOST_IDS = 2**20
"""Most entries of constant ids in an example that is made longer to see the rows of a table that they point to."""

TIMES = 4
"""How much longer each of these examples is than the one before."""


@dataclass
class Solution:
    """The actions of a model, and which submodules they leave out.

    Attributes:
        inference: the actions.
        traces: of the eval-mode and, if it can be traced, the train-mode forward.
        cuts: the submodules left out, by path.
        unheld: for each read-out that no submodule holds, where the length is lost.
        trained: the trace of the train-mode forward; None where the eval-mode forward's stands for it too, or there
            is none.
        untraced: why the train-mode forward could not be traced, if so.
        lost: why there is no solution for some ways that the forward takes at other lengths.
        survey: at which other lengths the forward runs.
    """

    inference: Inference
    traces: list[Trace]
    cuts: dict[str, Cut]
    unheld: list[Node] = field(default_factory=list)
    trained: Trace | None = None
    untraced: str | None = None
    lost: list[ConversionError] = field(default_factory=list)
    survey: Survey = field(default_factory=Survey)

    @property
    def is_alike(self) -> bool:
        """Whether the train-mode forward makes the calls of the eval-mode forward."""
        return self.trained is None and self.untraced is None


class Solver:
    """Finds a solution for one model.

    Args:
        model: not touched.
        example: what it is called with.
        specs, actions: per input leaf.
        both_strands: run on both strands what cannot be inferred, instead of reporting it.
        symmetrise_buffers: as in `infer`.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Example,
        specs: list[Spec | None],
        actions: list[Action | None],
        *,
        both_strands: bool,
        symmetrise_buffers: bool,
    ) -> None:
        self.model, self.example, self.specs, self.actions = plain_copy(model), example, specs, actions
        self.both_strands, self.averages = both_strands, symmetrise_buffers
        self.opened: dict[str, str | None] = {}  # paths that run on both strands, with the reason
        self.kept = symmetrised(model)  # a baked model runs on both strands what it did before
        self.declared = {**declarations_of(model), **{path: Declaration("both_strands") for path in self.kept}}
        self.hints: dict[str, dict[tuple[int, ...], frozenset[int]]] = {}
        self.untraceable: set[str] = set()
        self.probe: Probe | None = None
        self.kept_inside: set[str] = set()  # read-outs whose submodule could not be left out
        self.symmetrised: dict[str, Symmetrised] = {}
        self.cuts: dict[str, Cut] = {}
        self.alike: bool | None = None  # the train-mode forward makes the calls of the eval-mode forward
        self.trained: Trace | None = None
        self.untraced: str | None = None
        self.traces: list[Trace] = []
        self.survey: Survey | None = None  # where forward takes another way
        self.lost: list[ConversionError] = []
        self.memory = Memory()  # of stretches: the same lines run at every length
        self.known: tuple[Hint, ...] = ()
        self.trace()

    def trace(self) -> None:
        """Trace the eval-mode forward, leaving out what must be.

        Raises:
            TraceError: the model cannot be traced.
        """
        stage("tracing")
        while True:
            self.cuts, self.trained = self._cuts(), None
            try:
                self.traces = [regrouped(trace(self.model, self.example, cuts=self.cuts))]
                return
            except TraceError as problem:
                if not self._open(problem):
                    raise

    def solve(self, wanted: Sequence[Spec | str]) -> Solution:
        """Infer, and leave out submodules until nothing stands in the way or nothing can be left out.

        Args:
            wanted: spec of each output leaf, or ``"auto"``.
        """
        while True:
            found = self._infer(wanted)
            if len(self.traces) == 1 and (not found.problems or reads_uneven_buffers(self.traces[0])):
                self._trace_training()
                found = self._infer(wanted) if self.trained is not None else found
                if not found.problems:
                    found = self._with_other_ways(found, wanted)
                    found = self._with_more_rows(found, wanted)
            holders, unheld = ([], []) if found.problems else find_readouts(self.traces[0], found)
            new = [p for p in holders if p not in self.kept_inside]
            for path in new:
                self._leave_out(path, None, found)
            opened = self._open(found.problems[0], found) if found.problems else bool(new)
            if not opened:
                ways = self.trained, self.untraced, self.lost, self.survey or Survey()
                return Solution(found, self.traces, self.cuts, unheld, *ways)
            self.trace()

    def _infer(self, wanted: Sequence[Spec | str], example: Example | None = None) -> Inference:
        """Infer; where a slice cuts learned positions to a length, the whole of them may be one.

        Args:
            wanted: spec of each output leaf, or ``"auto"``.
            example: of the last trace, if it is another one.
        """
        stage("solving")

        def once(lengths: list[tuple[str, int]], spreads: bool = True) -> Inference:
            return infer(
                self.traces,
                self.actions,
                list(wanted),
                cuts=self.cuts,
                symmetrise_buffers=self.averages,
                lengths=lengths,
                memory=self.memory,
                known=self.known,
                spreads=spreads,
            )

        found = once([])
        self.known = found.hints
        longer = cut_to_length(self.traces, found)
        again = once(longer) if longer and not found.problems else found
        found = found if again.problems else again
        spread = not found.problems and any(found.spread)
        return once(longer, False) if spread and not self._runs(found, example or self.example) else found

    def _runs(self, found: Inference, example: Example) -> bool:
        """Whether the forward runs with masks that have an entry for each channel they are padded beside."""
        model = fresh_copy(self.model)
        anchor(model, plan_calls(self.traces, found, tuple(self.cuts))[0])
        try:
            with torch.no_grad(), quiet():
                call(model.eval(), example)
        except Exception:  # such as a view for one channel
            return False
        return True

    def _trace_training(self) -> None:
        """Trace the train-mode forward too, if it is another and can be traced."""
        self.untraced = self.trained = None
        if self.alike is None:
            self.alike = modes_alike(self.model, self.example)
        if self.alike:
            return
        try:
            self.trained = regrouped(trace(self.model, self.example, training=True, cuts=self.cuts))
            self.traces.append(self.trained)
        except TraceError as reason:
            self.untraced = reason.why

    def _with_other_ways(self, found: Inference, wanted: Sequence[Spec | str]) -> Inference:
        """A solution for the ways the forward takes at other lengths too, such as padding what does not fit.

        A way for which there is none is left out: the model is refused when it takes it.
        """
        if self.survey is None:
            stage("trying other lengths")
            self.survey = Variants(self.model, self.example, self.actions).survey()
        self.lost = []
        for number, way in enumerate(self.survey.ways, 1):
            stage(f"looking at another way the forward takes, {number} of {len(self.survey.ways)}")
            found = self._with(way.example, found, wanted)
        if self.survey.gradients:
            with torch.no_grad():
                found = self._with(self.example, found, wanted)
        return found

    def _with_more_rows(self, found: Inference, wanted: Sequence[Spec | str]) -> Inference:
        """A solution for longer examples too, while they read rows of a table that none before has read.

        As where distances between positions, sorted into buckets, point into a table of biases: a short example has
        short distances only.
        """
        variants, last = Variants(self.model, self.example, self.actions), found
        seen, length = 0, variants.longest
        while seen < length and _leaves_rows(found) and TIMES**2 * _most_ids(last) <= MOST_IDS:
            seen, longest = length, self._longest(variants, length)
            longer = next(variants.at(longest), None)
            known, lost = len(self.traces), len(self.lost)
            last = self._with(longer.example, found, wanted) if longer is not None else found
            del self.lost[lost:]  # it is no way of its own, and its length is refused if the law fails there
            length = seen if last is found else longest
            if _rows_read(last) == _rows_read(found):
                del self.traces[known:]
            else:
                found = last
        found.rows_until = length if length and _leaves_rows(found) else None
        return found

    def _longest(self, variants: Variants, length: int) -> int:
        """A multiple of a length, or as much of that as forward takes and does not take long for."""
        taken, over = length, TIMES * length + 1
        tried = TIMES * length
        while over - taken > 1:
            affordable = is_affordable(self.survey or Survey(), variants.longest, tried)
            runs = affordable and any(run_of(self.model, v.example) is not None for v in variants.at(tried))
            taken, over = (tried, over) if runs else (taken, tried)
            tried = (taken + over) // 2
        return taken

    def _with(self, example: Example, found: Inference, wanted: Sequence[Spec | str]) -> Inference:
        """A solution that holds for the forward on another example too, where there is one."""
        try:
            self.traces.append(regrouped(trace(self.model, example, cuts=self.cuts)))
        except TraceError as problem:
            self.lost.append(problem)
            return found
        again = self._infer(wanted, example)
        problems = again.problems or _at_odds(again)
        if not problems:
            return again
        self.traces.pop()
        self.lost.append(problems[0])
        return found

    # --- leaving out ---

    def _open(self, problem: ConversionError, found: Inference | None = None) -> bool:
        """Leave out the smallest submodule that holds a problem and is not left out yet; whether there is one."""
        path = problem.where.path if problem.where else ""
        if path in self.opened and self.opened[path] is None:  # a read-out that cannot run on both strands
            del self.opened[path]
            self.kept_inside.add(path)
            return True
        if not self.both_strands or not isinstance(problem, (NoRuleError, BreaksSymmetryError, TraceError)):
            return False
        reason = self.opened.pop(path, problem.what)
        while path and (path in self.declared or path in self.cuts or not self._can_run_twice(path)):
            path = path.rpartition(".")[0]
        if not path:
            _say_conjoined(problem, reason)
            return False
        if isinstance(problem, TraceError):
            self.untraceable.add(path)
        self._leave_out(path, reason, found)
        return True

    def _can_run_twice(self, path: str) -> bool:
        """Whether a module has a forward, as containers have not, and the average of its results means something.

        A parametrization makes a weight what it must be; the average of two weights is that no longer.
        """
        module = self.model.get_submodule(path)
        called = type(module).forward is not nn.Module.forward and keeps_hooks(module)
        return called and "parametrizations" not in path.split(".")

    def _leave_out(self, path: str, reason: str | None, found: Inference | None) -> None:
        self.opened[path] = reason
        self.hints[path] = known_lengths(self.traces[0], found, path) if found is not None else {}

    def _cuts(self) -> dict[str, Cut]:
        """What is left out now."""
        paths = outermost([*self.declared, *self.opened])
        strands = [p for p in paths if p in self.opened or self.declared[p].action == "both_strands"]
        unseen = [p for p in strands if p not in self.symmetrised]
        if unseen:
            self._run_alone(unseen)
        return {p: self.symmetrised[p] if p in strands else declared(p, self.declared[p]) for p in paths}

    def _run_alone(self, paths: list[str]) -> None:
        """Look at modules that are to run on both strands."""
        if self.probe is None:
            self.probe = Probe(self.model, self.example, self.specs, self.actions)
            self.probe.model.eval()
        for path, calls in self._seen(self.probe, paths).items():
            module = self.probe.model.get_submodule(path)
            untested = self._holds(path, self.declared) and any(branches(module, c[0]) for c in calls.values())
            branching = self._holds(path, self.untraceable) or untested
            before = "it does so already" if path in self.kept else "declared with rc_leaf"
            why, hints = self.opened.get(path, before), self.hints.get(path, {})
            self.symmetrised[path] = Symmetrised(path, why, module, calls, hints=hints, branches=branching)

    def _holds(self, path: str, paths: Iterable[str]) -> bool:
        """Whether a module is, or holds, one of some modules."""
        return any(p == path or p.startswith(f"{path}.") for p in paths)

    def _seen(self, probe: Probe, paths: list[str]) -> dict[str, dict[int, list[ModuleCall]]]:
        """Two calls with different random inputs for every call of some modules."""
        runs = [_calls(probe, paths, seed, training=False) for seed in (0, 1)]
        if len({path for path, _ in runs[0]}) < len(paths):  # some are called in train mode only
            both = [_calls(probe, paths, seed, training=True) for seed in (0, 1)]
            runs = [{**training, **run} for run, training in zip(runs, both, strict=True)]
        found: dict[str, dict[int, list[ModuleCall]]] = {path: {} for path in paths}
        for (path, number), made in runs[0].items():
            found[path][number] = [made, runs[1].get((path, number), made)]
        return found


def _rows_read(found: Inference) -> dict[str | None, int]:
    """How many rows of a table each node reads by constant ids, in the trace in which they are most."""
    read: dict[str | None, int] = {}
    for p in found.pins:
        read[p.where.node] = max(read.get(p.where.node, 0), rows_read(p))
    return read


def _most_ids(found: Inference) -> int:
    return max((p.const.value.numel() for p in found.pins if rows_read(p)), default=0)


def _leaves_rows(found: Inference) -> bool:
    """Whether constant ids leave out rows of a table."""
    return any(0 < rows_read(p) < p.action.value.size for p in found.pins if p.action.value is not None)


def _at_odds(found: Inference) -> list[ConversionError]:
    """Lengths that another way through forward asks for, where the example's own is none of them."""
    chains = [(a.refusal, a.history) for a in found.guarded if a.history is not None]
    return [r.at(Where(), None) for r, (start, steps) in chains if not follows(steps, start)]


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy of a model that runs on one strand, as a baked one does not everywhere."""
    twin = unsymmetrised(model)
    unpool(twin)
    return twin


def _calls(probe: Probe, paths: list[str], seed: int, *, training: bool) -> dict[tuple[str, int], ModuleCall]:
    try:
        with recording(probe.model, paths) as calls:
            probe.outputs(probe.inputs(seed), training)
    except ConversionError:
        raise
    except Exception as reason:  # the model's own, in a mode in which it was not run before
        raise does_not_run(reason) from reason
    return calls


def known_lengths(trace_: Trace, found: Inference, path: str) -> dict[tuple[int, ...], frozenset[int]]:
    """The length axes of what a module returns, as far as inference came, by shape."""
    names = {n.name for n in trace_.nodes if any(p == path for p, _ in n.scope)}
    read = {r for n in trace_.nodes if n.name not in names for r in n.refs()}
    read |= {o.name for o in trace_.outputs if isinstance(o, Ref)}
    known: dict[tuple[int, ...], frozenset[int]] = {}
    for name in names & read:
        action = found.values[0].get(name)
        if isinstance(action, Action):
            dims = frozenset(d for d, t in enumerate(action.axes) if ax.is_length(t) and t.size > 1)
            known[action.shape] = dims & known.get(action.shape, dims)
    return known


def _say_conjoined(problem: ConversionError, reason: str | None) -> None:
    """No submodule holds a problem alone: name the route that needs none, and what was to be helped."""
    where, do = problem.where or Where(), (problem.do or "").partition(", or pass on_unsupported")[0]
    if reason is not None and reason != problem.what:
        problem.why = f"{problem.why} (it was to, because of: {reason})"
    ways = f'no submodule holds {where.source or "it"} alone, so on_unsupported cannot help: use strategy="conjoined"'
    problem.do = f"{do}; {ways}" if do else ways
