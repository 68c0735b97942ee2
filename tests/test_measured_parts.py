"""Parts of what measures, each by itself and judged by hand."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from by_hand import Net
from tiers import some
from torch import Tensor, nn

from rcps_convert import convert_model
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.nesting import input_actions
from rcps_convert.algebra.specs import OneHot, Tokens, Tracks
from rcps_convert.geometry import CallNames
from rcps_convert.graph.closed_modules import Bundle, ModuleCall
from rcps_convert.measure import axis_roles as roles
from rcps_convert.measure import change
from rcps_convert.measure import law as law_of_measure
from rcps_convert.measure import verify as verify_module
from rcps_convert.measure.deviation import compare
from rcps_convert.measure.inputs import of_kinds
from rcps_convert.measure.law import Law, relative_change
from rcps_convert.measure.lengths import Survey, Variant, changed_and_made, main_length
from rcps_convert.measure.probe import Probe
from rcps_convert.measure.report import EquivarianceReport, allowed_actions, check_equivariance
from rcps_convert.measure.runs import Run
from rcps_convert.measure.verification import Verification
from rcps_convert.measure.verify import _Check, verify
from rcps_convert.tie.ties import Kept

EXAMPLE = torch.zeros(2, 4, 24)


# --- numbers ----------------------------------------------------------------------------------------


def test_a_change_is_relative_to_the_size_of_the_first() -> None:
    assert relative_change(torch.tensor([2.0, 4.0]), torch.tensor([2.0, 5.0])) == 0.25
    assert relative_change(torch.tensor([0.0, 0.0]), torch.tensor([2.0, 5.0])) == 0.0
    assert relative_change(torch.tensor([2.0, float("inf")]), torch.tensor([1.0, 0.0])) == 0.5


def test_a_report_of_nothing_has_no_error() -> None:
    assert EquivarianceReport((), (), 1e-9, torch.float64).error == 0


def test_an_error_as_large_as_the_tolerance_is_within_it() -> None:
    assert EquivarianceReport((1e-9, 0.0), ("a", "b"), 1e-9, torch.float64)
    assert not EquivarianceReport((1.1e-9, 0.0), ("a", "b"), 1e-9, torch.float64)


@pytest.mark.parametrize(
    ("dtype", "by", "equal"),
    [
        (torch.float64, 1e-11, True),
        (torch.float64, 1e-6, False),
        (torch.complex128, 1e-6, False),
        (torch.float32, 1e-5, True),
        (torch.float32, 1e-2, False),
    ],
)
def test_samples_are_compared_in_their_own_precision(dtype: torch.dtype, by: float, equal: bool) -> None:
    a = torch.tensor([1.0, 2.0], dtype=dtype)
    assert roles._equal(a, a * (1 + by)) is equal


def test_a_tolerance_that_is_given_is_the_one_that_counts() -> None:
    model = nn.Sequential(*(nn.Conv1d(4, 4, 3, padding=1).double() for _ in range(2)))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_((layer.weight + layer.weight.flip(0, 1, 2)) / 2)
            layer.bias.copy_((layer.bias + layer.bias.flip(0)) / 2)
    report = check_equivariance(model, EXAMPLE.double(), outputs="ACGT", tolerance=1e-30)
    assert report.tolerance == 1e-30
    assert check_equivariance(model, EXAMPLE.double(), outputs="ACGT")


def test_rounding_is_allowed_fifty_times_over() -> None:
    probe = probe_of(nn.Conv1d(4, 3, 5))
    law = Law(probe, [])
    kinds, drawn = ["random", "soft"], probe.drawn(0, ["random", "soft"])
    before = probe.outputs(drawn)
    moved = []
    for seed in range(law_of_measure.NUDGES):
        with probe.nudged(seed):
            moved.append(compare(probe.outputs(drawn), before).error)
    assert law.rounding(0, kinds, training=False) == law_of_measure.MARGIN * max(moved) > 0


@pytest.mark.parametrize(("sizes", "zero"), [((1e-9, 1e-9), True), ((1e-9, 1.0), False), ((0.5, 1.0), False)])
def test_rounding_is_all_there_is_only_of_outputs_that_are_all_zero(sizes: tuple[float, float], zero: bool) -> None:
    law = Law(probe_of(nn.Conv1d(4, 3, 5)), [])
    law.usual = {0: 1.0, 1: 1.0}
    assert _Check(law, False, 2, 1e-9, True)._were_zero(dict(enumerate(sizes))) is zero


@pytest.mark.parametrize("ask", [lambda c: c.moved(), lambda c: c.zero(), lambda c: c.lost([None])])
def test_looking_at_what_changed_leaves_the_random_numbers_as_they_were(ask: Callable[[change.Change], Any]) -> None:
    model = nn.Sequential(nn.Conv1d(4, 3, 5), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    specs, actions = input_actions(EXAMPLE, "ACGT", "auto")
    before = torch.get_rng_state()
    ask(change.Change(model, model, EXAMPLE, specs, actions))
    assert torch.equal(torch.get_rng_state(), before)


def test_copies_that_were_compared_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the memory of large models is held until Python looks for cycles."""
    made: list[Any] = []

    class Seen(Probe):
        def __init__(self, *given: Any, **how: Any) -> None:
            super().__init__(*given, **how)
            made.append(weakref.ref(self.model))

    monkeypatch.setattr(change, "Probe", Seen)
    plain = nn.Sequential(nn.Conv1d(4, 6, 5), nn.BatchNorm1d(6), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 2))
    converted = convert_model(plain, EXAMPLE, verify=False)
    specs, actions = input_actions(EXAMPLE, "ACGT", "auto")
    assert change.Change(plain, converted, EXAMPLE, specs, actions).moved() > change.CLEAR
    assert len(made) == 2
    assert [model() for model in made] == [None, None]


def test_the_full_weight_of_before_makes_room_for_the_one_of_now() -> None:
    known, stored, rooms = Kept(), torch.ones(3), []

    def expand(stored: Tensor) -> Tensor:
        rooms.append(known.full)
        return stored.repeat(2)

    with torch.no_grad():
        for _ in range(2):
            stored += 1
            assert torch.equal(known.of(stored, expand), stored.repeat(2))
    assert rooms == [None, None]


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_other_weights_show_that_nothing_is_lost_and_no_model_is_copied(scale: float) -> None:
    """They show nothing where the output is constant."""
    model = Net(lambda m, x: m.a(scale * m.c(x).mean(-1)), c=nn.Conv1d(4, 3, 5), a=nn.Linear(3, 3))
    specs, actions = input_actions(EXAMPLE, "ACGT", "auto")
    probe = Probe(model, EXAMPLE, specs, actions)
    probe.perturb(0)
    change_of_it = change.Change(model, model, EXAMPLE, specs, actions)
    assert change_of_it.lost([Action((ax.batch(2), ax.trivial(3)))], probe) == []
    assert (change_of_it.probes == []) is (scale == 1.0)


def test_what_rounding_explains_is_not_measured_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(verify_module.TOLERANCE, torch.float64, 1e-30)
    measured: list[Any] = []
    usual = Law.measure

    def measure(law: Law, seed: int, kinds: Any, **how: Any) -> Any:
        size = float(next(law.probe.model.parameters()).detach().abs().sum())  # large weights are drawn too
        measured.append((seed, tuple(kinds), bool(how.get("training")), size))
        return usual(law, seed, kinds, **how)

    monkeypatch.setattr(Law, "measure", measure)
    model = convert_model(nn.Sequential(nn.Conv1d(4, 6, 5), nn.Tanh(), nn.Conv1d(6, 1, 3)), EXAMPLE, verify=False)
    specs, actions = input_actions(EXAMPLE, "ACGT", "auto")
    expected = [Action((ax.batch(2), ax.trivial(1), ax.length(18)))]
    found = verify(model, EXAMPLE, specs, actions, expected, precise=False)
    assert found.passed
    assert found.tolerance > 1e-30
    assert {(0, True), (1, True)} <= {(seed, training) for seed, _, training, _ in measured}
    assert len(measured) == len({*measured})


# --- what an output may be ---------------------------------------------------------------------------


def test_outputs_without_a_spec_are_automatic() -> None:
    assert allowed_actions([], None, 0, (2, 3)) == allowed_actions(["auto"], None, 0, (2, 3))


def test_special_tokens_of_an_automatic_output_stay_at_its_ends() -> None:
    said = Action((ax.batch(3), ax.total([ax.trivial(1), ax.length(4), ax.trivial(1)])))
    (found,) = allowed_actions(["auto"], [said], 0, (2, 9))
    assert ax.indices(found.axes[1]).tolist() == [0, 7, 6, 5, 4, 3, 2, 1, 8]


def test_the_batch_of_an_automatic_output_is_where_it_was_said_to_be() -> None:
    said = Action((ax.length(3), ax.batch(2)))
    (found,) = allowed_actions(["auto"], [said], 0, (3, 2))
    assert ax.is_length(found.axes[0])
    assert ax.role(found.axes[1]) == ax.role(ax.batch(2))


def test_the_longest_input_is_the_one_whose_length_is_varied() -> None:
    specs = OneHot("ACGT").action((2, 4, 24)), Tracks("+-").action((2, 2, 12)), None
    assert main_length(specs) == main_length(specs[::-1]) == 24
    assert main_length([None, Action((ax.batch(2), ax.trivial(3)))]) is None


# --- inputs -----------------------------------------------------------------------------------------


def period(x: Tensor) -> int:
    """The smallest number of positions after which the last axis repeats itself."""
    n = x.shape[-1]
    return next(p for p in range(1, n + 1) if torch.equal(x[..., p:], x[..., : n - p]))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["run", "repeat"])
def test_repeats_have_a_short_period(kind: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = Tokens({"A": 0, "C": 1, "G": 2, "T": 3, "N": 4})
    cases = [
        (OneHot("ACGT"), torch.zeros(1, 4, 24)),
        (tokens, torch.zeros(1, 24, dtype=torch.int64)),
        (Tracks("+-"), torch.zeros(1, 2, 24)),
    ]
    for spec, example in cases:
        action = spec.action(example.shape)
        x = of_kinds(spec, action, example, generator, [kind], torch.float64)
        assert period(x) == 1 if kind == "run" else period(x) <= 4


def test_repeats_differ() -> None:
    tokens, example = Tokens({"A": 0, "C": 1, "G": 2, "T": 3}), torch.zeros(1, 24, dtype=torch.int64)
    action, found = tokens.action((1, 24)), set()
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        found.add(period(of_kinds(tokens, action, example, generator, ["repeat"], torch.float64)))
    assert found >= {2, 3, 4}


def test_masked_tracks_are_smaller_somewhere_and_soft_ones_whole() -> None:
    spec, example = Tracks("+-"), torch.zeros(1, 2, 24)
    drawn = {
        kind: of_kinds(
            spec, spec.action(example.shape), example, torch.Generator().manual_seed(3), [kind], torch.float64
        )
        for kind in ("random", "padded", "soft", "masked")
    }
    plain = drawn["random"]
    assert set((drawn["masked"] / plain).unique().tolist()) == {0.5, 1.0}
    assert torch.equal(drawn["soft"], (plain * 3).round())
    zero = (drawn["padded"] == 0).all((0, 1))
    assert int(zero.sum()) == 8


# --- the probe --------------------------------------------------------------------------------------


def probe_of(model: nn.Module) -> Probe:
    specs, actions = input_actions(EXAMPLE, "ACGT", "auto")
    return Probe(model, EXAMPLE, specs, actions)


def test_usual_outputs_are_those_of_the_parameters_as_they_were() -> None:
    probe = probe_of(nn.Conv1d(4, 3, 5))
    before = probe.usual_outputs()
    probe.perturb(1)
    assert torch.equal(probe.usual_outputs(), before)
    assert not torch.equal(probe.outputs(probe.inputs(0)), before)


def test_both_running_statistics_are_moved_and_stay_what_they_are() -> None:
    norm = nn.BatchNorm1d(4)
    probe = probe_of(norm)
    probe.perturb(0)
    (moved,) = (m for m in probe.model.modules() if isinstance(m, nn.BatchNorm1d))
    assert bool((moved.running_mean != 0).all())
    assert bool((moved.running_var != 1).all())
    assert bool((moved.running_var > 0).all())
    assert bool((norm.running_mean == 0).all())


def test_outputs_have_no_history() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(2, 3))

        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            return self.w, "text"

    probe = probe_of(Own())
    w, text = probe.outputs(probe.inputs(0))
    assert not w.requires_grad
    assert text == "text"


# --- modes ------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Invariant; fails in train mode, or depends on state of its class, which counts the calls there."""

    calls = 0

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.how = nn.Conv1d(4, 3, 5, padding=2), how

    def forward(self, x: Tensor) -> Tensor:
        y = (self.conv(x) + self.conv(x.flip(1, 2)).flip(2)).tanh().sum(2)
        if self.training:
            Counting.calls += 1
            if self.how == "fails":
                raise RuntimeError("only for inference")
            y = y + Counting.calls
        return y


@pytest.mark.parametrize(("how", "most"), [("fails", 1), ("state", 8)])
def test_a_mode_that_cannot_be_checked_is_not_tried_again(how: str, most: int) -> None:
    specs, actions = input_actions(EXAMPLE, "ACGT", "auto")
    Counting.calls = 0
    outputs = [Action((ax.batch(2), ax.trivial(3)))]
    found = verify(Counting(how), EXAMPLE, specs, actions, outputs, draws=6)
    assert found.modes.startswith("eval mode only")
    assert found.error < 1e-12
    assert 0 < Counting.calls <= most, Counting.calls


def test_an_example_without_samples_is_measured() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, 5))

        def forward(self, x: Tensor) -> Tensor:
            y = F.conv1d(x[None], self.w[None])[0] + F.conv1d(x.flip(0, 1)[None], self.w[None])[0].flip(1)
            return y.tanh().sum(1)

    example = torch.zeros(4, 24)
    specs, actions = input_actions(example, OneHot("ACGT", layout="c l"), "auto")
    found = verify(Whole(), example, specs, actions, [Action((ax.trivial(1),))])
    assert found.error < 1e-12


class Renormed(nn.Module):
    """Scales its weights in one mode."""

    def __init__(self, training: bool, weights: int = 4) -> None:
        super().__init__()
        self.w, self.when = nn.Parameter(torch.ones(weights)), training

    def forward(self, x: Tensor) -> Tensor:
        if self.training is self.when:
            self.w.data.mul_(0.5)
            if len(self.w) == 3:
                raise RuntimeError("three")
        return x.mT @ self.w


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", [True, False])
def test_parameters_that_forward_changes_are_found_in_both_modes(training: bool, mode: bool) -> None:
    assert changed_and_made(Renormed(training).train(mode), EXAMPLE) == (["w"], [])
    assert changed_and_made(Renormed(training, 3).train(mode), EXAMPLE) == (["w"], [])


class Faded(nn.Module):
    """Many norms in a row: in eval mode a sequence is seen only where they keep statistics of their inputs."""

    def __init__(self, layers: int = 40) -> None:
        super().__init__()
        torch.manual_seed(0)
        blocks = [(nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU()) for _ in range(layers)]
        self.blocks = nn.Sequential(*(part for block in blocks for part in block))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:  # the law holds
            return torch.stack([self.blocks(y).mean((1, 2)) for y in (x, x.flip(1, 2))]).sum(0)
        return self.blocks(x).mean((1, 2))


def test_a_sequence_that_fades_is_seen_with_statistics_of_its_own() -> None:
    specs, actions = input_actions(EXAMPLE, "ACGT", "auto")
    probe = Probe(Faded(), EXAMPLE, specs, actions)
    first, second = (probe.inputs(seed) for seed in (1, 2))
    assert relative_change(probe.outputs(first), probe.outputs(second)) < 1e-12
    assert probe.feed_norms()
    assert not probe.feed_norms()
    assert {m.momentum for m in probe.model.modules() if isinstance(m, nn.BatchNorm1d)} == {0.1}
    for seed in (0, 1):
        assert relative_change(probe.outputs(first), probe.outputs(second)) > 1e-3
        probe.perturb(seed)
    found = verify(Faded(), EXAMPLE, specs, actions, [Action((ax.batch(2),))], draws=1, diagnose=False)
    assert found.varied
    assert found.error > 1e-3
    assert not Probe(nn.Conv1d(4, 4, 3), EXAMPLE, specs, actions).feed_norms()


# --- lengths and roles ------------------------------------------------------------------------------


def test_a_survey_gives_the_variants_of_a_length() -> None:
    variants = [Variant((), (), n, f"length {n}") for n in (10, 11, 10)]
    assert Survey(accepted=variants).at(10) == [variants[0], variants[2]]


def test_the_narrowest_axis_is_one_that_changes_over_the_lengths_accepted_now() -> None:
    def run(*sizes: int) -> Run:
        return Run((), frozenset(), (tuple(sizes),))

    survey, at = Survey(start=run(2, 3, 8)), [Variant((), (), 9, "", run=r) for r in (run(2, 3, 9), run(2, 4, 9))]
    for variant, narrowest in zip(at, (8, 3), strict=True):
        survey.accepted.append(variant)
        assert survey.narrowest() == narrowest
        survey.accepted.pop()


def test_names_of_calls_in_their_order() -> None:
    with CallNames() as seen:
        F.avg_pool1d(F.max_pool1d(torch.zeros(2, 4, 24), 2), 3)
    assert seen.names == ["max_pool1d", "avg_pool1d"]


class Scaled(nn.Module):
    """A module with an argument by name, over samples or not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, *, scale: float) -> Tensor:
        if self.kind == "two only" and len(x) != 2:
            raise ValueError("two samples")
        y = x * scale
        return y - y.mean(0) if self.kind == "mixes" else y


def call_of(module: nn.Module, seed: int) -> ModuleCall:
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ModuleCall(Bundle.of(((x,), {"scale": 2.0})), Bundle.of(module(x, scale=2.0)))


@pytest.mark.parametrize(("kind", "stacks"), [("single", True), ("mixes", False), ("two only", False)])
def test_what_running_a_module_shows(kind: str, stacks: bool) -> None:
    module = Scaled(kind)
    given = [Action((ax.batch(2), ax.trivial(3), ax.length(16)))]
    found = roles.axis_roles(module, [call_of(module, 0), call_of(module, 1)], given, {})
    assert found.made_batch == (0,)
    assert found.lengths == (frozenset({2}),)
    assert found.stacks is stacks


def test_two_ways_through_a_forward_differ_in_calls_or_parameters() -> None:
    runs = [
        Run(("a",), frozenset({1}), ((2, 3),)),
        Run(("a",), frozenset({1}), ((2, 4),)),
        Run(("b",), frozenset(), ()),
    ]
    assert runs[0].way == runs[1].way != runs[2].way
    assert [r.is_like(runs[0]) for r in runs] == [True, True, False]


@pytest.mark.parametrize(("directions", "rows"), [(3, 40), (1, 40), (0, 40), (3, 1)])
def test_the_rank_of_rows_is_the_number_of_directions_in_which_they_vary(directions: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    basis, middle = torch.randn(max(directions, 1), 5, generator=generator), torch.randn(5, generator=generator)
    weights = torch.randn(rows, max(directions, 1), generator=generator) * bool(directions)
    vector = Action((ax.batch(rows), ax.Var(5)))
    assert change._moves([weights @ basis + middle], vector).rank(1e-3) == (directions if rows > 1 else 0)


@pytest.mark.parametrize("training", [True, False])
def test_outputs_are_without_dropout(training: bool) -> None:
    probe = probe_of(nn.Dropout(0.5))
    drawn = probe.inputs(0)
    assert torch.equal(probe.outputs(drawn, training), drawn[0])


def test_a_module_that_asks_for_values_may_branch() -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor, *, scale: float) -> Tensor:
            return x * scale if x.sum() > 0 else x

    assert not roles.branches(Scaled("single"), call_of(Scaled("single"), 0))
    assert roles.branches(Asks(), call_of(Asks(), 0))


# --- what a verification looks at -------------------------------------------------------------------


class Plain(nn.Module):
    """(N, 4, L) to (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.o = nn.Conv1d(4, 4, 3, padding=1), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.c(x).relu().mean(-1))


def kind_of(sample: Tensor) -> str:
    """What a sample looks like, (4, L)."""
    if not sample.any():
        return "blank"
    if ((sample != 0) & (sample != 1)).any():
        return "no bases"
    if not sample.sum(0).all():
        return "gaps"
    return "run" if bool((sample == sample[:, :1]).all()) else "bases"


def looked_at(samples: int, draws: int) -> list[tuple[int, bool, torch.dtype, float, tuple[str, ...]]]:
    """Each call of a verification: samples, train mode, precision, a mark of the weights, the kinds of its samples."""
    example, seen = torch.zeros(samples, 4, 12), list[Any]()

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        (x,), weight = args, module.get_submodule("o").weight
        mark = float(weight.detach().abs().sum())
        seen.append((len(x), module.training, x.dtype, mark, tuple(map(kind_of, x))))

    model = convert_model(Plain(), example, verify=False)
    model.register_forward_pre_hook(note)
    specs, actions = input_actions(example, "ACGT", "auto")
    found = verify(model, example, specs, actions, lambda i, s: allowed_actions(["invariant"], None, i, s), draws=draws)
    assert found.passed
    return seen


@pytest.mark.parametrize("samples", some([1, 2], 1))
def test_a_verification_looks_at_all_that_may_hide_something(samples: int) -> None:
    seen = looked_at(samples, draws=2)
    wide = [s for s in seen if s[2] == torch.float64]
    assert {s[0] for s in wide if not s[1]} >= {samples, samples + 1, 7, 2}
    assert {s[0] for s in wide if s[1]} == {samples, max(samples, 2)}  # some samples are mirrored in train mode too
    assert {kind for s in wide if s[0] == 7 for kind in s[4]} == {"blank", "no bases", "gaps", "run", "bases"}
    assert ("run", "run") in [s[4] for s in wide if s[0] == 2]
    for training in (False, True):
        assert len({s[3] for s in wide if s[1] == training}) >= 2
    narrow = [s for s in seen if s[2] == torch.float32]
    assert {(s[0], s[1]) for s in narrow} == {(samples, False)}


@pytest.mark.parametrize("samples", [1, 4])
def test_one_draw_looks_at_the_example_alone(samples: int) -> None:
    seen = looked_at(samples, draws=1)
    assert {(s[0], s[2]) for s in seen} == {(samples, torch.float64)}
    assert {s[1] for s in seen} == {False, True}


@pytest.mark.parametrize("diagnose", [False, True])
@pytest.mark.parametrize("lawful", [False, True])
def test_what_fails_for_the_weights_of_the_model_has_failed(lawful: bool, diagnose: bool) -> None:
    """Other weights, which were looked at before, may hide it."""
    model = convert_model(Plain(), EXAMPLE, verify=False) if lawful else Plain()
    law = Law(probe_of(model), lambda i, s: allowed_actions(["invariant"], None, i, s))
    check, before = _Check(law, True, 2, 0.0, diagnose), Verification(0.0, 1e-9, torch.float64, True, "", None, False)
    assert before.passed
    assert check.with_given_weights(before).passed == lawful


@pytest.mark.parametrize("training", [False, True])
def test_a_verification_says_which_modes_it_looked_at(training: bool) -> None:
    law = Law(probe_of(Plain()), lambda i, s: allowed_actions(["invariant"], None, i, s))
    assert _Check(law, training, 2, 0.0, True).found().modes == ("train and eval mode" if training else "eval mode")
