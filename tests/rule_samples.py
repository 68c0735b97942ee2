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

from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.axis import Axis

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
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w, padding=1), "n2 v6 b4", "v8 v6 v3")
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w, stride=2), "n2 v6 b4*s1", "v8 v6 v2")
sample(aten.conv2d.default, lambda x, w: F.conv2d(x, w, padding=(1, 2)), "n2 t1 b4 l12", "v8 v1 v3 v5")
sample(aten.conv_transpose1d.default, lambda x, w: F.conv_transpose1d(x, w, stride=2), "n2 v6 b4", "v6 v8 v3")
sample(aten.max_pool1d.default, lambda x: F.max_pool1d(x, 3, 1, 1), "n2 v6 b4")
sample(aten.max_unpool2d.default, lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), "n2 v6 t4 t6")
sample(
    aten.max_unpool3d.default, lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2), "n2 v6 t2 t4 t2"
)
sample(aten.unfold.default, lambda x: x.unfold(1, 2, 1), "n2 b4 l12")
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w), "n2 v6 l5", "v8 v6 v5")
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w, padding=1), "n2 v6 v5", "v8 v6 v3")
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w), "n2 s6 l12", "v8 v6 v3")
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w), "n2 v6 l12*s1", "v8 v6 v3")
sample(aten.conv1d.default, lambda x, w, b: F.conv1d(x, w, b, groups=3), X, "v9 v2 v3", "v9")
sample(aten.conv1d.default, lambda x, w, b: F.conv1d(x, w, b, groups=6), X, "v6 v1 v3", "v6")
sample(aten.conv1d.default, lambda x, w, b: F.conv1d(x, w, b, groups=6), X, "v12 v1 v3", "v12")
sample(aten.conv1d.default, lambda x, w, b: F.conv1d(x, w, b, groups=2), "n2 v4+v2 l12", "v6 v3 v3", "v6")
for groups in ("n2 v4+s1+v1 l12", "n2 s2*v3 l12", "n2 s2+v2+s2 l12"):
    sample(aten.conv1d.default, lambda x, w, b: F.conv1d(x, w, b, groups=6), groups, "v12 v1 v3", "v12")
    sample(aten.conv1d.default, lambda x, w, b: F.conv1d(x, w, b, groups=6), groups, "v6 v1 v1", "v6")
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w), "n2 s1 l12", "v6 v1 v3")
sample(aten.conv_transpose1d.default, lambda x, w: F.conv_transpose1d(x, w), "n2 s1 l12", "v1 v6 v3")
sample(aten.conv1d.default, lambda x, w: F.conv1d(x, w, groups=6).relu(), "n2 v4+s1+v1 l12", "v6 v1 v3")
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
sample(aten.vdot.default, torch.vdot, "v6", "r6")
sample(aten.kron.default, torch.kron, "v3 v2", "v2 l4")
sample(aten.kron.default, torch.kron, "v3", "v2 r4")
sample(aten.matrix_exp.default, torch.matrix_exp, "n2 v4 v4")
sample(aten.linalg_inv.default, torch.linalg.inv, "n2 v4 r4")
sample(aten.inverse.default, torch.inverse, "v4 v4")
sample(aten.tril.default, torch.tril, "n2 t4 t4", blind=True)
sample(aten.triu.default, lambda x: torch.triu(x, 1), "r2 t4 t4")
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
sample(aten._weight_norm.default, lambda v, g: torch._weight_norm(v, g, 0), "s1 v6 v5", "t1 t1 t1")

# --- ids and randomness -----------------------------------------------------------------------

sample(aten.embedding.default, lambda i, w: F.embedding(i, w), "ids5 n2 l6", "v5 v8")
sample(aten.embedding.default, lambda w: F.embedding(torch.arange(6), w), "v6 v8")
sample(aten.embedding.default, lambda w, x: F.embedding(torch.arange(6), w) + x, "v9 v8", "n2 l6 v8")
sample(aten.embedding.default, lambda w, x: F.embedding(torch.arange(6).expand(2, 6), w) + x, "v6 v8", "n2 l6 v8")
sample(aten.embedding.default, lambda w: F.embedding(torch.tensor([2, 0, 0]), w), "v4 v8")
for mode in ("sum", "mean", "max"):
    sample(aten.embedding_bag.padding_idx, lambda i, w, m=mode: F.embedding_bag(i, w, mode=m), "ids5 n3 l6", "v5 v8")
sample(
    aten.embedding_bag.padding_idx,
    lambda i, w, s: F.embedding_bag(i, w, mode="sum", per_sample_weights=s, padding_idx=4),
    *("ids5 n3 l6", "v7 v8", "n3 l6"),
)
sample(
    aten.embedding_bag.default,
    lambda i, w: aten.embedding_bag.default(w, i.flatten(), torch.arange(0, 18, 6), False, 0)[0],
    *("ids5 n3 l6", "v5 v8"),
)
sample(aten.one_hot.default, lambda i: F.one_hot(i, 5), "ids5 n2 l6")
sample(aten.eq.Scalar, lambda i: i == 4, "ids5 n2 l6")
sample(aten.eq.Scalar, lambda x: x.round() == 0, X)
sample(aten.ne.Scalar, lambda i: (i != 4).double(), "ids5 n2 l6")
sample(aten.index.Tensor, lambda w, i: w[i], "v5 v8", "ids5 n2 l6")
sample(aten.index.Tensor, lambda i: torch.tensor([7, 2, 0, 0, 5])[i], "ids5 n2 l6")
sample(aten.embedding.default, lambda i, w: F.embedding(i, w), "ids5 n2 l6", "v7 v8")
sample(aten.one_hot.default, lambda i: F.one_hot(i, 8), "ids5 n2 l6")
sample(aten.mul.Tensor, lambda i: i * 2, "ids5 n2 l6")
sample(aten.mul.Tensor, lambda i: (i % 5 + 1) * 3, "ids5 n2 l6")
sample(aten.mul.Tensor, lambda i: (4 - i).double() * 2, "ids5 n2 l6")
sample(aten.floor_divide.default, lambda i: i * 2 // 1, "ids5 n2 l6")
sample(aten.view.default, lambda i: i.view(2, 3, 2), "ids5 n2 l6")
sample(aten.transpose.int, lambda i: i.t().transpose(0, 1).unsqueeze(1), "ids5 n2 l6")
sample(aten.slice.Tensor, lambda i: i[:, 1:-1].flip(1).contiguous(), "ids5 n2 l6")
sample(aten.select.int, lambda i: i[0].to(torch.int32), "ids5 t2 l6")
sample(aten.unfold.default, lambda i: i.unfold(1, 2, 1), "ids5 n2 l6")
sample(aten.expand.default, lambda i: i.unsqueeze(1).expand(2, 3, 6), "ids5 n2 l6", blind=True)
for call in [
    lambda i: F.pad(i, (2, 2), value=4),
    lambda i: F.pad(i.double(), (2, 2), mode="replicate"),
]:
    sample(aten.pad.default, call, "ids5 n2 l6")
sample(aten.cat.default, lambda i: torch.cat([torch.full((2, 1), 4), i, torch.full((2, 1), 4)], 1), "ids5 n2 l6")
sample(aten.cat.default, lambda i, j: torch.cat([i, j], 0), "ids5 n2 l6", "ids5 n3 l6")
sample(aten.stack.default, lambda i, j: torch.stack([i, j], 1), "ids5 n2 l6", "ids5 n2 l6")

sample(aten.dropout.default, lambda x: F.dropout(x, 0.5, training=False), X)
sample(aten.alpha_dropout.default, lambda x: F.alpha_dropout(x, 0.5, training=False), X)
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
sample(aten.flip.default, lambda x, w: F.conv1d(x, w.flip(-1)), "n2 v6 l5", "v4 v6 v3")
sample(aten.flip.default, lambda x, w: F.conv1d(x, w.flip(0, 2)), "n2 v6 l5", "v4 v6 v3")
sample(aten.flip.default, lambda x: F.conv1d(x.flip(-1), torch.ones(1, 6, 3).double()), X)
sample(aten.fliplr.default, torch.fliplr, "n2 r6")
sample(aten.flipud.default, torch.flipud, "l6 v3")
sample(aten.slice_scatter.default, lambda x, y: torch.slice_scatter(x, y, 1, 2, 5), "n2 v8 l6", "n2 v3 l6")
sample(aten.slice_scatter.default, lambda x, y: torch.slice_scatter(x, y, 2, 2, -2), "n2 v4 l7", "n2 v4 l3")
sample(aten.slice_scatter.default, lambda x, y: torch.slice_scatter(x, y, 1, 1, 6, 2), "n2 v6 l5", "n2 v3 l5")
sample(aten.slice_scatter.default, lambda y: torch.slice_scatter(y.new_ones(2, 4, 9), y, 2, 2, 7), "n2 v4 l5")
sample(aten.slice_scatter.default, lambda y: torch.slice_scatter(y.new_zeros(2, 7, 5), y, 1, 1, 5), "n2 s4 l5")
sample(aten.slice_scatter.default, lambda x: torch.slice_scatter(x, x.new_zeros(2, 4, 3), 2, 2, -2), "n2 v4 l7")
sample(aten.select_scatter.default, lambda x, y: torch.select_scatter(x, y, 1, 2), "n2 v5 l6", "n2 l6")
sample(aten.select_scatter.default, lambda x, y: torch.select_scatter(x, y, 2, 3), "n2 v4 l7", "n2 v4")
sample(aten.select_scatter.default, lambda x: torch.select_scatter(x, x.new_zeros(2, 4), 2, -4), "n2 v4 l7")
sample(aten.roll.default, lambda x: x.roll(2, 1), "n2 r6 l5")
sample(aten.roll.default, lambda x: x.roll((1, 2), (0, 2)), "n2 v6 l5")
sample(aten.index_select.default, lambda x: x.index_select(1, torch.tensor([3, 0, 0])), X)
sample(aten.index_select.default, lambda x: x.index_select(1, torch.tensor([3, 0])), "n2 b4 l5")
sample(aten.index_select.default, lambda x: x.index_select(2, torch.tensor([0, 1, 2, 4, 5, 6])), "n2 v3 l7")
sample(aten.index.Tensor, lambda x: x[:, [3, 2, 1, 0]], "n2 b4 l5")
sample(aten.index.Tensor, lambda x: x[:, [1, -2]], "n2 b4 l5")
sample(aten.index.Tensor, lambda x: x[..., [0, 4, 2]], "n2 v6 l5")

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
    "n2 v6 l6",
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
sample(aten.matrix_H.default, torch.ops.aten.matrix_H, "v6 l5")
sample(aten.movedim.int, lambda x: x.movedim(1, -1), X)
sample(aten.movedim.intlist, lambda x: x.movedim((0, 1), (1, 2)), X)
sample(aten.moveaxis.int, lambda x: x.moveaxis(0, 2), X)
sample(aten.moveaxis.intlist, lambda x: x.moveaxis((0, 1), (2, 0)), X)
sample(aten.expand.default, lambda x: x.expand(2, 4, -1, 5), "t4 v6 t1", blind=True)
sample(aten.expand.default, lambda x, y: x.expand(2, 6, 5) * y, "n2 v6 t1", "n2 r6 l5")
sample(aten.expand_as.default, lambda x, y: x.expand_as(y) + y, "n2 v6 v1", "n2 v6 l5")
sample(aten.expand_as.default, lambda x: x * torch.tensor([1.0, 2.0, 1.0]).expand_as(x), "n2 v6 l3")
sample(aten.reshape_as.default, lambda x: x * torch.arange(12.0).sub(5.5).abs().reshape_as(x[:1, :1]), X)
sample(aten.view_as.default, lambda x: x * torch.arange(12.0).sub(5.5).abs().view_as(x[:1, :1]), X)
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
