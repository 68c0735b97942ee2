"""Judge mutants by the quick tests: ``python -m tests.mutation --seed 0 --mutants 300 --jobs 1``."""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from .campaign import Campaign, accepted, table
from .draw import draw

CACHE = Path(__file__).resolve().parents[2] / ".mutation_cache"


def main(arguments: list[str] | None = None) -> int:
    """Judge mutants and print a table; 1 if one survived that is not accepted."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="which mutants are drawn")
    parser.add_argument("--mutants", type=int, default=300, help="how many")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--minutes", type=float, default=600, help="time after which no further mutant is begun")
    parser.add_argument("--budget", type=float, default=20, help="seconds of tests for one mutant")
    parser.add_argument("--out", type=Path, default=CACHE / "results.jsonl", help="results; a second run goes on")
    parser.add_argument("--coverage", type=Path, default=CACHE / "coverage.jsonl", help="what each test runs")
    parser.add_argument("--only", default="", help="judge only those whose name has this")
    parser.add_argument("--again", action="store_true", help="judge those again that have a result")
    parser.add_argument("--survivors", action="store_true", help="judge those again that survived")
    asked = parser.parse_args(arguments)
    CACHE.mkdir(exist_ok=True)
    warm()
    campaign = Campaign(asked.coverage, asked.out, asked.jobs, asked.budget)
    for test in campaign.baseline():
        print(f"fails on the plain package and judges nothing: {test}")
    drawn = draw(asked.seed, asked.mutants)
    for m in drawn:
        survived = campaign.lines.get(m.key, {}).get("outcome") in ("survived", "error")
        if asked.only in m.key and (asked.again or (asked.survivors and survived)):
            campaign.lines.pop(m.key, None)
    campaign.run([m for m in drawn if asked.only in m.key], asked.minutes)
    print("\n" + table(drawn, campaign.lines))
    left = [m for m in drawn if campaign.lines.get(m.key, {}).get("outcome") in ("survived", "error")]
    left = [m for m in left if m.key not in accepted()]
    for m in left:
        print(f"survived: {m.key} (line {m.line})")
    return int(bool(left))


def warm() -> None:
    """Import what takes long, but nothing of the package: children share it."""
    import hypothesis
    import torch
    import torch._dynamo

    torch.set_num_threads(1)
    hypothesis.settings.register_profile("mutation", deadline=None, database=None, derandomize=True)
    hypothesis.settings.load_profile("mutation")
    torch.export.export(torch.nn.ReLU(), (torch.zeros(1),))
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
