"""Kinds of error that the fuzzer found, each with the model it found and two more of the kind."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from by_hand import Net as OfParts
from by_hand import bases, mirror, worst
from oracle import assert_law
from tiers import chosen, some
from torch import Tensor, nn

from rcps_convert import ConversionError, Tokens, bake, convert_model, plan_conversion
from rcps_convert.measure.inputs import AGAIN, of_kinds

TOLERANCE = 1e-10
"""Largest deviation of an entry, relative to the largest, in float64."""

Forward = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """A few layers, and a forward given as a function."""

    def __init__(self, forward: Forward, width: int = 6, kernel: int = 3, padding: int = 1, outputs: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.steps = forward
        self.c = nn.Conv1d(4, width, kernel, padding=padding)
        self.d = nn.Conv1d(width, outputs, 3, padding=1)
        self.o = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self, x)


def converted(model: nn.Module, length: int, **how: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_model(model, torch.zeros(2, 4, length), **how).double().eval()


def error(model: nn.Module, length: int, law: Callable[[Tensor], Tensor]) -> float | None:
    """How far an output is from its law at a length; None where the call is refused."""
    x = bases(5, length)
    try:
        with torch.no_grad():
            return worst(model(mirror(x)), law(model(x)))
    except ConversionError:
        return None


# --- one position at the example, several elsewhere ---


def strided(m: Any, x: Tensor) -> Tensor:
    return m.d(F.avg_pool1d(m.c(x), 7, 7)).mT


def one_window(m: Any, x: Tensor) -> Tensor:
    return m.d(m.c(x)[..., 1:-1].unfold(-1, 9, 4).mean(-1)).squeeze(1)


def short(m: Any, x: Tensor) -> Tensor:
    return F.max_pool1d(m.c(x), 9, 1)


@pytest.mark.parametrize("strategy", ["conjoined", "tied"])
@pytest.mark.parametrize(
    ("forward", "lengths"), some([(strided, (14, 21, 28)), (one_window, (15, 19, 23)), (short, (12, 13, 20))], 1)
)
def test_a_length_of_one_position_is_reversed_where_it_is_longer(
    forward: Forward, lengths: tuple[int, ...], strategy: str
) -> None:
    example = {strided: 7, one_window: 11, short: 9}[forward]
    model = converted(Net(forward, outputs=1), example, strategy=strategy)
    flipped = 1 if forward is strided else -1
    found = [error(model, n, lambda y: y.flip(flipped)) for n in (example, *lengths)]
    assert found[0] is not None
    assert all(e is None or e < TOLERANCE for e in found)
    if strategy == "conjoined":
        assert None not in found


# --- positions in rows of a fixed number, one row at the example ---


def rows(m: Any, x: Tensor) -> Tensor:
    h = F.max_pool1d(m.c(x), 4)
    return m.d(h.reshape(h.shape[0], h.shape[1], -1, 3).mean(-1)).relu()


def rows_after_two_pools(m: Any, x: Tensor) -> Tensor:
    h = F.max_pool1d(F.max_pool1d(m.c(x), 2, 3, ceil_mode=True), 4)
    return m.d(h.reshape(h.shape[0], h.shape[1], -1, 3).mean(-1))


def rows_by_unflatten(m: Any, x: Tensor) -> Tensor:
    return m.d(F.avg_pool1d(m.c(x), 5).unflatten(-1, (-1, 2)).amax(-1))


@pytest.mark.parametrize(
    ("forward", "example", "lengths"),
    some(
        [
            (rows, 12, (13, 24, 36, 48)),
            (rows_after_two_pools, 40, (41, 42, 80, 81, 117)),
            (rows_by_unflatten, 10, (11, 20, 30, 40)),
        ],
        1,
    ),
)
def test_hidden_lengths_of_one_entry_are_looked_at_where_they_have_more(
    forward: Forward, example: int, lengths: tuple[int, ...]
) -> None:
    model = converted(Net(forward), example, outputs="+-")
    for n in (example, *lengths):
        found = error(model, n, lambda y: y.flip(1, 2))
        assert found is None or found < TOLERANCE, n


# --- one edge that is read only at longer lengths ---


def masked(m: Any, x: Tensor) -> Tensor:
    h = F.max_pool1d(F.max_pool1d(m.c(x), 2, 1), 3, 1)
    h = h.masked_fill(torch.arange(h.shape[-1]) >= 27, 0.0)
    return m.o(h.sort(-1).values[..., -1])


def cut(m: Any, x: Tensor) -> Tensor:
    return m.o(m.c(x)[..., :30].amax(-1))


def weighted(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    return m.o((h * (torch.arange(h.shape[-1]) < 31)).logsumexp(-1))


@pytest.mark.parametrize("forward", chosen([masked, cut, weighted], lambda forward: forward is cut))
def test_what_reads_one_edge_at_longer_lengths_only_is_refused_there(forward: Forward) -> None:
    model = converted(Net(forward), 30)
    for n in (30, 31, 32, 33, 60, 90):
        found = error(model, n, lambda y: y)
        assert found is None or found < TOLERANCE, n
    assert error(model, 30, lambda y: y) is not None


# --- lengths that are refused, beside others at which the law fails ---


def middle(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    h = h * torch.hann_window(41, periodic=False, dtype=torch.float64).to(h.dtype)[: h.shape[-1]]
    return m.o(h[..., h.shape[-1] // 2] + h.amax(-1))


def middle_and_table(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    return m.o(
        h[..., h.shape[-1] // 2]
        * (h * torch.linspace(-1, 1, 41, dtype=torch.float64).abs().to(h.dtype)[: h.shape[-1]]).mean(-1)
    )


def middle_and_mask(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    return m.o(h[..., h.shape[-1] // 2] + (h * (torch.arange(h.shape[-1]) < 41)).amax(-1))


@pytest.mark.parametrize("forward", some([middle, middle_and_table, middle_and_mask], 1))
def test_a_refused_length_leaves_no_other_one_unchecked(forward: Forward) -> None:
    model = converted(Net(forward), 41)
    found = {
        n: error(model, n, lambda y: y)
        for n in (20, 21, 31, 37, 39, 40, 41, *((42, 43, 83) * (forward is middle_and_mask)))
    }
    assert found[41] is not None
    assert all(e is None or e < TOLERANCE for e in found.values()), found


# --- fractions of the length that are rounded ---


def bins(m: Any, x: Tensor) -> Tensor:
    h, n = m.c(x), x.shape[-1]
    return m.o((h * ((torch.arange(n).float() / (n - 1) - 0.5).abs() * 10).floor()).mean(-1))


def middle_third(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    return m.o((h * (torch.linspace(-1, 1, h.shape[-1]).abs() < 1 / 3)).mean(-1))


def bucketed(m: Any, x: Tensor) -> Tensor:
    h, n = m.c(x), x.shape[-1]
    return m.o((h * (torch.sin(torch.arange(n) * (torch.pi / (n - 1))) * 7).long()).mean(-1))


def whole_bins(m: Any, x: Tensor) -> Tensor:
    h, place = m.c(x), torch.arange(x.shape[-1])
    return m.o((h * (torch.minimum(place, place.flip(0)) // 3)).mean(-1))


def logarithmic(m: Any, x: Tensor) -> Tensor:
    h, place = m.c(x), torch.arange(x.shape[-1])
    return m.o((h * (torch.minimum(place, place.flip(0)) + 1).float().log2().long()).mean(-1))


def scaled_window(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    window = 2 - torch.linspace(-1, 1, h.shape[-1], dtype=torch.float64).abs()
    return m.o((h * (window / window.max()).to(h.dtype)).mean(-1))


@pytest.mark.parametrize("forward", some([bins, middle_third, bucketed], 1))
@pytest.mark.parametrize("length", some([9, 15], 1))
def test_rounded_fractions_of_the_length_are_refused_at_other_lengths(forward: Forward, length: int) -> None:
    model = converted(Net(forward), length)
    for n in (length, *range(7, 24)):
        found = error(model, n, lambda y: y)
        assert found is None or found < TOLERANCE, n
    assert error(model, length, lambda y: y) is not None


@pytest.mark.parametrize("forward", some([whole_bins, logarithmic, scaled_window], 1))
def test_whole_numbers_of_positions_may_be_rounded(forward: Forward) -> None:
    model = converted(Net(forward), 15)
    found = [error(model, n, lambda y: y) for n in range(9, 24)]
    assert all(e is not None and e < TOLERANCE for e in found), found


# --- all positions tie ---


def place(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    return m.o((h + h[..., 10:11]).argmax(-1).to(h.dtype))


def last_place(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    return m.o(h.max(-1).indices.to(h.dtype) / h.shape[-1])


def place_of_sum(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    return m.o(h.amax(-1) * h.sum(1).argmin(-1, keepdim=True))


@pytest.mark.parametrize("settings", [{}, {"on_unsupported": "both_strands"}], ids=["tied", "both"])
@pytest.mark.parametrize("forward", chosen([place, last_place, place_of_sum], lambda forward: forward is last_place))
def test_places_of_maxima_are_wrong_where_all_positions_tie(forward: Forward, settings: dict[str, str]) -> None:
    with pytest.raises(ConversionError) as caught:
        converted(Net(forward, outputs=1), 21, outputs="antisymmetric", **settings)
    assert caught.value.problems[0].why


# --- places of several maxima, in channels that nothing is known of ---


def in_order(m: Any, x: Tensor) -> Tensor:
    """The middle one of the largest in the order of their positions (Kalchbrenner's k-max pooling)."""
    h = m.c(x).relu()
    return m.o(h.gather(-1, h.topk(3, -1).indices.sort(-1).values)[..., 1] + h.amax(-1))


def sorted_places(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    return m.o(h.gather(-1, h.argsort(-1)[..., -3:].sort(-1).values)[..., 0])


def own_gather(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    return m.o(torch.take_along_dim(h, h.topk(2, -1).indices.amin(-1, keepdim=True), -1).squeeze(-1))


@pytest.mark.parametrize("forward", some([in_order, sorted_places, own_gather], 1))
def test_places_of_several_maxima_are_exact_or_refused_with_the_reason(forward: Forward) -> None:
    plan = plan_conversion(Net(forward), torch.zeros(2, 4, 21))
    assert all(p.where is not None and p.why for p in plan.problems)
    if forward is in_order:
        assert "which of equal numbers is taken" in str(plan.problems[0].why)


# --- a bias that must be zero ---


def antisymmetric(m: Any, x: Tensor) -> Tensor:
    return m.o(m.c(x).amax(-1))


@pytest.mark.parametrize("outputs", some([3, 1], 1))
def test_baked_parameters_have_entries_of_their_own(outputs: int) -> None:
    model = bake(converted(Net(antisymmetric, outputs=outputs), 21, outputs="antisymmetric"))
    for name, p in model.named_parameters():
        p.data.fill_(1.0)  # fails on entries that share memory
        assert p.is_contiguous(), name
    torch.optim.SGD(model.parameters(), lr=0.1).step()


# --- outputs behind what no rule takes, read on both strands ---


def in_turn(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    h = torch.stack([h[..., i].tanh() for i in range(h.shape[-1])], -1)
    return torch.stack([h, h.relu()], -1).flatten(2)


def shifted(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    return torch.stack([h[..., i] + h[..., max(0, i - 1)] for i in range(h.shape[-1])], -1)


def first_and_rest(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    return torch.cat([h[..., :1] * 2, h[..., 1:]], -1)


@pytest.mark.parametrize("forward", some([in_turn, shifted, first_and_rest], 1))
def test_profiles_behind_what_no_rule_takes_are_profiles(forward: Forward) -> None:
    model = Net(forward, width=3)
    plan = plan_conversion(model, torch.zeros(2, 4, 16), strategy="conjoined")
    if not plan.problems:  # else the user is asked
        assert "unstranded profile" in str(plan)
        assert_law(plan.apply(model).double(), torch.zeros(2, 4, 16).double(), outputs="...")


# --- lengths that leave the same remainder at the example and wherever it was looked ---


def every(step: int) -> Forward:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.c(x).relu()
        return m.o((h * (torch.arange(h.shape[-1], device=h.device) % step == 0).to(h)).sum(-1))

    return forward


def alternating(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    return m.o((h * (-1.0) ** torch.arange(h.shape[-1], device=h.device)).square().cumsum(-1)[..., -1])


def slices(m: Any, x: Tensor) -> Tensor:
    return m.o(m.c(x)[..., ::2].amax(-1))


@pytest.mark.parametrize(
    ("forward", "example"), some([(every(2), 21), (every(3), 22), (every(4), 25), (alternating, 20), (slices, 21)], 1)
)
def test_lengths_with_other_remainders_are_looked_at(forward: Forward, example: int) -> None:
    model = converted(Net(forward), example, outputs="invariant")
    found = {n: error(model, n, lambda y: y) for n in range(12, 64)}
    assert found[example] is not None
    assert {n: e for n, e in found.items() if e is not None and e > TOLERANCE} == {}


# --- numbers that tie for some weights only ---


class Places(nn.Module):
    """The largest of three channels, two of which are a pair, at each position, looked up in a table."""

    def __init__(self, norm: bool, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.c, self.e, self.o = nn.Conv1d(4, 3, 3), nn.Embedding(3, 4), nn.Linear(4, 2)
        self.norm = nn.LayerNorm(3, bias=False) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.e(self.norm(self.c(x).mT).max(-1).indices).mean(1))


class Share(nn.Module):
    """A table that is read where a place of a maximum is near zero, as it is for small weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.act, self.o = nn.Conv1d(4, 6, 3, padding=1), nn.PReLU(6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        taken = self.act(F.one_hot(h.argmax(1), 6).to(h).mT * h)
        return self.o(torch.where(h.abs() < 0.5, taken, 0.0).amax(-1)) + self.o(h.amax(-1))


@pytest.mark.parametrize("seed", some(range(6), 1))
@pytest.mark.parametrize("norm", some([True, False], 1))
def test_ties_that_some_weights_show_are_found(norm: bool, seed: int) -> None:
    with pytest.raises(ConversionError, match="on some input"):
        converted(Places(norm, seed), 12, outputs="antisymmetric", init="project")


@pytest.mark.parametrize("place", some(["argmax", "indices", "sort"], 1))
def test_ties_on_random_bases_are_no_wrong_rule(place: str) -> None:
    taken: dict[str, Callable[[Tensor], Tensor]] = {
        "argmax": lambda h: h.argmax(1),
        "indices": lambda h: h.max(1).indices,
        "sort": lambda h: h.sort(1).indices[:, -1],
    }

    def forward(m: Any, x: Tensor) -> Tensor:
        rows = x.reshape(len(x), 4, -1, 6).permute(0, 1, 3, 2).flatten(1, 2)
        return m.d(m.e(taken[place](rows)).mT)

    net = Net(forward, width=2)
    net.e = nn.Embedding(24, 2)
    with pytest.raises(ConversionError, match=r"numbers tie|on some input") as refused:
        converted(net, 30)
    assert "rule or a custom operator" not in str(refused.value)


def test_ties_that_the_given_weights_show_are_found() -> None:
    with pytest.raises(ConversionError, match="on some input"):
        converted(Share(), 30, outputs="invariant")


@pytest.mark.parametrize("seed", some(range(3), 1))
def test_maxima_whose_ties_do_not_matter_are_exact(seed: int) -> None:
    torch.manual_seed(seed)
    model = converted(Net(lambda m, x: m.o(m.c(x).sort(-1).values[..., -2:].mean(-1))), 20, outputs="invariant")
    found = error(model, 20, lambda y: y)
    assert found is not None
    assert found < TOLERANCE


# --- samples that influence each other only where all are alike ---


class Highest(nn.Module):
    """Scores less the largest at any position of any sample, which is that of the best base unless it is missing."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.c, self.o = how, nn.Conv1d(4, 6, 1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        other = {
            "maximum": lambda: h.amax((0, 2), keepdim=True),
            "range": lambda: h.amax((0, 2), keepdim=True) - h.amin((0, 2), keepdim=True),
            "quantile": lambda: h.mT.flatten(0, 1).sort(0).values[-1, :, None],
            "sample": lambda: h.amax(2, keepdim=True),
        }[self.how]()
        return self.o((h - other).tanh().mean(-1))


@pytest.mark.parametrize("how", some(["maximum", "range", "quantile"], 1))
def test_samples_that_influence_each_other_where_all_are_alike_are_found(how: str) -> None:
    with pytest.raises(ConversionError, match=r"samples of one batch influence each other|batch"):
        converted(Highest(how), 30)


class HighestOfIds(nn.Module):
    """The same on ids, among them N, which is its own partner."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.e, self.o = nn.Embedding(5, 6), nn.Linear(6, 2)
        self.reduce = {"maximum": torch.amax, "minimum": torch.amin}[how]

    def forward(self, ids: Tensor) -> Tensor:
        h = self.e(ids)
        return self.o((h - self.reduce(h, (0, 1))).tanh().mean(1))


@pytest.mark.parametrize("how", some(["maximum", "minimum"], 1))
def test_samples_of_ids_that_influence_each_other_where_all_are_alike_are_found(how: str) -> None:
    with pytest.raises(ConversionError, match=r"samples of one batch influence each other"):
        convert_model(HighestOfIds(how), torch.zeros((2, 15), dtype=torch.long), inputs=Tokens("ACGTN"))


@pytest.mark.parametrize("seed", range(4))
def test_a_run_of_ids_is_of_one_that_has_a_partner_and_a_sample_comes_again(seed: int) -> None:
    spec, example = Tokens("ACGTN"), torch.zeros((4, 9), dtype=torch.long)
    kinds = ["run", AGAIN, "random", AGAIN]
    generator = torch.Generator().manual_seed(seed)
    x = of_kinds(spec, spec.action(example.shape), example, generator, kinds, torch.float64)
    assert (x[0] == x[0, 0]).all()
    assert int(x[0, 0]) != 4
    assert torch.equal(x[1], x[0])
    assert torch.equal(x[3], x[2])
    assert len(x[2].unique()) > 1


def test_a_maximum_of_each_sample_is_exact() -> None:
    found = error(converted(Highest("sample"), 30), 30, lambda y: y)
    assert found is not None
    assert found < TOLERANCE


# --- samples that influence each other behind a sign ---


class Hidden(nn.Module):
    """Numbers to which other samples contribute, and a function that hides small changes of them."""

    def __init__(self, mixed: str, hide: Callable[[Tensor], Tensor], seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.mixed, self.hide = mixed, hide
        self.c, self.o, self.p = nn.Conv1d(4, 6, 3, padding=1), nn.Linear(6, 1), nn.Linear(1, 2)
        self.a = nn.MultiheadAttention(6, 2, batch_first=mixed == "attention over positions")

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).mT
        if self.mixed.startswith("attention"):
            h = self.a(h, h, h, need_weights=False)[0]
        elif self.mixed == "centred":
            h = (h - h.mean(0)).tanh()
        else:
            h = h.relu() / h.abs().amax((0, 2), keepdim=True)
        return self.hide(self.o(h.mean(1)))


HIDING: dict[str, Callable[[Tensor], Tensor]] = {
    "sign": torch.sign,
    "normalize": lambda s: F.normalize(s, dim=-1),
    "comparison": lambda s: torch.where(s > 0, 0.5, 0.25),
    "rounded": lambda s: (3 * s).round(),
    "steep": lambda s: (1e6 * s).sigmoid(),
}


@pytest.mark.parametrize(
    ("mixed", "hide"),
    chosen(
        [
            *(("attention over samples", hide) for hide in HIDING),
            ("centred", "sign"),
            ("centred", "normalize"),
            ("scaled", "comparison"),
        ],
        lambda case: case == ("centred", "sign"),
    ),
)
def test_samples_that_influence_each_other_behind_a_sign_are_found(mixed: str, hide: str) -> None:
    with pytest.raises(ConversionError, match=r"samples of one batch influence each other"):
        converted(Hidden(mixed, HIDING[hide]), 12)


class Running(nn.Module):
    """A sum along the batch, from its first sample or from its last, of which only a step is left."""

    def __init__(self, backwards: bool, steps: Callable[[Tensor], Tensor], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.c, self.e = nn.Conv1d(4, 12, 5, padding=2), nn.Conv2d(1, 7, (12, 5))
        self.d, self.o = nn.Linear(7, 12), nn.Linear(12, 2, bias=False)
        self.backwards, self.steps = backwards, steps

    def forward(self, x: Tensor) -> Tensor:
        h = self.e(self.c(x).unsqueeze(1)).squeeze(2)
        h = h.flip(0).cumsum(0).flip(0) if self.backwards else h.cumsum(0)
        return self.steps(self.o(self.d((h - h.mean(1, keepdim=True)).mean(-1)).abs()))


STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "truth": lambda s: s > 0,
    "sign": torch.sign,
    "largest": lambda s: s.argmax(-1),
}


@pytest.mark.parametrize(
    ("steps", "backwards", "seed"),
    chosen(
        [(step, b, s) for step in STEPS for s in range(6) for b in (False, True)],
        lambda case: case[2] == 4 and case[1] == (case[0] == "largest"),
    ),
)
def test_a_sum_along_the_batch_behind_a_step_is_found(steps: str, backwards: bool, seed: int) -> None:
    with pytest.raises(ConversionError, match=r"samples of one batch influence each other"):
        converted(Running(backwards, STEPS[steps], seed), 24)


@pytest.mark.parametrize("hide", some(HIDING, 1))
def test_a_sign_of_each_sample_is_exact(hide: str) -> None:
    found = error(converted(Hidden("attention over positions", HIDING[hide]), 12), 12, lambda y: y)
    assert found is not None
    assert found < TOLERANCE


# --- lengths around a multiple of the example's, one of which is its own ---


@pytest.mark.parametrize(("length", "pool"), chosen([(8, 5), (8, 7), (6, 5)], lambda case: case == (8, 7)))
def test_lengths_that_are_looked_for_may_meet_the_own_one(length: int, pool: int) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.d(F.avg_pool1d(F.max_pool1d(m.c(x), pool, padding=1, ceil_mode=True), 12, 12, ceil_mode=True))

    model = converted(Net(forward), length, outputs="+-")
    found = [error(model, n, lambda y: y.flip(1, 2)) for n in (length, 3 * length)]
    assert found[0] is not None
    assert all(e is None or e < TOLERANCE for e in found)


# --- a table as long as a hidden length that a change by one position leaves alone ---


class Numbered(nn.Module):
    """Positions behind a stride, or a pool, numbered by a table of just as many rows."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.c, self.e = how, nn.Conv1d(4, 6, 3, 3, padding=1), nn.Embedding(4, 6)
        self.d, self.p = nn.Conv1d(6, 2, 3, padding=1), nn.Conv1d(4, 6, 3, padding=1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = F.avg_pool1d(self.p(x), 3, ceil_mode=True) if self.how == "pool" else self.c(x)
        h = h * self.c(z).relu().mean(-1, keepdim=True)
        return self.d((h + self.e(torch.arange(h.shape[-1])).mT).tanh())


@pytest.mark.parametrize(("how", "lengths"), some([("stride", (12, 14)), ("pool", (12, 14)), ("stride", (12, 20))], 1))
def test_hidden_lengths_that_stay_where_the_length_changes_by_one_are_looked_at(
    how: str, lengths: tuple[int, int]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = tuple(torch.zeros(2, 4, n) for n in lengths)
        model = convert_model(Numbered(how), example, inputs=("ACGT", "ACGT"), outputs="+-").double().eval()
    for n in (lengths[0], 3, 6, 9, 11):
        x, z = bases(5, n), bases(5, lengths[1])
        try:
            found = worst(model(mirror(x), mirror(z)), model(x, z).flip(1, 2))
        except ConversionError:
            assert n != lengths[0]
            continue
        assert found < TOLERANCE, n


# --- a hidden length that is odd at all lengths around a multiple of the example's ---


def every_other(h: Tensor) -> Tensor:
    return h * (torch.arange(h.shape[-1]) % 2 == 0)


def first_half_of_an_even_length(h: Tensor) -> Tensor:
    n = h.shape[-1]
    return h * torch.cat([torch.ones(n // 2), torch.ones(n - n // 2) * (1 + n % 2) / 2])


class TwoStrides(nn.Module):
    """Two strides, behind which the lengths around an example of 13 and 14 leave odd ones."""

    def __init__(self, marks: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.marks, self.c, self.d = marks, nn.Conv1d(4, 12, 3, 4, padding=1), nn.Conv1d(12, 8, 3, 2)
        self.o = nn.Linear(8, 2)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = self.d(self.c(x) * self.c(z).relu().amax(-1, keepdim=True)).relu()
        return self.o(self.marks(h).amax(-1))


@pytest.mark.parametrize("marks", some([first_half_of_an_even_length, every_other], 1))
def test_even_hidden_lengths_are_looked_at_where_all_others_are_odd(marks: Callable[[Tensor], Tensor]) -> None:
    example = torch.zeros(2, 4, 13), torch.zeros(2, 4, 14)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_model(TwoStrides(marks), example, inputs=("ACGT", "ACGT")).double().eval()
    for n in range(13, 40):
        x, z = bases(5, n), bases(5, n + 1)
        try:
            found = worst(model(mirror(x), mirror(z)), model(x, z))
        except ConversionError:
            assert n != 13
            continue
        assert found < TOLERANCE, n


def test_a_table_that_is_cut_is_looked_at_where_a_window_does_not_hide_it() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = F.max_pool1d(m.p(x).relu(), 3, ceil_mode=True)
        n = h.shape[-1]
        return m.o((h * torch.hann_window(5, periodic=False)[:n] * torch.hann_window(n, periodic=False)).amax(-1))

    torch.manual_seed(0)
    model = converted(OfParts(forward, p=nn.Conv1d(4, 8, 3), o=nn.Linear(8, 2)), 17)
    found = {n: error(model, n, lambda y: y) for n in range(9, 18)}
    assert found[17] is not None
    assert all(e is None or e < TOLERANCE for e in found.values())


# --- a threshold behind which most numbers are one constant ---


@pytest.mark.parametrize("constant", some([-1e9, 1e12, -1e5], 1))
@pytest.mark.parametrize("threshold", some([0.0, 0.1], 1))
def test_a_constant_in_most_entries_hides_no_other(constant: float, threshold: float) -> None:
    torch.manual_seed(0)
    net = Net(lambda m, x: torch.where(m.o(m.c(x).mean(-1)) < threshold, constant, m.o(m.c(x).amax(-1))), outputs=6)
    with torch.no_grad():
        net.o.bias -= 0.4
    plan = plan_conversion(net, torch.zeros(2, 4, 17), outputs="invariant")
    assert not plan.symmetric
    found = error(plan.apply(net).double().eval(), 17, lambda y: y)
    assert found is not None
    assert found < TOLERANCE


# --- forwards that run in one mode only ---


class TrainOnly(nn.Module):
    """Pads in one mode, or in none, what a dense layer takes."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode, self.c = mode, nn.Conv1d(4, 6, 3, padding=1)
        self.inner, self.o = nn.GRU(6, 4, batch_first=True), nn.Linear(4 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(self.c(x).mT)[0].mT
        if self.training == (self.mode == "train") or self.mode == "both":
            h = F.pad(h, (0, 16 - h.shape[-1]))
        return self.o(h.flatten(1))


@pytest.mark.parametrize(
    "how",
    chosen(
        [{}, {"on_unsupported": "both_strands"}, {"strategy": "conjoined"}, {"strategy": "mixed"}],
        lambda how: "on_unsupported" not in how,
    ),
    ids=str,
)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_forward_that_runs_in_one_mode_only_is_refused_or_works_there(mode: str, how: dict[str, Any]) -> None:
    model = TrainOnly(mode)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = convert_model(model, torch.zeros(2, 4, 13), **how).double().train(mode == "train")
    except ConversionError:
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        return
    x = bases(4, 13)
    with torch.no_grad():
        assert worst(model(mirror(x)), model(x)) < TOLERANCE


# --- laws of several nodes that are met again where other axes are open ---


def squares(m: Any, x: Tensor) -> Tensor:
    """Complex squares, beside what they are made of, then a scan; the law of the squares is met more than once."""
    h = m.c(x)
    h = torch.cat([m.start.expand(len(x), -1, -1), h], -1)
    h = torch.cat([((h + 1j * h.tanh()) ** 2).real, h], 1)
    kept, state = [], h[..., 0]
    for i in range(h.shape[-1]):
        state = 0.5 * state + h[..., i]
        kept.append(state)
    return torch.stack(kept, -1).abs()


def twice(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    for _ in range(2):
        h = torch.cat([((h + 1j * h.tanh()) ** 2).real, h], 1)
    return h.abs().mean(-1)


def beside_a_parameter(m: Any, x: Tensor) -> Tensor:
    h = m.c(x) + m.start
    return m.o((((h + 1j * h.tanh()) ** 2).real + ((m.start + 1j * m.start.tanh()) ** 2).real).amax(-1))


@pytest.mark.parametrize("outputs", some(["auto", "invariant"], 1))
@pytest.mark.parametrize(
    "forward", chosen([squares, twice, beside_a_parameter], lambda forward: forward is beside_a_parameter)
)
def test_laws_that_are_met_again_are_no_obstacle(forward: Forward, outputs: str) -> None:
    model = Net(forward)
    model.start = nn.Parameter(torch.randn(1, 6, 1))
    try:
        found = error(converted(model, 12, outputs=outputs), 12, lambda y: y if y.dim() == 2 else y.flip(-1))
    except ConversionError:
        assert forward is squares
        return
    assert found is not None
    assert found < TOLERANCE


# --- scores of the inner channels of a split axis ---


def groups_averaged(m: Any, x: Tensor) -> Tensor:
    return m.o(m.c(x).unflatten(1, (2, 6)).softmax(2).mean(1).amax(-1))


def largest_of_groups(m: Any, x: Tensor) -> Tensor:
    return m.o(m.c(x).relu().reshape(x.shape[0], 2, 6, -1).amax((1, 3)))


def both_factors(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).unflatten(1, (2, 6)).amax(-1)
    return m.o(h.amax(1)) + m.outer(h.amax(2))


@pytest.mark.parametrize("forward", some([groups_averaged, largest_of_groups, both_factors], 1))
def test_a_score_finds_the_factor_of_a_split_axis_that_it_reads(forward: Forward) -> None:
    net = Net(forward, 12)
    net.o, net.outer = nn.Linear(6, 2, bias=False), nn.Linear(2, 2, bias=False)
    model = converted(net, 12, outputs="antisymmetric")
    found = error(model, 12, torch.neg)
    assert found is not None
    assert found < TOLERANCE
    read = [model.o.weight, *([model.outer.weight] if forward is both_factors else [])]
    assert all(float(w.detach().abs().max()) > 1e-3 for w in read)


# --- an output that is dead at another length for the weights that were drawn --------------------------------------


class DeadWhenShort(nn.Module):
    """Another way below 17 positions, with an output behind a ReLU that is zero there for weights like its own."""

    def __init__(self, short: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.shift, self.short = nn.Conv1d(4, 2, 3, padding=1), nn.Parameter(torch.ones(2)), short

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if x.shape[-1] < 17:
            return (self.short(h).mean(-1) - 9 * self.shift).relu()
        return (h.mean(-1) + self.shift).relu()


@pytest.mark.parametrize(
    "short",
    some([lambda h: h.cumsum(-1), lambda h: h * torch.arange(h.shape[-1]), lambda h: h[..., : h.shape[-1] // 2]], 1),
    ids=["cumsum", "positions", "one half"],
)
def test_lengths_at_which_an_output_is_dead_are_measured_with_other_weights(short: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    net = DeadWhenShort(short)
    plan = plan_conversion(net, torch.zeros(2, 4, 17), outputs="+-")
    if plan.problems:
        return
    converted = plan.apply(net).double().eval()
    with torch.no_grad():
        converted.shift.fill_(-1.0)  # alive
    for length in (17, 16, 12, 8, 30):
        found = error(converted, length, lambda y: y.flip(1))
        assert found is None or found < 1e-10


def test_a_length_at_which_an_output_is_dead_is_no_obstacle() -> None:
    torch.manual_seed(0)
    net = DeadWhenShort(lambda h: h)
    plan = plan_conversion(net, torch.zeros(2, 4, 17), outputs="+-")
    assert not plan.problems
    assert any(n < 17 for n in plan.checked)


# --- samples that influence each other beside an output that holds them on one axis with others ----------------------


@pytest.mark.parametrize("dims", [(0, 2), (0,)])
@pytest.mark.parametrize("flat", some([True, False], 1))
def test_the_largest_of_all_samples_is_found_beside_a_flat_output(dims: tuple[int, ...], flat: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 2, 3, padding=1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = x - x.amax(dims, keepdim=True)
            y = self.out(x.mean(-1))
            return F.softplus(self.conv(h)), y.reshape(-1) if flat else y

    torch.manual_seed(0)
    plan = plan_conversion(Net(), torch.zeros(2, 4, 21), outputs=("+-", "auto"))
    assert plan.problems
    assert "sample" in str(plan.problems[0])


@pytest.mark.parametrize("seed", some(range(3), 1))
def test_a_sign_that_most_weights_leave_alike_is_not_lost(seed: int) -> None:
    """Behind a norm of one channel only a sign is left, which bases share where the bias is large."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.norm(m.c(x).mT)
        return m.a(((h * 2).softmax(1) * h).sum(1))

    torch.manual_seed(seed)
    net = OfParts(forward, c=nn.Conv1d(4, 1, 1), norm=nn.RMSNorm(1), a=nn.Linear(1, 3))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*no longer depends.*")
        convert_model(net, torch.zeros(2, 4, 12))
