"""Which strategy for your data? Every way to treat the two strands, on the same data, with the same budget.

Plain, reverse-complement augmentation, both strands read after training (post-hoc conjoined) or in training
(conjoined), tied weights at equal and at double width, mixed, tied from a trained network (matched, distilled), a
consistency loss, a loss for each strand, and the layers of rcps-pytorch and equirc; each at three widths, on each data
set of `tasks.py`.

Results are lines of JSON, one for each trained network, written as they come. A second start with the same file does
what is missing. A data set or a package that is not at hand is named and passed over. `strategies_report.py` makes
tables and figures of the file.
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from protocol import TUNED_RATE, Learner, answers, fit, on_device, scored
from tasks import TASKS, Task, load
from torch import nn
from tqdm import tqdm
from ways import AFTER, WAYS, cost, matched

from rcps_convert import reverse_complement

WIDTHS = (32, 16, 64)
"""The middle one first: it is the one that every data set has."""

TUNING = 0.2
"""Epochs in which a matched or distilled network is trained, as a share of those from scratch."""


@dataclass(frozen=True)
class Unit:
    """Networks that are trained together: one strategy at one width, several seeds."""

    task: str
    way: str
    width: int
    seeds: tuple[int, ...]

    def names(self) -> tuple[str, ...]:
        """The strategies whose results it gives."""
        return (self.way, *AFTER) if self.way == "augmented" else (self.way,)


@dataclass(frozen=True)
class Settings:
    """What all units share."""

    folder: Path
    device: str
    limit: int | None
    epochs: int | None
    graphs: bool


def units(args: argparse.Namespace) -> Iterator[Unit]:
    """Everything that is asked for: the first data set wholly, then the others at the first width, then the rest."""
    first, *others = args.tasks
    middle, *rest = args.widths
    few = [name for name in args.ways if name in ("plain", "tied")] if args.quick else args.ways
    for tasks, ways, widths in (([first], args.ways, args.widths), (others, few, [middle]), (others, few, rest)):
        for width, name, task in itertools.product(widths, ways, tasks):
            way = WAYS[name]
            if task != "profile" or way.profiles:
                for times in (1, 2) if way.doubled else (1,):
                    yield Unit(task, name, width * times, tuple(args.seeds))


def lines(path: Path) -> list[dict[str, Any]]:
    """What is known already."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def missing(wanted: Sequence[Unit], known: list[dict[str, Any]]) -> list[Unit]:
    """The units, each once, with the seeds that are not known."""
    have = {(r["task"], r["way"], r["width"], r["seed"]) for r in known}
    found = {}
    for unit in wanted:
        left = [s for s in unit.seeds if any((unit.task, n, unit.width, s) not in have for n in unit.names())]
        if left:
            found[unit.task, unit.way, unit.width] = Unit(unit.task, unit.way, unit.width, tuple(left))
    return [*found.values()]


def run(unit: Unit, settings: Settings) -> list[dict[str, Any]]:
    """Train and score a unit; one result for each network."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    warnings.filterwarnings("ignore", message=".*AccumulateGrad.*")
    task = load(unit.task, settings.folder).limited(settings.limit, settings.epochs)
    data, way = on_device(task, settings.device), WAYS[unit.way]
    make = way.make(task, unit.width)
    price = cost(way, make(0), task)
    how = {"augmented": way.augmented, "each": way.each, "consistency": way.consistency}
    learners = [Learner(make(seed), data["train"], task, seed, **how) for seed in unit.seeds]
    models = fit(learners, data["validation"], task.epochs, settings.graphs and way.captured)
    rows = [
        _row(unit, unit.way, task, learner, model, data, price) for learner, model in zip(learners, models, strict=True)
    ]
    if unit.way == "augmented":
        rows += after(unit, models, task, data, settings)
    return [rounded({**row, "device": settings.device}) for row in rows]


def after(
    unit: Unit, trained: list[nn.Module], task: Task, data: dict[str, Any], settings: Settings
) -> list[dict[str, Any]]:
    """Networks at one pass that are made from trained ones: matched and fine-tuned, matched and distilled."""
    starts = [matched(model.to("cpu"), task) for model in trained]
    price, x = cost(WAYS["tied"], starts[0], task), data["train"][0]
    rows = []
    for name in AFTER:
        learners = []
        for seed, start, teacher in zip(unit.seeds, starts, trained, strict=True):
            y, model = data["train"][1], copy.deepcopy(start)
            if name == "distilled":
                teacher.to(settings.device)
                other = task.mirrored(answers(teacher, reverse_complement(x)))
                y = (answers(teacher, x) + other) / 2
            how = {"rate": TUNED_RATE, "answers": name == "distilled"}
            learners.append(Learner(model, (x, y), task, seed + 500, **how))
        for learner in learners:
            learner.validate(data["validation"], 0)
        models = fit(learners, data["validation"], max(1, round(TUNING * task.epochs)), settings.graphs)
        for learner, model, seed in zip(learners, models, unit.seeds, strict=True):
            learner.seed = seed
            rows.append(_row(unit, name, task, learner, model, data, price))
    return rows


def _row(
    unit: Unit, way: str, task: Task, learner: Learner, model: nn.Module, data: dict[str, Any], price: dict[str, float]
) -> dict[str, Any]:
    found = {"task": unit.task, "kind": task.kind, "way": way, "width": unit.width, "seed": learner.seed}
    best = {"validation": learner.best[0], "epoch": learner.best[1], "train": len(task.splits["train"][0])}
    return {**found, **best, **price, **scored(model, task, data["test"])}


def rounded(value: Any) -> Any:
    """Figures of six digits."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


# --- many units ---------------------------------------------------------------------------------


def attempt(unit: Unit, settings: Settings) -> tuple[Unit, list[dict[str, Any]], str]:
    """A unit's results, or why there are none."""
    try:
        return unit, run(unit, settings), ""
    except (FileNotFoundError, ModuleNotFoundError) as error:
        return unit, [], f"not at hand: {error}"
    except Exception:
        return unit, [], traceback.format_exc()
    finally:
        if settings.device == "cuda":  # other processes need the memory that captured graphs held
            gc.collect()
            torch.cuda.empty_cache()


def results(
    wanted: list[Unit], settings: Settings, args: argparse.Namespace
) -> Iterator[tuple[Unit, list[dict[str, Any]], str]]:
    """Each unit's results as they come, from this process or from several; none is begun after `--seconds`."""
    end = time.monotonic() + args.seconds if args.seconds else float("inf")
    if args.jobs == 1:
        for unit in wanted:
            if time.monotonic() < end:
                yield attempt(unit, settings)
        return
    left, running = iter(wanted), set[Future[Any]]()
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        while True:
            while len(running) < args.jobs and time.monotonic() < end and (unit := next(left, None)):
                running.add(pool.submit(attempt, unit, settings))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def run_all(args: argparse.Namespace) -> int:
    """Everything that is missing; the number of units that failed."""
    settings = Settings(args.data, args.device, args.limit, args.epochs, not args.no_graphs)
    wanted, failed, told = missing([*units(args)], lines(args.out)), 0, set[str]()
    bar = tqdm(total=sum(len(u.seeds) * len(u.names()) for u in wanted), unit="network", file=sys.stderr)
    for unit, rows, why in results(wanted, settings, args):
        with args.out.open("a") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
        bar.update(len(unit.seeds) * len(unit.names()))
        bar.set_postfix_str(f"{unit.task}, {unit.way}, {unit.width}")
        if why and why not in told:
            told.add(why)
            bar.write(f"{unit.task}, {unit.way}, width {unit.width}: {why}", file=sys.stderr)
        failed += bool(why) and not why.startswith("not at hand")
    bar.close()
    return failed


QUICK = {"limit": 64, "epochs": 2, "seeds": [0], "widths": [4]}
"""Sizes of ``--quick``, which tries every strategy on the first data set, and two of them on the others."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("RCPS_BENCHMARK_DATA", ".")
    p.add_argument("--data", type=Path, default=Path(data), help="folder of the files; default $RCPS_BENCHMARK_DATA")
    p.add_argument("--out", type=Path, required=True, help="lines of JSON")
    p.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS], metavar="TASK", help=", ".join(TASKS))
    p.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], metavar="WAY", help=", ".join(WAYS))
    p.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS), help="filters; the first on every data set")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    p.add_argument("--limit", type=int, help="number of training sequences, and twice as many others")
    p.add_argument("--epochs", type=int, help="of every data set, instead of its own number")
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--jobs", type=int, default=1, help="processes")
    p.add_argument("--seconds", type=float, help="begin nothing after so long")
    p.add_argument("--no-graphs", action="store_true", help="on a GPU, launch every operator by itself")
    p.add_argument("--quick", action="store_true", help="every strategy and every data set once, at a tiny size")
    args = p.parse_args(argv)
    if args.device != "cpu" and not torch.cuda.is_available():
        p.error(f"--device {args.device}: this torch sees no GPU")
    if args.quick:
        vars(args).update(QUICK, tasks=sorted(args.tasks, key=lambda name: name != "simulated-200"))
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    failed = run_all(args)
    print(f"{len(lines(args.out))} networks in {args.out}")
    if failed:
        sys.exit(f"{failed} units failed")


if __name__ == "__main__":
    main()
