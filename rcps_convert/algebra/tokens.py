"""Specs of integer ids: tokens of a vocabulary, scores of its texts, and masks beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import NeedsChoiceError
from . import axis as ax
from .action import Action
from .arguments import check_count
from .axis import Axis
from .layouts import Spec, arrangements, check_layout
from .runs import ENDS, PADDING, Runs, is_special

COMPLEMENT = dict(zip("ACGTUNRYSWKMBDHV", "TGCAANYRSWMKVHDB", strict=True))
"""Complement of each nucleotide and IUPAC ambiguity code; U and T both pair with A."""


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

    def along(self, size: int) -> Axis:
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
        partner = reverse_complement_text(text, rna)
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


def reverse_complement_text(text: str, rna: bool) -> str:
    """The reverse complement of a text of nucleotides; the case of each letter goes with it."""
    pairs = [(c, COMPLEMENT[c.upper()]) for c in reversed(text)]
    partners = [("U" if rna and p == "T" else p, c.islower()) for c, p in pairs]
    return "".join(p.lower() if lower else p for p, lower in partners)
