"""What a conversion costs: train step, baked inference, and the conversion itself.

Two networks take turns in one process, in an order that alternates, after a warm-up. Each round gives one
ratio of CPU times (so other work on the machine does not count); printed are the median and the quartiles.
`plain / plain` is the same measurement with two copies of the plain network: what it shows beside 1 is noise.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from models import Basset, BPNet
from torch import Tensor, nn

from rcps_convert import bake, convert_model

Loss = Callable[[Any], Tensor]


@dataclass
class Case:
    """A network, what it is called with and trained on."""

    name: str
    model: nn.Module
    inputs: tuple[Tensor, ...]
    loss: Loss
    spec: dict[str, Any]

    def convert(self) -> nn.Module:
        """The converted network, verified."""
        return convert_model(self.model, tuple(x[:2] for x in self.inputs), **self.spec)


def dna(n: int, length: int) -> Tensor:
    """Random one-hot sequences, (n, 4, length)."""
    return F.one_hot(torch.randint(4, (n, length)), 4).transpose(1, 2).float().contiguous()


def basset(n: int, quick: bool) -> Case:
    """Basset's form: 300 filters, 600 bp, 164 binary labels."""
    model = Basset(48, 100) if quick else Basset()
    labels = torch.randint(2, (n, 164)).float()
    return Case("Basset-like", model, (dna(n, 600),), lambda y: F.binary_cross_entropy_with_logits(y, labels), {})


def bpnet(n: int, quick: bool) -> Case:
    """BPNet's form: 64 filters, 8 dilated layers, 1,000 bp, stranded profile, counts and control."""
    length = 200 if quick else 1000
    model = BPNet(16, 4) if quick else BPNet()
    reads = torch.poisson(torch.full((n, 2, length), 0.2))
    totals = torch.log1p(reads.sum(-1))

    def loss(y: Any) -> Tensor:
        profile, counts = y
        nll = -(reads * F.log_softmax(profile, dim=-1)).sum(-1).mean()
        return nll + F.mse_loss(counts, totals)

    spec = {"inputs": ("ACGT", "+-"), "outputs": ("+-", "+-")}
    return Case("BPNet-like", model, (dna(n, length), torch.poisson(torch.full((n, 2, length), 0.2))), loss, spec)


def train_step(model: nn.Module, case: Case) -> Callable[[], None]:
    """Forward, loss, backward and an Adam step."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        loss = case.loss(model(*case.inputs))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def inference(model: nn.Module, case: Case) -> Callable[[], None]:
    """Forward in eval mode."""
    model.eval()

    def step() -> None:
        with torch.no_grad():
            model(*case.inputs)

    return step


def seconds(step: Callable[[], None], calls: int) -> float:
    """CPU time of some calls."""
    start = time.process_time()
    for _ in range(calls):
        step()
    return time.process_time() - start


def ratios(changed: Callable[[], None], plain: Callable[[], None], rounds: int, calls: int) -> np.ndarray:
    """Time of one step over that of the other, one ratio per round; the order alternates."""
    for step in (plain, changed, plain, changed):
        step()
    found = []
    gc.disable()
    for i in range(rounds):
        pair = (plain, changed) if i % 2 else (changed, plain)
        times = {step: seconds(step, calls) for step in pair}
        found.append(times[changed] / times[plain])
    gc.enable()
    return np.array(found)


def measure(case: Case, rounds: int, calls: int) -> tuple[dict[str, np.ndarray], float]:
    """Ratios of train steps and inference; CPU seconds of the conversion."""
    start = time.process_time()
    converted = case.convert()
    taken = time.process_time() - start
    plain, other = copy.deepcopy(case.model), copy.deepcopy(case.model)
    step = train_step(plain, case)
    found = {
        "train step, plain / plain": ratios(train_step(other, case), step, rounds, calls),
        "train step, converted / plain": ratios(train_step(converted, case), step, rounds, calls),
    }
    baked, run = bake(converted), inference(plain, case)
    found["inference, plain / plain"] = ratios(inference(other, case), run, rounds, calls)
    found["inference, converted / plain"] = ratios(inference(converted, case), run, rounds, calls)
    found["inference, baked / plain"] = ratios(inference(baked, case), run, rounds, calls)
    return found, taken


def quartiles(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high), "rounds": len(values)}


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=40, help="ratios per line")
    p.add_argument("--calls", type=int, default=1, help="steps per turn")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--quick", action="store_true", help="small networks, few rounds: to see that it runs")
    p.add_argument("--json", type=Path, help="write the figures to this file too")
    args = p.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rounds, batch = (4, 4) if args.quick else (args.rounds, args.batch)
    report: dict[str, Any] = {}
    for make in (basset, bpnet):
        case = make(batch, args.quick)
        found, taken = measure(case, rounds, args.calls)
        report[case.name] = {"conversion_seconds": taken, **{name: quartiles(v) for name, v in found.items()}}
        shapes = ", ".join(str(tuple(x.shape)) for x in case.inputs)
        print(f"{case.name}, {shapes}, {rounds} rounds; conversion with verification {taken:.1f} CPU seconds")
        for name in found:
            q = report[case.name][name]
            print(f"  {name:<30} {q['median']:.3f}  (quartiles {q['low']:.3f} to {q['high']:.3f})")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
