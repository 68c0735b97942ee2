"""Operators that make whole numbers of whole numbers, at every size; of any other, results may be fractions."""

from __future__ import annotations

from .registry import aten, declare

# numbers of places, and what is filled with one
declare(
    aten.arange, aten.zeros, aten.ones, aten.full, aten.eye, aten.empty, aten.scalar_tensor, aten.zeros_like,
    aten.ones_like, aten.full_like, aten.empty_like, aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty,
    aten.one_hot, aten.tril_indices, aten.triu_indices, aten.fill, aten.zero,
    whole=True,
)  # fmt: skip

# sums and products; the mean of numbers in a row is a half of a whole one
declare(
    aten.add, aten.sub, aten.rsub, aten.subtract, aten.mul, aten.multiply, aten.neg, aten.negative, aten.abs,
    aten.absolute, aten.square, aten.sum, aten.cumsum, aten.prod, aten.cumprod, aten.mean, aten.diff, aten.matmul,
    aten.mm, aten.bmm, aten.mv, aten.dot, aten.outer, aten.einsum, aten.baddbmm, aten.addmm, aten.linear,
    whole=True,
)  # fmt: skip

# comparisons, and what rounds
declare(
    aten.minimum, aten.maximum, aten.fmin, aten.fmax, aten.min, aten.max, aten.amin, aten.amax, aten.clamp,
    aten.clamp_min, aten.clamp_max, aten.clip, aten.relu, aten.sort, aten.topk, aten.median, aten.cummax, aten.cummin,
    aten.floor, aten.ceil, aten.round.default, aten.trunc, aten.fix, aten.sign, aten.sgn, aten.heaviside,
    aten.floor_divide, aten.remainder, aten.fmod, aten.div.Tensor_mode, aten.div.Scalar_mode,
    whole=True,
)  # fmt: skip

# entries that are moved, picked or copied
declare(
    aten.view, aten.reshape, aten._unsafe_view, aten.flatten, aten.unflatten, aten.unsqueeze, aten.squeeze,
    aten.expand, aten.expand_as, aten.broadcast_to, aten.repeat, aten.repeat_interleave, aten.tile, aten.permute,
    aten.transpose, aten.t, aten.numpy_T, aten.mT, aten.movedim, aten.cat, aten.concat, aten.stack, aten.flip,
    aten.roll, aten.rot90, aten.split, aten.split_with_sizes, aten.chunk, aten.unbind, aten.select, aten.slice,
    aten.narrow, aten.index, aten.index_select, aten.gather, aten.take_along_dim, aten.where, aten.masked_fill,
    aten.masked_select, aten.scatter, aten.index_put, aten.diagonal, aten.diag, aten.diag_embed, aten.tril, aten.triu,
    aten.unfold, aten.pad, aten.constant_pad_nd, aten.meshgrid, aten.broadcast_tensors, aten.to, aten._to_copy,
    aten.type_as, aten.clone, aten.contiguous, aten.alias, aten.detach, aten.lift_fresh_copy, aten.copy,
    whole=True,
)  # fmt: skip
