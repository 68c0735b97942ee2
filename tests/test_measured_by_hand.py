"""Inputs, probes, axes and reports of what is measured: value by value, judged by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from by_hand import Net, mirror
from torch import Tensor, nn

from rcps_convert import ConversionError
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.nesting import input_actions
from rcps_convert.algebra.specs import Invariant, Mask, OneHot, Tokens, Tracks
from rcps_convert.errors import TraceError
from rcps_convert.graph.closed_modules import Bundle, ModuleCall
from rcps_convert.measure import along_sequence as along
from rcps_convert.measure import axis_roles as roles
from rcps_convert.measure import inputs as drawn_inputs
from rcps_convert.measure import law as law_module
from rcps_convert.measure import verify as verify_module
from rcps_convert.measure.deviation import compare, deviation, held_to
from rcps_convert.measure.held_noise import HeldNoise
from rcps_convert.measure.inputs import KINDS, batch_dim, of_kinds, random_like, some_of, turned
from rcps_convert.measure.kept_buffers import KeptBuffers
from rcps_convert.measure.law import Law, _grown, difference, relative_change
from rcps_convert.measure.probe import Probe, own_dtype
from rcps_convert.measure.report import EquivarianceReport, allowed_actions, candidate_actions, check_equivariance
from rcps_convert.measure.verification import Verification, undecided
from rcps_convert.measure.verify import _Check, verify

INF = float("inf")
EXAMPLE = torch.zeros(2, 4, 24)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def probe_of(body: Any, example: Any = EXAMPLE, inputs: Any = "ACGT", **modules: Any) -> Probe:
    model = body if isinstance(body, nn.Module) else Net(body, **modules)
    return Probe(model, example, *input_actions(example, inputs, "auto"))


# --- deviations ---


@pytest.mark.parametrize(
    ("found", "expected", "usual", "error", "entries"),
    [
        ([1e-9, 0.0], [0.0, 0.0], 1.0, 1e-3, 2),  # rounding of what is usually one: held to 1e-6 of it
        ([1e-9, 0.0], [0.0, 0.0], 0.0, 1.0, 2),
        ([2.0, 2.0, 2.0], [2.0, 2.0, 1.0], 0.0, 0.5, 3),
        ([1.0, 4.0, 4.0], [2.0, 4.0, 4.0], 0.0, 0.25, 3),  # of the middle one
        ([float("nan"), 1.0], [float("nan"), 2.0], 0.0, 0.5, 1),
        ([float("nan"), 1.0], [1.0, 1.0], 0.0, INF, 1),
        ([float("nan")], [float("nan")], 0.0, 0.0, 0),
        ([], [], 0.0, 0.0, 0),
    ],
)
def test_what_comparing_finds(found: Any, expected: Any, usual: float, error: float, entries: int) -> None:
    a, b = (torch.tensor(x, dtype=torch.float64) for x in (found, expected))
    got = compare(a, b, usual)
    assert got.error == pytest.approx(error)
    assert got.entries == entries
    assert compare(b, a, usual) == got


def test_whole_numbers_are_compared_exactly_and_counted() -> None:
    a = torch.tensor([1, 2, 3])
    assert (compare(a, a).error, compare(a, a).entries) == (0.0, 3)
    assert compare(a, torch.tensor([1, 2, 4])).error == 1.0
    assert compare(a, torch.tensor([1.0, 2.0, 3.0])).error == 0.0
    assert compare(a, torch.tensor([1.0, 2.0, 3.5])).error == pytest.approx(0.5 / 3.5)
    assert (compare(a, a[:2]).error, compare(a, a[:2]).entries) == (INF, 0)


def test_positions_without_a_partner_are_passed_over() -> None:
    action = Action((ax.positions(4, 1),))
    y = torch.tensor([1.0, 2.0, 3.0, 9.0])
    r = torch.tensor([3.0, 2.0, 1.0, 5.0])
    assert held_to(action, r, y).error == 0
    assert held_to(action, r, y).entries == 3
    assert deviation(r, y, action) == 0
    assert deviation(y, y, action) > 0.1


# --- kinds of input ---


def test_tracks_and_side_inputs_are_not_negative_and_ids_are_kept() -> None:
    spec = Tracks("+-")
    action = spec.action((2, 2, 24))
    x = random_like(spec, action, torch.zeros(2, 2, 24), generator())
    assert bool((x >= 0).all())
    assert len(x.unique()) == x.numel()
    ids = torch.tensor([[3, 1], [0, 2]])
    side = Invariant()
    assert random_like(side, side.action((2, 2)), ids, generator()) is ids


def test_a_mask_hides_about_a_quarter_and_never_the_first() -> None:
    mask = Mask()
    x = random_like(mask, mask.action((8, 400)), torch.zeros(8, 400), generator())
    assert bool((x[:, 0] == 1).all())
    assert 0.2 < float((x == 0).float().mean()) < 0.3
    assert x.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_bases_are_one_hot_in_the_type_of_the_example(dtype: torch.dtype) -> None:
    spec = OneHot("ACGT")
    x = random_like(spec, spec.action((3, 4, 50)), torch.zeros(3, 4, 50, dtype=dtype), generator())
    assert x.dtype == dtype
    assert x.is_contiguous()
    assert bool((x.sum(1) == 1).all())
    assert {int(i) for i in x.argmax(1).unique()} == {0, 1, 2, 3}
    last = OneHot("ACGT", layout="n l c")
    y = random_like(last, last.action((3, 50, 4)), torch.zeros(3, 50, 4), generator())
    assert bool((y.sum(2) == 1).all())


def drawn(kind: str, spec: Any = None, shape: tuple[int, ...] = (1, 4, 48), seed: int = 3, dtype: Any = None) -> Tensor:
    spec = spec or OneHot("ACGT")
    example = torch.zeros(shape, dtype=dtype or torch.float64)
    return of_kinds(spec, spec.action(shape), example, generator(seed), [kind], torch.float64)[0]


def test_what_kinds_of_bases_look_like() -> None:
    plain = drawn("random")
    assert bool((plain.sum(0) == 1).all())
    padded = drawn("padded")
    empty = padded.sum(0) == 0
    assert 16 <= int(empty.sum()) <= 16 + 4
    assert torch.equal(padded[:, ~empty], plain[:, ~empty])
    assert bool((drawn("run") == plain[:, :1]).all())
    soft = drawn("soft")
    assert torch.allclose(soft.sum(0), torch.ones(48, dtype=torch.float64))
    assert 0.3 < float(soft.amax(0).mean()) < 0.95
    masked = drawn("masked")
    assert {*masked.sum(0).tolist()} == {0.0, 0.5, 1.0}
    assert int((masked.sum(0) == 0).sum()) == 16
    assert not drawn("blank").any()
    for kind in ("soft", "masked"):  # whole numbers stay one-hot
        assert bool((drawn(kind, dtype=torch.int64).sum(0) == 1).all())


def test_what_kinds_of_tracks_look_like() -> None:
    spec, shape = Tracks("+-"), (1, 2, 48)
    plain = drawn("random", spec, shape)
    assert int((drawn("padded", spec, shape) == 0).all(0).sum()) == 16
    assert bool((drawn("run", spec, shape) == plain[:, :1]).all())
    repeat = drawn("repeat", spec, shape)
    assert torch.equal(repeat, plain[:, torch.arange(48) % 3])
    assert not drawn("blank", spec, shape).any()


def test_what_kinds_of_ids_look_like() -> None:
    tokens = Tokens({"A": 0, "C": 1, "G": 2, "T": 3, "N": 4, "[M]": 5})
    found = {kind: drawn(kind, tokens, (1, 48), dtype=torch.int64) for kind in KINDS}
    assert int((found["padded"] == 4).sum()) >= 16
    assert int((found["masked"] == 5).sum()) >= 16
    assert bool((found["blank"] == 4).all())
    assert len(found["run"].unique()) == 1
    assert int(found["run"][0]) < 4  # a base, which has a partner
    only = Tokens({"A": 0, "C": 1, "G": 2, "T": 3})
    plain = drawn("random", only, (1, 48), dtype=torch.int64)
    for kind in ("padded", "masked", "blank", "soft"):  # no id stands for N
        assert torch.equal(drawn(kind, only, (1, 48), dtype=torch.int64), plain)


def test_each_sample_is_of_its_own_kind_and_again_is_the_one_before() -> None:
    spec = OneHot("ACGT")
    x = of_kinds(
        spec,
        spec.action((4, 4, 24)),
        torch.zeros(4, 4, 24),
        generator(),
        ["blank", "run", "again", "random"],
        torch.float32,
    )
    assert not x[0].any()
    assert bool((x[1] == x[1, :, :1]).all())
    assert torch.equal(x[1], x[2])
    assert bool((x[3].sum(0) == 1).all())
    assert not bool((x[3] == x[3, :, :1]).all())


def test_two_blocks_of_channels_are_drawn_each_for_itself() -> None:
    spec = OneHot("ACGT") + Tracks("+-") if hasattr(OneHot, "__add__") else None
    if spec is None:
        return
    action = spec.action((2, 6, 24))
    x = random_like(spec, action, torch.zeros(2, 6, 24), generator())
    assert bool((x[:, :4].sum(1) == 1).all())
    assert not bool((x[:, 4:].sum(1) == 1).any())


def test_kinds_are_moved_on_between_sequence_and_tracks() -> None:
    kinds = ["random", "run", "soft"]
    assert [[*turned(kinds, seed)] for seed in range(4)] == [
        ["random", "run", "soft"],
        ["run", "soft", "random"],
        ["soft", "random", "run"],
        ["random", "run", "soft"],
    ]
    assert [*turned(["run", "again"], 1)] == ["run", "again"]


def test_which_samples_are_mirrored_alone_differs_from_its_own_shifts() -> None:
    for samples in range(2, 9):
        for seed in range(5):
            chosen = some_of(samples, seed)
            assert chosen.shape == (samples,)
            assert 0 < int(chosen.sum()) < samples
            others = [chosen.flip(0), *(chosen.roll(k) for k in range(1, samples))]
            assert not any(torch.equal(chosen, o) for o in others)
            assert torch.equal(chosen, some_of(samples, seed))
    assert len({tuple(some_of(7, seed).tolist()) for seed in range(20)}) > 5


def test_where_the_samples_of_an_input_are() -> None:
    assert batch_dim(Action((ax.batch(2), ax.length(3)))) == 0
    assert batch_dim(Action((ax.length(3), ax.batch(2)))) == 1
    assert batch_dim(Action((ax.length(3), ax.trivial(2)))) is None


def test_a_stretch_is_a_third_of_the_positions_anywhere() -> None:
    starts = {drawn_inputs._third(9, generator(seed)).start for seed in range(60)}
    assert starts == {*range(7)}
    assert all((s := drawn_inputs._third(9, generator(seed))).stop - s.start == 3 for seed in range(5))
    assert drawn_inputs._third(2, generator()).stop - drawn_inputs._third(2, generator()).start == 1


# --- the probe ---


def test_a_probe_runs_a_copy_in_float64_and_in_float32_where_it_must() -> None:
    model = Net(lambda m, x: m.c(x), c=nn.Conv1d(4, 2, 3))
    probe = probe_of(model)
    assert probe.model is not model
    assert (probe.dtype, probe.own, probe.as_given) == (torch.float64, torch.float32, False)
    assert probe.outputs(probe.inputs(0)).dtype == torch.float64
    assert model.c.weight.dtype == torch.float32

    def only_single(m: Any, x: Tensor) -> Tensor:
        if m.c.weight.dtype != torch.float32:
            raise RuntimeError("single precision only")
        return m.c(x)

    single = probe_of(only_single, c=nn.Conv1d(4, 2, 3))
    assert single.dtype == torch.float32
    assert single.outputs(single.inputs(0)).dtype == torch.float32


def test_the_precision_of_a_model_is_that_of_its_first_numbers() -> None:
    assert own_dtype(nn.Linear(2, 2).half()) == torch.float16
    assert own_dtype(nn.ReLU()) == torch.float32
    model = nn.Module()
    model.register_buffer("count", torch.tensor(3))
    model.register_buffer("table", torch.zeros(2, dtype=torch.float64))
    assert own_dtype(model) == torch.float64


def test_samples_are_counted_where_the_sequences_agree() -> None:
    assert probe_of(lambda m, x: x).batch == 2
    body = Net(lambda m, x: x)
    body.forward = lambda x, z: x  # type: ignore[method-assign]
    assert Probe(body, (EXAMPLE, EXAMPLE), *input_actions((EXAMPLE, EXAMPLE), ("ACGT", "ACGT"), "auto")).batch == 2
    three = torch.zeros(3, 4, 24)
    assert Probe(body, (EXAMPLE, three), *input_actions((EXAMPLE, three), ("ACGT", "ACGT"), "auto")).batch is None


def test_batches_of_other_sizes_are_drawn_and_some_of_their_samples_mirrored() -> None:
    probe = probe_of(lambda m, x: x)
    (x,) = probe.drawn(5, KINDS[:1] * 5)
    assert tuple(x.shape) == (5, 4, 24)
    assert x.dtype == torch.float64
    chosen = torch.tensor([True, False, False, True, False])
    (y,) = probe.some_mirrored([x], chosen)
    for i, taken in enumerate(chosen.tolist()):
        assert torch.equal(y[i], mirror(x)[i] if taken else x[i])
    (z,) = probe.mirrored([x])
    assert torch.equal(z, mirror(x))
    assert not torch.equal(probe.inputs(0)[0], probe.inputs(1)[0])
    assert torch.equal(probe.inputs(1)[0], probe.inputs(1)[0])


def test_a_forward_that_writes_into_its_input_is_given_a_copy() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        x += 1
        return x

    probe = probe_of(body)
    drawn = probe.inputs(0)
    before = drawn[0].clone()
    assert torch.equal(probe.outputs(drawn), before + 1)
    assert torch.equal(drawn[0], before)


def test_an_output_that_a_model_keeps_is_copied() -> None:
    def body(m: Any, x: Tensor) -> Any:
        m.kept = x * 2
        return {"y": m.kept, "n": 3}

    probe = probe_of(body)
    found = probe.outputs(probe.inputs(0))
    probe.model.kept.zero_()
    assert bool(found["y"].any())
    assert found["n"] == 3


def test_weights_are_moved_once_for_a_seed_little_or_anew() -> None:
    probe = probe_of(lambda m, x: m.c(x), c=nn.Conv1d(4, 32, 3))
    before = probe.model.c.weight.detach().clone()
    probe.perturb(0)
    moved = probe.model.c.weight.detach().clone()
    size = float(before.norm() / before.numel() ** 0.5)
    assert float((moved - before).std()) == pytest.approx(0.3 * size + 0.05, rel=0.2)
    probe.perturb(0)
    assert torch.equal(probe.model.c.weight, moved)
    probe.perturb(1, anew=True)
    new = probe.model.c.weight.detach()
    rest = new - 0.3 * moved
    now = float(moved.norm() / moved.numel() ** 0.5)
    assert float(rest.std()) == pytest.approx((1 - 0.09) ** 0.5 * now + 0.05, rel=0.2)
    assert probe.perturbed == {0, 1}


def test_running_statistics_are_moved_a_little() -> None:
    probe = probe_of(lambda m, x: m.n(x.expand(-1, 4, -1)), n=nn.BatchNorm1d(4))
    norm = nn.BatchNorm1d(4000).double()
    probe._perturb_statistics(norm, lambda x: torch.randn(x.shape, generator=generator(), dtype=x.dtype))
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    assert float(mean.std()) == pytest.approx(0.3, rel=0.1)
    assert float(var.log().std()) == pytest.approx(0.3, rel=0.1)
    assert abs(float(mean.mean())) < 0.03
    assert abs(float(var.log().mean())) < 0.03


def test_a_nudge_is_in_the_last_places_and_undone() -> None:
    probe = probe_of(lambda m, x: m.c(x), c=nn.Conv1d(4, 32, 3))
    before = probe.model.c.weight.detach().clone()
    with probe.nudged(0):
        change = (probe.model.c.weight.detach() / before - 1).abs()
        assert 0 < float(change.max()) <= 4.5 * torch.finfo(torch.float64).eps
        assert float(change.max()) > 2 * torch.finfo(torch.float64).eps
        first = probe.model.c.weight.detach().clone()
    assert torch.equal(probe.model.c.weight, before)
    with probe.nudged(1):
        assert not torch.equal(probe.model.c.weight, first)


def test_a_probe_of_another_example_shares_the_weights() -> None:
    probe = probe_of(lambda m, x: m.c(x), c=nn.Conv1d(4, 2, 3))
    longer = torch.zeros(3, 4, 30)
    spec = OneHot("ACGT")
    twin = probe.at(longer, [spec.action((3, 4, 30))])
    assert twin.model is probe.model
    assert (twin.batch, probe.batch) == (3, 2)
    assert tuple(twin.usual_outputs().shape) == (3, 2, 28)
    assert tuple(probe.usual_outputs().shape) == (2, 2, 22)


def test_whole_numbers_that_depend_on_the_input_are_noted() -> None:
    for body, discrete in (
        (lambda m, x: x.argmax(1), True),
        (lambda m, x: (x > 0.5).double(), True),
        (lambda m, x: (x * 3).round(), True),
        (lambda m, x: torch.argmax(x * 0 + torch.arange(24.0), -1).double() + x.sum(), False),
        (lambda m, x: x.relu(), False),
        (lambda m, x: x[..., torch.arange(3)], False),
    ):
        probe = probe_of(body)
        probe.outputs(probe.inputs(1))
        assert probe.discrete is discrete


@pytest.mark.parametrize("training", [True, False])
def test_dropout_inside_of_functions_does_nothing(training: bool) -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        q = x.mT
        y = F.scaled_dot_product_attention(q, q, q, None, 0.5) + F.scaled_dot_product_attention(q, q, q, dropout_p=0.5)
        return F.dropout(input=F.alpha_dropout(y, 0.5, True), p=0.5, training=True)

    probe = probe_of(body)
    x = probe.inputs(0)
    q = x[0].mT
    expected = 2 * F.scaled_dot_product_attention(q, q, q)
    assert torch.allclose(probe.outputs(x, training), expected)


CASTS: dict[str, Any] = {
    "float": lambda x: (x * 0.1).float(),
    "to": lambda x: (x * 0.1).to(torch.float32),
    "to by name": lambda x: (x * 0.1).to(dtype=torch.float32),
    "type": lambda x: (x * 0.1).type(torch.float32),
    "a new tensor": lambda x: x + torch.full((4, 24), 0.1),
    "a table": lambda x: x + torch.linspace(0, 1, 24),
    "whole numbers": lambda x: x + torch.arange(24) / 3,
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_casts_and_new_tensors_are_in_float64(cast: Any) -> None:
    probe = probe_of(lambda m, x: cast(x))
    x = probe.inputs(0)
    found = probe.outputs(x)
    assert found.dtype == torch.float64
    exact = {
        "a new tensor": 0.1,
        "a table": torch.arange(24).double() / 23,
        "whole numbers": torch.arange(24).double() / 3,
    }
    name = next(n for n, c in CASTS.items() if c is cast)
    expected = x[0] + exact[name] if name in exact else x[0] * 0.1
    assert torch.allclose(found, expected, rtol=0, atol=1e-14)
    given = Probe(Net(lambda m, x: cast(x)), EXAMPLE, *input_actions(EXAMPLE, "ACGT", "auto"), own=True)
    assert given.outputs(given.inputs(0)).dtype == torch.float32


# --- random numbers and buffers ---


def test_noise_is_held_at_one_number_for_each_draw() -> None:
    with HeldNoise(0):
        a, b = torch.randn(3, 4), torch.rand(5)
        given = torch.bernoulli(torch.tensor([0.0, 1.0]))
        order = torch.randperm(6)
        plain = torch.zeros(2) + 1
    assert len(a.unique()) == len(b.unique()) == 1
    assert given.tolist() == [0.0, 1.0]
    assert sorted(order.tolist()) == [*range(6)]
    assert len(order.unique()) == 6
    assert plain.tolist() == [1.0, 1.0]
    with HeldNoise(0):
        assert torch.equal(torch.randn(3, 4), a)
        assert not torch.equal(torch.randn(3, 4), a)
    with HeldNoise(1):
        assert not torch.equal(torch.randn(3, 4), a)


def test_what_a_pass_writes_into_buffers_is_undone() -> None:
    model = nn.BatchNorm1d(3)
    kept, x = KeptBuffers(model), torch.randn(4, 3, 5)
    mean = model.running_mean
    for _ in range(2):
        with torch.no_grad(), kept.held():
            model(x)
            assert model.running_mean is mean
            assert bool(mean.any())  # type: ignore[union-attr]
        assert not mean.any()  # type: ignore[union-attr]
        assert int(model.num_batches_tracked) == 0  # type: ignore[arg-type]
    with torch.no_grad(), kept.held():
        model.running_mean = torch.ones(3)
    assert model.running_mean is mean
    with torch.no_grad():
        mean.fill_(2.0)  # type: ignore[union-attr]
        with kept.held():
            mean.fill_(3.0)  # type: ignore[union-attr]
        assert mean.tolist() == [2.0] * 3  # type: ignore[union-attr]
        mean.data.fill_(5.0)  # type: ignore[union-attr]
        kept.forget()
        with kept.held():
            model(x)
        assert mean.tolist() == [5.0] * 3  # type: ignore[union-attr]


# --- the law on one copy ---


def law_of(body: Any, outputs: Any, example: Any = EXAMPLE, **modules: Any) -> Law:
    return Law(probe_of(body, example, **modules), outputs)


def test_errors_are_kept_by_output_action_and_mode() -> None:
    law = law_of(
        lambda m, x: x.sum((1, 2))[:, None] + (x[:, 0].sum(-1, True) if m.training else 0),
        [Action((ax.batch(2), ax.trivial(1)))],
    )
    law.measure(0, ["random"] * 2)
    assert law.error() < 1e-12
    law.measure(0, ["random"] * 2, training=True)
    assert law.error([False]) < 1e-12 < 1e-3 < law.error([True]) == law.error()
    law.forget_training()
    assert law.error() < 1e-12
    assert law.entries == {0: 2}
    law.forget()
    assert law.errors == {}
    assert law.variation == {}
    assert law.actions


def test_of_several_actions_the_best_one_is_obeyed() -> None:
    choices = [Action((ax.batch(2), ax.trivial(24))), Action((ax.batch(2), ax.length(24)))]
    law = law_of(lambda m, x: x.sum(1).cumsum(-1) + x[:, 0] + x[:, 3], lambda i, shape: choices)
    law.measure(0, ["random"] * 2)
    found = law_of(lambda m, x: (x[:, 0] + x[:, 3], None), lambda i, shape: choices)
    found.measure(0, ["random"] * 2)
    assert found.best(0) == (0.0, choices[1])
    assert found.obeyed() == (choices[1],)
    assert law.best(0)[0] > 0.01
    empty = Law(found.probe, [])
    assert empty.error() == 0.0
    with pytest.raises(ConversionError, match="returns no numbers"):
        empty.require_measured()
    found.blended[False][0] = 0.5
    assert found.best(0)[0] == 0.5
    found.errors.pop((0, 0, False))
    assert found.only_blended(0.1)
    assert not law.only_blended(0.001)


def test_an_output_depends_where_a_sequence_changes_it() -> None:
    law = law_of(lambda m, x: (x[:, :, 0], torch.ones(2, 3, dtype=x.dtype)), [None, None])
    forward = law.measure(0, ["random"] * 2)
    assert not Law(law.probe, []).all_depend()
    law.vary(forward, 0, ["random"] * 2)
    assert law.variation[0] > 0.1
    assert law.variation[1] == 0.0
    assert law.depends()
    assert not law.all_depend()
    law.variation[1] = 1e-11
    assert law.all_depend()


def test_the_axis_that_grows_with_the_batch_holds_the_samples() -> None:
    a = torch.zeros(2, 6)
    assert _grown(a, torch.zeros(3, 6), 2) == 0
    assert _grown(a, torch.zeros(2, 9), 2) == 1
    assert _grown(a, torch.zeros(2, 6), 2) is None
    assert _grown(a, torch.zeros(2, 8), 2) == -1
    assert _grown(a, torch.zeros(3, 9), 2) == -1
    assert _grown(a, torch.zeros(3, 6, 1), 2) == -1
    assert _grown(None, a, 2) is None
    assert _grown(a, 3, 2) is None


def test_batches_of_the_outputs_are_found() -> None:
    law = law_of(lambda m, x: (x.sum((1, 2)), x.mT.flatten(0, 1), x.sum(), None, x[0, 0]), [None] * 5)
    law.find_batches(law.measure(0, ["random"] * 2))
    assert law.batches == {0: 0, 1: 0}
    assert law.summed == [2, 4]
    assert not law.any_batch
    alone = law_of(lambda m, x: x[:, 0], [None])
    alone.find_batches(alone.measure(0, ["random"] * 2))
    assert (alone.batches, alone.summed, alone.any_batch) == ({0: 0}, [], True)
    assert alone.variation[0] > 0.1

    def two_only(m: Any, x: Tensor) -> Tensor:
        if len(x) != 2:
            raise ValueError
        return x[:, 0]

    fixed = law_of(two_only, [None])
    fixed.find_batches(fixed.measure(0, ["random"] * 2))
    assert fixed.batches is None


def test_kinds_for_a_batch_of_the_example_meet_every_kind_over_several_turns() -> None:
    law = law_of(lambda m, x: x, [None])
    assert [law.own_kinds(turn) for turn in range(4)] == [
        ["random", "padded"], ["run", "repeat"], ["soft", "masked"], ["blank", "random"],
    ]  # fmt: skip
    assert law.own_kinds(3, ["run"]) == ["run", "run"]
    assert law.all_kinds() == [*KINDS]
    big = law_of(lambda m, x: x, [None], torch.zeros(9, 4, 24))
    assert big.all_kinds() == [*KINDS, "random", "padded"]


def test_long_inputs_are_met_by_two_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    law = law_of(lambda m, x: x, [None])
    monkeypatch.setattr(law_module, "WIDE", 4 * 24)
    assert law.all_kinds() == [*KINDS]
    monkeypatch.setattr(law_module, "WIDE", 4 * 24 - 1)
    assert law.all_kinds() == ["random", "padded"]


def test_samples_that_influence_each_other_are_measured_where_some_are_mirrored() -> None:
    expected = [Action((ax.batch(2), ax.trivial(4)))]
    for body, lawful in (
        (lambda m, x: x.sum(-1) + x.flip(1).sum(-1), True),
        (
            lambda m, x: x.sum(-1) + x.flip(1).sum(-1) - x[..., :12].mean((0, 2)) * x.flip(1)[..., 12:].mean((0, 2)),
            False,
        ),
    ):
        law = law_of(body, expected)
        law.find_batches(law.measure(0, ["random"] * 2))
        law.measure(0, ["random"] * 4)
        assert (law.blended[False][0] < 1e-12) is lawful
        assert law.alive == {0}
        assert law.all_alive()
        law.alive = set()
        assert not law.all_alive()


def test_a_number_of_a_whole_batch_is_left_as_it_is_where_some_are_mirrored() -> None:
    one = [Action(())]
    for body, lawful in (
        (lambda m, x: x.sum(), True),
        (lambda m, x: (x[..., 0].sum(0) * x.flip(1, 2)[..., 0].sum(0)).sum(), False),
    ):
        law = law_of(body, one)
        law.find_batches(law.measure(0, ["random"] * 2))
        assert law.summed == [0]
        for seed in range(3):
            law.measure(seed, ["random"] * 4)
        assert (law.blended[False][0] < 1e-12) is lawful
    profile = law_of(lambda m, x: x[:, 0].sum(0), [Action((ax.length(24),))])
    profile.find_batches(profile.measure(0, ["random"] * 2))
    profile.measure(0, ["random"] * 4)
    assert profile.blended[False] == {}  # it is mirrored with the samples: nothing to compare


def test_what_two_runs_on_one_input_show() -> None:
    assert law_of(lambda m, x: x * 2, [None]).unsteady(0, ["random"] * 2, training=False) is None
    noisy = law_of(lambda m, x: x + torch.randn(()), [None])
    assert noisy.unsteady(0, ["random"] * 2, training=False) == "noise"

    class Counts(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.calls

    assert law_of(Counts(), [None]).unsteady(0, ["random"] * 2, training=False) == "state"


def test_outputs_that_are_not_finite_in_train_mode_are_drawn_anew_as_bases() -> None:
    seen: list[float] = []

    def body(m: Any, x: Tensor) -> Tensor:
        seen.append(float(x.sum()))
        return x.sum((1, 2)).log()

    law = law_of(body, [Action((ax.batch(2),))])
    seen.clear()
    law.measure(0, ["random", "blank"], training=True)
    assert [int(s) for s in seen] == [24, 48, 48]
    seen.clear()
    law.measure(0, ["random", "blank"])
    assert [int(s) for s in seen][:2] == [24, 24]


def test_differences_of_outputs_by_hand() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0])
    assert difference([a, None, 3], [a, None, 4]) == 0.0
    assert difference([a, a], [a, b]) == 0.5
    assert difference([a], [a, b]) == INF
    assert difference([], []) == 0.0
    zero = torch.tensor([1e-9, 0.0])
    assert difference([zero], [zero * 0], {0: 1.0}) == pytest.approx(1e-3)
    assert relative_change(a, torch.zeros(3)) == 1.0
    assert relative_change(torch.zeros(0), torch.zeros(0)) == 1.0
    assert relative_change(torch.tensor([3 + 4j]), torch.tensor([0j])) == 1.0
    assert relative_change(torch.tensor([INF]), torch.tensor([1.0])) == 0.0
    half = torch.tensor([6e4], dtype=torch.float16)
    assert relative_change(half, -half) == 2.0
    assert relative_change(torch.tensor([200], dtype=torch.uint8), torch.tensor([210], dtype=torch.uint8)) == 0.05


# --- along the sequence ---


def test_blocks_of_positions_are_taken_from_another_tensor() -> None:
    x, y = torch.zeros(2, 16), torch.ones(2, 16)
    assert along.replaced(x, y, 1, [0, 3])[1].tolist() == [1, 1, 0, 0, 0, 0, 1, 1] + [0] * 8
    assert along.replaced(x.mT, y.mT, 0, [7])[:, 0].tolist() == [0] * 14 + [1, 1]
    short = along.replaced(torch.zeros(10), torch.ones(10), 0, [0])
    assert short.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]


def test_answers_are_distances_and_another_shape_says_nothing() -> None:
    base = torch.tensor([1.0, 2.0])
    found = along.answers(base, [torch.tensor([3.0, 1.0]), torch.zeros(3)])
    assert found.tolist() == [[2.0, 1.0], [0.0, 0.0]]
    assert found.dtype == torch.float64


def listening(*centers: float, width: float = 0.0) -> Tensor:
    """Entries that listen at places from 0 to 7, (BLOCKS, N)."""
    blocks = torch.arange(8.0)[:, None]
    return (1 - (blocks - torch.tensor(centers)).abs()).clamp(min=0) + width


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        (listening(0, 2, 5, 7), along.FOLLOWS),
        (listening(7, 5, 2, 0), along.UNCLEAR),
        (listening(3, 3.2, 3.1, 3), along.FIXED),
        (listening(0, 5, 2, 7), along.UNCLEAR),
        (listening(2.0, 2.6, 3.2, 3.8), along.UNCLEAR),  # a quarter of the way
        (listening(3.0, 3.2, 3.4, 3.6, 3.8, 4.0, 4.2, 4.4), along.FOLLOWS),  # many
        (torch.zeros(8, 4), along.UNCLEAR),
        (torch.full((8, 4), INF), along.UNCLEAR),
        (listening(0, 7), along.FOLLOWS),
    ],
)
def test_what_an_axis_does_along_the_sequence(answered: Tensor, expected: str) -> None:
    assert along.verdict(answered, 0) == expected
    assert along.verdict(answered[:, None].expand(-1, 3, -1), 1) == expected


def test_centers_of_listening() -> None:
    found = along._centers(listening(0, 3.5, 7), 0)
    assert found is not None
    assert found.tolist() == pytest.approx([0.0, 0.5, 1.0])
    some = along._centers(torch.cat([listening(7.0), torch.zeros(8, 1)], 1), 0)
    assert some is not None
    assert some.tolist() == [1.0]


def test_rank_correlations() -> None:
    assert along._rank_correlation(torch.tensor([1.0, 2.0, 9.0])) == pytest.approx(1.0)
    assert along._rank_correlation(torch.tensor([3.0, 2.0, -9.0])) == pytest.approx(-1.0)
    assert along._rank_correlation(torch.tensor([1.0])) == 0.0
    assert along._rank_correlation(torch.tensor([2.0, 1.0])) == pytest.approx(-1.0)


def test_an_axis_that_is_in_order_with_all_weights_is_not_fixed() -> None:
    still = listening(3.0, 3.1, 3.2, 3.3)[:, None]
    mixed = listening(3.0, 3.2, 3.1, 3.3)[:, None]
    back = listening(3.3, 3.2, 3.1, 3.0)[:, None]
    assert along._verdicts([still, still, still]) == [along.FIXED, along.UNCLEAR]
    assert along._verdicts([still, mixed, still]) == [along.FIXED, along.UNCLEAR]
    assert along._verdicts([still, back, still]) == [along.FIXED, along.FIXED]
    two = listening(3.0, 3.1)[:, None]
    assert along._verdicts([two, two]) == [along.FIXED, along.FIXED]
    assert along._verdicts([]) == []
    assert along._verdicts([listening(0.0)[:, None]]) == [along.FIXED, along.FIXED]  # one entry


def test_each_draw_that_is_followed_has_weights_of_its_own() -> None:
    for before in ((), (0,), (0, 5)):
        probe = probe_of(lambda m, x: m.c(x), c=nn.Conv1d(4, 2, 3))
        for seed in before:
            probe.perturb(seed)
        seen: list[Any] = []

        def read(drawn: list[Any], probe: Probe = probe, seen: list[Any] = seen) -> list[Any]:
            seen.append(
                (float(probe.model.c.weight.detach().sum()), float(drawn[0].sum(0)[0] @ torch.arange(24.0).double()))
            )
            return [probe.outputs(drawn)]

        (found,) = along.following(probe, read, draws=3)
        assert found == [along.FIXED, along.FIXED, along.FOLLOWS]
        assert len({weight for weight, _ in seen}) == 3
        assert len(seen) == 3 * (1 + along.BLOCKS)
        assert len({start for _, start in seen}) > 3 * 4


PROFILE = Action((ax.batch(2), ax.length(24)))


@pytest.mark.parametrize(
    ("body", "side"),
    [
        (lambda m, x: x[:, 0].cumsum(-1), "later"),
        (lambda m, x: x[:, 0].flip(-1).cumsum(-1).flip(-1), "earlier"),
        (lambda m, x: x[:, 0] + x[:, 1].sum(-1, True), None),
        (lambda m, x: x[:, 0], None),
    ],
)
def test_outputs_that_answer_to_one_side(body: Any, side: str | None) -> None:
    probe = probe_of(body)

    def read(drawn: list[Any]) -> list[Any]:
        return [probe.outputs(drawn)]

    assert along.one_sided(probe, [PROFILE], read) == [side]
    assert along.one_sided(probe, [None], read) == [None]
    two = Action((ax.length(24), ax.length(24)))
    assert along.one_sided(probe, [two], read) == [None]
    assert along._only_length(Action((ax.batch(2), ax.length(7)))) is None
    assert along._only_length(Action((ax.batch(2), ax.length(8)))) == 1


def test_the_inputs_are_replaced_along_their_lengths_only() -> None:
    x, y = [torch.zeros(2, 4, 16), torch.zeros(2, 3)], [torch.ones(2, 4, 16), torch.ones(2, 3)]
    actions = [Action((ax.batch(2), ax.regular(4), ax.length(16))), Action((ax.batch(2), ax.trivial(3)))]
    a, b = along._spliced(x, y, actions, [1])  # type: ignore[arg-type]
    assert a[0, 0].tolist() == [0, 0, 1, 1] + [0] * 12
    assert b is x[1]
    assert along._spliced([None], [None], [None], [1]) == [None]


# --- axes of modules ---


def test_roles_of_axes() -> None:
    action = Action((ax.batch(1), ax.trivial(3), ax.length(5), ax.length(1)))
    assert roles.roles(action) == ("batch", None, "length", None)
    assert roles.roles(None) == ()


def test_what_doubled_and_what_is_resized() -> None:
    assert roles._doubled(torch.zeros(2, 3), torch.zeros(4, 3)) == 0
    assert roles._doubled(torch.zeros(2, 3), torch.zeros(2, 6)) == 1
    assert roles._doubled(torch.zeros(2, 3), torch.zeros(4, 6)) is None
    assert roles._doubled(torch.zeros(2, 3), torch.zeros(3, 3)) is None
    assert roles._doubled(torch.zeros(2, 3), torch.zeros(2, 3)) is None
    assert roles._doubled(torch.zeros(2), torch.zeros(4, 1)) is None
    x = torch.arange(4.0)[None]
    found = roles._resize(x, [1], lambda n: n + 2)
    assert found is not None
    assert found.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert roles._resize(x, [1], lambda n: n - 4) is None
    assert roles._resize(x, [], lambda n: 0) is x
    halves = [[r(n) for r in roles.RESIZES] for n in (8, 6, 5)]
    assert halves == [[4, 6, 7, 6, 4, 0, 16], [3, 0, 5, 4, 2, -2, 12], [0, 0, 4, 3, 1, -3, 10]]


def module_roles(body: Any, x: Tensor, given: Action, hints: Any = None) -> roles.AxisRoles:
    module = Net(lambda m, x: body(x))
    calls = [
        ModuleCall(Bundle.of(((y,), {})), Bundle.of(module(y)))
        for y in (torch.randn(x.shape, generator=generator(s), dtype=torch.float64) for s in (0, 1))
    ]
    return roles.axis_roles(module, calls, [given], hints or {})


CONVOLVED = Action((ax.batch(2), ax.trivial(3), ax.length(16)))


@pytest.mark.parametrize(
    ("body", "batch", "lengths", "stacks"),
    [
        (lambda x: x * 2, 0, {2}, True),
        (lambda x: x.mT, 0, {1}, True),
        (lambda x: x.mean(-1), 0, set(), True),
        (lambda x: x.mean((0, 1)), None, {0}, False),
        (lambda x: x[..., ::2], 0, {2}, True),
        (lambda x: x - x.mean(0), 0, {2}, False),
        (lambda x: x.movedim(0, 2), 2, {1}, True),
        (lambda x: x[:, :, :1], 0, set(), True),
    ],
)
def test_what_is_a_batch_and_what_a_length(body: Any, batch: Any, lengths: Any, stacks: bool) -> None:
    found = module_roles(body, torch.zeros(2, 3, 16), CONVOLVED)
    assert found.given_batch == (0,)
    assert found.made_batch == (batch,)
    assert found.lengths == (frozenset(lengths),)
    assert found.stacks is stacks


def test_an_axis_that_grows_by_more_than_the_length_is_undecided() -> None:
    with pytest.raises(roles.Undecided, match="axis 1 of its output"):
        module_roles(
            lambda x: x.mean(-1, True).expand(-1, -1, x.shape[-1]).flatten(1), torch.zeros(2, 3, 16), CONVOLVED
        )


def test_a_module_of_one_length_is_undecided_unless_it_is_known() -> None:
    def body(x: Tensor) -> Tensor:
        if x.shape[-1] != 4:
            raise ValueError
        return x.mean(1, True).mean(-1, True).expand(-1, 4, 5)

    given = Action((ax.batch(2), ax.trivial(3), ax.length(4)))
    with pytest.raises(roles.Undecided, match="it takes one length only, and axis 1"):
        module_roles(body, torch.zeros(2, 3, 4), given)
    found = module_roles(body, torch.zeros(2, 3, 4), given, {(2, 4, 5): frozenset({2})})
    assert found.lengths == (frozenset({2}),)


# --- reports ---


def test_a_report_in_words() -> None:
    good = EquivarianceReport((1e-12,), ("(x)",), 1e-9, torch.float64)
    assert str(good) == "equivariant: error 1.0e-12 (tolerance 1e-09, float64)\n  output 0 as (x): 1.0e-12"
    bad = EquivarianceReport((2.0, 1.0), ("a", "b"), 1e-3, torch.float32, held=True)
    assert str(bad).splitlines() == [
        "NOT equivariant: error 2.0e+00 (tolerance 1e-03, float32, random numbers held)",
        "  output 0 as a: 2.0e+00",
        "  output 1 as b: 1.0e+00",
    ]
    html = bad._repr_html_()
    assert "NOT equivariant" in html
    assert html.index(">0<") < html.index(">1<")
    assert "1.0e+00" in html


def test_what_an_output_of_a_shape_may_be() -> None:
    def names(spec: Any, shape: tuple[int, ...], batch: int = 0) -> list[list[int]]:
        found = candidate_actions(spec, shape, batch)
        assert all(ax.role(a.axes[batch]) == ax.role(ax.batch(2)) for a in found)
        return [[d for d, t in enumerate(a.axes) if ax.is_length(t)] for a in found]

    assert names("auto", (2, 3, 5)) == [[], [1], [2]]
    assert names("auto", (2, 5, 1, 5)) == [[], [1], [3], [1, 3]]
    assert names("auto", (5, 2, 5), 1) == [[], [0], [2], [0, 2]]
    assert names("auto", (2,)) == [[]]
    (one,) = candidate_actions(Invariant(), (2, 3))
    assert not any(ax.is_length(t) for t in one.axes)


def test_what_was_said_of_an_output_counts() -> None:
    said = Action((ax.batch(2), ax.trivial(3), ax.length(5)))
    (found,) = allowed_actions(["auto"], [said], 0, (4, 3, 9))
    assert [ax.is_length(t) for t in found.axes] == [False, False, True]
    assert len(allowed_actions(["auto"], [None], 0, (4, 3, 9))) == 3
    assert len(allowed_actions(["auto"], [said], 0, (4, 9))) == 2  # of another number of axes
    assert len(allowed_actions(["auto"], [], 0, (4, 9))) == 2
    assert len(allowed_actions(["auto"], [said], 0, (4, 3, 1))) == 1  # one position is like any


def test_a_report_of_a_model() -> None:
    model = Net(lambda m, x: (x.sum((1, 2)), x[:, 0] + x[:, 3])).train()
    report = check_equivariance(model, EXAMPLE)
    assert report
    assert (report.tolerance, report.dtype, report.held) == (1e-9, torch.float64, False)
    assert [len(report.errors), len(report.actions)] == [2, 2]
    assert model.training
    noisy = check_equivariance(Net(lambda m, x: x.sum((1, 2)) + torch.randn(x.shape[0], dtype=x.dtype)), EXAMPLE)
    assert noisy.held
    assert noisy
    with pytest.raises(TraceError):
        check_equivariance(Net(lambda m, x: x @ torch.zeros(3, 3)), EXAMPLE)
    for tolerance in (-1.0, "small", INF):
        with pytest.raises((TypeError, ValueError), match="tolerance"):
            check_equivariance(model, EXAMPLE, tolerance=tolerance)  # type: ignore[arg-type]
    assert check_equivariance(model, EXAMPLE, tolerance=0.5).tolerance == 0.5


@pytest.mark.parametrize(
    ("body", "sizes"),
    [
        (lambda m, x: x.sum((1, 2)), {2: 4, 3: 1, 7: 3}),  # twice for noise, once mirrored, mixed; 3; all kinds
        (lambda m, x: x.mT.flatten(0, 1), {2: 30, 3: 1}),
    ],
)
def test_a_report_meets_every_kind_of_input(body: Any, sizes: dict[int, int]) -> None:
    seen: list[int] = []
    blank: list[bool] = []

    def forward(m: Any, x: Tensor) -> Tensor:
        seen.append(len(x))
        blank.append(bool((x == 0).all((1, 2)).any()))
        return body(m, x)

    check_equivariance(Net(forward), EXAMPLE)
    assert any(blank)
    assert {*seen} == {*sizes}


# --- verifications ---


def found(**how: Any) -> Verification:
    usual: dict[str, Any] = {
        "error": 0.0, "tolerance": 1e-9, "dtype": torch.float64, "varied": True, "modes": "eval mode", "cause": None,
        "held": False,
    }  # fmt: skip
    return Verification(**{**usual, **how})


def test_when_a_verification_passed() -> None:
    assert found().passed
    assert found(error=1e-9).passed
    for how in ({"error": 1.1e-9}, {"varied": False}, {"cause": "state"}, {"error": INF}):
        assert not found(**how).passed


def test_a_verification_in_words() -> None:
    assert str(found()) == "error 0.0e+00 in float64 on randomised parameters, eval mode (tolerance 1e-09)"
    said = str(found(held=True, own="1.0e-04 in float32"))
    assert said.endswith("(tolerance 1e-09); 1.0e-04 in float32; in distribution, with random numbers held")


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"cause": "noise"}, "draws random numbers in eval mode"),
        ({"cause": "state"}, "computes something else at every call"),
        ({"cause": "precision"}, "cannot be verified at this precision"),
        ({"cause": "samples"}, "samples of one batch influence each other"),
        ({"cause": "dtype"}, "not equivariant in its own precision"),
        ({"cause": "runs of one base"}, "not equivariant on some input: runs of one base"),
        ({"error": INF}, "infinite or undefined outputs"),
        ({"varied": False}, "do not depend on the sequence"),
        ({"error": INF, "varied": False, "cause": "noise"}, "draws random numbers"),
    ],
)
def test_why_a_verification_says_nothing(how: dict[str, Any], what: str) -> None:
    error = undecided(found(**how))
    assert error is not None
    assert what in error.what
    assert error.why
    assert error.do


def test_a_plain_failure_says_no_more() -> None:
    assert undecided(found(error=1.0)) is None
    assert undecided(found()) is None


def test_which_draws_are_put_aside() -> None:
    check = _Check(Law(probe_of(lambda m, x: x), []), False, 2, 0.0, True)
    check.law.actions, check.law.usual = {0: [None], -2: [None]}, {0: 1.0, 1: 3.0}
    check.law.errors, check.law.entries = {(0, 0, False): 1.0, (-2, 0, True): 0.5}, {0: 3, -2: 3}
    assert not check._put_aside()  # not for precision
    check.cause = "precision"
    assert check._put_aside()
    assert check.aside == [(1.0, {0: 1.0, -2: 3.0})]
    assert check.cause is None
    assert check.law.errors == {}
    check.aside *= 3
    check.cause = "precision"
    assert not check._put_aside()
    one = _Check(check.law, False, 1, 0.0, True)
    one.cause = "precision"
    assert not one._put_aside()


def test_what_is_known_to_be_rounding_raises_the_limit() -> None:
    law = Law(probe_of(lambda m, x: x), [])
    assert _Check(law, True, 2, 0.0, True).limit == 1e-9
    assert _Check(law, True, 2, 1e-6, True).limit == 1e-6
    assert _Check(law, True, 2, 1e-12, True).limit == 1e-9


def test_a_model_that_forgets_half_of_the_law_has_not_passed() -> None:
    specs, actions = input_actions(EXAMPLE, "ACGT", "auto")
    invariant = [Action((ax.batch(2),))]
    before = torch.get_rng_state()
    broken = verify(Net(lambda m, x: x[:, 0].sum(-1)), EXAMPLE, specs, actions, invariant)
    assert not broken.passed
    assert broken.cause is None
    assert undecided(broken) is None
    train = verify(
        Net(lambda m, x: x[:, 0 if m.training else slice(None)].flatten(1).sum(-1)), EXAMPLE, specs, actions, invariant
    )
    assert not train.passed
    fine = verify(
        Net(lambda m, x: x[:, 0].sum(-1) + (0 if m.training else x[:, 3].sum(-1))),
        EXAMPLE, specs, actions, invariant, training=False,
    )  # fmt: skip
    assert fine.passed
    assert fine.modes == "eval mode"
    assert torch.equal(torch.get_rng_state(), before)


# --- how a check goes on ---


def check_of(monkeypatch: pytest.MonkeyPatch, body: Any = lambda m, x: x.sum((1, 2)), draws: int = 2) -> Any:
    """A check, and what it measures: seeds, kinds, and modes."""
    check = _Check(Law(probe_of(body), lambda i, s: [Action((ax.batch(2),))]), True, draws, 0.0, True)
    check.measured = []  # type: ignore[attr-defined]
    usual = Law.measure

    def measure(law: Law, seed: int, kinds: Any, **how: Any) -> Any:
        check.measured.append((seed, tuple(kinds), bool(how.get("training"))))  # type: ignore[attr-defined]
        return usual(law, seed, kinds, **how)

    monkeypatch.setattr(Law, "measure", measure)
    return check


@pytest.mark.parametrize(
    ("stepped", "discrete", "looked_at"),
    [
        ({0: True}, False, [0]),
        ({0: False}, False, []),
        ({0: False, 1: True}, False, [1]),
        ({0: False, 1: True}, True, [1, 0]),
        ({i: True for i in range(6)}, False, [0, 1, 2, 3]),
    ],
)
def test_jumps_are_looked_for_where_outputs_step(
    stepped: Any, discrete: bool, looked_at: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    check, seen = check_of(monkeypatch, lambda m, x: (x.sum((1, 2)),) * 6), list[Any]()
    monkeypatch.setattr(verify_module, "beside_jumps", lambda probe, drawn, i, at: seen.append((i, at)) or iter([None]))
    check.law.stepped, check.probe.discrete = stepped, discrete
    check.law.batches = dict.fromkeys(range(6), 0)
    check._measure_jumps()
    assert seen == [(i, (0, sample)) for i in looked_at for sample in (3, 0, 3, 0)]
    assert [m[:2] for m in check.measured] == [(0, ("random",) * 4)] * len(seen)


def test_each_draw_has_other_weights_and_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    check = check_of(monkeypatch, draws=1)
    check.run()
    assert {m[1] for m in check.measured} == {("random", "padded")}
    assert {m[2] for m in check.measured} == {False, True}
    assert len({m[0] for m in check.measured}) == 1
    check.measured.clear()
    two = check_of(monkeypatch)
    two.run()
    assert {kind for m in two.measured for kind in m[1]} >= {*KINDS}
    assert two.found().passed
    assert two.probe.perturbed >= {0, 1, 2, 3}


def stub(draws: int = 2, **law: Any) -> Any:
    """A check of a law whose answers are given."""
    check = _Check(Law(probe_of(lambda m, x: x), []), True, draws, 0.0, True)
    usual: dict[str, Any] = {"all_depend": lambda: True, "all_alive": lambda: True, "error": lambda modes=(): 0.0}
    for name, value in {**usual, "any_batch": True, **law}.items():
        setattr(check.law, name, value)
    return check


@pytest.mark.parametrize(
    ("draws", "law", "probe", "enough"),
    [
        (2, {}, {}, 2),  # all kinds in one batch: as many draws as were asked for
        (2, {"any_batch": False}, {}, 4),  # a few kinds in each
        (1, {"any_batch": False}, {}, 4),
        (2, {"all_depend": lambda: False}, {}, 16),
        (2, {"all_alive": lambda: False}, {}, 6),  # four more
        (1, {"all_alive": lambda: False}, {}, 1),
        (2, {"any_batch": False, "all_alive": lambda: False}, {}, 4),
        (2, {}, {"discrete": True}, 8),  # numbers may tie
        (1, {}, {"discrete": True}, 1),
    ],
)
def test_how_many_draws_are_enough(draws: int, law: Any, probe: Any, enough: int) -> None:
    check = stub(draws, **law)
    for name, value in probe.items():
        setattr(check.probe, name, value)
    assert next(seed for seed in range(40) if check._is_enough(seed, 4)) == enough


def test_a_batch_of_all_kinds_that_is_refused_counts_as_not_met() -> None:
    def refuse(*given: Any, **how: Any) -> Any:
        raise ConversionError("what", why="why", do="do")

    check = stub(measure=refuse)
    assert check.met_all
    check._widen(0)
    assert not check.met_all
    seen: list[Any] = []
    for seed, error, expected in ((0, 0.0, 2), (1, 0.0, 1), (0, 1.0, 1)):
        check = stub(error=lambda modes=(), error=error: error)
        check._measure = lambda seed, kinds: seen.append([*kinds])
        seen.clear()
        check._widen(seed)
        assert seen == [[*KINDS], ["run", "again"]][:expected]


def test_weights_of_a_draw_are_like_the_models_or_others() -> None:
    moved: list[tuple[int, bool]] = []
    for seed, depends, used, expected in (
        (0, True, set(), (0, False)), (3, True, set(), (3, False)), (3, False, set(), (3, True)),
        (3, False, {3, 7}, (8, True)), (1, False, {1}, (1, False)), (3, True, {3}, (3, False)),
    ):  # fmt: skip
        check = stub(all_depend=lambda depends=depends: depends)
        check.probe.perturbed = used
        check.probe.perturb = lambda seed, anew: moved.append((seed, anew))
        check._perturb(seed)
        assert moved[-1] == expected
    for needed, how in ((False, {}), (True, {"aside": [1]}), (True, {"dead": True})):
        check = stub(all_alive=lambda how=how: "dead" not in how)
        check.aside = how.get("aside", [])
        assert check._needs_others() is needed
    check = stub()
    check.probe.discrete = True
    assert check._needs_others()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("one value\nonly"), "eval mode only (train mode: one value)"),
        (RuntimeError("no"), "eval mode only (train mode: no)"),
    ],
)
def test_a_train_mode_that_fails_is_left_out_and_named(error: Exception, words: str) -> None:
    def fail(*given: Any, **how: Any) -> Any:
        raise error

    check = stub(measure=fail)
    check.law.errors = {(0, 0, True): 1.0, (0, 0, False): 0.5}
    check._train(3, ["random"])
    assert (check.modes, check.training) == (words, False)
    assert check.law.errors == {(0, 0, False): 0.5}
    assert check.last == (3, ["random"])


def test_what_is_no_bases_is_left_out_where_a_model_refuses_it() -> None:
    asked: list[list[str]] = []

    def only_bases(seed: int, kinds: Any, **how: Any) -> Any:
        asked.append([*kinds])
        if {*kinds} != {"random"}:
            raise ValueError
        return ["y"]

    check = stub(measure=only_bases, vary=lambda *given: None, find_batches=lambda forward: None)
    assert check._measure(5, ["soft", "random"]) == ["random", "random"]
    assert asked == [["soft", "random"], ["random", "random"]]
    assert (check.last, check.forward) == ((5, ["random", "random"]), ["y"])

    def never(seed: int, kinds: Any, **how: Any) -> Any:
        raise ValueError("none")

    with pytest.raises(ValueError, match="none"):
        stub(measure=never)._measure(5, ["random", "random"])


@pytest.mark.parametrize(
    ("error", "rounding", "on_bases", "cause", "limit"),
    [
        (1e-8, 2e-8, 0.0, None, 2e-8),  # rounding: the limit is raised
        (1e-7, 1e-3, 0.0, None, 1e-6),  # up to a cap
        (1e-3, 1e-2, 1.0, "precision", 1e-9),
        (1e-3, 1e-5, 1.0, None, 1e-9),  # a fault on bases too
        (1e-3, 1e-5, 0.0, "runs of one base", 1e-9),
    ],
)
def test_what_a_deviation_is_put_down_to(
    error: float, rounding: float, on_bases: float, cause: str | None, limit: float
) -> None:
    check = stub(error=lambda modes=(): error, rounding=lambda *given, **how: rounding)
    check._error_on = lambda seed, kinds, in_eval: (1.0 if "run" in kinds else 0.0) if on_bases == 0.0 else on_bases
    assert check._cause(0, ["random", "run", "soft"], True) == cause
    assert check.limit == limit


def test_samples_are_blamed_where_nothing_else_fails() -> None:
    check = stub(error=lambda modes=(): 1e-3, rounding=lambda *given, **how: 1e-5)
    check._error_on = lambda seed, kinds, in_eval: 0.0
    check._is_by_samples = lambda seed, samples: True
    assert check._cause(0, ["random", "run"], True) == "samples"
    assert check._cause(0, ["random", "run"], False) is None
    check._is_by_samples = lambda seed, samples: False
    assert check._cause(0, ["random", "run", "blank"], True) == "runs of one base, no bases at all (all zero)"


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, ["own", "widen", "train"]),
        ({"any_batch": False}, ["own", ("run", "again"), "train"]),
        ({"any_batch": False, "seed": 1}, ["own", "train"]),
        ({"widened": True, "seed": 1}, ["own", "train"]),
        ({"widened": True, "discrete": True, "seed": 1}, ["own", "widen", "train"]),
        ({"widened": True, "discrete": True, "seed": 8}, ["own", "train"]),
        ({"alive": False}, ["own", "widen", ("random",) * 4, "train"]),
        ({"training": False}, ["own", "widen"]),
        ({"draws": 1}, ["own", "train"]),
        ({"begun": True}, ["around", "widen", "train"]),
        ({"error": 1.0}, ["own"]),
    ],
)
def test_what_one_draw_measures(how: Any, expected: list[Any]) -> None:
    seen: list[Any] = []
    check = stub(
        how.get("draws", 2),
        any_batch=how.get("any_batch", True),
        all_alive=lambda: how.get("alive", True),
        error=lambda modes=(): how.get("error", 0.0),
    )
    seed = how.get("seed", 0)
    own = check.law.own_kinds(seed)
    check.widened, check.probe.discrete = how.get("widened", False), how.get("discrete", False)
    check.training = how.get("training", True)
    check._measure = lambda seed, kinds: seen.append("own" if kinds == own else tuple(kinds)) or kinds
    check._look_around = lambda: seen.append("around") or own
    check._widen = lambda seed: seen.append("widen")
    check._train = lambda seed, kinds: seen.append("train")
    assert check._draw(seed, begun=how.get("begun", False)) is ("error" not in how)
    assert seen == expected


def test_norms_are_fed_where_an_output_does_not_depend_on_the_sequence() -> None:
    seen: list[Any] = []
    check = stub(all_depend=lambda: False, any_batch=False)
    check._measure = lambda seed, kinds: seen.append(tuple(kinds)) or kinds
    check._widen = check._train = lambda *given: None
    for fed in (True, False):
        check.probe.feed_norms = lambda fed=fed: fed
        seen.clear()
        check._draw(7)
        assert seen == [("random", "padded")] * (1 + fed)
