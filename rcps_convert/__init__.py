"""Make any PyTorch model on DNA exactly reverse-complement equivariant, with one call.

>>> import torch
>>> from rcps_convert import convert_model
>>> model = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 5), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 1))
>>> converted = convert_model(model, torch.zeros(2, 4, 8))

Start reading at `convert/convert.py`, which names each stage of a conversion and its folder.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import layers, testing
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
    from .errors import (
        BreaksSymmetryError,
        ConversionError,
        NeedsChoiceError,
        NoRuleError,
        TraceError,
        VerificationError,
    )
    from .infer.match.recalibrate import recalibrate
    from .measure.report import EquivarianceReport, check_equivariance
    from .rules.registry import rule
    from .strands.strings import conjoined_strings
    from .strands.unwrapped import unwrap

_HOMES = {
    ".": "layers testing",
    ".algebra.augment": "ReverseComplementAugment",
    ".algebra.channels": "Channels UpperTriangle",
    ".algebra.specs": "Antisymmetric Invariant Mask OneHot Permutation Tokens Tracks reverse_complement",
    ".convert.accelerate": "accelerate",
    ".convert.attribution": "deep_lift_rule filter_pairs",
    ".convert.bake": "bake load_plain_state_dict",
    ".convert.convert": "convert_model plan_conversion",
    ".convert.decorators": "rc_equivariant rc_leaf",
    ".convert.extending": "extend",
    ".convert.plan": "ConversionPlan",
    ".convert.saving": "apply_recipe load recipe save",
    ".errors": "BreaksSymmetryError ConversionError NeedsChoiceError NoRuleError TraceError VerificationError",
    ".infer.match.recalibrate": "recalibrate",
    ".measure.report": "EquivarianceReport check_equivariance",
    ".rules.registry": "rule",
    ".strands.strings": "conjoined_strings",
    ".strands.unwrapped": "unwrap",
}
"""Where the public names are: a module is imported when one of its names is asked for."""

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


def __getattr__(name: str) -> Any:
    """A public name, or a module of the package."""
    home = next((home for home, names in _HOMES.items() if name in names.split()), ".")
    found = _module(name) if home == "." else getattr(import_module(home, __name__), name)
    globals()[name] = found
    return found


def _module(name: str) -> Any:
    """A module of the package, which is an attribute of it before anybody has imported it."""
    whole = f"{__name__}.{name}"
    try:
        if not name.startswith("_"):
            return import_module(whole)
    except ModuleNotFoundError as reason:
        if reason.name != whole:
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
