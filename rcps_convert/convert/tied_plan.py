"""The plan of a conversion to tied weights: trace, solve, list what is tied, measure the law on a copy."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from .._torch import NormBase, pytree
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example, leaves
from ..algebra.nesting import input_actions, leaf_names, output_specs, structure_names
from ..algebra.plain import plain_structure
from ..algebra.specs import Antisymmetric, Spec, Tokens
from ..errors import ConversionError, NoRuleError, VerificationError, Where
from ..graph.export import does_not_run
from ..graph.held_objects import users_settings
from ..graph.progress import stage
from ..graph.sandbox import aliases, fresh_copy
from ..graph.trace import Ref, Trace
from ..graph.writes import changed_in_forward, made_by_a_call, storage_roots, written_refs
from ..infer.among_samples import shared_by_samples
from ..infer.anchors import plan_calls
from ..infer.first_failure import first_failure
from ..infer.inference import Inference
from ..infer.leaving_out import Solution, Solver
from ..infer.match.inside import left_out
from ..infer.match.search import Search
from ..infer.match.sequences import read_calls
from ..infer.match.start import MatchedStart
from ..infer.outputs import AUTO, auto_words
from ..infer.states import kept_states
from ..measure.change import Change
from ..measure.counted import counts
from ..measure.lengths import Variant, changed_and_made, made_in_forward, main_length
from ..measure.probe import Probe
from ..measure.report import allowed_actions
from ..measure.verification import Verification, undecided
from ..measure.verify import ROUNDED_CONSTANTS, verify
from ..rules.registry import Const, facts_of
from ..tie.argument_guard import given_by
from ..tie.input_forms import forms_of
from ..tie.length_guard import LengthRule
from ..tie.norms import folds, needs_statistics
from ..tie.untied import unguarded
from .advice import gradient_notes, looks_trained, lost_notes, noise_notes
from .architecture import Architecture
from .as_it_is import as_it_is
from .counted import counted, ways_at_random_named
from .length_checks import LengthChecks
from .length_rules import Chains, chains_of, guarded_chains, length_rules, needing_alignment, one_size_rules
from .length_words import RESTS, UNSEEN
from .plan import ConversionPlan
from .plan_rows import DeclaredLeaf, KeptState, SharedNorm, Symmetriser, TiedParameter
from .same_function import other_once_tied
from .settings import Settings
from .tied_words import (
    does_not_run_tied,
    idle_once_tied,
    lost_note,
    reading_note,
    unheld_note,
    wrong_rule,
    zero_score,
)


def plan_tied(model: nn.Module, example: Example, settings: Settings, held: ConversionError | None) -> ConversionPlan:
    """The plan of a conversion to tied weights.

    Args:
        model: not touched.
        example: what it is called with.
        settings: how it is analysed and converted.
        held: why copies of the model compute with its own weights, if they do: then nothing can be planned.

    Returns: the plan, with the problems that stand in the way.
    """
    plan = ConversionPlan(type(model).__name__, init=settings.init, settings=settings, trained=looks_trained(model))
    plan.given = _given(example, settings)
    if held is not None:
        plan.problems.append(held)
        return plan
    try:
        _TiedPlanner(model, example, plan, settings).run()
    except ConversionError as problem:
        plan.problems.extend(problem.problems)
    made = made_in_forward(model, example) if plan.problems else []
    if made:
        plan.problems = [made_by_a_call(made)]
    return plan


def _given(example: Example, settings: Settings) -> tuple[Any, Settings] | None:
    """How a conversion was called, without tensors; None where an argument is no plain value."""
    try:
        return plain_structure(example), replace(settings, init="keep", sequences=None)
    except ConversionError:
        return None


class _TiedPlanner:
    """Fills a plan, stage by stage.

    Args:
        model: not touched.
        example: what it is called with.
        plan: gets what is found.
        settings: how the model is analysed and converted.
    """

    def __init__(self, model: nn.Module, example: Example, plan: ConversionPlan, settings: Settings) -> None:
        self.model, self.example, self.plan, self.settings = unguarded(model), example, plan, settings

    def run(self) -> None:
        """Read the inputs; trace and solve; describe; list what is tied; measure the law on a converted copy."""
        self.specs, self.actions = input_actions(self.example, self.settings.inputs, self.settings.layout)
        self._describe_inputs()
        if self.settings.verify and self._is_symmetric():
            return
        solver = Solver(
            self.model,
            self.example,
            self.specs,
            self.actions,
            both_strands=self.settings.on_unsupported == "both_strands",
            symmetrise_buffers=self.settings.symmetrise_buffers,
        )
        self.wanted = output_specs(self.settings.outputs, _structure(solver.traces[0]))
        found = solver.solve(self.wanted)
        del solver  # and its copy of the model
        self.found, self.traces = found, found.traces
        if found.untraced is not None:
            self.plan.warnings.append(f"only the eval-mode forward was analysed; in train mode: {found.untraced}")
        self._describe_outputs(found.inference)
        shared = [] if found.inference.problems else shared_by_samples(found.traces[0], found.inference.values[0])
        self.plan.problems += found.inference.problems + shared
        self.plan.warnings += [unheld_note(n.where) for n in found.unheld]
        if not self.plan.problems:
            changed, made = changed_and_made(self.model, self.example)
            self.plan.problems += map(changed_in_forward, changed)
            self.plan.problems += [made_by_a_call(made)] if made else []
        if not self.plan.problems:
            self._fill(found)
        if self.settings.verify and not self.plan.problems:
            try:
                with ways_at_random_named(self.model, self.example):
                    self._verify(found)
            except ConversionError:
                raise
            except Exception as reason:  # forward looks at what tying changes: names of parameters, classes, attributes
                refusal = does_not_run(reason)
                if refusal.where is None:  # not an error of the user's forward
                    raise
                raise does_not_run_tied(refusal) from reason

    def _is_symmetric(self) -> bool:
        """Whether the model obeys the law with any weights."""
        found = as_it_is(self.model, self.example, self.specs, self.actions, self.settings.outputs)
        if found is None:
            return False
        self.plan.symmetric, self.plan.verification = True, found.verification
        self.plan.outputs, self.plan.checked, self.plan.situations = found.outputs, found.checked, found.situations
        statistics = {id(b) for m in self.model.modules() if needs_statistics(m) for b in m.buffers(recurse=False)}
        constants = {name for name, b in self.model.named_buffers() if id(b) not in statistics}
        self.plan.architecture = Architecture.of(self.model, constants)
        self._watch(found.by_sizes)
        return True

    def _watch(self, by_sizes: bool = False) -> None:
        self.plan.arguments, self.plan.watched = given_by(self.model, self.example), users_settings(self.model)
        self.plan.forms = forms_of(self.model, self.example, self.actions, by_sizes)

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
        self.plan.architecture = Architecture.of(self.model, self._constants())
        if inference.rounded:
            self.plan.notes.append("exact to the rounding of the constants that the model holds in float32")
        self.plan.tested = list({str(t): t for tested in inference.tested for t in tested}.values())
        self._fill_norms(inference)
        self.plan.states = [KeptState(*row) for row in kept_states(self.model, self.traces, inference).items()]
        if self.settings.init == "match":
            self._match(found)
        self.plan.tables, self.plan.calls = plan_calls(self.traces, inference, tuple(found.cuts), bool(found.lost))
        self.plan.notes += dict.fromkeys(map(reading_note, inference.readings))
        self.plan.notes += dict.fromkeys(lost_note(problem) for problem in found.lost)
        self.plan.notes += dict.fromkeys(note for call in self.plan.calls for note in call.notes)
        self.plan.lengths = self._rules(needing_alignment(chains_of(inference)))
        if "" in self.plan.tables:
            lengths = tuple(rule.plain() for rule in self.plan.lengths)
            self.plan.tables[""] = replace(self.plan.tables[""], lengths=lengths)
        self.plan.guards = self._rules(guarded_chains(inference.guarded, self.actions))
        self._watch()
        used = self._used() | inference.wanted
        self.plan.called = frozenset(path for t in self.traces for n in t.nodes for path, _ in n.scope)
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

    def _match(self, found: Solution) -> None:
        """Find the pairs that the model has learned."""
        given = self.settings.sequences
        calls = None if given is None else read_calls(given, self.example, self.actions)
        known = (self.model, self.example, self.actions, self.wanted, found.inference.open_terms)
        inside = left_out(*known, tuple(found.cuts)) if found.cuts else {}
        search = Search.of(found.traces[0], found.inference, self.example, self.specs, self.actions, calls, inside)
        self.plan.start = MatchedStart(search, search.find(self.model))

    def _constants(self) -> set[str]:
        """Buffers whose values were taken for constants: those that are read, and not written."""
        found: set[str] = set()
        written: set[str] = set()
        for t, env in zip(self.traces, self.found.inference.values, strict=True):
            roots = storage_roots(t.nodes)
            read = {r for n in t.nodes for r in n.refs()}
            changed = {roots.get(r, r) for n in t.nodes for r in written_refs(n)}
            for name, source in t.sources.items():
                if name in read and source.kind == "buffer" and isinstance(env.get(name), Const):
                    (written if name in changed else found).add(source.target)
        return found - written

    def _used(self) -> set[str]:
        """Parameters that some node reads."""
        return {t.sources[r].target for t in self.traces for n in t.nodes for r in n.refs() if r in t.sources}

    def _fill_norms(self, inference: Inference) -> None:
        done: set[int] = set()  # a module may have several paths
        for t, env in zip(self.traces, inference.values, strict=True):
            for node in t.nodes:
                if facts_of(node.op).statistics and id(self._module(node)) not in done:
                    x = env[node.args[0].name]
                    if isinstance(x, Action) and not ax.is_trivial(x.axes[1]):
                        done.add(id(self._module(node)))
                        self._share(node, ax.walk(x.axes[1]), t.training)

    def _module(self, node: Any) -> nn.Module:
        return self.model.get_submodule(node.where.path)

    def _share(self, node: Any, channel: ax.Axis, training: bool) -> None:
        module = self.model.get_submodule(node.where.path)
        if needs_statistics(module):
            self.plan.norms.append(SharedNorm(node.where.path, channel, folds(channel)))
        elif not training and self._standardises_samples(node) and not isinstance(module, NormBase):
            self.plan.problems.append(
                NoRuleError(
                    "a functional batch norm gathers its statistics from each batch, in eval mode too",
                    where=node.where,
                    got=f"channels {ax.describe(channel)}",
                    why="its statistics must be pooled over swapped channels, which needs an nn.BatchNorm module",
                    do="use nn.BatchNorm1d there",
                )
            )

    def _standardises_samples(self, node: Any) -> bool:
        """Whether a batch norm gathers statistics from samples; on a weight it does not."""
        given = [env.get(node.args[0].name) for env in self.found.inference.values]
        roles = [ax.role(t) for x in given if isinstance(x, Action) for t in x.axes]
        sampled = any(r is not None and r.name == "batch" for r in roles)
        return facts_of(node.op).over_samples and bool(node.args[5]) and sampled

    # --- the check ---

    def _verify(self, solution: Solution) -> None:
        converted = self.plan.install(fresh_copy(self.model))
        short = self._short(solution)
        example, actions = (self.example, self.actions) if short is None else (short.example, [*short.actions])
        change = Change(self.model, converted, example, self.specs, actions)
        self.plan.moved = change.moved(solution.inference.outputs)
        self.probe = Probe(converted, self.example, self.specs, self.actions)
        found = self._measure_in_full(converted, solution, short)
        self.plan.verification = found
        self.plan.warnings += noise_notes(found)
        if self.plan.start is not None:
            self.plan.start.compare(self.model, converted, solution.inference.outputs)
        zero = self._made_zero(change)
        if zero is not None:
            self.plan.problems.append(zero)
        elif not found.passed:
            lost = not found.varied and found.cause is None and bool(change.lost(solution.inference.outputs))
            self.plan.problems.append(idle_once_tied() if lost else self._failed(converted, solution, found))
        else:
            names, made = structure_names(_structure(self.traces[0])), solution.inference.outputs
            probe = self.probe.at(example, list(actions))
            self.plan.warnings += gradient_notes(probe, made) + lost_notes(change, names, made, probe)
            self._verify_lengths(converted, solution)
            self._verify_padding(converted, solution)
            at = partial(self._verify_at, list(actions), solution)
            self.plan.problems += other_once_tied(probe) + counted(self.model, converted, example, at)

    def _verify_at(self, actions: list[Action | None], solution: Solution, model: nn.Module, example: Any) -> Any:
        return self._measure(model, example, actions, solution, 1, lambda *_: None)

    def _verify_padding(self, converted: nn.Module, solution: Solution) -> None:
        """The check on padded rows of ids: tied weights mirror a whole row, a tokenizer the sequence within it."""
        if not any(isinstance(s, Tokens) and s.runs is not None for s in self.specs) or self.plan.problems:
            return
        found = self._measure(converted, self.example, self.actions, solution, padded=True)
        if not found.passed:
            self.plan.warnings.append(
                f"exact on rows without padding only: on padded ones the law fails by {found.error:.1e}, as forward "
                "counts positions from an end of the row, or reads the padding: give batches of sequences of one "
                'length, hide the padding by a mask, or use strategy="conjoined"'
            )

    def _short(self, solution: Solution) -> Variant | None:
        """The example at a shorter length that shows what its own does, where running it takes long."""
        rules = self.plan.lengths if self.plan.calls else []
        longest = main_length(self.actions) or 0

        def aligned(length: int) -> bool:
            return all(r.holds(r.start + length - longest) for r in rules)

        variants = solution.survey.variants
        return None if variants is None else variants.short(solution.survey, aligned)

    def _measure_in_full(self, converted: nn.Module, solution: Solution, short: Variant | None) -> Verification:
        """The check with every kind of input; where that is long, at a shorter length, and once on the example.

        What fails at the shorter length may hold at the example's, so that is then measured in full.
        """
        stage("measuring the law")
        measure = partial(self._measure, converted, solution=solution)
        if short is None:
            return measure(self.example, self.actions, probe=self.probe)
        actions = list(short.actions)
        try:
            probe = self.probe.at(short.example, actions)
            found = measure(short.example, actions, outputs=lambda *_: None, precise=False, probe=probe)
        except Exception:  # such as an error of the model's own: the example decides
            return measure(self.example, self.actions)
        if found.passed:
            own = measure(self.example, self.actions, draws=1, precise=True, probe=self.probe)
            if own.passed:
                return replace(own, error=max(own.error, found.error), tolerance=max(own.tolerance, found.tolerance))
        return measure(self.example, self.actions)

    def _made_zero(self, change: Change) -> ConversionError | None:
        """The refusal of an antisymmetric output that tying makes zero, if there is one."""
        scores = [i for i, spec in enumerate(self.wanted) if isinstance(spec, Antisymmetric)]
        zero = change.zero() if scores else set()
        found = next((i for i in scores if i in zero), None)
        if found is None:
            return None
        names = structure_names(_structure(self.traces[0]))
        others = [f"{names[i]} ({spec})" for i, spec in enumerate(self.wanted) if not isinstance(spec, Antisymmetric)]
        empty = (p.names[0] for p in self.plan.parameters if 0 in p.stored and len(p.action.axes) > 1)
        return zero_score(names[found] if len(names) > 1 else "", others, next(empty, None))

    def _measure(
        self,
        converted: nn.Module,
        example: Example,
        actions: list[Action | None],
        solution: Solution,
        draws: int = 2,
        outputs: Any = None,
        padded: bool = False,
        precise: bool | None = None,
        probe: Probe | None = None,
        training: bool = True,
    ) -> Verification:
        """The check of the law, as the user's specs state it; rounded constants obey it only to their rounding."""
        spec_allows = partial(allowed_actions, self.wanted, solution.inference.outputs)

        def allowed(index: int, shape: tuple[int, ...]) -> list[Action]:
            stated = self.wanted[index] if index < len(self.wanted) else AUTO
            if outputs is not None and not (isinstance(stated, Spec) and stated.actions(shape)):
                outputs(index, shape)  # raises where the output grows in a way that is not known
            return spec_allows(index, shape)

        rounded = ROUNDED_CONSTANTS if solution.inference.rounded else 0.0
        trained = _trained(solution, outputs)
        how: dict[str, Any] = {"precise": precise, "probe": probe, "training": training, "padded": padded}
        how |= {"trained": trained, "tolerance": rounded, "diagnose": not padded}
        return verify(converted, example, self.specs, actions, allowed, draws, **how)

    def _verify_lengths(self, converted: nn.Module, solution: Solution) -> None:
        """The check at a few other lengths, of those the model takes; where it fails they are refused when called."""
        rules, alike = self.plan.lengths if self.plan.calls else [], solution.is_alike
        checks = LengthChecks(self.model, self.example, self.actions, solution.survey, rules, alike)

        def measure(example: Example, actions: list[Action | None], outputs: Any, *which: bool) -> Verification:
            stage("measuring the law at other lengths")
            how: dict[str, Any] = dict(zip(("precise", "training"), which, strict=True))
            how["probe"] = self.probe.at(example, actions)
            return self._measure(converted, example, actions, solution, 1, outputs, **how)

        checks.run(measure, solution.inference.outputs)
        checks.limit_by(solution.inference)
        self.plan.forms = forms_of(self.model, self.example, self.actions, not checks.by_no_size)
        self.plan.checked, self.plan.situations = sorted(set(checks.checked)), checks.situations
        self.plan.notes += checks.notes
        self.plan.warnings += checks.warnings
        if checks.problem is not None:
            self.plan.problems.append(checks.problem)
        sizes = {t.size for a in self.actions if a is not None for t in a.axes if ax.ends(t) is not None}
        fixed = self._rules({n: {(ax.Step(1, 0, only=n),)} for n in sizes}, checks.fixed or UNSEEN)
        if checks.fixed is not None:
            self.plan.guards = fixed
        else:
            self.plan.guards += [rule for i, rule in enumerate(fixed) if i not in checks.varied]
            kept = [(checks.kept, RESTS)] if checks.kept is not None else []
            for step, why in [*kept, *((turn.before, why) for turn, why in checks.limits)]:
                self.plan.guards += self._rules({n: {(step,)} for n in sizes}, why)
        self.plan.guards += one_size_rules(self.model, self.example, self.actions, self.specs)

    def _rules(self, chains: Chains, why: str = "") -> list[LengthRule]:
        return length_rules(self.model, self.example, self.actions, chains, why)

    def _failed(self, converted: nn.Module, solution: Solution, found: Verification) -> ConversionError:
        if found.cause is None and counts(self.model, self.example):
            found = replace(found, cause="state")
        nothing = undecided(found)
        if nothing is not None:
            return nothing
        where, whole = self._first_failure(converted, solution.inference) or (None, False)
        declared = solution.cuts.get(where.path) if where is not None else None
        if declared is not None:
            why = f"rc_leaf says that this module {declared.why}, and it does not"
            do = f"correct what rc_leaf says of {type(self.model.get_submodule(declared.path)).__name__}"
        else:
            why, do = wrong_rule(where, whole)
        return VerificationError("the converted model is not equivariant", where=where, got=str(found), why=why, do=do)

    def _first_failure(self, converted: nn.Module, inference: Inference) -> tuple[Where, bool] | None:
        """The first node whose law fails, and whether it makes whole numbers, if it can be found."""
        try:
            probe = Probe(converted, self.example, self.specs, self.actions)
            probe.perturb(0)
            return first_failure(
                self.traces[0],
                probe.model.eval(),
                inference.values[0],
                self.actions,
                probe.inputs(0),
                inference.anchors[0],
            )
        except Exception:  # the search for the place must not hide the failure itself
            return None


def _trained(solution: Solution, outputs: Any) -> Any:
    """What the outputs may be in train mode, where forward returns others than in eval mode."""
    if solution.trained is None or solution.trained.out_spec == solution.traces[0].out_spec:
        return None
    made: list[Any] = solution.inference.made[1]
    if outputs is None:
        return made
    return lambda i, shape: [None if (action := made[i]) is None else action.walk().resized(shape)]


def _parameter(names: tuple[str, ...], found: Inference, shared: bool) -> TiedParameter:
    """The row of a parameter; of two that are mirror images one is stored."""
    action, partner = found.parameters[names[0]].walk(), found.mirrors.partner(names[0])
    if partner is None:
        return TiedParameter.of(names, action, shared)
    stored = (0, *action.shape[1:]) if names[0] in found.mirrors.originals else action.shape
    return TiedParameter(names, action, stored, partner=partner)


def _structure(t: Trace) -> Any:
    """The outputs' nesting, with tensors at the leaves."""
    values = {n.name: n.value for n in t.nodes} | {name: s.value for name, s in t.sources.items()}
    filled = [values[o.name] if isinstance(o, Ref) else o for o in t.outputs]
    return pytree.tree_unflatten(filled, t.out_spec)
