"""Weight tying: a parametrization that stores one representative per orbit of ``W = rho(W)``.

Where some axis splits into two swapped halves the stored tensor is one half and the full weight is
``cat([half, act(half)])``: one cheap operation on the weight, none on activations. Other orbits are
gathered by index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .._torch import (
    MadeOf,
    calling_modules,
    is_recorded,
    is_replica,
    transform_level,
    unseen,
    version,
)
from ..algebra import axis as ax
from ..algebra.action import Action, act
from ..algebra.axis import Axis
from ..algebra.tables import beside
from ..algebra.texts import read_action, write_action
from ..errors import ConversionError
from ..geometry import replaced_forward
from .checks import ask_replaced
from .factors import Factor, factors, sign_of
from .notes import noted

PASSING = {"seen", "owner", "usual"}
"""Attributes of a tie that are kept in no copy and no file."""

UNASKED = object()
"""In the place of a forward: no checks were asked yet."""

SMALL = 2**13
"""Entries of a weight up to which it is gathered by index where no gradients are recorded."""


@dataclass
class Kept:
    """The full weight of a private copy, for as long as nobody writes into it or into what is stored.

    Only who makes the copy knows that nothing is written past the counters of writes, as ``p.data`` does.
    """

    stored: Tensor | None = None
    full: Tensor | None = None
    writes: tuple[int, int] = (0, 0)

    def of(self, stored: Tensor, expand: Callable[[Tensor], Tensor]) -> Tensor:
        """The full weight, computed where it is not that of what is stored now; one with gradients is not kept."""
        if torch.is_grad_enabled() or _is_watched(stored):
            return expand(stored)
        if self.full is None or not self._is_of(stored, self.full):
            self.full = None  # it makes room for the one of now
            full = expand(stored)
            if full.is_inference():
                return full
            self.stored, self.full, self.writes = stored, full, (version(stored), version(full))
        return self.full

    def _is_of(self, stored: Tensor, full: Tensor) -> bool:
        same = self.stored is stored and full.dtype == stored.dtype
        return same and self.writes == (version(stored), version(full))


class RCTie(nn.Module):
    """Parametrization ``stored -> W`` with ``W = rho(W)`` exactly; subclasses choose what is stored.

    Args:
        action: rho, known.

    Attributes:
        full_shape: shape of W.
        stored_shape: shape of the stored parameter.
        known: the full weight, in a private copy that keeps it between calls.
        owner: what the converted model holds; empty before a call of it, in copies and in files.
        usual: the forward that is set on it, where that asks its checks; something else before.
        tables: of places and signs, by name. They are no buffers: whoever averages those of a model would change ties.
    """

    full_shape: torch.Size
    stored_shape: torch.Size
    direct = True
    """Reading the weight need not call this as a module."""

    kind = ""
    """What stands for the class in a recipe."""

    known: Kept | None = None
    owner: dict[str, Any] = {}  # noqa: RUF012 - nothing writes into it
    usual: Any = UNASKED

    def __init__(self, action: Action) -> None:
        super().__init__()
        self.tables: dict[str, Tensor] = {}
        self.action = action.walk()
        self.full_shape = torch.Size(action.shape)

    def expand(self, stored: Tensor) -> Tensor:
        """The full weight."""
        raise NotImplementedError

    def reduce(self, full: Tensor) -> Tensor:
        """The representatives of a full weight, taken as they are."""
        raise NotImplementedError

    def project(self, full: Tensor) -> Tensor:
        """The nearest tied weight, ``(W + rho W) / 2``."""
        return (full + act(self.action, full)) / 2

    def forward(self, stored: Tensor) -> Tensor:
        """The full weight; a tensor that has the full shape already (an untied alias) passes."""
        with unseen():
            if stored.shape != self.stored_shape:
                return stored
            if self.known is not None:
                return self.known.of(stored, self.expand)
            return self.expand(stored)

    def in_call(self, stored: Tensor) -> Tensor:
        """The full weight, for some module's forward; nothing watches what is computed."""
        if self.owner.get("forward") is not self.usual:
            self.require_checks()
        return self.forward(stored)

    def in_stock_call(self, stored: Tensor) -> Tensor:
        """The full weight, for a layer of torch's that writes into none; nothing watches what is computed."""
        return self.in_call(stored)

    def require_checks(self) -> None:
        """Let the checks of the converted model judge its call, if its forward, which asks them, was replaced."""
        self.owner = self.owner or next((vars(m) for m in calling_modules() if noted(m) is not None), {})
        if replaced_forward(self.owner) is not None:
            ask_replaced(self.owner)
        elif self.owner:
            self.usual = self.owner.get("forward")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in PASSING}

    def right_inverse(self, full: Tensor) -> Tensor:
        """What to store for an assigned weight; the second owner of a shared parameter brings it reduced."""
        if full.shape == self.stored_shape != self.full_shape:
            return full
        return self.reduce(full)

    def store(self, chain: parametrize.ParametrizationList, before: Tensor, after: Tensor) -> None:
        """Store what was written into the full weight; where an entry and its image were, the representative.

        Args:
            chain: holds what is stored.
            before, after: the full weight.
        """
        written = (after != before).to(after.dtype)
        alone = (act(self.action, written) != 0) & (written == 0)
        chain.right_inverse(torch.where(alone, act(self.action, after), after))

    def sources(self) -> list[Tensor]:
        """Other parameters that the weight is computed from."""
        return []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """As of any module; the tables go where the model goes, where that has memory."""
        made = super()._apply(fn, recurse)
        place = fn(torch.zeros(1)).device
        if place.type != "meta":
            self.tables = {name: table.to(place) for name, table in self.tables.items()}
        return made

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("tables", {})  # in files of older versions they were buffers
        for name, table in [*self.named_buffers(recurse=False)]:
            delattr(self, name)
            self.tables[name] = table

    def shared_by_copies(self) -> list[Any]:
        """What is the same for a copy: the action, and the tables, which are replaced and never written into."""
        return [self.action, *self.tables.values()]

    def plain(self) -> dict[str, Any]:
        """The tie as plain values, for `read_tie`."""
        return {"kind": self.kind, "action": write_action(self.action)}

    def extra_repr(self) -> str:
        """The action in words."""
        return f"{tuple(self.stored_shape)} -> {tuple(self.full_shape)}, {self.action}"


class HalfTie(RCTie):
    """Stores one of two swapped halves.

    Args:
        action: rho, with a reversed factor of even size in some axis.
        dim: that axis.
        place: position of the factor among the axis's factors.
    """

    kind = "half"
    table: Tensor | None
    seen: MadeOf | None = None
    """What layers of torch's were given last."""

    def __init__(self, action: Action, dim: int, place: int) -> None:
        super().__init__(action)
        self.dim, self.place = dim, place
        view: list[Factor] = []
        self.gathers: list[int] = []
        for d, term in enumerate(action.axes):
            parts = factors(term)
            if d == dim:
                self.at = len(view) + place
            if parts is None:
                self.tables[f"index{len(view)}"] = ax.indices(term)
                self.gathers.append(len(view))
                parts = [Factor(term.size, False)]
            view += parts
        if self.gathers:
            self.full_view = [f.size for f in view]
        else:
            view, self.at = _merged(view, self.at)
            self.full_view = [f.size for f in view]
        self.width = view[self.at].size // 2
        self.half_view = [self.width if i == self.at else n for i, n in enumerate(self.full_view)]
        self.flips = [i for i, f in enumerate(view) if f.flipped and self.half_view[i] > 1]
        self.negative = sign_of(action) == -1
        stored = list(self.full_shape)
        stored[dim] //= 2
        self.stored_shape = torch.Size(stored)
        small = self.full_shape.numel() <= SMALL and not self.negative
        self.table = self.mirrored(self._places()) if small else None  # no buffer: nothing of the user's model

    def plain(self) -> dict[str, Any]:
        """The tie as plain values, for `read_tie`."""
        return {**super().plain(), "dim": self.dim, "place": self.place}

    def shared_by_copies(self) -> list[Any]:
        """As of any tie; with the table of places."""
        return [*super().shared_by_copies(), self.table]

    def _places(self) -> Tensor:
        """The number of each entry of what is stored."""
        return torch.arange(self.stored_shape.numel()).reshape(self.stored_shape)

    def expand(self, stored: Tensor) -> Tensor:
        """The half and its mirror image; without gradients, of a small weight, in one operation."""
        table, learns = self.table, stored.requires_grad and torch.is_grad_enabled()
        if table is None or learns or table.device != stored.device or _is_watched(stored):
            return self.mirrored(stored)
        return stored.take(table)

    def in_stock_call(self, stored: Tensor) -> Tensor:
        """The full weight; that of the call before where no gradient is recorded and the same values are stored."""
        if self.owner.get("forward") is not self.usual:
            self.require_checks()
        learns = torch.is_grad_enabled() and stored.requires_grad
        seen = self.seen
        if seen is not None and not learns:
            full = seen.of(stored)
            if full is not None:
                return full
        if stored.shape != self.stored_shape or self.known is not None:
            return self.forward(stored)
        table = self.table
        if learns or table is None or not stored.is_cpu:
            return self.mirrored(stored) if learns else self.expand(stored)
        seen = self.seen = MadeOf(stored, lambda half: half.take(table))  # another thread may set it, too
        return seen.made

    def mirrored(self, stored: Tensor) -> Tensor:
        """The half and its mirror image."""
        half = stored.reshape(self.half_view)
        other = half.flip(self.flips) if self.flips else half
        for d in self.gathers:
            other = other.index_select(d, beside(self.tables[f"index{d}"], other))
        if self.negative:
            other = -other
        return torch.cat([half, other], self.at).reshape(self.full_shape)

    def reduce(self, full: Tensor) -> Tensor:
        """The first half."""
        return full.reshape(self.full_view).narrow(self.at, 0, self.width).reshape(self.stored_shape).clone()


def _is_watched(stored: Tensor) -> bool:
    """Whether more than its value is asked of what is done to a tensor: by a compiler, a recorder, a transform."""
    return is_recorded() or type(stored) not in (Tensor, nn.Parameter) or transform_level() is not None


def _merged(view: list[Factor], at: int) -> tuple[list[Factor], int]:
    """Neighbouring factors of one kind merged, except for the one at `at`; fewer axes are faster."""
    out: list[Factor] = []
    place, open_ = 0, False
    for i, f in enumerate(view):
        if i == at:
            place = len(out)
        if f.size == 1 and i != at:
            continue
        if i != at and open_ and out[-1].flipped == f.flipped:
            out[-1] = Factor(out[-1].size * f.size, f.flipped)
        else:
            out.append(f)
        open_ = i != at
    return out, place


class OrbitTie(RCTie):
    """Stores one entry per orbit, as a vector; entries that must equal their negative are zero."""

    kind = "orbit"

    def __init__(self, action: Action) -> None:
        super().__init__(action)
        numel = self.full_shape.numel()
        source = act(
            Action(tuple(_unsigned(t) for t in action.axes)), torch.arange(numel).reshape(self.full_shape)
        ).flatten()
        sign = act(action, torch.ones(self.full_shape, dtype=torch.float64)).flatten()
        first = torch.minimum(torch.arange(numel), source)
        zero = (source == torch.arange(numel)) & (sign < 0)
        kept, index = torch.unique(first[~zero], return_inverse=True)
        gather = torch.zeros(numel, dtype=torch.int64)
        gather[~zero] = index
        factor = torch.where(first == torch.arange(numel), torch.ones_like(sign), sign)
        factor[zero] = 0
        self.tables |= {"gather": gather, "kept": kept} | ({} if bool((factor == 1).all()) else {"factor": factor})
        self.stored_shape = torch.Size([len(kept)])

    def expand(self, stored: Tensor) -> Tensor:
        """Every entry from the representative of its orbit."""
        if not stored.numel():  # every entry must be zero; the sum keeps autograd aware of the parameter
            return stored.sum().expand(self.full_shape).contiguous()  # entries of their own, once it is baked
        full, factor = stored.index_select(0, beside(self.tables["gather"], stored)), self.tables.get("factor")
        if factor is not None:
            full = full * beside(factor, full).to(full.dtype)
        return full.reshape(self.full_shape)

    def reduce(self, full: Tensor) -> Tensor:
        """The first entry of each orbit."""
        return full.flatten().index_select(0, beside(self.tables["kept"], full))


def _unsigned(term: Axis) -> Axis:
    return ax.permutation(ax.indices(term).tolist())


class MirrorTie(RCTie):
    """Stores nothing: the weight is the mirror image of another parameter.

    What is stored has no rows, but as many dimensions: initialisers and parameter groups go by these.

    Args:
        action: how the one is turned into the other.
        source: the module that holds the other parameter, and its name there.
    """

    kind = "mirror"

    def __init__(self, action: Action, source: tuple[nn.Module, str]) -> None:
        super().__init__(action)
        self.source = source  # in a tuple: as an attribute of its own the module would become a part of this one
        self.stored_shape = torch.Size([0, *self.full_shape[1:]])
        self.flips: list[int] = []
        self.gathers: list[int] = []
        for dim, term in enumerate(self.action.axes):
            if isinstance(term, ax.Leaf) and term.perm == "reversed":
                self.flips.append(dim)
            elif not torch.equal(ax.indices(term), torch.arange(term.size)):
                self.tables[f"index{dim}"] = ax.indices(term)
                self.gathers.append(dim)
        signed = any(ax.has_sign(term) for term in self.action.axes)
        sign = act(self.action, torch.ones(self.full_shape)) if signed else None
        self.tables |= {} if sign is None else {"sign": sign}

    @property
    def original(self) -> Tensor:
        """The other parameter, in full."""
        module, leaf = self.source
        return getattr(module, leaf)

    def image(self, full: Tensor) -> Tensor:
        """The mirror image of a full weight."""
        for dim in self.gathers:
            full = full.index_select(dim, beside(self.tables[f"index{dim}"], full))
        full, sign = full.flip(self.flips) if self.flips else full, self.tables.get("sign")
        return full if sign is None else full * beside(sign, full).to(full.dtype)

    def expand(self, stored: Tensor) -> Tensor:
        """The mirror image of the other parameter; the empty sum keeps autograd aware of this one.

        Raises:
            ConversionError: in a replica of ``nn.DataParallel``, which holds no link to the other parameter's replica.
        """
        if is_replica(self):
            raise ConversionError(
                "nn.DataParallel of a model in which one parameter is the mirror image of another",
                why="a replica of the one has no link to the replica of the other",
                do="use DistributedDataParallel",
            )
        return self.image(self.original) + stored.sum()

    def reduce(self, full: Tensor) -> Tensor:
        """Nothing."""
        return full.new_empty(self.stored_shape)

    def store(self, chain: parametrize.ParametrizationList, before: Tensor, after: Tensor) -> None:
        """Store what was written in the other weight."""
        written = self.image((after != before).to(after.dtype)) != 0
        self.original.copy_(torch.where(written, self.image(after), self.original))

    def sources(self) -> list[Tensor]:
        """The other weight."""
        return [self.original]

    def project(self, full: Tensor) -> Tensor:
        """What this weight says the other one should be, averaged with what that one is."""
        return (full + self.image(self.original)) / 2


def make_tie(action: Action) -> RCTie | None:
    """The parametrization for an action; None when every entry is free."""
    action = action.walk()
    if action.is_trivial():
        return None
    found = _half(action)
    return HalfTie(action, *found) if found else OrbitTie(action)


def _half(action: Action) -> tuple[int, int] | None:
    """Axis and place of an even reversed factor: the first axis's outermost first."""
    if sign_of(action) is None:
        return None
    choices = [
        (d, i)
        for d, term in enumerate(action.axes)
        for i, f in enumerate(factors(term) or ())
        if f.flipped and f.size % 2 == 0
    ]
    return choices[0] if choices else None


def read_tie(data: Mapping[str, Any]) -> RCTie:
    """The tie that `RCTie.plain` describes.

    Raises:
        ConversionError: the action cannot be read, or no such tie fits it.
    """
    action, kind = read_action(data["action"]), data["kind"]
    if kind == OrbitTie.kind:
        return OrbitTie(action)
    dim, place = data["dim"], data["place"]
    parts = factors(action.axes[dim]) if kind == HalfTie.kind and dim in range(len(action.axes)) else None
    if parts is None or place not in range(len(parts)) or not parts[place].flipped or parts[place].size % 2:
        raise ConversionError(
            f"no tie of the kind {kind!r} fits {data['action']}",
            got=f"axis {dim}, factor {place}",
            why="one of two swapped halves is stored, and this factor has none",
            do="give a recipe as it was written",
        )
    return HalfTie(action, dim, place)
