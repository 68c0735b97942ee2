"""Tables of the results of strategies.py, printed, and written between the marks of a page.

For each data set: mean score over seeds and its standard deviation; the mean difference from augmentation read on one
strand, seed by seed, with its 95 % interval (Student's t); calibration, strand discordance, flip rate, parameters and
FLOPs. `both strands` is the same network, read twice. A tied network at double width stands beside the plain one
whose channels it has twice. A difference is bold where its interval leaves out zero.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

Row = dict[str, Any]

TITLES = {
    "ctcf-1000": "CTCF, 1,000 sequences", "ctcf-4000": "CTCF, 4,000 sequences", "ctcf-14134": "CTCF, 14,134 sequences",
    "starr": "STARR-seq", "oct4-mafk": "Oct4 or Mafk", "simulated-200": "simulated, 200 bp",
    "simulated-1000": "simulated, 1,000 bp", "profile": "simulated profiles", "yeast": "yeast promoters",
    "mpra": "MPRA with adapters", "one-strand": "simulated, label is the strand",
}  # fmt: skip
SCORES = {"binary": "auROC", "regression": "Pearson r", "profile": "Pearson r of profiles"}
CALIBRATION = {"binary": "calibration error", "regression": "slope", "profile": "slope"}


@dataclass(frozen=True)
class Shown:
    """A line of a table or of a figure.

    Attributes:
        name: as printed.
        way: of the results.
        reading: "x", one strand, or "both".
        times: the width, as a multiple of the plain network's.
        passes: how often the network runs for one answer; what a strategy does inside of it is in its FLOPs.
        style: colour, line and marker of matplotlib.
    """

    name: str
    way: str
    reading: str = "x"
    times: int = 1
    passes: int = 1
    style: tuple[str, str, str] = ("C7", "-", "o")


SHOWN = (
    Shown("plain", "plain", style=("0.5", "-", "o")),
    Shown("plain, both strands", "plain", "both", passes=2, style=("0.5", "--", "o")),
    Shown("augmented", "augmented", style=("C0", "-", "o")),
    Shown("augmented, both strands", "augmented", "both", passes=2, style=("C0", "--", "o")),
    Shown("each strand", "each strand", style=("C6", "-", "o")),
    Shown("each strand, both strands", "each strand", "both", passes=2, style=("C6", "--", "o")),
    Shown("consistency loss", "consistency", style=("C4", "-", "o")),
    Shown("consistency loss, both strands", "consistency", "both", passes=2, style=("C4", "--", "o")),
    Shown("conjoined", "conjoined", style=("C2", "-", "s")),
    Shown("mixed", "mixed", style=("C8", "-", "s")),
    Shown("tied", "tied", style=("C3", "-", "^")),
    Shown("tied, double width", "tied", times=2, style=("C3", "--", "^")),
    Shown("tied, mean before head", "tied, mean before head", style=("C1", "-", "^")),
    Shown("tied, mean before head, double width", "tied, mean before head", times=2, style=("C1", "--", "^")),
    Shown("matched, fine-tuned", "matched", style=("C5", "-", "D")),
    Shown("matched, distilled", "distilled", style=("m", "-", "D")),
    Shown("rcps-pytorch layers", "rcps-pytorch", style=("C9", "-", "v")),
    Shown("equirc layers", "equirc", style=("k", "-", "v")),
    Shown("equirc layers, double width", "equirc", times=2, style=("k", "--", "v")),
)
BY_NAME = {shown.name: shown for shown in SHOWN}
BASE, TWICE = BY_NAME["augmented"], BY_NAME["augmented, both strands"]

ONE_PASS = ("plain", "tied", "tied, double width", "matched, distilled", "consistency loss")
TWO_PASSES = ("plain, both strands", "conjoined", "mixed", "consistency loss, both strands", "tied, double width")


def read(paths: Iterable[Path]) -> list[Row]:
    """The results; of several for one network the last."""
    found = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["task"], row["way"], row["width"], row["seed"]] = row
    return [*found.values()]


def width_of(rows: list[Row], task: str) -> int:
    """The width of a data set in tables of all data sets: 32, where it has one."""
    widths = {r["width"] for r in rows if r["task"] == task and r["way"] == BASE.way}
    return 32 if 32 in widths else min(widths)


def chosen(rows: list[Row], task: str, shown: Shown, width: int) -> dict[int, Row]:
    """The results of one line, by seed."""
    want = (task, shown.way, width * shown.times)
    return {r["seed"]: r for r in rows if (r["task"], r["way"], r["width"]) == want}


def lines(rows: list[Row], task: str, width: int) -> list[tuple[Shown, dict[int, Row]]]:
    """What is known of a data set at a width."""
    return [(s, found) for s in SHOWN if (found := chosen(rows, task, s, width))]


def score(row: Row, shown: Shown) -> float:
    """On the test split, in the way it is read."""
    return row[shown.reading]["score"]


def mean(found: dict[int, Row], of: Callable[[Row], float]) -> float:
    """Over seeds."""
    return float(np.mean([of(row) for row in found.values()]))


# --- differences --------------------------------------------------------------------------------


def differences(mine: dict[int, Row], a: Shown, base: dict[int, Row], b: Shown) -> np.ndarray:
    """Differences of the scores of two lines, for the seeds that both have."""
    return np.array([score(mine[s], a) - score(base[s], b) for s in sorted(mine) if s in base])


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t; nan for fewer than two values."""
    if len(values) < 2:
        return float(np.mean(values)) if len(values) else float("nan"), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def signed(values: np.ndarray) -> str:
    """A mean difference with its interval, bold where that leaves out zero."""
    middle, half = interval(values)
    if np.isnan(middle):
        return ""
    if np.isnan(half):
        return f"{middle:+.4f}"
    told = f"{middle:+.4f} ± {half:.4f}"
    return f"**{told}**" if abs(middle) > half else told


# --- tables -------------------------------------------------------------------------------------


def markdown(heads: list[str], body: list[list[str]]) -> str:
    """A table."""
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(b)} |" for b in body)])


def overview(rows: list[Row], names: Iterable[str], base: Shown) -> str:
    """All data sets: the score of a base line, and the mean differences of others from it."""
    body = []
    for task in (t for t in TITLES if any(r["task"] == t and r["way"] == base.way for r in rows)):
        width = width_of(rows, task)
        start = chosen(rows, task, base, width)
        found = [(BY_NAME[n], chosen(rows, task, BY_NAME[n], width)) for n in names]
        cells = [signed(differences(f, s, start, base)) if f else "" for s, f in found]
        body.append([TITLES[task], f"{mean(start, lambda r: score(r, base)):.4f}", *cells])
    return markdown(["data set", f"{base.name}: score", *names], body)


def table(rows: list[Row], task: str, width: int) -> str:
    """One data set at one width."""
    known = lines(rows, task, width)
    base, kind = chosen(rows, task, BASE, width), next(iter(known[0][1].values()))["kind"]
    auprc = ["auPRC"] if kind == "binary" else []
    heads = ["strategy", "seeds", SCORES[kind], *auprc, "minus augmented", CALIBRATION[kind]]
    heads += ["discordance", "flips", "parameters", "MFLOPs, inference", "MFLOPs, training"]
    return markdown(heads, [cells(shown, found, base) for shown, found in known])


def cells(shown: Shown, found: dict[int, Row], base: dict[int, Row]) -> list[str]:
    """A line of a data set's table."""
    values, one = np.array([score(r, shown) for r in found.values()]), next(iter(found.values()))
    spread = f" ({values.std(ddof=1):.4f})" if len(values) > 1 else ""
    auprc = [f"{mean(found, lambda r: r[shown.reading]['auprc']):.4f}"] if one["kind"] == "binary" else []
    gain = "" if shown is BASE else signed(differences(found, shown, base, BASE))
    exact = shown.reading == "both"
    return [
        shown.name, str(len(found)), f"{values.mean():.4f}{spread}", *auprc, gain,
        f"{mean(found, lambda r: r[shown.reading]['calibration']):.3f}",
        "0" if exact else small(mean(found, lambda r: r["discordance"])),
        "0" if exact else percent(mean(found, lambda r: r["flip rate"])),
        f"{one['parameters']:,.0f}", flops(one, "inference", shown.passes), flops(one, "training", 1),
    ]  # fmt: skip


def small(value: float) -> str:
    """A discordance; rounding counts as none."""
    return "0" if value < 1e-5 else f"{value:.3f}"


def percent(value: float) -> str:
    """A share; one sequence in a thousand whose answer lies on the limit counts as none."""
    return "0" if value < 2e-3 else f"{100 * value:.1f} %"


def flops(row: Row, what: str, passes: int) -> str:
    """Millions; with half products in brackets where that is less."""
    whole, half = (f"{row[key] * passes / 1e6:.3g}" for key in (what, f"{what}, half"))
    return whole if half == whole else f"{whole} ({half})"


def times(rows: list[Row]) -> str:
    """Times of a training step and of inference as multiples of the plain network's, at width 32."""
    names = list(dict.fromkeys(r["way"] for r in rows))
    keys = [(d, w) for d in ("cpu", "cuda") for w in ("training", "inference")]
    ratio = {(r["device"], r["what"], r["way"]): f"{r['ratio']:.2f}" for r in rows if r["width"] == 32}
    heads = ["strategy", *(f"{what}, {'GPU' if d == 'cuda' else 'CPU'}" for d, what in keys)]
    return markdown(heads, [[n, *(ratio.get((*key, n), "") for key in keys)] for n in names])


# --- the page -----------------------------------------------------------------------------------


def tables(rows: list[Row], timed: list[Row]) -> dict[str, str]:
    """Every table of the page, by the name of its mark."""
    found = {"one pass": overview(rows, ONE_PASS, BASE), "two passes": overview(rows, TWO_PASSES, TWICE)}
    for task in TITLES:
        for width in (16, 32, 64):
            if chosen(rows, task, BASE, width):
                found[f"{task}, {width}"] = table(rows, task, width)
    return {**found, "times": times(timed)}


def filled(page: str, found: dict[str, str]) -> str:
    """A page with its tables between marks ``<!-- table: NAME -->`` and ``<!-- end -->``.

    Raises: KeyError: a mark names no table.
    """
    marks = re.compile(r"(<!-- table: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)
    return marks.sub(lambda m: f"{m[1]}\n{found[m[2]]}\n\n{m[3]}", page)


def parse(argv: list[str] | None) -> argparse.Namespace:
    here = Path(__file__).parent
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("results", type=Path, nargs="*", default=[here / "strategies.jsonl"], help="of strategies.py")
    p.add_argument("--times", type=Path, default=here / "strategies_time.jsonl", help="of strategies_time.py")
    p.add_argument("--page", type=Path, help="write the tables between the marks of this page")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    timed = [json.loads(line) for line in args.times.read_text().splitlines()] if args.times.is_file() else []
    found = tables(read(args.results), timed)
    for name, text in found.items():
        print(f"{name}\n\n{text}\n")
    if args.page:
        args.page.write_text(filled(args.page.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
