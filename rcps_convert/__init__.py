"""Make any PyTorch model on DNA exactly reverse-complement equivariant, with one call.

>>> import torch
>>> from rcps_convert import convert_model
>>> model = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 5), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 1))
>>> converted = convert_model(model, torch.zeros(2, 4, 8))

Start reading at `convert/convert.py`, which names each stage of a conversion and its folder.
"""

import sys

from . import layers
from .algebra.augment import ReverseComplementAugment
from .algebra.channels import Channels, UpperTriangle
from .algebra.specs import Antisymmetric, Invariant, Mask, OneHot, Permutation, Tokens, Tracks, reverse_complement
from .convert.accelerate import accelerate
from .convert.attribution import deep_lift_rule, filter_pairs
from .convert.bake import bake, load_plain_state_dict
from .convert.convert import convert_model, plan_conversion
from .convert.decorators import rc_equivariant, rc_leaf
from .convert.extending import extend
from .convert.plan import ConversionPlan
from .convert.saving import apply_recipe, load, recipe, save
from .errors import BreaksSymmetryError, ConversionError, NeedsChoiceError, NoRuleError, TraceError, VerificationError
from .infer.match.recalibrate import recalibrate
from .measure import testing
from .measure.report import EquivarianceReport, check_equivariance
from .rules.registry import rule
from .strands.strings import conjoined_strings
from .strands.unwrapped import unwrap

sys.modules[f"{__name__}.testing"] = testing

__version__ = "0.1.0"

__all__ = [
    "Antisymmetric",
    "BreaksSymmetryError",
    "Channels",
    "ConversionError",
    "ConversionPlan",
    "EquivarianceReport",
    "Invariant",
    "Mask",
    "NeedsChoiceError",
    "NoRuleError",
    "OneHot",
    "Permutation",
    "ReverseComplementAugment",
    "Tokens",
    "TraceError",
    "Tracks",
    "UpperTriangle",
    "VerificationError",
    "accelerate",
    "apply_recipe",
    "bake",
    "check_equivariance",
    "conjoined_strings",
    "convert_model",
    "deep_lift_rule",
    "extend",
    "filter_pairs",
    "layers",
    "load",
    "load_plain_state_dict",
    "plan_conversion",
    "rc_equivariant",
    "rc_leaf",
    "recalibrate",
    "recipe",
    "reverse_complement",
    "rule",
    "save",
    "testing",
    "unwrap",
]


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
