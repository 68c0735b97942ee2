"""From a trained network to an equivariant one without losing what it learned: CTCF peaks.

A small Basset-like network is trained as it is, for a few epochs. Then it is converted in each way and
fine-tuned, all with the same batches, dropout and a new optimiser. `plain` goes on as it was; it is scored on
one strand, and on both (the mean of two logits, post-hoc). At conversion, `conjoined` and `mixed` must give
exactly the mean of the trained network's two readings, which is checked in float32 on the test sequences.
The data and its splits are those of train_ctcf.py. The scores are of the last epoch, in float64.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import SmallBasset
from torch import Tensor, nn
from train_ctcf import Run, auroc, read, scores

from rcps_convert import convert_model, reverse_complement

EXAMPLE = torch.zeros(2, 4, 101)
WAYS: dict[str, dict[str, Any]] = {
    "tied": {"init": "project"},
    "conjoined": {"strategy": "conjoined"},
    "mixed": {"strategy": "mixed"},
}


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """In float32, eval mode, the model left as it is."""
    with torch.no_grad():
        return torch.cat([copy.deepcopy(model).eval()(part.float()) for part in x.split(512)])


def deviation(model: nn.Module, trained: nn.Module, x: Tensor) -> float:
    """Largest difference from the mean of the trained network's two readings, relative to the largest logit."""
    mean = (logits(trained, x) + logits(trained, reverse_complement(x))) / 2
    return float((logits(model, x) - mean).abs().max() / mean.abs().max())


def convert(trained: nn.Module, rate: float) -> dict[str, Run]:
    """The networks to fine-tune."""
    runs = {"plain": Run("plain", copy.deepcopy(trained), rate=rate)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tying changes a trained network is what is measured here
        for name, how in WAYS.items():
            runs[name] = Run(name, convert_model(trained, EXAMPLE, **how), rate=rate)
    return runs


def score(name: str, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """The auROC of a network; of the plain one also read on both strands."""
    forward = scores(model, x)
    if name != "plain":
        return {name: auroc(forward, y)}
    both = (forward + scores(model, reverse_complement(x))) / 2
    return {"plain": auroc(forward, y), "plain, both strands": auroc(both, y)}


def one_seed(data: dict[str, tuple[Tensor, Tensor]], args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train, convert, fine-tune; figures of one seed."""
    torch.manual_seed(seed)
    start = Run("plain", SmallBasset(args.width))
    for epoch in range(args.epochs):
        start.epoch(*data["train"], seed=1000 * seed + 10 * epoch)
    runs = convert(start.model, args.rate)
    x, y = data["test"]
    found: dict[str, Any] = {
        "seed": seed,
        "deviation": {name: deviation(runs[name].model, start.model, x) for name in ("conjoined", "mixed")},
        "parameters": {name: sum(p.numel() for p in run.model.parameters()) for name, run in runs.items()},
        "at conversion": {}, "fine-tuned": {},
    }  # fmt: skip
    for name, run in runs.items():
        found["at conversion"] |= score(name, run.model, x, y)
    for epoch in range(args.tune):
        for run in runs.values() if epoch % 2 else reversed(runs.values()):
            run.epoch(*data["train"], seed=1000 * seed + 10 * (args.epochs + epoch))
    for name, run in runs.items():
        found["fine-tuned"] |= score(name, run.model, x, y)
    found["seconds"] = {name: float(np.median(run.seconds)) for name, run in runs.items()}
    print(f"seed {seed}: {found['fine-tuned']}", file=sys.stderr)
    return found


def report(found: list[dict[str, Any]]) -> str:
    """The figures as a table: means over seeds."""
    lines = [f"{'':<20} {'parameters':>10} {'at conversion':>14} {'fine-tuned':>11} {'sd':>7} {'time':>6}"]
    for name in found[0]["fine-tuned"]:
        before = np.array([f["at conversion"][name] for f in found])
        after = np.array([f["fine-tuned"][name] for f in found])
        spread = f"{after.std(ddof=1):.4f}" if len(found) > 1 else "-"
        key = name.partition(",")[0]
        time = np.median([f["seconds"][key] / f["seconds"]["plain"] for f in found])
        row = f"{name:<20} {found[0]['parameters'][key]:>10,} {before.mean():>14.5f} {after.mean():>11.5f}"
        lines.append(f"{row} {spread:>7} {time:>6.2f}")
    for name in ("conjoined", "mixed"):
        worst = max(f["deviation"][name] for f in found)
        lines.append(f"at conversion, {name} differs from the mean of the two readings by {worst:.1e} of the largest")
    gains = [f["fine-tuned"]["mixed"] - f["fine-tuned"]["conjoined"] for f in found]
    lines.append("fine-tuned, mixed - conjoined by seed: " + ", ".join(f"{g:+.5f}" for g in gains))
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="gzipped table: chrom, start, end, label, sequence")
    p.add_argument("--epochs", type=int, default=3, help="of training before the conversion")
    p.add_argument("--tune", type=int, default=2, help="epochs of fine-tuning after it")
    p.add_argument("--rate", type=float, default=1e-3, help="learning rate of the fine-tuning")
    p.add_argument("--seed", type=int, default=0, help="of initial weights, batches and dropout")
    p.add_argument("--repeats", type=int, default=3, help="this many seeds, from --seed on")
    p.add_argument("--width", type=int, default=32, help="filters of each convolution")
    p.add_argument("--limit", type=int, help="number of training sequences")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--json", type=Path, help="write the figures to this file too")
    args = p.parse_args(argv)
    if not args.data.is_file():
        p.error(f"--data: there is no file {args.data}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    data = read(args.data)
    if args.limit:
        shuffled = torch.randperm(len(data["train"][0]), generator=torch.Generator().manual_seed(0))[: args.limit]
        data["train"] = (data["train"][0][shuffled], data["train"][1][shuffled])
    sizes = f"{len(data['train'][0]):,} train, {len(data['test'][0]):,} test sequences"
    print(f"{sizes}; width {args.width}, {args.epochs} epochs, then {args.tune} of fine-tuning, {args.repeats} seed(s)")
    found = [one_seed(data, args, seed) for seed in range(args.seed, args.seed + args.repeats)]
    print(report(found))
    if args.json:
        args.json.write_text(json.dumps({"settings": vars(args), "seeds": found}, default=str, indent=1) + "\n")


if __name__ == "__main__":
    main()
