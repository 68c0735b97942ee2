"""The law of a piece of graph, measured: which actions of its results obey ``f(rho x) = rho f(x)``.

Candidates come from the actions of what the piece reads: their axes, factors and parts, put together to the size
of a result's axis. Random numbers decide. For almost all numbers a law that fails is seen to fail; several
draws of different kinds are made all the same, since not every operator is smooth, and of different sizes where one
has pieces (`sizes`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .._torch import arguments, pytree
from ..algebra import axis as ax
from ..algebra.action import Action, act
from ..algebra.axis import Axis
from ..graph.precision import double_precision, widened
from ..graph.trace import Node, Ref
from ..measure.deviation import deviation
from ..rules.directions import ends_of_pieces
from ..rules.registry import Const
from .stretch_numbers import (
    DRAWS,
    KINDS_OF_SIZE,
    SIZED,
    concrete,
    concrete_action,
    draw,
    numbers,
    random_action,
    sizes,
    wide,
)

TOLERANCE = 1e-10
"""Largest relative deviation taken for rounding, in float64."""

ROUNDED = 1e-4
"""The same where a constant was rounded to float32 by the model: no float32 cosine and sine make an exact rotation.

Random numbers of all sizes, squared and exponentiated, enlarge 6e-8 to this; a model's own outputs are held to 1e-6.
"""

JOINT = 256
"""Combinations of axis actions tried for one result."""

ALTERNATIVES = 8
"""Actions of a result kept from the first draw; further draws decide between them."""

KEPT = 2**22
"""Numbers of a draw up to which it is kept for the next guess."""

MOST_IDS = 2**18
"""Numbers up to which ids may count."""

NAMED_DRAWS = 2000
"""Draws of ids after which a law of theirs is given up."""

OFTEN = 16
"""How often each number must have been met on average, so that none is left out by chance."""

Assignment = dict[ax.Var, Axis]


class StretchLaw:
    """A piece of graph with the actions of what it reads.

    Args:
        nodes: the piece, in order; none has parameters.
        live: the nodes whose results are wanted; tensors all.
        given: by name, what the nodes read from outside: an `Action`, a `Const`, or any plain value.
        dtypes: by name, the dtype of what is given.
    """

    def __init__(
        self, nodes: list[Node], live: list[Node], given: dict[str, Any], dtypes: dict[str, torch.dtype]
    ) -> None:
        self.nodes, self.live, self.given, self.dtypes = nodes, live, given, dtypes
        self.digests = {name: _digest(v.value) for name, v in given.items() if isinstance(v, Const)}
        self.tolerance = ROUNDED if self.rounds else TOLERANCE
        self.plain: dict[int, tuple[dict[str, Any], dict[str, Tensor] | None]] = {}
        self.calls = [(n, *_prepared(n)) for n in nodes]
        self.names = {name: i for i, name in enumerate([*given, *(n.name for n in nodes)])}
        self.refresh()

    def exactly(self, found: dict[str, Action]) -> bool:
        """Whether a law that was found holds to the rounding of float64."""
        return self._worst(found, signed=False) <= TOLERANCE

    @property
    def rounds(self) -> bool:
        """Whether a constant holds numbers that the model rounded to float32, or computed from such."""
        return any(v.rounded for v in self.given.values() if isinstance(v, Const))

    def refresh(self) -> None:
        """Read the given actions again, after variables were bound."""
        self.actions = {name: value.walk() for name, value in self.given.items() if isinstance(value, Action)}

    def mark(self) -> Any:
        """Equal for pieces that compute the same from values that transform alike."""
        self.refresh()
        variables = {v: i for i, v in enumerate(self.variables())}
        given = tuple(
            (_shown_value(v, variables), self.digests.get(name), self.dtypes[name]) for name, v in self.given.items()
        )
        return self._code, given, tuple(self.names[n.name] for n in self.live)

    @cached_property
    def _code(self) -> tuple[Any, ...]:
        """The calls of the piece, up to the names of results."""

        def shown(leaf: Any) -> Any:
            return ("ref", self.names[leaf.name]) if isinstance(leaf, Ref) else repr(leaf)

        return tuple((str(n.op), *(shown(leaf) for leaf in pytree.tree_leaves((n.args, n.kwargs)))) for n in self.nodes)

    def find(self) -> dict[str, Action] | None:
        """An action for each result; None when some result obeys no law, or nothing finite came out.

        Open axes of what is given are given random actions: a law that is found holds whatever they turn out to be,
        except that they may have to be free of signs, which is then recorded.
        """
        found = self._agreeing(signed=False)
        if found is None:
            return self._renamed()
        if not self._holds_for_all_sizes(found):
            return None
        with_sign = [v for v in self.variables() if not v.unsigned]
        if with_sign and self._worst(found, signed=True) > self.tolerance:
            for v in with_sign:
                ax.forbid_sign(v)
        return found

    def cuts(self) -> Iterator[tuple[Axis, list[int]]]:
        """Axes of what the piece reads that it cuts, each with the sizes of the pieces."""
        ends: dict[tuple[str, int], set[int]] = {}
        for node in self.nodes:
            name = node.args[0].name if node.args and isinstance(node.args[0], Ref) else ""
            if name in self.actions:
                for dim, end in ends_of_pieces(node, self.actions[name].shape):
                    ends.setdefault((name, dim), {0}).add(end)
        for (name, dim), found in ends.items():
            axis = self.actions[name].axes[dim]
            places = sorted({*found, axis.size})
            yield axis, [b - a for a, b in itertools.pairwise(places)]

    def variables(self) -> list[ax.Var]:
        """The open axes of what the piece reads."""
        found = dict.fromkeys(v for a in self.actions.values() for t in (*a.axes, a.value) if t for v in ax.free(t))
        return list(found)

    def _agreeing(self, *, signed: bool) -> dict[str, Action] | None:
        """The first action per result that fits every draw with finite numbers, three at least."""
        fits: dict[str, list[Action]] = {}
        measured = 0
        for values, plain, mirrored in self._pairs(signed=signed):
            measured += 1
            for node in self.live:
                y, r = plain[node.name], mirrored[node.name]
                known = fits.get(node.name)
                if known is None:
                    fits[node.name] = list(itertools.islice(self._fitting(y, r, values), ALTERNATIVES))
                else:
                    fits[node.name] = [
                        a for a in known if deviation(r, y, concrete_action(a, values)) <= self.tolerance
                    ]
                if not fits[node.name]:
                    return None
        return {name: actions[0] for name, actions in fits.items()} if measured >= 3 else None

    def _renamed(self) -> dict[str, Action] | None:
        """For whole numbers computed from ids alone, such as those of k-mers: where they lie, and how they are renamed.

        Ids are drawn until each number was met so often that none is left out by chance.
        """
        ids = [a.value is not None and not ax.free(a.value) for a in self.actions.values()]
        whole = [
            not (n.value.is_floating_point() or n.value.is_complex() or n.value.dtype == torch.bool) for n in self.live
        ]
        if not ids or not all(ids) or not all(whole) or self.variables():
            return None
        found = {}
        for node in self.live:
            terms = [[t for t, _ in self._candidates(d - len(node.shape), s, {})] for d, s in enumerate(node.shape)]
            choices = itertools.islice(itertools.product(*terms), ALTERNATIVES)
            fits = (a for chosen in choices if (a := self._names(node.name, Action(chosen))) is not None)
            found[node.name] = next(fits, None)
        return {name: a for name, a in found.items() if a is not None} if None not in found.values() else None

    def _names(self, name: str, places: Action) -> Action | None:
        """The action of a result whose numbers lie as `places` says, if they are renamed consistently."""
        table, met = torch.full((MOST_IDS,), -1), 0
        for seed in range(NAMED_DRAWS):
            x, plain = self._drawn(seed)
            mirrored = self._results({n: act(self.actions[n], v) if n in self.actions else v for n, v in x.items()})
            if plain is None or mirrored is None:
                return None
            before, after = act(places, plain[name]).long().flatten(), mirrored[name].long().flatten()
            if min(before.min(), after.min()) < 0 or max(before.max(), after.max()) >= MOST_IDS:
                return None
            known = table[before]
            table[before] = after
            if not bool(((known == after) | (known < 0)).all()) or not torch.equal(table[before], after):
                return None
            met += len(before)
            if met >= OFTEN * int((table >= 0).sum()) + 64:
                break
        else:
            return None
        size = int((table >= 0).nonzero().max()) + 1
        table = torch.where(table[:size] < 0, torch.arange(size), table[:size])
        return Action(places.axes, ax.permutation(table.tolist())) if _is_involution(table) else None

    def _worst(self, found: dict[str, Action], *, signed: bool, seeds: Iterable[int] = range(DRAWS)) -> float:
        """The largest deviation from a law, over all draws."""
        deviations = (
            deviation(mirrored[name], plain[name], concrete_action(action, values))
            for values, plain, mirrored in self._pairs(signed=signed, seeds=seeds)
            for name, action in found.items()
        )
        return max(deviations, default=0.0)  # nothing leaves a piece whose result nobody reads

    def _holds_for_all_sizes(self, found: dict[str, Action]) -> bool:
        """Whether a law that was found holds for small and large numbers too, on other pieces of operators."""
        self.scales = sizes(self.nodes, self.given)
        others = range(SIZED, SIZED + len(KINDS_OF_SIZE) * len(self.scales))
        return self._worst(found, signed=False, seeds=others) <= ROUNDED

    # --- running ---

    def _pairs(
        self, *, signed: bool, seeds: Iterable[int] = range(DRAWS)
    ) -> Iterator[tuple[Assignment, dict[str, Tensor], dict[str, Tensor]]]:
        """Per draw with finite results: open axes' random actions, the results, and those of the mirror image."""
        variables = self.variables()
        for seed in seeds:
            x, plain = self._drawn(seed)
            if plain is None:
                continue
            values = {v: random_action(v, i, seed, signed and not v.unsigned) for i, v in enumerate(variables)}
            actions = {name: concrete_action(a, values) for name, a in self.actions.items()}
            mirrored = self._results({n: act(actions[n], v) if n in actions else v for n, v in x.items()})
            if mirrored is not None:
                yield values, plain, mirrored

    def _drawn(self, seed: int) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
        """Random values for what is given, and the results; kept, since no guess about actions changes them."""
        if seed in self.plain:
            return self.plain[seed]
        generator = torch.Generator().manual_seed(seed)
        x: dict[str, Any] = {}
        for name, value in self.given.items():
            if isinstance(value, Action):
                x[name] = self._drawn_as(value, name, seed, generator)
            else:
                x[name] = wide(value.value) if isinstance(value, Const) else value
        found = x, self._results(x)
        if sum(v.numel() for v in x.values() if isinstance(v, Tensor)) <= KEPT:
            self.plain[seed] = found
        return found

    def _drawn_as(self, action: Action, name: str, seed: int, generator: torch.Generator) -> Tensor:
        """Random numbers of the kind and size of a draw; ids are as they are."""
        if seed < SIZED:
            return draw(action, self.dtypes[name], seed, generator)
        x = draw(action, self.dtypes[name], KINDS_OF_SIZE[seed % len(KINDS_OF_SIZE)], generator)
        scale = self.scales[(seed - SIZED) // len(KINDS_OF_SIZE)]
        if action.value is not None or x.dtype == torch.bool:
            return x
        return x * scale if x.is_floating_point() or x.is_complex() else x * max(1, int(scale))

    def _results(self, given: dict[str, Any]) -> dict[str, Tensor] | None:
        """What leaves the piece; None where it is not finite, or an operator refuses such numbers."""
        try:
            found = self._run(given)
            usable = all(not y.is_complex() and bool(torch.isfinite(y).all()) for y in found.values())
        except Exception:  # operators raise anything, and a sparse tensor has no such numbers
            return None
        return found if usable else None

    def _run(self, given: dict[str, Any]) -> dict[str, Tensor]:
        env = {name: v.clone() if isinstance(v, Tensor) else v for name, v in given.items()}

        with torch.no_grad(), double_precision():
            for node, leaves, nested in self.calls:
                filled = (env[leaf.name] if isinstance(leaf, Ref) else leaf for leaf in leaves)
                args, kwargs = pytree.tree_unflatten(filled, nested)
                env[node.name] = node.op(*args, **kwargs)
        return {n.name: numbers(env[n.name]) for n in self.live}

    # --- which action fits ---

    def _fitting(self, y: Tensor, r: Tensor, values: Assignment) -> Iterator[Action]:
        """The combinations of axis actions that map y to r, in order of preference."""
        if not _same_sizes(y.abs(), r.abs(), self.tolerance):
            return
        marks = [(_marks(y, dim), _marks(r, dim)) for dim in range(y.dim())]
        per_axis = []
        for dim, size in enumerate(y.shape):
            tables = self._candidates(dim - y.dim(), size, values)
            fits = [t for t, table in tables if bool(_near(marks[dim][1], marks[dim][0][table], self.tolerance).all())]
            derived = None if fits else _derived(*marks[dim], self._long(), self.tolerance)
            per_axis.append(fits if derived is None else [derived])
        for chosen in itertools.islice(itertools.product(*per_axis), JOINT):
            for action in (Action(chosen), _negated(Action(chosen))):
                if action and deviation(r, y, concrete_action(action, values)) <= self.tolerance:
                    yield action

    def _candidates(self, dim: int, size: int, values: Assignment) -> Iterator[tuple[Axis, Tensor]]:
        """Actions an axis may have with their tables, each once: those of the operands at its place first."""
        seen: set[Any] = set()
        for term in self._proposed(dim, size):
            known = concrete(term, values)
            table = ax.indices(known)
            mark = (tuple(table.tolist()), ax.has_sign(known), ax.role(known) is None, tuple(ax.free(term)))
            if mark not in seen:
                seen.add(mark)
                yield term, table

    def _proposed(self, dim: int, size: int) -> Iterator[Axis]:
        actions = [a for a in self.actions.values() if len(a.axes) >= -dim]
        yield from (t for a in actions for t in (a.axes[dim],) if t.size == size)
        if size == 1:
            yield ax.trivial(1)
            return
        atoms = self._atoms()
        yield from (t for t in atoms if t.size == size)
        yield ax.trivial(size)
        if self._long():
            yield ax.length(size, ax.Role("length", steps=None))
        yield ax.regular(size)
        swap = ax.regular(2)
        for t in atoms:
            if size % t.size == 0:
                rest = size // t.size
                yield from (ax.product(p) for p in ([ax.trivial(rest), t], [t, ax.trivial(rest)]))
                if rest % 2 == 0:
                    yield from (ax.product(p) for p in ([swap, ax.trivial(rest // 2), t], [t, swap]) if rest == 2)
        for a, b in itertools.product(atoms, repeat=2):
            if a.size * b.size == size:
                yield ax.product([a, b])
            if a.size + b.size == size:
                yield ax.total([a, b])
        for three in itertools.product([t for t in atoms if size % t.size == 0], repeat=3):
            if math.prod(t.size for t in three) == size:
                yield ax.product(three)

    def _atoms(self) -> list[Axis]:
        """Axes of the operands, runs of their factors and parts, larger than one entry."""
        found: list[Axis] = []
        for action in self.actions.values():
            for term in action.axes:
                found += [t for t in _runs(term) if t.size > 1 and t not in found]
        return found

    def _long(self) -> bool:
        return any(ax.is_length(f) for a in self.actions.values() for t in a.axes for f in _runs(t) if f.size > 1)


def _runs(term: Axis) -> Iterator[Axis]:
    """A term, and consecutive factors or parts of it."""
    term = ax.walk(term)
    yield term
    if isinstance(term, (ax.Prod, ax.Sum)):
        join = ax.product if isinstance(term, ax.Prod) else ax.total
        inner = term.factors if isinstance(term, ax.Prod) else term.parts
        for i, j in itertools.combinations(range(len(inner) + 1), 2):
            if j - i < len(inner):
                yield join(inner[i:j])
        for t in inner:
            yield from (u for u in _runs(t) if u is not t)


def _negated(action: Action) -> Action | None:
    """The action with another sign, on the last axis that is neither batch nor length, where weights can take it up."""
    if not action.axes:
        return None
    dims = [d for d, t in enumerate(action.axes) if ax.role(t) is None] or [len(action.axes) - 1]
    return action.with_axis(dims[-1], ax.product([action.axes[dims[-1]], ax.SIGN]))


def _prepared(node: Node) -> tuple[list[Any], Any]:
    """The arguments of a call, in double precision and without dropout: a list, and how they are nested."""
    leaves, nested = pytree.tree_flatten((still(node, node.args), node.kwargs))
    return [leaf if isinstance(leaf, Ref) else widened(leaf) for leaf in leaves], nested


def _shown_value(value: Any, variables: dict[ax.Var, int]) -> Any:
    """A given value in a form that can be compared: constants by their numbers, actions up to names of variables."""
    if isinstance(value, Const):
        return tuple(value.value.shape), str(value.value.dtype)
    if isinstance(value, Action):
        return tuple(_shown(t, variables) for t in (*value.axes, value.value) if t is not None)
    return repr(value)


def _digest(value: Tensor) -> tuple[float, float]:
    """Two numbers that tell constants apart."""
    flat = value.detach().flatten().double() if not value.is_complex() else torch.view_as_real(value).flatten().double()
    return float(flat.sum()), float((flat * torch.arange(len(flat)).double().cos()).sum())


def _shown(term: Axis, variables: dict[ax.Var, int]) -> Any:
    term = ax.walk(term)
    if isinstance(term, ax.Var):
        return variables[term], term.size, term.unsigned
    if isinstance(term, (ax.Prod, ax.Sum)):
        inner = term.factors if isinstance(term, ax.Prod) else term.parts
        return (type(term).__name__, *(_shown(t, variables) for t in inner))
    return term, ax.role(term)


SWITCHES = {"train": False, "dropout_p": 0.0}
"""Arguments that switch dropout on, by name, and their values without it."""


def can_be_still(node: Node) -> bool:
    """Whether the randomness of a node is dropout, which can be switched off."""
    return any(argument.name in SWITCHES for argument in arguments(node.op))


def still(node: Node, given: Sequence[Any]) -> tuple[Any, ...]:
    """Positional arguments of a node with dropout switched off."""
    args = list(given)
    for i, argument in enumerate(arguments(node.op)[: len(args)]):
        args[i] = SWITCHES.get(argument.name, args[i])
    return tuple(args)


# --- comparing ----------------------------------------------------------------------------------


def _marks(y: Tensor, dim: int) -> Tensor:
    """For each entry of an axis, numbers that no permutation or sign of the other axes changes: (size, 3)."""
    flat = y.movedim(dim, 0).reshape(y.shape[dim], -1).abs()
    if not flat.numel():
        return torch.zeros(y.shape[dim], 3, dtype=y.dtype)
    scaled = flat / max(float(flat.max()), 1e-300)
    return torch.stack([scaled.mean(1), scaled.square().mean(1), scaled.pow(3).mean(1)], dim=1)


def _near(a: Tensor, b: Tensor, tolerance: float) -> Tensor:
    return ((a - b).abs() <= 10 * tolerance * (a.abs() + b.abs()) + 1e-15).all(-1)


def _is_whole(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def _is_involution(table: Tensor) -> bool:
    """Whether a table, applied twice, leaves every number where it is."""
    return int(table.max()) < len(table) and torch.equal(table[table], torch.arange(len(table)))


def _same_sizes(y: Tensor, r: Tensor, tolerance: float) -> bool:
    """Whether along every axis the mean sizes of entries are the same in some order: quick, and seldom wrong."""
    scale = max(float(y.amax()), 1e-300) if y.numel() else 1.0
    for dim in sorted(range(y.dim()), key=lambda d: -y.shape[d]):
        others = [d for d in range(y.dim()) if d != dim]
        means = (x.mean(others) if others else x for x in (y, r))
        before, after = (m.sort().values[:, None] / scale for m in means)
        if not bool(_near(after, before, tolerance).all()):
            return False
    return True


def _derived(y: Tensor, r: Tensor, long: bool, tolerance: float) -> Axis | None:
    """The one permutation that the marks allow, if there is one and it is an involution."""
    if len(y) > 2048 or len(y) < 2:
        return None
    same = _near(r[:, None], y[None], tolerance)
    if not bool((same.sum(0) == 1).all() and (same.sum(1) == 1).all()):
        return None
    table = same.long().argmax(1).tolist()
    if any(table[table[i]] != i for i in range(len(table))):
        return None
    term = ax.permutation(table)
    reversed_ = isinstance(term, ax.Leaf) and term.perm == "reversed"
    return ax.length(term.size, ax.Role("length", steps=None)) if long and reversed_ else term
