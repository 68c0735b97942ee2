"""Time of a training step and of inference for each strategy of strategies.py, as a multiple of the plain network's.

The networks of a width take turns in one process, in an order that rotates; each round gives a ratio to the plain
network, and the median is kept. On a CPU these are ratios of CPU seconds, so other work on the machine does not count;
on a GPU of times until the device is idle, each operator launched by itself, or the whole step as a CUDA graph. Tied
networks are timed as they are trained and, for inference, baked.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simulate
import torch
from protocol import Learner, Steps, on_device
from tasks import Task, simulated
from torch import nn
from ways import WAYS, Way

from rcps_convert import bake

BATCH = 256
"""Sequences in one call of inference."""


def clock(device: str) -> float:
    """Seconds: of this process on a CPU, of the wall on a GPU once it is idle."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def took(run: Callable[[], object], device: str) -> float:
    """Seconds of one call."""
    start = clock(device)
    run()
    return clock(device) - start


def training(way: Way, model: nn.Module, task: Task, device: str, steps: int) -> Callable[[], None]:
    """Some training steps."""
    data = on_device(task, device)["train"]
    learner = Learner(model, data, task, 0, augmented=way.augmented, each=way.each, consistency=way.consistency)
    learner.model.train()
    runner = Steps([learner], way.captured)

    def run() -> None:
        learner.begin(1)
        runner.run(steps)

    return run


def inference(way: Way, model: nn.Module, task: Task, device: str, both: bool) -> Callable[[], None]:
    """One batch, read on one strand or on both."""
    model = bake(model) if way.halved == "all" else model
    model, x = model.to(device).eval(), task.splits["train"][0][:BATCH].float().to(device)

    def run() -> None:
        with torch.no_grad():
            model(x)
            if both:
                model(x.flip(1, 2))

    return run


def calls(task: Task, width: int, device: str, steps: int) -> dict[tuple[str, str], Callable[[], None]]:
    """What is timed, by strategy and by "training" or "inference"; double width under a name of its own."""
    found: dict[tuple[str, str], Callable[[], None]] = {}
    for name, way in WAYS.items():
        for times in (1, 2) if way.doubled else (1,):
            try:
                make = way.make(task, width * times)
            except ModuleNotFoundError as error:
                print(f"{name}: not at hand: {error}")
                continue
            told = f"{name}, double" if times == 2 else name
            found[told, "training"] = training(way, make(0), task, device, steps)
            found[told, "inference"] = inference(way, make(0), task, device, both=False)
    found["plain, both strands", "inference"] = inference(
        WAYS["plain"], WAYS["plain"].make(task, width)(0), task, device, True
    )
    return found


def measured(task: Task, width: int, args: argparse.Namespace) -> list[dict[str, object]]:
    """The medians over rounds, as rows."""
    found = calls(task, width, args.device, args.steps)
    names, times = [*found], {name: list[float]() for name in found}
    for run in (*found.values(), *found.values()):
        run()
    for i in range(args.rounds):
        start = 7 * i % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(took(found[name], args.device))
    rows = []
    for way, what in names:
        ratio = np.median(np.array(times[way, what]) / np.array(times["plain", what]))
        seconds = float(np.median(times[way, what])) / (args.steps if what == "training" else 1)
        rows.append(
            {
                "way": way,
                "what": what,
                "width": width,
                "device": args.device,
                "ratio": float(ratio),
                "ms": 1000 * seconds,
            }
        )
    return rows


def parse(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, help="lines of JSON, added to")
    p.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64])
    p.add_argument("--length", type=int, default=101, help="bp")
    p.add_argument("--rounds", type=int, default=11)
    p.add_argument("--steps", type=int, default=8, help="of training, in one round")
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    task = simulated("timed", simulate.binding, args.length, "binary", True).limited(64 * args.steps)
    for width in args.widths:
        rows = measured(task, width, args)
        with args.out.open("a") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
        for row in rows:
            print(f"width {width}  {row['way']:<32} {row['what']:<10} {row['ratio']:.2f} x  {row['ms']:.2f} ms")


if __name__ == "__main__":
    main()
