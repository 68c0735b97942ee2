"""Many models, one after another or in several processes; what is done is kept and not done again."""

from __future__ import annotations

import json
import multiprocessing
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from .grammar import Program, draw, render
from .minimise import minimise, snippet
from .trial import Result, as_line, judge

Line = dict[str, Any]


ENOUGH = 3
"""Failures of one kind that are made small in a run."""


def one(seed: int, minimising: float, seen: Counter[tuple[str, str]] | None = None, skip: str = "") -> Line:
    """Judge the model of a seed; a failure is made small, unless enough of its kind were seen."""
    seen = Counter() if seen is None else seen
    try:
        program = draw(seed)
        if skip and re.search(skip, snippet(render(program), seed, "", "")):
            return {"seed": seed, "outcome": "skipped"}
        result = judge(program)
    except Exception as error:
        return {"seed": seed, "outcome": "fuzzer", "reason": f"{type(error).__name__}: {error}"[:200]}
    text = ""
    failed = result.outcome in ("wrong", "foreign") or result.unreasonable
    seen[result.kind] += failed
    if minimising and failed and seen[result.kind] <= ENOUGH:
        program = minimise(program, lambda p: _kind(p), minimising)
        smallest = judge(program)
        text = snippet(render(program), program.seed, smallest.reason, smallest.says)
    return as_line(result, program, text)


def _kind(program: Program) -> tuple[str, str]:
    try:
        result = judge(program)
    except Exception:
        return "fuzzer", ""
    return result.outcome, result.reason + (f" ({result.fate})" if result.outcome == "refused" else "")


def finished(path: Path | None) -> list[Line]:
    """The lines of an earlier run; a line cut short is dropped."""
    lines: list[Line] = []
    if path is None or not path.exists():
        return lines
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def _work(seeds: list[int], minimising: float, stop: float, skip: str, lines: Any) -> None:
    torch.set_num_threads(1)
    seen: Counter[tuple[str, str]] = Counter()
    for seed in seeds:
        if time.time() > stop:
            break
        lines.put(one(seed, minimising, seen, skip))
    lines.put(None)


def run(
    first: int,
    models: int,
    minutes: float,
    out: Path | None = None,
    jobs: int = 1,
    minimising: float = 60.0,
    skip: str = "",
) -> list[Line]:
    """Judge the models of so many seeds from the first, those that the file lacks.

    Args:
        first: the first seed.
        models: how many.
        minutes: time after which no further model is begun.
        out: JSON lines, appended to.
        jobs: processes.
        minimising: seconds spent on making one failure small; 0 for not at all.
        skip: a pattern; models whose snippet it is found in are left out, such as those of faults that are known.
    """
    wanted = set(range(first, first + models))
    lines = [line for line in finished(out) if line["seed"] in wanted]
    left = sorted(wanted - {line["seed"] for line in lines})
    stop, start = time.time() + 60 * minutes, time.time()
    if jobs <= 1:
        torch.set_num_threads(1)
        seen: Counter[tuple[str, str]] = Counter()
        for i, seed in enumerate(left):
            if time.time() > stop:
                break
            _keep(one(seed, minimising, seen, skip), lines, out)
            _progress(i + 1, len(left), start, lines)
        return lines
    return _parallel(left, minimising, stop, jobs, skip, lines, out)


def _parallel(
    left: list[int], minimising: float, stop: float, jobs: int, skip: str, lines: list[Line], out: Path | None
) -> list[Line]:
    context = multiprocessing.get_context("spawn")
    queue, start, done = context.Queue(), time.time(), 0
    workers = [
        context.Process(target=_work, args=(left[i::jobs], minimising, stop, skip, queue), daemon=True)
        for i in range(jobs)
    ]
    for w in workers:
        w.start()
    running = jobs
    while running and (any(w.is_alive() for w in workers) or not queue.empty()):
        try:
            line = queue.get(timeout=5)
        except Exception:
            continue
        if line is None:
            running -= 1
            continue
        done += 1
        _keep(line, lines, out)
        _progress(done, len(left), start, lines)
    for w in workers:
        w.join(1)
    return lines


def _keep(line: Line, lines: list[Line], out: Path | None) -> None:
    lines.append(line)
    if out is not None:
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _progress(done: int, of: int, start: float, lines: list[Line]) -> None:
    counts = Counter(line["outcome"] for line in lines)
    words = ", ".join(f"{n} {k}" for k, n in counts.most_common())
    print(f"\r{done}/{of} in {time.time() - start:.0f} s: {words}    ", end="", flush=True)


def unreasonable(line: Line) -> bool:
    """Whether a line is a refusal that the documentation gives no reason for."""
    told = {"says": line.get("says", ""), "fate": line.get("fate", "")}
    return Result(line["seed"], line["outcome"], line.get("reason", ""), **told).unreasonable


def table(lines: list[Line]) -> str:
    """Counts by outcome and reason, in Markdown."""
    total = max(len(lines), 1)
    rows = ["| Outcome | Models | Share |", "|---|---|---|"]
    for outcome, count in Counter(line["outcome"] for line in lines).most_common():
        rows.append(f"| {outcome} | {count} | {100 * count / total:.1f} % |")
    odd = sum(map(unreasonable, lines))
    rows.append(f"| refused without a reason that the documentation gives | {odd} | {100 * odd / total:.1f} % |")
    rows += ["", "| Outcome | Reason | Models |", "|---|---|---|"]
    reasons = Counter((line["outcome"], line.get("reason", "")) for line in lines if line["outcome"] != "converted")
    rows += [
        f"| {outcome} | {reason.replace('|', '/')} | {count} |" for (outcome, reason), count in reasons.most_common()
    ]
    seconds = sum(line.get("seconds", 0) for line in lines) / total
    asked, refused = (
        sum(line.get("lengths", 0) for line in lines),
        sum(line.get("refused_lengths", 0) for line in lines),
    )
    rows += [
        "",
        f"{len(lines)} models, {seconds:.2f} s each; {asked} calls at other lengths, {refused} of them refused.",
    ]
    return "\n".join(rows)
