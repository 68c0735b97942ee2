"""Solving for axis actions: `unify` two terms, `split` one into blocks, `factor` one into a product."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from .described import describe
from .terms import (
    SIGN,
    Axis,
    Leaf,
    Mismatch,
    Prod,
    Role,
    Sum,
    Var,
    children,
    fixed_like,
    free,
    has_sign,
    indices,
    is_length,
    length,
    permutation,
    product,
    regular,
    same,
    total,
    trivial,
    walk,
)

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
    for child in children(term):
        if child.size > 1 or isinstance(term, Sum):
            forbid_sign(child)
    if isinstance(term, Var):
        _record(term)
        term.unsigned = True
        term.ref = trivial(1) if term.size == 1 else None


def lengthen(term: Axis) -> bool:
    """Whether the axis is a length, or can be read as one: open factors inside a length are finer positions.

    An upsampling by ``view`` makes such a product: positions, and the channels that become positions.
    """
    inner = [walk(f) for f in _factors(walk(term)) if f.size > 1]
    if is_length(term) or len(inner) < 2 or not is_length(inner.pop(0)):
        return is_length(term)
    if not all(is_length(f) or isinstance(f, Var) for f in inner):
        return False
    for f in inner:
        if isinstance(f, Var):
            _bind(f, length(f.size, Role("length", steps=None)))
    return True


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
        return [fixed_like(leaf, s) for s in sizes]
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
    for place, f in enumerate(term.factors):
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
        else:  # sizes that do not nest leave the rest only the trivial action
            rest = product(term.factors[place:])
            unify(rest, trivial(rest.size))
            return product([*left, trivial(need)]), trivial(rest.size // need)
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


def settle(terms: Iterable[Axis], needed: Iterable[Sequence[Var]] = ()) -> None:
    """Give every open axis its default: regular, with contiguous halves wherever possible.

    In a product of open factors exactly one becomes regular, the outermost of even size, so that
    the halves stay contiguous; the parts of a sum are settled each for itself.

    Args:
        terms: the axes.
        needed: groups of open axes; one of each group has to swap entries. A product whose factors are the last
            hope of a group leaves one of that group open, in place of the outermost.
    """
    terms, groups = list(terms), [*needed]
    for term in terms:
        for whole in _open_products(walk(term)):
            still = [f for f in map(walk, whole.factors) if free(f)]
            if still:
                _choose_factors(still, groups)
    for term in terms:
        for v in free(term):
            _bind(v, regular(v.size))


def settle_partnered(terms: Iterable[Axis]) -> None:
    """Fix what is open only beside a factor that swaps every entry with another: pairs of pairs gain nothing.

    Such are the channels of a recurrence that reads in both directions: directions x channels. Two plain
    halves are cheaper later on.
    """
    beside: dict[Var, bool] = {}
    for term in terms:
        for var, partnered in _standing(walk(term), False):
            beside[var] = beside.get(var, True) and partnered
    for var, partnered in beside.items():
        if partnered:
            _bind(var, trivial(var.size))


def _standing(t: Axis, partnered: bool) -> Iterator[tuple[Var, bool]]:
    """The free variables of a term, and whether each stands beside a factor that swaps every entry."""
    if isinstance(t, Var):
        yield t, partnered
    if isinstance(t, Prod):
        partnered = partnered or any(_swaps_all(f) for f in t.factors)
    for child in children(t):
        yield from _standing(child, partnered)


def _swaps_all(f: Axis) -> bool:
    return isinstance(f, Leaf) and f.perm == "reversed" and f.size % 2 == 0 and f.role is None


def _open_products(t: Axis) -> list[Prod]:
    inside = [p for c in children(t) for p in _open_products(c)]
    here = [t] if isinstance(t, Prod) and sum(bool(free(f)) for f in t.factors) > 1 else []
    return here + inside


def _choose_factors(factors: list[Axis], needed: Sequence[Sequence[Var]]) -> None:
    """Leave open one factor for each group that has no other hope, or else the outermost; the others become trivial.

    Of several factors the outermost whose every part is even is taken.
    """
    chosen: list[Axis] = []
    for group in needed:
        left = [v for t in group for v in free(t) if v.size > 1]
        if left and all(_among(v, factors) for v in left) and not any(_among(v, chosen) for v in left):
            chosen.append(_outermost([f for f in factors if any(_among(v, [f]) for v in left)]))
    chosen = chosen or [_outermost(factors)]
    for f in factors:
        if f not in chosen:
            trivialise(f)


def _among(var: Var, factors: Sequence[Axis]) -> bool:
    return any(var in free(f) for f in factors)


def _outermost(factors: Sequence[Axis]) -> Axis:
    """The first factor whose every part is even, or else the first with several entries."""
    even = (f for f in factors if all(v.size % 2 == 0 for v in free(f)))
    return next(even, None) or max(factors, key=lambda f: f.size > 1)
