"""Constants met by the inputs' side of the graph: their own symmetry limits the actions.

A buffer of bin values pins the axis it multiplies; a matrix of distances between positions turns a
length into a length; what is not invariant under the action found is refused, or averaged.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..algebra import axis as ax
from ..algebra.action import Action, act
from ..algebra.axis import Axis
from ..errors import BreaksSymmetryError, NoRuleError, Where
from ..rules.common import is_uniform
from ..rules.pins import Pin, in_full, nearly_equal

BOUNDED = (
    "let these places mirror each other: bound offsets alike on either side, as d.clamp(-k, k) + k in 2 k + 1 rows "
    "does and d.clamp(-k, k - 1) + k does not"
)
"""What to do about whole numbers that are made in forward and are not their own mirror image."""

MATCHED = 1024
"""Entries of an axis of a constant up to which they are matched one by one."""


def complete(pin: Pin) -> None:
    """Open axes of a constant that meets a length, if only one choice leaves the constant invariant.

    A matrix of distances between positions, contracted with a length, gives a length again. Columns of features of
    relative positions keep their sign or change it, as they are even or odd. Ids are permuted as their places are, also
    where these are no positions any more, as behind a shift around the ends.
    """
    whole, pin = pin, _by_factors(pin)
    terms = [ax.walk(t) for t in pin.action.axes]
    alike = [t for d, t in enumerate(terms) if pin is not whole and ax.free(t) and is_uniform(pin.const.value, d)]
    terms = [_fixed(t) if t in alike and t.size > 1 else t for t in terms]
    lengths = [t for term in terms for t in (term, *ax.children(term)) if ax.is_length(t) and t.size > 1]
    dims = [d for d, t in enumerate(terms) if ax.free(t) and (t.size == 1 or not is_uniform(pin.const.value, d))]
    rows_open = pin.action.value is not None and bool(ax.free(pin.action.value))
    mirrored = any(not ax.free(t) and not ax.is_trivial(t) for t in terms)  # such as rows that ids point to
    moved = lengths or mirrored or (rows_open and not dims and not all(map(ax.is_trivial, terms)))
    if not moved or not (dims or rows_open) or len(dims) > 3 or any(ax.free(terms[d]) != [terms[d]] for d in dims):
        return
    for trial in itertools.chain(_known_choices(pin, terms, dims, lengths), _solved(pin, terms, dims, lengths)):
        if any(ax.free(t) for t in trial.axes) or (trial.value is not None and ax.free(trial.value)):
            continue
        if _invariant(pin.const.value, trial):
            for d in dims:
                ax.unify(terms[d], trial.axes[d])
            for t in alike:
                ax.forbid_sign(t)
            if pin.action.value is not None and trial.value is not None:
                ax.unify(pin.action.value, trial.value)
            return


def _by_factors(pin: Pin) -> Pin:
    """A constant with an axis for each factor of an axis that is open in some of them, such as groups x filters."""
    terms = [ax.walk(t) for t in pin.action.axes]
    factors = [ax.children(t) if isinstance(t, ax.Prod) and ax.free(t) else (t,) for t in terms]
    axes = tuple(f for several in factors for f in several)
    if len(axes) == len(terms) or pin.action.value is not None:
        return pin
    value = pin.const.value.reshape([f.size for f in axes])
    return replace(pin, const=replace(pin.const, value=value), action=Action(axes))


def _known_choices(pin: Pin, terms: list[Axis], dims: list[int], lengths: list[Axis]) -> Iterator[Action]:
    """Each open axis fixed, or a length."""
    for flipped in itertools.product((False, True), repeat=len(dims)):
        trial = list(terms)
        for d, flip in zip(dims, flipped, strict=True):
            trial[d] = _length_like(terms[d].size, lengths) if flip and terms[d].size > 1 else ax.trivial(terms[d].size)
        action = Action(tuple(_fixed(t) if i not in dims else t for i, t in enumerate(trial)))
        yield Action(tuple(trial), _rows(pin, action)) if pin.action.value is not None else Action(tuple(trial))


def _solved(pin: Pin, terms: list[Axis], dims: list[int], lengths: list[Axis]) -> Iterator[Action]:
    """One open axis as the others demand: entry by entry, moved or negated."""
    if pin.action.value is not None:
        return
    for one in dims:
        for choice in _known_choices(pin, terms, [d for d in dims if d != one], lengths):
            others = Action(tuple(ax.trivial(t.size) if d == one else _fixed(t) for d, t in enumerate(choice.axes)))
            found = _matched(pin.const.value, act(others, pin.const.value), one)
            if found is not None:
                yield choice.with_axis(one, found)


def _fixed(term: Axis) -> Axis:
    """A term whose open axes are taken for fixed."""
    return ax.replaced(term, lambda v: ax.trivial(v.size))


def _matched(value: Tensor, mirror: Tensor, dim: int) -> Axis | None:
    """The action on one axis under which a constant equals its mirror image along the other axes."""
    rows, mirrored = (in_full(x.movedim(dim, 0).flatten(1)) for x in (value, mirror))
    if len(rows) > MATCHED:
        return None
    even, odd = (nearly_equal(mirrored, s * rows).all(1).tolist() for s in (1, -1))
    if all(e or o for e, o in zip(even, odd, strict=True)):
        return ax.total(ax.trivial(1) if e else ax.SIGN for e in even)
    same = nearly_equal(mirrored[:, None], rows[None]).all(-1)
    table = same.long().argmax(1).tolist()
    if not bool(same.any(1).all()) or any(table[table[i]] != i for i in range(len(table))):
        return None
    return ax.permutation(table)


def _rows(pin: Pin, action: Action) -> Axis | None:
    """How the rows of a table are permuted by constant ids that point into it; None if they are torn apart."""
    ids, rows = pin.const.value, pin.action.value
    assert rows is not None
    if not ax.free(rows):
        return rows
    mirror, table = act(Action(action.axes), ids), torch.arange(rows.size)
    table[ids.flatten().long()] = mirror.flatten().long()
    consistent = torch.equal(table[ids.long()], mirror.long()) and torch.equal(table[table], torch.arange(rows.size))
    return ax.permutation(_continued(table.tolist(), {*ids.flatten().tolist()})) if consistent else None


def _continued(table: list[int], read: set[int]) -> list[int]:
    """A permutation of rows with those that no id points to paired as all the others are, if these are alike.

    Pairs are alike that lie around one middle, as of offsets, or equally far apart, as of buckets of either sign.
    """
    pairs = [(i, partner) for i, partner in enumerate(table) if i < partner]
    around, apart = ({f(i, k) for i, k in pairs} for f in (lambda i, k: i + k, lambda i, k: k - i))
    for i in range(len(table)) if min(len(around), len(apart)) == 1 else ():
        partner = next(iter(around)) - i if len(around) == 1 else i + next(iter(apart))
        if i < partner < len(table) and not {i, partner} & read and (table[i], table[partner]) == (i, partner):
            table[i], table[partner] = partner, i
    return table


def rows_read(p: Pin) -> int:
    """How many rows of a table constant ids point to; 0 for any other constant, and where all point to one."""
    if p.action.value is None:
        return 0
    count = int(p.const.value.unique().numel())
    return count if count > 1 else 0


def _length_like(size: int, lengths: list[Axis]) -> Axis:
    """A length of a size, with the history of one of the same size if there is one."""
    twin = next((t for t in lengths if t.size == size), None)
    return ax.length(size, ax.role(twin) if twin is not None else ax.Role("length", steps=None))


def _invariant(value: Tensor, action: Action) -> bool:
    moved = act(action, value if action.value is not None else in_full(value))
    return bool(nearly_equal(in_full(moved), in_full(value)).all())


def is_rounded(p: Pin) -> bool:
    """Whether a constant is invariant only up to the rounding of its numbers, so that the law holds as exactly."""
    action = p.action.walk()
    if action.is_trivial() or action.value is not None or is_mirror(p, action):
        return False
    value = in_full(p.const.value)
    return not bool(torch.isclose(act(action, value), value, rtol=1e-12, atol=0.0).all())


def pin(pins: Iterable[Pin]) -> None:
    """Where the entries of a constant differ along an axis that is still open, that axis is paired if it can be.

    Pairs must leave every constant invariant that the axis meets; else the axis is fixed.
    """
    pins = list(pins)
    for p in pins:
        for dim, term in enumerate(p.action.axes):
            if ax.free(term) and not is_uniform(p.const.value, dim):
                for v in ax.free(term):
                    _pair(v, pins)
                ax.trivialise(term)
        if p.action.value is not None:
            ax.trivialise(p.action.value)


def _pair(v: ax.Var, pins: list[Pin]) -> None:
    """Bind an open axis to pairs, the first half with the second or mirrored, if all constants allow it."""
    mine = [p for p in pins if any(v in ax.free(t) for t in (*p.action.axes, p.action.value) if t is not None)]
    for pairs in (ax.regular(v.size), ax.permutation(range(v.size - 1, -1, -1))) if v.size > 1 else ():
        try:
            with ax.attempt():
                ax.unify(v, pairs)
                if not all(map(satisfiable, mine)):
                    raise ax.Mismatch("a constant is not invariant")
            return
        except ax.Mismatch:
            continue


def satisfiable(p: Pin) -> bool:
    """Whether a constant is invariant if what is still open of its action stays fixed."""
    action = Action(tuple(_fixed(t) for t in p.action.axes), None if p.action.value is None else _fixed(p.action.value))
    return action.is_trivial() or _invariant(p.const.value, action)


def broken(pins: Iterable[Pin]) -> list[tuple[Pin, Action]]:
    """Constants that are not invariant under the action found for them."""
    found = [(p, p.action.walk()) for p in pins]
    return [(p, a) for p, a in found if not a.is_trivial() and not _invariant(p.const.value, a)]


def _may_hold_fractions(value: Tensor) -> bool:
    """Whether a constant may hold fractions."""
    return value.is_floating_point() or value.is_complex()


def is_mirror(p: Pin, action: Action) -> bool:
    """Whether the mirror image of a constant is what it would be if it had been padded from the other edge."""
    return p.const.turned is not None and torch.equal(act(action, p.const.value), p.const.turned.value)


def refusal(p: Pin, action: Action) -> BreaksSymmetryError:
    """The report of a constant that is not invariant."""
    buffer, entries_of = p.const.buffer, p.const.entries_of
    what = f"the buffer {buffer} is" if buffer else "a constant made in forward is"
    why = "its values differ from their mirror image, and it meets an axis that is reversed or swapped"
    inside = f', or pass on_unsupported="both_strands" to run {p.where.path} on both strands' if p.where.path else ""
    numbers = p.const.value.dtype not in (torch.bool, torch.uint8) and not _may_hold_fractions(p.const.value)
    do = BOUNDED if numbers else "make it symmetric or learned, or a registered buffer"
    do += inside
    if entries_of:
        what = what if buffer else f"what forward reads of the buffer {entries_of} is"
        do = "make it symmetric or learned, or pass symmetrise_buffers=True to average it"
    if p.const.attribute:
        what = f"the tensor {p.const.attribute} is"
        why = "it is a plain tensor: no parameter, which would be tied; " + why
        do = (
            "register it: as nn.Parameter (in a list: nn.ParameterList) if it is a weight, else with register_buffer, "
            "which symmetrise_buffers=True averages"
        )
    return BreaksSymmetryError(
        f"{what} not invariant under reverse complement",
        where=p.where,
        got=f"shape {tuple(p.const.value.shape)}, acted on by {action}",
        why=why,
        do=do,
    )


def held_elsewhere(parameter: str) -> NoRuleError:
    """The refusal of a forward that reads a parameter of something else that holds it: it would not see it tied.

    Args:
        parameter: its name in the model.
    """
    return NoRuleError(
        "forward does not read a parameter of the module that has it, but of something else that holds it",
        where=Where(parameter.rpartition(".")[0]),
        got=f"parameter {parameter}, in a list or an object of the model's",
        why="tying changes what the module has, and forward would go on with the untied weight",
        do="read it as self.weight in forward, or of an nn.ParameterList; a network of another library, such as "
        "Keras, is converted inside of a module that has the weights and hands them over (Keras: stateless_call), "
        'as the documentation shows (docs/keras.md); strategy="conjoined" changes no weights',
    )
