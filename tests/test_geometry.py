"""Re-anchoring: converted once, exact at every length; the stock operators where nothing needs it."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
import types
import warnings
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from geometry_steps import STEPS, Does, Holder, random_stack
from tiers import some
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rcps_convert import bake, convert_model, plan_conversion
from rcps_convert.errors import BreaksSymmetryError
from rcps_convert.geometry import (
    Anchored,
    Recorder,
    Table,
    UnplannedCallError,
    anchor,
    anchored,
    forwards_of,
    unanchor,
)
from rcps_convert.graph.sandbox import fresh_copy

EXAMPLE = torch.zeros(2, 4, 61)

TOLERANCE = 1e-10
"""Largest deviation relative to the outputs, in float64."""


def bases(length: int, n: int = 2, seed: int = 0) -> Tensor:
    """Random one-hot DNA, (N, 4, L), float64."""
    generator = torch.Generator().manual_seed(seed + length)
    ids = torch.randint(4, (n, length), generator=generator)
    return F.one_hot(ids, 4).transpose(1, 2).double()


def error(model: nn.Module, x: Tensor) -> float:
    """How far an invariant model is from the law, relative to its outputs."""
    with torch.no_grad():
        forward, reverse = model(x), model(x.flip(1, 2))
    return float((forward - reverse).abs().max() / forward.abs().max())


def plain_twin(converted: nn.Module, plain: nn.Module) -> nn.Module:
    """The plain class with the converted weights."""
    twin = fresh_copy(plain)
    twin.load_state_dict(bake(converted).state_dict(), strict=True)
    return twin.eval()


# --- every step, every length ---------------------------------------------------------------------


@pytest.mark.parametrize("number", some(range(len(STEPS)), 5), ids=list(STEPS))
def test_a_step_is_exact_at_every_length_and_untouched_where_it_is_aligned(number: int) -> None:
    name = list(STEPS)[number]
    channels = 6 if number % 2 or "group" in name else 5
    torch.manual_seed(number)
    model = Holder([name], channels).double()
    plan = plan_conversion(model, EXAMPLE.double(), verify=False)
    assert not plan.problems, str(plan.problems[0])
    assert plan.calls
    converted = plan.apply(model)
    converted.train()(bases(64, 8))  # statistics that are not those of a new network
    stock, baked = plain_twin(converted, model), bake(converted).eval()
    broken = []
    for length in range(56, 66):
        x = bases(length)
        broken.append(error(stock, x))
        for reader in (converted.train(), converted.eval(), baked):
            assert error(reader, x) < TOLERANCE, (length, reader.training)
        if length in plan.valid_lengths(56, 66):
            assert torch.equal(converted.eval()(x), baked(x)) or "pool" in name
            assert torch.equal(baked(x), stock(x))
    assert max(broken) > 1e-6, "the step is no test: nothing breaks without the second reading"


def stack_is_exact(seed: int, lengths: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    while not runs(model := stack(rng), bases(90)):
        pass  # some stacks leave less than a kernel of the shortest length
    start = rng.randint(90, 160)
    converted = convert_model(model, torch.zeros(2, 4, start).double(), verify=False)
    converted.train()(bases(start, 8))
    for _ in range(lengths):
        length, training = rng.randint(90, 200), rng.random() < 0.5
        assert error(converted.train(training), bases(length, seed=seed)) < TOLERANCE, (model, start, length)


def stack(rng: random.Random) -> nn.Module:
    names = random_stack(rng)
    return Holder(names, rng.choice([4, 5, 6, 8]) if not any("group" in n for n in names) else 6).double()


def runs(model: nn.Module, x: Tensor) -> bool:
    try:
        model(x)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("seed", some(range(8), 1))
def test_random_stacks_are_exact_at_random_lengths(seed: int) -> None:
    stack_is_exact(seed, lengths=10)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 600))
def test_many_random_stacks_are_exact_at_random_lengths(seed: int) -> None:
    stack_is_exact(seed, lengths=10)


# --- forwards that differ between lengths ------------------------------------------------------------


class UNet(nn.Module):
    """Halves the length three times and pads what does not fit on the way up, as most U-Nets do."""

    def __init__(self) -> None:
        super().__init__()
        widths = (4, 6, 8, 10, 12)
        self.down = nn.ModuleList(nn.Conv1d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose1d(b, a, 2, stride=2) for a, b in ((10, 12), (8, 10), (6, 8)))
        self.join = nn.ModuleList(nn.Conv1d(2 * a, a, 3, padding=1) for a in (10, 8, 6))
        self.out = nn.Conv1d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, h = [], x
        for conv in self.down:
            h = conv(h if not kept else F.max_pool1d(h, 2)).tanh()
            kept.append(h)
        for up, join, skip in zip(self.up, self.join, kept[-2::-1], strict=True):
            h = up(h)
            lacking = skip.shape[-1] - h.shape[-1]
            if lacking:
                h = F.pad(h, (lacking // 2, lacking - lacking // 2))
            h = join(torch.cat([skip, h], 1)).tanh()
        return self.out(h)


def test_a_branch_taken_at_other_lengths_only_is_analysed_too() -> None:
    converted = convert_model(UNet().double(), torch.zeros(2, 4, 64).double(), outputs="+-", verify=False).eval()
    for length in range(60, 84):
        x = bases(length)
        with torch.no_grad():
            y, other = converted(x), converted(x.flip(1, 2))
        assert y.shape[-1] == length
        assert (other - y.flip(1, 2)).abs().max() < TOLERANCE * y.abs().max(), length


class MaskedPool(nn.Module):
    """Attention over pairs of positions; an odd one out is padded, and the padding masked."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logits = nn.Linear(channels, channels, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        rest = h.shape[-1] % 2
        mask = torch.zeros(h.shape[-1], dtype=torch.bool)
        if rest:
            h, mask = F.pad(h, (0, rest)), F.pad(mask, (0, rest), value=True)
        h = h.unflatten(-1, (-1, 2))
        scores = self.logits(h.movedim(1, -1)).movedim(-1, 1)
        if rest:
            scores = scores.masked_fill(mask.unflatten(-1, (-1, 2)), -1e9)
        return (h * scores.softmax(-1)).sum(-1)


@pytest.mark.parametrize("stride", some([1, 2], 1))
def test_a_way_without_a_solution_is_refused_when_it_is_taken(stride: int) -> None:
    """The example does not take it, so that it does not stand in the way of the conversion."""

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = nn.Conv1d(4, 6, 3, padding=1, stride=stride), MaskedPool(6)
            self.out = nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.pool(self.conv(x)).relu().mean(-1))

    plan = plan_conversion(Attends().double(), torch.zeros(2, 4, 64).double())
    assert any("takes another way: a constant made in forward is not invariant" in note for note in plan.notes)
    converted = plan.apply(Attends().double())
    for length in range(57, 72):
        if -(-length // stride) % 2:
            with pytest.raises(UnplannedCallError, match="a branch of forward ran that was not traced"):
                converted(bases(length))
        else:
            assert error(converted, bases(length)) < TOLERANCE


class Switch(nn.Module):
    """Crops when told to."""

    crop = False

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, 6, 3, stride=2), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.out((h[:, :, 1:] if self.crop else h).mean(-1))


def test_a_branch_that_was_not_traced_is_refused_when_it_runs() -> None:
    converted = convert_model(Switch(), EXAMPLE)
    converted.crop = True
    with pytest.raises(UnplannedCallError, match=r"getitem is called on a tensor of shape \(\d+, 6, 30\)"):
        converted(EXAMPLE)
    converted.crop = False
    assert converted(EXAMPLE).shape == (2, 1)


def test_a_position_by_number_is_read_in_the_middle_only() -> None:
    class Middle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 1, 3, padding=1)
            self.fine = nn.Conv1d(4, 1, 3, padding=1, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)[:, :, 30] + self.fine(x).mean(-1)

    converted = convert_model(Middle().double(), EXAMPLE.double())
    assert error(converted, bases(61)) < TOLERANCE
    with pytest.raises(BreaksSymmetryError, match=r"position 30 of \d+ is read"):
        converted(bases(63))


def test_a_length_that_is_cut_at_other_lengths_only_is_refused_there() -> None:
    class Chunks(Switch):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.stack([c.mean(-1) for c in self.conv(x).split(30, -1)]).sum(0))

    converted = convert_model(Chunks().double(), EXAMPLE.double())
    assert error(converted, bases(61)) < TOLERANCE
    with pytest.raises(BreaksSymmetryError, match="split cuts a length of 31"):
        converted(bases(64))


class Checkpointed(nn.Module):
    """A checkpointed block, and a checkpointed function."""

    def __init__(self, function: bool) -> None:
        super().__init__()
        self.conv, self.block, self.out = nn.Conv1d(4, 6, 5), Does(self.pool), nn.Linear(6, 1)
        self.as_function = function

    @staticmethod
    def pool(h: Tensor) -> Tensor:
        return F.max_pool1d(h, 4).tanh()

    def forward(self, x: Tensor) -> Tensor:
        what = self.pool if self.as_function else self.block
        return self.out(checkpoint(what, self.conv(x), use_reentrant=False).mean(-1))


def test_a_checkpointed_block_is_re_anchored_in_the_backward_pass_too() -> None:
    converted = convert_model(Checkpointed(function=False).double(), EXAMPLE.double())
    x = bases(62).requires_grad_()
    (forward,) = torch.autograd.grad(converted(x).sum(), x)
    (reverse,) = torch.autograd.grad(converted(x.flip(1, 2)).sum(), x)
    torch.testing.assert_close(reverse, forward, rtol=1e-10, atol=1e-12)


def test_a_checkpointed_function_must_be_aligned() -> None:
    (problem,) = plan_conversion(Checkpointed(function=True), EXAMPLE).problems
    assert "57 = 4*14 + 1" in str(problem)
    converted = convert_model(Checkpointed(function=True), torch.zeros(2, 4, 64))
    with pytest.raises(BreaksSymmetryError, match="an input of 62 positions"):
        converted(torch.zeros(2, 4, 62))


# --- which channels take which reading ------------------------------------------------------------


def test_one_pool_for_channels_that_are_swapped_in_several_ways_takes_the_mean() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.pool = nn.Conv1d(4, 6, 5), nn.Conv1d(4, 3, 5), nn.MaxPool1d(3)
            self.mix, self.out = nn.Conv1d(6, 3, 1), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            first = self.mix(self.pool(self.a(x)).tanh())
            second = self.pool(torch.cat([self.b(x), self.b(x) ** 2], 1))
            return self.out(torch.cat([first, first], 1).tanh().mean(-1) + second.mean(-1))

    converted = convert_model(Shared().double(), EXAMPLE.double(), verify=False)
    assert max(error(converted, bases(n)) for n in range(58, 66)) < TOLERANCE


def test_bases_are_split_between_the_edges_and_the_plan_says_so() -> None:
    class Cropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 6, 5), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.conv(F.pad(x[:, :, 3:], (0, 1))).relu().mean(-1))

    plan = plan_conversion(Cropped(), EXAMPLE)
    assert any("half of the bases" in note for note in plan.notes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = plan.apply(Cropped().double())
    assert max(error(converted, bases(n)) for n in range(58, 66)) < TOLERANCE


@pytest.mark.parametrize("conv", [nn.Conv1d(4, 6, 8, padding="same"), nn.Conv1d(4, 6, 5, stride=3)])
def test_a_convolution_of_the_bases_does_not_split_them(conv: nn.Module) -> None:
    plan = plan_conversion(nn.Sequential(conv, nn.ReLU(), nn.Conv1d(6, 2, 1)), torch.zeros(2, 4, 61))
    assert any(not call.aligned for call in plan.calls)
    assert plan.notes == []


def test_a_crop_whose_readings_lie_far_apart_is_noted() -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 5, padding=2), Does(lambda h: h[..., 20:]), nn.AdaptiveAvgPool1d(1))
    plan = plan_conversion(model, EXAMPLE, outputs="invariant")
    assert any("20 positions apart" in note for note in plan.notes)


def test_constants_are_read_as_they_are() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 6, 5, stride=2, padding=2), nn.Linear(6, 1)
            self.register_buffer("bins", torch.arange(8.0))

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            return self.out((h[..., 1:] * self.bins[2:3]).mean(-1)) * self.bins[1:].sum()

    converted = convert_model(Weighted().double(), EXAMPLE.double(), verify=False)
    assert max(error(converted, bases(n)) for n in range(58, 66)) < TOLERANCE


def test_learned_positions_cut_to_length_are_read_from_both_edges() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 6, 5, padding=2), nn.Linear(6, 1)
            self.at = nn.Parameter(torch.randn(6, 100))

        def forward(self, x: Tensor) -> Tensor:
            return self.out((self.conv(x) + self.at[:, : x.shape[-1]]).tanh().mean(-1))

    converted = convert_model(Positions().double(), EXAMPLE.double())
    assert max(error(converted, bases(n)) for n in (50, 61, 99, 100)) < TOLERANCE


# --- what stays as it was ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def converted() -> nn.Module:
    torch.manual_seed(3)
    names = ["strided conv", "overlapping max pool", "replication pad", "even same conv"]
    return convert_model(Holder(names).double(), EXAMPLE.double(), verify=False).eval()


def test_class_keys_and_names_stay(converted: nn.Module) -> None:
    assert type(converted) is Holder
    assert any(isinstance(forward, Anchored) for forward in forwards_of(converted))
    assert converted.forward.__name__ == "forward"
    baked = bake(converted)
    plain = Holder(["strided conv", "overlapping max pool", "replication pad", "even same conv"])
    assert baked.state_dict().keys() == plain.state_dict().keys()
    assert [type(m) for m in baked.modules()] == [type(m) for m in plain.modules()]


def test_copies_are_bound_to_themselves(converted: nn.Module) -> None:
    twin = copy.deepcopy(converted)
    assert all(forward.module is m for m in twin.modules() for forward in forwards_of(m))
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(1.5)
    x = bases(62)
    assert not torch.allclose(twin(x), converted(x))
    assert error(twin, x) < TOLERANCE


def test_a_baked_model_can_be_pickled_and_converted_again(converted: nn.Module) -> None:
    baked = bake(converted)
    again = pickle.loads(pickle.dumps(baked))
    assert torch.equal(again(bases(62)), baked(bases(62)))
    torch.testing.assert_close(baked(bases(62)), converted(bases(62)), rtol=1e-10, atol=1e-12)
    second = convert_model(again, EXAMPLE.double(), verify=False).eval()
    torch.testing.assert_close(second(bases(62)), baked(bases(62)), rtol=1e-10, atol=1e-12)


@pytest.mark.slow  # `test_transforms` compiles and exports a model both of whose readings matter
def test_compiles_whole_and_exports(converted: nn.Module) -> None:
    compiled = torch.compile(converted, fullgraph=True, backend="aot_eager")
    for length in (61, 62, 64):
        x = bases(length)
        torch.testing.assert_close(compiled(x), converted(x), rtol=1e-10, atol=1e-12)
        program = torch.export.export(converted, (x,), strict=False)
        torch.testing.assert_close(program.module()(x), converted(x), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("length", [40, 42])
def test_a_graph_that_forward_breaks_keeps_both_readings(length: int) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.out = nn.Conv1d(4, 8, 5), nn.Conv1d(8, 8, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = F.max_pool1d(self.first(x), 3).relu()
            torch._dynamo.graph_break()
            return self.out(F.max_pool1d(self.second(h), 4).relu().mean(-1))

    torch.manual_seed(0)
    model = convert_model(Broken(), torch.zeros(2, 4, length), verify=False).double().eval()
    x = torch.randn(2, 4, length, dtype=torch.float64)
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        assert torch.allclose(compiled(x), model(x), rtol=0, atol=1e-12)
        assert torch.allclose(compiled(x.flip(1, 2)), compiled(x), rtol=0, atol=1e-12)
    with suppress(BreaksSymmetryError):  # shows our own calls to the module again: refused, or as it is
        assert torch.allclose(torch.compile(model, backend="eager")(x), model(x), rtol=0, atol=1e-12)


def test_autocast_keeps_both_readings(converted: nn.Module) -> None:
    model = copy.deepcopy(converted).float()
    with torch.autocast("cpu", torch.bfloat16):
        y, other = model(bases(62).float()), model(bases(62).flip(1, 2).float())
    assert (y - other).abs().max() < 0.05 * y.abs().max()


def test_gradients_obey_the_law(converted: nn.Module) -> None:
    x = bases(62).requires_grad_()
    (forward,) = torch.autograd.grad(converted(x).sum(), x)
    (reverse,) = torch.autograd.grad(converted(x.flip(1, 2)).sum(), x)
    torch.testing.assert_close(reverse, forward, rtol=1e-10, atol=1e-12)


def test_an_optimiser_built_before_conversion_in_place_trains_it() -> None:
    model = Holder(["strided conv", "max pool"]).double()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    converted = convert_model(model, EXAMPLE.double(), in_place=True, verify=False)
    assert converted is model
    before = converted.eval()(bases(62))
    for _ in range(3):
        optimiser.zero_grad()
        converted.train()(bases(62, 6)).square().mean().backward()
        optimiser.step()
    assert not torch.allclose(converted.eval()(bases(62)), before)
    assert max(error(converted, bases(n)) for n in (60, 61, 62, 63)) < TOLERANCE


def test_a_forward_of_the_users_own_on_the_instance_stays() -> None:
    model = Holder(["max pool"]).double()
    model.forward = types.MethodType(lambda self, x: type(self).forward(self, x) * 2, model)  # type: ignore[method-assign]
    converted = convert_model(model, EXAMPLE.double(), verify=False).eval()
    once = bake(converted)(bases(62))
    assert error(converted, bases(62)) < TOLERANCE
    unanchor(converted)
    assert not any(isinstance(forward, Anchored) for forward in forwards_of(converted))
    twice = plain_twin(converted, Holder(["max pool"]).double())(bases(60)) * 2
    torch.testing.assert_close(converted(bases(60)), twice)
    assert once.shape == twice.shape


def test_models_without_edges_are_left_alone() -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    plan = plan_conversion(model, EXAMPLE)
    assert not plan.tables
    assert not anchored(plan.apply(model))
    assert not any("forward" in m.__dict__ for m in bake(plan.apply(model)).modules())


def test_the_plan_lists_calls_with_their_arithmetic() -> None:
    text = str(plan_conversion(Holder(["max pool", "causal average"]), torch.zeros(2, 4, 993)))
    assert "993 = 4*248 + 1; the first half of the channels reads from the left edge" in text
    assert "steps.0 (" in text
    assert "pads 4 positions on the left and 0 on the right" in text
    assert "verified at lengths 496, 497, 989, 994, 1986 too" in text


def test_the_recorder_marks_nothing_that_reads_both_edges_alike() -> None:
    with Recorder() as recorder:
        h = F.conv1d(torch.zeros(1, 4, 9), torch.zeros(2, 4, 3), padding=1)
        F.pad(h, (2, 2))[..., :]
        F.max_pool1d(h, 3, stride=1, padding=1)
        F.interpolate(h, size=5, mode="linear", align_corners=True)
    assert not recorder.calls


def test_a_module_of_two_names_has_the_calls_of_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Conv1d(4, 6, 5), nn.Conv1d(6, 8, 3), nn.Linear(8, 1)
            self.first = self.second = nn.MaxPool1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.second(self.b(self.first(self.a(x)))).mean(-1))

    converted = convert_model(Twice().double(), EXAMPLE.double())
    assert max(error(converted, bases(n)) for n in range(58, 66)) < TOLERANCE


@pytest.mark.parametrize("flag", ["free", "strict", "lengths"])
@pytest.mark.parametrize("names", ["ab", "ba"])
def test_what_holds_for_a_module_by_one_of_its_names_holds_for_it(flag: str, names: str) -> None:
    model = nn.ModuleDict({"a": (pool := nn.MaxPool1d(3)), "b": pool})
    value = ((3, 0),) if flag == "lengths" else True
    anchor(model, {name: Table(name, **({flag: value} if name == "a" else {})) for name in names})
    (found,) = {id(t): t for t in anchored(model).values()}.values()
    assert getattr(found, flag) == value


def test_another_number_of_samples_is_no_other_call() -> None:
    class Stacked(nn.Module):
        """The batch is an axis that reshaping has made anonymous."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 6, 5), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.stack([self.conv(x), -self.conv(x)])
            return self.out(F.max_pool1d(h.flatten(0, 1), 3).unflatten(0, (2, -1)).sum(0).mean(-1))

    converted = convert_model(Stacked().double(), EXAMPLE.double())
    assert max(error(converted, bases(n, samples)) for n in (60, 61, 62) for samples in (1, 2, 5)) < TOLERANCE
