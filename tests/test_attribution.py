"""What attribution tools need of a converted model: rules of re-anchored pools, and partners among the filters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiers import some
from torch import Tensor, nn

from rcps_convert import ConversionError, convert_model, deep_lift_rule, filter_pairs

TOLERANCE = 1e-12


class Pooled(nn.Module):
    """A convolution, a pool and a read-out. (N, 4, L) -> (N, 1)."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.conv, self.pool, self.out = nn.Conv1d(4, channels, 5, padding=2), nn.MaxPool1d(4), nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pool(self.conv(x).tanh()).mean(-1))


def stock(module: Any, *given: Any) -> Any:
    """A rule of the plain gradient, computed as tangermeme's and captum's are: by the stock pool of what went in."""
    gradient = given[-1][0] if isinstance(given[-1], tuple) else given[-1]
    x = module.input.clone().requires_grad_()
    y = F.max_pool1d(x, module.kernel_size, module.stride)
    assert torch.equal(y, module.output)
    if len(given) == 4:
        assert torch.equal(given[0], module.input)
        assert torch.equal(given[1], module.output)
    (found,) = torch.autograd.grad(y, x, gradient)
    return (found,) if isinstance(given[-1], tuple) else found


@pytest.mark.parametrize("length", some([40, 41, 43], 2))
@pytest.mark.parametrize("channels", some([6, 7], 1))
@pytest.mark.parametrize("way", ["tangermeme", "captum"])
def test_a_rule_sees_both_readings_of_a_reanchored_pool(way: str, channels: int, length: int) -> None:
    """The gradient of the pool as it runs is the rule's, though the rule knows the stock pool only."""
    torch.manual_seed(0)
    model = convert_model(Pooled(channels), torch.zeros(2, 4, length), verify=False).double()
    x = torch.randn(3, channels, length, dtype=torch.float64, requires_grad=True)
    y = model.pool(x)
    gradient = torch.randn(y.shape, dtype=torch.float64)
    (expected,) = torch.autograd.grad(y, x, gradient)
    model.pool.input, model.pool.output = x.detach(), y.detach()
    if way == "captum":
        found = deep_lift_rule(stock)(model.pool, x.detach(), y.detach(), torch.zeros_like(x), gradient)
    else:
        (found,) = deep_lift_rule(stock)(model.pool, (torch.zeros_like(x),), (gradient,))
    assert float((found - expected).abs().max()) < TOLERANCE
    assert torch.equal(model.pool.output, y)


def test_a_plain_pool_has_the_rule_as_it_is() -> None:
    pool = nn.MaxPool1d(4)
    pool.input = torch.randn(2, 3, 16)
    pool.output = pool(pool.input)
    gradient = torch.ones_like(pool.output)
    (found,) = deep_lift_rule(stock)(pool, (torch.zeros(2, 3, 16),), (gradient,))
    assert torch.equal(found, stock(pool, (pool.input,), (gradient,))[0])


def test_partners_find_the_reverse_complement() -> None:
    torch.manual_seed(0)
    model = convert_model(Pooled(7), torch.zeros(2, 4, 40), verify=False)
    pairs = filter_pairs(model)
    assert list(pairs) == ["conv"]
    assert sorted({i for pair in pairs["conv"] for i in pair}) == list(range(7))
    for i, j in pairs["conv"]:
        assert torch.equal(model.conv.weight[i], model.conv.weight[j].flip(0, 1))
    assert [pair for pair in pairs["conv"] if pair[0] == pair[1]] == [(6, 6)]


def test_transposed_convolutions_count_their_results() -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up, self.out = nn.Conv1d(4, 6, 3), nn.ConvTranspose1d(6, 8, 3), nn.Conv1d(8, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.up(self.conv(x).relu()).relu())

    pairs = filter_pairs(convert_model(Up(), torch.zeros(2, 4, 20), verify=False))
    assert {path: len(found) for path, found in pairs.items()} == {"conv": 3, "up": 4, "out": 1}


@pytest.mark.parametrize("strategy", ["plain", "conjoined"])
def test_a_model_without_tied_filters_is_refused(strategy: str) -> None:
    model = Pooled()
    if strategy == "conjoined":
        model = convert_model(model, torch.zeros(2, 4, 40), strategy=strategy, verify=False)
    with pytest.raises(ConversionError, match="no tied convolution"):
        filter_pairs(model)
