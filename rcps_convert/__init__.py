"""Make any PyTorch model on DNA exactly reverse-complement equivariant, with one call.

>>> import torch
>>> from rcps_convert import convert_model
>>> model = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 5), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 1))
>>> converted = convert_model(model, torch.zeros(2, 4, 8))
"""

from . import layers as layers
from ._version import __version__ as __version__
from .action import Antisymmetric as Antisymmetric
from .action import Invariant as Invariant
from .action import OneHot as OneHot
from .action import Tokens as Tokens
from .action import Tracks as Tracks
from .action import reverse_complement as reverse_complement
from .augment import ReverseComplementAugment as ReverseComplementAugment
from .bake import bake as bake
from .bake import load_plain_state_dict as load_plain_state_dict
from .bake import unwrap as unwrap
from .convert import convert_model as convert_model
from .convert import plan_conversion as plan_conversion
from .decorators import rc_equivariant as rc_equivariant
from .decorators import rc_leaf as rc_leaf
from .errors import BreaksSymmetryError as BreaksSymmetryError
from .errors import ConversionError as ConversionError
from .errors import NeedsChoiceError as NeedsChoiceError
from .errors import NoRuleError as NoRuleError
from .errors import TraceError as TraceError
from .errors import VerificationError as VerificationError
from .plan import ConversionPlan as ConversionPlan
from .registry import rule as rule
from .verify import EquivarianceReport as EquivarianceReport
from .verify import check_equivariance as check_equivariance
