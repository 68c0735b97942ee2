"""What re-anchoring costs: train steps at lengths that divide and at lengths that leave a remainder.

The networks take turns in one process, as in `speed.py`: each round gives one ratio of CPU times to the plain
network at the same length; printed are the median and the quartiles. The converted network has been converted
once, at a length that divides.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from speed import Case, dna, quartiles, ratios, train_step
from torch import Tensor, nn

from rcps_convert import convert_model, plan_conversion


class DeepSEA(nn.Module):
    """A network of DeepSEA's form (Zhou & Troyanskaya 2015), pooled at the end: (N, 4, L) -> (N, 919) logits."""

    def __init__(self, filters: int = 320) -> None:
        super().__init__()
        widths = (4, filters, filters * 3 // 2, filters * 3)
        self.a, self.b, self.c = (nn.Conv1d(m, n, 8) for m, n in itertools.pairwise(widths))
        self.pool, self.out = nn.MaxPool1d(4), nn.Linear(widths[3], 919)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, 919)."""
        h = self.pool(F.relu(self.a(x)))
        h = self.pool(F.relu(self.b(h)))
        return self.out(F.relu(self.c(h)).amax(-1))


class Block(nn.Module):
    """A basic residual block of a ResNet."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv1d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
        self.b = nn.Conv1d(c_out, c_out, 3, padding=1, bias=False)
        self.norm_a, self.norm_b, self.norm_skip = (nn.BatchNorm1d(c_out) for _ in range(3))
        self.skip = nn.Conv1d(c_in, c_out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, L) -> (N, C', L / stride)."""
        h = F.relu(self.norm_a(self.a(x)))
        return F.relu(self.norm_b(self.b(h)) + self.norm_skip(self.skip(x)))


class ResNet(nn.Module):
    """A ResNet for sequences: a stem of stride 2, an overlapping pool, blocks of stride 2. (N, 4, L) -> (N, 10)."""

    def __init__(self, filters: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, filters, 15, stride=2, padding=7, bias=False)
        self.norm, self.pool = nn.BatchNorm1d(filters), nn.MaxPool1d(3, 2, padding=1)
        widths = [filters, filters, 2 * filters, 4 * filters]
        self.blocks = nn.Sequential(*(Block(m, n, 2) for m, n in itertools.pairwise(widths)))
        self.out = nn.Linear(4 * filters, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, 10)."""
        h = self.pool(F.relu(self.norm(self.stem(x))))
        return self.out(self.blocks(h).mean(-1))


def case(name: str, model: nn.Module, n: int, length: int) -> Case:
    """A network at a length, with labels."""
    x = dna(n, length)
    labels = torch.randint(2, tuple(model(x[:2]).shape)).float()[:1].expand(n, -1)
    return Case(name, model, (x,), lambda y: F.binary_cross_entropy_with_logits(y, labels), {})


def lengths_of(model: nn.Module, near: int) -> tuple[int, int]:
    """The nearest length at which nothing needs re-anchoring, and one at which as many calls as possible do."""
    plan = plan_conversion(model, torch.zeros(2, 4, near), verify=False)
    aligned = min(plan.valid_lengths(near - 64, near + 64), key=lambda n: abs(n - near))

    def broken(length: int) -> int:
        calls = plan_conversion(model, torch.zeros(2, 4, length), verify=False).calls
        return sum(not call.aligned for call in calls)

    return aligned, max(range(aligned + 1, aligned + 9), key=broken)


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=12, help="ratios per line")
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--quick", action="store_true", help="small networks, few rounds: to see that it runs")
    p.add_argument("--json", type=Path, help="write the figures to this file too")
    args = p.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rounds, batch, width, near = (4, 4, 16, 200) if args.quick else (args.rounds, args.batch, None, 1000)
    report: dict[str, Any] = {}
    for kind, default in ((DeepSEA, 320), (ResNet, 64)):
        model = kind(width or default)
        lengths = lengths_of(model, near)
        converted = convert_model(model, torch.zeros(2, 4, lengths[0]), verify=False)
        print(f"{kind.__name__}-like, batch of {batch}, {rounds} rounds")
        for word, length in zip(("aligned", "misaligned"), lengths, strict=True):
            here = case(kind.__name__, model, batch, length)
            plain, other = copy.deepcopy(model), copy.deepcopy(model)
            step = train_step(plain, here)
            for name, changed in (("plain", other), ("converted", copy.deepcopy(converted))):
                found = quartiles(ratios(train_step(changed, here), step, rounds, 1))
                line = f"train step at {length} ({word}), {name} / plain"
                report[f"{kind.__name__}, {line}"] = found
                print(f"  {line:<52} {found['median']:.3f}  (quartiles {found['low']:.3f} to {found['high']:.3f})")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
