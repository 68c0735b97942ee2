"""Where stretches begin: beside a constant that is averaged, and inside of the call around which they end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lawful import assert_exact
from oracle import assert_law
from tiers import some
from torch import Tensor, nn

from rcps_convert import UpperTriangle, convert_model, plan_conversion

EXAMPLE = torch.zeros(2, 4, 22)


class Turned(nn.Module):
    """Attention whose queries and keys are turned by their positions. (N, C, L) -> (N, C, L)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.project, self.back = nn.Linear(c, 12), nn.Linear(4, c)

    def turn(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[1])[:, None] / torch.tensor([3.0, 11.0, 3.0, 11.0])
        a, b = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    def forward(self, h: Tensor) -> Tensor:
        query, key, value = self.project(h.mT).chunk(3, -1)
        scores = self.turn(query) @ self.turn(key).mT
        return h + self.back(scores.softmax(-1) @ value).mT


class Averaged(nn.Module):
    """A table of positions that is to be averaged, between two other steps."""

    def __init__(self, before: nn.Module, behind: nn.Module) -> None:
        super().__init__()
        self.before, self.behind = before, behind
        self.stem, self.out = nn.Conv1d(4, 6, 3, padding=1), nn.Linear(6, 2)
        self.register_buffer("table", torch.sin(torch.arange(60)[:, None] / 9 ** (torch.arange(6) / 6)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(torch.tanh(self.stem(x)))
        return self.out(self.behind(h + self.table[: h.shape[-1]].T).mean(-1))


@pytest.mark.parametrize("behind", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_table_is_averaged_beside_a_rotation(*, behind: bool) -> None:
    steps = (nn.Tanh(), Turned(6)) if behind else (Turned(6), nn.Tanh())
    model = Averaged(*steps).double()
    converted = convert_model(model, EXAMPLE.double(), symmetrise_buffers=True, outputs="invariant", verify=False)
    assert_exact(converted, EXAMPLE.double(), outputs="invariant")


class Marked(nn.Module):
    """Appends where each position lies, from -1 to 1. (N, C, L) -> (N, C + 1, L)."""

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([h, torch.linspace(-1, 1, h.shape[-1]).to(h).expand(len(h), 1, -1)], 1)


def largest(h: Tensor) -> Tensor:
    """The larger ones of the two halves' largest. (N, C, L) -> (N, C)."""
    left, right = h.chunk(2, -1)
    return torch.maximum(left.amax(-1), right.amax(-1))


class Compared(nn.Module):
    """Halves are compared around a module that made the positions, in the model or in a part of it."""

    def __init__(self, *marks: nn.Module) -> None:
        super().__init__()
        self.stem, self.marks = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.Tanh()), nn.Sequential(*marks)
        with torch.no_grad():
            self.out = nn.LazyLinear(2)
            self(torch.zeros(2, 4, 22))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(largest(self.marks(self.stem(x))))


class Added(nn.Module):
    """Positions marked in a call of its own, their halves compared, and added to every position."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.mark, self.mix = Marked(), nn.Linear(c + 1, c)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.mix(largest(self.mark(h))).unsqueeze(-1)


@pytest.mark.parametrize(
    "make",
    some(
        [
            lambda: Compared(Marked()),
            lambda: Compared(Marked(), nn.Conv1d(7, 5, 3, padding=1), Marked()),
            lambda: Compared(Added(6), nn.Tanh(), Added(6)),
        ],
        1,
    ),
    ids=["around one", "the nearer one", "in two parts"],
)
def test_what_a_module_made_is_compared_around_it(make: Callable[[], nn.Module]) -> None:
    model = make().double()
    assert_exact(
        convert_model(model, EXAMPLE.double(), outputs="invariant", verify=False), EXAMPLE.double(), outputs="invariant"
    )


# --- in one call, and in another one ----------------------------------------------------------------


class Pairs(nn.Module):
    """(N, C, L) -> (N, C, L, L), the same in both orders."""

    def forward(self, h: Tensor) -> Tensor:
        m = h[..., :, None] * h[..., None, :].tanh()
        return (m + m.mT) / 2


class Upper(nn.Module):
    """The contacts above a diagonal, taken from the flattened map in one of several ways. (N, C, L, L) -> (N, P, C)."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, m: Tensor) -> Tensor:
        n = m.shape[-1]
        at = torch.triu_indices(n, n, 2)
        flat, places = m.reshape(*m.shape[:2], n * n), at[0] * n + at[1]
        if self.how == "gather":
            return torch.gather(flat, 2, places[None, None].expand(*m.shape[:2], -1)).mT
        return (flat[:, :, places] if self.how == "index" else flat.index_select(2, places)).mT


@pytest.mark.parametrize("how", some(["gather", "index", "index_select"], 1))
def test_a_stretch_may_end_in_a_call_beside_the_one_it_begins_in(how: str) -> None:
    """Which contact has which partner shows where the map was made the same in both orders."""
    torch.manual_seed(0)
    example, outputs = torch.zeros(2, 4, 12), UpperTriangle(2, "..")
    model = nn.Sequential(nn.Conv1d(4, 6, 5, padding=2), Pairs(), Upper(how), nn.Linear(6, 2))
    plan = plan_conversion(model, example, outputs=outputs, verify=False)
    assert not plan.problems, str(plan)
    assert_law(plan.apply(model), example, outputs=outputs, tolerance=1e-10)
