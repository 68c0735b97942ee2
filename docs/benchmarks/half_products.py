"""Half products: train step and inference of networks, converted and accelerated, against the plain ones.

The networks take turns in one process, in an order that alternates, after a warm-up. Each round gives one ratio of
CPU times (so other work on the machine does not count); printed are the median and the quartiles. `plain / plain` is
the same measurement with two copies of the plain network: what it shows beside 1 is noise.

`accelerated` is `accelerate(model, example)`: for each part of each layer the fastest of the stock operator, C++ and
pure torch. `pure torch` is the same on a machine without a compiler. In the last network, rcps-pytorch 0.0.2 emits as
many channels as the others, and its strands never mix: it is a smaller function with a quarter of the parameters.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from models import Basset, BPNet, SmallBasset
from speed import Case, dna, inference, quartiles, ratios, train_step
from torch import Tensor, nn

from rcps_convert import accelerate, convert_model
from rcps_convert.convert.fast import compiled


def tower(first: int, kernel: int, channels: int) -> nn.Module:
    """Three convolutions with ReLUs, global average pooling, a linear layer."""
    return nn.Sequential(
        nn.Conv1d(4, channels, first, padding=first // 2), nn.ReLU(),
        nn.Conv1d(channels, channels, kernel, padding=kernel // 2), nn.ReLU(),
        nn.Conv1d(channels, channels, kernel, padding=kernel // 2), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, 1),
    )  # fmt: skip


class OfRcps(nn.Module):
    """The same of the layers of rcps-pytorch, with half as many kernels, each of which reads both strands."""

    def __init__(self, first: int, kernel: int, channels: int) -> None:
        super().__init__()
        import rcps

        n = channels // 2
        self.one = rcps.RCPSInput(out_kernels=n, kernel_size=first, padding="same")
        self.two, self.three = (rcps.RCPS(n, n, kernel, padding="same") for _ in range(2))
        self.join, self.out = rcps.RCPSOutput(), nn.Linear(n, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4, L) -> (N, 1)."""
        h = self.three(self.two(self.one(x).relu()).relu()).relu()
        return self.out(self.join(h).mean(-1))


def square(y: Any) -> Tensor:
    """A loss of every output."""
    return sum(v.square().mean() for v in (y if isinstance(y, tuple) else (y,)))  # type: ignore[return-value]


def cases(quick: bool) -> list[Case]:
    """The networks."""

    def of(name: str, model: nn.Module, *shape: int) -> Case:
        return Case(name, model, (dna(*shape),), square, {})

    if quick:
        return [of("tower", tower(5, 9, 16), 4, 200), of("tower, kernels 15 and 9", tower(15, 9, 16), 4, 200)]
    tracks = torch.poisson(torch.full((4, 2, 2114), 0.2))
    spec = {"inputs": ("ACGT", "+-"), "outputs": ("+-", "+-")}
    return [
        Case("BPNet-like, 64 filters", BPNet(), (dna(4, 2114), tracks), square, spec),
        of("tower, 128 channels, kernel 5", tower(5, 5, 128), 8, 1000),
        of("tower, 256 channels, kernel 9", tower(9, 9, 256), 4, 1000),
        of("Basset-like", Basset(), 32, 600),
        of("three pooled layers, 64 filters", SmallBasset(64), 64, 101),
        of("tower, 128 channels, kernels 15 and 9", tower(15, 9, 128), 4, 1000),
    ]


def without_compiler(convert: Callable[[], nn.Module]) -> nn.Module:
    """What is made where C++ cannot be built."""
    found = compiled._loaded
    compiled._loaded = lambda: (None, "no compiler")  # type: ignore[assignment]
    try:
        return convert()
    finally:
        compiled._loaded = found


def contenders(case: Case, peer: bool) -> dict[str, nn.Module]:
    """The networks that are compared with the plain one."""
    converted = convert_model(case.model, tuple(x[:2] for x in case.inputs), verify=False, **case.spec)
    found = {
        "plain": copy.deepcopy(case.model),
        "converted": converted,
        "accelerated": accelerate(converted, case.inputs, verbose=False),
        "pure torch": without_compiler(lambda: accelerate(converted, case.inputs, verbose=False)),
    }
    if peer:
        found["rcps-pytorch"] = OfRcps(15, 9, case.model[0].out_channels)
    return found


def measure(case: Case, rounds: int, peer: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Quartiles of the ratios to the plain network, by what is done and by network."""
    plain, found = copy.deepcopy(case.model), contenders(case, peer)
    report: dict[str, dict[str, dict[str, float]]] = {}
    for name, prepare in (("train step", train_step), ("inference", inference)):
        report[name] = {}
        for other, model in found.items():
            step, base = prepare(model, case), prepare(plain, case)
            plain.train(name == "train step")
            report[name][other] = quartiles(ratios(step, base, rounds, 1))
    return report


def has_rcps() -> bool:
    """Whether rcps-pytorch is installed."""
    try:
        import rcps  # noqa: F401
    except ImportError:
        return False
    return True


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=11, help="ratios per line")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--only", nargs="+", default=[""], help="networks whose names hold one of these words")
    p.add_argument("--quick", action="store_true", help="small networks, few rounds: to see that it runs")
    p.add_argument("--json", type=Path, help="write the figures to this file too")
    args = p.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rounds = 3 if args.quick else args.rounds
    threads = f"{args.threads} thread{'s' if args.threads > 1 else ''}"
    code = compiled.why_not() or torch.backends.cpu.get_cpu_capability()
    print(f"{threads}, float32, C++: {code}, {rounds} rounds; CPU time over the plain network's")
    report: dict[str, Any] = {}
    networks = cases(args.quick)
    for case in [c for c in networks if any(word in c.name for word in args.only)]:
        found = measure(case, rounds, case is networks[-1] and has_rcps())
        report[case.name] = found
        print(f"{case.name}, {', '.join(str(tuple(x.shape)) for x in case.inputs)}", flush=True)
        for name, values in found.items():
            for other, q in values.items():
                print(f"  {name:<10}  {other:<12}  {q['median']:.3f}  (quartiles {q['low']:.3f} to {q['high']:.3f})")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
