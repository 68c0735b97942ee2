"""TODO."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example, leaves
from ..algebra.nesting import input_actions, leaf_names, output_specs, structure_names
from ..errors import ConversionError, NoRuleError, VerificationError, Where
from ..graph.sandbox import aliases, fresh_copy
from ..graph.trace import Ref, Trace
from ..infer.anchors import plan_calls
from ..infer.first_failure import first_failure
from ..infer.outputs import AUTO, auto_words
from ..infer.solver import Solution, Solver
from ..infer.walk import STATISTICS, Inference
from ..measure.change import Change
from ..measure.lengths import CHECKED, accepts, main_length, resized
from ..measure.opened import opened
from ..measure.probe import Probe
from ..measure.report import allowed_actions
from ..measure.verify import ROUNDED_CONSTANTS, Verification, undecided, verify
from ..rules.registry import op_name
from ..tie.length_guard import LengthRule
from ..tie.norms import folds, needs_statistics
from ..tie.ties import make_tie
from .plan import ConversionPlan, DeclaredLeaf, SharedNorm, Symmetriser, TiedParameter, lost_notes


class TiedPlanner:
    """Fills a plan."""

    def __init__(self, model: nn.Module, example: Example, plan: ConversionPlan, check: bool) -> None:
        self.model, self.example, self.plan, self.check = model, example, plan, check

    def run(self, inputs: Any, outputs: Any, layout: Any, symmetrise_buffers: bool, both_strands: bool) -> None:
        self.specs, self.actions = input_actions(self.example, inputs, layout)
        self._describe_inputs()
        if self._already_symmetric(outputs):
            return
        solver = Solver(
            self.model,
            self.example,
            self.specs,
            self.actions,
            both_strands=both_strands,
            symmetrise_buffers=symmetrise_buffers,
        )
        self.wanted = output_specs(outputs, _structure(solver.traces[0]))
        found = solver.solve(self.wanted)
        self.found, self.traces = found, found.traces
        if found.untraced is not None:
            self.plan.notes.append(f"only the eval-mode forward was analysed; in train mode: {found.untraced}")
        self._describe_outputs(found.inference)
        self.plan.problems += found.inference.problems
        self.plan.notes += [_unheld_note(n.where) for n in found.unheld]
        if not self.plan.problems:
            self._fill(found)
        if not self.plan.problems:
            self._verify(found)

    def _already_symmetric(self, outputs: Any) -> bool:
        """Whether the model obeys the law with any weights."""
        try:
            probe = Probe(self.model, self.example, self.specs, self.actions)
            wanted = output_specs(outputs, opened(probe.outputs(probe.inputs(0))))
            allowed = partial(allowed_actions, wanted, None)
            found = verify(self.model, self.example, self.specs, self.actions, allowed, diagnose=False)
        except ConversionError:
            raise
        except Exception:  # the model does not run as given; tracing reports why
            return False
        if found.passed:
            self.plan.symmetric, self.plan.verification = True, found
        return found.passed

    # --- words ---

    def _describe_inputs(self) -> None:
        names = leaf_names(self.example)
        for name, leaf, spec, action in zip(names, leaves(self.example), self.specs, self.actions, strict=True):
            if isinstance(leaf, Tensor):
                self.plan.inputs.append(f"{name}: {spec}, shape {tuple(leaf.shape)}, {action}")

    def _describe_outputs(self, inference: Inference) -> None:
        names = structure_names(_structure(self.traces[0]))
        for name, action, spec in zip(names, inference.outputs, self.wanted, strict=True):
            if action is None:
                continue
            taken = auto_words(action) if spec == AUTO else str(spec)
            self.plan.outputs.append(f"{name}: {taken}, shape {action.shape}, {action.walk()}")

    # --- rows ---

    def _fill(self, found: Solution) -> None:
        inference = found.inference
        self.plan.averaged = inference.averaged
        if inference.rounded:
            self.plan.notes.append("exact to the rounding of the constants that the model holds in float32")
        self.plan.tested = list({str(t): t for tested in inference.tested for t in tested}.values())
        self._fill_norms(inference)
        self.plan.tables, self.plan.calls = plan_calls(self.traces, inference, tuple(found.cuts), bool(found.lost))
        self.plan.notes += dict.fromkeys(_lost_note(problem) for problem in found.lost)
        self.plan.notes += dict.fromkeys(note for call in self.plan.calls for note in call.notes)
        self.plan.lengths, self.plan.guards = self._lengths(inference), self._guards(inference)
        used = self._used() | inference.wanted
        untied = dict.fromkeys(found.cuts, 0)
        shared = {f"{n.path}.{leaf}".lstrip(".") for n in self.plan.norms if n.folds for leaf in ("weight", "bias")}
        for name, group in aliases(self.model).items():
            inside = next((path for path in found.cuts for n in group if n.startswith(f"{path}.")), None)
            if name in used:
                self.plan.parameters.append(_parameter(tuple(group), inference, not shared.isdisjoint(group)))
            elif inside is not None:
                untied[inside] += self.model.get_parameter(name).numel()
            else:
                self.plan.unused.append(name)
        for path, cut in found.cuts.items():
            if path in inference.passages:
                self.plan.symmetrisers.append(Symmetriser(path, inference.passages[path], untied[path], cut.why))
            else:
                self.plan.declared.append(DeclaredLeaf(path, str(cut.why), untied[path]))

    def _used(self) -> set[str]:
        """Parameters that some node reads."""
        return {t.sources[r].target for t in self.traces for n in t.nodes for r in n.refs() if r in t.sources}

    def _lengths(self, inference: Inference) -> list[LengthRule]:
        """The inputs whose lengths some operator does not take as they come."""
        chains: dict[int, set[tuple[ax.Step, ...]]] = {}
        for env in inference.values:
            for action in pytree.tree_leaves(list(env.values())):
                for term in action.axes if isinstance(action, Action) else ():
                    role = ax.role(term)
                    if role is not None and role.steps and not all(s.always for s in role.steps):
                        chains.setdefault(role.start, set()).add(role.steps)
        return self._rules(chains)

    def _guards(self, inference: Inference) -> list[LengthRule]:
        """The inputs whose lengths an operator needs that cannot be re-anchored."""
        chains: dict[int, set[tuple[ax.Step, ...]]] = {}
        longest = main_length(self.actions) or 0
        for anchor in inference.guarded:
            start, steps = anchor.history or (longest, (ax.Step(1, 0, only=longest),))
            chains.setdefault(start, set()).add(steps)
        return self._rules(chains)

    def _rules(self, chains: dict[int, set[tuple[ax.Step, ...]]]) -> list[LengthRule]:
        found = []
        for leaf, action in enumerate(self.actions):
            for dim, term in enumerate(action.axes if action is not None else ()):
                mine = chains.get(term.size) if ax.is_length(term) else None
                if mine:
                    found.append(LengthRule(leaf, dim, term.size, tuple(_longest(mine))))
        return found

    def _fill_norms(self, inference: Inference) -> None:
        done: set[int] = set()  # a module may have several paths
        for t, env in zip(self.traces, inference.values, strict=True):
            for node in t.nodes:
                if op_name(node.op) in STATISTICS and id(self._module(node)) not in done:
                    x = env[node.args[0].name]
                    if isinstance(x, Action) and not ax.is_trivial(x.axes[1]):
                        done.add(id(self._module(node)))
                        self._share(node, ax.walk(x.axes[1]))

    def _module(self, node: Any) -> nn.Module:
        return self.model.get_submodule(node.where.path)

    def _share(self, node: Any, channel: ax.Axis) -> None:
        module = self.model.get_submodule(node.where.path)
        if needs_statistics(module):
            self.plan.norms.append(SharedNorm(node.where.path, channel, folds(channel)))
        elif self._standardises_samples(node) and not isinstance(module, torch.nn.modules.batchnorm._NormBase):
            self.plan.problems.append(
                NoRuleError(
                    "a functional batch norm keeps its own statistics",
                    where=node.where,
                    got=f"channels {ax.describe(channel)}",
                    why="its statistics must be pooled over swapped channels, which needs an nn.BatchNorm module",
                    do="use nn.BatchNorm1d there",
                )
            )

    def _standardises_samples(self, node: Any) -> bool:
        """Whether a batch norm keeps statistics or gathers them from samples; on a weight it does neither."""
        given = [env.get(node.args[0].name) for env in self.found.inference.values]
        roles = [ax.role(t) for x in given if isinstance(x, Action) for t in x.axes]
        sampled = node.args[3] is not None or any(r is not None and r.name == "batch" for r in roles)
        return op_name(node.op) == "batch_norm" and sampled

    # --- the check ---

    def _verify(self, solution: Solution) -> None:
        converted = self.plan.install(fresh_copy(self.model))
        change = Change(self.model, converted, self.example, self.specs, self.actions)
        self.plan.moved = change.moved()
        if not self.check:
            return
        found = self._measure(converted, self.example, self.actions, solution.inference)
        self.plan.verification = found
        if not found.passed:
            self.plan.problems.append(self._failed(converted, solution, found))
        else:
            names = structure_names(_structure(self.traces[0]))
            self.plan.notes += lost_notes(change, names, solution.inference.outputs)
            self._verify_lengths(converted, solution.inference)

    def _measure(
        self,
        converted: nn.Module,
        example: Example,
        actions: list[Action | None],
        inference: Inference,
        draws: int = 2,
    ) -> Verification:
        """The check of the law, as the user's specs state it; rounded constants obey it only to their rounding."""
        allowed = partial(allowed_actions, self.wanted, inference.outputs)
        rounded = ROUNDED_CONSTANTS if inference.rounded else 0.0
        return verify(converted, example, self.specs, actions, allowed, draws, tolerance=rounded)

    def _verify_lengths(self, converted: nn.Module, inference: Inference) -> None:
        """The check at a few other lengths, of those the model takes; where it fails they are refused when called."""
        plain, length = fresh_copy(self.model), main_length(self.actions) or 0
        for change in CHECKED if self.plan.tables else CHECKED[:1]:
            example, actions = resized(self.example, self.actions, change)
            if not accepts(plain, example):
                continue
            try:
                found = self._measure(converted, example, actions, inference, draws=1)
            except ConversionError as refused:
                self.plan.notes.append(f"refused at length {length + change}: {refused.what}")
                continue
            except ValueError:  # an output that is no length but grows with it cannot be compared
                continue
            if found.error > found.tolerance:
                self._fix_length(f"at {length + change} the law fails by {found.error:.1e}")
                return
            self.plan.checked.append(length + change)

    def _fix_length(self, reason: str) -> None:
        """Refuse calls at other lengths than the example's."""
        length = main_length(self.actions) or 0
        self.plan.guards = self._rules({length: {(ax.Step(1, 0, only=length),)}})
        self.plan.checked = []
        self.plan.notes.append(
            f"exact at length {length} only: {reason}, as something in forward was fixed to the length of the example; "
            "calls at other lengths are refused"
        )

    def _failed(self, converted: nn.Module, solution: Solution, found: Verification) -> ConversionError:
        nothing = undecided(found)
        if nothing is not None:
            return nothing
        where = self._first_failure(converted, solution.inference)
        declared = solution.cuts.get(where.path) if where is not None else None
        if declared is not None:
            why = f"rc_leaf says that this module {declared.why}, and it does not"
            do = f"correct what rc_leaf says of {type(self.model.get_submodule(declared.path)).__name__}"
        else:
            why = "a rule or a custom operator is wrong" + (": this is the first node whose law fails" if where else "")
            do = "report the operator named here, or register a corrected rule for it"
        return VerificationError("the converted model is not equivariant", where=where, got=str(found), why=why, do=do)

    def _first_failure(self, converted: nn.Module, inference: Inference) -> Where | None:
        """The first node whose law fails, if it can be found."""
        try:
            probe = Probe(converted, self.example, self.specs, self.actions)
            probe.perturb(0)
            found = first_failure(
                self.traces[0],
                probe.model.eval(),
                inference.values[0],
                self.actions,
                probe.inputs(0),
                inference.anchors[0],
            )
        except Exception:  # the search for the place must not hide the failure itself
            return None
        return found[0] if found else None


def _longest(chains: set[tuple[ax.Step, ...]]) -> list[tuple[ax.Step, ...]]:
    """Chains that are not the beginning of another."""
    return [c for c in chains if not any(o != c and o[: len(c)] == c for o in chains)]


def _row(names: tuple[str, ...], action: Action, shared: bool) -> TiedParameter:
    if shared:
        return TiedParameter(names, action, (action.shape[0] // 2,), shared=True)
    tie = make_tie(action)
    return TiedParameter(names, action, action.shape if tie is None else tuple(tie.stored_shape))


def _parameter(names: tuple[str, ...], found: Inference, shared: bool) -> TiedParameter:
    """The row of a parameter; of two that are mirror images one is stored."""
    action, partner = found.parameters[names[0]].walk(), found.mirrors.partner(names[0])
    if partner is None:
        return _row(names, action, shared)
    stored = (0, *action.shape[1:]) if names[0] in found.mirrors.originals else action.shape
    return TiedParameter(names, action, stored, partner=partner)


def _lost_note(problem: ConversionError) -> str:
    place = f" at {Where(problem.where.path, problem.where.source)}" if problem.where else ""
    return f"refused at lengths at which forward takes another way: {problem.what}{place}"


def _unheld_note(where: Any) -> str:
    return (
        f"the read-out at {where} follows a nonlinearity and no submodule holds it alone: its filters become their own "
        "reverse complements; put the last convolution, its activation and the pooling into one submodule, or add a "
        "linear layer after the pooling"
    )


def _structure(t: Trace) -> Any:
    """The outputs' nesting, with tensors at the leaves."""
    values = {n.name: n.value for n in t.nodes} | {name: s.value for name, s in t.sources.items()}
    filled = [values[o.name] if isinstance(o, Ref) else o for o in t.outputs]
    return pytree.tree_unflatten(filled, t.out_spec)
