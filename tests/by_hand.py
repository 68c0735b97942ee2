"""The law written out by hand, for tests that do not trust the library's own check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

X = torch.zeros(2, 4, 21)
"""The example most tests convert for."""


class Net(nn.Module):
    """A forward given as a function of the module and its input, with named submodules."""

    def __init__(self, function: Callable[..., Any], **modules: Any) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def bases(samples: int = 6, length: int = 21, seed: int = 0) -> Tensor:
    """Random one-hot DNA, (N, 4, L), float64."""
    ids = torch.randint(4, (samples, length), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(ids, 4).transpose(1, 2).double()


def hard_inputs(length: int = 21) -> Tensor:
    """Real input that random DNA never is, (N, 4, L): N columns, all N, runs, soft bases, masked, N as quarters."""
    x = bases(12, length, seed=5)
    x[0, :, 3:14] = 0
    x[1] = 0
    for i in range(4):
        x[2 + i] = 0
        x[2 + i, i] = 1
    x[6] = 0
    x[6, 0, ::2], x[6, 2, 1::2] = 1, 1
    x[7] = torch.rand(4, length, generator=torch.Generator().manual_seed(6)).double().softmax(0)
    x[8] = 0.25
    x[9, :, 4:9] *= 0.5
    x[10, :, 4:15] = 0.25
    return x


def mirror(x: Tensor) -> Tensor:
    """The reverse complement of (N, A, L) with bases in the order ACGT."""
    return x[:, [3, 2, 1, 0]].flip(-1)


def worst(found: Tensor, expected: Tensor) -> float:
    """The largest difference of an entry, in units of its own size or, if larger, of the middle one."""
    found, expected = found.detach(), expected.detach()
    size = expected.abs().clamp(min=max(float(expected.abs().median()), 1e-12))
    return float(((found - expected).abs() / size).max())


def randomised(model: nn.Module) -> nn.Module:
    """The model in float64 and eval mode, every parameter moved."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


def conv(filters: int = 8, kernel: int = 3) -> nn.Conv1d:
    """A convolution of DNA that keeps the length."""
    return nn.Conv1d(4, filters, kernel, padding=kernel // 2)
