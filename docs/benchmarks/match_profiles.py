"""A trained profile network at one pass: matched pairs against the other ways to convert it, on simulated profiles.

What match_ctcf.py does on peaks, for a BPNet-like network without norms: it is trained with augmentation, converted in
each way, and trained on at a small rate. `trained` goes on as it was, and is scored on one strand and on both.
`scratch` is a tied network trained from the start for as many epochs. `distilled` starts as `match, sequences` and
learns the mean of the trained network's two readings.

Results are lines of JSON, one for each network and step; a run that was stopped goes on where it was. Scores are the
correlation of profiles (mean over sequences), and that of the logarithms of each strand's total counts.
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
from protocol import TUNED_RATE, Learner, answers, fit, pearson, profile_pearson
from tasks import Split, Task, load
from torch import Tensor, nn
from ways import example, plain

from rcps_convert import convert_model, reverse_complement

LOOKED = 1024
"""Training sequences that `match, sequences` looks at."""

CONVERSIONS: dict[str, dict[str, Any]] = {
    "match, sequences": {"init": "match"},
    "distilled": {"init": "match"},
    "match": {"init": "match"},
    "project": {"init": "project"},
    "keep": {"init": "keep"},
    "conjoined": {"strategy": "conjoined"},
    "scratch": {"init": "keep"},
}
WAYS = ("trained", *CONVERSIONS)


def both(task: Task, model: nn.Module, x: Tensor) -> Tensor:
    """The mean of a network's two readings, log rates."""
    return (answers(model, x) + task.mirrored(answers(model, reverse_complement(x)))) / 2


def scored(f: Tensor, y: Tensor) -> dict[str, float]:
    """How log rates fit counts: per profile, and over all sequences in total."""
    totals = f.double().exp().sum(-1).log().flatten(), (1 + y.double().sum(-1)).log().flatten()
    return {"profile": profile_pearson(f, y), "counts": pearson(*totals)}


def converted(trained: nn.Module, way: str, task: Task) -> nn.Module:
    """The network in one of the ways."""
    how: dict[str, Any] = {**CONVERSIONS[way], "outputs": task.outputs, "verify": False}
    if way in ("match, sequences", "distilled"):
        how["sequences"] = task.splits["train"][0][:LOOKED].float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tying changes a trained network is what is measured here
        return convert_model(trained, example(task), **how)


def tuned(model: nn.Module, train: Split, task: Task, seed: int, epochs: int, **how: Any) -> nn.Module:
    """The network trained on at a small rate: its best epoch on the validation split, none included."""
    learner = Learner(model, train, task, seed + 500, rate=TUNED_RATE, **how)
    learner.validate(task.splits["validation"], 0)
    return fit([learner], task.splits["validation"], epochs)[0]


def results(way: str, trained: nn.Module, task: Task, width: int, seed: int, args: argparse.Namespace) -> Any:
    """The scores of one network on the test split, by step."""
    (x, y), train = task.splits["test"], task.splits["train"]
    if way == "trained":
        model = copy.deepcopy(trained)
        yield "conversion", scored(answers(model, x), y)
        yield "conversion, both", scored(both(task, model, x), y)
        model = tuned(model, train, task, seed, args.tune, augmented=True)
        yield "tuned", scored(answers(model, x), y)
        yield "tuned, both", scored(both(task, model, x), y)
        return
    if way == "scratch":
        fresh = converted(plain(task, width)(seed), way, task)
        model = fit([Learner(fresh, train, task, seed)], task.splits["validation"], args.epochs)[0]
    else:
        model = converted(trained, way, task)
    yield "conversion", scored(answers(model, x), y)
    if way == "distilled":
        train = train[0], both(task, trained, train[0])
    yield "tuned", scored(answers(tuned(model, train, task, seed, args.tune, answers=way == "distilled"), x), y)


def lines(path: Path) -> list[dict[str, Any]]:
    """What is known already."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def run_all(task: Task, args: argparse.Namespace) -> None:
    """Every network that is not known yet, seed by seed."""
    for seed in args.seeds:
        missing = [w for w in WAYS if (seed, w) not in {(r["seed"], r["way"]) for r in lines(args.out)}]
        if not missing:
            continue
        learner = Learner(plain(task, args.width)(seed), task.splits["train"], task, seed, augmented=True)
        trained = fit([learner], task.splits["validation"], args.epochs)[0]
        for way in missing:
            steps = dict(results(way, trained, task, args.width, seed, args))
            with args.out.open("a") as out:
                out.write(json.dumps({"width": args.width, "seed": seed, "way": way, "steps": steps}) + "\n")
            print(f"seed {seed}, {way}: " + ", ".join(f"{k} {v['profile']:.4f}" for k, v in steps.items()), flush=True)


def table(found: list[dict[str, Any]]) -> str:
    """Means over seeds and standard deviations, and the differences from `trained` on one strand, seed by seed."""
    by = {way: {r["seed"]: r["steps"] for r in found if r["way"] == way} for way in WAYS}
    heads = ("profiles", "trained on", "- trained (sd)", "counts", "trained on")
    rows = [f"{'':<17} seeds " + " ".join(f"{h:>16}" for h in heads)]
    for way, kind in (("trained", ""), ("trained", ", both"), *((w, "") for w in CONVERSIONS)):
        runs = by[way]
        cells = [cell([r[s + kind][score] for r in runs.values()]) for score in ("profile", "counts") for s in STEPS]
        gain = [r["tuned" + kind]["profile"] - by["trained"][seed]["tuned"]["profile"] for seed, r in runs.items()]
        cells.insert(2, cell(gain, sign="+") if any(gain) else f"{'-':>16}")
        rows.append(f"{way + kind:<17} {len(runs):>5} " + " ".join(cells))
    return "\n".join(rows)


STEPS = ("conversion", "tuned")


def cell(values: list[float], sign: str = "") -> str:
    """Mean and standard deviation; of a single value none."""
    spread = f" ({np.std(values, ddof=1):.4f})" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.4f}{spread}".rjust(16)


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, help="lines of JSON")
    p.add_argument("--width", type=int, default=32, help="channels")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--epochs", type=int, default=10, help="of training before the conversion, and from scratch")
    p.add_argument("--tune", type=int, default=2, help="epochs after it")
    p.add_argument("--limit", type=int, help="number of training sequences")
    p.add_argument("--report", action="store_true", help="only report what is in --out")
    args = p.parse_args(argv)
    torch.set_num_threads(1)
    if not args.report:
        run_all(load("profile", Path()).limited(args.limit), args)
    found = lines(args.out)
    if not found:
        sys.exit(f"{args.out} holds no results")
    print(table(found))


if __name__ == "__main__":
    main()
