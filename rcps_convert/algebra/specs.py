"""What users say of a tensor: one-hot bases, tracks, tokens, invariant, antisymmetric; and the strings for these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import ConversionError, NeedsChoiceError
from . import axis as ax
from .action import Action, act
from .arguments import check_count
from .axis import Axis
from .layouts import Spec as Spec
from .layouts import arrangements
from .layouts import check_layout as check_layout
from .runs import ENDS, PADDING, Runs, is_special

COMPLEMENT = dict(zip("ACGTUNRYSWKMBDHV", "TGCAANYRSWMKVHDB", strict=True))
"""Complement of each nucleotide and IUPAC ambiguity code; U and T both pair with A."""


@dataclass(frozen=True)
class OneHot(Spec):
    """One-hot nucleotides in the order of `alphabet`, such as ``"ACGT"`` or ``"ACGTN"``.

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
        letters = self.alphabet.upper()
        unknown = [c for c in letters if c not in COMPLEMENT]
        if unknown or len(set(letters)) != len(letters) or not letters:
            raise ValueError(
                f"alphabet {self.alphabet!r}: letters must be distinct nucleotide codes, got {unknown or letters!r}"
            )
        return ax.permutation([_complement_at(letters, c) for c in letters])

    def __str__(self) -> str:
        return f"one-hot {self.alphabet}"


def _complement_at(alphabet: str, letter: str) -> int:
    partner = COMPLEMENT[letter]
    if letter == "A" and "T" not in alphabet:
        partner = "U"
    if partner not in alphabet or (letter in "TU" and "T" in alphabet and "U" in alphabet):
        raise ValueError(f"alphabet {alphabet!r}: the complement of {letter} is not in it; give both, such as 'ACGT'")
    return alphabet.index(partner)


@dataclass(frozen=True)
class Tracks(Spec):
    """Stranded and unstranded tracks: each ``+`` swaps with the next ``-``, each ``.`` stays.

    Args:
        signs: one character per track, such as ``"+-"`` or ``"+-.."``.
        layout: axes in einops letters when shapes alone leave a choice, such as ``"n l c"``.

    Raises:
        ValueError: another character, or a strand without its partner.
    """

    signs: str
    layout: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.signs, str):
            raise TypeError(f"signs={self.signs!r}: give one of '+', '-', '.' for each track, such as '+-'")
        check_layout(self.layout)
        self.channel()

    def channel(self) -> Axis:
        """Plus tracks come from minus tracks and back."""
        table, waiting = list(range(len(self.signs))), []
        for i, c in enumerate(self.signs):
            if c == "+":
                waiting.append(i)
            elif c == "-" and waiting:
                plus = waiting.pop(0)
                table[plus], table[i] = i, plus
            elif c != ".":
                raise ValueError(
                    f"tracks {self.signs!r}: {c!r} at {i} is not '+', '-' or '.', or a '-' before its '+'; "
                    "give one for each track, such as '+-.'"
                )
        if waiting or not table:
            raise ValueError(f"tracks {self.signs!r}: each '+' needs a '-' after it, such as '+-.'")
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
        return f"tracks {self.signs}"


@dataclass(frozen=True)
class Ended(Spec):
    """A tensor along a sequence with entries at its ends that stay: special tokens, and what stands at their places.

    Attributes:
        prefix, suffix: entries before and after the sequence that stay; None where nothing was said.
    """

    prefix: int | None = None
    suffix: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("prefix", self.prefix), ("suffix", self.suffix)):
            if value is not None:
                check_count(name, value, low=0)

    @property
    def ends(self) -> tuple[int, int]:
        """Entries that stay before and after the sequence."""
        return self.prefix or 0, self.suffix or 0

    def positions(self, size: int) -> Axis:
        """The entries at the ends stay, those between them are reversed."""
        before, after = self.ends
        inner = size - before - after
        if inner < 1:
            raise NeedsChoiceError(
                f"an axis of {size} entries has no position between {before} before and {after} after the sequence",
                why=f"prefix={before} and suffix={after} entries stay where they are",
                do="give an example with sequences of at least one token, or other numbers",
            )
        role = ax.Role("length", size, (ax.Step(1, inner - size),) if inner < size else ())
        return ax.total([ax.trivial(before), ax.length(inner, role), ax.trivial(after)])


@dataclass(frozen=True, init=False)
class Tokens(Ended):
    """Integer ids of nucleotide texts: characters, k-mers and special tokens.

    As an output, of one score per text: a permuted axis of as many entries, ``"n l c"``.

    Args:
        vocab: the text of each id in order (a string or a list), or a mapping from text to id.
            A text of nucleotides maps to its reverse complement, any other to itself.
        layout: axes in einops letters, such as ``"n l"``.
        prefix, suffix: special tokens before and after each sequence: they stay where they are, and so does padding.
            Without a number for either, every position is reversed.

    Raises:
        ValueError: ids are not 0, 1, 2, ..., or a reverse complement is not in the vocabulary.
    """

    vocab: tuple[str, ...] = ()
    layout: str = "auto"

    def __init__(
        self,
        vocab: str | Sequence[str] | Mapping[str, int],
        layout: str = "auto",
        prefix: int | None = None,
        suffix: int | None = None,
    ) -> None:
        check_layout(layout)
        object.__setattr__(self, "prefix", prefix)
        object.__setattr__(self, "suffix", suffix)
        self.__post_init__()
        texts = list(vocab) if isinstance(vocab, (str, Sequence, Mapping)) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(
                f"vocab={vocab!r}: give the text of each id in order, such as 'ACGTN' or ['[PAD]', 'A', 'C', ...], "
                "or a mapping from text to id"
            )
        if isinstance(vocab, Mapping):
            if not all(type(i) is int for i in vocab.values()):
                raise TypeError(f"vocab={vocab!r}: the ids of a mapping are whole numbers")
            if sorted(vocab.values()) != list(range(len(vocab))):
                raise ValueError("the ids of a vocabulary must be 0, 1, 2, ... without gaps")
            vocab = sorted(vocab, key=vocab.__getitem__)
        object.__setattr__(self, "vocab", tuple(vocab))
        object.__setattr__(self, "layout", layout)
        self.values()

    def values(self) -> Axis:
        """How the ids are permuted."""
        place = {text: i for i, text in enumerate(self.vocab)}
        if len(place) != len(self.vocab):
            raise ValueError("a vocabulary has a text twice")
        if not any(map(_is_nucleotides, self.vocab)):
            raise ValueError(f"vocab={self.vocab!r}: no text is made of nucleotides; give them all, such as 'ACGTN'")
        letters = set("".join(filter(_is_nucleotides, self.vocab)).upper())
        return ax.permutation([self._partner(t, place, "U" in letters and "T" not in letters) for t in self.vocab])

    def _partner(self, text: str, place: Mapping[str, int], rna: bool) -> int:
        """The id of a text's reverse complement; UNK and MASK are words, though IUPAC has all their letters."""
        if not _is_nucleotides(text):
            return place[text]
        partner = _reverse_complement_text(text, rna)
        if partner not in place and len(text) > 1 and set(text.upper()) - set("ACGTUN"):
            return place[text]
        if partner not in place and len(self.text_lengths) > 2:
            raise ValueError(
                f"the vocabulary lacks {partner!r}, the reverse complement of {text!r}: its texts have "
                f"{len(self.text_lengths)} lengths, as those of byte-pair encoding, which cuts the other strand into "
                "other tokens, so reverse complement is no permutation of ids; read both strands as strings: "
                "conjoined_strings(model, tokenize)"
            )
        if partner not in place:
            raise ValueError(
                f"the vocabulary lacks {partner!r}, the reverse complement of {text!r}; "
                f"write a special token so that it is no nucleotide text, such as '[{text}]'"
            )
        return place[partner]

    @property
    def runs(self) -> Runs | None:
        """Where sequences lie in padded rows of ids; None where nothing was said of their ends, or there is no padding.

        What is padded is then reversed with the rest.
        """
        pads = tuple(i for i, text in enumerate(self.vocab) if is_special(text, PADDING))
        return Runs(*self.ends, pads) if self.is_ended and pads else None

    @property
    def text_lengths(self) -> list[int]:
        """The lengths of the texts of nucleotides, in letters."""
        return sorted({len(text) for text in self.vocab if _is_nucleotides(text)})

    @property
    def is_ended(self) -> bool:
        """Whether the special tokens at the ends were said."""
        return self.prefix is not None or self.suffix is not None

    def action(self, shape: Sequence[int], layout: str = "auto") -> Action:
        """The action on ids: positions reverse, ids go to their reverse complements.

        Raises:
            NeedsChoiceError: the vocabulary has special tokens for the ends of sequences, and nothing was said of them.
        """
        named = [text for text in self.vocab if is_special(text, ENDS)]
        if named and not self.is_ended:
            raise NeedsChoiceError(
                f"do sequences begin or end with a special token, such as {' or '.join(named[:2])}?",
                why="the ends of a sequence stay where they are under reverse complement, and the rest is reversed",
                do="say how many tokens stand before and after each sequence: Tokens(vocab, prefix=1, suffix=1), "
                "or prefix=0, suffix=0 if there are none",
            )
        return Action(super().action(shape, layout).axes, self.values())

    def scores(self) -> Scores:
        """The spec of one score per text."""
        return Scores(self.prefix, self.suffix, self.values(), str(self), self.layout)

    def forms(self) -> str:
        """The layouts this spec can be read from, in words."""
        return "n (batch) and l (length)"

    def __str__(self) -> str:
        return f"tokens of {len(self.vocab)} texts"


@dataclass(frozen=True)
class Scores(Ended):
    """One score per text of a vocabulary, along a sequence or of the whole: logits of ids."""

    permuted: Axis = field(default_factory=lambda: ax.trivial(1))
    words: str = ""
    layout: str = "auto"

    def channel(self) -> Axis:
        """Each text comes from its reverse complement."""
        return self.permuted

    def readings(self, shape: tuple[int, ...]) -> list[tuple[str, ...]]:
        """With a length, or one score per text for the whole sequence."""
        return arrangements(shape, ["c"], self.permuted.size) if len(shape) == 2 else super().readings(shape)

    def __str__(self) -> str:
        return f"scores of {self.words}"


@dataclass(frozen=True)
class Mask(Ended):
    """Numbers along a sequence that are reversed with it and otherwise stay, such as an attention mask.

    Every axis but the batch and those of one entry runs along the sequence: ``(N, L)``, ``(N, 1, L, L)``.

    Args:
        prefix, suffix: entries that stay before and after the sequence; those of the `Tokens` beside it if not given.
        layout: axes in einops letters.
    """

    layout: str = "auto"

    def with_ends(self, tokens: Tokens) -> Mask:
        """The mask with the special tokens of the ids beside it, unless its own were said."""
        said = self.prefix is not None or self.suffix is not None
        return self if said else Mask(*tokens.ends, self.layout)

    def readings(self, shape: tuple[int, ...]) -> list[tuple[str, ...]]:
        """The batch, and lengths."""
        return [("n", *("1" if s == 1 else "l" for s in shape[1:]))] if len(shape) > 1 else []

    def forms(self) -> str:
        """The layouts this spec can be read from, in words."""
        return "n (batch) and l (length), once or twice"

    def __str__(self) -> str:
        return "mask"


def _is_nucleotides(text: str) -> bool:
    return bool(text) and all(c in COMPLEMENT for c in text.upper())


def _reverse_complement_text(text: str, rna: bool) -> str:
    """The reverse complement of a text of nucleotides; the case of each letter goes with it."""
    pairs = [(c, COMPLEMENT[c.upper()]) for c in reversed(text)]
    partners = [("U" if rna and p == "T" else p, c.islower()) for c, p in pairs]
    return "".join(p.lower() if lower else p for p, lower in partners)


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
    known = (
        "an alphabet such as 'ACGT', tracks such as '+-.', 'invariant', 'antisymmetric', 'mask', or a spec such as "
        "Tokens(...)"
    )
    if not isinstance(text, str):
        raise ValueError(f"{what}={text!r} is no spec: give {known}")
    if not text or (set(text) - set("+-.") and not set(text.upper()) <= COMPLEMENT.keys() and text not in WORDS):
        raise ValueError(f"{what}={text!r} is no spec: give {known}")
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
        return _reverse_complement_text(x, rna="U" in written.upper())
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
