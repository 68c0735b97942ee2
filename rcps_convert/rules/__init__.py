"""Rules, one short function per operator family; importing this package registers them."""

from . import conv, linear, lookup, norm, pieces, pointwise, pool, recurrent, reduce, shape

__all__ = ["conv", "linear", "lookup", "norm", "pieces", "pointwise", "pool", "recurrent", "reduce", "shape"]
