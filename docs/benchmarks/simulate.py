"""Simulated sequences with a known answer: motif instances on either strand, in a background of equal GC content.

The motifs are count matrices of JASPAR 2024 (Rauluseviciute et al., Nucleic Acids Research 2024; CC BY 4.0), in
`motifs.jaspar` beside this file. An instance is drawn column by column and written on either strand, with equal
chances, at a place where it meets no other instance.

- `binding`: sequences with an instance of each of two motifs, and as many with the same letters in random order in
  their places. Both have the same number of G and C. The label does not depend on the strand.
- `one_strand`: an instance on the strand that is written down is label 1, on the other strand label 0. Reverse
  complement turns the label over, so no invariant model can do better than chance.
- `profiles`: counts of reads on both strands around each instance: more of them upstream on the motif's own strand
  than downstream on the other. The mirror image of a sequence has the mirror image of its profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

MATRICES = Path(__file__).with_name("motifs.jaspar")
OFFSET, SPREAD = 12, 5
"""Distance of the reads from the motif's centre, and their standard deviation, in bp."""

OTHER_STRAND = 0.5
"""Reads on the strand opposite to the motif, as a share of those on its own."""

Letters = npt.NDArray[np.int64]
"""Bases as numbers, 0 to 3 for A, C, G, T."""


@dataclass(frozen=True)
class Instance:
    """A motif instance.

    Attributes:
        sequence: row of its sequence.
        motif: name of the matrix.
        start: first position, in bp from the left end of the sequence as written.
        width: number of positions.
        strand: +1 as written, -1 on the other strand.
    """

    sequence: int
    motif: str
    start: int
    width: int
    strand: int


@dataclass(frozen=True)
class Simulated:
    """Sequences of one length with what is known about them.

    Attributes:
        letters: shape (n, L).
        labels: shape (n,), or counts of shape (n, 2, L), the strand as written first.
        instances: the motif instances, in order of their sequences.
    """

    letters: Letters
    labels: npt.NDArray[np.float64]
    instances: tuple[Instance, ...]


def matrices(path: Path = MATRICES) -> dict[str, npt.NDArray[np.float64]]:
    """Base frequencies of each motif, shape (width, 4), by name."""
    found: dict[str, list[list[float]]] = {}
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith(">"):
            rows = found[line.split("\t")[1]] = []
        else:
            rows.append([float(count) for count in line.split("[")[1].rstrip("] ").split()])
    return {name: np.array(rows).T / np.sum(rows, axis=0)[:, None] for name, rows in found.items()}


def background(n: int, length: int, gc: npt.NDArray[np.float64], rng: np.random.Generator) -> Letters:
    """Random sequences with an exact number of G and C: the GC content times the length, rounded."""
    strong = np.arange(length) < np.rint(gc * length)[:, None]
    strong = rng.permuted(strong, axis=1)
    second = rng.integers(0, 2, (n, length))
    return np.where(strong, 1 + second, 3 * second)


def draw(matrix: npt.NDArray[np.float64], rng: np.random.Generator) -> Letters:
    """One instance of a motif, on its own strand."""
    return np.array([rng.choice(4, p=column) for column in matrix])


def mirrored(letters: Letters) -> Letters:
    """The reverse complement."""
    return 3 - letters[..., ::-1]


def places(widths: list[int], length: int, rng: np.random.Generator) -> list[int]:
    """Random starts of windows that do not overlap."""
    free = length - sum(widths)
    order = rng.permutation(len(widths))
    gaps = np.sort(rng.integers(0, free + 1, len(widths)))
    starts, used = [0] * len(widths), 0
    for gap, index in zip(gaps, order, strict=True):
        starts[index] = int(gap) + used
        used += widths[index]
    return starts


def gc_contents(n: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """GC contents like those of human regulatory regions: mean 0.5, standard deviation 0.08."""
    return np.clip(rng.normal(0.5, 0.08, n), 0.25, 0.75)


def binding(n: int, length: int, seed: int, motifs: tuple[str, ...] = ("GATA1", "MAX")) -> Simulated:
    """Sequences with one instance of each motif (label 1), and with shuffled instances (label 0).

    Args:
        n: number of sequences, half of each label; an even number.
        length: bp.
        seed: of everything random.
        motifs: names in `motifs.jaspar`.
    """
    rng, known = np.random.default_rng(seed), matrices()
    gc = np.tile(gc_contents(n // 2, rng), 2)
    letters, labels, instances = background(n, length, gc, rng), np.repeat([1.0, 0.0], n // 2), []
    for row in range(n // 2):
        drawn = [draw(known[name], rng) for name in motifs]
        widths = [len(d) for d in drawn]
        starts, control = places(widths, length, rng), places(widths, length, rng)
        outside = _outside(letters[row], starts, widths)
        letters[row + n // 2] = _filled(rng.permutation(outside), control, widths)
        for name, word, start, other in zip(motifs, drawn, starts, control, strict=True):
            strand = 1 if rng.random() < 0.5 else -1
            letters[row, start : start + len(word)] = word if strand > 0 else mirrored(word)
            letters[row + n // 2, other : other + len(word)] = rng.permutation(word)
            instances.append(Instance(row, name, start, len(word), strand))
    return Simulated(letters, labels, tuple(instances))


def _outside(row: Letters, starts: list[int], widths: list[int]) -> Letters:
    """The letters that no window covers, in order."""
    free = np.ones(len(row), dtype=bool)
    for start, width in zip(starts, widths, strict=True):
        free[start : start + width] = False
    return row[free]


def _filled(outside: Letters, starts: list[int], widths: list[int]) -> Letters:
    """A sequence with given letters outside of its windows, and A inside them."""
    row = np.zeros(len(outside) + sum(widths), dtype=np.int64)
    free = np.ones(len(row), dtype=bool)
    for start, width in zip(starts, widths, strict=True):
        free[start : start + width] = False
    row[free] = outside
    return row


def one_strand(n: int, length: int, seed: int, motif: str = "GATA1") -> Simulated:
    """Sequences whose label is the strand of their one instance: 1 as written, 0 on the other strand."""
    rng, matrix = np.random.default_rng(seed), matrices()[motif]
    letters, labels = background(n, length, gc_contents(n, rng), rng), rng.integers(0, 2, n).astype(np.float64)
    instances = []
    for row in range(n):
        word, (start,) = draw(matrix, rng), places([len(matrix)], length, rng)
        strand = 1 if labels[row] else -1
        letters[row, start : start + len(word)] = word if strand > 0 else mirrored(word)
        instances.append(Instance(row, motif, start, len(word), strand))
    return Simulated(letters, labels, tuple(instances))


def profiles(n: int, length: int, seed: int, motifs: tuple[str, ...] = ("GATA1", "Spi1", "Pou5f1::Sox2")) -> Simulated:
    """Sequences with up to three instances, and counts of reads on both strands, (n, 2, L).

    Args:
        n: number of sequences.
        length: bp.
        seed: of everything random.
        motifs: names in `motifs.jaspar`; their sites differ in how many reads they have, 30, 50, 70 and so on.
    """
    rng, known = np.random.default_rng(seed), matrices()
    letters, instances = background(n, length, gc_contents(n, rng), rng), []
    for row in range(n):
        chosen = [str(name) for name in rng.choice(motifs, size=rng.integers(1, 4))]
        starts = places([len(known[name]) for name in chosen], length, rng)
        for name, start in zip(chosen, starts, strict=True):
            word, strand = draw(known[name], rng), 1 if rng.random() < 0.5 else -1
            letters[row, start : start + len(word)] = word if strand > 0 else mirrored(word)
            instances.append(Instance(row, name, start, len(word), strand))
    heights = {name: 30.0 + 20.0 * i for i, name in enumerate(motifs)}
    rates = expected_reads(n, length, tuple(instances), heights)
    return Simulated(letters, rng.poisson(rates).astype(np.float64), tuple(instances))


def expected_reads(
    n: int, length: int, instances: tuple[Instance, ...], heights: dict[str, float]
) -> npt.NDArray[np.float64]:
    """Expected counts of reads, (n, 2, L): around each instance, and 0.02 at every position.

    A motif as written has its own strand's reads `OFFSET` bp left of its centre and the other strand's as far right
    of it; a motif on the other strand has the mirror image of that.
    """
    rates, positions = np.full((n, 2, length), 0.02), np.arange(length)
    for instance in instances:
        centre = instance.start + (instance.width - 1) / 2
        own = 0 if instance.strand > 0 else 1
        for strand, side, share in ((own, -1, 1.0), (1 - own, 1, OTHER_STRAND)):
            middle = centre + side * instance.strand * OFFSET
            bump = np.exp(-0.5 * ((positions - middle) / SPREAD) ** 2) / (SPREAD * np.sqrt(2 * np.pi))
            rates[instance.sequence, strand] += heights[instance.motif] * share * bump
    return rates
