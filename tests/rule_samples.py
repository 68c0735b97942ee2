"""One or more calls of every operator that has a rule, with the actions of their operands.

An operand is written as one token per axis: a letter for the action, and the size.

* ``n2`` batch, ``l12`` length, ``t3`` trivial, ``r6`` regular, ``b4`` the bases ACGT, ``s3`` signed (all entries);
* ``v6`` not known yet, ``u6`` not known yet and unsigned;
* ``r4*l5`` a product, ``v4+v2`` a sum;
* first ``ids5`` for ids of five texts (the first two swap, so do the next two), ``bool`` for a mask, ``positive`` for
  numbers above zero.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rcps_convert import axis as ax
from rcps_convert.action import Action
from rcps_convert.axis import Axis

aten = torch.ops.aten

MAKERS: dict[str, Callable[[int], Axis]] = {
    "n": ax.batch,
    "l": ax.length,
    "t": ax.trivial,
    "r": ax.regular,
    "b": lambda n: ax.permutation(range(n - 1, -1, -1)),
    "s": lambda n: ax.product([ax.trivial(n), ax.SIGN]),
    "v": ax.Var,
    "u": lambda n: ax.Var(n, unsigned=True),
}

IDS = ax.permutation([1, 0, 3, 2, 4])


@dataclass(frozen=True)
class Sample:
    """A call of an operator.

    Attributes:
        op: the overload that must appear in its trace.
        call: a function of tensors.
        operands: their actions, as described above.
        exact: the law holds for values; otherwise only in distribution, and nothing but shapes is compared.
        blind: the values do not depend on the action of some axis (copies, zeros), so that a wrong one goes unseen.
    """

    op: Any
    call: Callable[..., Any]
    operands: tuple[str, ...]
    exact: bool = True
    blind: bool = False


SAMPLES: list[Sample] = []


def sample(op: Any, call: Callable[..., Any], *operands: str, exact: bool = True, blind: bool = False) -> None:
    SAMPLES.append(Sample(op, call, operands, exact, blind))


def action_of(text: str) -> Action:
    """The action an operand's text describes, with new variables."""
    words = text.split()
    value = IDS if words and words[0] == "ids5" else None
    axes = [_axis(w) for w in words if re.match(r"[a-z]\d", w)]
    return Action(tuple(axes), value)


def _axis(word: str) -> Axis:
    if "+" in word:
        return ax.total([_axis(w) for w in word.split("+")])
    if "*" in word:
        return ax.product([_axis(w) for w in word.split("*")])
    return MAKERS[word[0]](int(word[1:]))


def tensor_of(text: str, generator: torch.Generator) -> Tensor:
    """Random values for an operand: float64, or as its first word says."""
    shape = action_of(text).shape
    if text.startswith("ids5"):
        return torch.randint(5, shape, generator=generator)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    if text.startswith("bool"):
        return values > 0
    return values.abs() + 0.1 if text.startswith("positive") else values


# --- convolutions -----------------------------------------------------------------------------

X, W, B = "n2 v6 l12", "v8 v6 v5", "v8"

for call in [
    lambda x, w, b: F.conv1d(x, w, b, padding=2),
    lambda x, w, b: F.conv1d(x, w, b),
    lambda x, w, b: F.conv1d(x, w, b, padding=3, stride=1, dilation=2),
    lambda x, w, b: F.conv1d(x, w, None, padding=1, stride=3),
]:
    sample(aten.conv1d.default, call, X, W, B)
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w), "n2 b4 l12", "v8 v4 v5")
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w), "v6 l12", "v8 v6 v4")
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w), "n2 v6 l12", "v8 v6 v1")
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w), "n2 v6 l5", "v8 v6 v5")
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w, padding=1), "n2 v6 v5", "v8 v6 v3")
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w), "n2 s6 l12", "v8 v6 v3")
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w), "n2 v6 l12*s1", "v8 v6 v3")
sample(aten.conv1d.default, lambda x, w, b: F.conv1d(x, w, b, groups=3), X, "v9 v2 v3", "v9")
sample(aten.conv1d.default, lambda x, w, b: F.conv1d(x, w, b, groups=6), X, "v6 v1 v3", "v6")
sample(aten.conv1d.default, lambda x, w, b: F.conv1d(x, w, b, groups=6), X, "v12 v1 v3", "v12")
sample(aten.conv1d.default, lambda x, w, b: F.conv1d(x, w, b, groups=2), "n2 v4+v2 l12", "v6 v3 v3", "v6")
sample(aten.conv1d.default, lambda x, w: F.conv1d(F.pad(x, (2, 2), mode="circular"), w), X, W)
sample(aten.conv1d.default, lambda x, w: F.conv1d(F.pad(x, (2, 2), mode="reflect"), w), X, W)
sample(aten.conv1d.padding, lambda x, w, b: F.conv1d(x, w, b, padding="same"), X, W, B)
sample(aten.conv1d.padding, lambda x, w, b: F.conv1d(x, w, b, padding="valid"), X, "v8 v6 v4", B)
sample(aten.conv1d.padding, lambda x, w: F.conv1d(x, w, padding="same", dilation=2), X, "v8 v6 v4")
sample(aten.conv2d.default, lambda x, w, b: F.conv2d(x, w, b, padding=1), "n2 v6 l5 l8", "v4 v6 v3 v3", "v4")
sample(aten.conv2d.default, lambda x, w, b: F.conv2d(x, w, b), "n2 t1 b4 l12", "v6 v1 v4 v5", "v6")
sample(aten.conv2d.default, lambda x, w: F.conv2d(x, w, padding=(0, 2)), "n2 b4 t1 l12", "v6 v4 v1 v5")
sample(aten.conv2d.default, lambda x, w: F.conv2d(x, w, padding=(0, 2)), "n2 v3 b4 l12", "v6 v3 v1 v5")
sample(aten.conv2d.default, lambda x, w: F.conv2d(x, w, padding=(1, 2)), "n2 t1 v4 l12", "v6 v1 v3 v5")
sample(aten.conv2d.padding, lambda x, w: F.conv2d(x, w, padding="same"), "n2 v3 l6 l7", "v4 v3 v3 v5")
sample(aten.conv3d.default, lambda x, w: F.conv3d(x, w), "n2 v2 t1 b4 l7", "v4 v2 v1 v4 v3")
sample(aten.conv3d.padding, lambda x, w: F.conv3d(x, w, padding="same"), "n2 v2 t1 l4 l5", "v4 v2 v1 v3 v3")

UP = "v6 v8 v4"
sample(aten.conv_transpose1d.default, lambda x, w, b: F.conv_transpose1d(x, w, b, stride=2, padding=1), X, UP, "v8")
sample(aten.conv_transpose1d.default, lambda x, w: F.conv_transpose1d(x, w, dilation=2), X, UP)
sample(aten.conv_transpose1d.default, lambda x, w: F.conv_transpose1d(x, w), X, "v6 v8 v1")
sample(aten.conv_transpose1d.default, lambda x, w: F.conv_transpose1d(x, w, stride=3), "n2 v6 v5", UP)
sample(aten.conv_transpose1d.default, lambda x, w: F.conv_transpose1d(x, w), "n2 v6 t1", UP)
sample(aten.conv_transpose1d.default, lambda x, w: F.conv_transpose1d(x, w, dilation=2, padding=1), "n2 v6 t1", UP)
sample(
    aten.conv_transpose1d.default, lambda x, w: F.conv_transpose1d(x, w, stride=2, padding=1), "n2 v6 v3", "v6 v8 v1"
)
sample(aten.conv_transpose1d.default, lambda x, w, b: F.conv_transpose1d(x, w, b, groups=2), X, "v6 v4 v3", "v8")
sample(aten.conv_transpose1d.default, lambda x, w: F.conv_transpose1d(x, w, groups=6), X, "v6 v2 v3")
sample(aten.conv_transpose2d.input, lambda x, w: F.conv_transpose2d(x, w, stride=2), "n2 v4 l3 l4", "v4 v6 v2 v3")
sample(aten.conv_transpose2d.input, lambda x, w: F.conv_transpose2d(x, w, stride=(1, 2)), "n2 v4 t1 l4", "v4 v6 v4 v3")
sample(aten.conv_transpose3d.input, lambda x, w: F.conv_transpose3d(x, w), "n2 v2 t1 l3 l4", "v2 v4 v1 v2 v3")
sample(aten.im2col.default, lambda x: F.unfold(x, (1, 3), padding=(0, 1)), "n2 v4 t1 l6")
sample(aten.im2col.default, lambda x: F.unfold(x, (4, 3)), "n2 v2 b4 l6")

# --- contractions -----------------------------------------------------------------------------

sample(aten.linear.default, F.linear, "n2 l5 v6", "v8 v6", "v8")
sample(aten.linear.default, F.linear, "n2 l5 v6", "v8 v6")
sample(aten.linear.default, F.linear, "n2 r4*l5", "v8 v20")
sample(aten.linear.default, F.linear, "n2 l5*s1 r6", "v8 v6")
sample(aten.linear.default, F.linear, "l6", "v8 v6", "v8")
sample(aten.matmul.default, torch.matmul, "n2 l5 v6", "n2 v6 v7")
sample(aten.matmul.default, torch.matmul, "n2 v3 l5 v6", "v3 v6 l4")
sample(aten.matmul.default, torch.matmul, "n2 v3 l5 v6", "t1 v3 v6 l4")
sample(aten.matmul.default, torch.matmul, "n2 l5 v6", "v6")
sample(aten.matmul.default, torch.matmul, "v6", "n2 v6 v4")
sample(aten.matmul.default, torch.matmul, "n2 l5*s1 v6", "v6 v4")
sample(aten.bmm.default, torch.bmm, "n2 l5 v6", "n2 v6 l5")
sample(aten.mm.default, torch.mm, "l5 v6", "v6 v7")
sample(aten.mv.default, torch.mv, "l5 v6", "v6")
sample(aten.dot.default, torch.dot, "v6", "r6")
sample(aten.addmm.default, torch.addmm, "v7", "n2 v6", "v6 v7")
sample(aten.addmm.default, lambda b, x, w: torch.addmm(b, x, w, beta=2, alpha=3), "n2 v7", "n2 v6", "v6 v7")
sample(aten.addbmm.default, torch.addbmm, "l5 v7", "v3 l5 v6", "v3 v6 v7")
sample(aten.baddbmm.default, torch.baddbmm, "n2 l5 v7", "n2 l5 v6", "n2 v6 v7")
sample(aten.addmv.default, torch.addmv, "l5", "l5 v6", "v6")
sample(aten.outer.default, torch.outer, "v3", "l5")
sample(aten.ger.default, torch.ger, "v3", "l5")
sample(aten.inner.default, torch.inner, "n2 v6", "v5 v6")
sample(aten.linalg_vecdot.default, torch.linalg.vecdot, "n2 l5 v6", "n2 l5 v6")
sample(aten.linalg_vecdot.default, lambda a, b: torch.linalg.vecdot(a, b, dim=1), "n2 v6 l5", "n2 v6 l5")
sample(aten.tensordot.default, lambda a, b: torch.tensordot(a, b, dims=1), "n2 l5 v6", "v6 v7")
sample(aten.tensordot.default, lambda a, b: torch.tensordot(a, b, dims=([1, 2], [2, 0])), "n2 l5 v6", "v6 v7 v5")
sample(aten.bilinear.default, F.bilinear, "n2 v3", "n2 v4", "v6 v3 v4", "v6")
for equation, *operands in [
    ("ncl,kc->nkl", "n2 v6 l5", "v8 v6"),
    ("ncl,ncm->nlm", "n2 v6 l5", "n2 v6 l4"),
    ("nlc,c->nl", "n2 l5 v6", "v6"),
    ("nc,nc->nc", "n2 v6", "n2 v6"),
    ("ncl->nl", "n2 v6 l5"),
    ("ncl", "n2 v6 l5"),
    ("ncl,kc", "n2 v6 l5", "v8 v6"),
    ("...c,kc->...k", "n2 l5 v6", "v8 v6"),
    ("...lc,...mc->...lm", "n2 l5 v6", "n2 l4 v6"),
    ("nhlc,hck->nhlk", "n2 v4 l5 v6", "v4 v6 v3"),
    ("ncl,oc->nol", "n2 v6 l5", "v8 t1"),
    ("ii->i", "v4 v4"),
    ("a,a,a->a", "v4", "v4", "v4"),
    ("a,b,ab->", "v4", "v3", "v4 v3"),
]:
    sample(aten.einsum.default, lambda *x, e=equation: torch.einsum(e, *x), *operands)
ATTENTION = ("n2 v4 l5 v6", "n2 v4 l7 v6", "n2 v4 l7 v3")
sample(aten.scaled_dot_product_attention.default, F.scaled_dot_product_attention, *ATTENTION)
sample(aten.scaled_dot_product_attention.default, F.scaled_dot_product_attention, *ATTENTION, "v5 v7")
sample(aten._weight_norm.default, lambda v, g: torch._weight_norm(v, g, 0), "v8 v6 v5", "v8 t1 t1")
sample(aten._weight_norm.default, lambda v, g: torch._weight_norm(v, g, 1), "v8 v6 v5", "v1 v6 v1")

# --- ids and randomness -----------------------------------------------------------------------

sample(aten.embedding.default, lambda i, w: F.embedding(i, w), "ids5 n2 l6", "v5 v8")
sample(aten.embedding.default, lambda w: F.embedding(torch.arange(6), w), "v6 v8")
sample(aten.embedding.default, lambda w, x: F.embedding(torch.arange(6), w) + x, "v9 v8", "n2 l6 v8")
sample(aten.embedding.default, lambda w, x: F.embedding(torch.arange(6).expand(2, 6), w) + x, "v6 v8", "n2 l6 v8")
sample(aten.embedding.default, lambda w: F.embedding(torch.tensor([2, 0, 0]), w), "v4 v8")
sample(aten.one_hot.default, lambda i: F.one_hot(i, 5), "ids5 n2 l6")
sample(aten.eq.Scalar, lambda i: i == 4, "ids5 n2 l6")
sample(aten.eq.Scalar, lambda x: x.round() == 0, X)
sample(aten.ne.Scalar, lambda i: (i != 4).double(), "ids5 n2 l6")
sample(aten.index.Tensor, lambda w, i: w[i], "v5 v8", "ids5 n2 l6")
for call in [
    lambda i: F.pad(i, (2, 2), value=4),
    lambda i: F.pad(i.double(), (2, 2), mode="replicate"),
]:
    sample(aten.pad.default, call, "ids5 n2 l6")
sample(aten.cat.default, lambda i: torch.cat([torch.full((2, 1), 4), i, torch.full((2, 1), 4)], 1), "ids5 n2 l6")
sample(aten.cat.default, lambda i, j: torch.cat([i, j], 0), "ids5 n2 l6", "ids5 n3 l6")
sample(aten.stack.default, lambda i, j: torch.stack([i, j], 1), "ids5 n2 l6", "ids5 n2 l6")

for call in [
    lambda x: F.dropout(x, 0.5, training=False),
    lambda x: F.alpha_dropout(x, 0.5, training=False),
]:
    sample(aten.dropout.default if "alpha" not in call.__code__.co_names[1] else aten.alpha_dropout.default, call, X)
sample(aten.dropout_.default, lambda x: F.dropout(x.clone(), 0.5, False, inplace=True), X)
sample(aten.feature_dropout.default, lambda x: F.dropout1d(x, 0.5, training=False), X)
sample(aten.feature_dropout_.default, lambda x: F.dropout1d(x.clone(), 0.5, False, inplace=True), X)
sample(aten.alpha_dropout_.default, lambda x: F.alpha_dropout(x.clone(), 0.5, False, inplace=True), X)
sample(aten.feature_alpha_dropout.default, lambda x: F.feature_alpha_dropout(x, 0.5, training=False), X)
for op, call in [
    (aten.rand.default, lambda x: x + torch.rand(2, 6, 12)),
    (aten.randn.default, lambda x: x + torch.randn(6, 1)),
    (aten.rand_like.default, lambda x: x * torch.rand_like(x)),
    (aten.randn_like.default, lambda x: x + torch.randn_like(x)),
    (aten.bernoulli.default, lambda x: torch.bernoulli(x.sigmoid())),
    (aten.poisson.default, lambda x: torch.poisson(x.sigmoid())),
    (aten.bernoulli.p, lambda x: x * aten.bernoulli.p(x, 0.5)),
    (aten.bernoulli_.float, lambda x: x * x.new_empty(2, 6, 1).bernoulli_(0.5)),
    (aten.uniform_.default, lambda x: x * x.new_empty(2, 6, 1).uniform_()),
    (aten.normal_.default, lambda x: x * x.new_empty(2, 1, 1).normal_()),
    (aten.exponential_.default, lambda x: F.gumbel_softmax(x, dim=1)),
]:
    sample(op, call, X, exact=False)

# --- normalisations ---------------------------------------------------------------------------

sample(aten.batch_norm.default, lambda x, *p: F.batch_norm(x, None, None, *p, training=True), X, "v6", "v6")
sample(
    aten.batch_norm.default,
    lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b),
    X,
    *("v6", "positive v6", "v6", "v6"),
)
sample(aten.batch_norm.default, lambda x: F.batch_norm(x, None, None, training=True), "n4 v6")
sample(aten.instance_norm.default, lambda x, w, b: F.instance_norm(x, weight=w, bias=b), X, "v6", "v6")
sample(aten.instance_norm.default, lambda x: F.instance_norm(x), "n2 v6 l4 l5")
sample(aten.group_norm.default, lambda x, w, b: F.group_norm(x, 2, w, b), "n2 v8 l6", "v8", "v8")
sample(aten.group_norm.default, lambda x: F.group_norm(x, 3), "n2 v6 l6")
sample(aten.group_norm.default, lambda x: F.group_norm(x, 1), "n2 v7 l6")
sample(aten.layer_norm.default, lambda x, w, b: F.layer_norm(x, (6,), w, b), "n2 l5 v6", "v6", "v6")
sample(aten.layer_norm.default, lambda x, w, b: F.layer_norm(x, (6, 5), w, b), "n2 v6 l5", "v6 v5", "v6 v5")
sample(aten.layer_norm.default, lambda x: F.layer_norm(x, (6,)), "n2 l5 v6")
sample(aten.rms_norm.default, lambda x, w: F.rms_norm(x, (6,), w), "n2 l5 v6", "v6")

# --- pieces -----------------------------------------------------------------------------------

sample(aten.cat.default, lambda a, b: torch.cat([a, b], 1), "n2 v6 l5", "n2 v4 l5")
sample(aten.cat.default, lambda a, b: torch.cat([a, b], 1), "n2 v6 l5", "n2 s4 l5")
sample(aten.cat.default, lambda a: torch.cat([a.new_zeros(2, 6, 2), a, a.new_zeros(2, 6, 2)], 2), "n2 v6 l5")
sample(aten.cat.default, lambda a: torch.cat([a, a.new_ones(2, 1, 5)], 1), "n2 v6 l5")
sample(aten.cat.default, lambda a, b: torch.cat([a, b], -1), "n2 l5", "n2 l3")
sample(aten.concat.default, lambda a, b: torch.concat([a, b], 1), "n2 v6 l5", "n2 v4 l5")
sample(aten.concatenate.default, lambda a, b: torch.concatenate([a, b], 1), "n2 v6 l5", "n2 v4 l5")
sample(aten.hstack.default, lambda a, b: torch.hstack([a, b]), "n2 v6 l5", "n2 v4 l5")
sample(aten.hstack.default, lambda a, b: torch.hstack([a, b]), "v6", "v4")
sample(aten.vstack.default, lambda a, b: torch.vstack([a, b]), "n2 v6", "n3 v6")
sample(aten.dstack.default, lambda a, b: torch.dstack([a, b]), "n2 l5 v6", "n2 l5 v4")
sample(aten.column_stack.default, lambda a, b: torch.column_stack([a, b]), "n2 v6", "n2 v4")
sample(aten.stack.default, lambda a, b: torch.stack([a, b], 1), X, X)
sample(aten.stack.default, lambda a: torch.stack([a, torch.ones(2, 6, 12)], -1), X)
sample(aten.chunk.default, lambda x: x.chunk(2, 1), X)
sample(aten.chunk.default, lambda x: x.chunk(2, -2), "n2 v4+v3 l5")
sample(aten.split.Tensor, lambda x: x.split(4, 1), X)
sample(aten.split.sizes, lambda x: aten.split.sizes(x, [4, 2], 1), X)
sample(aten.split_with_sizes.default, lambda x: torch.split(x, [2, 4], 1), X)
sample(aten.tensor_split.sections, lambda x: x.tensor_split(4, 1), X)
sample(aten.tensor_split.indices, lambda x: x.tensor_split([1, 3], 1), X)
sample(aten.hsplit.int, lambda x: torch.hsplit(x, 2), X)
sample(aten.hsplit.array, lambda x: torch.hsplit(x, [2]), X)
sample(aten.vsplit.int, lambda x: torch.vsplit(x, 2), "v6 l12")
sample(aten.vsplit.array, lambda x: torch.vsplit(x, [2]), "v6 l12")
sample(aten.dsplit.int, lambda x: torch.dsplit(x, 2), "n2 l5 v6")
sample(aten.dsplit.array, lambda x: torch.dsplit(x, [2]), "n2 l5 v6")
sample(aten.unbind.int, lambda x: x.unbind(1), X)
sample(aten.unbind.int, lambda x: list(x), "v3 l5")
sample(aten.select.int, lambda x: x[:, 1], X)
sample(aten.select.int, lambda x: x.select(1, -1), X)
sample(aten.select.int, lambda x: x[..., 3], "n2 v6 l7")
for call in [
    lambda x: x[:, 2:5],
    lambda x: x[:, :-1],
    lambda x: x[:, ::2],
    lambda x: x[:, 1::3],
    lambda x: x[:, 1:5:2],
    lambda x: x[..., 2:-2],
    lambda x: x[..., 4:8],
    lambda x: x[..., 2:3, :],
    lambda x: x[:1],
]:
    sample(aten.slice.Tensor, call, X)
sample(aten.slice.Tensor, lambda x: x[..., ::2], "n2 v6 l9")
sample(aten.slice.Tensor, lambda x: x[..., 1:-1:3], "n2 v6 l9")
sample(aten.slice.Tensor, lambda x: x[..., 2:-2], "n2 v6 l9*s1")
sample(aten.slice.Tensor, lambda x: x[:, 3:3].sum(1) + x[:, 0], X)
sample(aten.unfold.default, lambda x: x.unfold(2, 4, 2), X)
sample(aten.unfold.default, lambda x: x.unfold(1, 2, 2), X)
sample(aten.narrow.default, lambda x: x.narrow(1, 1, 2), X)
sample(aten.narrow.default, lambda x: x.narrow(2, 3, 6), X)
sample(aten.narrow.default, lambda x: x.narrow(1, -2, 2), X)
for call in [
    lambda x: F.pad(x, (2, 2)),
    lambda x: F.pad(x, (-1, -1)),
    lambda x: F.pad(x, (2, 2), value=1.5),
    lambda x: F.pad(x, (2, 2, 1, 3)),
    lambda x: F.pad(x, (0, 0, -1, 3)),
    lambda x: F.pad(x, (2, 2), mode="reflect"),
    lambda x: F.pad(x, (2, 2), mode="replicate"),
    lambda x: F.pad(x, (2, 2), mode="circular"),
]:
    sample(aten.pad.default, call, X)
sample(aten.pad.default, lambda x: F.pad(x, (1, 2), mode="reflect"), "n2 l5 v6")
sample(aten.pad.default, lambda x: F.pad(x, (1, 1)), "n2 v6 l5*s1")
sample(aten.constant_pad_nd.default, lambda x: torch.constant_pad_nd(x, (1, 1)), X)
sample(aten.constant_pad_nd.default, lambda x: torch.constant_pad_nd(x, (0, 3), 2.0), "n2 l5 v6")
sample(aten.reflection_pad1d.default, lambda x: aten.reflection_pad1d(x, (2, 2)), X)
sample(aten.reflection_pad1d.default, lambda x: aten.reflection_pad1d(x, (2, 1)), "n2 l5 v6")
sample(aten.reflection_pad2d.default, lambda x: aten.reflection_pad2d(x, (2, 2, 1, 1)), "n2 v6 l4 l5")
sample(aten.reflection_pad3d.default, lambda x: aten.reflection_pad3d(x, (1,) * 6), "n2 v2 l3 l4 l5")
sample(aten.replication_pad1d.default, lambda x: aten.replication_pad1d(x, (2, 2)), X)
sample(aten.replication_pad2d.default, lambda x: aten.replication_pad2d(x, (2, 2, 0, 1)), "n2 v6 v4 l5")
sample(aten.replication_pad3d.default, lambda x: aten.replication_pad3d(x, (1,) * 6), "n2 v2 l2 l3 l4")
sample(aten.flip.default, lambda x: x.flip(-1), X)
sample(aten.flip.default, lambda x: x.flip(1, 2), "n2 b4 l5")
sample(aten.flip.default, lambda x: x.flip(1), "n2 r6 l5")
sample(aten.flip.default, lambda x: F.conv1d(x.flip(-1), torch.ones(1, 6, 3).double()), X)
sample(aten.fliplr.default, torch.fliplr, "n2 r6")
sample(aten.flipud.default, torch.flipud, "l6 v3")
sample(aten.roll.default, lambda x: x.roll(2, 1), "n2 r6 l5")
sample(aten.roll.default, lambda x: x.roll((1, 2), (0, 2)), "n2 v6 l5")
sample(aten.index_select.default, lambda x: x.index_select(1, torch.tensor([3, 0, 0])), X)
sample(aten.index_select.default, lambda x: x.index_select(1, torch.tensor([3, 0])), "n2 b4 l5")
sample(aten.index_select.default, lambda x: x.index_select(2, torch.tensor([0, 1, 2, 4, 5, 6])), "n2 v3 l7")
sample(aten.index.Tensor, lambda x: x[:, [3, 2, 1, 0]], "n2 b4 l5")
sample(aten.index.Tensor, lambda x: x[:, [1, -2]], "n2 b4 l5")
sample(aten.index.Tensor, lambda x: x[..., [0, 4, 2]], X.replace("l12", "l5"))

# --- layout -----------------------------------------------------------------------------------

sample(aten.view.default, lambda x: x.view(2, -1), X)
sample(aten.view.default, lambda x: x.view(2, 3, 2, 12), X)
sample(aten.view.default, lambda x: x.view(2, 6, 3, 4), X)
sample(aten.view.default, lambda x: x.view(2, 1, 6, 1, 12, 1), X)
sample(aten.view.default, lambda x: x.view(12, 12), X)
sample(aten.view.default, lambda x: x.view(-1), X)
sample(aten.view.default, lambda x: x.view(2, 36, 2), "n2 v6 v12")
sample(aten.view.default, lambda x: x.view(2, 6), "n2 v6 t1 v1")
sample(aten.reshape.default, lambda x: x.transpose(1, 2).reshape(2, 36, 2), X)
sample(
    aten.reshape.default,
    lambda x, w: F.conv1d(x.view(2, 3, 2, 6).transpose(2, 3).reshape(2, 3, 12), w),
    X[:-3] + " l6",
    "v4 v3 v3",
)
sample(aten._unsafe_view.default, lambda x: aten._unsafe_view(x, (2, 72)), X)
sample(aten.view_as.default, lambda x, y: x.view_as(y), X, "n2 t6 t4 t3")
sample(aten.reshape_as.default, lambda x, y: x.reshape_as(y), X, "n2 t72")
sample(aten.flatten.using_ints, lambda x: x.flatten(1), X)
sample(aten.unflatten.int, lambda x: x.unflatten(1, (2, 3)), X)
sample(aten.ravel.default, torch.ravel, X)
sample(aten.squeeze.default, torch.squeeze, "n2 v1 l5 t1")
sample(aten.squeeze.default, torch.squeeze, "v1 v1")
sample(aten.squeeze.dim, lambda x: x.squeeze(1), "n2 v1 l5")
sample(aten.squeeze.dim, lambda x: x.squeeze(1), "n2 s1 l5")
sample(aten.squeeze.dim, lambda x: x.squeeze(1), "n2 v3 l5")
sample(aten.squeeze.dims, lambda x: x.squeeze((1, 2)), "n2 v1 t1 l5")
sample(aten.squeeze.dim, lambda x, w: F.conv1d(x.squeeze(1).unsqueeze(1), w), "n2 v1 l5", "v4 v1 v3")
sample(aten.squeeze.dim, lambda x: x.squeeze(1).mean(-1), "n2 v1 l5")
sample(aten.unsqueeze.default, lambda x: x.unsqueeze(1), X)
sample(aten.unsqueeze.default, lambda x: x[..., None], X)
sample(aten.permute.default, lambda x: x.permute(0, -1, 1), X)
sample(aten.transpose.int, lambda x: x.transpose(1, -1), X)
sample(aten.swapaxes.default, lambda x: x.swapaxes(1, 2), X)
sample(aten.swapdims.default, lambda x: x.swapdims(1, 2), X)
sample(aten.t.default, torch.t, "v6 l5")
sample(aten.t.default, torch.t, "v6")
sample(aten.numpy_T.default, lambda x: x.T, "v6 l5")
sample(aten.mT.default, lambda x: x.mT, X)
sample(aten.adjoint.default, torch.adjoint, X)
sample(aten.mH.default, lambda x: x.mH, X)
sample(aten.movedim.int, lambda x: x.movedim(1, -1), X)
sample(aten.movedim.intlist, lambda x: x.movedim((0, 1), (1, 2)), X)
sample(aten.moveaxis.int, lambda x: x.moveaxis(0, 2), X)
sample(aten.moveaxis.intlist, lambda x: x.moveaxis((0, 1), (2, 0)), X)
sample(aten.expand.default, lambda x: x.expand(2, 4, -1, 5), "t4 v6 t1", blind=True)
sample(aten.expand.default, lambda x, y: x.expand(2, 6, 5) * y, "n2 v6 t1", "n2 r6 l5")
sample(aten.expand_as.default, lambda x, y: x.expand_as(y) + y, "n2 v6 v1", "n2 v6 l5")
sample(aten.broadcast_to.default, lambda x, y: x.broadcast_to(2, 6, 5) - y, "v6 v1", "n2 v6 l5")
sample(aten.repeat.default, lambda x: x.repeat(1, 2, 1), X, blind=True)
sample(aten.repeat.default, lambda x: x.repeat(3, 1, 1, 2), X, blind=True)
sample(aten.repeat.default, lambda x, w: F.conv1d(x.repeat(1, 1, 2), w), X, W)
sample(aten.tile.default, lambda x: torch.tile(x, (2, 1)), X, blind=True)
sample(aten.repeat_interleave.self_int, lambda x: x.repeat_interleave(2, dim=1), X, blind=True)
sample(aten.repeat_interleave.self_int, lambda x: x.repeat_interleave(3, dim=-1), X)
sample(aten.repeat_interleave.self_int, lambda x: x.repeat_interleave(2), "v6", blind=True)
sample(aten.repeat_interleave.self_int, lambda x: x.repeat_interleave(2, dim=-1), "n2 l6*s1")
sample(aten.pixel_shuffle.default, lambda x: F.pixel_shuffle(x, 2), "n2 v8 l3 l4")
sample(aten.pixel_shuffle.default, lambda x, w: F.conv2d(F.pixel_shuffle(x, 2), w), "n2 v8 l3 l4", "v4 v2 v3 v3")
sample(aten.pixel_unshuffle.default, lambda x: F.pixel_unshuffle(x, 2), "n2 v3 l4 l6")
sample(aten.channel_shuffle.default, lambda x: F.channel_shuffle(x, 2), "n2 v6 l5 l5")

# --- pointwise --------------------------------------------------------------------------------

for op, call in [
    (aten.alias.default, aten.alias.default),
    (aten._to_copy.default, lambda x: aten._to_copy(x, dtype=torch.float64)),
    (aten.clone.default, torch.clone),
    (aten.detach.default, torch.detach),
    (aten.contiguous.default, lambda x: aten.contiguous.default(x.transpose(1, 2))),
    (aten.lift_fresh_copy.default, aten.lift_fresh_copy.default),
    (aten.to.dtype, lambda x: x.float().double()),
    (aten.to.dtype_layout, lambda x: x.to("cpu")),
    (aten.to.device, lambda x: x.to("cpu", torch.float64)),
    (aten.to.other, lambda x: aten.to.other(x, x)),
    (aten.fill_.Scalar, lambda x: x.clone().fill_(2.0) * x),
    (aten.fill_.Scalar, lambda x: x.clone().fill_(0) + x),
    (aten.fill.Scalar, lambda x: aten.fill.Scalar(x, 2.0) * x),
    (aten.zero_.default, lambda x: x.clone().zero_() + x),
    (aten.zero.default, lambda x: aten.zero.default(x) + x),
    (aten.floor_divide.default, lambda x: x // 2),
    (aten.floor_divide.Scalar, lambda x: aten.floor_divide.Scalar(x, 2)),
    (aten.mul.Tensor, lambda x: x * 2),
    (aten.mul.Tensor, lambda x: x * x),
    (aten.mul.Tensor, lambda x: x * torch.tensor([2.0, 3.0]).double().sum()),
    (aten.mul.Tensor, lambda x: x * torch.arange(6.0).double().unsqueeze(1)),
    (aten.mul.Scalar, lambda x: aten.mul.Scalar(x, 2)),
    (aten.mul_.Tensor, lambda x: x.clone().mul_(x)),
    (aten.div.Tensor, lambda x: x / 2),
    (aten.div.Scalar, lambda x: aten.div.Scalar(x, 2)),
    (aten.div_.Tensor, lambda x: x.clone().div_(2)),
    (aten.softplus.default, F.softplus),
    (aten.rrelu.default, F.rrelu),
    (aten.rrelu_.default, lambda x: F.rrelu(x.clone(), inplace=True)),
    (aten.gelu.default, F.gelu),
    (aten.mish.default, F.mish),
    (aten.hardswish.default, F.hardswish),
    (aten.relu6.default, F.relu6),
    (aten.relu6_.default, lambda x: F.relu6(x.clone(), inplace=True)),
    (aten.selu.default, F.selu),
    (aten.selu_.default, lambda x: F.selu(x.clone(), inplace=True)),
    (aten.celu.default, F.celu),
    (aten.celu_.default, lambda x: F.celu(x.clone(), inplace=True)),
    (aten.log_sigmoid.default, F.logsigmoid),
    (aten.threshold.default, lambda x: F.threshold(x, 0.1, 0.2)),
    (aten.softmax.int, lambda x: x.softmax(1)),
    (aten.softmax.int, lambda x: x.softmax(-1)),
    (aten.log_softmax.int, lambda x: x.log_softmax(1)),
    (aten._softmax.default, lambda x: aten._softmax(x, 1, False)),
    (aten._log_softmax.default, lambda x: aten._log_softmax(x, 1, False)),
    (aten.glu.default, lambda x: F.glu(x, 1)),
]:
    sample(op, call, X)
TWO = ("n2 v6 l5", "n2 v6 l5")
for op, call in [
    (aten.type_as.default, lambda x, y: x.type_as(y)),
    (aten.copy_.default, lambda x, y: x.clone().copy_(y)),
    (aten.copy.default, lambda x, y: aten.copy.default(x, y)),
    (aten.mul.Tensor, torch.mul),
    (aten.div.Tensor, torch.div),
    (aten.where.self, lambda x, y: torch.where(x > 0, x, y)),
    (aten.where.ScalarOther, lambda x, y: torch.where(x > y, x, 1.0)),
    (aten.where.ScalarSelf, lambda x, y: torch.where(x > y, 1.0, x)),
    (aten.where.Scalar, lambda x, y: torch.where(x > y, 1.0, 0.0)),
    (aten.__and__.Tensor, lambda x, y: (x > 0) & (y > 0)),
    (aten.__or__.Tensor, lambda x, y: (x > 0) | (y > 0)),
    (aten.__xor__.Tensor, lambda x, y: (x > 0) ^ (y > 0)),
    (aten.__and__.Scalar, lambda x, y: aten.__and__.Scalar(x > y, True)),
    (aten.__or__.Scalar, lambda x, y: aten.__or__.Scalar(x > y, False)),
    (aten.__xor__.Scalar, lambda x, y: aten.__xor__.Scalar(x > y, True)),
]:
    sample(op, call, *TWO)
sample(aten.copy_.default, lambda x, y: torch.zeros(2, 6, 5).double().copy_(y) + x, "n2 v6 l5", "n2 v6 v1")
sample(aten.copy_.default, lambda x: _filled(x), "n2 v4 l5")
sample(aten.mul.Tensor, torch.mul, "n2 v6 l5", "n2 v6 v1")
sample(aten.mul.Tensor, torch.mul, "n2 v6 l5", "n2 s1 t1")
sample(aten.mul.Tensor, torch.mul, "n2 s6 l5", "n2 v6 l5")
sample(aten.mul.Tensor, torch.mul, "n2 v6", "v6")
sample(aten.mul.Tensor, torch.mul, "n2 v6 l5", "v1")
sample(aten.mul.Tensor, lambda x: x * torch.tensor(0.0).double(), "n2 s6 l5", blind=True)
sample(aten.mul.Tensor, lambda x, y: x.squeeze(1) * y, "n2 v1 l5", "n2 l5")
sample(aten.prelu.default, F.prelu, X, "v6")
sample(aten.prelu.default, F.prelu, X, "v1")
sample(aten.glu.default, lambda x: F.glu(x, 1), "n2 v2+v2+v4 l5")


def _filled(x: Tensor) -> Tensor:
    out = torch.zeros(2, 8, 5, dtype=x.dtype)
    out[:, 2:6] = x
    return out


for op, call in [  # by the operator's own tag
    (aten.relu.default, torch.relu),
    (aten.sigmoid.default, torch.sigmoid),
    (aten.tanh.default, torch.tanh),
    (aten.silu.default, F.silu),
    (aten.elu.default, F.elu),
    (aten.leaky_relu.default, F.leaky_relu),
    (aten.hardtanh.default, F.hardtanh),
    (aten.hardsigmoid.default, F.hardsigmoid),
    (aten.hardshrink.default, F.hardshrink),
    (aten.softshrink.default, F.softshrink),
    (aten.relu_.default, lambda x: F.relu(x.clone(), inplace=True)),
    (aten.silu_.default, lambda x: F.silu(x.clone(), inplace=True)),
    (aten.sub.Tensor, F.tanhshrink),
    (aten.div.Tensor, F.softsign),
    (aten.exp.default, torch.exp),
    (aten.log1p.default, lambda x: torch.log1p(x.abs())),
    (aten.sqrt.default, lambda x: x.abs().sqrt()),
    (aten.rsqrt.default, lambda x: (x * x + 1).rsqrt()),
    (aten.reciprocal.default, lambda x: 1 / x),
    (aten.neg.default, torch.neg),
    (aten.sin.default, torch.sin),
    (aten.cos.default, torch.cos),
    (aten.erf.default, torch.erf),
    (aten.sign.default, torch.sign),
    (aten.trunc.default, torch.trunc),
    (aten.atan.default, torch.atan),
    (aten.round.default, torch.round),
    (aten.clamp.default, lambda x: x.clamp(-1, 2)),
    (aten.clamp_min.default, lambda x: x.clamp_min(0.1)),
    (aten.pow.Tensor_Scalar, lambda x: x**3),
    (aten.add.Tensor, lambda x: x + 1),
    (aten.add.Tensor, lambda x: x + 0),
    (aten.rsub.Scalar, lambda x: 1 - x),
    (aten.add_.Tensor, lambda x: x.clone().add_(1)),
    (aten.masked_fill.Scalar, lambda x: x.masked_fill(x > 0, -1.0)),
    (aten.isnan.default, lambda x: x.log().isnan()),
    (aten.nan_to_num.default, torch.nan_to_num),
    (aten.bitwise_not.default, lambda x: ~(x > 0)),
    (aten.remainder.Scalar, lambda x: x % 2),
    (aten.square.default, torch.square),
    (aten.logit.default, lambda x: torch.logit(x, 1e-3)),
]:
    sample(op, call, X)
for op, call in [
    (aten.add.Tensor, torch.add),
    (aten.add.Tensor, lambda x, y: torch.add(x, y, alpha=2)),
    (aten.sub.Tensor, torch.sub),
    (aten.maximum.default, torch.maximum),
    (aten.minimum.default, torch.minimum),
    (aten.lerp.Scalar, lambda x, y: torch.lerp(x, y, 0.3)),
    (aten.lerp.Tensor, lambda x, y: torch.lerp(x, y, x)),
    (aten.addcmul.default, lambda x, y: torch.addcmul(x, x, y)),
    (aten.logaddexp.default, torch.logaddexp),
    (aten.atan2.default, torch.atan2),
    (aten.gt.Tensor, torch.gt),
    (aten.logical_and.default, lambda x, y: torch.logical_and(x > 0, y > 0)),
    (aten.div.Tensor_mode, lambda x, y: torch.div(x, y, rounding_mode="floor")),
]:
    sample(op, call, *TWO)
sample(aten.add.Tensor, torch.add, "n2 v6 l5", "v6 v1")
sample(aten.add.Tensor, torch.add, "n2 v6 l5", "v1")
sample(aten.add.Tensor, torch.add, "n2 v1", "n2 v1")
sample(aten.add.Tensor, lambda x, b: x + b.sum(), "n2 v1", "v6")
sample(aten.add.Tensor, lambda x, b: x.squeeze(1) + b, "n2 v1 l5", "n2 t1")
sample(aten.add.Tensor, torch.add, "n2 s6 l5", "n2 v6 l5")

# --- pooling and resampling -------------------------------------------------------------------

for call in [
    lambda x: F.max_pool1d(x, 3),
    lambda x: F.max_pool1d(x, 3, stride=1, padding=1),
    lambda x: F.max_pool1d(x, 4, stride=2, padding=1),
    lambda x: F.max_pool1d(x, 2, stride=3, padding=1),
    lambda x: F.max_pool1d(x, 3, stride=1, dilation=2),
    lambda x: F.max_pool1d(x, 3, ceil_mode=True),
    lambda x: F.max_pool1d(x, 12),
    lambda x: F.max_pool1d(x.transpose(1, 2), 2),
    lambda x: F.max_pool1d(x.transpose(1, 2), 6),
    lambda x: F.max_pool1d(x.transpose(1, 2), 3, stride=1),
]:
    sample(aten.max_pool1d.default, call, X)
sample(aten.max_pool1d.default, lambda x: F.max_pool1d(x, 3), "v6 l12")
sample(aten.max_pool1d.default, lambda x: F.max_pool1d(x, 5), "n2 l3 r4*v5")
sample(aten.max_pool2d.default, lambda x: F.max_pool2d(x, (1, 2)), "n2 v6 v4 l6")
sample(aten.max_pool2d.default, lambda x: F.max_pool2d(x, 2), "n2 v6 v4 l6")
sample(aten.max_pool3d.default, lambda x: F.max_pool3d(x, (1, 2, 2)), "n2 v2 t1 l4 l6")
sample(aten.max_pool1d_with_indices.default, lambda x: F.max_pool1d(x, 3, return_indices=True), X)
sample(aten.max_pool2d_with_indices.default, lambda x: F.max_pool2d(x, 2, return_indices=True), "n2 v3 l4 l6")
sample(aten.max_pool3d_with_indices.default, lambda x: F.max_pool3d(x, 2, return_indices=True), "n2 v2 l2 l4 l6")
for call in [
    lambda x: F.avg_pool1d(x, 3),
    lambda x: F.avg_pool1d(x, 4, stride=2, padding=1),
    lambda x: F.avg_pool1d(x, 3, stride=3, padding=0, count_include_pad=False),
    lambda x: F.avg_pool1d(x, 12),
    lambda x: F.avg_pool1d(x.transpose(1, 2), 2),
    lambda x: F.avg_pool1d(x.transpose(1, 2), 6),
    lambda x: F.lp_pool1d(x, 2, 3),
]:
    sample(aten.avg_pool1d.default, call, X)
sample(aten.avg_pool1d.default, lambda x: F.avg_pool1d(x, 2), "n2 v3 l6*s1")
sample(aten.avg_pool2d.default, lambda x: F.avg_pool2d(x, (2, 3)), "n2 v3 v4 l6")
sample(aten.avg_pool2d.default, lambda x: F.local_response_norm(x, 3), X)
sample(aten.avg_pool3d.default, lambda x: F.avg_pool3d(x, (1, 2, 2)), "n2 v2 t1 l4 l6")
for size in (1, 3, 5, 12):
    sample(aten.adaptive_avg_pool1d.default, lambda x, s=size: F.adaptive_avg_pool1d(x, s), X)
    sample(aten.adaptive_max_pool1d.default, lambda x, s=size: F.adaptive_max_pool1d(x, s), X)
sample(aten.adaptive_avg_pool1d.default, lambda x: F.adaptive_avg_pool1d(x.transpose(1, 2), 3), X)
sample(aten.adaptive_avg_pool1d.default, lambda x: F.adaptive_avg_pool1d(x.transpose(1, 2), 4), X)
sample(aten.adaptive_avg_pool1d.default, lambda x: F.adaptive_avg_pool1d(x.transpose(1, 2), 1), X)
sample(aten.adaptive_avg_pool2d.default, lambda x: F.adaptive_avg_pool2d(x, (None, 3)), "n2 v3 v4 l7")
sample(aten.adaptive_avg_pool2d.default, lambda x: F.adaptive_avg_pool2d(x, 1), "n2 v3 v4 l7")
sample(aten.adaptive_avg_pool3d.default, lambda x: F.adaptive_avg_pool3d(x, 2), "n2 v3 l4 l5 l6")
sample(aten.adaptive_max_pool2d.default, lambda x: F.adaptive_max_pool2d(x, (1, 3)), "n2 v3 l4 l7")
sample(aten.adaptive_max_pool2d.default, lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True), "n2 v3 l4 l7")
sample(aten.adaptive_max_pool3d.default, lambda x: F.adaptive_max_pool3d(x, 2), "n2 v3 l4 l5 l6")
LINE, PLANE, SPACE = "n2 v3 l6", "n2 v3 l4 l6", "n2 v2 l2 l3 l4"
for op, mode, operand in [
    (aten.upsample_nearest1d.vec, "nearest", LINE),
    (aten.upsample_nearest2d.vec, "nearest", PLANE),
    (aten.upsample_nearest3d.vec, "nearest", SPACE),
    (aten._upsample_nearest_exact1d.vec, "nearest-exact", LINE),
    (aten._upsample_nearest_exact2d.vec, "nearest-exact", PLANE),
    (aten._upsample_nearest_exact3d.vec, "nearest-exact", SPACE),
    (aten.upsample_linear1d.vec, "linear", LINE),
    (aten.upsample_bilinear2d.vec, "bilinear", PLANE),
    (aten.upsample_bicubic2d.vec, "bicubic", PLANE),
    (aten.upsample_trilinear3d.vec, "trilinear", SPACE),
]:
    sample(op, lambda x, m=mode: F.interpolate(x, scale_factor=2, mode=m), operand)
    sample(op, lambda x, m=mode: F.interpolate(x, size=[3 * s for s in x.shape[2:]], mode=m), operand)
for call in [
    lambda x: F.interpolate(x, size=9, mode="linear"),
    lambda x: F.interpolate(x, size=4, mode="linear"),
    lambda x: F.interpolate(x, size=4, mode="linear", align_corners=True),
    lambda x: F.interpolate(x, scale_factor=0.5, mode="linear"),
    lambda x: F.interpolate(x, scale_factor=1.5, mode="linear"),
    lambda x: F.interpolate(x, scale_factor=1.6, mode="linear", align_corners=True),
    lambda x: F.interpolate(x, scale_factor=1.6, mode="linear", recompute_scale_factor=True),
]:
    sample(aten.upsample_linear1d.vec, call, LINE)
sample(aten.upsample_nearest1d.vec, lambda x: F.interpolate(x, scale_factor=2), "n2 l6 v3")
sample(aten.upsample_bilinear2d.vec, lambda x: F.interpolate(x, size=(4, 9), mode="bilinear"), "n2 v3 v4 l6")
sample(aten.upsample_bicubic2d.vec, lambda x: F.interpolate(x, size=(3, 4), mode="bicubic"), PLANE)
for op, mode in [(aten._upsample_bilinear2d_aa.vec, "bilinear"), (aten._upsample_bicubic2d_aa.vec, "bicubic")]:
    sample(op, lambda x, m=mode: F.interpolate(x, size=(3, 4), mode=m, antialias=True), PLANE)

# --- reductions -------------------------------------------------------------------------------

for op, call in [
    (aten.sum.default, torch.sum),
    (aten.mean.default, torch.mean),
    (aten.amax.default, torch.amax),
    (aten.amin.default, lambda x: x.amin((0, 2))),
    (aten.sum.dim_IntList, lambda x: x.sum(1)),
    (aten.sum.dim_IntList, lambda x: x.sum((1, -1), keepdim=True)),
    (aten.mean.dim, lambda x: x.mean(-1)),
    (aten.mean.dim, lambda x: x.mean(2, keepdim=True)),
    (aten.logsumexp.default, lambda x: x.logsumexp(-1)),
    (aten.logsumexp.default, lambda x: x.logsumexp(1, keepdim=True)),
    (aten.prod.dim_int, lambda x: x.prod(1)),
    (aten.any.dim, lambda x: (x > 1).any(1)),
    (aten.all.dim, lambda x: (x < 1).all(1, keepdim=True)),
    (aten.any.dims, lambda x: torch.any(x > 2, dim=(0, 1))),
    (aten.all.dims, lambda x: torch.all(x < 2, dim=(0, 1))),
    (aten.any.default, lambda x: (x > 1).any()),
    (aten.all.default, lambda x: (x > 1).all()),
    (aten.max.default, torch.max),
    (aten.min.default, torch.min),
    (aten.median.default, torch.median),
    (aten.count_nonzero.default, lambda x: (x > 0).count_nonzero(1)),
    (aten.linalg_vector_norm.default, lambda x: x.norm(dim=1)),
    (aten.linalg_vector_norm.default, lambda x: F.normalize(x, dim=1)),
    (aten.linalg_vector_norm.default, torch.norm),
    (aten.linalg_norm.default, lambda x: torch.linalg.norm(x, dim=1)),
    (aten.linalg_norm.default, lambda x: torch.linalg.norm(x, ord=1, dim=(1, 2), keepdim=True)),
    (aten.linalg_norm.ord_str, lambda x: torch.linalg.norm(x, ord="fro", dim=(0, 1))),
    (aten.norm.ScalarOpt_dim, lambda x: aten.norm.ScalarOpt_dim(x, 2, [1])),
    (aten.nansum.default, lambda x: x.nansum(1)),
    (aten.nanmean.default, lambda x: x.nanmean(1, keepdim=True)),
    (aten.quantile.scalar, lambda x: x.quantile(0.3, dim=1)),
    (aten.var.dim, lambda x: torch.var(x, 1, unbiased=False)),
    (aten.var.dim, lambda x: torch.var(x, (1, 2), keepdim=True)),
    (aten.std.dim, lambda x: x.std(dim=2)),
    (aten.var.correction, lambda x: x.var(1, correction=0, keepdim=True)),
    (aten.std.correction, lambda x: x.std((0, 2), correction=0)),
    (aten.var.default, lambda x: aten.var.default(x)),
    (aten.std.default, lambda x: aten.std.default(x, False)),
    (aten.var_mean.dim, lambda x: torch.var_mean(x, dim=1)),
    (aten.std_mean.dim, lambda x: torch.std_mean(x, dim=(1, 2), keepdim=True)),
    (aten.var_mean.correction, lambda x: torch.var_mean(x, 2, correction=0, keepdim=True)),
    (aten.std_mean.correction, lambda x: torch.std_mean(x, 2, correction=0)),
    (aten.var_mean.default, lambda x: aten.var_mean.default(x)),
    (aten.std_mean.default, lambda x: aten.std_mean.default(x)),
    (aten.max.dim, lambda x: x.max(2)),
    (aten.max.dim, lambda x: x.max(1, keepdim=True)),
    (aten.min.dim, lambda x: x.min(-1)),
    (aten.median.dim, lambda x: x.median(1)),
    (aten.kthvalue.default, lambda x: x.kthvalue(2, dim=2)),
    (aten.topk.default, lambda x: x.topk(3, dim=2)),
    (aten.topk.default, lambda x: x.topk(3, dim=1).values.sum(1)),
    (aten.sort.default, lambda x: x.sort(dim=2)),
    (aten.sort.stable, lambda x: torch.sort(x, stable=True, dim=1)),
    (aten.aminmax.default, lambda x: torch.aminmax(x, dim=1)),
    (aten.argmax.default, lambda x: x.argmax(1)),
    (aten.argmax.default, lambda x: x.argmax(-1, keepdim=True)),
    (aten.argmin.default, lambda x: x.argmin(2)),
]:
    sample(op, call, X)
sample(aten.prod.default, torch.prod, "n2 v6")
sample(aten.mean.dim, lambda x: x.mean(-1), "n2 s6 l5")
sample(aten.sum.dim_IntList, lambda x: x.sum([]), X)
sample(aten.cosine_similarity.default, lambda x, y: F.cosine_similarity(x, y), *TWO)
sample(aten.cosine_similarity.default, lambda x, y: F.cosine_similarity(x, y, dim=-1), "n2 l5 v6", "t1 l5 v6")
sample(aten.pairwise_distance.default, F.pairwise_distance, "n2 l5 v6", "n2 l5 v6")
