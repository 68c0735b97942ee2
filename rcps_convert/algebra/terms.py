"""Terms: how reverse complement acts on one axis of a tensor.

An axis of size n carries an involution of its n entries. Terms:

* `Leaf`: a known permutation (identity, reversal, or a table), or the sign -1 on a size-1 axis;
* `Sum`: consecutive blocks, each mapped to itself (what ``cat`` makes and ``split`` undoes);
* `Prod`: outer x inner factors (what ``flatten`` makes and ``view`` undoes);
* `Var`: not known yet. `unify` binds variables until two terms are the same action.

There is no model and no operator here: `Mismatch` states a fact about two terms, callers say where.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch
from torch import Tensor


class Mismatch(Exception):  # noqa: N818 - a fact, turned into a ConversionError by the caller
    """Two terms cannot be the same action."""


class Axis:
    """Base class of terms; `size` is the number of entries of the axis."""

    size: int


@dataclass(frozen=True)
class Step:
    """How one operator changes a length: ``out = (mul * L + add) // div``, aligned if it divides.

    A misaligned step reads one edge and not the other. A step that names positions by number is
    aligned at one length, `only`; one that treats the edges differently (a one-sided pad) at none.
    With `ceil`, the padding on the left of a pool with ``ceil_mode``, a remainder makes one more window,
    unless that would start beyond the positions.
    """

    mul: int
    add: int
    div: int = 1
    only: int | None = None
    lopsided: bool = False
    ceil: int | None = None

    @property
    def always(self) -> bool:
        """Whether the operator is aligned at every length."""
        return self.div == 1 and self.only is None and not self.lopsided

    def out(self, length: int) -> int:
        """Length in positions after the operator."""
        whole = self.mul * length + self.add
        if self.ceil is None:
            return whole // self.div
        windows = -(-whole // self.div)
        return windows - ((windows - 1) * self.div >= self.mul * length + self.ceil)

    def remainder(self, length: int) -> str:
        """The arithmetic in words: ``993 = 4*248 + 1``."""
        whole = self.mul * length + self.add
        return f"{whole} = {self.div}*{whole // self.div} + {whole % self.div}"

    def aligned(self, length: int) -> bool:
        """Whether the operator reads both edges of this length alike."""
        if self.lopsided or self.only not in (None, length):
            return False
        return (self.mul * length + self.add) % self.div == 0 and self.out(length) > 0


def follows(steps: Sequence[Step], length: int) -> bool:
    """Whether every operator of a chain is aligned, starting from a length in positions."""
    for step in steps:
        if not step.aligned(length):
            return False
        length = step.out(length)
    return True


def nearest(length: int, holds: Callable[[int], bool]) -> list[int]:
    """The nearest lengths below and above one, in positions, for which something holds."""
    below = next((n for n in range(length - 1, max(0, length - 4096), -1) if holds(n)), None)
    above = next((n for n in range(length + 1, length + 4096) if holds(n)), None)
    return [n for n in (below, above) if n is not None]


@dataclass(frozen=True)
class Role:
    """What an axis is, beyond how it is permuted: ``"length"``, ``"batch"``, the ``"edge"`` of values between bases.

    ``"standing"`` is a length within one of two readings, from either end: both strands read it in the same order.

    Length is a role, not a value: the permutation of ACGT is a reversal too, and only an axis that
    came from a length may be convolved.

    Attributes:
        start: length of the model's input this axis came from, in positions.
        steps: how each operator on the way changed it; None when some operator's arithmetic is unknown.
    """

    name: str
    start: int = 0
    steps: tuple[Step, ...] | None = ()


@dataclass(frozen=True)
class Leaf(Axis):
    """A known action.

    Attributes:
        size: number of entries.
        perm: None for the identity, ``"reversed"``, or the table ``entry i comes from perm[i]``.
        negative: multiply by -1 (size 1 only; a signed axis is a product with this factor).
        role: what the axis is; no part of the action.
    """

    size: int
    perm: str | tuple[int, ...] | None = None
    negative: bool = False
    role: Role | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Sum(Axis):
    """Consecutive blocks of an axis, each mapped to itself.

    Attributes:
        parts: the blocks, in order.
        known: it has no variables and is in normal form.
    """

    parts: tuple[Axis, ...]
    known: bool = field(default=False, compare=False, repr=False)

    @cached_property
    def size(self) -> int:  # type: ignore[override]
        """Number of entries, the sum over parts."""
        return sum(p.size for p in self.parts)


@dataclass(frozen=True)
class Prod(Axis):
    """Outer x inner factors of an axis, the outermost first.

    Attributes:
        factors: the factors, in order.
        known: it has no variables and is in normal form.
    """

    factors: tuple[Axis, ...]
    known: bool = field(default=False, compare=False, repr=False)

    @cached_property
    def size(self) -> int:  # type: ignore[override]
        """Number of entries, the product over factors."""
        return math.prod(f.size for f in self.factors)


@dataclass(eq=False)
class Var(Axis):
    """An action not known yet.

    Attributes:
        size: number of entries.
        unsigned: it passed through a function that is not odd, so it may never become signed.
        ref: the term it was bound to.
    """

    size: int
    unsigned: bool = False
    ref: Axis | None = None


SIGN = Leaf(1, negative=True)
"""The action -1."""


def trivial(size: int) -> Leaf:
    """The action that leaves each of `size` entries where it is."""
    return Leaf(size)


def length(size: int, role: Role | None = None) -> Leaf:
    """The action of reverse complement on `size` positions: reversal, in the role of a length."""
    return Leaf(size, "reversed", role=role or Role("length", start=size))


def batch(size: int) -> Leaf:
    """The trivial action on an axis of `size` independent samples."""
    return Leaf(size, role=Role("batch"))


STANDING = Role("standing")


def fixed_like(term: Axis, size: int) -> Leaf:
    """The action that leaves each entry where it is, on what an operator made of such an axis."""
    return Leaf(size, role=STANDING if role(term) == STANDING else None)


def permutation(table: Sequence[int]) -> Axis:
    """The action with entry i coming from ``table[i]``, in its shortest form.

    Raises:
        ValueError: the table is not an involution.
    """
    n, table = len(table), tuple(table)
    if sorted(table) != list(range(n)) or any(table[table[i]] != i for i in range(n)):
        raise ValueError(f"{list(table)} is not an involution of {n} entries")
    if table == tuple(range(n)):
        return trivial(n)
    return Leaf(n, "reversed" if table == tuple(reversed(range(n))) else table)


def positions(size: int, offset: int = 0) -> Axis:
    """The action on values along a sequence: position i goes to size - 1 - i - offset; what has no partner stays."""
    if not offset:
        return length(size)
    edge = Leaf(min(size, abs(offset)), role=Role("edge"))
    covered = length(size - edge.size, Role("length", start=size, steps=None))
    return total([covered, edge] if offset > 0 else [edge, covered])


def has_edge(term: Axis) -> bool:
    """Whether some entries of an axis along a sequence have no partner, as of values that lie between bases."""
    term = walk(term)
    return any(isinstance(p, Leaf) and p.role == Role("edge") for p in (term, *children(term)))


def regular(size: int) -> Axis:
    """The first half of the axis swaps with the second half; an odd one out stays fixed."""
    half = size // 2
    pairs = product([Leaf(2, "reversed"), trivial(half)]) if half else trivial(0)
    return total([pairs, trivial(size % 2)])


# --- normal forms -----------------------------------------------------------------------------


def product(factors: Iterable[Axis]) -> Axis:
    """The product of factors in normal form: flat, neighbours merged, one sign at most, at the end."""
    core: list[Axis] = []
    ones: dict[Axis, None] = {}
    unit = trivial(1)
    negative = False
    for f in _flat(factors, Prod):
        if isinstance(f, Leaf) and f.size == 1:
            negative ^= f.negative
            unit = f if f.role else unit
        elif f.size == 1:
            if f in ones:  # a sign squared
                del ones[f]
            else:
                ones[f] = None
        elif core and _merges(core[-1], f):
            core[-1] = _merged(core[-1], f)
        else:
            core.append(f)
    whole = core + [*ones] + ([SIGN] if negative else [])
    if not whole:
        return unit
    return whole[0] if len(whole) == 1 else Prod(tuple(whole), _all_known(whole))


def total(parts: Iterable[Axis]) -> Axis:
    """The sum of parts in normal form: flat, no empty parts, neighbouring fixed blocks merged."""
    whole: list[Axis] = []
    for p in _flat(parts, Sum):
        if p.size == 0:
            continue
        if whole and _is_identity(whole[-1]) and _is_identity(p) and Role("edge") not in (role(whole[-1]), role(p)):
            whole[-1] = fixed_like(p if role(p) == STANDING else whole[-1], whole[-1].size + p.size)
        else:
            whole.append(p)
    if not whole:
        return trivial(0)
    return whole[0] if len(whole) == 1 else Sum(tuple(whole), _all_known(whole))


def _all_known(terms: Iterable[Axis]) -> bool:
    return all(t.known if isinstance(t, (Prod, Sum)) else isinstance(t, Leaf) for t in terms)


def walk(term: Axis) -> Axis:
    """The term with every bound variable replaced, in normal form."""
    while isinstance(term, Var) and term.ref is not None:
        term = term.ref
    if isinstance(term, (Prod, Sum)) and not term.known:
        inner = [walk(t) for t in children(term)]
        return product(inner) if isinstance(term, Prod) else total(inner)
    return term


def resized(term: Axis, size: int) -> Axis | None:
    """The axis at another size, if only a length, a batch or a fixed block in it has another one; else None."""
    term = walk(term)
    if term.size == size:
        return term
    if isinstance(term, Leaf) and (term.role is not None or _is_identity(term)):
        return Leaf(size, term.perm, role=term.role)
    found = ends(term)
    if found is not None and size > sum(found):
        parts = children(term)
        return total(resized(p, size - sum(found)) or p if is_length(p) else p for p in parts)
    if not isinstance(term, Prod):
        return None
    places = [i for i, f in enumerate(term.factors) if role(f) is not None]
    rest = math.prod(f.size for f in term.factors if role(f) is None)
    if len(places) != 1 or size % rest:
        return None
    grown = resized(term.factors[places[0]], size // rest)
    return None if grown is None else product(grown if i in places else f for i, f in enumerate(term.factors))


def replaced(term: Axis, known: Callable[[Var], Axis]) -> Axis:
    """The term with every unbound variable replaced by what `known` says of it; nothing is bound."""
    term = walk(term)
    if isinstance(term, Var):
        return known(term)
    if isinstance(term, Prod):
        return product(replaced(f, known) for f in term.factors)
    return total(replaced(p, known) for p in term.parts) if isinstance(term, Sum) else term


def _flat(terms: Iterable[Axis], kind: type[Sum] | type[Prod]) -> Iterator[Axis]:
    for t in terms:
        if isinstance(t, kind):
            yield from _flat(t.parts if isinstance(t, Sum) else t.factors, kind)  # type: ignore[union-attr]
        else:
            yield t


def _is_identity(t: Axis) -> bool:
    return isinstance(t, Leaf) and t.perm is None and not t.negative


def _merges(a: Axis, b: Axis) -> bool:
    """Identity x identity is an identity; reversal x reversal is a reversal."""
    both_leaves = isinstance(a, Leaf) and isinstance(b, Leaf)
    return both_leaves and a.perm == b.perm and a.perm in (None, "reversed") and a.role == b.role  # type: ignore[attr-defined]


def _merged(a: Axis, b: Axis) -> Leaf:
    role = Role("length", steps=None) if a.role else None  # type: ignore[attr-defined]
    if _is_identity(a):
        role = a.role  # type: ignore[attr-defined]
    return Leaf(a.size * b.size, a.perm, role=role)  # type: ignore[attr-defined]


# --- looking at terms -------------------------------------------------------------------------


def free(term: Axis) -> list[Var]:
    """Unbound variables of a term, left to right, each once."""
    found: dict[Var, None] = {}

    def visit(t: Axis) -> None:
        if isinstance(t, Var):
            found[t] = None
        elif isinstance(t, (Prod, Sum)) and not t.known:
            for child in children(t):
                visit(child)

    visit(walk(term))
    return list(found)


def children(t: Axis) -> tuple[Axis, ...]:
    """Factors of a product, parts of a sum; none for the other terms."""
    if isinstance(t, Prod):
        return t.factors
    return t.parts if isinstance(t, Sum) else ()


@lru_cache(maxsize=512)
def _indices(term: Axis) -> tuple[int, ...]:
    """The permutation as numbers: a tensor kept here would be one of the mode (inference, export) it was made in."""
    if isinstance(term, Leaf):
        if term.perm == "reversed":
            return tuple(reversed(range(term.size)))
        return term.perm if isinstance(term.perm, tuple) else tuple(range(term.size))
    blocks = [_indices(c) for c in children(term)]
    if isinstance(term, Prod):
        out = blocks[0]
        for inner in blocks[1:]:
            out = tuple(o * len(inner) + i for o in out for i in inner)
        return out
    starts = itertools.accumulate((len(b) for b in blocks), initial=0)
    return tuple(i + start for block, start in zip(blocks, starts, strict=False) for i in block)


def indices(term: Axis) -> Tensor:
    """The permutation as a table: int64, shape (size,), entry i comes from ``indices[i]``.

    Raises:
        ValueError: the term still has free variables.
    """
    term = walk(term)
    if free(term):
        raise ValueError("the action is not known yet")
    if isinstance(term, Leaf) and not isinstance(term.perm, tuple):
        where = torch.arange(term.size)
        return where if term.perm is None else where.flip(0)
    return torch.tensor(_indices(term), dtype=torch.int64)


def signs(term: Axis) -> Tensor | None:
    """The signs per entry, int64, shape (size,); None when all are +1."""
    term = walk(term)
    if not _mentions_sign(term):
        return None
    if isinstance(term, Leaf):
        return torch.full((term.size,), -1)
    blocks = [s if (s := signs(c)) is not None else torch.ones(c.size, dtype=torch.int64) for c in children(term)]
    out = torch.cat(blocks) if isinstance(term, Sum) else _outer_signs(blocks)
    return out if bool((out < 0).any()) else None


def _outer_signs(blocks: list[Tensor]) -> Tensor:
    out = blocks[0]
    for inner in blocks[1:]:
        out = (out[:, None] * inner).flatten()
    return out


def _mentions_sign(term: Axis) -> bool:
    if isinstance(term, Leaf):
        return term.negative
    return any(_mentions_sign(c) for c in children(term))


def has_sign(term: Axis) -> bool:
    """Whether some entry is multiplied by -1, as far as the action is known."""
    return signs(term) is not None


def is_trivial(term: Axis) -> bool:
    """Whether the action is known and does nothing; a length of one position is reversed once it is longer."""
    term = walk(term)
    if isinstance(term, Leaf):
        return not term.negative and (term.perm is None or (term.size == 1 and term.role is None))
    if free(term) or has_sign(term) or any(map(is_length, term.parts if isinstance(term, Sum) else ())):
        return False
    return _indices(term) == tuple(range(term.size))


def role(term: Axis) -> Role | None:
    """The role of an axis, also of one that was reshaped: a product of lengths is a length."""
    term = walk(term)
    if isinstance(term, Leaf):
        return term.role
    if not isinstance(term, Prod):
        return None
    roles = [role(f) for f in term.factors if f.size > 1]
    names = {r.name if r else None for r in roles}
    if len(names) != 1 or None in names:
        return None
    return roles[0] if len(roles) == 1 else Role(names.pop() or "", steps=None)


def is_length(term: Axis) -> bool:
    """Whether the axis is a length: reversed, and come from a length of the input."""
    found = role(term)
    return found is not None and found.name == "length"


def ends(term: Axis) -> tuple[int, int] | None:
    """Entries that stay before and after the positions of an axis, (0, 0) for a length; None if it has no positions."""
    if is_length(term):
        return 0, 0
    parts = children(walk(term)) if isinstance(walk(term), Sum) else ()
    middle = [i for i, p in enumerate(parts) if isinstance(p, Leaf) and is_length(p)]
    if len(middle) != 1 or not all(map(_is_identity, (*parts[: middle[0]], *parts[middle[0] + 1 :]))):
        return None
    return sum(p.size for p in parts[: middle[0]]), sum(p.size for p in parts[middle[0] + 1 :])


def units(term: Axis) -> list[Axis]:
    """The factors of size 1 of a product: its signs, known and open."""
    term = walk(term)
    return [f for f in term.factors if f.size == 1] if isinstance(term, Prod) else []


def same(a: Axis, b: Axis) -> bool:
    """Whether two known terms are the same action (roles aside)."""
    a, b = walk(a), walk(b)
    if a.size != b.size:
        return False
    if a == b:
        return True
    sa, sb = signs(a), signs(b)
    if (sa is None) != (sb is None) or (sa is not None and not torch.equal(sa, sb)):  # type: ignore[arg-type]
        return False
    return torch.equal(indices(a), indices(b))
