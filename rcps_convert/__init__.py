"""Make any PyTorch model on DNA exactly reverse-complement equivariant, with one call.

>>> import torch
>>> from rcps_convert import convert_model
>>> model = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 5), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 1))
>>> converted = convert_model(model, torch.zeros(2, 4, 8))

Start reading at `convert/convert.py`, which names each stage of a conversion and its folder.
"""

from . import layers
from .algebra.augment import ReverseComplementAugment
from .algebra.specs import Antisymmetric, Invariant, Mask, OneHot, Tokens, Tracks, reverse_complement
from .convert.attribution import deep_lift_rule, filter_pairs
from .convert.bake import bake, load_plain_state_dict
from .convert.convert import convert_model, plan_conversion
from .convert.decorators import rc_equivariant, rc_leaf
from .convert.plan import ConversionPlan
from .convert.saving import apply_recipe, load, recipe, save
from .errors import BreaksSymmetryError, ConversionError, NeedsChoiceError, NoRuleError, TraceError, VerificationError
from .measure.report import EquivarianceReport, check_equivariance
from .rules.registry import rule
from .strands.strings import conjoined_strings
from .strands.unwrapped import unwrap

__version__ = "0.1.0"

__all__ = [
    "Antisymmetric",
    "BreaksSymmetryError",
    "ConversionError",
    "ConversionPlan",
    "EquivarianceReport",
    "Invariant",
    "Mask",
    "NeedsChoiceError",
    "NoRuleError",
    "OneHot",
    "ReverseComplementAugment",
    "Tokens",
    "TraceError",
    "Tracks",
    "VerificationError",
    "apply_recipe",
    "bake",
    "check_equivariance",
    "conjoined_strings",
    "convert_model",
    "deep_lift_rule",
    "filter_pairs",
    "layers",
    "load",
    "load_plain_state_dict",
    "plan_conversion",
    "rc_equivariant",
    "rc_leaf",
    "recipe",
    "reverse_complement",
    "rule",
    "save",
    "unwrap",
]


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
