"""Writes into parts of a tensor, channels that are shifted, and fixed filters beside their mirror images."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lawful import assert_exact
from tiers import chosen
from torch import Tensor, nn

from rcps_convert import ConversionError, convert_model, plan_conversion
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.errors import Refusal
from rcps_convert.graph.export import trace
from rcps_convert.graph.run import interpret
from rcps_convert.infer.parts_written import with_writes_as_results
from rcps_convert.rules.pieces import slice_

X = torch.zeros(2, 4, 24)

Step = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """A step between two convolutions. (N, 4, L) -> (N, 2)."""

    def __init__(self, step: Step, c: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.step = step
        self.stem, self.conv, self.out = nn.Conv1d(4, c, 5, padding=2), nn.Conv1d(c, c, 3), nn.Linear(c, 2)
        if step is scanned:
            self.forth, self.back = nn.GRUCell(c, c), nn.GRUCell(c, c)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(self.step(self, self.stem(x).relu())).relu().mean(-1))


# --- writes ---


def shifted_like(m: Any, h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    out[:, :2, :-1] = h[:, :2, 1:]
    out[:, 2:4, 1:] = h[:, 2:4, :-1]
    out[:, 4:] = h[:, 4:]
    return out


def shifted_zeros(m: Any, h: Tensor) -> Tensor:
    out = torch.zeros(h.shape, dtype=h.dtype)
    out[:, :2, :-1] = h[:, :2, 1:]
    out[:, 2:4, 1:] = h[:, 2:4, :-1]
    out[:, 4:] = h[:, 4:]
    return out


def blocks(m: Any, h: Tensor) -> Tensor:
    out = h.new_zeros(h.shape)
    out[:, :3] = h[:, :3].exp()
    out[:, 3:] = h[:, 3:]
    return out


def middle(m: Any, h: Tensor) -> Tensor:
    out = torch.full_like(h, -1.0)
    out[:, :, 3:-3] = h[:, :, 3:-3]
    return out


def padded(m: Any, h: Tensor) -> Tensor:
    out = h.new_zeros(*h.shape[:2], h.shape[2] + 6)
    out[..., 3:-3] = h
    return out


def ends(m: Any, h: Tensor) -> Tensor:
    h = h + 1
    h[..., 0], h[..., -1] = 0, 0
    return h


def neighbours(m: Any, h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    out[..., 1:] += h[..., :-1]
    out[..., :-1] += h[..., 1:]
    return out


def scaled_inside(m: Any, h: Tensor) -> Tensor:
    h = h.clone()
    h[..., 5:-5] *= 2
    return h


def channels(m: Any, h: Tensor) -> Tensor:
    out = torch.empty_like(h)
    for i in range(h.shape[1]):
        out[:, i] = h[:, h.shape[1] - 1 - i]
    return out


def scanned(m: Any, h: Tensor) -> Tensor:
    h = h.mT
    forth, back = torch.zeros_like(h), torch.zeros_like(h)
    a = b = h.new_zeros(len(h), h.shape[2])
    for t in range(h.shape[1]):
        a = m.forth(h[:, t], a)
        forth[:, t] = a
    for t in reversed(range(h.shape[1])):
        b = m.back(h[:, t], b)
        back[:, t] = b
    return (forth + back).mT


WRITES: dict[str, Step] = {
    f.__name__: f
    for f in (
        *(shifted_like, shifted_zeros, blocks, middle, padded, ends, neighbours, scaled_inside, channels),
        *(scanned,),
    )
}


@pytest.mark.parametrize("name", chosen(WRITES, lambda name: name in ("blocks", "padded", "middle")))
def test_a_tensor_that_is_written_into_converts(name: str) -> None:
    example = X if name != "scanned" else X[..., :7]
    converted = convert_model(Net(WRITES[name]), example, verify=False)
    assert_exact(converted, example, lengths=(None, 17, 30) if name != "scanned" else (None,))


def read_across(m: Any, h: Tensor) -> Tensor:
    """A view that is read after the tensor was written: it shows what was written."""
    out = torch.zeros_like(h)
    seen = out[:, :2]
    out[:, :2] = h[:, :2]
    return out + seen.sum(1, keepdim=True)


def turned(m: Any, h: Tensor) -> Tensor:
    """A write through a view of another kind."""
    out = torch.zeros_like(h)
    out.mT[:, 2:-2] = h.mT[:, 2:-2]
    return out


def fed_back(m: Any, h: Tensor) -> Tensor:
    """Each position is computed from the one that was written before it."""
    out = torch.zeros_like(h)
    out[..., 0] = h[..., 0]
    for t in range(1, h.shape[2]):
        out[..., t] = 0.5 * out[..., t - 1] + h[..., t]
    return out


def by_name(m: Any, h: Tensor) -> Tensor:
    """A view with a name that is written into."""
    out = torch.zeros_like(h)
    inside = out[..., 1:-1]
    inside.copy_(h[..., 1:-1])
    inside.mul_(2)
    return out


def view_of_a_view(m: Any, h: Tensor) -> Tensor:
    """A view through which is written and read."""
    out = torch.zeros_like(h)
    half = out[:, :4]
    half[..., 1:-1] = h[:, :4, 1:-1]
    return out + half[..., :1].mean(1, keepdim=True)


EVERY = [*WRITES.values(), fed_back, by_name, view_of_a_view, read_across, turned]


@pytest.mark.parametrize("step", EVERY, ids=lambda step: step.__name__)
def test_rewritten_traces_compute_the_same(step: Step) -> None:
    """Node by node, without the package's rules."""
    model, x = Net(step).double().eval(), torch.rand(3, 4, 7, dtype=torch.float64)
    if step is scanned:
        x = x[..., :5]
    plain = trace(model, (x,))
    new = with_writes_as_results(plain)
    assert (new is plain) == (step in (by_name, view_of_a_view, read_across, turned))
    values = {n: x if s.kind == "input" else s.value for n, s in plain.sources.items()}
    found = [interpret(t, {n: v.clone() for n, v in values.items()})[0] for t in (plain, new)]
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    torch.testing.assert_close(found[1], model(x), rtol=0, atol=1e-12)


def one_way(m: Any, h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    out[..., 1:] = h[..., :-1]
    return out


def over_others(m: Any, h: Tensor) -> Tensor:
    out = h.clone()
    out[..., 1:] = h[..., :-1]
    return out


def test_what_is_written_nearer_to_one_end_is_refused_with_the_way_out() -> None:
    problem = plan_conversion(Net(one_way), X, verify=False).problems[0]
    assert "a write into x[..., 1:]" in str(problem.do)  # done so, it is `shifted_like`
    problem = plan_conversion(Net(over_others), X, verify=False).problems[0]
    assert "puts positions 1 from the left end and 0 from the right" in problem.what
    assert "as many, as much nearer, to the other" in str(problem.do)


# --- shifts ---


def either_way(m: Any, h: Tensor) -> Tensor:
    a, b, rest = h[:, :2], h[:, 2:4], h[:, 4:]
    return torch.cat([a.roll(1, -1), b.roll(-1, -1), rest], 1)


def three_ways(m: Any, h: Tensor) -> Tensor:
    a, b, c = h.split([3, 2, 3], 1)
    return torch.cat([a.roll(1, -1), b, c.roll(-1, -1)], 1)


def last(m: Any, h: Tensor) -> Tensor:
    return torch.cat([t.roll(k, 1) for t, k in zip(h.mT.chunk(2, -1), (2, -2), strict=True)], -1).mT


def four_ways(m: Any, h: Tensor) -> Tensor:
    """As in AS-MLP: padded, shifted, and cut again."""
    parts = F.pad(h, (2, 2)).chunk(4, 1)
    return torch.cat([t.roll(k, 2) for t, k in zip(parts, (-2, -1, 1, 2), strict=True)], 1).narrow(2, 2, h.shape[2])


SHIFTS: dict[str, Step] = {f.__name__: f for f in (either_way, three_ways, last, four_ways)}


@pytest.mark.parametrize("name", chosen(SHIFTS, lambda name: name == "last"))
def test_channels_that_are_shifted_either_way_change_places(name: str) -> None:
    converted = convert_model(Net(SHIFTS[name]), X, verify=False)
    assert_exact(converted, X, lengths=(None, 17, 30))


def uneven(m: Any, h: Tensor) -> Tensor:
    a, b, rest = h.split([2, 3, 3], 1)
    return torch.cat([a.roll(1, -1), b.roll(-1, -1), rest], 1)


def test_other_shifts_are_refused_with_the_way_out() -> None:
    for step in (uneven, lambda m, h: h.roll(1, -1)):
        with pytest.raises(ConversionError) as caught:
            convert_model(Net(step), X, verify=False)
        assert "move other channels as far to the other side, as many of them" in str(caught.value)


# --- fixed filters ---


HALVES = torch.tensor([[[0.5, 0.5]], [[0.5, -0.5]]])
SLOPES = torch.tensor([[[1.0, 2, 1]], [[-1, 0, 1]], [[1, -2, 1]]])


class OfBases(nn.Module):
    """A bank of fixed filters over each base. (N, 4, L) -> (N, 2)."""

    def __init__(self, bank: Tensor, stride: int = 1) -> None:
        super().__init__()
        self.register_buffer("bank", bank)
        self.mix, self.out, self.stride = nn.Conv1d(4 * len(bank), 6, 3, padding=1), nn.Linear(6, 2), stride

    def forward(self, x: Tensor) -> Tensor:
        h = F.conv1d(x, self.bank.repeat(4, 1, 1), stride=self.stride, groups=4)
        return self.out(self.mix(h).relu().mean(-1))


class OfChannels(nn.Module):
    """Of channels, transformed and back again. (N, 4, L) -> (N, 2)."""

    def __init__(self, bank: Tensor, stride: int = 1) -> None:
        super().__init__()
        self.register_buffer("bank", bank)
        self.stem, self.back, self.stride = nn.Conv1d(4, 4, 5, padding=2), nn.Linear(4, 2), stride

    def forward(self, x: Tensor) -> Tensor:
        bank = self.bank.repeat(4, 1, 1)
        h = F.conv1d(self.stem(x), bank, stride=self.stride, groups=4).tanh()
        return self.back(F.conv_transpose1d(h, bank, stride=self.stride, groups=4).relu().mean(-1))


BANKS = {
    "Haar": lambda: OfBases(HALVES, 2),
    "slopes": lambda: OfBases(SLOPES),
    "Haar, undone": lambda: OfChannels(HALVES, 2),
    "slopes of channels": lambda: OfChannels(SLOPES),
}


@pytest.mark.parametrize("name", chosen(BANKS, lambda name: name != "slopes"))
def test_even_and_odd_filters_in_one_bank_convert(name: str) -> None:
    torch.manual_seed(0)
    assert_exact(convert_model(BANKS[name](), X, verify=False), X, lengths=(None, 30))


def test_filters_without_mirror_images_are_refused_by_the_name_of_their_buffer() -> None:
    daubechies = torch.tensor([[[-0.1294, 0.2241, 0.8365, 0.4830]], [[-0.4830, 0.8365, -0.2241, -0.1294]]])
    problem = plan_conversion(OfBases(daubechies, 2), X, verify=False).problems[0]
    assert "what forward reads of the buffer bank is not invariant" in problem.what


# --- convolutions by Fourier transforms ---


@pytest.mark.parametrize(("size", "first"), [(32, 30), (9, 0), (7, 3)])
def test_positions_reversed_in_a_circle_are_not_cut(size: int, first: int) -> None:
    """As those of a causal convolution by Fourier transforms; the way out is `TwoLongConvolutions` of the zoo."""
    term = ax.permutation([(first - i) % size for i in range(size)])
    with pytest.raises(Refusal) as caught:
        slice_(SimpleNamespace(op=torch.ops.aten.slice.Tensor), Action((ax.trivial(2), term)), 1, 0, size // 2)
    assert f"cuts {size} positions that are reversed in a circle" in caught.value.what
    assert "convolve from either end and add" in str(caught.value.do)


class EveryOther(nn.Module):
    """Twice as many positions: written by two layers, or by one that makes both, as the refusal says."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv1d(4, 8, 5, padding=2), nn.Conv1d(8, 2, 3, padding=1)
        self.makes = nn.ModuleList(nn.Conv1d(8, 16 // layers, 3, padding=1) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu()
        if len(self.makes) == 1:
            return self.last(self.makes[0](h).view(*h.shape[:2], 2, -1).mT.flatten(-2))
        out = h.new_zeros(*h.shape[:2], 2 * h.shape[-1])
        out[..., ::2], out[..., 1::2] = self.makes[0](h), self.makes[1](h)
        return self.last(out)


def test_every_other_position_is_written_by_one_layer() -> None:
    plan = plan_conversion(EveryOther(2), torch.zeros(2, 4, 12), outputs="..")
    assert "let one make both" in plan.problems[0].do
    assert_exact(convert_model(EveryOther(1), torch.zeros(2, 4, 12), outputs=".."), torch.zeros(2, 4, 12), outputs="..")
