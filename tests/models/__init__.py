"""Small networks in the style of the field's, written for the tests.

`FAMILIES` are looked at closely (`test_convert`), `ZOO` are converted and measured once each (`test_zoo`). A module of
this folder holds the networks of one kind and lists them.
"""

from . import (
    as_published,
    asked,
    attention,
    basic,
    collected,
    convolutional,
    directions,
    further,
    later,
    published,
    recent,
    recurrent,
)
from .basic import (
    BassetLike as BassetLike,
)
from .basic import (
    BPNetLike as BPNetLike,
)
from .basic import ConvThenPool as ConvThenPool
from .basic import Siamese as Siamese
from .basic import SpliceAILike as SpliceAILike
from .basic import StrandBias as StrandBias
from .basic import Twice as Twice
from .family import Family as Family
from .recurrent import DanQLike as DanQLike

FAMILIES = [*basic.FAMILIES, *recurrent.FAMILIES]

ZOO: list[Family] = [
    *asked.ZOO, *attention.ZOO, *convolutional.ZOO, *recurrent.ZOO, *directions.ZOO[::3], *published.ZOO
]  # fmt: skip

MORE: list[Family] = [*published.MORE, *later.MORE, *collected.MORE, *as_published.MORE, *recent.MORE, *further.MORE]
"""The same, in the slow run."""
