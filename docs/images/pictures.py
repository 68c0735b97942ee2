"""The drawn pictures of the pages: ``python docs/images/pictures.py`` writes the SVG files beside it.

Each picture is 360 units wide and is shown no wider than 450 px, so that its text is 13 px high on a
phone. The paper is white in light and in dark.
"""

import re
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

WIDTH = 360
SIZE = 13
INK, GREY, LINE, PAPER = "#1f2430", "#5d6470", "#9aa1ab", "#ffffff"
BLUE, ORANGE = "#0b6e99", "#b3500b"
PALE_BLUE, PALE_ORANGE, PALE = "#dcebf3", "#f9e4d3", "#f1f2f4"


class Picture:
    """A drawing in SVG, in units of about a pixel of a phone."""

    def __init__(self, height: float, label: str) -> None:
        self.height, self.label, self.parts = height, label, list[str]()

    def rect(
        self, x: float, y: float, w: float, h: float, fill: str = PAPER, stroke: str = LINE, **more: object
    ) -> None:
        """A box; ``dash``, ``width`` and ``rx`` say how it is drawn."""
        dash = f' stroke-dasharray="{more["dash"]}"' if "dash" in more else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{more.get("rx", 0)}" fill="{fill}" '
            f'stroke="{stroke}" stroke-width="{more.get("width", 1)}"{dash}/>'
        )

    def text(self, x: float, y: float, words: str, fill: str = INK, anchor: str = "start", bold: bool = False) -> None:
        """A line of text whose baseline is at y."""
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{fill}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )

    def lines(self, x: float, y: float, *words: str, fill: str = INK) -> None:
        """Lines of text, the first at y."""
        for n, line in enumerate(words):
            self.text(x, y + 19 * n, line, fill)

    def line(self, *points: tuple[float, float], stroke: str = INK, arrow: bool = True, dash: str = "") -> None:
        """A line through points, with an arrow at its end."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        head = ' marker-end="url(#head)"' if arrow else ""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="1.5"{head}{dashed}/>')

    def box(self, x: float, y: float, w: float, h: float, words: str, fill: str = PALE, stroke: str = LINE) -> None:
        """A box with a word in its middle."""
        self.rect(x, y, w, h, fill, stroke, rx=4)
        self.text(x + w / 2, y + h / 2 + 4.5, words, anchor="middle")

    def __str__(self) -> str:
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height:g}" width="450" '
            f'height="{self.height * 1.25:g}" font-family="system-ui, sans-serif" font-size="{SIZE}" role="img" '
            f'aria-label="{escape(self.label)}">\n'
            f'<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>\n'
            f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>\n{body}\n</svg>\n'
        )


def shade(value: float) -> str:
    """A blue for a number from 0 (white) to 1."""
    low, high = (255, 255, 255), (11, 110, 153)
    return "#" + "".join(f"{round(a + (b - a) * value):02x}" for a, b in zip(low, high, strict=True))


# --- one filter and its partner ---------------------------------------------------------------------

FILTER = {
    "A": (0.1, 1.0, 0.1, 0.9, 0.7),
    "C": (0.0, 0.0, 0.1, 0.0, 0.1),
    "G": (1.0, 0.1, 0.0, 0.1, 0.2),
    "T": (0.2, 0.0, 1.0, 0.1, 0.0),
}
"""A filter that looks for GATAA: how much each base counts at each of five positions."""


def filter_pair() -> Picture:
    """A filter and the one that reverse complement makes of it."""
    picture = Picture(
        226, "A filter that looks for GATAA, and its partner that looks for TTATC: the same, turned by 180 degrees"
    )
    rows = [list(row) for row in FILTER.values()]
    partner = [row[::-1] for row in rows[::-1]]
    sides = (
        (22, "filter 1: stored", rows, "GATAA", BLUE),
        (214, "partner: computed", partner, "TTATC", ORANGE),
    )
    for x, name, grid, finds, fill in sides:
        picture.text(x, 22, name, fill, bold=True)
        for i, (base, row) in enumerate(zip("ACGT", grid, strict=True)):
            picture.text(x - 7, 52 + 26 * i, base, anchor="end")
            for j, value in enumerate(row):
                picture.rect(x + 26 * j, 34 + 26 * i, 26, 26, shade(value))
        for j, letter in enumerate(finds):
            picture.text(x + 26 * j + 13, 158, letter, fill, "middle", bold=True)
    picture.line((158, 86), (194, 86))
    picture.text(180, 186, "Turned by 180°: A changes places with T, C with G,", anchor="middle")
    picture.text(180, 206, "and the positions are read backwards.", anchor="middle")
    return picture


# --- a tied weight as a matrix ----------------------------------------------------------------------

TAPS = {(0, 0): (0.9, 0.5, 0.1), (0, 1): (0.2, 0.7, 0.3), (1, 0): (0.0, 0.4, 0.9), (1, 1): (0.6, 0.1, 0.4),
        (0, 2): (0.1, 0.9, 0.6), (0, 3): (0.8, 0.2, 0.0), (1, 2): (0.5, 0.0, 0.7), (1, 3): (0.3, 1.0, 0.6)}  # fmt: skip


def tied_weight() -> Picture:
    """The weight of a convolution from two pairs of channels to two pairs of filters, kernel 3."""
    picture = Picture(
        316,
        "The weight of a convolution from four channels to four filters. The lower half is computed from the upper one",
    )
    left, top, cell, high = 84, 60, 63, 38
    names = ("1", "2", "1'", "2'")
    picture.text(left + 2 * cell, 18, "reads channels", GREY, "middle")
    for j, name in enumerate(names):
        picture.text(left + cell * (j + 0.5), 46, name, anchor="middle")
    for i, name in enumerate(names):
        picture.text(left - 8, top + high * i + 24, name, anchor="end")
        for j in range(4):
            taps = TAPS[i, j] if i < 2 else TAPS[i - 2, (j + 2) % 4][::-1]
            stroke = BLUE if (i < 2) == (j < 2) else ORANGE
            picture.rect(left + cell * j + 3, top + high * i + 4, cell - 6, high - 8, PAPER, stroke, width=2)
            for k, value in enumerate(taps):
                picture.rect(left + cell * j + 6 + 17 * k, top + high * i + 7, 17, high - 14, shade(value))
    picture.text(12, top + 30, "stored", BLUE, bold=True)
    picture.text(12, top + 2 * high + 40, "from", GREY)
    picture.text(12, top + 2 * high + 56, "above", GREY)
    picture.line((8, top + 2 * high), (left + 4 * cell + 4, top + 2 * high), stroke=INK, arrow=False, dash="5 4")
    words = (
        "1 and 1' are a pair: reverse complement swaps",
        "them. Filter 1' reads 1' as filter 1 reads 1 (blue),",
        "and reads 1 as filter 1 reads 1' (orange), each with",
        "its taps read backwards.",
    )
    picture.lines(12, 240, *words)
    return picture


# --- the strategies ---------------------------------------------------------------------------------


def _two_strands(picture: Picture, y: float, apart: float, crossed: bool) -> None:
    """Both strands through the network, and a merge of the two readings."""
    middle = y + 14 + apart / 2
    for lane, (words, network) in enumerate((("x", "your model"), ("rc(x)", "same weights"))):
        at = y + apart * lane
        picture.text(48, at + 19, words, anchor="end")
        picture.line((54, at + 14), (80, at + 14))
        picture.box(82, at, 102, 28, network, PALE_ORANGE if lane else PALE_BLUE)
        picture.line((184, at + 14), (214, at + 14), (234, middle + 6 * (2 * lane - 1)))
    if crossed:
        picture.line((116, y + 28), (116, y + apart - 1))
        picture.line((150, y + apart), (150, y + 29))
    picture.box(236, middle - 16, 56, 32, "mean")
    picture.line((292, middle), (314, middle))
    picture.text(320, middle + 5, "y")


def _filters(picture: Picture, x: float, title: str, letters: str) -> None:
    """Filters by their letters; a and A look for one motif on either strand."""
    picture.text(x, 366, title, GREY)
    for n, letter in enumerate(letters):
        picture.rect(x + 16 * n, 374, 16, 24, PALE_BLUE if letter.islower() else PALE_ORANGE)
        picture.text(x + 16 * n + 8, 391, letter, anchor="middle")


def strategies() -> Picture:
    """Tied, conjoined, mixed and matched."""
    picture = Picture(
        472,
        "Tied weights in one pass; conjoined and mixed in two passes; matched, from trained weights to tied ones",
    )
    picture.text(12, 22, "tied: one pass, half the parameters", BLUE, bold=True)
    picture.text(48, 57, "x", anchor="end")
    picture.line((54, 52), (80, 52))
    picture.box(82, 38, 102, 28, "tied weights", PALE_BLUE)
    picture.line((184, 52), (314, 52))
    picture.text(320, 57, "y")
    picture.text(12, 98, "conjoined: two passes, same weights", BLUE, bold=True)
    _two_strands(picture, 110, 38, False)
    picture.text(12, 212, "mixed: layers see the other strand too", BLUE, bold=True)
    _two_strands(picture, 224, 56, True)
    picture.text(12, 344, "matched: from trained weights to tied", BLUE, bold=True)
    _filters(picture, 12, "trained", "aCbABc")
    picture.line((112, 386), (136, 386))
    _filters(picture, 140, "reordered", "abcABC")
    picture.line((240, 386), (264, 386))
    _filters(picture, 268, "averaged", "abc")
    words = (
        "a and A look for one motif, one on each strand.",
        "Matching finds such pairs, and stores the mean of",
        "the two. The model then runs in one pass.",
    )
    picture.lines(12, 422, *words)
    return picture


# --- what a plan's lines refer to -------------------------------------------------------------------


def _named(picture: Picture, y: float, name: str, *words: str) -> None:
    """A tensor's name, and below it what happens to its axes."""
    picture.text(170, y, name, bold=True)
    picture.lines(170, y + 19, *words, fill=GREY)


def plan_lines() -> Picture:
    """The model of the README, with what its plan says of each tensor."""
    picture = Picture(476, "A model from input to output, and beside each tensor the words of the plan")
    for n, base in enumerate("ACGT"):
        picture.text(18, 31 + 14 * n, base, anchor="end")
        picture.rect(24, 20 + 14 * n, 126, 14, PALE_BLUE if base in "AC" else PALE_ORANGE)
    _named(picture, 30, "input 0: (2, 4, 1000)", "batch of 2", "4 bases: 2 pairs", "1000 positions: reversed")
    picture.line((86, 84), (86, 116))
    picture.rect(24, 120, 126, 46, PALE_BLUE)
    picture.text(87, 148, "32 stored", anchor="middle")
    picture.rect(24, 166, 126, 46, PALE_ORANGE)
    picture.text(87, 194, "32 computed", anchor="middle")
    words = "64 filters: 32 pairs", "4 bases: 2 pairs", "15 positions: reversed", "stored: (32, 4, 15)"
    _named(picture, 130, "0 weight: (64, 4, 15)", *words)
    picture.line((86, 216), (86, 256))
    picture.rect(24, 262, 63, 24, PALE_BLUE)
    picture.text(55, 279, "stored", anchor="middle")
    picture.rect(87, 262, 63, 24, PALE_ORANGE)
    picture.text(118, 279, "same", anchor="middle")
    _named(picture, 248, "4 weight: (1, 64)", "1 output: fixed", "64 features: 32 pairs", "stored: (1, 32)")
    picture.line((86, 290), (86, 346))
    picture.rect(70, 352, 32, 24, PALE)
    _named(picture, 350, "output 0: (2, 1)", "batch of 2", "1 logit: fixed (invariant)")
    picture.lines(
        12,
        416,
        "Under reverse complement, a blue part and an",
        "orange one change places: A and T, C and G, a",
        "filter and its partner.",
    )
    return picture


# --- re-anchoring -----------------------------------------------------------------------------------


def _pooled(picture: Picture, y: float, right: bool, mirrored: bool) -> None:
    """Eleven positions, and the two windows of four that a pool takes from one edge."""
    color, start = (ORANGE, 3) if right else (BLUE, 0)
    for n in range(11):
        used = start <= n < start + 8
        picture.rect(12 + 30 * n, y, 30, 28, PALE if used else PAPER, LINE, **({} if used else {"dash": "3 3"}))
        picture.text(27 + 30 * n, y + 19, str(11 - n if mirrored else n + 1), INK if used else GREY, "middle")
    for window in range(2):
        picture.rect(13 + 30 * (start + 4 * window), y - 2, 118, 32, "none", color, width=2.5, rx=4)


def two_anchors() -> Picture:
    """A pool of 4 on 11 positions, read from both edges, on both strands."""
    picture = Picture(
        382,
        "A pool of 4 on 11 positions: half of the channels read from the left edge, the others from the right edge",
    )
    y = 22.0
    for title, mirrored in (("given strand", False), ("reverse complement", True)):
        picture.text(12, y, title, bold=True)
        for half, right in (
            ("first half of the channels: from the left edge", False),
            ("second half: from the right edge", True),
        ):
            picture.text(12, y + 22, half, ORANGE if right else BLUE)
            _pooled(picture, y + 32, right, mirrored)
            y += 66
        y += 34
    picture.lines(
        12, y - 6, "The blue windows of one strand hold the same", "positions as the orange windows of the other."
    )
    return picture


# --- the mark ---------------------------------------------------------------------------------------


def mark() -> str:
    """The logo: two arrows that are each other's mirror image."""
    arrow = "M5,12 H20 V7 L28,14 L20,21 V16 H5 z"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        '<rect width="32" height="32" rx="7" fill="#0b6e99"/>'
        f'<g transform="translate(0 -3.5) scale(1 .9)"><path d="{arrow}" fill="#fff"/></g>'
        f'<g transform="rotate(180 16 16) translate(0 -3.5) scale(1 .9)"><path d="{arrow}" fill="#f6b37f"/></g></svg>\n'
    )


PICTURES: dict[str, Callable[[], object]] = {
    "filter-pair": filter_pair,
    "tied-weight": tied_weight,
    "strategies": strategies,
    "plan-lines": plan_lines,
    "two-anchors": two_anchors,
    "logo": mark,
    "favicon": mark,
}


def drawn() -> Iterator[tuple[str, str]]:
    """File names and what they hold."""
    for name, draw in PICTURES.items():
        yield f"{name}.svg", re.sub(r"[ \t]+\n", "\n", str(draw()))


if __name__ == "__main__":
    for file, held in drawn():
        (Path(__file__).parent / file).write_text(held, encoding="utf-8")
