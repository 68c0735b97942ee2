"""Models that read a length from either end by layers of their own: the two readings change places, or are refused."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from by_hand import bases, mirror, worst
from lawful import assert_exact
from models import directions
from models.family import Family
from oracle import Signs
from tiers import chosen, some
from torch import Tensor, nn

from rcps_convert import ConversionError, ConversionPlan, OneHot, Tracks, convert_model, plan_conversion
from rcps_convert.graph.export import trace
from rcps_convert.infer.sums import with_results_once
from rcps_convert.measure.lengths import Variants
from rcps_convert.measure.runs import without_repeats

X = torch.zeros(2, 4, 20)


@functools.cache
def plan_of(make: Callable[[], nn.Module]) -> ConversionPlan:
    """The plan of a network in double precision, which several tests apply."""
    torch.manual_seed(0)
    plan = plan_conversion(make().double(), X.double(), **dict(directions.KINDS)[make])
    assert not plan.problems, str(plan)
    return plan


@pytest.mark.parametrize("init", some(["project", "keep"], 1))
@pytest.mark.parametrize(
    "family",
    chosen(directions.ZOO, lambda f: f.name in ("OneGru", "CausalThenRotated")),
    ids=[f.name for f in directions.ZOO],
)
def test_readings_from_either_end_change_places(family: Family, init: str) -> None:
    plan = replace(plan_of(family.make), init=init)
    torch.manual_seed(0)
    plain = family.make().double()
    assert_exact(plan.apply(plain), family.example.double(), lengths=(7, 13, 20, 33), **family.how)


@pytest.mark.parametrize("make", some([directions.TwoLstms, directions.TwoScans], 1))
def test_the_second_reading_s_weights_are_the_first_s_mirrored(make: Callable[[], nn.Module]) -> None:
    plan = plan_of(make)
    torch.manual_seed(0)
    plain = make().double()
    converted = plan.apply(plain)
    free = sum(p.numel() for p in converted.parameters())
    twice = sum(p.numel() for p in plain.left.parameters())
    assert free < sum(p.numel() for p in plain.parameters()) - twice + 1
    for name, p in plain.left.named_parameters():
        mine, other = converted.get_submodule("left"), converted.get_submodule("right")
        a, b = (m.get_parameter(name) if name in dict(m.named_parameters()) else get(m, name) for m in (mine, other))
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values)  # the same numbers in other places
        assert p.shape == a.shape


def get(module: nn.Module, name: str) -> Tensor:
    for part in name.split("."):
        module = getattr(module, part)
    return module  # type: ignore[return-value]


@pytest.mark.parametrize("make", some([directions.TwoLstms, directions.TwoScans], 1))
def test_training_saving_and_copying_keep_the_law(make: Callable[[], nn.Module], tmp_path: Any) -> None:
    plan, how = plan_of(make), dict(directions.KINDS)[make]
    torch.manual_seed(0)
    model = plan.apply(make().double())
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for seed in range(5):
        optimiser.zero_grad()
        model(bases(4, seed=seed)).square().mean().backward()
        optimiser.step()
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    again = plan.apply(make().double())
    again.load_state_dict(model.state_dict())
    x = bases(3, seed=9)
    turned = (lambda y: y.flip(1, 2)) if how else (lambda y: y)
    for other in (model.eval(), loaded.eval(), again.eval(), copy.deepcopy(model).eval()):
        with torch.no_grad():
            assert worst(other(mirror(x)), turned(other(x))) < 1e-10
            assert torch.equal(other(x), model(x))


# --- what is no reading from either end, and stays refused ---


class Refused(nn.Module):
    """Two recurrences, and a forward given as a function."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], wide: int = 6) -> None:
        super().__init__()
        self.steps = forward
        self.a, self.b = nn.GRU(4, 6, batch_first=True), nn.GRU(4, wide, batch_first=True)
        self.o = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Any:
        return self.steps(self, x.mT)


def one_alone(m: Any, h: Tensor) -> tuple[Tensor, Tensor]:
    a = m.a(h)[0]
    return m.o(a + m.b(h.flip(1))[0].flip(1)).mean(1), a


def no_like(m: Any, h: Tensor) -> Tensor:
    return m.o(m.a(h)[0] + m.b(h.flip(1) * 2)[0].flip(1)).mean(1)


def taken_from(m: Any, h: Tensor) -> Tensor:
    return m.o(m.a(h)[0].tanh() - m.b(h.flip(1))[0].flip(1).sigmoid()).relu().mean(1)


def behind(m: Any, h: Tensor) -> Tensor:
    z = torch.cat([m.a(h)[0], m.b(h.flip(1))[0].flip(1)], 1)
    return m.o(z.unflatten(1, (2, -1))[:, 0]).mean(1)


def read_twice(m: Any, h: Tensor) -> Tensor:
    a = m.a(h)[0]
    return m.o((a + m.b(h.flip(1))[0].flip(1)).mean(1) + a[:, -1])


@pytest.mark.parametrize("forward", some([one_alone, no_like, taken_from, behind, read_twice], 2))
def test_other_uses_of_two_recurrences_are_refused_or_exact(forward: Any) -> None:
    torch.manual_seed(0)
    with pytest.raises(ConversionError, match=r"one direction|both ends|readings"):
        convert_model(Refused(forward), X)


def test_recurrences_of_unlike_sizes_are_refused() -> None:
    def forward(m: Any, h: Tensor) -> Tensor:
        return m.a(h)[0].mean((1, 2)) + m.b(h.flip(1))[0].flip(1).mean((1, 2))

    with pytest.raises(ConversionError, match="one direction"):
        convert_model(Refused(forward, wide=5), X)


def test_the_two_readings_may_be_taken_further_before_they_meet() -> None:
    """What is done to both alike, before the second is turned back, is part of the readings."""

    def forward(m: Any, h: Tensor) -> Tensor:
        a, b = m.a(h)[0], m.b(h.flip(1))[0]
        a, b = (m.o(t.tanh()).softmax(-1) for t in (a, b))
        return torch.maximum(a, b.flip(1)).mean(1)

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_model(Refused(forward).double(), X.double(), verify=False)
    assert_exact(model, X.double(), lengths=(9, 20))


def added_to_what_is_read(m: Any, h: Tensor) -> Tensor:
    h = m.wide(h)
    return m.o(h + m.a(h)[0] + m.b(h.flip(1))[0].flip(1)).mean(1)


def added_in_another_order(m: Any, h: Tensor) -> Tensor:
    h = m.wide(h)
    return m.o(m.b(h.flip(1))[0].flip(1) + h.square() + h + m.a(h)[0]).mean(1)


def times_a_gate(m: Any, h: Tensor) -> Tensor:
    h = m.wide(h)
    return m.o(h.sigmoid() * m.a(h)[0] * m.b(h.flip(1))[0].flip(1)).mean(1)


def dropped_and_scaled(m: Any, h: Tensor) -> Tensor:
    h = m.wide(h)
    a, b = (F.dropout(0.5 * t, 0.1, m.training) for t in (m.a(h)[0], m.b(h.flip(1))[0].flip(1)))
    return m.o(h + a + b).mean(1)


class Residual(Refused):
    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__(forward)
        self.wide = nn.Linear(4, 6)
        self.a, self.b = nn.GRU(6, 6, batch_first=True), nn.GRU(6, 6, batch_first=True)


@pytest.mark.parametrize(
    "forward", some([added_to_what_is_read, added_in_another_order, times_a_gate, dropped_and_scaled], 1)
)
def test_two_readings_meet_in_a_sum_of_several_terms(forward: Any) -> None:
    torch.manual_seed(0)
    model = convert_model(Residual(forward).double(), X.double(), verify=False)
    assert_exact(model, X.double(), lengths=(9, 20))


def seen_twice(m: Any, h: Tensor) -> Tensor:
    h = m.wide(h).mT
    return m.o(m.a(h.mT)[0] + m.b(h.mT.flip(1))[0].flip(1)).mean(1)


def exchanged_behind(m: Any, h: Tensor) -> Tensor:
    h = m.wide(h)
    first, second = m.a(h)[0].permute(0, 2, 1), m.b(h.flip(1))[0].flip(1).permute(0, 2, 1)
    return m.o((first * second).mean(-1))


def turned_before_it_is_exchanged(m: Any, h: Tensor) -> Tensor:
    h = m.wide(h).transpose(1, 2)
    first, second = (m.a(h.transpose(1, 2))[0], m.b(h.flip(2).transpose(1, 2))[0].flip(1))
    return m.o(torch.maximum(first.mT, second.mT).mT).mean(1)


@pytest.mark.parametrize("forward", some([exchanged_behind, seen_twice, turned_before_it_is_exchanged], 1))
def test_two_readings_of_what_is_transposed_for_each(forward: Any) -> None:
    torch.manual_seed(0)
    model = convert_model(Residual(forward).double(), X.double(), verify=False)
    assert_exact(model, X.double(), lengths=(9, 20))


def kept_too(m: Any, h: Tensor) -> Tensor:
    h = m.wide(h)
    z = h + m.a(h)[0]
    return m.o(z + m.b(h.flip(1))[0].flip(1)).mean(1) + z[..., :2].amax(1)


def scaled_apart(m: Any, h: Tensor) -> Tensor:
    h = m.wide(h)
    return m.o(h + 0.5 * m.a(h)[0] + 0.4 * m.b(h.flip(1))[0].flip(1)).mean(1)


@pytest.mark.parametrize("forward", some([kept_too, scaled_apart], 1))
def test_sums_in_which_one_reading_counts_more_are_refused(forward: Any) -> None:
    torch.manual_seed(0)
    with pytest.raises(ConversionError, match=r"one direction"):
        convert_model(Residual(forward), X, verify=False)


def from_either_end(m: Any, h: Tensor) -> Tensor:
    """Places are counted from either end: weights by place are learned ones."""
    z = (m.a(h)[0] + m.b(h.flip(1))[0]).tanh()
    return m.o((z * m.places[:, None]).sum(1) + z.cumsum(1)[:, 3])


@pytest.mark.parametrize("seed", some(range(2), 1))
def test_the_second_reading_may_stay_turned_round(seed: int) -> None:
    torch.manual_seed(seed)
    plain = Refused(from_either_end)
    plain.places = nn.Parameter(torch.randn(20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_model(plain.double(), X.double(), verify=False)
    assert_exact(model, X.double())
    assert "places" in dict(model.named_parameters())  # nothing about a place ties it to another one


# --- loops over positions ---------------------------------------------------------------------------------


class Looped(nn.Module):
    """A recurrence written as a loop over positions, from either end; the last axis or the first is turned back."""

    def __init__(self, turned: int = 2, joined: int = 1) -> None:
        super().__init__()
        self.turned, self.joined = turned, joined
        self.stem, self.out = nn.Conv1d(4, 4, 3, padding=1), nn.Linear(6, 2)
        self.left, self.right = nn.RNNCell(4, 3), nn.RNNCell(4, 3)

    def scan(self, cell: nn.Module, x: Tensor) -> Tensor:
        h, states = x.new_zeros(len(x), 3), []
        for t in range(x.shape[-1]):
            h = cell(x[..., t], h)
            states.append(h)
        return torch.stack(states, self.turned)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x))
        pair = [self.scan(self.left, h), self.scan(self.right, h.flip(2)).flip(self.turned)]
        y = torch.cat(pair, self.joined)
        return self.out(y.movedim((self.turned, self.joined), (1, 2)))


@pytest.mark.parametrize(("turned", "joined"), some([(2, 1), (0, 2)], 1))
def test_a_loop_over_positions_from_either_end_is_exact_at_every_length(turned: int, joined: int) -> None:
    torch.manual_seed(0)
    x = torch.zeros(2, 4, 6)
    converted = convert_model(Looped(turned, joined), x, outputs=Tracks("..", layout="n l c"), verify=False)
    assert_exact(converted, x, outputs=Signs("..", "n l c"), lengths=(None, 1, 2, 3, 9, 31))


class TurnedElsewhere(Looped):
    """What is turned back is another axis than that of the positions."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x))
        y = torch.cat([self.scan(self.left, h), self.scan(self.right, h.flip(2)).flip(1)], 1)
        return self.out(y.movedim(2, 1))


def test_another_axis_that_is_turned_back_does_not_turn_the_positions() -> None:
    """Positions are then counted from either end, and stay: no profile, and no wrong one."""
    with pytest.raises(ConversionError):
        convert_model(TurnedElsewhere(), torch.zeros(2, 4, 6), outputs=Tracks("..", layout="n l c"))


def test_how_often_a_loop_runs_is_no_way_of_its_own() -> None:
    model, x = Looped(), torch.zeros(2, 4, 6)
    assert Variants(model, x, [OneHot("ACGT").action((2, 4, 6))]).survey().ways == []
    assert without_repeats("abababab") == (("a", "b"),) == without_repeats("ababababababab")
    assert without_repeats("xaaaaayaaa") == ("x", ("a",), "y", "a", "a", "a")
    assert without_repeats("ababab") == tuple("ababab")
    assert without_repeats("") == ()


# --- what a plan says ---------------------------------------------------------------------------------------


def test_a_plan_says_where_a_length_is_read_from_either_end() -> None:
    plan = plan_conversion(directions.TwoLstms(), X, outputs="+-", verify=False)
    line = directions.TwoLstms.forward.__code__.co_firstlineno + 4
    assert f"models/directions.py:{line}) reads one length from either end" in str(plan)
    assert "either end" not in str(plan_conversion(directions.CausalThenRotated(), X, verify=False))


# --- norms inside of a reading --------------------------------------------------------------------------------


class Normed(nn.Module):
    """A norm behind each of two recurrences, over positions or over their last states."""

    def __init__(self, norms: Callable[[], tuple[nn.Module, nn.Module]], last: bool = False) -> None:
        super().__init__()
        self.last = last
        self.left, self.right = nn.GRU(4, 6, batch_first=True), nn.GRU(4, 6, batch_first=True)
        self.one, self.other = norms()
        self.out = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.mT
        a, b = self.left(h), self.right(h.flip(1))
        if self.last:
            return self.out(torch.cat([self.one(a[1][-1]), self.other(b[1][-1])], 1))
        return self.out(torch.cat([self.one(a[0].mT), self.other(b[0].mT).flip(-1)], 1).mean(-1))


def two(make: Callable[[], nn.Module]) -> Callable[[], tuple[nn.Module, nn.Module]]:
    return lambda: (make(), make())


def shared(make: Callable[[], nn.Module]) -> Callable[[], tuple[nn.Module, nn.Module]]:
    norm = make()
    return lambda: (norm, norm)


@pytest.mark.parametrize("last", some([False, True], 1))
@pytest.mark.parametrize("norms", some([two(lambda: nn.GroupNorm(2, 6)), shared(lambda: nn.BatchNorm1d(6))], 1))
def test_norms_of_each_sample_and_shared_ones_may_stand_inside_a_reading(norms: Any, last: bool) -> None:
    torch.manual_seed(0)
    model = convert_model(Normed(norms, last).double(), X.double(), verify=False)
    assert_exact(model, X.double(), lengths=(9, 20))


@pytest.mark.parametrize("last", some([False, True], 1))
@pytest.mark.parametrize(
    ("norms", "says"),
    some(
        [
            (two(lambda: nn.BatchNorm1d(6)), "each direction keeps statistics of its own in buffers"),
            (two(lambda: nn.BatchNorm1d(6, track_running_stats=False)), "a batch norm inside one of two readings"),
            (two(lambda: nn.BatchNorm1d(6, affine=False, track_running_stats=False)), "a batch norm inside one of two"),
            (shared(lambda: nn.BatchNorm1d(6, track_running_stats=False)), "a batch norm inside one of two readings"),
        ],
        1,
    ),
)
def test_batch_norms_of_each_reading_are_refused_in_words(norms: Any, says: str, last: bool) -> None:
    with pytest.raises(ConversionError, match=says) as caught:
        convert_model(Normed(norms, last), X)
    assert "LayerNorm" in str(caught.value)


# --- spellings of turning round -----------------------------------------------------------------------


def last_first(h: Tensor) -> Tensor:
    return torch.arange(h.shape[1] - 1, -1, -1, device=h.device)


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "index": lambda h: h[:, last_first(h)],
    "a list": lambda h: h[:, list(range(h.shape[1] - 1, -1, -1))],
    "a tensor of a list": lambda h: h[:, torch.tensor([*range(h.shape[1])][::-1])],
    "from the end": lambda h: h[:, -torch.arange(1, h.shape[1] + 1)],
    "index_select": lambda h: h.index_select(1, last_first(h)),
    "gather": lambda h: h.gather(1, last_first(h)[None, :, None].expand_as(h)),
    "take_along_dim": lambda h: torch.take_along_dim(h, last_first(h)[:, None].expand(h.shape), dim=1),
    "fliplr": torch.fliplr,
    "positions": lambda h: torch.stack(h.unbind(1)[::-1], 1),
    "positions, from the end": lambda h: torch.stack([*reversed(torch.unbind(h, dim=-2))], dim=-2),
    "positions of a transposed one": lambda h: torch.stack(h.mT.unbind(-1)[::-1], 1),
    "positions first": lambda h: torch.stack([*h.transpose(0, 1)][::-1], 1),
    "positions, each selected": lambda h: torch.stack([h[:, i] for i in range(h.shape[1] - 1, -1, -1)], 1),
    "positions with an axis": lambda h: torch.cat([t.unsqueeze(1) for t in reversed(h.unbind(1))], 1),
    "pieces of one": lambda h: torch.cat(h.split(1, 1)[::-1], 1),
    "slices of one": lambda h: torch.cat([h[:, i : i + 1] for i in reversed(range(h.shape[1]))], 1),
}


class Spelled(directions.OneGru):
    """Two readings, turned round by the places of a length, the last first."""

    def __init__(self, turn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.turn, self.other = turn, nn.GRU(8, 6, batch_first=True)
        self.gru = nn.GRU(8, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu().mT
        return self.out((self.gru(h)[0] + self.turn(self.other(self.turn(h))[0])).mean(1))


@pytest.mark.parametrize("spelling", chosen(SPELLINGS, lambda name: name in ("gather", "positions")))
def test_a_length_is_turned_round_in_many_spellings(spelling: str) -> None:
    torch.manual_seed(0)
    converted = convert_model(Spelled(SPELLINGS[spelling]), X, verify=spelling == "index")
    assert_exact(converted, X, lengths=(20, 23, 7))


NOT_TURNED: dict[str, Callable[[Tensor], Tensor]] = {
    "in order": lambda h: torch.stack(h.unbind(1), 1),
    "one left out": lambda h: torch.stack([*h.unbind(1)[:0:-1], h[:, -1]], 1),
    "two exchanged": lambda h: torch.stack([*h.unbind(1)[:1:-1], *h.unbind(1)[:2]], 1),
    "samples": lambda h: torch.stack(h.unbind(0)[::-1]),
}


@pytest.mark.parametrize("order", some([*NOT_TURNED], 2))
def test_positions_in_another_order_are_not_turned_round(order: str) -> None:
    with pytest.raises(ConversionError):
        convert_model(Spelled(NOT_TURNED[order]), X, verify=False)


class Larger(nn.Module):
    """The larger of a layer and of the same layer on what was turned round, at every length."""

    def __init__(self, turn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.turn, self.stem, self.out = turn, nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).mT
        return self.out(torch.maximum(h, self.turn(h.tanh())).mean(1))


def test_a_length_turned_round_by_a_list_takes_other_lengths() -> None:
    assert_exact(convert_model(Larger(SPELLINGS["index"]), X), X, lengths=(20, 23))


def fixed(h: Tensor) -> Tensor:
    """Always the first twenty positions."""
    return h[:, torch.arange(19, -1, -1)]


def written(h: Tensor) -> Tensor:
    """The first position twice: the list is written into after it was made."""
    places = last_first(h)
    places[3] = 19
    return h[:, places]


def test_a_list_of_places_that_does_not_grow_is_refused_at_other_lengths() -> None:
    converted = convert_model(Larger(lambda h: fixed(h) if h.shape[1] == 20 else fixed(h)[:, : h.shape[1]] + h * 0), X)
    assert_exact(converted, X)
    with pytest.raises(ConversionError, match="an input of 23 positions"):
        converted(torch.zeros(2, 4, 23))


def test_a_list_of_places_that_is_written_into_is_none_of_a_turn() -> None:
    with pytest.raises(ConversionError, match="an entry is taken without its partner, or twice"):
        convert_model(Larger(written), X)


# --- what both readings start from, computed for each -------------------------------------------------

NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: nn.LayerNorm(8),
    "RMS norm": lambda: nn.RMSNorm(8),
    "a dense layer": lambda: nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)),
}


class ComputedTwice(directions.OneGru):
    """A residual around two recurrences, each of which is given its own copy of the norm's result."""

    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm, self.gru, self.out = norm(), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 2)

    def read(self, h: Tensor) -> Tensor:
        return self.gru(h)[0]

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu().mT
        h = h + self.read(self.norm(h)) + self.read(self.norm(h).flip(1)).flip(1)
        return self.out(h.mean(1))


@pytest.mark.parametrize("norm", some(NORMS, 1))
def test_what_both_readings_start_from_may_be_computed_for_each(norm: str) -> None:
    torch.manual_seed(0)
    assert_exact(convert_model(ComputedTwice(NORMS[norm]), X, verify=False), X, lengths=(20, 9))


def test_what_is_drawn_for_each_reading_is_not_the_same() -> None:
    """Train-mode readings that start from two draws of a dropout are two results, so they are refused."""
    trace_ = trace(ComputedTwice(lambda: nn.Dropout(0.5)), X, training=True)
    dropped = [n.name for n in trace_.nodes if "dropout" in str(n.op)]
    once = with_results_once(trace_)
    assert len(dropped) == 2
    assert {r for n in once.nodes for r in n.refs()} >= {*dropped}
