"""The plan of a conversion: what will be tied, shared and inserted, in words; and how to apply it."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import check_count, check_model, check_switch
from ..algebra.plain import plain_setting
from ..algebra.printed import Printed, Section
from ..algebra.texts import write_action
from ..errors import ConversionError, gather
from ..geometry import Table, anchor, unanchor
from ..graph.parametrized import own_classes
from ..graph.sandbox import aliases, alone, fresh_copy, owner
from ..graph.transaction import all_or_nothing
from ..infer.anchors import AnchoredCall
from ..infer.match.start import MatchedStart
from ..infer.stretch import Tested
from ..measure.verification import Verification
from ..tie.argument_guard import GivenArguments, guard_calls, unguard_calls
from ..tie.attaching import attach, attach_mirror
from ..tie.input_forms import Forms, compare_forms, plain_forms, trust_forms
from ..tie.length_guard import LengthRule
from ..tie.norms import FoldedNorm, PooledNorm, fold, pool, unpool
from ..tie.notes import KEPT, note
from ..tie.parts import watch
from ..tie.states import SharedState, share_states
from ..tie.symmetriser import symmetrise
from ..tie.ties import make_tie
from ..tie.untied import Untied, allow_calls, is_idle, leave_untied
from . import plan_text
from .architecture import Architecture
from .given import print_of, watch_given
from .measured_call import MeasuredStates
from .outline import fingerprint
from .plan_rows import DeclaredLeaf, KeptState, SharedNorm, Symmetriser, TiedParameter
from .recipe import Recipe, average, document
from .settings import MEANINGLESS, Settings, tie_init
from .state import is_converted

UNSAID = ("verify", "sequences")
"""Settings that a recipe does not say: they leave nothing on the model."""


@dataclass(repr=False)
class ConversionPlan:
    """What a conversion does; ``print(plan)`` shows it, ``plan.apply(model)`` does it.

    Attributes:
        model: class name of the model.
        architecture: what the model consists of.
        inputs, outputs: a line for each tensor: what it is taken for.
        parameters: every parameter the forward uses, tied or free.
        norms: norm layers that share statistics.
        states: modules that keep statistics in buffers of their own.
        symmetrisers: submodules that run on both strands.
        declared: submodules that act as `rc_leaf` says.
        tested: stretches of the graph whose action was established by testing.
        lengths: at which lengths of each input nothing needs re-anchoring, where that is not all.
        guards: lengths at which a call is refused, with the reason: an operator that cannot be re-anchored leaves a
            remainder there, or the law does not hold there, or was not seen to.
        arguments: what the example gave, where forward takes more: another argument, or value of one, is refused.
        forms: of the example's tensors: a call with others is measured, or refused.
        watched: settings of the user's own modules and objects that forward reads.
        calls: calls that are re-anchored, at this or at other lengths.
        tables: per module path, what is known of its calls.
        averaged: buffers to replace by the mean with their mirror image.
        start: the pairs of a trained model, with ``init="match"``.
        unused: parameters no trace reads; they are not tied, and a call that reads one is refused.
        called: paths of the modules that some trace calls.
        given: the example as shapes and dtypes, and the settings but for what weights start from.
        init: ``"keep"``, ``"project"`` or ``"match"``.
        settings: as given.
        symmetric: the model is equivariant as it is; nothing needs tying.
        trained: the model shows signs of training.
        notes: what the user may want to know.
        warnings: what the user should know: applying the plan says it too.
        problems: what stands in the way; empty if the plan can be applied.
        verification: the check of a converted copy, if it was made.
        checked: other lengths at which it was checked too, in positions.
        situations: in which it was checked too, as forward takes another way there.
        moved: how far conversion moves the outputs, relative to their size.
    """

    model: str
    architecture: Architecture = field(default_factory=Architecture)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    parameters: list[TiedParameter] = field(default_factory=list)
    norms: list[SharedNorm] = field(default_factory=list)
    states: list[KeptState] = field(default_factory=list)
    symmetrisers: list[Symmetriser] = field(default_factory=list)
    declared: list[DeclaredLeaf] = field(default_factory=list)
    lengths: list[LengthRule] = field(default_factory=list)
    tested: list[Tested] = field(default_factory=list)
    guards: list[LengthRule] = field(default_factory=list)
    arguments: GivenArguments | None = None
    forms: Forms = field(default_factory=dict)
    watched: list[str] = field(default_factory=list)
    calls: list[AnchoredCall] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)
    averaged: dict[str, Action] = field(default_factory=dict)
    start: MatchedStart | None = None
    unused: list[str] = field(default_factory=list)
    called: frozenset[str] = frozenset()
    given: tuple[Any, Settings] | None = None
    init: str = "keep"
    settings: Settings = field(default_factory=Settings)
    symmetric: bool = False
    trained: bool = False
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[ConversionError] = field(default_factory=list)
    verification: Verification | None = None
    checked: list[int] = field(default_factory=list)
    situations: list[str] = field(default_factory=list)
    moved: float | None = None

    def apply(self, model: nn.Module, *, in_place: bool = False) -> nn.Module:
        """Convert a model of the planned architecture.

        Args:
            model: the planned model, or another one with the same classes, parameters and buffers.
            in_place: change and return this object instead of a copy.

        Returns: the converted model.

        Raises:
            ConversionError: the plan has problems (of their class), the model is converted already, or
                it is not like the planned one: a module, parameter or buffer more, fewer or of another kind.
        """
        return self.convert(model, in_place=in_place, stacklevel=3)

    def convert(self, model: nn.Module, *, in_place: bool, stacklevel: int) -> nn.Module:
        """`apply`, with warnings attributed to a caller further up."""
        check_switch("in_place", in_place)
        check_model(model)
        if self.problems:
            raise gather(self.problems)
        refuse_converted(model)
        self.architecture.require(model)
        if self.symmetric:
            notice = "; ".join(["the model is equivariant already: nothing needed tying", *self.warnings, *self.notes])
            warnings.warn(notice, stacklevel=stacklevel)
            return self._watched(model if in_place else fresh_copy(model))
        if not in_place:
            self._check_copyable()
            return self._installed(fresh_copy(model), stacklevel + 2)
        return all_or_nothing(model, lambda: self._installed(model, stacklevel + 4))

    @alone
    def _watched(self, target: nn.Module) -> nn.Module:
        """A model that obeys the law as it is, and whose calls are checked from now on, in place."""
        another = print_of(target) != self.architecture.code
        self._guard(target)
        watch(target)
        note(target, {**self._said(), KEPT: self.given})
        watch_given(target, another)
        return target

    def _check_copyable(self) -> None:
        """Refuse a model that can be converted in place only."""

    @alone
    def _installed(self, target: nn.Module, stacklevel: int) -> nn.Module:
        """`install`, then the warnings: where they are errors, nothing was changed."""
        another = print_of(target) != self.architecture.code
        note(self.install(target), {**self._said(), KEPT: self.given})
        watch_given(target, another)
        for text in self._warnings():
            warnings.warn(text, stacklevel=stacklevel)
        return target

    def _guard(self, target: nn.Module) -> None:
        """Attach the checks of a model's calls, in place of those it may have."""
        unguard_calls(target)
        states = MeasuredStates()
        guard_calls(target, self.guards, self.arguments, states)
        compare_forms(target, self.forms, states)

    def install(self, target: nn.Module) -> nn.Module:
        """Attach ties, shared statistics and symmetrisers to a model, in place, unchecked."""
        own_classes(target)
        unanchor(target)
        unguard_calls(target)
        trust_forms(target)
        allow_calls(target)
        unpool(target)
        if self.start is not None:
            self.start.reorder(target)
        for norm in self.norms:
            module = target.get_submodule(norm.path)
            if norm.folds:
                fold(module, tie_init(self.init))
            else:
                pool(module, norm.channel)
        for state in self.states:
            share_states(target.get_submodule(state.path), state.buffers)
        for row in self.parameters:
            self._tie(target, row)
        for name, action in self.averaged.items():
            module, leaf = owner(target, name)
            average(getattr(module, leaf), action)
        names = aliases(target)
        for name in self.unused:
            leave_untied(target, names[name], self.called)
        for s in self.symmetrisers:
            symmetrise(target.get_submodule(s.path), s.passage)
        anchor(target, self.tables)
        self._guard(target)
        if self.start is not None:
            self.start.recalibrate(target)
        watch(target)
        return target

    def _tie(self, target: nn.Module, row: TiedParameter) -> None:
        if row.image:
            attach_mirror(target, row.names, row.action, row.partner or "", tie_init(self.init))
        elif not row.shared and row.stored != row.shape:
            tie = make_tie(row.action)
            assert tie is not None
            attach(target, row.names, tie, tie_init(self.init))

    def valid_lengths(self, low: int, high: int) -> list[int]:
        """Input lengths at which every pool, stride and crop reads both edges alike: nothing is re-anchored.

        Lengths that the converted model refuses are not among them.

        Args:
            low, high: range of lengths in bp, both included.

        Returns: the lengths, in order. Whether the model's forward accepts them is another matter.

        Raises:
            TypeError, ValueError: low and high are no whole numbers, or no range.
        """
        check_count("low", low)
        check_count("high", high, low=low)
        admitted = [n for n in range(low, high + 1) if all(r.ends_well(n) for r in self.guards)]
        return [n for n in admitted if all(r.holds(n) for r in self.lengths)]

    def to_dict(self) -> Recipe:
        """The plan as plain JSON values.

        Returns: a recipe, as `recipe` reads it off a converted model and `apply_recipe` takes it; and under
            ``"plan"`` what the plan says in words: inputs, outputs, problems, notes, warnings, numbers of
            parameters.

        Raises:
            ConversionError: the readings of both strands are merged by a function of yours.
        """
        words = {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "problems": [str(p) for p in self.problems],
            "notes": self.notes,
            "warnings": self.warnings,
            "parameters": [self.before, self.after],
            "moved": self.moved,
            "verified": None if self.verification is None else str(self.verification),
            "checked": self.checked,
        }
        name = self.architecture.outline.get("modules", {}).get("", self.model)
        rows = {} if self.problems else self._attached()
        return {**document(name, self.architecture.outline, **self._said(), **rows), "plan": copy.deepcopy(words)}

    def _said(self) -> dict[str, Any]:
        """What a recipe says that cannot be seen on the converted model."""
        given = vars(self.settings)
        kept = [name for name in given if name not in (*MEANINGLESS[self.settings.strategy], *UNSAID)]
        return {
            "settings": {name: plain_setting(given[name]) for name in kept},
            "averaged": {name: write_action(action) for name, action in self.averaged.items()},
            "constants": {name: fingerprint(value) for name, value in self.architecture.constants.items()},
            "code": self.architecture.code,
        }

    def _attached(self) -> dict[str, list[dict[str, Any]]]:
        """The parts of a recipe that say what is attached."""
        shared = {name: group for group in self.architecture.outline.get("shared", ()) for name in group}
        norms = [(n.path, FoldedNorm() if n.folds else PooledNorm(ax.indices(n.channel))) for n in self.norms]
        unread = [
            {"names": names, "kind": Untied.kind, "name": name, "idle": is_idle(names, self.called)}
            for name in self.unused
            for names in [shared.get(name, [name])]
        ]
        tied = [row for r in self.parameters if (row := r.plain()) is not None] + unread
        return {
            "parameters": tied,
            "norms": [{"path": path, **hook.plain()} for path, hook in norms],
            "states": [{"path": s.path, **SharedState(s.buffers).plain()} for s in self.states],
            "symmetrisers": [{"path": s.path, **s.passage.plain()} for s in self.symmetrisers],
            "guards": [{"path": "", "rules": [rule.plain() for rule in self.guards]}] if self.guards else [],
            "arguments": [{"path": "", "given": self.arguments}] if self.arguments is not None else [],
            "forms": [{"path": "", "forms": plain_forms(self.forms)}] if self.forms else [],
            "watched": [] if tied else [{"path": ""}],
            "anchors": [{"at": path, **table.plain()} for path, table in self.tables.items()],
        }

    def _warnings(self) -> list[str]:
        found = list(self.warnings)
        if self.unused:
            found.append(
                f"no trace of the model reads {', '.join(self.unused)}: not tied, and a call that reads one is refused"
            )
        if self.trained and (self.moved is None or self.moved > 1e-6):
            found.append(self._changed())
        return found

    def _changed(self) -> str:
        """What to do where tying changes a trained model."""
        by = "" if self.moved is None else f" (outputs move by {self.moved:.2g} x their largest value)"
        if self.start is not None:
            statistics = "" if self.start.on_sequences else "give sequences= or call recalibrate, then "
            return (
                f"the model looks trained; its pairs were matched, and tied it computes something near{by}: "
                f"{statistics}fine-tune it, or let it learn the trained model's outputs"
            )
        return (
            f'the model looks trained, and tying its weights changes what it computes{by}: convert with init="match", '
            'which finds the pairs it has learned (init="project" if it is nearly symmetric as it is), and fine-tune '
            'it; or keep its function with two passes per prediction: strategy="conjoined", or "mixed" to fine-tune '
            "with both strands"
        )

    @property
    def before(self) -> int:
        """Number of parameters of the model."""
        return sum(torch.Size(r.shape).numel() for r in self.parameters) + self._untied

    @property
    def after(self) -> int:
        """Number of stored parameters of the converted model."""
        return sum(torch.Size(r.stored).numel() for r in self.parameters) + self._untied

    @property
    def _untied(self) -> int:
        """Number of parameters inside submodules that inference does not look into."""
        return sum(s.parameters for s in self.symmetrisers) + sum(d.parameters for d in self.declared)

    def __repr__(self) -> str:
        state = f"{len(self.problems)} problem(s)" if self.problems else f"{self.before:,} -> {self.after:,} parameters"
        return f"<{self._title()}: {state}>"

    def __str__(self) -> str:
        return str(self.printed())

    def _repr_html_(self) -> str:
        """The plan in a notebook: its summary, and the rest folded."""
        return self.printed().html()

    def printed(self) -> Printed:
        """What is printed of the plan."""
        if self.problems:
            return Printed(self._title(), [], [plan_text.tensors(self), plan_text.problems(self)])
        return Printed(self._title(), self._summary(), [plan_text.tensors(self), *self._sections()])

    def _title(self) -> str:
        return f"Conversion plan for {self.model} (tied weights, init={self.init!r})"

    def _summary(self) -> list[tuple[str, str]]:
        verified = "no" if self.verification is None else str(self.verification)
        if self.symmetric:
            numbers = "as they are: the model is equivariant already, nothing needs tying"
        else:
            numbers = plan_text.numbers(self)
        return [
            ("parameters:", numbers),
            ("verified:", verified),
            ("lengths:", plan_text.lengths(self)),
            ("inserted:", plan_text.inserted(self)),
            ("warnings:", plan_text.warned(self._warnings())),
        ]

    def _sections(self) -> list[Section]:
        remarks = plan_text.remarks(self, self._warnings())
        return [plan_text.parameters(self), plan_text.attached(self), remarks]


def refuse_converted(model: nn.Module) -> None:
    """Refuse a model that was converted already.

    Raises:
        ConversionError: it does.
    """
    if is_converted(model):
        raise ConversionError(
            "the model is converted already",
            why="its weights are tied, or it reads both strands; doing so twice is not defined",
            do="convert the plain model, or first bake(model), or unwrap(model) if it reads both strands",
        )
