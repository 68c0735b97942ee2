"""An oracle of its own: the law ``f(rc x) = rho f(x)``, written by hand from the specs.

Nothing here comes from the package, so that a mistake of the package's own check cannot hide here too. Specs of the
package are read as data (their alphabet, signs or vocabulary); what reverse complement does with them is said again.

A spec is one of:

- letters such as ``"ACGT"``: bases, one axis of them, or `Bases` with a layout;
- signs such as ``"+-."``: tracks; the k-th ``+`` swaps with the k-th ``-``; or `Signs` with a layout;
- `Table`: channels permuted by a table, or of several kinds; `Triangle`: contacts above a diagonal;
- `Ids`: integer ids of a vocabulary;
- ``"mask"`` (reversed with its sequence), ``"contacts"`` (reversed along two axes of equal length),
  ``"invariant"``, ``"antisymmetric"``;
- a function from a tensor to its mirror image;
- for outputs ``"auto"``: the best of invariant, a profile along one axis, and a contact map, the same for all inputs.

Layouts are in letters: ``n`` batch, ``c`` bases or tracks, ``l`` length; any other letter is an axis that stays.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

TOLERANCE = 1e-9
"""Largest error per entry, in float64."""

KINDS = ("random", "gaps", "soft", "one base", "repeat", "masked")
"""Kinds of sequences; the samples of a batch are of different ones."""

COMPLEMENTS = dict(zip("ACGTURYSWKMBDHVN", "TGCAAYRSWMKVHDBN", strict=True))


# --- mirror images, by hand -------------------------------------------------------------------------


def mirror_axes(x: Tensor, layout: str, table: Sequence[int] | None = None) -> Tensor:
    """Every axis ``l`` reversed, and the axis ``c`` permuted by a table; ``(c l)`` are two axes flattened into one."""
    flat = next((axis for axis in ("(c l)", "(l c)") if axis in layout), None)
    if flat is not None:
        at = layout[: layout.index(flat)].count(" ")
        tracks = len(table or [0])
        return mirror_axes(
            x.unflatten(at, (tracks, -1) if flat == "(c l)" else (-1, tracks)), layout.replace(flat, flat[1:-1]), table
        ).flatten(at, at + 1)
    letters = layout.split()
    assert len(letters) == x.dim(), f"layout {layout!r} has {len(letters)} axes, the tensor {x.dim()}"
    for at, letter in enumerate(letters):
        if letter == "l":
            x = x.flip(at)
        if letter == "c" and table is not None:
            assert x.shape[at] == len(table), f"axis {at} has {x.shape[at]} entries, the spec {len(table)}"
            x = x.index_select(at, torch.tensor(table))
    return x


def base_table(alphabet: str) -> list[int]:
    """For each base, the place of its complement."""
    both = len({*alphabet}) > len({*alphabet.upper()})  # each letter keeps its case
    letters = alphabet if both else alphabet.upper()
    partners = dict(COMPLEMENTS, A="T" if "T" in alphabet.upper() else "U")
    swapped = [partners[c] if c.isupper() else partners[c.upper()].lower() for c in letters]
    return [letters.index(letter) for letter in swapped]


def track_table(signs: str) -> list[int]:
    """For each track, the place of the one on the other strand."""
    table = list(range(len(signs)))
    plus, minus = ([i for i, s in enumerate(signs) if s == sign] for sign in "+-")
    for p, m in zip(plus, minus, strict=True):
        table[p], table[m] = m, p
    return table


def id_table(vocabulary: Sequence[str] | Mapping[str, int]) -> list[int]:
    """For each id, that of its text's reverse complement; a text that is no sequence stays."""
    if isinstance(vocabulary, Mapping):
        vocabulary = sorted(vocabulary, key=vocabulary.__getitem__)
    texts = list(vocabulary)
    sequences = [t for t in texts if t and set(t.upper()) <= set(COMPLEMENTS)]
    rna = any("U" in t.upper() for t in sequences) and not any("T" in t.upper() for t in sequences)
    partners = dict(COMPLEMENTS, A="U" if rna else "T")

    def mirrored(text: str) -> str:
        flipped = ((partners[c.upper()], c.islower()) for c in reversed(text))
        return "".join(p.lower() if lower else p for p, lower in flipped)

    return [texts.index(mirrored(t)) if t in sequences and mirrored(t) in texts else i for i, t in enumerate(texts)]


def mirror_bases(x: Tensor, alphabet: str = "ACGT", layout: str = "n c l") -> Tensor:
    """The reverse complement of one-hot or soft bases."""
    return mirror_axes(x, layout, base_table(alphabet))


def mirror_tracks(x: Tensor, signs: str, layout: str = "n c l") -> Tensor:
    """Tracks read on the other strand."""
    return mirror_axes(x, layout, track_table(signs))


def mirror_ids(x: Tensor, vocabulary: Sequence[str] | Mapping[str, int], layout: str = "n l") -> Tensor:
    """The reverse complement of token ids."""
    return torch.tensor(id_table(vocabulary))[mirror_axes(x, layout)]


# --- specs ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bases:
    """One-hot or soft bases."""

    alphabet: str = "ACGT"
    layout: str = "auto"

    def letters(self, x: Tensor) -> str:
        return self.layout if self.layout != "auto" else _read(x, len(self.alphabet))

    def mirror(self, x: Tensor) -> Tensor:
        return mirror_bases(x, self.alphabet, self.letters(x))


@dataclass(frozen=True)
class Signs:
    """Stranded and unstranded tracks."""

    signs: str
    layout: str = "auto"

    def letters(self, x: Tensor) -> str:
        if self.layout != "auto":
            return self.layout
        if x.dim() == 2 and x.shape[1] == len(self.signs):
            return "n c"
        return "n l" if x.dim() == 2 and self.signs == "." else _read(x, len(self.signs))

    def mirror(self, x: Tensor) -> Tensor:
        letters = self.letters(x)
        return mirror_tracks(x, self.signs, letters) if "c" in letters else mirror_axes(x, letters)


@dataclass(frozen=True)
class Table:
    """Channels permuted by a table, with signs; of several kinds, each a spec of its own that says what is drawn."""

    table: tuple[int, ...]
    factors: tuple[int, ...]
    kinds: tuple[Any, ...] = ()
    layout: str = "auto"

    def letters(self, x: Tensor) -> str:
        if self.layout != "auto":
            return self.layout
        return "n c" if x.dim() == 2 and x.shape[1] == len(self.table) else _read(x, len(self.table))

    def mirror(self, x: Tensor) -> Tensor:
        letters = self.letters(x)
        shape = [-1 if letter == "c" else 1 for letter in letters.split()]
        return mirror_axes(x, letters, self.table) * torch.tensor(self.factors).to(x.dtype).view(shape)


@dataclass(frozen=True)
class Triangle:
    """Contacts above a diagonal, row by row; tracks on an axis of their own, or none."""

    diagonal: int
    signs: str
    layout: str = "auto"

    def letters(self, x: Tensor) -> str:
        return self.layout if self.layout != "auto" else "n l" if x.dim() == 2 else _read(x, len(self.signs))

    def mirror(self, x: Tensor) -> Tensor:
        at = self.letters(x).split().index("l")
        bins = next(n for n in range(1, 10**4) if len(torch.triu_indices(n, n, self.diagonal)[0]) == x.shape[at])
        i, j = torch.triu_indices(bins, bins, self.diagonal)
        whole = x.new_zeros(*x.movedim(at, -1).shape[:-1], bins, bins)
        whole[..., i, j] = x.movedim(at, -1)
        whole = (whole + whole.triu(1).mT).flip(-1, -2)
        return mirror_axes(whole[..., i, j].movedim(-1, at), self.letters(x).replace("l", "x"), track_table(self.signs))


@dataclass(frozen=True)
class Ids:
    """Token ids."""

    vocabulary: Any
    layout: str = "n l"

    def letters(self, x: Tensor) -> str:
        return self.layout

    def mirror(self, x: Tensor) -> Tensor:
        return mirror_ids(x, self.vocabulary, self.layout)


@dataclass(frozen=True)
class Reversed:
    """Reversed along its length axes, and otherwise unchanged: a mask, or a contact map."""

    lengths: int = 1
    layout: str = "auto"

    def letters(self, x: Tensor) -> str:
        own = ["n", *"x" * (x.dim() - 1 - self.lengths), *"l" * self.lengths]
        return self.layout if self.layout != "auto" else " ".join(own)

    def mirror(self, x: Tensor) -> Tensor:
        return mirror_axes(x, self.letters(x))


@dataclass(frozen=True)
class Plain:
    """No length: unchanged, or with the other sign, or mapped by a function of the test's own."""

    map: Callable[[Tensor], Tensor]

    def letters(self, x: Tensor) -> str:
        return " ".join(["n", *"x" * (x.dim() - 1)] if x.dim() else [])

    def mirror(self, x: Tensor) -> Tensor:
        return self.map(x)


def _read(x: Tensor, channels: int) -> str:
    """The layout of a tensor with one axis of channels and one length; the other axes must be of one entry."""
    first = 0 if x.dim() == 2 else 1
    places = range(first, x.dim())
    fits = []
    for c in (i for i in places if x.shape[i] == channels):
        rest = [i for i in places if i != c and x.shape[i] != 1] or [i for i in places if i != c][-1:]
        if len(rest) == 1:
            fits.append((c, rest[0]))
    assert len(fits) == 1, f"shape {tuple(x.shape)} does not say which axis is which: give a layout"
    letters = ["n"] * first + ["x"] * len(places)
    letters[fits[0][0]], letters[fits[0][1]] = "c", "l"
    return " ".join(letters)


def read_spec(spec: Any, layout: str = "auto") -> Any:
    """A spec in words, as a function, or as the package writes it, as one of this module's."""
    if hasattr(spec, "mirror"):
        return spec
    named = {
        "invariant": lambda: Plain(lambda y: y),
        "antisymmetric": lambda: Plain(lambda y: -y),
        "mask": lambda: Reversed(1, layout),
        "contacts": lambda: Reversed(2, layout),
    }
    own = getattr(spec, "layout", "auto")
    layout = own if own != "auto" else layout
    if hasattr(spec, "kinds"):
        kinds, table, factors = [read_spec(kind) for kind in spec.kinds], list[int](), list[int]()
        for kind in kinds:
            own, signs = _table_of(kind)
            table, factors = [*table, *(len(table) + i for i in own)], [*factors, *signs]
        return Table((*table,), (*factors,), (*kinds,), layout)
    if hasattr(spec, "table"):
        return Table(spec.table, spec.signs or (1,) * len(spec.table), (), layout)
    if hasattr(spec, "diagonal"):
        return Triangle(spec.diagonal, spec.tracks, layout)
    if hasattr(spec, "vocab"):
        return Ids(spec.vocab, layout if layout != "auto" else "n l")
    if hasattr(spec, "signs"):
        return Signs(spec.signs, layout)
    if hasattr(spec, "alphabet"):
        return Bases(spec.alphabet, layout)
    if callable(spec):
        return Plain(spec)
    word = str(spec)
    if word in named:
        return named[word]()
    assert word, "an empty spec"
    if set(word) <= set("+-."):
        return Signs(word, layout)
    assert set(word.upper()) <= set(COMPLEMENTS), f"{spec!r} is no spec"
    return Bases(word, layout)


def _table_of(spec: Any) -> tuple[Sequence[int], Sequence[int]]:
    """How a spec permutes its channels, and with which signs."""
    if isinstance(spec, Table):
        return spec.table, spec.factors
    table = base_table(spec.alphabet) if isinstance(spec, Bases) else track_table(spec.signs)
    return table, [1] * len(table)


def readings(spec: Any, y: Tensor) -> dict[str, Tensor]:
    """The mirror images an output may have, by name; one, unless the spec is ``"auto"``."""
    if not (isinstance(spec, str) and spec == "auto"):
        return {"as stated": read_spec(spec).mirror(y)}
    found = {"invariant": y}
    long = [i for i in range(1, y.dim()) if y.shape[i] > 1]
    found |= {f"reversed along {i}": y.flip(i) for i in long}
    return found | {
        f"reversed along {i}, {j}": y.flip(i, j) for i, j in combinations(long, 2) if y.shape[i] == y.shape[j]
    }


# --- nested values ----------------------------------------------------------------------------------


def parts(value: Any) -> dict[Any, Any] | None:
    """What a nested value holds, by key, place or field; None for a leaf."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, list)):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return None


def paired(value: Any, spec: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each leaf with its place and its spec; one spec may stand for all leaves below it."""
    held = parts(value)
    if held is None:
        yield path or "0", value, spec
        return
    nested = parts(spec) if isinstance(spec, (Mapping, tuple, list)) else None
    if nested is not None and not isinstance(spec, Mapping):
        nested = dict(zip(held, nested.values(), strict=True))
    assert nested is None or nested.keys() == held.keys(), f"specs of {list(nested or [])} for {list(held)}"
    for key, part in held.items():
        yield from paired(part, spec if nested is None else nested[key], f"{path}.{key}" if path else str(key))


def rebuilt(value: Any, new: Iterator[Any]) -> Any:
    """A nested value with new leaves."""
    if isinstance(value, Mapping):
        return {k: rebuilt(v, new) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)([rebuilt(v, new) for v in value])
    return next(new)


# --- comparing --------------------------------------------------------------------------------------


def entry_error(got: Tensor, wanted: Tensor, name: str = "the output") -> float:
    """The largest error of an entry, relative to the entry or to the middle one, whichever is larger.

    The middle is the median of those that are not zero: one huge entry, such as a mask of -1e9, hides nothing.
    Numbers without rounding must be equal. What is not finite must be the same on both sides.

    Raises:
        AssertionError: shapes or kinds differ, a value is not finite on one side only, or nothing is left to compare.
    """
    assert got.shape == wanted.shape, f"{name}: shapes {tuple(got.shape)} and {tuple(wanted.shape)} differ"
    assert got.dtype == wanted.dtype, f"{name}: {got.dtype} and {wanted.dtype} differ"
    assert got.numel(), f"{name}: nothing to compare, its shape is {tuple(got.shape)}"
    if not (got.is_floating_point() or got.is_complex()):
        return 0.0 if torch.equal(got, wanted) else float("inf")
    a, b = (torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in (got, wanted))
    a, b = a.detach().double().flatten(), b.detach().double().flatten()
    finite = torch.isfinite(a) & torch.isfinite(b)
    alike = (a == b) | (a.isnan() & b.isnan())
    assert bool((finite | alike).all()), f"{name}: a value is not finite on one side only"
    assert bool(finite.any()), f"{name}: nothing to compare, no value is finite"
    a, b = a[finite], b[finite]
    sizes = b.abs()
    nonzero = sizes[sizes > 0]
    middle = nonzero.median() if nonzero.numel() else torch.zeros((), dtype=torch.float64)
    off, scale = (a - b).abs(), torch.maximum(torch.maximum(a.abs(), sizes), middle)
    return float(torch.where(off > 0, off / scale, 0.0).max())


# --- inputs -----------------------------------------------------------------------------------------


def _choose(n: int, size: tuple[int, ...], g: torch.Generator) -> Tensor:
    return torch.randint(n, size, generator=g)


def sequence(kind: str, length: int, choices: Sequence[int], g: torch.Generator) -> Tensor:
    """Places in an alphabet, (L,): random, of one base, or a repeat of a short unit."""
    if kind == "one base":
        places = _choose(len(choices), (1,), g).expand(length)
    elif kind == "repeat":
        unit = _choose(len(choices), (int(_choose(4, (), g)) + 2,), g)
        places = unit.repeat(length // len(unit) + 1)[:length]
    else:
        places = _choose(len(choices), (length,), g)
    return torch.tensor(list(choices))[places]


def bases(kind: str, length: int, alphabet: str, g: torch.Generator) -> Tensor:
    """One sample of bases, (L, A)."""
    sure = [i for i, c in enumerate(alphabet.upper()) if c in "ACGTU"]
    x = nn.functional.one_hot(sequence(kind, length, sure, g), len(alphabet)).double()
    if kind == "gaps":
        x[_choose(length, (max(length // 5, 1),), g)] = 0.0
    elif kind == "soft":
        x = torch.rand(x.shape, generator=g, dtype=torch.float64) + 3 * x
        x = x / x.sum(-1, keepdim=True)
    elif kind == "masked":  # most often at one end
        start = int(_choose(length, (), g)) // 3
        x[start : start + length // 4] = 0.0
    return x


def signals(kind: str, length: int, tracks: int, g: torch.Generator) -> Tensor:
    """One sample of tracks, (L, T): counts that are not negative, few of them zero, or most."""
    x = torch.rand(length, tracks, generator=g, dtype=torch.float64)
    if kind in ("gaps", "masked"):
        x = x * (torch.rand(length, tracks, generator=g) < 0.3) + 1e-3
    return 50 * x if kind == "soft" else x


def _sample(spec: Any, like: Tensor, kind: str, length: int, g: torch.Generator) -> Tensor:
    """One sample, (L, C) or (L,)."""
    if isinstance(spec, Bases):
        return bases(kind, length, spec.alphabet, g)
    if isinstance(spec, Signs):
        return signals(kind, length, len(spec.signs), g)
    if isinstance(spec, Table) and spec.kinds:
        return torch.cat([_sample(part, like, kind, length, g) for part in spec.kinds], -1)
    if isinstance(spec, Table):
        return signals(kind, length, len(spec.table), g)
    if isinstance(spec, Ids):
        texts = list(spec.vocabulary)
        sure = [i for i, t in enumerate(texts) if t and set(t.upper()) <= set("ACGTU")]
        return sequence(kind, length, range(len(texts)) if kind in ("gaps", "soft") else sure, g)
    return (torch.rand(length, generator=g) < 0.7).to(like.dtype)


def drawn(
    like: Any, spec: Any, round_: int, batch: int | None, samples: int, stretch: float, g: torch.Generator
) -> Any:
    """A random leaf in place of an example's.

    Args:
        like: the example's leaf.
        spec: what it is.
        round_: which kinds its samples are of.
        batch: number of samples; None keeps the example's.
        samples: number of samples of the example.
        stretch: new length over that of the example.
        g: where random numbers come from.
    """
    if not isinstance(like, Tensor) or spec is None:
        return like
    if isinstance(spec, Plain):
        if like.dim() and like.shape[0] == samples and batch is not None:
            like = like[torch.arange(batch) % samples]
        return torch.rand(like.shape, generator=g, dtype=torch.float64) if like.is_floating_point() else like
    letters = spec.letters(like).split()
    length = round(like.shape[letters.index("l")] * stretch) if "l" in letters else 1
    count = (batch or like.shape[letters.index("n")]) if "n" in letters else 1
    rows = [_sample(spec, like, KINDS[(i + round_) % len(KINDS)], length, g) for i in range(count)]
    x = torch.stack(rows)
    order = {"n": 0, "l": 1, "c": 2}
    x = x if "l" in letters or x.dim() < 3 else x[:, 0]
    present = [letter for letter in letters if letter in order]
    have = [letter for letter in "nlc" if letter in present or (letter == "n" and "n" not in present)]
    if x.dim() == len(have) + 1:  # one track without an axis of its own
        x = x[..., 0]
    x = x.permute([have.index(letter) for letter in (present if "n" in present else ["n", *present])])
    x = x[0] if "n" not in present else x
    for at, letter in enumerate(letters):
        if letter not in order:
            x = x.unsqueeze(at).expand(*x.shape[:at], like.shape[at], *x.shape[at:])
    return x.to(torch.float64 if like.is_floating_point() else like.dtype)


# --- running ----------------------------------------------------------------------------------------


class _Exactly(TorchFunctionMode):
    """Without dropout; what is cast to float32 is cast to float64."""

    def __init__(self, wide: bool) -> None:
        super().__init__()
        self.wide = wide

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name.rstrip("123d_") in ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"):
            return args[0] if args else kwargs["input"]
        if "dropout_p" in kwargs:
            kwargs["dropout_p"] = 0.0
        if self.wide:
            if name == "float" and args:
                return args[0].double()
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in kwargs.items()}
        return func(*args, **kwargs)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def run(model: nn.Module, x: Any, training: bool = False) -> Any:
    """The model's outputs, without dropout, other randomness fixed; its state and mode stay."""
    wide = not any(p.dtype == torch.float32 for p in model.parameters())
    kept = [(b, b.detach().clone()) for b in model.buffers()]
    modes = [(m, m.training) for m in model.modules()]
    rates = [(m, k) for m in model.modules() for k in ("p", "dropout") if type(getattr(m, k, None)) is float]
    rates = [(m, k, getattr(m, k)) for m, k in rates if k == "dropout" or isinstance(m, _DropoutNd)]
    args, kwargs = ((), x) if isinstance(x, Mapping) else (tuple(x), {}) if isinstance(x, (tuple, list)) else ((x,), {})
    try:
        for m, k, _ in rates:
            setattr(m, k, 0.0)
        with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
            torch.manual_seed(0)
            warnings.simplefilter("ignore")
            with _default_dtype(torch.float64) if wide else nullcontext(), _Exactly(wide):
                return model.train(training)(*args, **kwargs)
    finally:
        for m, k, rate in rates:
            setattr(m, k, rate)
        for m, mode in modes:
            m.training = mode
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


def mirrored(x: Any, inputs: Any = "ACGT", layout: Any = "auto") -> Any:
    """The reverse complement of a call's inputs."""
    specs = _input_specs(x, inputs, layout)
    pairs = zip(paired(x, None), specs, strict=True)
    return rebuilt(x, iter([v if s is None else s.mirror(v) for (_, v, _), s in pairs]))


def _input_specs(x: Any, inputs: Any, layout: Any) -> list[Any]:
    """One spec per leaf of the inputs; None for what is no tensor."""
    said = [s for _, _, s in paired(x, inputs)]
    layouts = [s for _, _, s in paired(x, layout)]
    values = [v for _, v, _ in paired(x, None)]
    return [
        read_spec(s, how or "auto") if isinstance(v, Tensor) else None
        for v, s, how in zip(values, said, layouts, strict=True)
    ]


def _some(x: Any, other: Any, specs: list[Any], chosen: Tensor) -> Any | None:
    """Inputs of which only the chosen samples are mirror images; None where that cannot be said."""
    mixed = []
    for (_, a, _), (_, b, _), spec in zip(paired(x, None), paired(other, None), specs, strict=True):
        letters = spec.letters(a).split() if isinstance(a, Tensor) and spec is not None else []
        if not isinstance(a, Tensor) or torch.equal(a, b):
            mixed.append(a)
        elif "n" not in letters or a.shape[letters.index("n")] != len(chosen):
            return None
        else:
            at = letters.index("n")
            shape = [len(chosen) if i == at else 1 for i in range(a.dim())]
            mixed.append(torch.where(chosen.view(shape), b, a))
    return rebuilt(x, iter(mixed))


# --- the law ----------------------------------------------------------------------------------------

Errors = dict[str, dict[str, float]]
"""By output and by the action it is held to."""


def _compare(forward: Any, reverse: Any, outputs: Any, chosen: Tensor | None = None) -> Errors:
    """Errors of the outputs on mirror images; with `chosen`, only those samples of the inputs are mirror images."""
    found: Errors = {}
    ours, theirs = list(paired(forward, outputs)), list(paired(reverse, None))
    assert [p for p, _, _ in ours] == [p for p, _, _ in theirs], "the outputs nest in another way on the other strand"
    for (name, y, spec), (_, r, _) in zip(ours, theirs, strict=True):
        if not isinstance(y, Tensor):
            assert type(y) is type(r), f"output {name}: {type(y).__name__} and {type(r).__name__} differ"
            assert y == r or not isinstance(y, (int, float, str, bytes, type(None))), (
                f"output {name}: {y} and {r} differ"
            )
            continue
        for how, image in readings(spec, y).items():
            if chosen is not None:
                if not y.dim() or y.shape[0] != len(chosen):
                    continue
                image = torch.where(chosen.view(-1, *[1] * (y.dim() - 1)), image, y)
            found.setdefault(name, {})[how] = entry_error(r, image, f"output {name}")
    return found


def _merge(all_of: list[Errors]) -> Errors:
    merged: Errors = {}
    for errors in all_of:
        for name, by_action in errors.items():
            for how, error in by_action.items():
                held = merged.setdefault(name, {})
                held[how] = max(held.get(how, 0.0), error)
    return merged


def _largest(errors: Errors) -> float:
    assert errors, "nothing was compared: the model returns no tensor"
    return max(min(by_action.values()) for by_action in errors.values())


def law_error(
    model: nn.Module,
    x: Any,
    *,
    inputs: Any = "ACGT",
    outputs: Any = "auto",
    layout: Any = "auto",
    training: bool = False,
) -> float:
    """The largest error per entry of ``f(rc x)`` against the mirror image of ``f(x)``, for this x and this model.

    Raises:
        AssertionError: nothing could be compared, or shapes, nesting or finiteness differ.
    """
    forward, reverse = run(model, x, training), run(model, mirrored(x, inputs, layout), training)
    return _largest(_compare(forward, reverse, outputs))


def some_error(model: nn.Module, x: Any, *, inputs: Any = "ACGT", outputs: Any = "auto", layout: Any = "auto") -> float:
    """As `law_error`, with every other sample mirrored: the others must not notice. Zero where no batch is seen."""
    return max((min(e.values()) for e in _some_errors(model, x, inputs, outputs, layout).values()), default=0.0)


def _some_errors(model: nn.Module, x: Any, inputs: Any, outputs: Any, layout: Any) -> Errors:
    specs = _input_specs(x, inputs, layout)
    n = _samples(x, specs)
    if n is None or n < 2:
        return {}
    chosen = torch.arange(n) % 2 == 1
    mixed = _some(x, mirrored(x, inputs, layout), specs, chosen)
    return {} if mixed is None else _compare(run(model, x), run(model, mixed), outputs, chosen)


def _samples(x: Any, specs: list[Any]) -> int | None:
    """The number of samples, from the first input that has them."""
    for (_, value, _), spec in zip(paired(x, None), specs, strict=True):
        if isinstance(value, Tensor) and spec is not None and not isinstance(spec, Plain):
            letters = spec.letters(value).split()
            return value.shape[letters.index("n")] if "n" in letters else None
    return None


def examples(
    example: Any,
    inputs: Any = "ACGT",
    layout: Any = "auto",
    *,
    batch: int | None = 5,
    length: int | None = None,
    seed: int = 0,
) -> Any:
    """Random inputs of the shape of an example, each sample of another kind.

    Args:
        example: what the model is called with.
        inputs, layout: what its tensors are.
        batch: number of samples; None keeps the example's.
        length: length of the first input that has one; None keeps the example's.
        seed: of the random numbers, and which kinds come first.
    """  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    specs = _input_specs(example, inputs, layout)
    values = [v for _, v, _ in paired(example, None)]
    lengths = [v.shape[s.letters(v).split().index("l")] for v, s in zip(values, specs, strict=True) if _is_long(v, s)]
    stretch = 1.0 if length is None else length / lengths[0]
    n = _samples(example, specs)
    new = [drawn(v, s, 5 * seed, batch, -1 if n is None else n, stretch, g) for v, s in zip(values, specs, strict=True)]
    return rebuilt(example, iter(new))


def _is_long(value: Any, spec: Any) -> bool:
    return isinstance(value, Tensor) and spec is not None and "l" in spec.letters(value).split()


def randomised(
    model: nn.Module,
    example: Any = None,
    inputs: Any = "ACGT",
    layout: Any = "auto",
    batch: int | None = 5,
    seed: int = 0,
) -> nn.Module:
    """A float64 copy whose stored parameters are moved, and whose running statistics have seen random inputs.

    Tied weights are computed from stored parameters, so a copy of a converted model is a converted model with other
    weights: no zero bias or fresh statistic hides a broken law. Without an example, statistics stay.
    """
    model = copy.deepcopy(model).double()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.numel() and (p.is_floating_point() or p.is_complex()):
                size = 0.3 * p.abs().square().mean().sqrt() + 0.05
                p.add_(torch.randn(p.shape, generator=g, dtype=p.dtype) * size)
    running = [m for m in model.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]
    if running and example is not None:
        kept = [(m, m.training) for m in model.modules()]
        with (
            torch.random.fork_rng(devices=[]),
            torch.no_grad(),
            warnings.catch_warnings(),
            _default_dtype(torch.float64),
        ):
            warnings.simplefilter("ignore")
            for i in range(2):
                x = examples(example, inputs, layout, batch=batch, seed=100 + i)
                args, kwargs = ((), x) if isinstance(x, Mapping) else (x if isinstance(x, tuple) else (x,), {})
                with _Exactly(True):
                    model.train()(*args, **kwargs)
        for m, mode in kept:
            m.training = mode
    return model


def assert_law(
    model: nn.Module,
    example: Any,
    *,
    inputs: Any = "ACGT",
    outputs: Any = "auto",
    layout: Any = "auto",
    lengths: Sequence[int | None] = (None,),
    tolerance: float = TOLERANCE,
    modes: Sequence[str] = ("eval", "train"),
    randomise: bool = True,
    batch: int | None = 5,
    dtype: torch.dtype = torch.float64,
) -> None:
    """The law holds on a randomised copy, per entry, in every mode, at every length, on inputs of several kinds.

    Args:
        model: not touched.
        example: what it is called with; only shapes and dtypes matter.
        inputs, outputs, layout: specs, nested as the call and its outputs are.
        lengths: lengths of the sequence; None is the example's.
        tolerance: largest error per entry.
        modes: of ``"eval"`` and ``"train"``. Single mirrored samples are tried in eval mode.
        randomise: a baked model's weights are no longer tied, so it is taken as it is; randomise it before.
        batch: number of samples; None keeps the example's.
        dtype: float32 for models that run in no other.

    Raises:
        AssertionError: the law is broken, nothing could be compared, or no output depends on the sequence.
    """
    model = randomised(model, example, inputs, layout, batch) if randomise else copy.deepcopy(model).double()
    model = model.to(dtype)
    found: dict[str, Errors] = {}
    varied = False
    for length in lengths:
        xs = [_in(examples(example, inputs, layout, batch=batch, length=length, seed=s), dtype) for s in (0, 1)]
        for mode in modes:
            ys = [run(model, x, mode == "train") for x in xs]
            rs = [run(model, mirrored(x, inputs, layout), mode == "train") for x in xs]
            varied |= _differ(*ys)
            found[f"{mode} mode, length {length or 'of the example'}"] = _merge(
                [_compare(y, r, outputs) for y, r in zip(ys, rs, strict=True)]
            )
        if "eval" in modes:
            some = _some_errors(model, xs[0], inputs, outputs, layout)
            if some:
                found[f"some samples mirrored, length {length or 'of the example'}"] = some
    assert varied, "nothing was compared: no output depends on the sequence"
    best = _merge(list(found.values()))
    _largest(best)
    for name, by_action in best.items():
        how = min(by_action, key=by_action.__getitem__)
        worst = max(found, key=lambda where: found[where].get(name, {}).get(how, 0.0))
        assert by_action[how] <= tolerance, f"output {name}, {how}: error {by_action[how]:.1e} in {worst}"


def _in(x: Any, dtype: torch.dtype) -> Any:
    """Inputs in a precision."""
    values = (v for _, v, _ in paired(x, None))
    return rebuilt(x, iter([v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for v in values]))


def _differ(one: Any, other: Any) -> bool:
    """Whether the outputs for two inputs differ in any tensor."""
    pairs = zip(paired(one, None), paired(other, None), strict=True)
    tensors = [(a, b) for (_, a, _), (_, b, _) in pairs if isinstance(a, Tensor)]
    return any(a.shape != b.shape or not torch.equal(a, b) for a, b in tensors)
