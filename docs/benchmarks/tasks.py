"""The data sets of the comparison of strategies, each as one-hot sequences and labels in three splits.

Files are looked for in one folder: `ctcf_101bp.tsv.gz`, `starr_249bp.tsv.gz`, `mpra_230bp.tsv.gz`,
`yeast_110bp.tsv.gz`. The Oct4 and Mafk sequences are read from an installed `janggu` (PyPI, 0.10.2), or from its
unpacked wheel. The simulated sets need nothing. A training or validation sequence that occurs in a later split, on
either strand, is left out.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import simulate
import torch
from torch import Tensor
from train_ctcf import one_hot
from train_ctcf import read as read_ctcf

Split = tuple[Tensor, Tensor]
"""One-hot sequences, uint8 of shape (n, 4, L), and labels, float32 of shape (n,) or (n, 2, L)."""


@dataclass(frozen=True)
class Task:
    """A data set and what is learned from it.

    Attributes:
        name: its name.
        kind: "binary", "regression" or "profile".
        epochs: how long a network is trained.
        splits: "train", "validation" and "test".
        symmetric: whether a sequence and its mirror image have the same label, as far as is known.
    """

    name: str
    kind: str
    epochs: int
    splits: dict[str, Split]
    symmetric: bool = True

    @property
    def length(self) -> int:
        """In bp."""
        return self.splits["train"][0].shape[-1]

    @property
    def outputs(self) -> str:
        """How reverse complement acts on the answer, as a spec of `convert_model`."""
        return "+-" if self.kind == "profile" else "invariant"

    def mirrored(self, y: Tensor) -> Tensor:
        """Answers for the mirror images of sequences with these answers."""
        return y.flip(1, 2) if self.kind == "profile" else y

    def limited(self, n: int | None, epochs: int | None = None) -> Task:
        """The same with at most n training sequences, and 2n of each other split, drawn once for all."""
        if n is None:
            return replace(self, epochs=epochs or self.epochs)
        splits = {name: shuffled(split, n if name == "train" else 2 * n) for name, split in self.splits.items()}
        return replace(self, splits=splits, epochs=epochs or self.epochs)


def shuffled(split: Split, n: int | None = None, seed: int = 0) -> Split:
    """A random order of a split, or its first n in that order."""
    order = torch.randperm(len(split[0]), generator=torch.Generator().manual_seed(seed))[:n]
    return split[0][order], split[1][order]


def unseen(splits: dict[str, list[tuple[str, float]]]) -> dict[str, list[tuple[str, float]]]:
    """Sequences of each split that no later split has, on either strand; and none twice in a split."""
    seen: set[str] = set()
    kept: dict[str, list[tuple[str, float]]] = {}
    for name in ("test", "validation", "train"):
        rows = {sequence: (sequence, y) for sequence, y in splits[name] if sequence not in seen}
        kept[name] = [*rows.values()]
        seen |= {s for sequence in rows for s in (sequence, mirror(sequence))}
    return kept


def mirror(sequence: str) -> str:
    """The reverse complement of a string."""
    return sequence.translate(str.maketrans("ACGT", "TGCA"))[::-1]


def tensors(splits: dict[str, list[tuple[str, float]]]) -> dict[str, Split]:
    """One-hot sequences and labels; regression labels keep their units."""
    found = {}
    for name in ("train", "validation", "test"):
        sequences, values = zip(*splits[name], strict=True)
        found[name] = one_hot(list(sequences)), torch.tensor(values)
    return found


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a gzipped table with tabs."""
    with gzip.open(path, "rt", encoding="ascii") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def ctcf(folder: Path, n: int | None, epochs: int) -> Task:
    """CTCF peaks and dinucleotide-shuffled controls (see train_ctcf.py), with the first n of a random order."""
    splits = dict(read_ctcf(folder / "ctcf_101bp.tsv.gz"))
    splits["train"] = shuffled(splits["train"], n)
    return Task(f"CTCF, {n or len(splits['train'][0]):,}", "binary", epochs, splits)


def dream(path: Path, label: str, name: str, core: slice, symmetric: bool) -> Task:
    """A regression set with splits of its own; sequences are told apart by their core."""
    names = {"train": "train", "val": "validation", "test": "test"}
    splits: dict[str, list[tuple[str, float]]] = {"train": [], "validation": [], "test": []}
    whole = {}
    for row in table(path):
        inner = row["sequence"][core]
        whole[inner] = row["sequence"]
        splits[names[row["split"]]].append((inner, float(row[label])))
    kept = {name: [(whole[s], y) for s, y in rows] for name, rows in unseen(splits).items()}
    return Task(name, "regression", 40, tensors(kept), symmetric)


def starr(folder: Path) -> Task:
    """Drosophila STARR-seq (de Almeida et al. 2022): developmental enhancer activity of 249 bp."""
    return dream(folder / "starr_249bp.tsv.gz", "dev_log2", "STARR-seq", slice(None), symmetric=True)


def mpra(folder: Path) -> Task:
    """Human MPRA (Agarwal et al. 2025): activity of 200 bp between fixed adapters of 15 bp."""
    return dream(folder / "mpra_230bp.tsv.gz", "log2_activity", "MPRA", slice(15, -15), symmetric=False)


def yeast(folder: Path) -> Task:
    """Random yeast promoters (Vaishnav et al. 2022): expression, of the 5,219 sequences of 110 bp. Strands differ."""
    rows = [(r["sequence"], float(r["expression"])) for r in table(folder / "yeast_110bp.tsv.gz")]
    rows = [row for row in rows if len(row[0]) == 110]
    order = np.random.default_rng(0).permutation(len(rows))
    cut = {"train": order[:3719], "validation": order[3719:4219], "test": order[4219:]}
    splits = {name: [rows[i] for i in where] for name, where in cut.items()}
    return Task("Yeast promoters", "regression", 25, tensors(unseen(splits)), symmetric=False)


def janggu_folder(folder: Path) -> Path:
    """Where `janggu` keeps its examples: the installed package, or its wheel unpacked into the data folder."""
    spec = importlib.util.find_spec("janggu")
    root = Path(spec.origin).parent if spec and spec.origin else folder / "janggu"
    return root / "resources"


def fasta(path: Path) -> list[str]:
    """The sequences of a FASTA file, in upper case."""
    entries = path.read_text(encoding="ascii").split(">")[1:]
    return ["".join(entry.split("\n")[1:]).upper() for entry in entries]


def oct4_mafk(folder: Path) -> Task:
    """Oct4 peaks (label 1) against Mafk peaks (label 0), 200 bp; the files' own 200 test sequences are few.

    So a fifth of the other sequences is added to the test split, and a tenth of them validates.
    """
    resources = janggu_folder(folder)
    files = {"train": ("sample.fa", "sample2.fa"), "test": ("sample_test.fa", "sample2_test.fa")}
    found = {
        split: [(s, y) for name, y in zip(names, (1.0, 0.0), strict=True) for s in fasta(resources / name)]
        for split, names in files.items()
    }
    rows = [row for row in found["train"] if len(row[0]) == 200]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    fifth, tenth = len(rows) // 5, len(rows) // 10
    found["test"] = [row for row in found["test"] if len(row[0]) == 200] + rows[:fifth]
    found["validation"], found["train"] = rows[fifth : fifth + tenth], rows[fifth + tenth :]
    return Task("Oct4 or Mafk", "binary", 15, tensors(unseen(found)))


def simulated(
    name: str, make: Callable[..., simulate.Simulated], length: int, kind: str, symmetric: bool, epochs: int = 25
) -> Task:
    """4,000 sequences for training, 1,000 for validation and 3,000 for testing."""
    sizes = {"train": 4000, "validation": 1000, "test": 3000}
    splits = {}
    for seed, (split, n) in enumerate(sizes.items()):
        found = make(n, length, seed)
        x = (found.letters[:, None] == np.arange(4)[:, None]).astype(np.uint8)
        splits[split] = torch.from_numpy(x), torch.from_numpy(found.labels).float()
    return Task(name, kind, epochs, splits, symmetric)


LONG_MOTIFS = partial(simulate.binding, motifs=("Spi1", "Pou5f1::Sox2") * 2)
"""More instances of motifs with more information, for longer sequences."""

TASKS: dict[str, Callable[[Path], Task]] = {
    "ctcf-4000": lambda folder: ctcf(folder, 4000, 25),
    "ctcf-1000": lambda folder: ctcf(folder, 1000, 40),
    "ctcf-14134": lambda folder: ctcf(folder, None, 10),
    "starr": starr,
    "oct4-mafk": oct4_mafk,
    "simulated-200": lambda _: simulated("Simulated, 200 bp", simulate.binding, 200, "binary", True),
    "simulated-1000": lambda _: simulated("Simulated, 1,000 bp", LONG_MOTIFS, 1000, "binary", True, 15),
    "profile": lambda _: simulated("Simulated profiles", simulate.profiles, 300, "profile", True),
    "yeast": yeast,
    "mpra": mpra,
    "one-strand": lambda _: simulated("Simulated, one strand", simulate.one_strand, 100, "binary", False),
}
"""The data sets by their names on the command line; the most telling first."""


@cache
def load(name: str, folder: Path) -> Task:
    """A data set.

    Raises: FileNotFoundError: its file is not in the folder.
    """
    return TASKS[name](folder)
