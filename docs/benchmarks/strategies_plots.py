"""Figures of the results of strategies.py: score against cost, against training-set size, and strand discordance."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from strategies_report import BASE, SHOWN, TITLES, Row, Shown, chosen, read, score, width_of


def pyplot() -> Any:
    """matplotlib with text as text, so that the files are small, and the same names in each run."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "strategies", "font.size": 9})
    from matplotlib import pyplot

    return pyplot


Place = Callable[[Row], float]


def line(axis: Any, shown: Shown, groups: list[dict[int, Row]], place: Place) -> None:
    """Mean scores of a strategy, with bars of one standard deviation over seeds; nothing of a single group."""
    known = [(place(next(iter(g.values()))), [score(r, shown) for r in g.values()]) for g in groups if g]
    if len(known) > 1:
        points = sorted((x, np.mean(y), np.std(y, ddof=1) if len(y) > 1 else 0.0) for x, y in known)
        x, y, spread = zip(*points, strict=True)
        colour, style, marker = shown.style
        axis.errorbar(x, y, spread, color=colour, ls=style, marker=marker, ms=4, lw=1, elinewidth=0.5, label=shown.name)


def cost(rows: list[Row], task: str, path: Path) -> None:
    """Score against the FLOPs of inference and of training, over three widths; half products in the right half."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(11, 4.8), sharey=True)
    panels = (("inference", "inference"), ("inference, half", "inference, half products"), ("training", "training"))
    for axis, (key, words) in zip(axes, panels, strict=True):
        for shown in SHOWN:
            passes = 1 if key == "training" else shown.passes
            groups = [chosen(rows, task, shown, width) for width in (16, 32, 64)]
            line(axis, shown, groups, lambda r, key=key, passes=passes: r[key] * passes / 1e6)
        axis.set_xscale("log")
        axis.set_xlabel(f"MFLOPs per sequence, {words}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"test auROC, {TITLES[task]}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.2, 1, 1))
    save(figure, path)


def sizes(rows: list[Row], path: Path) -> None:
    """Score against the number of training sequences of CTCF, at width 32."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(7.5, 4.2))
    for shown in SHOWN:
        groups = [chosen(rows, t, shown, 32) for t in ("ctcf-1000", "ctcf-4000", "ctcf-14134")]
        line(axis, shown, groups, lambda r: r["train"])
    axis.set_xscale("log")
    axis.set_xlabel("training sequences")
    axis.set_ylabel("test auROC, CTCF, width 32")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    save(figure, path)


def discordance(rows: list[Row], path: Path) -> None:
    """Strand discordance and flip rate of the strategies that are not exact, a dot for each seed."""
    plt = pyplot()
    shown = [s for s in SHOWN if s.way in ("plain", "augmented", "consistency") and s.reading == "x"]
    tasks = [t for t in TITLES if any(r["task"] == t and r["way"] == BASE.way for r in rows)]
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4), sharey=True)
    for axis, what in zip(axes, ("discordance", "flip rate"), strict=True):
        for i, s in enumerate(shown):
            for place, task in enumerate(tasks):
                values = [r[what] for r in chosen(rows, task, s, width_of(rows, task)).values()]
                y = [place + 0.22 * (i - 1)] * len(values)
                axis.plot(values, y, "o", ms=3.5, color=s.style[0], label=s.name if place == 0 else None)
        axis.set_yticks(range(len(tasks)), [TITLES[t] for t in tasks])
        axis.axvline(0, color="C3", lw=1.5, label="tied, conjoined, mixed: exactly 0")
        axis.grid(alpha=0.3)
    axes[0].set_xlabel("mean |f(x) - f(rc x)|, in standard deviations of f(x)")
    axes[1].set_xlabel("share of sequences whose verdict depends on the strand")
    axes[0].invert_yaxis()
    axes[1].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Without a date, so that the same results give the same file."""
    figure.savefig(path, metadata={"Date": None})


def parse(argv: list[str] | None) -> argparse.Namespace:
    here = Path(__file__).parent
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("results", type=Path, nargs="*", default=[here / "strategies.jsonl"], help="of strategies.py")
    p.add_argument("--images", type=Path, default=here.parent / "images", help="folder for the figures")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    rows = read(args.results)
    cost(rows, "ctcf-4000", args.images / "strategies_cost.svg")
    sizes(rows, args.images / "strategies_size.svg")
    discordance(rows, args.images / "strategies_discordance.svg")


if __name__ == "__main__":
    main()
