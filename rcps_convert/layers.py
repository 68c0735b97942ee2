"""Layers with reverse-complement parameter sharing: `RCPSInput`, `RCPS`, `RCPSBatchNorm`, `RCPSOutput`.

Names, constructor arguments, state_dict keys and network outputs are those of the package
``rcps-pytorch`` 0.0.2; a network built of its layers needs only the import changed.

Between `RCPSInput` and `RCPSOutput` a tensor of C learned kernels has 2C channels: the first C are read
on the given strand, the last C on its reverse complement, *in the coordinates of that strand*. So
``(N, 2C, L)`` is a view of ``(2N, C, L)``, each layer is one convolution or norm on that view, nothing is
flipped or copied on the way, and whatever a layer does to positions (stride, even kernels, pooling with a
remainder) it does to both strands alike. ``rcps-pytorch`` keeps the last C channels in the coordinates of
the given strand, in reversed order: its intermediate tensors are these with
``x[:, C:] = x[:, C:].flip(1, 2)``.

Source: Shrikumar, Greenside, Kundaje 2017; Zhou et al., MLCB 2022.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .algebra.action import ActionMap
from .algebra.arguments import check_choice, check_count, check_switch
from .algebra.specs import OneHot


def _strands(x: Tensor) -> Tensor:
    """(N, 2C, ...) as (2N, C, ...): a view when x is contiguous."""
    return x.reshape(2 * x.shape[0], x.shape[1] // 2, *x.shape[2:])


def _channels(x: Tensor) -> Tensor:
    """(2N, C, ...) as (N, 2C, ...)."""
    return x.reshape(x.shape[0] // 2, 2 * x.shape[1], *x.shape[2:])


def _check_strands(x: Tensor, kernels: int | None = None) -> None:
    """Refuse what is no tensor of two strands' channels.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has another number of channels.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x={x!r}: give a tensor of shape (N, 2C, L)")
    wanted = "an even number of" if kernels is None else str(2 * kernels)
    if x.dim() < 2 or (x.shape[1] % 2 if kernels is None else x.shape[1] != 2 * kernels):
        raise ValueError(f"{wanted} channels expected, two strands of {kernels or 'as many'}: {tuple(x.shape)}")


class RCPS(nn.Module):
    """Convolution of both strands with the same kernels. (N, 2 in_kernels, L) -> (N, 2 out_kernels, L').

    Args:
        in_kernels: kernels of the layer before.
        out_kernels: kernels to learn; the result has twice as many channels.
        kernel_size: positions of a kernel.
        padding: ``"valid"``, ``"same"``, or positions on each side.
        bias: learn one number per kernel.
        stride, dilation, groups: as in `nn.Conv1d`; every kernel reads in_kernels / groups channels.

    Raises:
        ValueError: `groups` does not divide, or ``"same"`` with a stride.
    """

    def __init__(
        self,
        in_kernels: int,
        out_kernels: int,
        kernel_size: int,
        padding: str | int = "valid",
        *,
        bias: bool = False,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        sizes = {"in_kernels": in_kernels, "out_kernels": out_kernels, "kernel_size": kernel_size, "stride": stride}
        for name, value in {**sizes, "dilation": dilation, "groups": groups}.items():
            check_count(name, value)
        if isinstance(padding, str):
            check_choice("padding", padding, ("valid", "same"))
        else:
            check_count("padding", padding, low=0)
        check_switch("bias", bias)
        if in_kernels % groups or out_kernels % groups:
            raise ValueError(f"groups={groups} must divide in_kernels={in_kernels} and out_kernels={out_kernels}")
        if padding == "same" and stride != 1:
            raise ValueError(f'padding="same" needs stride=1, not {stride}')
        self.in_kernels, self.out_kernels, self.kernel_size = in_kernels, out_kernels, kernel_size
        self.padding, self.stride, self.dilation, self.groups = padding, stride, dilation, groups
        self.weights = nn.Parameter(torch.empty(out_kernels, in_kernels // groups, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_kernels)) if bias else None
        self.init_params()

    def init_params(self) -> None:
        """Draw new weights, in the way of `nn.Conv1d`."""
        nn.init.kaiming_uniform_(self.weights, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weights[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def convolve(self, x: Tensor) -> Tensor:
        """(M, in_kernels, L) -> (M, out_kernels, L')."""
        padding, around = self.padding, self.dilation * (self.kernel_size - 1)
        if padding == "same" and around % 2:  # one position more at the end, as torch does it, without its warning
            x, padding = F.pad(x, (around // 2, around - around // 2)), "valid"
        return F.conv1d(x, self.weights, self.bias, self.stride, padding, self.dilation, self.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Both strands convolved, (N, 2 out_kernels, L').

        Raises:
            ValueError: x has not twice `in_kernels` channels.
        """
        _check_strands(x, self.in_kernels)
        return _channels(self.convolve(_strands(x)))

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        text = f"{self.in_kernels}, {self.out_kernels}, {self.kernel_size}, padding={self.padding!r}"
        others = [("stride", self.stride), ("dilation", self.dilation), ("groups", self.groups)]
        return (
            text + "".join(f", {k}={v}" for k, v in others if v != 1) + (", bias=True" if self.bias is not None else "")
        )


class RCPSInput(RCPS):
    """Convolution of DNA, on both strands with the same kernels. (N, A, L) -> (N, 2 out_kernels, L').

    Args:
        out_kernels, kernel_size, padding, bias, stride, dilation, groups: as in `RCPS`.
        alphabet: the letters of the input's channels in order.
    """

    def __init__(
        self,
        out_kernels: int,
        kernel_size: int,
        padding: str | int = "valid",
        *,
        bias: bool = False,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        alphabet: str = "ACGT",
    ) -> None:
        channel = OneHot(alphabet, layout="n c l")
        size = len(alphabet)
        super().__init__(
            size, out_kernels, kernel_size, padding, bias=bias, stride=stride, dilation=dilation, groups=groups
        )
        self.mirror = ActionMap(channel.action((1, size, 2)))

    def forward(self, dna: Tensor) -> Tensor:
        """Both strands convolved, (N, 2 out_kernels, L')."""
        if not isinstance(dna, Tensor):
            raise TypeError(f"dna={dna!r}: give one-hot DNA, shape (N, {self.in_kernels}, L)")
        both = torch.stack([dna, self.mirror(dna)], dim=1).flatten(0, 1)
        return _channels(self.convolve(both))


class RCPSBatchNorm(nn.Module):
    """Batch norm with statistics and parameters shared by both strands. (N, 2C, ...) -> (N, 2C, ...).

    Args:
        num_channels: C, the kernels of the layer before.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        check_count("num_channels", num_channels)
        self.num_channels = num_channels
        self.batch_norm = nn.BatchNorm1d(num_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Both strands normalised alike."""
        _check_strands(x, self.num_channels)
        return _channels(self.batch_norm(_strands(x)))


class RCPSOutput(nn.Module):
    """The sum of both strands' channels. (N, 2C, ...) -> (N, C, ...).

    Args:
        align: lay the reverse complement's positions onto those of the given strand: the result is a
            profile along the given strand, which the reverse complement mirrors. Without, entry i is the
            i-th position of both strands, each read from its own start, and does not change.
    """

    def __init__(self, align: bool = False) -> None:
        super().__init__()
        check_switch("align", align)
        self.align = align

    def forward(self, x: Tensor) -> Tensor:
        """Both strands added."""
        _check_strands(x)
        given, reverse = x.chunk(2, dim=1)
        return given + (reverse.flip(-1) if self.align else reverse)

    def extra_repr(self) -> str:
        """Whether positions are aligned."""
        return "align=True" if self.align else ""
