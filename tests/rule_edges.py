"""Calls that read one edge of a length and not the other, whose two readings make them equivariant.

Written as samples are (`rule_samples`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from rule_samples import Sample

EDGES: list[Sample] = []


def edge(call, *operands: str) -> None:
    EDGES.append(Sample(None, call, operands))


X, W, UP = "n2 v6 l12", "v8 v6 v5", "v6 v8 v4"
PLANE = "n2 v6 l12 l10"

edge(lambda x: F.max_pool1d(x, 5), X)
edge(lambda x: F.max_pool1d(x, 3, 2, 1), X)
edge(lambda x: F.max_pool1d(x, 3, 2, ceil_mode=True), X)
edge(lambda x: torch.max_pool1d(x, 3, 2, dilation=2), X)
edge(lambda x: F.max_pool1d(x[0], 5), X)
edge(lambda x: F.max_pool1d(x, 5), "n2 s6 l12".replace("s6", "v4+v2"))
edge(lambda x: F.max_pool2d(x, (5, 3)), PLANE)
edge(lambda x: F.max_pool2d(x, 3, 2, 1), PLANE)
edge(lambda x: F.max_pool2d(x, (3, 2), (2, 1)), "n2 v6 l12 v4")
edge(lambda x: F.max_pool3d(x, (5, 3, 1)), "n2 v2 l12 l7 t3")
edge(lambda x: F.avg_pool1d(x, 5, ceil_mode=True), X)
edge(lambda x: F.avg_pool1d(x, 5, 3, 2), X)
edge(lambda x: F.avg_pool1d(x, 5, 3, 2, count_include_pad=False), X)
edge(lambda x: F.avg_pool1d(x, 5), "n2 s6 l12")
edge(lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=5), PLANE)
edge(lambda x: F.lp_pool1d(x.abs(), 2, 5), X)
edge(lambda x, w: F.conv1d(x, w, stride=4), X, W)
edge(lambda x, w, b: F.conv1d(x, w, b, stride=4, padding=2), X, W, "v8")
edge(lambda x, w: F.conv1d(x, w, stride=3, padding=4, dilation=2), X, W)
edge(lambda x, w: F.conv1d(x, w, stride=2, padding=1, groups=2), X, "v8 v3 v3")
edge(lambda x, w: F.conv1d(x, w, stride=2, padding=1, groups=3), X, "v9 v2 v3")
edge(lambda x, w: F.conv1d(x, w, stride=2), "n2 b4 l12", "v7 v4 v3")
edge(lambda x, w: F.conv1d(x, w, stride=4), "n2 s6 l12", W)
edge(lambda x, w: F.conv1d(x, w, padding="same"), X, "v8 v6 v4")
edge(lambda x, w: F.conv1d(x, w, padding="same", dilation=3, groups=2), X, "v8 v3 v4")
edge(lambda x, w: F.conv1d(x[0], w, stride=4), X, W)
edge(lambda x, w: F.conv2d(x, w, stride=2, padding=(1, 2)), PLANE, "v8 v6 v3 v5")
edge(lambda x, w: F.conv2d(x, w, padding="same"), PLANE, "v8 v6 v4 v2")
edge(lambda x, w: F.conv2d(x, w, stride=(1, 2)), "n2 t1 b4 l12", "v8 t1 v4 v3")
edge(lambda x, w: F.conv3d(x, w, stride=2), "n2 v2 l7 l6 l5", "v4 v2 v3 v3 v2")
edge(lambda x, w: F.conv_transpose1d(x, w, stride=2, output_padding=1), X, UP)
edge(lambda x, w, b: F.conv_transpose1d(x, w, b, stride=3, padding=2, output_padding=2), X, UP, "v8")
edge(lambda x, w: F.conv_transpose1d(x, w, stride=2, output_padding=1, groups=2), X, "v6 v4 v4")
edge(lambda x, w: F.conv_transpose2d(x, w, stride=2, output_padding=(1, 0)), PLANE, "v6 v4 v3 v3")
edge(lambda x: F.pad(x, (0, 3)), X)
edge(lambda x: F.pad(x, (2, -1), value=0.5), X)
edge(lambda x: F.pad(x, (4, 1), mode="reflect"), X)
edge(lambda x: F.pad(x, (4, 1), mode="replicate"), X)
edge(lambda x: F.pad(x, (4, 1), mode="circular"), X)
edge(lambda x: F.pad(x, (1, 2, 3, 0)), PLANE)
edge(lambda x: F.pad(x, (1, 2, 1, 1)), X)
edge(lambda x: F.pad(x, (0, 0, 0, 3)), "n2 l12 v6")
edge(lambda x: torch.constant_pad_nd(x, (0, 3)), X)
edge(lambda x: x[..., 2:], X)
edge(lambda x: x[:, :, :-1], X)
edge(lambda x: x[:, None, ..., 2:-3], X)
edge(lambda x: x[0, :, 2:], X)
edge(lambda x: x[:, :, 1:11:4], X)
edge(lambda x: x[..., ::2], X)
edge(lambda x: x[..., 3:], "n2 s6 l12")
edge(lambda x: x[:, 3:, 1:], "n2 l12 l10 v6")
edge(lambda x: x[:, 3:], "n2 l12")
edge(lambda x: x[:, 3:], "n2 r4*l5 l12".replace("r4*l5 l12", "l12 r4*l5"))
edge(lambda x: x.narrow(-1, 1, 9), X)
edge(lambda x: torch.narrow(x, 2, 1, 9), X)
edge(lambda x: x.unfold(2, 4, 3), X)
edge(lambda x: F.unfold(x, (1, 5), stride=(1, 4)), "n2 v6 t1 l12")
edge(lambda x: F.unfold(x, (1, 5), padding=(0, 2), stride=(1, 4)), "n2 v6 t1 l12")
edge(lambda x: F.interpolate(x, size=15), X)
edge(lambda x: F.interpolate(x, size=6), X)
edge(lambda x: F.interpolate(x, scale_factor=2.05), X)
edge(lambda x: F.interpolate(x, size=15, mode="nearest-exact"), X)
edge(lambda x: F.interpolate(x, scale_factor=1.3, mode="linear"), X)
edge(lambda x: F.interpolate(x, size=(15, 10)), PLANE)
