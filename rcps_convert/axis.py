"""How reverse complement acts on one axis of a tensor: terms, and `unify`, which solves them.

An axis of size n carries an involution of its n entries. Terms:

* `Leaf`: a known permutation (identity, reversal, or a table), or the sign -1 on a size-1 axis;
* `Sum`: consecutive blocks, each mapped to itself (what ``cat`` makes and ``split`` undoes);
* `Prod`: outer x inner factors (what ``flatten`` makes and ``view`` undoes);
* `Var`: not known yet. `unify` binds variables until two terms are the same action.

There is no model and no operator here: `Mismatch` states a fact about two terms, callers say where.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache

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

    A misaligned step reads from the left edge only, which no choice of weights can repair. A step that
    names positions by number is aligned at one length, `only`.
    """

    mul: int
    add: int
    div: int = 1
    only: int | None = None

    def out(self, length: int) -> int:
        """Length in positions after the operator."""
        return (self.mul * length + self.add) // self.div

    def aligned(self, length: int) -> bool:
        """Whether the operator reads both edges of this length alike."""
        if self.only not in (None, length):
            return False
        return (self.mul * length + self.add) % self.div == 0 and self.out(length) > 0


def follows(steps: Sequence[Step], length: int) -> bool:
    """Whether every operator of a chain is aligned, starting from a length in positions."""
    for step in steps:
        if not step.aligned(length):
            return False
        length = step.out(length)
    return True


@dataclass(frozen=True)
class Role:
    """What an axis is, beyond how it is permuted: ``"length"`` or ``"batch"``.

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
    """Consecutive blocks of an axis, each mapped to itself."""

    parts: tuple[Axis, ...]

    @property
    def size(self) -> int:  # type: ignore[override]
        """Number of entries, the sum over parts."""
        return sum(p.size for p in self.parts)


@dataclass(frozen=True)
class Prod(Axis):
    """Outer x inner factors of an axis, the outermost first."""

    factors: tuple[Axis, ...]

    @property
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
    return whole[0] if len(whole) == 1 else Prod(tuple(whole))


def total(parts: Iterable[Axis]) -> Axis:
    """The sum of parts in normal form: flat, no empty parts, neighbouring fixed blocks merged."""
    whole: list[Axis] = []
    for p in _flat(parts, Sum):
        if p.size == 0:
            continue
        if whole and _is_identity(whole[-1]) and _is_identity(p):
            whole[-1] = trivial(whole[-1].size + p.size)
        else:
            whole.append(p)
    if not whole:
        return trivial(0)
    return whole[0] if len(whole) == 1 else Sum(tuple(whole))


def walk(term: Axis) -> Axis:
    """The term with every bound variable replaced, in normal form."""
    while isinstance(term, Var) and term.ref is not None:
        term = term.ref
    if isinstance(term, Prod):
        return product(walk(f) for f in term.factors)
    if isinstance(term, Sum):
        return total(walk(p) for p in term.parts)
    return term


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
        t = walk(t)
        if isinstance(t, Var):
            found[t] = None
        for child in _children(t):
            visit(child)

    visit(term)
    return list(found)


def _children(t: Axis) -> tuple[Axis, ...]:
    if isinstance(t, Prod):
        return t.factors
    return t.parts if isinstance(t, Sum) else ()


@lru_cache(maxsize=512)
def _indices(term: Axis) -> Tensor:
    if isinstance(term, Leaf):
        where = torch.arange(term.size)
        if term.perm == "reversed":
            return where.flip(0)
        return where if term.perm is None else torch.tensor(term.perm)
    blocks = [_indices(c) for c in _children(term)]
    if isinstance(term, Prod):
        out = blocks[0]
        for inner in blocks[1:]:
            out = (out[:, None] * len(inner) + inner).flatten()
        return out
    starts = [0, *torch.tensor([len(b) for b in blocks]).cumsum(0).tolist()]
    return torch.cat([b + s for b, s in zip(blocks, starts, strict=False)])


def indices(term: Axis) -> Tensor:
    """The permutation as a table: int64, shape (size,), entry i comes from ``indices[i]``.

    Raises:
        ValueError: the term still has free variables.
    """
    term = walk(term)
    if free(term):
        raise ValueError("the action is not known yet")
    return _indices(term)


def signs(term: Axis) -> Tensor | None:
    """The signs per entry, int64, shape (size,); None when all are +1."""
    term = walk(term)
    if not _mentions_sign(term):
        return None
    if isinstance(term, Leaf):
        return torch.full((term.size,), -1)
    blocks = [s if (s := signs(c)) is not None else torch.ones(c.size, dtype=torch.int64) for c in _children(term)]
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
    return any(_mentions_sign(c) for c in _children(term))


def has_sign(term: Axis) -> bool:
    """Whether some entry is multiplied by -1, as far as the action is known."""
    return signs(term) is not None


def is_trivial(term: Axis) -> bool:
    """Whether the action is known and does nothing."""
    term = walk(term)
    if isinstance(term, Leaf):
        return not term.negative and (term.size == 1 or term.perm is None)
    return not free(term) and not has_sign(term) and bool((indices(term) == torch.arange(term.size)).all())


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


def describe(term: Axis) -> str:
    """The action in words: ``16 pairs + 1 fixed``, ``75 reversed``, ``batch of 2``, ``32 fixed``."""
    term = walk(term)
    if isinstance(term, Var):
        return f"{term.size} open"
    found = role(term)
    if found is not None:
        return f"{term.size} reversed" if found.name == "length" else f"batch of {term.size}"
    if isinstance(term, Prod) and (free(term) or any(role(f) for f in term.factors)):
        return " x ".join(f"({describe(f)})" for f in _phrases(term))
    if free(term):
        return " + ".join(describe(p) for p in _children(term))
    return _counts(term)


def _phrases(term: Prod) -> list[Axis]:
    """The factors of a product with neighbours that have neither role nor open variables taken together."""
    found: list[Axis] = []
    for f in term.factors:
        plain = not free(f) and role(f) is None
        if found and plain and not free(found[-1]) and role(found[-1]) is None:
            found[-1] = product([found[-1], f])
        else:
            found.append(f)
    return found


def _counts(term: Axis) -> str:
    idx, sgn = indices(term), signs(term)
    own = idx == torch.arange(len(idx))
    negative = own & (sgn < 0) if sgn is not None else torch.zeros_like(own)
    numbers = [
        (int((~own).sum()) // 2, "pairs"),
        (int((own & ~negative).sum()), "fixed"),
        (int(negative.sum()), "negated"),
    ]
    named = [f"{n} {'pair' if (word, n) == ('pairs', 1) else word}" for n, word in numbers if n]
    swapped_sign = sgn is not None and bool((sgn[~own] < 0).any())
    return (" + ".join(named) or "empty") + (" with signs" if swapped_sign else "")


# --- binding, with undo -----------------------------------------------------------------------

_TRAIL: ContextVar[list[tuple[Var, bool, Axis | None]] | None] = ContextVar("trail", default=None)


@contextmanager
def attempt() -> Iterator[None]:
    """Undo every binding made inside if the block raises."""
    trail: list[tuple[Var, bool, Axis | None]] = []
    outer = _TRAIL.get()
    token = _TRAIL.set(trail)
    try:
        yield
    except BaseException:
        for var, unsigned, ref in reversed(trail):
            var.unsigned, var.ref = unsigned, ref
        raise
    else:
        if outer is not None:
            outer.extend(trail)
    finally:
        _TRAIL.reset(token)


def _record(var: Var) -> None:
    trail = _TRAIL.get()
    if trail is not None:
        trail.append((var, var.unsigned, var.ref))


def _bind(var: Var, term: Axis) -> None:
    if var in free(term):
        _bind_within(var, term)
        return
    if var.unsigned:
        forbid_sign(term)
    _record(var)
    var.ref = term


def _bind_within(var: Var, term: Axis) -> None:
    """v = v x w holds when w, of size 1, is trivial; any other term holding v is infinite."""
    if not isinstance(term, Prod) or var not in term.factors:
        raise Mismatch("an axis cannot be a part of itself")
    unify(product(f for f in term.factors if f is not var), trivial(1))


def forbid_sign(term: Axis) -> None:
    """Record that the axis passed through a function that is not odd.

    Raises:
        Mismatch: the axis is signed.
    """
    term = walk(term)
    if not free(term) and has_sign(term):
        raise Mismatch(f"a signed axis ({describe(term)}) where signs are lost")
    if isinstance(term, Prod):
        _unify_ones([f for f in term.factors if f.size == 1], [])
    for child in _children(term):
        if child.size > 1 or isinstance(term, Sum):
            forbid_sign(child)
    if isinstance(term, Var):
        _record(term)
        term.unsigned = True
        term.ref = trivial(1) if term.size == 1 else None


def trivialise(term: Axis) -> None:
    """Bind every free variable of a term to the trivial action."""
    for v in free(term):
        _bind(v, trivial(v.size))


# --- refining: split and factor ---------------------------------------------------------------


def split(term: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Cut an axis into consecutive pieces, each mapped to itself, refining the term as needed.

    Args:
        term: an axis.
        sizes: sizes of the pieces; they add up to the size of the axis.

    Raises:
        Mismatch: the action moves entries across a boundary.
    """
    term = walk(term)
    if sum(sizes) != term.size:
        raise Mismatch(f"pieces {list(sizes)} do not add up to {term.size}")
    if sum(s > 0 for s in sizes) <= 1:
        return [term if s else trivial(0) for s in sizes]
    if isinstance(term, Var):
        pieces: list[Axis] = [Var(s, term.unsigned) if s else trivial(0) for s in sizes]
        _bind(term, total(pieces))
        return pieces
    if isinstance(term, Sum):
        return _split_sum(term, sizes)
    if isinstance(term, Prod):
        return _split_product(term, sizes)
    return _split_leaf(term, sizes)  # type: ignore[arg-type]


def _split_leaf(leaf: Leaf, sizes: Sequence[int]) -> list[Axis]:
    if leaf.perm is None:
        return [trivial(s) for s in sizes]
    idx, start, pieces = indices(leaf), 0, []
    for s in sizes:
        block = idx[start : start + s] - start
        if s and (int(block.min()) < 0 or int(block.max()) >= s):
            raise Mismatch(f"{describe(leaf)}: entries cross the boundary of a piece of {s} at {start}")
        pieces.append(permutation(block.tolist()))
        start += s
    return pieces


def _split_sum(term: Sum, sizes: Sequence[int]) -> list[Axis]:
    rest, pieces = list(term.parts), []
    for s in sizes:
        got: list[Axis] = []
        while s:
            head = rest.pop(0)
            if head.size > s:
                head, tail = split(head, [s, head.size - s])
                rest.insert(0, tail)
            got.append(head)
            s -= head.size
        pieces.append(total(got))
    return pieces


def _split_product(term: Prod, sizes: Sequence[int]) -> list[Axis]:
    outer, rest = term.factors[0], term.factors[1:]
    inner = math.prod(f.size for f in rest)
    if all(s % inner == 0 for s in sizes):
        return [product([o, *rest]) if o.size else trivial(0) for o in split(outer, [s // inner for s in sizes])]
    unify(outer, trivial(outer.size))
    return _split_sum(Sum((product(rest),) * outer.size), sizes)


def factor(term: Axis, outer: int, inner: int) -> tuple[Axis, Axis]:
    """Read an axis of size outer * inner as a product, refining the term as needed.

    Raises:
        Mismatch: the action is not outer x inner.
    """
    term = walk(term)
    if outer * inner != term.size:
        raise Mismatch(f"{term.size} is not {outer} x {inner}")
    if inner == 1:
        return term, trivial(1)
    if outer == 1:
        return trivial(1), term
    if isinstance(term, Var):
        o, i = Var(outer, term.unsigned), Var(inner, term.unsigned)
        _bind(term, Prod((o, i)))
        return o, i
    if isinstance(term, Sum):
        return _factor_sum(term, outer, inner)
    if isinstance(term, Prod):
        return _factor_product(term, outer)
    return _factor_leaf(term, outer, inner)  # type: ignore[arg-type]


def factor_into(term: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Read an axis as a product of several factors, the outermost first."""
    if not sizes:
        return []
    if all(s == 1 for s in sizes):
        return [term, *(trivial(1) for _ in sizes[1:])]
    out: list[Axis] = []
    rest = term
    for i, size in enumerate(sizes[:-1]):
        head, rest = factor(rest, size, math.prod(sizes[i + 1 :]))
        out.append(head)
    return [*out, rest]


def _factor_leaf(leaf: Leaf, outer: int, inner: int) -> tuple[Axis, Axis]:
    if leaf.perm is None:
        return trivial(outer), trivial(inner)
    if leaf.perm == "reversed":
        part = Role(leaf.role.name, steps=None) if leaf.role else None
        return Leaf(outer, "reversed", role=part), Leaf(inner, "reversed", role=part)
    idx = indices(leaf)
    o, i = idx[::inner] // inner, idx[:inner] % inner
    if not torch.equal(idx, (o[:, None] * inner + i).flatten()):
        raise Mismatch(f"{describe(leaf)} is not a product of {outer} x {inner}")
    return permutation(o.tolist()), permutation(i.tolist())


def _factor_product(term: Prod, outer: int) -> tuple[Axis, Axis]:
    need, left, right = outer, [], []
    for f in term.factors:
        if need == 1:
            right.append(f)
        elif need % f.size == 0:
            left.append(f)
            need //= f.size
        elif f.size % need == 0:
            o, i = factor(f, need, f.size // need)
            left.append(o)
            right.append(i)
            need = 1
        else:  # sizes that do not nest leave only the trivial action
            unify(term, trivial(term.size))
            return trivial(outer), trivial(term.size // outer)
    return product(left), product(right)


def _factor_sum(term: Sum, outer: int, inner: int) -> tuple[Axis, Axis]:
    if all(p.size % inner == 0 for p in term.parts):
        pairs = [factor(p, p.size // inner, inner) for p in term.parts]
        outers = [o for o, _ in pairs]
        inners = [i for _, i in pairs]
    else:
        inners = split(term, [inner] * outer)
        outers = [trivial(outer)]
    for other in inners[1:]:
        unify(inners[0], other)
    return total(outers), inners[0]


# --- unify ------------------------------------------------------------------------------------


def unify(a: Axis, b: Axis) -> None:
    """Make two terms the same action, binding variables as needed.

    Raises:
        Mismatch: no binding makes them the same.
    """
    a, b = walk(a), walk(b)
    if a == b:
        return
    if a.size != b.size:
        raise Mismatch(f"sizes {a.size} and {b.size}")
    if isinstance(a, Var):
        _bind(a, b)
    elif isinstance(b, Var):
        _bind(b, a)
    elif not free(a) and not free(b):
        if not same(a, b):
            raise Mismatch(f"{describe(a)} against {describe(b)}")
    else:
        _unify_structures(a, b)


def _unify_structures(a: Axis, b: Axis) -> None:
    """Cut or regroup both sides alike; where that is impossible, the trivial action may still fit."""
    try:
        with attempt():
            if isinstance(a, Sum) or isinstance(b, Sum):
                _unify_pieces(a, b)
            else:
                _unify_factors(_factors(a), _factors(b))
    except Mismatch as fact:
        trivialise(a)
        trivialise(b)
        if not same(a, b):
            raise fact


def _factors(t: Axis) -> list[Axis]:
    return list(t.factors) if isinstance(t, Prod) else [t]


def _unify_pieces(a: Axis, b: Axis) -> None:
    marks = set(_boundaries(a)) | set(_boundaries(b))
    cuts = sorted(marks)
    sizes = [hi - lo for lo, hi in zip([0, *cuts], cuts, strict=False)]
    for x, y in zip(split(a, sizes), split(b, sizes), strict=True):
        unify(x, y)


def _boundaries(t: Axis) -> list[int]:
    ends, at = [], 0
    for p in t.parts if isinstance(t, Sum) else (t,):
        at += p.size
        ends.append(at)
    return ends


def _unify_factors(a: list[Axis], b: list[Axis]) -> None:
    _unify_ones([f for f in a if f.size == 1], [f for f in b if f.size == 1])
    a, b = [f for f in a if f.size > 1], [f for f in b if f.size > 1]
    while a and b:
        if not (_peel(a, b, -1) or _peel(a, b, 0)):
            left, right = product(a), product(b)
            trivialise(left)
            trivialise(right)
            if not same(left, right):
                raise Mismatch(f"{describe(left)} against {describe(right)}")
            return


def _peel(a: list[Axis], b: list[Axis], end: int) -> bool:
    """Unify the greatest common factor at one end of two products; False when there is none."""
    x, y = walk(a[end]), walk(b[end])
    g = math.gcd(x.size, y.size)
    if g == 1:
        return False
    a.pop(end)
    b.pop(end)
    unify(_cut(x, g, a, end), _cut(y, g, b, end))
    return True


def _cut(x: Axis, g: int, rest: list[Axis], end: int) -> Axis:
    if x.size == g:
        return x
    if end == -1:
        remainder, piece = factor(x, x.size // g, g)
        rest.append(remainder)
    else:
        piece, remainder = factor(x, g, x.size // g)
        rest.insert(0, remainder)
    return piece


def _unify_ones(a: list[Axis], b: list[Axis]) -> None:
    """Size-1 factors are signs: their product is +1, which gives one open sign in terms of the others."""
    whole = product([*a, *b])
    signs_left = [v for v in free(whole) if not v.unsigned]
    negative = SIGN in _factors(whole)
    for v in free(whole):
        if v.unsigned:
            _bind(v, trivial(1))
    if signs_left:
        _bind(signs_left[0], product([*signs_left[1:], SIGN if negative else trivial(1)]))
    elif negative:
        raise Mismatch("one side changes sign, the other does not")


# --- what stays open --------------------------------------------------------------------------


def settle(terms: Iterable[Axis]) -> None:
    """Give every open axis its default: regular, with contiguous halves wherever possible.

    In a product of open factors exactly one becomes regular, the outermost of even size, so that
    the halves stay contiguous; the parts of a sum are settled each for itself.
    """
    terms = list(terms)
    for term in terms:
        for whole in _open_products(walk(term)):
            _choose_factor([f for f in map(walk, whole.factors) if free(f)])
    for term in terms:
        for v in free(term):
            _bind(v, regular(v.size))


def _open_products(t: Axis) -> list[Prod]:
    inside = [p for c in _children(t) for p in _open_products(c)]
    here = [t] if isinstance(t, Prod) and sum(bool(free(f)) for f in t.factors) > 1 else []
    return here + inside


def _choose_factor(factors: list[Axis]) -> None:
    """Leave open the outermost factor whose every part is even; the others become trivial."""

    def even(f: Axis) -> bool:
        return all(v.size % 2 == 0 for v in free(f))

    chosen = next(filter(even, factors), None) or max(factors, key=lambda f: f.size > 1, default=None)
    for f in factors:
        if f is not chosen:
            trivialise(f)
