"""Figures of the results of strategies.py: score against cost, against training-set size, and strand discordance."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from strategies_report import BASE, SHOWN, TITLES, Row, Shown, chosen, differences, read, score, width_of

WIDE = 5


def pyplot() -> Any:
    """matplotlib with text as text, so that the files are small, and the same names in each run.

    Figures are `WIDE` inches wide, so that their text is readable on a phone too.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "strategies", "font.size": 12, "legend.fontsize": 12}
    )
    from matplotlib import pyplot

    return pyplot


def line(axis: Any, shown: Shown, points: list[tuple[float, np.ndarray]]) -> None:
    """Means over seeds, with bars of one standard deviation; nothing of a single point."""
    if len(points) > 1:
        x, values = zip(*sorted(points, key=lambda p: p[0]), strict=True)
        spread = [v.std(ddof=1) if len(v) > 1 else 0.0 for v in values]
        colour, style, marker = shown.style
        how = {"ms": 4, "lw": 1, "elinewidth": 0.5, "label": shown.name}
        axis.errorbar(x, [v.mean() for v in values], spread, color=colour, ls=style, marker=marker, **how)


def cost(rows: list[Row], task: str, path: Path) -> None:
    """Score against the FLOPs of inference, as they are and as half products, and of training, over the widths."""
    plt = pyplot()
    figure, axes = plt.subplots(3, 1, figsize=(WIDE, 15))
    panels = (("inference", "inference"), ("inference, half", "inference, half products"), ("training", "training"))
    for axis, (key, words) in zip(axes, panels, strict=True):
        for shown in (s for s in SHOWN if s.times == 1):
            passes = 1 if key == "training" else shown.passes
            groups = [g for width in (16, 32, 64, 128) if (g := chosen(rows, task, shown, width))]
            places = [next(iter(g.values()))[key] * passes / 1e6 for g in groups]
            scores = [np.array([score(r, shown) for r in g.values()]) for g in groups]
            line(axis, shown, [*zip(places, scores, strict=True)])
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel(f"MFLOPs per sequence, {words}")
        axis.set_ylabel("test auROC")
        axis.grid(alpha=0.3)
    axes[0].set_title(TITLES[task], fontsize=12)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=1, frameon=False)
    figure.tight_layout(rect=(0, 0.018 * len(labels), 1, 1))
    save(figure, path)


def sizes(rows: list[Row], path: Path) -> None:
    """Difference from augmentation against the number of training sequences of CTCF, at width 32, seed by seed."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(WIDE, 8.5))
    for shown in SHOWN:
        points = []
        for task in ("ctcf-1000", "ctcf-4000", "ctcf-14134"):
            mine, base = chosen(rows, task, shown, 32), chosen(rows, task, BASE, 32)
            if mine:
                points.append((next(iter(mine.values()))["train"], differences(mine, shown, base, BASE)))
        line(axis, shown, points)
    axis.set_xscale("log")
    axis.set_xticks([1000, 4000, 14134], ["1,000", "4,000", "14,134"])
    axis.minorticks_off()
    axis.set_xlabel("training sequences")
    axis.set_ylabel("difference of test auROC")
    axis.grid(alpha=0.3)
    axis.set_title("CTCF, width 32, less augmentation", fontsize=12)
    labels = axis.get_legend_handles_labels()[1]
    figure.legend(loc="lower center", frameon=False)
    figure.tight_layout(rect=(0, 0.031 * len(labels), 1, 1))
    save(figure, path)


def discordance(rows: list[Row], path: Path) -> None:
    """Strand discordance and flip rate of the strategies that are not exact, a dot for each seed."""
    plt = pyplot()
    shown = [s for s in SHOWN if s.way in ("plain", "augmented", "consistency") and s.reading == "x"]
    tasks = [t for t in TITLES if any(r["task"] == t and r["way"] == BASE.way for r in rows)]
    figure, axes = plt.subplots(2, 1, figsize=(WIDE, 12))
    for axis, what in zip(axes, ("discordance", "flip rate"), strict=True):
        for i, s in enumerate(shown):
            for place, task in enumerate(tasks):
                values = [r[what] for r in chosen(rows, task, s, width_of(rows, task)).values()]
                y = [place + 0.22 * (i - 1)] * len(values)
                axis.plot(values, y, "o", ms=3.5, color=s.style[0], label=s.name if place == 0 else None)
        axis.set_yticks(range(len(tasks)), [TITLES[t] for t in tasks])
        axis.axvline(0, color="C3", lw=1.5, label="tied, conjoined, mixed: exactly 0")
        axis.grid(alpha=0.3)
        axis.invert_yaxis()
    axes[0].set_xlabel("|f(x) - f(rc x)| / sd")
    axes[1].set_xlabel("verdicts that flip")
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", frameon=False)
    figure.tight_layout(rect=(0, 0.022 * len(labels), 1, 1))
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
