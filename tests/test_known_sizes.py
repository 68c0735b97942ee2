"""Whether forward can go by a size: sizes are given to it as tensors, and plain values made of them are seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from by_hand import Net, conv
from einops import rearrange
from torch import Tensor, nn

from rcps_convert.graph.sandbox import mode
from rcps_convert.measure.known_sizes import can_go_by_sizes, goes_by_no_size
from rcps_convert.measure.lengths import Variants
from rcps_convert.measure.ways import turns_of_samples

EXAMPLE = (torch.zeros(2, 4, 20),)


def attend(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).mT
    batch, length, width = h.shape
    q = h.view(batch, length, 2, width // 2).transpose(1, 2)
    return ((q @ q.mT / (width // 2) ** 0.5).softmax(-1) @ q).transpose(1, 2).reshape(batch, length, width)


ONLY_PASSED_ON: list[Callable[[Any, Tensor], Tensor]] = [
    lambda m, x: m.norm(m.c(x)).relu().mean(-1),
    lambda m, x: m.c(x).view(x.size(0), -1),
    lambda m, x: m.c(x).reshape((*x.shape[:1], -1)),
    attend,
    lambda m, x: m.c(x) * torch.arange(x.shape[-1]) / (x.shape[-1] - 1),
    lambda m, x: m.c(x) + torch.zeros(len(m.c.weight), x.size(2)),
    lambda m, x: F.pad(m.c(x), (0, -x.size(-1) % 8))[..., : x.shape[-1]],
    lambda m, x: F.interpolate(m.c(x).sum(-1, keepdim=True), size=x.shape[-1]),
    lambda m, x: m.c(x).sum(-1, keepdim=True).expand(*x.shape[:1], -1, x.shape[-1]),
    lambda m, x: rearrange(m.c(x), "b c l -> b l c"),
    lambda m, x: m.c(x).max(-1).values / x.shape.numel(),
    lambda m, x: m.c(x) if x.ndim == 3 and x.dtype.is_floating_point and x.device.type == "cpu" else x,
    lambda m, x: F.dropout(m.c(x), 0.1, m.training).view(-1, m.c.weight.shape[0]),
    lambda m, x: m.lstm(m.c(x).mT)[0],
]
MADE_PLAIN: list[Callable[[Any, Tensor], Any]] = [
    lambda m, x: x if x.shape[-1] > 10 else 0,
    lambda m, x: x.shape[-1] % 4 and x,
    lambda m, x: x.shape == m.c.weight.shape,
    lambda m, x: x.shape.numel() // 7 or x,
    lambda m, x: len(x),
    lambda m, x: [*x],
    lambda m, x: x.chunk(3, -1),
    lambda m, x: sum(x * i for i in range(x.shape[0])),
    lambda m, x: [1, 2, 3, 4][x.size(0)],
    lambda m, x: [1, 2, 3][: x.size(0)],
    lambda m, x: {20: 1}.get(x.shape[-1], 3),
    lambda m, x: {20: 1}.get(x.shape[-1] // 2 * 2, 3),
    lambda m, x: x.shape[-1] in {20},
    lambda m, x: math.log2(x.shape[-1]),
    lambda m, x: int(x.shape[-1] / 100),
    lambda m, x: isinstance(x.shape[-1], int) and isinstance(x.shape, torch.Size) and bool(x.shape[-1] > 100),
    lambda m, x: f"{x.shape[-1]}",
    lambda m, x: max(3, x.shape[-1]),
    lambda m, x: x.numel() > 100,
    lambda m, x: x.stride(0),
    lambda m, x: x.is_contiguous(),
    lambda m, x: x.sum().item(),
    lambda m, x: x.sum() > 0 or x,
]


def net(body: Callable[[Any, Tensor], Any]) -> nn.Module:
    return Net(body, c=conv(), norm=nn.BatchNorm1d(8), lstm=nn.LSTM(8, 4, batch_first=True)).float()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("body", ONLY_PASSED_ON)
def test_sizes_that_are_passed_on_to_torch_decide_nothing(body: Any, training: bool) -> None:
    model = net(body)
    with mode(model, training):
        assert not can_go_by_sizes(model, EXAMPLE)


@pytest.mark.parametrize("body", MADE_PLAIN)
def test_a_plain_value_of_a_size_may_decide(body: Any) -> None:
    assert can_go_by_sizes(net(body), EXAMPLE)


@pytest.mark.parametrize(
    ("body", "by_none"),
    [
        (lambda m, x: m.norm(m.c(x)).relu().view(x.size(0), -1), True),
        (lambda m, x: m.c(x) if m.training else m.c(x).relu(), True),
        (lambda m, x: m.c(x)[..., : 5 if m.training and x.shape[-1] > 300 else None], False),
        (lambda m, x: m.c(x)[..., : 5 if not m.training and len(x) > 300 else None], False),
    ],
    ids=["none", "another way in train mode", "in train mode", "in eval mode"],
)
def test_a_size_is_asked_for_in_either_mode(body: Any, by_none: bool) -> None:
    model = net(body)
    before = {name: b.clone() for name, b in model.named_buffers()}
    assert goes_by_no_size(model, EXAMPLE) is by_none
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())


class Padding(nn.Module):
    """Pads where an operator raises, and asks for no size."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            return x.view(-1, 4).sum(-1)
        except RuntimeError:
            return x.sum()[None]


def test_a_caught_error_is_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """No size is asked for, yet some do not fit: of a few sizes on either side, these are other ways."""
    x = torch.zeros(2, 2)
    assert not can_go_by_sizes(Padding(), (x,))
    variants = Variants(Padding(), (x,), [None])
    monkeypatch.setattr(variants, "with_samples", lambda n: type("V", (), {"example": (x[:1].expand(n, 2).clone(),)}))
    assert {t.size for t in turns_of_samples(variants, 2)} >= {1, 3}
