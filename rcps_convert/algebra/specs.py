"""What users say of a tensor: one-hot bases, tracks, tokens, invariant, antisymmetric; and the strings for these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConversionError
from . import axis as ax
from .action import Action, act
from .axis import Axis
from .layouts import Spec as Spec
from .layouts import arrangements
from .layouts import check_layout as check_layout
from .tokens import COMPLEMENT, reverse_complement_text
from .tokens import Ended as Ended
from .tokens import Mask as Mask
from .tokens import Scores as Scores
from .tokens import Tokens as Tokens


@dataclass(frozen=True)
class OneHot(Spec):
    """One-hot nucleotides in the order of `alphabet`, such as ``"ACGT"`` or ``"ACGTN"``.

    In an alphabet with both cases, such as ``"ACGTacgt"`` for soft-masked repeats, each letter keeps its case.

    Raises:
        ValueError: a letter is no nucleotide code, repeats, or its complement is missing.
    """

    alphabet: str
    layout: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.alphabet, str):
            raise TypeError(f"alphabet={self.alphabet!r}: give the bases in their order, such as 'ACGT'")
        check_layout(self.layout)
        self.channel()

    def channel(self) -> Axis:
        """Each base comes from its complement."""
        letters = self.alphabet if _has_both_cases(self.alphabet) else self.alphabet.upper()
        unknown = [c for c in letters if c.upper() not in COMPLEMENT]
        if unknown or len(set(letters)) != len(letters) or not letters:
            raise ValueError(
                f"alphabet {self.alphabet!r}: letters must be distinct nucleotide codes, got {unknown or letters!r}"
            )
        return ax.permutation([_complement_at(letters, c) for c in letters])

    def __str__(self) -> str:
        return f"one-hot {self.alphabet}"


def _has_both_cases(alphabet: str) -> bool:
    """Whether some base is in an alphabet in both cases, so that they are letters of their own."""
    return len(set(alphabet.upper())) < len(set(alphabet))


def _complement_at(alphabet: str, letter: str) -> int:
    mine = [c.upper() if c.isupper() == letter.isupper() else "" for c in alphabet]
    partner = COMPLEMENT[letter.upper()]
    if letter in "Aa" and "T" not in mine:
        partner = "U"
    if partner not in mine or (letter in "TUtu" and "T" in mine and "U" in mine):
        raise ValueError(f"alphabet {alphabet!r}: the complement of {letter} is not in it; give both, such as 'ACGT'")
    return mine.index(partner)


@dataclass(frozen=True, init=False)
class Permutation(Spec):
    """Channels permuted by a table: channel i comes from channel ``table[i]``, times ``signs[i]``.

    Args:
        table: one whole number per channel; applied twice, it must leave every channel in its place.
        signs: 1 or -1 per channel; the same for the two channels of a pair. None for all 1.
        layout: axes in einops letters when shapes alone leave a choice, such as ``"n l c"``.
        offset: position i goes to L - 1 - i - offset; see `Tracks`.

    Raises:
        ValueError: the table is no such permutation, or a sign is not 1 or -1.
    """

    table: tuple[int, ...]
    signs: tuple[int, ...] | None = None
    layout: str = "auto"
    offset: int = 0

    def __init__(
        self, table: Sequence[int], signs: Sequence[int] | None = None, layout: str = "auto", offset: int = 0
    ) -> None:
        check_layout(layout)
        _check_numbers("table", table, "the place each channel comes from, such as [1, 0]")
        if signs is not None:
            _check_numbers("signs", signs, "1 or -1 for each channel, such as [1, -1]")
            if len(signs) != len(table) or set(signs) - {1, -1}:
                raise ValueError(f"signs={[*signs]}: give 1 or -1 for each of {len(table)} channels")
        _check_numbers("offset", [offset], "a whole number")
        for name, value in (("table", (*table,)), ("signs", None if signs is None else (*signs,))):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "layout", layout)
        object.__setattr__(self, "offset", offset)
        self.channel()

    def channel(self) -> Axis:
        """The permutation of the table, with its signs."""
        if not self.table:
            raise ValueError("table=[]: give the place each channel comes from, such as [1, 0]")
        return ax.signed_permutation(self.table, self.signs or (1,) * len(self.table))

    def readings(self, shape: tuple[int, ...]) -> list[tuple[str, ...]]:
        """With a length, or without."""
        return arrangements(shape, ["c"] if len(shape) == 2 else ["c", "l"], len(self.table))

    def forms(self) -> str:
        """The layouts this spec can be read from, in words."""
        return f"n (batch), c ({len(self.table)} channels) and, for profiles, l (length)"

    def __str__(self) -> str:
        count = len(self.table)
        return f"{count} channel{'s' * (count > 1)} ({ax.describe(self.channel())})" + _offset_words(self.offset)


def _check_numbers(name: str, values: Any, what: str) -> None:
    if not isinstance(values, (list, tuple, range)) or not all(type(v) is int for v in values):
        raise TypeError(f"{name}={values!r}: give {what}")


def _offset_words(offset: int) -> str:
    return f", position i to L - 1 - i {'-' if offset > 0 else '+'} {abs(offset)}" if offset else ""


@dataclass(frozen=True)
class Tracks(Spec):
    """Stranded and unstranded tracks: the k-th ``+`` swaps with the k-th ``-``, each ``.`` stays.

    Args:
        signs: one character per track, such as ``"+-"`` or ``"+-.."``.
        layout: axes in einops letters when shapes alone leave a choice, such as ``"n l c"``.
        offset: for values that lie between bases, such as cuts: position i goes to L - 1 - i - offset. What has no
            partner at the edge stays where it is, and checks pass over it.

    Raises:
        ValueError: another character, or a strand without its partner.
    """

    signs: str
    layout: str = "auto"
    offset: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.signs, str):
            raise TypeError(f"signs={self.signs!r}: give one of '+', '-', '.' for each track, such as '+-'")
        _check_numbers("offset", [self.offset], "a whole number")
        check_layout(self.layout)
        self.channel()

    @staticmethod
    def pairs(table: Sequence[int], layout: str = "auto", offset: int = 0) -> Permutation:
        """Tracks paired by a table: track i is read as track ``table[i]`` on the other strand.

        Args:
            table: such as the column ``strand_pair`` of Borzoi's targets; an unstranded track is its own partner.
            layout, offset: as of `Tracks`.

        Raises:
            ValueError: the partner of a track's partner is another track.
        """
        return Permutation(table, layout=layout, offset=offset)

    def channel(self) -> Axis:
        """Plus tracks come from minus tracks and back."""
        strange = next((c for c in self.signs if c not in "+-."), None)
        if strange is not None:
            raise ValueError(
                f"tracks {self.signs!r}: {strange!r} at {self.signs.index(strange)} is not '+', '-' or '.'; "
                "give one for each track, such as '+-.'"
            )
        plus, minus = ([i for i, c in enumerate(self.signs) if c == sign] for sign in "+-")
        if len(plus) != len(minus) or not self.signs:
            raise ValueError(f"tracks {self.signs!r}: each '+' needs a '-', such as '+-.'")
        table = list(range(len(self.signs)))
        for p, m in zip(plus, minus, strict=True):
            table[p], table[m] = m, p
        return ax.permutation(table)

    def readings(self, shape: tuple[int, ...]) -> list[tuple[str, ...]]:
        """With a length, or without: stranded counts have shape (N, T); one track alone may have no axis: (N, L)."""
        if len(shape) == 2:
            alone: list[tuple[str, ...]] = [("n", "l")] if self.signs == "." and shape[1] != 1 else []
            return arrangements(shape, ["c"], len(self.signs)) or alone
        return super().readings(shape)

    def forms(self) -> str:
        """The layouts this spec can be read from, in words."""
        return f"n (batch), c ({len(self.signs)} tracks) and, for profiles, l (length)"

    def __str__(self) -> str:
        return f"tracks {self.signs}" + _offset_words(self.offset)


@dataclass(frozen=True)
class Invariant(Spec):
    """A tensor that does not change under reverse complement."""

    def action(self, shape: Sequence[int], layout: str = "auto") -> Action:
        """Every axis stays."""
        return Action(tuple(ax.batch(s) if i == 0 else ax.trivial(s) for i, s in enumerate(shape)))

    def actions(self, shape: Sequence[int]) -> list[Action]:
        """The one action there is: no axis has to be found."""
        return [self.action(shape)]

    def __str__(self) -> str:
        return "invariant"


@dataclass(frozen=True)
class Antisymmetric(Invariant):
    """A tensor without length that changes its sign, such as a strand-bias score."""

    def action(self, shape: Sequence[int], layout: str = "auto") -> Action:
        """Every entry is multiplied by -1; the sign lies on the last axis."""
        axes = Invariant().action(shape).axes or ()
        if not axes:
            raise ConversionError("an antisymmetric scalar has no axis", do="return a tensor with a batch axis")
        return Action((*axes[:-1], ax.product([axes[-1], ax.SIGN])))

    def __str__(self) -> str:
        return "antisymmetric"


SpecLike = str | Spec

WORDS: dict[str, Callable[[], Spec]] = {"invariant": Invariant, "antisymmetric": Antisymmetric, "mask": Mask}
"""The words that are specs."""


KNOWN = (
    f"an alphabet such as 'ACGT', tracks such as '+-.', {', '.join(map(repr, WORDS))}, or a spec such as Tokens(...)"
)
"""What a spec may be, in words."""

MEANT = {
    "profile": "a profile of one unstranded track is '.', of two strands '+-'",
    "track": "one character per track: '.' for an unstranded one, '+-' for two strands",
    "count": "counts of two strands are '+-', of none 'invariant'",
    "contact": "a map that is reversed along both of its axes is 'mask'",
    "scalar": "a number that does not change is 'invariant'",
    "hot": "one-hot bases are given by their order, such as 'ACGT'",
    "dna": "one-hot bases are given by their order, such as 'ACGT'",
    "token": "ids are given by their texts: Tokens('ACGTN')",
    "ids": "ids are given by their texts: Tokens('ACGTN')",
}
"""Words that are taken for specs, and what to give instead."""


def read_spec(text: SpecLike, what: str = "spec") -> Spec:
    """The spec a string stands for.

    Args:
        text: letters (a one-hot alphabet), ``+ - .`` (tracks), ``"invariant"``, ``"antisymmetric"``, ``"mask"``, or a
            spec.
        what: the argument it is given as.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(text, Spec):
        return text
    if not isinstance(text, str):
        raise ValueError(f"{what}={text!r} is no spec: give {KNOWN}")
    if not text or (set(text) - set("+-.") and not set(text.upper()) <= COMPLEMENT.keys() and text not in WORDS):
        near = next((f"; {do}" for word, do in MEANT.items() if word in text.lower()), "")
        raise ValueError(f"{what}={text!r} is no spec: give {KNOWN}{near}")
    if text in WORDS:
        return WORDS[text]()
    return Tracks(text) if set(text) <= set("+-.") else OneHot(text)


def reverse_complement(x: Tensor | str, alphabet: SpecLike = "ACGT", layout: str = "auto") -> Tensor | str:
    """The reverse complement of a string, a one-hot tensor, tracks or a tensor of tokens.

    Args:
        x: a string of nucleotides, or a tensor: one-hot of shape (N, A, L) or another layout, in the
            base order of `alphabet`; or integer ids of shape (N, L) when `alphabet` is `Tokens`.
        alphabet: base order, or any input spec. For a string it only matters whether A pairs with T or,
            where the string or the alphabet has a U, with U.
        layout: axes in einops letters; ``"auto"`` finds them.

    Returns: the same type and shape as x.

    Raises:
        ValueError: a letter of a string has no complement, or an id no text.
        TypeError: x is no string and no tensor.
        NeedsChoiceError: the shape can be read in several ways, or in none.

    Source: IUPAC-IUB nomenclature, Nucleic Acids Res. 13:3021 (1985), for the ambiguity codes.
    """
    spec = read_spec(alphabet, "alphabet")
    check_layout(layout)
    if isinstance(x, str):
        unknown = sorted({c for c in x if c.upper() not in COMPLEMENT})
        if unknown:
            raise ValueError(f"no complement for {unknown}: give a text of nucleotides, such as 'ACGTN'")
        written = x + (alphabet if isinstance(alphabet, str) else "")
        return reverse_complement_text(x, rna="U" in written.upper())
    if not isinstance(x, Tensor):
        raise TypeError(f"x={x!r}: give a string of nucleotides or a tensor")
    check_ids(spec, x)
    runs = spec.runs if isinstance(spec, Tokens) and x.dim() == 2 else None
    return act(spec.action(x.shape, layout), x, [] if runs is None else [runs.order(x)])


def check_ids(spec: Spec, x: Tensor) -> None:
    """Refuse ids that a vocabulary does not have.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: one is out of range.
    """
    if not isinstance(spec, Tokens) or not x.numel():
        return
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"tokens are whole numbers, and the tensor is of {x.dtype}: give ids such as x.long()")
    low, high = int(x.min()), int(x.max())
    if low < 0 or high >= len(spec.vocab):
        raise ValueError(f"ids from {low} to {high} in a tensor of {spec}: give ids from 0 to {len(spec.vocab) - 1}")
