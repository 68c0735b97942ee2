"""Make any PyTorch model on DNA exactly reverse-complement equivariant, with one call.

>>> import torch
>>> from rcps_convert import convert_model
>>> model = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 5), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 1))
>>> converted = convert_model(model, torch.zeros(2, 4, 8))
"""

from . import layers as layers
from ._version import __version__ as __version__
from .algebra.augment import ReverseComplementAugment as ReverseComplementAugment
from .algebra.specs import Antisymmetric as Antisymmetric
from .algebra.specs import Invariant as Invariant
from .algebra.specs import OneHot as OneHot
from .algebra.specs import Tokens as Tokens
from .algebra.specs import Tracks as Tracks
from .algebra.specs import reverse_complement as reverse_complement
from .convert.bake import bake as bake
from .convert.bake import load_plain_state_dict as load_plain_state_dict
from .convert.convert import convert_model as convert_model
from .convert.convert import plan_conversion as plan_conversion
from .convert.decorators import rc_equivariant as rc_equivariant
from .convert.decorators import rc_leaf as rc_leaf
from .convert.plan import ConversionPlan as ConversionPlan
from .errors import BreaksSymmetryError as BreaksSymmetryError
from .errors import ConversionError as ConversionError
from .errors import NeedsChoiceError as NeedsChoiceError
from .errors import NoRuleError as NoRuleError
from .errors import TraceError as TraceError
from .errors import VerificationError as VerificationError
from .measure.report import EquivarianceReport as EquivarianceReport
from .measure.report import check_equivariance as check_equivariance
from .rules.registry import rule as rule
from .strands.unwrapped import unwrap as unwrap
