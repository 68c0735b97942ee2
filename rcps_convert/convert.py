"""`convert_model` and `plan_conversion`: trace, infer, plan, tie a copy, verify."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from . import axis as ax
from .action import Action
from .anchors import plan_calls
from .boundary import LengthRule
from .conjoined import MERGES, Merge
from .crossing import Filter
from .errors import ConversionError, NoRuleError, VerificationError, Where
from .infer import STATISTICS, Inference
from .lengths import CHECKED, accepts, main_length, resized
from .modules import Example, aliases, fresh_copy, leaves, undisturbed_rng
from .norm import folds, needs_statistics
from .outputs import AUTO
from .plan import (
    ConversionPlan,
    DeclaredLeaf,
    SharedNorm,
    Symmetriser,
    TiedParameter,
    looks_trained,
    refuse_converted,
)
from .regions import Solution, Solver
from .registry import op_name
from .specs import input_actions, leaf_names, output_specs, structure_names
from .strands import plan_strands
from .tie import make_tie
from .trace import Ref, Trace
from .verify import ROUNDED_CONSTANTS, Probe, Verification, candidate_actions, first_failure, moved, undecided, verify


def convert_model(
    model: nn.Module,
    example: Example,
    *,
    inputs: Any = "ACGT",
    outputs: Any = "auto",
    layout: Any = "auto",
    strategy: str = "tied",
    merge: Merge = "mean",
    post_hoc: bool = False,
    mix: Filter = None,
    init: str = "keep",
    on_unsupported: str = "error",
    symmetrise_buffers: bool = False,
    verify: bool = True,
    in_place: bool = False,
) -> nn.Module:
    """Make a model on DNA exactly reverse-complement equivariant: by tying its weights, or by reading both strands.

    The result has the same class and the same forward, and satisfies ``f(rc x) = rho f(x)`` for every x,
    before, during and after training. Tied, it has about half the parameters and costs one pass.

    Args:
        model: any module; for tied weights one that ``torch.export`` can trace. Not touched unless `in_place`.
        example: a tensor, a tuple of tensors or a dict of keyword arguments, exactly what ``model(...)``
            takes; only shapes and dtypes matter.
        inputs: what the input is: a one-hot alphabet in base order (``"ACGT"``, ``"ACGTN"``), tracks
            (``"+-."``), ``"invariant"``, or a spec such as `Tokens`; nested as the example for several inputs.
        outputs: the same for the outputs, and ``"antisymmetric"``; with ``"auto"`` an axis that is still
            a length is an unstranded profile, and everything else is invariant.
        layout: axes of the inputs in einops letters (``"n c l"``, ``"n l c"``, ``"n 1 c l"``), or ``"auto"``.
        strategy: ``"tied"``; ``"conjoined"``: the untouched model reads both strands in one batch of twice the
            size, and the two readings are merged; or ``"mixed"``: the same, and layers read the other strand's
            features through new weights that start at zero.
        merge: how the readings are merged when both strands are read: ``"mean"``, ``"sum"``, ``"max"``, or a
            symmetric function of two tensors.
        post_hoc: conjoined in eval mode only; in train mode the model reads one strand, as before.
        mix: which layers mix: a function of path and module, paths or patterns such as ``"tower.*"``; by default
            every convolution and linear layer that is trained and can be.
        init: where tied weights start: ``"keep"`` (representatives keep their values, and so their
            variance) or ``"project"`` (orbit mean: the nearest equivariant weights).
        on_unsupported: ``"error"``, or ``"both_strands"``: the smallest submodule that holds what cannot be
            inferred runs on both strands, and its two readings are averaged; the rest stays tied.
        symmetrise_buffers: average a buffer that is not invariant instead of refusing it.
        verify: check the law on a randomised copy before returning.
        in_place: convert this object. Its parameters stay the same `nn.Parameter` objects, so an optimiser
            built before, and not yet stepped, trains the converted model.

    Returns: the converted model.

    Raises:
        ConversionError: of the class of the first problem, listing all (`BreaksSymmetryError`,
            `NoRuleError`, `NeedsChoiceError`, `TraceError`, `VerificationError`); the model is as it was.
        ValueError: a spec that cannot be read, or settings that do not go together.

    Source: design after Shrikumar et al. 2017 (weight sharing) and Mallet & Vert, NeurIPS 2021 (theory).
    """
    plan = plan_conversion(
        model,
        example,
        inputs=inputs,
        outputs=outputs,
        layout=layout,
        strategy=strategy,
        merge=merge,
        post_hoc=post_hoc,
        mix=mix,
        init=init,
        on_unsupported=on_unsupported,
        symmetrise_buffers=symmetrise_buffers,
        verify=verify,
    )
    return plan.convert(model, in_place=in_place, stacklevel=3)


def plan_conversion(
    model: nn.Module,
    example: Example,
    *,
    inputs: Any = "ACGT",
    outputs: Any = "auto",
    layout: Any = "auto",
    strategy: str = "tied",
    merge: Merge = "mean",
    post_hoc: bool = False,
    mix: Filter = None,
    init: str = "keep",
    on_unsupported: str = "error",
    symmetrise_buffers: bool = False,
    verify: bool = True,
) -> ConversionPlan:
    """Work out a conversion without doing it; problems are listed in the plan instead of raised.

    Args:
        model: the model; not touched.
        example, inputs, outputs, layout, strategy, merge, post_hoc, mix, init, verify: as in `convert_model`.
        on_unsupported, symmetrise_buffers: as in `convert_model`.

    Returns: a plan to print, and to apply with ``plan.apply(model)``.

    Raises:
        ConversionError: the model is converted already.
        ValueError: a spec that cannot be read, or settings that do not go together.
    """
    refuse_converted(model)
    _check_settings(strategy, merge, post_hoc, mix, init, on_unsupported, symmetrise_buffers)
    if strategy != "tied":
        return plan_strands(
            model,
            example,
            inputs=inputs,
            outputs=outputs,
            layout=layout,
            strategy=strategy,
            merge=merge,
            post_hoc=post_hoc,
            mix=mix,
            verify=verify,
        )
    plan = ConversionPlan(type(model).__name__, init=init, trained=looks_trained(model))
    try:
        with undisturbed_rng():
            planner = _Planner(model, example, plan, verify)
            planner.run(inputs, outputs, layout, symmetrise_buffers, on_unsupported == "both_strands")
    except ConversionError as problem:
        plan.problems.extend(problem.problems)
    return plan


def _check_settings(
    strategy: str, merge: Merge, post_hoc: bool, mix: Filter, init: str, on_unsupported: str, symmetrise_buffers: bool
) -> None:
    """Refuse values that are none, and settings of one strategy given to another."""
    if strategy not in ("tied", "conjoined", "mixed"):
        raise ValueError(f"strategy={strategy!r}: use 'tied', 'conjoined' or 'mixed'")
    if init not in ("keep", "project"):
        raise ValueError(f"init={init!r}: use 'keep' or 'project'")
    if on_unsupported not in ("error", "both_strands"):
        raise ValueError(f"on_unsupported={on_unsupported!r}: use 'error' or 'both_strands'")
    known = callable(merge) and not isinstance(merge, nn.Module)
    if not known and merge not in MERGES:
        raise ValueError(f"merge={merge!r}: use 'mean', 'sum', 'max', or a function of two tensors")
    only_tied = [("init", init != "keep"), ("on_unsupported", on_unsupported != "error")]
    only_tied.append(("symmetrise_buffers", symmetrise_buffers))
    misplaced = {
        "tied": [("merge", merge != "mean"), ("post_hoc", post_hoc), ("mix", mix is not None)],
        "conjoined": [("mix", mix is not None), *only_tied],
        "mixed": [("post_hoc", post_hoc), *only_tied],
    }
    for name, given in misplaced[strategy]:
        if given:
            raise ValueError(f"{name}= has no meaning with strategy={strategy!r}")


class _Planner:
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
        self.plan.notes += [_homeless_note(n.where) for n in found.homeless]
        if not self.plan.problems:
            self._fill(found)
        if not self.plan.problems:
            self._verify(found)

    def _already_symmetric(self, outputs: Any) -> bool:
        """Whether the model obeys the law with any weights."""
        try:
            probe = Probe(self.model, self.example, self.specs, self.actions)
            wanted = output_specs(outputs, probe.outputs(probe.inputs(0)))
            found = verify(
                self.model, self.example, self.specs, self.actions, lambda i, s: candidate_actions(wanted[i], s)
            )
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
            profile = any(ax.is_length(t) for t in action.axes)
            taken = ("unstranded profile" if profile else "invariant") + " (auto)" if spec == AUTO else str(spec)
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
        self.plan.moved = moved(self.model, converted, self.example, self.specs, self.actions)
        if not self.check:
            return
        found = self._measure(converted, self.example, self.actions, solution.inference)
        self.plan.verification = found
        if not found.passed:
            self.plan.problems.append(self._failed(converted, solution, found))
        else:
            self._verify_lengths(converted, solution.inference)

    def _measure(
        self,
        converted: nn.Module,
        example: Example,
        actions: list[Action | None],
        inference: Inference,
        draws: int = 3,
    ) -> Verification:
        """The check of the law; a model with rounded constants obeys it only to their rounding."""
        found = verify(converted, example, self.specs, actions, inference.outputs, draws)
        if inference.rounded:
            found = replace(found, tolerance=max(found.tolerance, ROUNDED_CONSTANTS))
        return found

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


def _homeless_note(where: Any) -> str:
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
