"""Calls that rules refuse, with the class and the words of the refusal. Operands are written as in `rule_samples`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from rcps_convert.errors import BreaksSymmetryError, ConversionError, NoRuleError


@dataclass(frozen=True)
class Refused:
    """A call that no choice of weights makes equivariant, or that no rule covers.

    Attributes:
        name: what is wrong with it.
        call, operands: as of a `Sample`.
        phrases: what the text of the problem must say.
        error: the class of the problem.
    """

    name: str
    call: Callable[..., Any]
    operands: tuple[str, ...]
    phrases: tuple[str, ...]
    error: type[ConversionError] = BreaksSymmetryError


REFUSALS: list[Refused] = []


def never(name: str, call: Callable[..., Any], *operands: str, say: str) -> None:
    """Register a refusal for good; `say` lists what its text must say, between bars."""
    REFUSALS.append(Refused(name, call, operands, tuple(p.strip() for p in say.split("|"))))


def not_yet(name: str, call: Callable[..., Any], *operands: str, say: str) -> None:
    """Register a refusal for want of a rule."""
    REFUSALS.append(Refused(name, call, operands, tuple(p.strip() for p in say.split("|")), NoRuleError))


X, W, UP = "n2 v6 l12", "v8 v6 v5", "v6 v8 v4"
SIGNED = "n2 s6 l12"

# --- lengths that do not divide, edges that are not alike -------------------------------------
# Called as ATen operators, which nothing catches: `rule_edges` has the calls that are re-anchored.

aten = torch.ops.aten

never(
    "pool that leaves a remainder",
    lambda x: aten.max_pool1d(x, [5]),
    X,
    say="leaves a remainder | 12 = 5*2 + 2 | left edge | nearest model input lengths that work are 10 and 15",
)
never(
    "strided convolution that leaves a remainder",
    lambda x, w: aten.conv1d(x, w, None, [4]),
    *(X, W),
    say="conv1d over 12 positions leaves a remainder | lengths that work are 9 and 13",
)
never(
    "remainder after another operator",
    lambda x: aten.max_pool1d(F.pad(x, (1, 1)), [4]),
    X,
    say="max_pool1d over 14 positions | lengths that work are 10 and 14",
)
never(
    "ceil_mode on a remainder",
    lambda x: aten.avg_pool1d(x, [5], [5], [0], True),
    X,
    say="leaves a remainder | 10 and 15",
)
never(
    "windows that leave a remainder", lambda x: aten.unfold(x, 2, 4, 3), X, say="unfold over 12 positions | 10 and 13"
)
never("every other position", lambda x: aten.slice(x, 2, 0, 12, 2), X, say="slice drops 0 positions on the left and 1")
never(
    "even kernel with same padding",
    lambda x, w: aten.conv1d(x, w, None, [1], "same"),
    *(X, "v8 v6 v4"),
    say="pads 1 positions on the left and 2 on the right | kernel of 4 cannot be centred | odd kernel",
)
never("one-sided pad", lambda x: aten.pad(x, (0, 3)), X, say="pads 0 positions on the left and 3 on the right | alike")
never(
    "one-sided crop",
    lambda x: aten.slice(x, 2, 2, 12),
    X,
    say="drops 2 positions on the left and 0 on the right | crop both ends",
)
never("uneven crop", lambda x: aten.slice(x, 2, 2, -3), X, say="drops 2 positions on the left and 3 on the right")
never("causal convolution", lambda x, w: F.conv1d(aten.pad(x, (4, 0)), w), X, W, say="pads 4 positions on the left")
never(
    "output_padding",
    lambda x, w: aten.conv_transpose1d(x, w, None, [2], [0], [1]),
    *(X, UP),
    say="adds 1 positions on the right | needs them on the left | output_padding=0",
)
never(
    "nearest to no multiple",
    lambda x: aten.upsample_nearest1d.vec(x, [15], None),
    X,
    say="nearest resampling from 12 to 15 | linear",
)
never("nearest to fewer", lambda x: aten.upsample_nearest1d.vec(x, [6], None), X, say="nearest resampling from 12 to 6")
never(
    "nearest by a fraction",
    lambda x: aten.upsample_nearest1d.vec(x, None, [2.05]),
    X,
    say="nearest resampling from 12 to 24",
)
never(
    "linear by a fraction",
    lambda x: aten.upsample_linear1d.vec(x, None, False, [1.3]),
    X,
    say="interpolation of 12 positions by 1.3 | 15.6 wide but 15 positions | size=",
)
never(
    "an embedding bag of bags of several sizes",
    lambda i, w: F.embedding_bag(i.flatten(), w, torch.tensor([0, 5])),
    *("ids5 n2 l6", "v5 v8"),
    say="bags of several sizes | (N, L)",
)
never(
    "the largest entries of a table that changes its sign",
    lambda i, w: F.embedding_bag(i, w, mode="max"),
    *("ids5 n2 l6", "v5 s8"),
    say="embedding_bag of a tensor that changes its sign",
)
never("ids cropped on one side", lambda x: x[..., 1:], "ids5 n2 l12", say="drops 1 positions on the left and 0")
never(
    "indices of a pool that leaves a remainder",
    lambda x: F.max_pool1d(x, 5, return_indices=True),
    X,
    say="max_pool1d_with_indices over 12 positions leaves a remainder",
)

# --- single positions, pieces of a length --------------------------------------------------------

never("first position", lambda x: x[..., 0], X, say="select of the first position | becomes the last | pool over")
never("last position", lambda x: x[..., -1], X, say="the last position | becomes the first")
never("some position", lambda x: x[..., 3], X, say="position 3 of 12 | becomes position 8")
never("last position by slice", lambda x: x[..., -1:], X, say="the last position cannot be equivariant")
never("split of a length", lambda x: x.split(6, -1), X, say="cuts a length of 12 into pieces of 6, 6 | whole length")
never("chunk of a length", lambda x: x.chunk(3, -1), X, say="cuts a length of 12 | first piece becomes the last")
never("unbind of a length", lambda x: x.unbind(-1), "n2 v6 l5", say="cuts a length of 5")
never(
    "convolution over two sequences in a row",
    lambda x, y, w: F.conv1d(torch.cat([x, y], -1), w),
    *(X, "n2 v6 l9", W),
    say="conv1d slides over several sequences | (12 reversed + 9 reversed), not all as one | by itself",
)
never("glu over a length", lambda x: F.glu(x, -1), X, say="operands of glu | entries cross the boundary")
never("some positions", lambda x: x[..., [0, 1]], X, say="taken without its partner")
not_yet("roll of a length", lambda x, w: F.conv1d(x.roll(2, -1), w), X, W, say="otherwise than by reading it backwards")
never(
    "causal attention",
    lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True),
    "n2 l12 v6",
    say="causal attention | those before it | is_causal=False",
)
never(
    "positions added",
    lambda x: x + torch.linspace(0, 1, 12),
    X,
    say="constant made in forward is not invariant | 12 reversed | make it symmetric or learned",
)

never(
    "unpooled at the places of maxima",
    lambda x: F.max_unpool1d(*F.max_pool1d(x, 2, return_indices=True), 2),
    X,
    say="puts values back | of equal values | upsample",
)

# --- pairs torn apart, axes that do not meet -----------------------------------------------------

never("split of a pair", lambda x: x.split(2, 1), "n2 b4 l5", say="separates entries that reverse complement swaps")
never("one base", lambda x: x[:, 0], "n2 b4 l5", say="select separates entries | torn apart")
never("two of four bases", lambda x: x[:, [0, 1]], "n2 b4 l5", say="taken without its partner")
never("sum of bases and fixed", torch.add, "n2 b4 l5", "n2 t4 l5", say="operands of add | 2 pairs against 4 fixed")
never("bases times positions", torch.matmul, "n2 l5 b4", "t4 v6", say="operands of matmul | against 4 fixed")
never("length against fixed", torch.add, "n2 v6 l5", "n2 v6 t5", say="operands of add transform in ways")
not_yet(
    "convolution over bases in another order",
    lambda x, w: F.conv2d(x, w),
    *("n2 t1 r4 l12", "v6 v1 v2 v5"),
    say="otherwise than by reading it backwards | (2 pairs) | move the bases to the channel axis",
)
not_yet(
    "padded bases in another order",
    lambda x, w: F.conv2d(x, w, padding=1),
    *("n2 t1 r4 l12", "v6 v1 v4 v5"),
    say="otherwise than by reading it backwards",
)
not_yet("pool over bases in another order", lambda x: F.max_pool1d(x, 2, 1), "n2 l12 r4", say="reading it backwards")
not_yet(
    "positions mixed with bases",
    lambda x, w: F.conv1d(x.reshape(2, 4, 12), w),
    *("n2 l12 b4", "v6 v4 v5"),
    say="mixes positions with something else | transpose",
)
never(
    "a remainder of bases", lambda x: F.max_pool1d(x, 3, 2), "n2 l12 b4", say="two edges of an axis of 4 | 3 = 2*1 + 1"
)
never("weights of bins", lambda x: x * torch.arange(4.0).view(4, 1), "n2 b4 l5", say="is not invariant | 2 pairs")

# --- signs ---------------------------------------------------------------------------------------

never("relu of signed", torch.relu, SIGNED, say="relu of a tensor that changes its sign | 6 negated | odd function")
never("softmax of signed", lambda x: x.softmax(1), SIGNED, say="softmax of a tensor that changes its sign")
never("constant added to signed", lambda x: x + 1, SIGNED, say="add of a tensor that changes its sign")
never("bias of signed", torch.add, "n2 l5*s1 t6", "t6", say="operands of add | where signs are lost")
never("repeated summand", torch.add, "n2 s6 l5", "n2 t1 l5", say="operands of add | where signs are lost")
never("signed convolution with bias", F.conv1d, "n2 v6 l12*s1", W, "v8", say="operands of conv1d | signs are lost")
never("mean over signed", lambda x: x.mean(1), SIGNED, say="mean of a tensor that changes its sign | neither")
never("variance of signed", lambda x: x.var(1), SIGNED, say="a variance is even")
never("max pool of signed", lambda x: F.max_pool1d(x, 3), SIGNED, say="max(-x) is not -max(x)")
never("mean pool over signed", lambda x: F.avg_pool1d(x, 6), "n2 l5 s6", say="where signs are lost")
never("norm of signed", lambda x: F.instance_norm(x), SIGNED, say="the shift and the statistics are not odd")
never("padding of signed", lambda x: F.pad(x, (1, 1), value=1.0), SIGNED, say="the padding does not change its sign")
never("a choice of signed", lambda x: torch.where(x > 0, x, 0.0), SIGNED, say="gt of a tensor that changes its sign")

# --- ids -----------------------------------------------------------------------------------------

not_yet(
    "arithmetic on ids", lambda i, j: i * j, "ids5 n2 l6", "ids5 n2 l6", say="arithmetic (mul) on token ids | embed"
)
not_yet(
    "numbers of ids that follow no permutation", lambda i: (i + 1) // 2, "ids5 n2 l6", say="(floor_divide) on token"
)
not_yet("ids as numbers", lambda i, w: F.linear(i.double(), w), "ids5 n2 l6", "v8 v6", say="(linear) on token ids")
never("padding with an id that moves", lambda i: F.pad(i, (2, 2), value=0), "ids5 n2 l6", say="constant ids that")
never(
    "search for an id that moves", lambda i: i == 0, "ids5 n2 l6", say="constant ids that reverse complement permutes"
)
never("ids beside numbers", lambda i, x: torch.stack([i, x]), "ids5 n2 l6", "n2 l6", say="ids meet numbers")

# --- not covered ---------------------------------------------------------------------------------

not_yet("cumulative sum", lambda x: x.cumsum(-1), X, say="no rule for aten.cumsum | rcps_convert.rule")
not_yet("difference of neighbours", lambda x: x.diff(dim=-1), X, say="no rule for aten.diff")
not_yet("index by mask", lambda x: x[:, torch.tensor([True, False] * 3)], X, say="depends on the values of a tensor")
not_yet("index on two axes", lambda x: x[[0, 1], [1, 0]], X, say="indexing by several")
not_yet("no rule", lambda x: x.cummax(2)[0], X, say="no rule for aten.cummax")
not_yet("gather of a part", lambda x, i: x.gather(1, i), X, "ids5 n1 t1 l12", say="does not cover this call")
not_yet(
    "several to one place",
    lambda x, i, y: x.scatter(1, i, y),
    "n2 v5 l6",
    "ids5 n2 r4 l6",
    "n2 v4 l6",
    say="scatter_add",
)
never(
    "nearest position of a grid",
    lambda x, g: F.grid_sample(x.unsqueeze(2), g.unsqueeze(1), mode="nearest", align_corners=False),
    "n2 v3 l6", "n2 l5 s1+t1",
    say="equally near | bilinear",
)  # fmt: skip
not_yet("edges for each row", lambda x: torch.searchsorted(x.sort(2)[0], x), X, say="the edges differ from row to row")
not_yet("roll of everything", lambda x: x.roll(3), X, say="its rule does not cover this call")
not_yet("position of an extreme of all", lambda x: x.argmax(), X, say="its rule does not cover this call")
not_yet("sum over the ellipsis", lambda x: torch.einsum("...l->l", x), X, say="einsum drops its ellipsis")

# --- recurrence -------------------------------------------------------------------------------


def _gru(both: bool, batch_first: bool) -> Callable[..., Any]:
    def call(x: Any, h: Any, *weights: Any) -> Any:
        return torch.gru(x, h, weights, False, 1, 0.0, False, both, batch_first)

    return call


GRU = ("v15 v6", "v15 v5")

never(
    "recurrence in one direction",
    _gru(False, True),
    *("n2 l7 v6", "v1 n2 v5", *GRU),
    say="reads in one direction only | lies to the right | bidirectional",
)
never(
    "recurrence over the batch",
    _gru(True, False),
    *("n2 l7 v6", "v2 l7 v5", *GRU, *GRU),
    say="runs over the samples of the batch | batch of 2 | batch_first=True",
)
never(
    "recurrence over the bases",
    _gru(True, True),
    *("n2 b4 l6", "v2 n2 v5", *GRU, *GRU),
    say="runs over an axis that is no length | 2 pairs | permute its input",
)
never(
    "recurrence over channels beside positions",
    _gru(True, True),
    *("n2 v6 l7", "v2 n2 v5", *("v15 v7", "v15 v5") * 2),
    say="runs over an axis that is no length | axis 1 | permute its input",
)

# --- weights that are computed ----------------------------------------------------------------

never(
    "triangle of a matrix",
    torch.tril,
    "n2 v4 v4",
    say="triangle of a matrix | moves below it | orthogonal | on_unsupported=",
)
not_yet(
    "result written into another operand",
    lambda x, y: torch.add(x, 1.0, out=y.clone()),
    *("n2 v6 l5", "n2 v6 l5"),
    say="does not cover this call | such as out=",
)
