"""What people wait for: planning a conversion with verification, and one sequence at a time through a small network.

CPU seconds of this process, after a first conversion that pays for what torch loads on demand. The second part times
one forward pass in eval mode at batch 1, at a length that every pool divides; networks take turns, ratios are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from models import Basset, BPNet, SmallBasset
from torch import Tensor, nn

from rcps_convert import bake, convert_model, plan_conversion


def tower(layers: int, width: int, pool: int, kernel: int = 5) -> nn.Sequential:
    """Convolutions with norms and, where they have more than one position, pools; the mean; one linear layer."""
    steps: list[nn.Module] = []
    for i in range(layers):
        conv = nn.Conv1d(width if i else 4, width, kernel, padding=kernel // 2)
        steps += [conv, nn.BatchNorm1d(width), nn.ReLU(), *([nn.MaxPool1d(pool)] if pool > 1 else [])]
    return nn.Sequential(*steps, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 10))


def cases(quick: bool) -> list[tuple[str, nn.Module, tuple[Tensor, ...], dict[str, Any]]]:
    """Name, network, example and specs."""
    stranded = {"inputs": ("ACGT", "+-"), "outputs": ("+-", "+-")}
    if quick:
        return [("Two convolutions", tower(2, 8, 2), (torch.zeros(2, 4, 64),), {})]
    return [
        ("Two convolutions, 200 bp", tower(2, 16, 2), (torch.zeros(2, 4, 200),), {}),
        ("Basset-like, 600 bp", Basset(), (torch.zeros(2, 4, 600),), {}),
        ("BPNet-like, 2,114 bp", BPNet(), (torch.zeros(2, 4, 2114), torch.zeros(2, 2, 2114)), stranded),
        ("5 convolutions, 131,072 bp", tower(5, 32, 4), (torch.zeros(1, 4, 131072),), {}),
        ("100 convolutions, 200 bp", tower(100, 16, 1, 3), (torch.zeros(2, 4, 200),), {}),
    ]


def planning(model: nn.Module, example: tuple[Tensor, ...], spec: dict[str, Any]) -> float:
    """CPU seconds of one plan."""
    start = time.process_time()
    plan = plan_conversion(model, example, progress=False, **spec)
    assert not plan.problems
    return time.process_time() - start


def forward_times(models: dict[str, nn.Module], x: Tensor, rounds: int, calls: int) -> dict[str, float]:
    """Median ratio to the first network of CPU times of some calls."""

    def seconds(model: Callable[[Tensor], Any]) -> float:
        start = time.process_time()
        for _ in range(calls):
            model(x)
        return time.process_time() - start

    with torch.no_grad():
        for model in models.values():
            seconds(model.eval())
        found = [{name: seconds(model) for name, model in models.items()} for _ in range(rounds)]
    first = next(iter(models))
    return {name: statistics.median(times[name] / times[first] for times in found) for name in models}


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--repeats", type=int, default=3, help="plans per network")
    p.add_argument("--rounds", type=int, default=40, help="ratios of forward passes")
    p.add_argument("--quick", action="store_true", help="one small network, few rounds: to see that it runs")
    p.add_argument("--json", type=Path, help="write the figures to this file too")
    args = p.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    planning(tower(1, 4, 2), (torch.zeros(2, 4, 16),), {})
    report: dict[str, Any] = {"planning": {}}
    for name, model, example, spec in cases(args.quick):
        taken = [planning(model, example, spec) for _ in range(1 if args.quick else args.repeats)]
        report["planning"][name] = statistics.median(taken)
        size = sum(q.numel() for q in model.parameters())
        print(f"{name:<28} {size:>9,} parameters  {statistics.median(taken):5.2f} CPU seconds", flush=True)
    plain = SmallBasset()
    converted = convert_model(plain, torch.zeros(2, 4, 101), progress=False)
    models = {"plain": plain, "converted": converted, "baked": bake(converted), "baked for 101 bp": None}
    models["baked for 101 bp"] = bake(converted, length=101)
    rounds, calls = (3, 5) if args.quick else (args.rounds, 50)
    report["forward"] = forward_times(models, torch.randn(1, 4, 101), rounds, calls)
    for name in list(models)[1:]:
        print(f"three pooled layers, 101 bp, batch 1: {name} / plain  {report['forward'][name]:.3f}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
