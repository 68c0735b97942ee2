"""Samples of operators that work on values: pointwise, pooling and resampling, reductions. See `rule_samples`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from rule_samples import sample
from torch import Tensor

aten = torch.ops.aten

X = "n2 v6 l12"

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

sample(aten.broadcast_tensors.default, lambda x, y: torch.broadcast_tensors(x, y), *TWO)
sample(aten.broadcast_tensors.default, lambda x, y: torch.broadcast_tensors(x, y), X, "v6 t1", blind=True)

# --- losses -----------------------------------------------------------------------------------

IDS_5, SCORES = "ids5 n3 l6", "n3 v5 l6"
for op, loss in [
    (aten.mse_loss.default, F.mse_loss),
    (aten.l1_loss.default, F.l1_loss),
    (aten.smooth_l1_loss.default, F.smooth_l1_loss),
    (aten.huber_loss.default, F.huber_loss),
    (aten.kl_div.default, F.kl_div),
    (aten.poisson_nll_loss.default, F.poisson_nll_loss),
    (aten.soft_margin_loss.default, F.soft_margin_loss),
    (aten.binary_cross_entropy_with_logits.default, F.binary_cross_entropy_with_logits),
]:
    sample(op, lambda x, y, loss=loss: loss(x, y, reduction="none"), *TWO)
    sample(op, lambda x, y, loss=loss: loss(x, y.softmax(1)) + x.mean(1), *TWO)
sample(
    aten.binary_cross_entropy.default,
    lambda x, y: F.binary_cross_entropy(x.sigmoid(), y.sigmoid(), reduction="none"),
    *TWO,
)
sample(
    aten.binary_cross_entropy_with_logits.default,
    lambda x, y, w: F.binary_cross_entropy_with_logits(x, y, pos_weight=w, reduction="none"),
    "n2 l5 v6",
    "n2 l5 v6",
    "v6",
)
sample(aten.cross_entropy_loss.default, lambda i, x: F.cross_entropy(x, i, reduction="none"), IDS_5, SCORES)
sample(aten.cross_entropy_loss.default, lambda i, x: F.cross_entropy(x, i) + x.mean(2), IDS_5, SCORES)
sample(
    aten.cross_entropy_loss.default,
    lambda i, x, w: F.cross_entropy(x, i, weight=w, reduction="none"),
    IDS_5,
    SCORES,
    "positive v5",
)
sample(aten.cross_entropy_loss.default, lambda x, y: F.cross_entropy(x, y.softmax(1), reduction="none"), SCORES, SCORES)
sample(aten.nll_loss_nd.default, lambda i, x: F.nll_loss(x, i, reduction="none"), IDS_5, SCORES)
sample(aten.nll_loss.default, lambda i, x: aten.nll_loss(x, i, None, 0), "ids5 n6", "n6 v5")
sample(aten.nll_loss2d.default, lambda i, x: aten.nll_loss2d(x, i, None, 0), "ids5 n2 l4 t3", "n2 v5 l4 t3")


# --- places -----------------------------------------------------------------------------------

sample(aten.gather.default, lambda x, i: x.gather(1, i), "n2 v5 l6", "ids5 n2 t3 l6")
sample(aten.gather.default, lambda x: x.gather(2, (x * x).argmax(2, keepdim=True)), "n2 v6 l12")
sample(aten.gather.default, lambda x, i: x.gather(1, i), "n2 v7 l6", "ids5 n2 t3 l6")
sample(aten.take_along_dim.default, lambda x, i: torch.take_along_dim(x, i, 1), "n2 v5 l6", "ids5 n2 t3 l6")
sample(aten.take_along_dim.default, lambda x, i: x.take_along_dim(i, dim=1), "n2 v5 t1", "ids5 n2 t3 l6")
sample(aten.gather.default, lambda x: x.gather(2, torch.tensor([1, 4, 7, 10]).expand(2, 6, 4)), "n2 v6 l12")
sample(aten.gather.default, lambda x: x.gather(1, torch.tensor([2, 0, 1])[:, None].expand(2, 3, 12)), "n2 v3 l12")
sample(aten.scatter.value, lambda i, x: x.scatter(1, i, 0.0), "ids5 n2 t1 l6", "n2 v5 l6")
sample(aten.scatter.value, lambda i: torch.zeros(2, 5, 6).double().scatter(1, i, 1.0), "ids5 n2 t1 l6")
sample(aten.scatter_.value, lambda i: torch.zeros(2, 7, 6).double().scatter_(1, i, 1.0), "ids5 n2 t1 l6")
sample(
    aten.scatter.value_reduce, lambda i, x: torch.scatter(x, 1, i, 2.0, reduce="multiply"), "ids5 n2 t1 l6", "n2 v5 l6"
)
sample(aten.scatter.src, lambda i, x, y: x.scatter(1, i, y), "ids5 n2 t1 l6", "n2 v5 l6", "n2 t1 l6")
sample(aten.scatter.reduce, lambda i, x, y: x.scatter(1, i, y, reduce="add"), "ids5 n2 r4 l6", "n2 v5 l6", "n2 v4 l6")
sample(aten.scatter_add.default, lambda i, x, y: x.scatter_add(1, i, y), "ids5 n2 r4 l6", "n2 v5 l6", "n2 v4 l6")
sample(
    aten.scatter_reduce.two,
    lambda i, x, y: x.scatter_reduce(1, i, y, "amax"),
    "ids5 n2 r4 l6", "n2 v5 l6", "n2 v4 l6",
)  # fmt: skip
EDGES = torch.tensor([-0.5, 0.1, 0.7]).double()
sample(aten.bucketize.Tensor, lambda x: torch.bucketize(x, EDGES), "n2 v6 l12")
sample(aten.bucketize.Tensor, lambda x, w: torch.bucketize(x, w.sort()[0]), "n2 v6 l12", "v4")
sample(aten.bucketize.Tensor, lambda x, w: torch.bucketize(x, w), "n2 v6 l12", "v4")  # any edges, in their order
sample(aten.searchsorted.Tensor, lambda x: torch.searchsorted(EDGES, x, right=True), "n2 v6 l12")

# --- complex numbers --------------------------------------------------------------------------

for op, call in [
    (aten.view_as_complex.default, lambda x: torch.view_as_complex(torch.stack([x, x.exp()], -1)).abs()),
    (aten.view_as_real.default, lambda x: torch.view_as_real(torch.complex(x, x.exp())).sum(-1)),
    (aten.view_as_real.default, lambda x: torch.view_as_real(torch.complex(x, x.exp()))),
    (aten.complex.default, lambda x: torch.complex(x, x.exp()).abs()),
    (aten.real.default, lambda x: torch.real(torch.complex(x, x.exp()) ** 2)),
    (aten.imag.default, lambda x: torch.imag(torch.complex(x, x.exp()) ** 2)),
    (aten._conj.default, lambda x: aten._conj(torch.complex(x, x.exp())).abs() + x),
    (aten.resolve_conj.default, lambda x: aten.resolve_conj(torch.complex(x, x.exp()).conj()).abs() + x),
    (aten.polar.default, lambda x: torch.view_as_real(torch.polar(x.exp(), x)).sum(-1)),
]:
    sample(op, call, "n2 v6 l12")

# --- grids ------------------------------------------------------------------------------------


def _sampled(x: Tensor, grid: Tensor, **settings: bool) -> Tensor:
    return F.grid_sample(x.unsqueeze(2), grid.unsqueeze(1), **settings).squeeze(2)  # type: ignore[arg-type]


for align in (False, True):
    sample(
        aten.grid_sampler.default,
        lambda x, g, align=align: _sampled(x, g, align_corners=align),
        "n2 v3 l6", "n2 l5 s1+t1",
    )  # fmt: skip
sample(aten.grid_sampler.default, lambda x, g: F.grid_sample(x, g, align_corners=False), "n2 v3 l6 l6", "n2 t4 t3 s2")
sample(aten.grid_sampler.default, lambda x, g: F.grid_sample(x, g, align_corners=False), "n2 v3 t6 t6", "n2 t4 t3 v2")
sample(
    aten.affine_grid_generator.default,
    lambda x, t: _sampled(x, F.affine_grid(t, [2, 3, 1, 5], align_corners=False).squeeze(1), align_corners=False),
    "n2 v3 l6", "n2 s1+t1 s1+t2",
)  # fmt: skip
