"""The table of functions that re-anchoring knows, by the object that is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._torch import PADS
from .functions import (
    Convolution,
    Cutting,
    Indexing,
    Narrow,
    Padding,
    Patches,
    Pooling,
    Resampling,
    Taking,
    Transposed,
    Windows,
)
from .readings import EdgeFunction

EDGE_FUNCTIONS: dict[Any, EdgeFunction] = {}
"""Readings by function."""


def _add(edge_function: EdgeFunction, *others: Callable[..., Any]) -> None:
    for function in (edge_function.function, *others):
        EDGE_FUNCTIONS[function] = edge_function


_MAX = "input kernel_size stride padding dilation ceil_mode"
for _rank in (1, 2, 3):
    _settings = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
    _add(Pooling(getattr(F, f"max_pool{_rank}d"), _rank, f"{_MAX} return_indices", **_settings, return_indices=False))
    _indices = Pooling(
        getattr(F, f"max_pool{_rank}d_with_indices"),
        _rank,
        f"{_MAX} return_indices",
        **{**_settings, "return_indices": True},
    )
    _indices.name = f"max_pool{_rank}d"
    _add(_indices)
    _add(Pooling(getattr(torch, f"max_pool{_rank}d"), _rank, _MAX, **{**_settings, "stride": ()}))
    _add(
        Convolution(
            getattr(torch, f"conv{_rank}d"),
            "input weight bias stride padding dilation groups",
            **{"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1},
        )
    )
    _add(
        Transposed(
            getattr(torch, f"conv_transpose{_rank}d"),
            "input weight bias stride padding output_padding groups dilation",
            **{"bias": None, "stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1},
        )
    )
    _average: dict[str, Any] = {"stride": (), "padding": 0, "ceil_mode": False, "count_include_pad": True}
    _names = "input kernel_size stride padding ceil_mode count_include_pad"
    if _rank > 1:
        _average["divisor_override"] = None
        _names += " divisor_override"
    _add(Pooling(getattr(F, f"avg_pool{_rank}d"), _rank, _names, **_average))
    _add(
        Pooling(
            getattr(F, f"lp_pool{_rank}d"),
            _rank,
            "input norm_type kernel_size stride ceil_mode",
            stride=None,
            ceil_mode=False,
        )
    )

_add(Padding(F.pad, "input pad mode value", mode="constant", value=None), *PADS)
_add(Padding(torch.constant_pad_nd, "input pad value", value=0))
_add(Patches(F.unfold, "input kernel_size dilation padding stride", dilation=1, padding=0, stride=1))
_add(Windows(Tensor.unfold, "self dimension size step"))
_add(Indexing(Tensor.__getitem__, "self index"))
_add(Cutting(torch.split, "tensor split_size_or_sections dim", dim=0))
_add(Cutting(Tensor.split, "self split_size dim", dim=0))
for _home in (torch, Tensor):
    _add(Narrow(_home.narrow, "input dim start length"))
    _add(Taking(_home.select, "input dim index"))
    _add(Taking(_home.index_select, "input dim index"))
    _add(Cutting(_home.chunk, "input chunks dim", dim=0))
    _add(Cutting(_home.tensor_split, "input indices_or_sections dim", dim=0))
    _add(Cutting(_home.unbind, "input dim", dim=0))
_add(
    Resampling(
        F.interpolate,
        "input size scale_factor mode align_corners recompute_scale_factor antialias",
        size=None,
        scale_factor=None,
        mode="nearest",
        align_corners=None,
        recompute_scale_factor=None,
        antialias=False,
    )
)
_add(
    Resampling(
        F.upsample,
        "input size scale_factor mode align_corners",
        size=None,
        scale_factor=None,
        mode="nearest",
        align_corners=None,
    )
)
