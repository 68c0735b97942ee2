"""How reverse complement acts on one axis of a tensor: terms (`terms`), and `unify`, which solves them (`unify`).

There is no model and no operator here: `Mismatch` states a fact about two terms, callers say where.
"""

from .described import describe as describe
from .signed import signed_permutation as signed_permutation
from .solve import attempt as attempt
from .solve import factor as factor
from .solve import factor_into as factor_into
from .solve import forbid_sign as forbid_sign
from .solve import lengthen as lengthen
from .solve import settle as settle
from .solve import settle_partnered as settle_partnered
from .solve import split as split
from .solve import trivialise as trivialise
from .solve import unify as unify
from .terms import SIGN as SIGN
from .terms import STANDING as STANDING
from .terms import Axis as Axis
from .terms import Leaf as Leaf
from .terms import Mismatch as Mismatch
from .terms import Prod as Prod
from .terms import Role as Role
from .terms import Step as Step
from .terms import Sum as Sum
from .terms import Var as Var
from .terms import batch as batch
from .terms import children as children
from .terms import ends as ends
from .terms import fixed_like as fixed_like
from .terms import follows as follows
from .terms import free as free
from .terms import has_edge as has_edge
from .terms import has_sign as has_sign
from .terms import indices as indices
from .terms import is_length as is_length
from .terms import is_trivial as is_trivial
from .terms import length as length
from .terms import nearest as nearest
from .terms import permutation as permutation
from .terms import positions as positions
from .terms import product as product
from .terms import regular as regular
from .terms import replaced as replaced
from .terms import resized as resized
from .terms import role as role
from .terms import same as same
from .terms import signs as signs
from .terms import total as total
from .terms import trivial as trivial
from .terms import units as units
from .terms import walk as walk
