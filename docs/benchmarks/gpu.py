"""A GPU: train step and inference of networks, converted in each way and accelerated, against the plain ones.

The networks take turns in one process, in an order that alternates, after a warm-up. Each turn is a few calls, timed
from a GPU that waits to one that has finished; each round gives one ratio to the plain network per network. Printed
are the median and the quartiles. `plain again` is a copy of the plain network: what it shows beside 1 is noise. `host`
is the share of a turn in which the CPU was still launching work: near 1, the GPU waits for it. `memory` is the peak of
a call beyond what the network holds, over the plain network's.

`TF32` lets convolutions and matrix products of float32 be multiplied in TF32, `float32` does not, `bfloat16` is
autocast. Calls are made as they are (`eager`), behind ``torch.compile`` (`compiled`), or captured once in a CUDA graph
and replayed (`captured`), where launching takes no time.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from half_products import square, tower
from models import Basset, BPNet
from speed import Case, dna, quartiles
from torch import nn

from rcps_convert import accelerate, convert_model
from rcps_convert.convert.fast import fused

TURN = 0.02
"""Seconds of calls per turn, at least."""

WAYS = ("plain again", "tied", "accelerated", "conjoined", "mixed", "mixed, accelerated")

Step = Callable[[], None]


def cases(batch: int, quick: bool) -> list[Case]:
    """The networks, with a batch for each."""

    def of(name: str, model: nn.Module, length: int) -> Case:
        return Case(name, model.cuda(), (dna(batch, length).cuda(),), square, {})

    length = 200 if quick else 2114
    tracks = torch.poisson(torch.full((batch, 2, length), 0.2)).cuda()
    spec = {"inputs": ("ACGT", "+-"), "outputs": ("+-", "+-")}
    return [
        Case("BPNet-like, 64 filters", BPNet().cuda(), (dna(batch, length).cuda(), tracks), square, spec),
        of("tower, 128 channels, kernel 5", tower(5, 5, 128), 100 if quick else 1000),
        of("tower, 256 channels, kernel 9", tower(9, 9, 256), 100 if quick else 1000),
        of("Basset-like", Basset(), 600),
    ]


@dataclass
class Run:
    """How networks are run.

    Attributes:
        mode: ``"float32"``, ``"TF32"`` or ``"bfloat16"``.
        how: ``"eager"``, ``"compiled"`` or ``"captured"``.
        ways: the networks compared with the plain one.
        rounds: ratios per line.
        plans: print what `accelerate` found.
    """

    mode: str
    how: str
    ways: list[str]
    rounds: int
    plans: bool

    def set_precision(self) -> None:
        """What float32 is multiplied in."""
        torch.backends.cudnn.allow_tf32 = self.mode == "TF32"
        torch.set_float32_matmul_precision("high" if self.mode == "TF32" else "highest")

    def autocast(self) -> AbstractContextManager[Any]:
        """Entered for each call anew, as weights that were cast are kept within."""
        return torch.autocast("cuda", torch.bfloat16, enabled=self.mode == "bfloat16")

    def networks(self, case: Case) -> dict[str, nn.Module]:
        """The plain network, and those that are compared with it."""
        example = tuple(x[:2] for x in case.inputs)
        found = {"plain": case.model}
        for way in self.ways:
            if way == "plain again":
                found[way] = copy.deepcopy(case.model)
                continue
            strategy = "tied" if way == "accelerated" else way.split(",")[0]
            found[way] = convert_model(case.model, example, strategy=strategy, verify=False, **case.spec)
            if "accelerated" in way:
                with self.autocast():
                    found[way] = accelerate(found[way], case.inputs, verbose=self.plans)
        return found

    def train_step(self, model: nn.Module, case: Case) -> Step:
        """Forward, loss, backward and a step of fused Adam."""
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True, capturable=self.how == "captured")
        run = torch.compile(model) if self.how == "compiled" else model

        def step() -> None:
            with self.autocast():
                loss = case.loss(run(*case.inputs))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return captured(step) if self.how == "captured" else step

    def inference(self, model: nn.Module, case: Case) -> Step:
        """Forward in eval mode."""
        model.eval()
        run = torch.compile(model) if self.how == "compiled" else model

        def step() -> None:
            with torch.no_grad(), self.autocast():
                run(*case.inputs)

        return captured(step) if self.how == "captured" else step


def captured(step: Step) -> Step:
    """A step in a CUDA graph: it is launched at once."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(kept: Step = step) -> None:  # what the graph writes to must live as long as it does
        graph.replay()

    return replay


def turn(step: Step, calls: int) -> tuple[float, float]:
    """Seconds per call, and the share of them in which the CPU launched work."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        step()
    launched = time.perf_counter() - start
    torch.cuda.synchronize()
    whole = time.perf_counter() - start
    return whole / calls, launched / whole


def peak(step: Step) -> int:
    """Bytes that a call takes beyond what is held."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def compared(steps: dict[str, Step], rounds: int) -> dict[str, dict[str, float]]:
    """Quartiles of the ratios to the plain network, and what else was measured, by network."""
    calls = {}
    for name, step in steps.items():
        for _ in range(3):
            step()
        calls[name] = max(1, round(TURN / turn(step, 2)[0]))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for i in range(rounds):
        for name in [*steps][:: 1 if i % 2 else -1]:
            times[name].append(turn(steps[name], calls[name]))
    plain = np.array([t for t, _ in times["plain"]])
    memory = {name: peak(step) for name, step in steps.items()}
    return {
        name: {
            **quartiles(np.array([t for t, _ in times[name]]) / plain),
            "milliseconds": 1000 * float(np.median([t for t, _ in times[name]])),
            "host": float(np.median([share for _, share in times[name]])),
            "memory": memory[name] / max(memory["plain"], 1),
        }
        for name in steps
    }


def report(case: Case, run: Run) -> dict[str, Any]:
    """Measure one network in one precision, and print it."""
    found: dict[str, Any] = {}
    print(f"{case.name}, {', '.join(str(tuple(x.shape)) for x in case.inputs)}, {run.mode}, {run.how}", flush=True)
    run.set_precision()
    networks = run.networks(case)
    for name, prepare in (("train step", run.train_step), ("inference", run.inference)):
        found[name] = compared({way: prepare(model, case) for way, model in networks.items()}, run.rounds)
        plain = found[name]["plain"]
        print(f"  {name}: plain {plain['milliseconds']:.2f} ms, host {plain['host']:.2f}")
        for way, q in found[name].items():
            if way != "plain":
                ratio = f"{q['median']:.3f}  (quartiles {q['low']:.3f} to {q['high']:.3f})"
                memory = "" if run.how == "captured" else f"  memory {q['memory']:.2f}"
                print(f"    {way:<18}  {ratio}  host {q['host']:.2f}{memory}", flush=True)
    return found


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=9, help="ratios per line")
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--only", nargs="+", default=[""], help="networks whose names hold one of these words")
    p.add_argument("--modes", nargs="+", default=["float32", "TF32", "bfloat16"])
    p.add_argument("--ways", nargs="+", default=[*WAYS], help="networks compared with the plain one")
    p.add_argument("--how", choices=["eager", "compiled", "captured"], default="eager")
    p.add_argument("--plans", action="store_true", help="print what accelerate found")
    p.add_argument("--quick", action="store_true", help="short sequences, few rounds: to see that it runs")
    p.add_argument("--json", type=Path, help="write the figures to this file, a line for each network and precision")
    args = p.parse_args(argv)
    if not torch.cuda.is_available():
        sys.exit("torch sees no GPU here")
    torch.manual_seed(0)
    triton = fused.why_not(torch.device("cuda")) or __import__("triton").__version__
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton}, {date.today()}")
    for mode in args.modes:
        for case in cases(args.batch, args.quick):
            if any(word in case.name for word in args.only):
                run = Run(mode, args.how, args.ways, 3 if args.quick else args.rounds, args.plans)
                found = report(case, run)
                if args.json:
                    with args.json.open("a") as file:
                        file.write(json.dumps({"network": case.name, "mode": mode, "how": run.how, **found}) + "\n")


if __name__ == "__main__":
    main()
