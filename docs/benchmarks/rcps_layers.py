"""The function of rcps-pytorch's layers computed in three ways: time of a train step and peak memory.

The network is that of rcps-pytorch's README: input layer, RCPS layer, batch norm, RCPS layer to 3 kernels,
batch norm, output. It is made of the layers of rcps-pytorch 0.0.2; of the drop-in layers of
`rcps_convert.layers`; and as a plain network converted with `strategy="conjoined"`. All three compute the same
numbers, which is checked first. They take turns in one process, in an order that rotates; each round gives a
ratio of CPU times (so other work on the machine does not count). Peak memory is that of a process of its own:
its largest resident set during train steps, less what it had after a step on one short sequence.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rcps
import torch
from speed import dna, quartiles, seconds
from torch import Tensor, nn

from rcps_convert import convert_model, layers

CHANNELS = (64, 128, 256)
NAMES = ("rcps-pytorch", "drop-in layers", "conjoined")


def of_layers(kit: Any, channels: int, kernel: int) -> nn.Module:
    """The network of rcps-pytorch's README, at a width."""
    return nn.Sequential(
        kit.RCPSInput(out_kernels=channels, kernel_size=kernel, padding="same"),
        kit.RCPS(channels, channels, kernel, padding="same"),
        kit.RCPSBatchNorm(channels),
        kit.RCPS(channels, 3, kernel, padding="same"),
        kit.RCPSBatchNorm(3),
        kit.RCPSOutput(),
    )


def plain(channels: int, kernel: int) -> nn.Module:
    """The same network of stock layers, one strand."""
    return nn.Sequential(
        nn.Conv1d(4, channels, kernel, padding="same", bias=False),
        nn.Conv1d(channels, channels, kernel, padding="same", bias=False),
        nn.BatchNorm1d(channels),
        nn.Conv1d(channels, 3, kernel, padding="same", bias=False),
        nn.BatchNorm1d(3),
    )


def build(name: str, channels: int, kernel: int, length: int) -> nn.Module:
    """One of the networks, with the same weights under each name."""
    torch.manual_seed(0)
    start = of_layers(rcps, channels, kernel)
    if name == "rcps-pytorch":
        return start
    if name == "drop-in layers":
        model = of_layers(layers, channels, kernel)
        model.load_state_dict(start.state_dict())
        return model
    model = plain(channels, kernel)
    renamed = {k.replace("weights", "weight").replace("batch_norm.", ""): v for k, v in start.state_dict().items()}
    model.load_state_dict(renamed)
    how = {"strategy": "conjoined", "merge": "sum", "outputs": "invariant", "verify": False}
    return convert_model(model, torch.zeros(2, 4, length), **how)


def train_step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Forward, loss, backward and an SGD step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    model.train()

    def step() -> None:
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def ratios(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, np.ndarray]:
    """Time of each step over that of the first, one ratio per round."""
    names = list(steps)
    for step in (*steps.values(), *steps.values()):
        step()
    found: dict[str, list[float]] = {name: [] for name in names[1:]}
    gc.disable()
    for i in range(rounds):
        order = names[i % len(names) :] + names[: i % len(names)]
        times = {name: seconds(steps[name], 1) for name in order}
        for name in names[1:]:
            found[name].append(times[name] / times[names[0]])
    gc.enable()
    return {name: np.array(values) for name, values in found.items()}


def largest_difference(models: dict[str, nn.Module], x: Tensor) -> float:
    """Between the networks' results in train mode, relative to the largest result."""
    with torch.no_grad():
        first, *others = (m.train()(x) for m in models.values())
    return max(float((y - first).abs().max() / first.abs().max()) for y in others)


def resident(field: str) -> float:
    """Of this process, in MiB: ``VmRSS``, its resident set, or ``VmHWM``, the largest it had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def peak_here(name: str, channels: int, size: argparse.Namespace) -> float:
    """Peak memory of train steps in this process, in MiB, less what it holds after a step on one short sequence."""
    model = build(name, channels, size.kernel, size.length)
    train_step(model, dna(1, 64))()
    step = train_step(model, dna(size.batch, size.length))
    gc.collect()
    before = resident("VmRSS")
    for _ in range(3):
        step()
    return resident("VmHWM") - before


def peak(name: str, channels: int, size: argparse.Namespace) -> float:
    """`peak_here`, in a process of its own."""
    sizes = ["--kernel", size.kernel, "--length", size.length, "--batch", size.batch, "--threads", size.threads]
    command = [sys.executable, __file__, "--peak-of", name, "--channels", channels, *sizes]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return float(done.stdout)


def parse(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--channels", type=int, nargs="+", default=list(CHANNELS), help="kernels of the first two layers")
    p.add_argument("--kernel", type=int, default=3, help="positions of a kernel")
    p.add_argument("--length", type=int, default=500, help="bp")
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--rounds", type=int, default=20)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--peak-of", choices=NAMES, help="print the peak memory of one network and stop")
    p.add_argument("--json", type=Path, help="write the figures to this file too")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(peak_here(args.peak_of, args.channels[0], args))
        return
    print(f"kernels of {args.kernel} positions, batches of ({args.batch}, 4, {args.length}), {args.rounds} rounds")
    figures: dict[str, Any] = {}
    for channels in args.channels:
        x = dna(args.batch, args.length)
        models = {name: build(name, channels, args.kernel, args.length) for name in NAMES}
        difference = largest_difference(models, x)
        steps = {name: train_step(model, x) for name, model in models.items()}
        times = {name: quartiles(values) for name, values in ratios(steps, args.rounds).items()}
        memory = {name: peak(name, channels, args) for name in NAMES}
        figures[str(channels)] = {"difference": difference, "times": times, "memory": memory}
        print(f"{channels} channels; results differ by {difference:.0e} of the largest; peak of rcps-pytorch ", end="")
        print(f"{memory['rcps-pytorch']:.0f} MiB")
        for name, found in times.items():
            spread = f"(quartiles {found['low']:.3f} to {found['high']:.3f})"
            share = memory[name] / memory["rcps-pytorch"]
            print(f"  {name:<14}  train step {found['median']:.3f} x {spread}  peak memory {share:.2f} x")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
