"""Run the fuzzer: ``python -m tests.fuzz --seed 0 --models 3000 --minutes 20 --out results.jsonl``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .campaign import run, table
from .grammar import Program, draw, render
from .minimise import snippet
from .trial import judge


def main(arguments: list[str] | None = None) -> int:
    """Judge many models and print a table; 1 if anything was wrong or foreign."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--models", type=int, default=3000, help="number of models, one per seed")
    parser.add_argument("--minutes", type=float, default=20, help="time after which no further model is begun")
    parser.add_argument("--out", type=Path, help="JSON lines; a second run does what the file lacks")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--minimise", type=float, default=60, help="seconds spent on making one failure small")
    parser.add_argument("--skip", default="", help="a pattern: models whose source has it are left out")
    parser.add_argument("--replay", help="a seed, or the program of a line as JSON: print it and judge it")
    asked = parser.parse_args(arguments)
    if asked.replay:
        return replay(asked.replay)
    lines = run(asked.seed, asked.models, asked.minutes, asked.out, asked.jobs, asked.minimise, asked.skip)
    print("\n\n" + table(lines))
    return int(any(line["outcome"] in ("wrong", "foreign", "fuzzer") for line in lines))


def replay(text: str) -> int:
    """Print one program as a snippet, and what becomes of it."""
    program = draw(int(text)) if text.isdigit() else Program(**json.loads(text))
    result = judge(program)
    print(snippet(render(program), program.seed, result.reason or result.outcome, result.says))
    return int(result.outcome in ("wrong", "foreign"))


if __name__ == "__main__":
    sys.exit(main())
