"""At no length that a converted model takes is it wrong: it is exact there, or refuses the length."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiers import chosen, some
from torch import Tensor, nn

from rcps_convert import BreaksSymmetryError, bake, convert_model, plan_conversion
from rcps_convert.errors import ConversionError

TOLERANCE = 1e-10
"""Largest deviation of any entry, relative to the largest output, in float64."""

EXAMPLE = torch.zeros(2, 4, 64).double()

LENGTHS = (8, 16, 24, 32, 40, 48, 56, 61, 63, 64, 65, 66, 71, 72, 80, 96, 104, 128, 192, 256)


def bases(length: int, n: int = 3) -> Tensor:
    """Random one-hot DNA, (N, 4, L), float64."""
    generator = torch.Generator().manual_seed(length)
    return F.one_hot(torch.randint(4, (n, length), generator=generator), 4).transpose(1, 2).double()


def complement(x: Tensor) -> Tensor:
    """A to T, C to G, read backwards, entry by entry."""
    return torch.stack([torch.stack([row[3 - i].flip(0) for i in range(4)]) for row in x])


def converted(model: nn.Module, example: Tensor = EXAMPLE, **settings: object) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_model(model.double(), example, **settings).eval()


def outcomes(model: nn.Module, plain: nn.Module, lengths: tuple[int, ...] = LENGTHS) -> dict[int, str]:
    """For each length that the plain forward takes: exact, refused or wrong."""
    found = {}
    for n in lengths:
        x = bases(n)
        try:
            with torch.no_grad():
                plain.double().eval()(x)
        except Exception:  # the model's own error
            continue
        try:
            with torch.no_grad():
                y, r = model(x), model(complement(x))
        except ConversionError:
            found[n] = "refused"
            continue
        found[n] = "exact" if float((y - r).abs().max()) <= TOLERANCE * float(y.abs().max()) else "wrong"
    return found


class Host(nn.Module):
    """A convolution, a step, a linear layer on the mean over positions."""

    def __init__(self, step: Callable[[nn.Module, Tensor], Tensor], width: int = 8, padding: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.step, self.conv, self.out = step, nn.Conv1d(4, width, 3, padding=padding), nn.Linear(width, 1)
        self.emb, self.long = nn.Embedding(64, width), nn.Embedding(400, width)
        self.register_buffer("hann", torch.hann_window(64, periodic=False, dtype=torch.float64))
        self.register_buffer("mask", torch.tril(torch.ones(64, 64)))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.step(self, self.conv(x)).tanh().mean(-1))


def patches(h: Tensor, size: int = 8) -> Tensor:
    """(N, C, L) as means of patches, (N, C, L / size); fails where it does not divide."""
    return h.view(*h.shape[:2], -1, size).mean(-1)


def table(e: nn.Embedding, h: Tensor) -> Tensor:
    """A learned table of positions, (C, L)."""
    return e(torch.arange(h.shape[-1])).T


def doubling_mask(h: Tensor) -> Tensor:
    """Each position attends to those before it, with learned-free weights."""
    n = h.shape[-1]
    scores = torch.zeros(n, n, dtype=h.dtype).masked_fill(torch.ones(n, n).tril() == 0, float("-inf"))
    return h @ scores.softmax(-1).T


STEPS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "patches by view": lambda m, h: h.view(*h.shape[:2], -1, 8).amax(-1),
    "patches by unflatten": lambda m, h: h.unflatten(-1, (-1, 4)).amax(-1),
    "halves by chunk": lambda m, h: torch.maximum(*[p if i else p.flip(-1) for i, p in enumerate(h.chunk(2, -1))]),
    "halves pooled": lambda m, h: F.max_pool1d(h[..., : h.shape[-1] // 2] + h[..., h.shape[-1] // 2 :].flip(-1), 8),
    "table as long as the example": lambda m, h: h + table(m.emb, h),
    "slice of a window": lambda m, h: h * m.hann[: h.shape[-1]],
    "longer table": lambda m, h: h + table(m.long, h),
    "longer table on patches": lambda m, h: patches(h) + table(m.long, patches(h)),
    "table on patches, as long": lambda m, h: patches(h, 1) + m.emb.weight[: h.shape[-1]].T,
    "cumulative sum of one": lambda m, h: F.max_pool1d(h, 64).cumsum(-1),
    "causal mask of one": lambda m, h: doubling_mask(F.avg_pool1d(h, 64)),
    "triangle of one": lambda m, h: F.avg_pool1d(h, 64) @ torch.ones(h.shape[-1] // 64, h.shape[-1] // 64).tril().to(h),
    "positions of one": lambda m, h: F.max_pool1d(h, 64) + torch.arange(h.shape[-1] // 64),
    "positions of one by number": lambda m, h: F.adaptive_avg_pool1d(h, max(1, h.shape[-1] // 64)).cumsum(-1),
    "fixed to a constant": lambda m, h: h * (torch.arange(h.shape[-1]) - 31.5).abs(),
    "centre of the example": lambda m, h: h[..., 20:44] if h.shape[-1] >= 44 else h,
}


@pytest.mark.parametrize("name", some(STEPS, 3))
def test_a_step_is_exact_or_refused_at_every_length(name: str) -> None:
    model = Host(STEPS[name])
    try:
        tied = converted(model)
    except ConversionError:
        return
    found = outcomes(tied, model)
    assert "wrong" not in found.values(), found
    assert found.get(64) == "exact"
    assert outcomes(bake(tied), model) == found


@pytest.mark.parametrize("name", some(STEPS, 2))
def test_valid_lengths_are_lengths_at_which_the_law_holds(name: str) -> None:
    plan = plan_conversion(Host(STEPS[name]).double(), EXAMPLE)
    if plan.problems:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = outcomes(plan.apply(Host(STEPS[name]).double()).eval(), Host(STEPS[name]))
    listed = set(plan.valid_lengths(1, 300))
    assert all(found[n] == "exact" for n in found if n in listed), (found, listed)
    assert not plan.checked or all(found[n] == "exact" for n in plan.checked if n in found)


def fractions(h: Tensor) -> Tensor:
    """Positions from 0 to 1 in float32, which rounds most of them."""
    return torch.arange(h.shape[-1]).float() / (h.shape[-1] - 1)


ROUNDED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "floor of a distance": lambda m, h: h * ((fractions(h) - 0.5).abs() * 10).floor(),
    "bins of a distance": lambda m, h: h * ((2 * fractions(h) - 1).abs() * 5).long(),
    "a comparison": lambda m, h: h * ((torch.linspace(0, 1, h.shape[-1]) - 0.5).abs() * 10 >= 3),
}
"""Steps on distances that are halves at few positions, and elsewhere fractions, of which two mirrored ones differ."""


@pytest.mark.parametrize("length", some([9, 5], 1), ids=["three positions", "two positions"])
@pytest.mark.parametrize("name", some(ROUNDED, 1))
def test_fractions_that_are_exact_at_the_example_only_are_refused_elsewhere(name: str, length: int) -> None:
    def step(model: nn.Module, h: Tensor) -> Tensor:
        return ROUNDED[name](model, h[..., ::4])

    tied = converted(Host(step), torch.zeros(2, 4, length).double())
    found = outcomes(tied, Host(step), tuple(range(length, 300, 4)))
    assert found.pop(length) == "exact"
    assert set(found.values()) == {"refused"}


def interpolated(n: int) -> Tensor:
    return F.interpolate(torch.tensor([[[0.0, 1.0]]]), size=n, align_corners=True, mode="linear")[0, 0]


def of_a_grid(n: int) -> Tensor:
    theta = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    return (F.affine_grid(theta, [1, 1, 1, n], align_corners=True)[0, 0, :, 0] + 1) / 2


PLACES: dict[str, Callable[[int], Tensor]] = {
    "times a number of Python": lambda n: torch.arange(n) * (1 / (n - 1)),
    "in steps of a number": lambda n: torch.arange(0, 1 + 0.5 / (n - 1), 1 / (n - 1))[:n],
    "from a list of Python": lambda n: torch.tensor([i / (n - 1) for i in range(n)]),
    "to a negative power": lambda n: torch.arange(n) * torch.tensor(n - 1.0) ** -1,
    "interpolated": interpolated,
    "normalised": lambda n: F.normalize(torch.arange(n).float(), p=float("inf"), dim=0),
    "a share of a cosine": lambda n: (torch.cos(torch.arange(n) * (torch.pi / (n - 1))) + 1) / 2,
    "sums of shares": lambda n: torch.full((n,), 1 / (n - 1)).cumsum(0) - 1 / (n - 1),
    "divided in a function": lambda n: torch.addcdiv(
        torch.zeros(n), torch.arange(n).float(), torch.full((n,), n - 1.0)
    ),
    "sums of equal weights": lambda n: torch.zeros(n).softmax(0).cumsum(0) - 1 / n / 2,
}
"""Positions from 0 to 1: three are exact, of more most are not."""

SOME = ("to a negative power",)


@pytest.mark.parametrize(
    ("name", "length"),
    chosen([(name, n) for name in PLACES for n in (9, 5)], lambda case: case[0] in SOME and case[1] == 9),
)
def test_however_fractions_are_computed_what_rounds_them_is_refused_elsewhere(name: str, length: int) -> None:
    def step(model: nn.Module, h: Tensor) -> Tensor:
        h = h[..., ::4]
        return h * ((PLACES[name](h.shape[-1]) - 0.5).abs() * 10).floor().to(h.dtype)

    tied = converted(Host(step), torch.zeros(2, 4, length).double())
    found = outcomes(tied, Host(step), tuple(range(length, 300, 4)))
    assert found.pop(length) == "exact"
    assert set(found.values()) == {"refused"}


def test_numbers_that_are_whole_at_the_example_by_chance_are_refused_elsewhere() -> None:
    def step(model: nn.Module, h: Tensor) -> Tensor:
        h = h[..., ::4]
        return h * (torch.arange(h.shape[-1]) * (10 / (h.shape[-1] - 1)) - 5).abs().floor()

    found = outcomes(converted(Host(step), torch.zeros(2, 4, 41).double()), Host(step), tuple(range(41, 120, 4)))
    assert found.pop(41) == "exact"
    assert set(found.values()) == {"refused"}


def sides(h: Tensor, at: Tensor) -> Tensor:
    """The larger of what lies before the middle and of what lies behind it."""
    return torch.maximum((h * (at < 0.5)).mean(-1, keepdim=True), (h * (at > 0.5)).mean(-1, keepdim=True))


def moment(h: Tensor, at: Tensor) -> Tensor:
    return (h * (at - 0.5).sign()).sum(-1, keepdim=True).square()


@pytest.mark.parametrize(("split", "example"), [(sides, 64), pytest.param(moment, 43, marks=pytest.mark.slow)])
def test_the_middle_is_on_neither_side_or_other_lengths_are_refused(
    split: Callable[[Tensor, Tensor], Tensor], example: int
) -> None:
    """Half of 1 is 0.49999997 for 41 times 1 / 82, and the middle then lies on one side."""

    def by_fractions(model: nn.Module, h: Tensor) -> Tensor:
        return split(h, torch.arange(h.shape[-1]) * (1 / (h.shape[-1] - 1)))

    def by_whole_numbers(model: nn.Module, h: Tensor) -> Tensor:
        return split(h, torch.arange(h.shape[-1]) - (h.shape[-1] - 2) / 2)

    tried = tuple(range(79, 99))
    found = outcomes(converted(Host(by_fractions), torch.zeros(2, 4, example).double()), Host(by_fractions), tried)
    assert set(found.values()) == {"refused"}
    found = outcomes(converted(Host(by_whole_numbers)), Host(by_whole_numbers), tried)
    assert set(found.values()) == {"exact"}


def test_constants_that_forward_holds_are_in_its_own_precision_too() -> None:
    """In float64 the distances are whole, and mirrored; in float32 one is 0.9999999 and its mirror image 1.0000002."""

    def step(model: nn.Module, h: Tensor) -> Tensor:
        h = h[..., ::4]
        return h * ((of_a_grid(h.shape[-1]) - 0.5).abs() * 10).floor().to(h.dtype)

    with pytest.raises(ConversionError, match="constant made in forward is not invariant"):
        converted(Host(step), torch.zeros(2, 4, 41).double())


@pytest.mark.parametrize("length", some([9, 5], 1))
def test_whole_distances_are_exact_at_every_length(length: int) -> None:
    def step(model: nn.Module, h: Tensor) -> Tensor:
        h = h[..., ::4]
        near = torch.minimum(torch.arange(h.shape[-1]), torch.arange(h.shape[-1]).flip(0))
        middle = (h.shape[-1] - 1) / 2
        far = (torch.arange(h.shape[-1]) * 0.5 - middle / 2).abs().floor()
        return h * (near >= 2) + h * ((torch.arange(h.shape[-1]) - middle).abs() < 3) + h * far

    found = outcomes(
        converted(Host(step), torch.zeros(2, 4, length).double()), Host(step), tuple(range(length, 300, 4))
    )
    assert set(found.values()) == {"exact"}


def test_most_lengths_of_a_plain_model_stay_open() -> None:
    tied = converted(Host(lambda m, h: F.max_pool1d(h, 3)))
    assert set(outcomes(tied, Host(lambda m, h: F.max_pool1d(h, 3))).values()) == {"exact"}


def test_the_plan_says_which_lengths_were_checked() -> None:
    plan = plan_conversion(Host(lambda m, h: F.max_pool1d(h, 3)).double(), EXAMPLE)
    assert min(plan.checked) < 64 < max(plan.checked)
    assert f"verified at lengths {', '.join(map(str, plan.checked))} too" in str(plan)


def test_a_model_of_one_length_refuses_others_by_name() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.out = nn.Conv1d(4, 8, 3), nn.AdaptiveAvgPool1d(2), nn.Linear(16, 1)

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] not in (64, 1200):
                raise RuntimeError("an odd length")
            h = self.conv(x)
            return self.out((self.pool(h) if x.shape[-1] == 64 else h[..., :2]).flatten(1))

    plan = plan_conversion(Flat().double(), EXAMPLE)
    assert plan.checked == []
    assert "exact at length 64 only (x): a call at another length is refused" in str(plan)
    with pytest.raises(ConversionError, match="an input of 1200 positions, in a model converted at 64"):
        plan.apply(Flat().double())(bases(1200))


def test_already_symmetric_is_tested_at_other_lengths_too() -> None:
    class Symmetric(nn.Module):
        def __init__(self, limit: int) -> None:
            super().__init__()
            self.limit, self.out = limit, nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = x[:, 0] + x[:, 3]
            return self.out(h[:, : self.limit].sum(-1, keepdim=True))

    everywhere = plan_conversion(Symmetric(10**6).double(), EXAMPLE)
    assert everywhere.symmetric
    assert min(everywhere.checked) < 64 < max(everywhere.checked)
    here_only = plan_conversion(Symmetric(64).double(), EXAMPLE)
    assert not here_only.symmetric
    if not here_only.problems:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tied = here_only.apply(Symmetric(64).double())
        assert "wrong" not in outcomes(tied, Symmetric(64)).values()


@pytest.mark.parametrize("samples", [1, 2])
def test_another_number_of_samples_is_checked_too(samples: int) -> None:
    class OneByOne(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 6, 3, padding=1), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            if (x.shape[0] == 1) == (samples == 2):
                h = h * (1 + torch.arange(h.shape[-1]))
            return self.out(h.mean(-1))

    (problem,) = plan_conversion(OneByOne().double(), torch.zeros(samples, 4, 64).double()).problems
    named = {1: "samples of one batch influence each other", 2: "the law fails with 1 sample"}
    assert named[samples] in str(problem)


# --- lengths of which each trace has its own ---------------------------------------------------------


@pytest.mark.parametrize("length", chosen([60, 61, 62, 63, 64], lambda length: length == 63))
def test_an_input_that_is_padded_to_a_multiple_is_exact_at_every_length(length: int) -> None:
    class Pads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 6, 3, padding=1), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            n = x.shape[-1]
            if n % 4:
                x = F.pad(x, (0, 4 - n % 4))
            return self.out(F.max_pool1d(self.conv(x), 4).tanh().mean(-1))

    tied = converted(Pads(), EXAMPLE[..., :length])
    assert set(outcomes(tied, Pads(), tuple(range(40, 70))).values()) == {"exact"}


@pytest.mark.parametrize("spec", ["invariant", "antisymmetric"])
@pytest.mark.parametrize("nested", some([False, True], 1))
def test_train_mode_may_return_more(spec: str, nested: bool) -> None:
    class Aux(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 8, 3, padding=1), nn.Linear(8, 1, bias=False)

        def forward(self, x: Tensor) -> object:
            h = self.conv(x)
            y = self.out(h.tanh().mean(-1))
            if not self.training:
                return {"y": y} if nested else y
            return {"aux": h.square().mean(1), "y": y} if nested else (y, h.square().mean(1))

    wanted = {"y": spec} if nested else spec
    tied = convert_model(Aux().double(), EXAMPLE, outputs=wanted).train()
    with torch.no_grad():
        a, b = tied(bases(64)), tied(complement(bases(64)))
    y, r = (a["y"], b["y"]) if nested else (a[0], b[0])
    assert (r - (y if spec == "invariant" else -y)).abs().max() < TOLERANCE
    aux, other = (a["aux"], b["aux"]) if nested else (a[1], b[1])
    assert (other - aux.flip(-1)).abs().max() < TOLERANCE


@pytest.mark.parametrize("dim", some([1, -2], 1))
def test_channels_taken_by_a_list_before_a_pool_with_a_remainder(dim: int) -> None:
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 8, 3, padding=1), nn.Linear(8, 1)
            self.register_buffer("order", torch.tensor([7, 6, 5, 4, 3, 2, 1, 0]))

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            h = h.index_select(dim, self.order) if dim == 1 else h[:, self.order]
            return self.out(F.max_pool1d(h, 3).tanh().mean(-1))

    tied = converted(Takes())
    assert set(outcomes(tied, Takes(), tuple(range(50, 70))).values()) == {"exact"}


class Marked(nn.Module):
    """Positions beside a learned one, pooled whole at the example's length; what follows reads the pooled length."""

    def __init__(self, last: bool = False, pool: int = 3, narrow: bool = False) -> None:
        super().__init__()
        self.conv, self.token = nn.Conv1d(4, 6, 5, stride=3, padding=1), nn.Parameter(torch.randn(1, 6, 1))
        self.out, self.last, self.pool, self.narrow = nn.Linear(6, 1), last, pool, narrow

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        token = self.token.expand(len(h), -1, -1)
        h = F.max_pool1d(torch.cat([h, token] if self.last else [token, h], -1), self.pool)
        h = F.avg_pool1d(h, h.shape[-1]) if self.narrow else F.lp_pool1d(h, 2, h.shape[-1])
        return self.out(h[..., 0])


@pytest.mark.parametrize(
    ("model", "length"),
    some(
        [
            (lambda: Marked(narrow=True), 8),
            (lambda: Marked(last=True, narrow=True), 8),
            (lambda: Marked(pool=4, narrow=True), 9),
            (lambda: Marked(), 8),
        ],
        1,
    ),
)
def test_a_side_on_which_the_first_lengths_are_refused_is_measured_all_the_same(model, length: int) -> None:
    """Longer calls are refused for the pool's new width, but the next few lengths, at which it has the old one."""
    torch.manual_seed(0)
    net = converted(model(), torch.zeros(2, 4, length).double())
    held = []
    for n in range(length - 3, 4 * length):
        x = bases(n)
        try:
            found = net(x)
        except (ConversionError, RuntimeError):
            continue
        held.append(n)
        assert float((found - net(complement(x))).abs().max()) < TOLERANCE, n
    assert length in held


class InGroups(nn.Module):
    """Positions in groups, of which the example has one; only some lengths far from it have more."""

    def __init__(self, between: Callable[[Tensor], Tensor] | None = None, size: int = 5, stride: int = 2) -> None:
        super().__init__()
        self.conv, self.size = nn.Conv1d(4, 5, 6, stride=stride), size
        self.mix, self.out, self.between = nn.Conv1d(5 * size, 4, 3, padding=1), nn.Linear(4, 1), between

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).unflatten(-1, (-1, self.size)).transpose(2, 3).flatten(1, 2)
        return self.out((self.mix(h) if self.between is None else self.between(self.mix(h))).relu().mean(-1))


@pytest.mark.parametrize(
    ("model", "length"),
    some(
        [
            (lambda: InGroups(lambda h: h.cumsum(-1)), 15),
            (lambda: InGroups(), 15),
            (lambda: InGroups(), 14),
            (lambda: InGroups(lambda h: h * (1 + torch.arange(h.shape[-1])), size=4, stride=3), 17),
        ],
        1,
    ),
)
def test_a_hidden_length_of_one_that_stays_near_the_example_is_measured_where_it_does_not(model, length: int) -> None:
    torch.manual_seed(0)
    plain = model()
    found = outcomes(converted(plain, torch.zeros(2, 4, length).double()), model().double(), tuple(range(10, 130)))
    assert "wrong" not in found.values()
    assert len(found) > 10
    assert found[length] == "exact"


READ_AT_FEW: dict[str, Callable[[Tensor], Tensor]] = {
    "the two largest": lambda h: h.topk(2, -1).values.mean(-1),
    "the largest": lambda h: h.amax(-1),
    "the third": lambda h: h.kthvalue(h.shape[-1] - 2, -1).values,
}


@pytest.mark.filterwarnings("ignore:exact at length")
@pytest.mark.parametrize("read", some(READ_AT_FEW, 1))
def test_a_fault_at_a_seam_shows_though_few_positions_are_read(read: str) -> None:
    """Halves that are exchanged are unlike each other at odd lengths; only the largest numbers at the seam tell."""

    class Exchanged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.out = nn.Conv1d(4, 8, 3, padding=1), nn.Linear(8, 3)
            self.weight = nn.Parameter(torch.randn(8, 8, 3) * 0.3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.cat(self.stem(x).chunk(2, -1)[::-1], -1)
            return self.out(READ_AT_FEW[read](F.conv1d(h, self.weight.abs())))

    wrong = list[int]()
    for seed in (1, 3):
        torch.manual_seed(seed)
        model = convert_model(Exchanged(), (2, 4, 64)).double().eval()
        x = F.one_hot(torch.randint(4, (256, 65)), 4).mT.double()
        try:
            wrong.append(int(((model(x) - model(x.flip(1, 2))).abs().amax(1) > 1e-9).sum()))
        except BreaksSymmetryError:
            wrong.append(0)
    assert wrong == [0, 0]
