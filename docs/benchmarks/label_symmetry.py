"""How alike are the labels of a sequence and of its mirror image, where both were measured?

Reads a table of sequences and labels (tabs, with a header, gzipped or not), finds the pairs of sequences of which one
is the reverse complement of the other, and compares their labels. With adapters or flanks at the ends that are the same
in all sequences, `--trim` cuts them off first.

With r the correlation of the two labels of a pair, a share (1 + r) / 2 of their variance is common to both strands:
that is all an equivariant model can explain, and its correlation with the labels is at most the square root of that.
What is not common is either an effect of the strand or noise. `--noise`, the standard deviation of repeated
measurements of one sequence, tells these apart.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

COMPLEMENT = str.maketrans("ACGTacgt", "TGCAtgca")


@dataclass(frozen=True)
class Symmetry:
    """What the pairs say.

    Attributes:
        pairs: number of sequences measured on both strands.
        palindromes: number of sequences that are their own mirror image; they are no pairs.
        r: Pearson correlation of the two labels, each pair counted both ways round.
        low, high: its 95 % interval, by Fisher's transform.
        difference: standard deviation within a pair, in units of the labels.
        spread: standard deviation of the labels of all pairs, in the same units.
        ceiling: largest correlation with the labels that an equivariant model can have.
    """

    pairs: int
    palindromes: int
    r: float
    low: float
    high: float
    difference: float
    spread: float
    ceiling: float


def label_symmetry(sequences: list[str], labels: list[float]) -> Symmetry:
    """Compare the labels of sequences with those of their reverse complements.

    Args:
        sequences: of any lengths; upper and lower case are the same. Of equal ones the mean label is taken.
        labels: one for each.

    Returns: the comparison.

    Raises: ValueError: fewer than four pairs, or labels that are all the same.
    """
    gathered: dict[str, list[float]] = {}
    for sequence, label in zip(sequences, labels, strict=True):
        gathered.setdefault(sequence.upper(), []).append(label)
    means = {sequence: float(np.mean(values)) for sequence, values in gathered.items()}
    mirrors = {sequence: sequence.translate(COMPLEMENT)[::-1] for sequence in means}
    pairs = np.array([(means[s], means[m]) for s, m in mirrors.items() if s < m and m in means])
    if len(pairs) < 4:
        raise ValueError(f"{len(pairs)} sequences were measured on both strands: too few to compare")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    if both.std() == 0:
        raise ValueError("all labels of the pairs are the same")
    r = float(np.corrcoef(both.T)[0, 1])
    half = 1.96 / np.sqrt(len(pairs) - 3)
    place = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
    low, high = np.tanh([place - half, place + half])
    apart = (pairs - pairs.mean(1, keepdims=True)).std() * np.sqrt(2)
    own = sum(s == m for s, m in mirrors.items())
    ceiling = float(np.sqrt((1 + r) / 2))
    return Symmetry(len(pairs), own, r, float(low), float(high), float(apart), float(both.std()), ceiling)


def read(path: Path, sequence: str, label: str, trim: int) -> tuple[list[str], list[float]]:
    """Two columns of a table."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    return [r[sequence][trim : len(r[sequence]) - trim] for r in rows], [float(r[label]) for r in rows]


def verdict(found: Symmetry, noise: float | None) -> str:
    """What it means, in words."""
    told = [
        f"{found.pairs} pairs; correlation of the two labels {found.r:.3f} (95 %: {found.low:.3f} to {found.high:.3f})",
        f"standard deviation within a pair {found.difference:.3f}, of all labels of pairs {found.spread:.3f}",
        f"an equivariant model can reach a correlation of {found.ceiling:.3f} with these labels, and no more",
    ]
    if found.difference == 0:
        told.append("the labels of every pair are identical: they look copied from one strand, not measured twice")
    if noise is not None:
        strand = np.sqrt(max(found.difference**2 - noise**2, 0.0))
        told.append(
            f"of the deviation within a pair, noise explains {noise:.3f}; the strand explains at most {strand:.3f}"
        )
    return "\n".join(told)


def parse(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("table", type=Path, help="with a header; .gz is unpacked")
    p.add_argument("--sequence", default="sequence", help="column of the sequences")
    p.add_argument("--label", required=True, help="column of the labels")
    p.add_argument("--trim", type=int, default=0, help="fixed bases to cut off at each end")
    p.add_argument("--noise", type=float, help="standard deviation of repeated measurements, in units of the labels")
    p.add_argument("--json", type=Path, help="write the figures to this file too")
    args = p.parse_args(argv)
    if not args.table.is_file():
        p.error(f"there is no file {args.table}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    try:
        found = label_symmetry(*read(args.table, args.sequence, args.label, args.trim))
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(verdict(found, args.noise))
    if args.json:
        args.json.write_text(json.dumps(asdict(found), indent=1) + "\n")


if __name__ == "__main__":
    main()
