"""Train a small Basset-like network on CTCF peaks: as it is, with augmented data, and converted.

The file is a gzipped table with the columns chrom, start, end, label, sequence. Test: chr1, chr8, chr21;
validation: chr2, chr16; training: the rest. All networks see the same batches in the same order and the
same dropout, one epoch after the other in turns; the epoch with the best validation auROC is tested.
Seconds are CPU seconds, so other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import copy
import csv
import gzip
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import SmallBasset
from torch import Tensor, nn

from rcps_convert import ReverseComplementAugment, convert_model, reverse_complement

SPLITS = {"test": {"chr1", "chr8", "chr21"}, "validation": {"chr2", "chr16"}}
BATCH = 64


def read(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """One-hot sequences, uint8 of shape (n, 4, 101), and labels of each split."""
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    with gzip.open(path, "rt", encoding="ascii") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            split = next((name for name, chroms in SPLITS.items() if row["chrom"] in chroms), "train")
            rows[split].append((row["sequence"], row["label"]))
    return {name: (one_hot([s for s, _ in r]), torch.tensor([float(y) for _, y in r])) for name, r in rows.items()}


def one_hot(sequences: list[str]) -> Tensor:
    """Base order ACGT, any other letter all zero; uint8, shape (n, 4, L)."""
    letters = np.frombuffer("".join(sequences).upper().encode("ascii"), dtype=np.uint8).reshape(len(sequences), -1)
    return torch.from_numpy(np.stack([letters == ord(base) for base in "ACGT"], axis=1).astype(np.uint8))


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve: the Mann-Whitney statistic, ties counted half."""
    _, inverse, counts = np.unique(scores.numpy(), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positive = labels.numpy() == 1
    n = int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(ranks) - n)))


def scores(model: nn.Module, x: Tensor) -> Tensor:
    """Logits in float64, eval mode."""
    exact = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        return torch.cat([exact(part.double()) for part in x.split(512)])


@dataclass
class Run:
    """A network in training.

    Attributes:
        augmented: whether half of the sequences of each epoch are shown as their reverse complement.
        rate: learning rate.
        best: highest validation auROC so far, its epoch and the state_dict then.
    """

    name: str
    model: nn.Module
    augmented: bool = False
    rate: float = 2e-3
    seconds: list[float] = field(default_factory=list)
    best: tuple[float, int, dict[str, Tensor]] = (-1.0, 0, {})

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.rate, weight_decay=1e-5)

    def epoch(self, x: Tensor, y: Tensor, seed: int) -> None:
        """One pass over the training sequences."""
        torch.manual_seed(seed)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        self.model.train()
        start = time.process_time()
        if self.augmented:
            x, y = ReverseComplementAugment(seed=seed + 1)(x, y)
        for index in order[: len(order) // BATCH * BATCH].split(BATCH):
            loss = nn.functional.binary_cross_entropy_with_logits(self.model(x[index].float()), y[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.seconds.append(time.process_time() - start)

    def validate(self, x: Tensor, y: Tensor, epoch: int) -> float:
        """The auROC on the validation sequences; the best state is kept."""
        value = auroc(scores(self.model, x), y)
        if value > self.best[0]:
            self.best = (value, epoch, copy.deepcopy(self.model.state_dict()))
        return value

    def test(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """Figures of the best epoch on the test sequences."""
        self.model.load_state_dict(self.best[2])
        forward, reverse = scores(self.model, x), scores(self.model, reverse_complement(x))
        return {
            "auroc_x": auroc(forward, y),
            "auroc_rc": auroc(reverse, y),
            "auroc_both": auroc((forward + reverse) / 2, y),
            "max_difference": float((forward - reverse).abs().max()),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "validation_auroc": self.best[0],
            "best_epoch": self.best[1],
            "seconds_per_epoch": float(np.median(self.seconds)),
        }


def make_runs(names: list[str], width: int, seed: int) -> list[Run]:
    """The networks to train, all from the same initial weights."""
    torch.manual_seed(seed)
    start = SmallBasset(width)
    runs = []
    for name in names:
        model = convert_model(start, torch.zeros(2, 4, 101)) if name == "converted" else copy.deepcopy(start)
        runs.append(Run(name, model, augmented=name == "augmented"))
    return runs


def train(runs: list[Run], data: dict[str, tuple[Tensor, Tensor]], epochs: int, seed: int) -> None:
    """Train all networks, epoch by epoch in turns, in an order that alternates."""
    for epoch in range(1, epochs + 1):
        for run in runs if epoch % 2 else reversed(runs):
            run.epoch(*data["train"], seed=1000 * seed + 10 * epoch)
        values = ", ".join(f"{run.name} {run.validate(*data['validation'], epoch=epoch):.4f}" for run in runs)
        print(f"epoch {epoch}: validation auROC {values}", file=sys.stderr)


def report(figures: dict[str, list[dict[str, Any]]]) -> str:
    """The figures as a table: means over seeds, the largest difference, the standard deviation of auROC."""
    head = f"{'':<10} {'parameters':>10} {'auROC x':>10} {'auROC rc':>10} {'both strands':>12} {'sd of x':>8}"
    lines = [f"{head} {'max |f(x)-f(rc x)|':>19}"]
    for name, found in figures.items():
        x, rc, both = (np.array([f[key] for f in found]) for key in ("auroc_x", "auroc_rc", "auroc_both"))
        spread = f"{x.std(ddof=1):.4f}" if len(x) > 1 else "-"
        row = f"{name:<10} {found[0]['parameters']:>10,} {x.mean():>10.6f} {rc.mean():>10.6f} {both.mean():>12.6f}"
        lines.append(f"{row} {spread:>8} {max(f['max_difference'] for f in found):>19.1e}")
    if "plain" in figures:
        base, *_ = times = {n: np.median([f["seconds_per_epoch"] for f in found]) for n, found in figures.items()}
        others = [f"{n} / {base} {t / times[base]:.2f}" for n, t in times.items() if n != base]
        lines += [f"seconds per epoch: {', '.join(others)}"] if others else []
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="gzipped table: chrom, start, end, label, sequence")
    p.add_argument("--epochs", type=int, default=8)
    p.add_argument("--seed", type=int, default=0, help="of initial weights, batches and dropout")
    p.add_argument("--repeats", type=int, default=1, help="train with this many seeds, from --seed on")
    p.add_argument("--width", type=int, default=32, help="filters of each convolution")
    p.add_argument("--limit", type=int, help="number of training sequences")
    p.add_argument("--plain", action="store_true", help="train the network as it is")
    p.add_argument("--augment", action="store_true", help="train it with random reverse complements")
    p.add_argument("--convert", action="store_true", help="train the converted network")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--json", type=Path, help="write the figures to this file too")
    args = p.parse_args(argv)
    if not args.data.is_file():
        p.error(f"--data: there is no file {args.data}")
    chosen = {"plain": args.plain, "augmented": args.augment, "converted": args.convert}
    args.names = [name for name, wanted in chosen.items() if wanted] or ["plain", "converted"]
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    data = read(args.data)
    if args.limit:
        shuffled = torch.randperm(len(data["train"][0]), generator=torch.Generator().manual_seed(0))[: args.limit]
        data["train"] = (data["train"][0][shuffled], data["train"][1][shuffled])
    counts = ", ".join(f"{len(x):,} {name}" for name, (x, _) in data.items())
    print(f"{counts} sequences; width {args.width}, {args.epochs} epochs, {args.repeats} seed(s) from {args.seed}")
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in args.names}
    for seed in range(args.seed, args.seed + args.repeats):
        runs = make_runs(args.names, args.width, seed)
        train(runs, data, args.epochs, seed)
        for run in runs:
            figures[run.name].append({"seed": seed, **run.test(*data["test"])})
    print(report(figures))
    if args.json:
        args.json.write_text(json.dumps({"settings": vars(args), "models": figures}, default=str, indent=1) + "\n")


if __name__ == "__main__":
    main()
