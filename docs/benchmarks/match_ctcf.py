"""A trained network at one pass: matched pairs against the other ways to convert it, on CTCF peaks.

A small Basset-like network is trained with augmentation. Then it is converted in each way, its norm statistics are
computed anew on training sequences without labels, and it is fine-tuned at a small learning rate. `trained` goes on as
it was, and is scored on one strand and on both. `scratch` is a tied network trained from the start for as many epochs.
`distilled` starts as `match, sequences` and learns the mean of the trained network's two readings, logits of training
sequences, without labels.

Results are lines of JSON, one for each network, written as they come; a run that was stopped goes on where it was.
The data and its splits are those of train_ctcf.py. Scores are auROC in float64; `stopped` is the test score of the
epoch that is best on the validation sequences, the one before any fine-tuning included.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import SmallBasset
from torch import Tensor, nn
from train_ctcf import BATCH, Run, auroc, read, scores

from rcps_convert import convert_model, recalibrate, reverse_complement

Data = dict[str, tuple[Tensor, Tensor]]
EXAMPLE = torch.zeros(2, 4, 101)
LOOKED = 1024
"""Training sequences that `match, sequences` looks at."""

WAYS: dict[str, dict[str, Any]] = {
    "project": {"init": "project"},
    "keep": {"init": "keep"},
    "match": {"init": "match"},
    "match, sequences": {"init": "match"},
    "conjoined": {"strategy": "conjoined"},
}
"""The networks that are made from the trained one, and the keywords of their conversion."""

NAMES = ("trained", "match, sequences", "distilled", "match", "project", "keep", "conjoined", "scratch")


def converted(trained: nn.Module, way: str, data: Data) -> nn.Module:
    """The trained network, converted."""
    how = {**WAYS[way], "verify": False}
    if way == "match, sequences":
        how["sequences"] = data["train"][0][:LOOKED].float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tying changes a trained network is what is measured here
        return convert_model(trained, EXAMPLE, **how)


def both(model: nn.Module, x: Tensor) -> Tensor:
    """The mean of a network's two readings, float64."""
    return (scores(model, x) + scores(model, reverse_complement(x))) / 2


def scored(model: nn.Module, data: Data, read: Callable[[nn.Module, Tensor], Tensor] = scores) -> dict[str, float]:
    """auROC on the validation and on the test sequences."""
    return {split: auroc(read(model, data[split][0]), data[split][1]) for split in ("validation", "test")}


def stopped(steps: dict[str, dict[str, float]]) -> float:
    """The test score at the best step by the validation score; the first of equals."""
    tried = [score for name, score in steps.items() if name != "conversion"]
    return max(tried, key=lambda score: score["validation"])["test"]


def recalibrated(model: nn.Module, data: Data, args: argparse.Namespace) -> nn.Module:
    """A copy with norm statistics of training sequences."""
    x = data["train"][0][: args.recalibrate].float()
    return recalibrate(copy.deepcopy(model), list(x.split(256)))


def tuned(model: nn.Module, data: Data, args: argparse.Namespace, seed: int, **how: Any) -> dict[str, Any]:
    """Scores after each epoch of fine-tuning."""
    run, steps = Run("", model, rate=args.rate, **how), {}
    for epoch in range(1, args.tune + 1):
        run.epoch(*data["train"], seed=1000 * seed + 10 * (args.epochs + epoch))
        steps[f"epoch {epoch}"] = scored(run.model, data)
        if how:
            steps[f"epoch {epoch}, both"] = scored(run.model, data, both)
    return steps


def trained_network(data: Data, args: argparse.Namespace, width: int, seed: int, *, tied: bool = False) -> nn.Module:
    """A network trained from the start: with augmentation, or tied."""
    path = args.out.with_name(f"{args.out.stem}_{width}_{seed}{'_tied' if tied else ''}.pt")
    torch.manual_seed(seed)
    model = SmallBasset(width)
    if tied:
        model = convert_model(model, EXAMPLE)
    if path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    run = Run("", model, augmented=not tied)
    for epoch in range(1, args.epochs + 1):
        run.epoch(*data["train"], seed=1000 * seed + 10 * epoch)
    torch.save(model.state_dict(), path)
    return model


def distil(model: nn.Module, trained: nn.Module, data: Data, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Scores after each epoch in which a network learns the trained one's mean reading; no labels are read."""
    x = data["train"][0]
    wanted, steps = both(trained, x).float(), {}
    optimizer = torch.optim.Adam(model.parameters(), lr=args.distil_rate)
    for epoch in range(1, args.distil + 1):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        model.train()
        for index in order[: len(order) // BATCH * BATCH].split(BATCH):
            loss = nn.functional.mse_loss(model(x[index].float()), wanted[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        steps[f"epoch {epoch}"] = scored(model, data)
    return steps


def one(way: str, data: Data, args: argparse.Namespace, width: int, seed: int) -> dict[str, dict[str, float]]:
    """The scores of one network, by step."""
    if way == "scratch":
        model = trained_network(data, args, width, seed, tied=True)
        return {"recalibrated": scored(model, data), **tuned(model, data, args, seed)}
    trained = trained_network(data, args, width, seed)
    if way == "trained":
        now = {"conversion": scored(trained, data), "conversion, both": scored(trained, data, both)}
        return {**now, **tuned(trained, data, args, seed, augmented=True)}
    model = converted(trained, "match, sequences" if way == "distilled" else way, data)
    steps = {"conversion": scored(model, data)}
    if way != "conjoined":
        model = recalibrated(model, data, args)
    steps["recalibrated"] = scored(model, data)
    torch.manual_seed(seed)
    after = distil(model, trained, data, args, seed) if way == "distilled" else tuned(model, data, args, seed)
    return {**steps, **after}


def lines(path: Path) -> list[dict[str, Any]]:
    """What is known already."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def run_all(data: Data, args: argparse.Namespace) -> None:
    """Every network that is not known yet, seed by seed."""
    for seed in args.seeds:
        for width in args.widths:
            known = {(r["width"], r["seed"], r["way"]) for r in lines(args.out)}
            for way in NAMES:
                if (width, seed, way) in known:
                    continue
                steps = one(way, data, args, width, seed)
                with args.out.open("a") as out:
                    out.write(json.dumps({"width": width, "seed": seed, "way": way, "steps": steps}) + "\n")
                told = ", ".join(f"{step} {score['test']:.4f}" for step, score in steps.items())
                print(f"width {width}, seed {seed}, {way}: {told}", file=sys.stderr, flush=True)


# --- the tables and the figure ------------------------------------------------------------------


def table(found: list[dict[str, Any]], width: int) -> str:
    """Means over seeds and standard deviations of test auROC; differences from `trained` at one pass, seed by seed."""
    by = {way: {r["seed"]: r["steps"] for r in found if (r["width"], r["way"]) == (width, way)} for way in NAMES}
    base = {seed: best_of_trained(steps, "") for seed, steps in by["trained"].items()}
    heads = " ".join(f"{name:>14}" for name in ("conversion", "recalibrated", "1 epoch", "2 epochs", "stopped"))
    rows = [f"width {width}; test auROC, mean (sd) over seeds", f"{'':<17} seeds {heads} {'- trained (sd)':>17}"]
    for way, runs in by.items():
        for kind in ("", ", both") if way == "trained" else ("",):
            if runs:
                rows.append(row(way, kind, runs, base))
    return "\n".join(rows)


def row(way: str, kind: str, runs: dict[int, dict[str, dict[str, float]]], base: dict[int, float]) -> str:
    """One way's scores by step, and its gain over the trained network."""
    steps, some = [f"conversion{kind}", "recalibrated", f"epoch 1{kind}", f"epoch 2{kind}"], next(iter(runs.values()))
    cells = [cell([r[step]["test"] for r in runs.values()]) if step in some else f"{'-':>14}" for step in steps]
    last = {seed: best_of_trained(r, kind) if way == "trained" else stopped(r) for seed, r in runs.items()}
    gain = np.array([last[seed] - base[seed] for seed in runs])
    spread = f"({gain.std(ddof=1):.4f})" if len(gain) > 1 else ""
    told = f"{gain.mean():>+8.4f} {spread}" if gain.any() else f"{'-':>8}"
    return f"{way + kind:<17} {len(runs):>5} {' '.join(cells)} {cell([*last.values()])} {told}".rstrip()


def best_of_trained(steps: dict[str, dict[str, float]], kind: str) -> float:
    """The test score of the trained network at its best epoch by validation, read in one way."""
    mine = {name: score for name, score in steps.items() if name.endswith(", both") == bool(kind)}
    return max(mine.values(), key=lambda score: score["validation"])["test"]


def cell(values: list[float]) -> str:
    """Mean and standard deviation; of a single value none."""
    spread = f"({np.std(values, ddof=1):.4f})" if len(values) > 1 else " " * 8
    return f"{np.mean(values):.4f} {spread}".rjust(14)


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """The test scores of every way, a dot for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    widths = sorted({r["width"] for r in found})
    pyplot.rcParams.update({"font.size": 12, "svg.fonttype": "none", "svg.hashsalt": "match"})
    size = (5, 3.6 * len(widths))  # 360 points wide: as wide as a phone
    figure, axes = pyplot.subplots(len(widths), 1, figsize=size, sharex=True, squeeze=False, layout="constrained")
    for axis, width in zip(axes[:, 0], widths, strict=True):
        names = [*NAMES, "trained, both strands"]
        for place, way in enumerate(names):
            runs = [r["steps"] for r in found if r["width"] == width and r["way"] == way.partition(", both")[0]]
            kind = ", both" if way.endswith("strands") else ""
            first = "conversion" + kind if way.startswith("trained") else "recalibrated"
            last = [best_of_trained(r, kind) if way.startswith("trained") else stopped(r) for r in runs]
            axis.plot([r[first]["test"] for r in runs], [place - 0.15] * len(runs), "o", color="0.6", ms=5)
            axis.plot(last, [place + 0.15] * len(runs), "o", color="#0b6e99", ms=5)
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_title(f"width {width}", fontsize=12)
        axis.set_xlim(0.83, 0.98)
    axes[-1][0].set_xlabel("test auROC: recalibrated (grey),\nfine-tuned (blue)")
    figure.savefig(path, metadata={"Date": None})


def parse(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="gzipped table: chrom, start, end, label, sequence")
    p.add_argument("--out", type=Path, required=True, help="lines of JSON; trained networks are kept beside it")
    p.add_argument("--widths", type=int, nargs="+", default=[32, 64], help="filters of each convolution")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    p.add_argument("--epochs", type=int, default=8, help="of training before the conversion")
    p.add_argument("--tune", type=int, default=2, help="epochs of fine-tuning after it")
    p.add_argument("--rate", type=float, default=5e-4, help="learning rate of the fine-tuning")
    p.add_argument("--distil", type=int, default=2, help="epochs of distilling")
    p.add_argument("--distil-rate", type=float, default=5e-4, help="learning rate of the distilling")
    p.add_argument("--recalibrate", type=int, default=4096, help="training sequences for norm statistics")
    p.add_argument("--limit", type=int, help="number of training sequences")
    p.add_argument("--figure", type=Path, help="draw the scores into this file")
    p.add_argument("--report", action="store_true", help="only report what is in --out")
    args = p.parse_args(argv)
    if not args.data.is_file():
        p.error(f"--data: there is no file {args.data}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(1)
    if not args.report:
        data = read(args.data)
        if args.limit:
            shuffled = torch.randperm(len(data["train"][0]), generator=torch.Generator().manual_seed(0))[: args.limit]
            data["train"] = (data["train"][0][shuffled], data["train"][1][shuffled])
        run_all(data, args)
    found = lines(args.out)
    widths = [width for width in args.widths if any(r["width"] == width and r["way"] == "trained" for r in found)]
    print("\n\n".join(table(found, width) for width in widths))
    if args.figure:
        draw(found, args.figure)


if __name__ == "__main__":
    main()
