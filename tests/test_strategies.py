"""The comparison of strategies in docs/benchmarks: its simulator, its scores, its costs, and a run at a tiny size."""

import functools
import importlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from inprocess import run_script
from tiers import some

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "docs" / "benchmarks"
DATA = Path(os.environ.get("RCPS_BENCHMARK_DATA", ROOT.parent / "shared" / "data"))
BASES = "ACGT"


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    """The scripts as modules; what the tests have under the same names comes back afterwards."""
    names = [p.stem for p in SCRIPTS.glob("*.py")]
    ours = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(SCRIPTS))
    wanted = ("simulate", "tasks", "protocol", "ways", "strand_nets", "label_symmetry", "strategies")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in wanted})
    sys.path.remove(str(SCRIPTS))
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(ours)


@pytest.fixture(scope="module")
def few(scripts: SimpleNamespace) -> Callable[[int], Any]:
    """Few sequences of a length, from one drawing of them."""

    def tenth(n: int, *how: Any) -> Any:
        return scripts.simulate.binding(n // 10, *how)

    @functools.cache
    def task(length: int) -> Any:
        return scripts.tasks.simulated("few", tenth, length, "binary", True).limited(64)

    return task


# --- the simulator, by an oracle that reads strings ----------------------------------------------


def text(letters: np.ndarray) -> str:
    return "".join(BASES[i] for i in letters)


def other_strand(sequence: str) -> str:
    return "".join({"A": "T", "C": "G", "G": "C", "T": "A"}[base] for base in reversed(sequence))


def published(name: str) -> np.ndarray:
    """Base frequencies of a motif, read from the file in another way than the simulator's."""
    block = (SCRIPTS / "motifs.jaspar").read_text().split(f"\t{name}\n")[1].split(">")[0]
    rows = {line[0]: [int(n) for n in re.findall(r"\d+", line)] for line in block.splitlines()}
    counts = np.array([rows[base] for base in BASES], dtype=float)
    return (counts / counts.sum(0)).T


def words(found: object, name: str) -> list[str]:
    """The instances of a motif as they read on their own strand."""
    cut = []
    for i in found.instances:
        if i.motif == name:
            word = text(found.letters[i.sequence])[i.start : i.start + i.width]
            cut.append(word if i.strand == 1 else other_strand(word))
    return cut


@pytest.fixture(scope="module")
def bound(scripts: SimpleNamespace) -> Any:
    """3,000 sequences, half of them with motifs."""
    return scripts.simulate.binding(3000, 60, seed=1)


@pytest.mark.parametrize("name", some(["GATA1", "MAX"], 1))
def test_instances_have_the_frequencies_of_the_published_matrix(bound: Any, name: str) -> None:
    cut, matrix = words(bound, name), published(name)
    assert len(cut) == 1500
    seen = np.array([[sum(word[p] == base for word in cut) for base in BASES] for p in range(len(matrix))]) / len(cut)
    assert np.abs(seen - matrix).max() < 5 * math.sqrt(0.25 / len(cut))  # five standard deviations at most


def test_instances_lie_on_both_strands_everywhere_and_apart(bound: Any) -> None:
    forward = sum(i.strand == 1 for i in bound.instances)
    assert abs(forward - 1500) < 5 * math.sqrt(3000 / 4)
    assert {i.start for i in bound.instances if i.motif == "GATA1"} == set(range(60 - 7 + 1))
    for row in range(0, 1500, 50):
        first, second = sorted((i for i in bound.instances if i.sequence == row), key=lambda i: i.start)
        assert first.start >= 0
        assert first.start + first.width <= second.start <= 60 - second.width


def test_both_labels_have_the_same_letters_in_all(scripts: SimpleNamespace) -> None:
    found = scripts.simulate.binding(400, 80, seed=3)
    strong = [sum(base in "CG" for base in text(row)) for row in found.letters]
    assert strong[:200] == strong[200:]
    assert found.labels.tolist() == [1.0] * 200 + [0.0] * 200
    assert 0.45 < np.mean(strong) / 80 < 0.55
    assert len({text(row) for row in found.letters}) == 400


def test_backgrounds_have_the_gc_content_asked_for(scripts: SimpleNamespace) -> None:
    rows = scripts.simulate.background(50, 40, np.full(50, 0.3), np.random.default_rng(0))
    assert {sum(base in "CG" for base in text(row)) for row in rows} == {12}
    assert set(text(rows.flatten())) == set(BASES)


def test_the_label_of_one_strand_is_the_strand(scripts: SimpleNamespace) -> None:
    found = scripts.simulate.one_strand(500, 50, seed=4)
    assert [i.strand for i in found.instances] == [1 if y else -1 for y in found.labels]
    best = [published("GATA1")[p].argmax() for p in range(7)]
    hits = [text(found.letters[i.sequence])[i.start : i.start + 7] for i in found.instances if i.strand == 1]
    assert np.mean([word[3] == BASES[best[3]] for word in hits]) > 0.85


def test_profiles_turn_round_with_their_sequences(scripts: SimpleNamespace) -> None:
    simulate = scripts.simulate
    there = simulate.Instance(0, "GATA1", 20, 7, 1)
    mirrored = simulate.Instance(0, "GATA1", 100 - 27, 7, -1)
    rates = [simulate.expected_reads(1, 100, (i,), {"GATA1": 30.0})[0] for i in (there, mirrored)]
    np.testing.assert_allclose(rates[0][::-1, ::-1], rates[1], rtol=1e-12)
    own, other = rates[0]
    assert own.argmax() == 23 - 12
    assert other.argmax() == 23 + 12
    assert own.max() == pytest.approx(0.02 + 30 / (5 * math.sqrt(2 * math.pi)))
    assert other.sum() - 2 == pytest.approx((own.sum() - 2) / 2, rel=0.02)


def test_counts_follow_the_expected_reads(scripts: SimpleNamespace) -> None:
    found = scripts.simulate.profiles(300, 120, seed=5)
    heights = {"GATA1": 30.0, "Spi1": 50.0, "Pou5f1::Sox2": 70.0}
    rates = scripts.simulate.expected_reads(300, 120, found.instances, heights)
    assert found.labels.shape == (300, 2, 120)
    assert abs(found.labels.sum() - rates.sum()) < 5 * math.sqrt(rates.sum())
    assert np.corrcoef(found.labels.flatten(), rates.flatten())[0, 1] > 0.5


# --- scores and costs ----------------------------------------------------------------------------


def test_the_scores_agree_with_definitions(scripts: SimpleNamespace) -> None:
    protocol = scripts.protocol
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(200, generator=generator).double().round(decimals=1)  # with ties
    y = (torch.rand(200, generator=generator) < torch.sigmoid(f)).float()
    pairs = [(a > b) + 0.5 * (a == b) for a in f[y == 1] for b in f[y == 0]]
    assert protocol.primary("binary", f, y) == pytest.approx(float(sum(pairs)) / len(pairs))
    steps = sorted({float(v) for v in f}, reverse=True)
    recalls = [float(y[f >= s].sum() / y.sum()) for s in steps]
    precisions = [float(y[f >= s].mean()) for s in steps]
    areas = [(r - before) * p for r, before, p in zip(recalls, [0.0, *recalls], precisions, strict=False)]
    assert protocol.average_precision(f, y) == pytest.approx(sum(areas))
    assert protocol.calibration("regression", f, 3 * f + 1) == pytest.approx(3)
    assert protocol.calibration("binary", torch.full((100,), -50.0), torch.ones(100)) == pytest.approx(1)
    assert protocol.flipped("binary", torch.tensor([1.0, -1, 2]), torch.tensor([1.0, 1, -2])) == pytest.approx(2 / 3)


def test_the_distance_of_two_answers_vanishes_where_they_agree(scripts: SimpleNamespace) -> None:
    f, g = torch.randn(2, 50, generator=torch.Generator().manual_seed(1)).double()
    for kind in ("binary", "regression", "profile"):
        assert float(scripts.protocol.distance(kind, f, f)) == 0
        assert float(scripts.protocol.distance(kind, f, g)) > 0
    p, q = f.sigmoid(), g.sigmoid()
    kl = [(a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()).mean() for a, b in ((p, q), (q, p))]
    assert float(scripts.protocol.distance("binary", f, g)) == pytest.approx(float(sum(kl)))


@pytest.mark.slow
def test_the_costs_are_those_of_the_formula(scripts: SimpleNamespace, few: Callable[[int], Any]) -> None:
    task = few(101)
    way, price = scripts.ways.WAYS, {}
    for name in ("plain", "tied", "tied, mean before head", "conjoined", "consistency", "mixed"):
        price[name] = scripts.ways.cost(way[name], way[name].make(task, 8)(0), task)
    kernels, pools, left = scripts.strand_nets.shape(101)
    length, macs = 101, 0
    for c_in, kernel, pool in zip((4, 8, 8), kernels, pools, strict=True):
        length -= kernel - 1
        macs += length * 8 * c_in * kernel
        length //= pool
    assert length == left
    head = 8 * left * 16 + 16
    assert price["plain"]["inference"] == 2 * (macs + head)
    assert price["tied"]["inference"] == 2 * price["tied"]["inference, half"] == price["plain"]["inference"]
    assert price["conjoined"]["inference"] == 2 * price["plain"]["inference"]
    assert price["consistency"]["training"] == 2 * price["plain"]["training"]
    folded = price["tied, mean before head"]
    assert folded["inference, half"] == macs + 2 * (4 * left * 8 + 8)
    mixed = price["mixed"]
    assert mixed["inference, half"] == price["conjoined"]["inference"]  # W and V cost what W alone does
    assert mixed["inference"] > mixed["inference, half"]


@pytest.mark.parametrize("name", ["tied", "tied, mean before head", "conjoined", "mixed", "rcps-pytorch", "equirc"])
def test_exact_strategies_do_not_depend_on_the_strand(
    scripts: SimpleNamespace, few: Callable[[int], Any], name: str
) -> None:
    pytest.importorskip({"rcps-pytorch": "rcps"}.get(name, name if name == "equirc" else "torch"))
    task = few(101)
    model = scripts.ways.WAYS[name].make(task, 8)(0)
    x = task.splits["train"][0].float()
    model.train()(x)  # running statistics
    exact = model.double().eval()
    with torch.no_grad():
        torch.testing.assert_close(exact(x.double()), exact(x.double().flip(1, 2)), rtol=1e-10, atol=1e-10)


def test_only_what_is_missing_is_done(scripts: SimpleNamespace) -> None:
    s = scripts.strategies
    wanted = [
        s.Unit("starr", "augmented", 8, (0, 1)),
        s.Unit("starr", "tied", 8, (0, 1)),
        s.Unit("starr", "tied", 8, (0, 1)),
    ]
    known = [{"task": "starr", "way": way, "width": 8, "seed": seed} for way, seed in (("augmented", 0), ("tied", 1))]
    assert s.missing(wanted, known) == [s.Unit("starr", "augmented", 8, (0, 1)), s.Unit("starr", "tied", 8, (0,))]
    known += [{"task": "starr", "way": way, "width": 8, "seed": 0} for way in ("matched", "distilled")]
    assert s.missing(wanted, known)[0].seeds == (1,)


def test_sequences_of_the_test_split_are_not_trained_on(scripts: SimpleNamespace) -> None:
    splits = {
        "train": [("AACC", 1.0), ("GGTT", 2.0), ("ACAC", 3.0)],
        "validation": [("ACAC", 1.0)],
        "test": [("AACC", 0.0)],
    }
    kept = scripts.tasks.unseen(splits)
    assert kept == {"test": [("AACC", 0.0)], "validation": [("ACAC", 1.0)], "train": []}


# --- label_symmetry ------------------------------------------------------------------------------


def test_labels_of_both_strands_are_compared(scripts: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    sequences, labels = ["ACGT" * 3, "CCCCCCCC"], [9.0, 9.0]  # a palindrome, and one without a partner
    for _ in range(4000):
        word, common = text(rng.integers(0, 4, 12)), rng.normal()
        sequences += [word, other_strand(word).lower()]
        labels += [common + 0.5 * rng.normal(), common + 0.5 * rng.normal()]
    found = scripts.label_symmetry.label_symmetry(sequences, labels)
    assert abs(found.pairs - 4000) < 10
    assert found.r == pytest.approx(1 / 1.25, abs=0.02)
    assert found.difference == pytest.approx(0.5, rel=0.03)
    assert found.ceiling == pytest.approx(math.sqrt(0.9), abs=0.01)
    assert found.low < 0.8 < found.high


def test_a_table_without_pairs_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "few.tsv"
    table.write_text("sequence\ty\nAAAC\t1\nGTTT\t2\nCCCC\t3\n")
    done = run_script(SCRIPTS / "label_symmetry.py", table, "--label", "y")
    assert done.returncode == 1
    assert "1 sequences were measured on both strands: too few to compare" in done.stderr


# --- the whole -----------------------------------------------------------------------------------


def quick(tmp_path: Path, data: Path, *arguments: str) -> tuple[list[dict], str]:
    out = tmp_path / "found.jsonl"
    done = run_script(SCRIPTS / "strategies.py", "--quick", "--data", data, "--out", out, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    again = run_script(SCRIPTS / "strategies.py", "--quick", "--data", data, "--out", out, *arguments)
    assert again.returncode == 0
    assert len(out.read_text().splitlines()) == len(rows)  # nothing is done twice
    return rows, done.stderr


EXACT = {"tied", "tied, mean before head", "conjoined", "mixed", "matched", "distilled", "rcps-pytorch", "equirc"}


@pytest.mark.slow
def test_every_strategy_runs_and_missing_files_are_named(tmp_path: Path) -> None:
    rows, told = quick(tmp_path, tmp_path, "--tasks", "simulated-200", "starr")
    assert "starr_249bp.tsv.gz" in told
    assert {r["task"] for r in rows} == {"simulated-200"}
    assert {r["way"] for r in rows} >= {"plain", "augmented", "consistency"} | EXACT - {"rcps-pytorch", "equirc"}
    for row in rows:
        assert (row["discordance"] < 1e-9) == (row["way"] in EXACT)
        assert 0 <= row["both"]["score"] <= 1
        if row["way"] in EXACT:
            assert row["x"]["score"] == pytest.approx(row["rc"]["score"], abs=1e-3)  # ties may be broken by rounding
        assert row["parameters"] > 0
        assert row["inference, half"] <= row["inference"] < row["training"]


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not beside the checkout")
def test_every_data_set_runs(tmp_path: Path) -> None:
    rows, told = quick(tmp_path, DATA)
    missing = {name for name in ("oct4-mafk",) if "janggu" in told}
    assert {r["task"] for r in rows} == set(TASKS) - missing
    assert {r["way"] for r in rows if r["task"] == "profile"} == {"plain", "tied"}
    assert {r["width"] for r in rows if r["way"] == "tied"} == {4, 8}


# --- the page ------------------------------------------------------------------------------------


def test_the_page_shows_the_tables_of_the_results(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs" / "which-strategy.md").read_text(encoding="utf-8"), encoding="utf-8")
    done = run_script(SCRIPTS / "strategies_report.py", "--page", page)
    assert done.returncode == 0, done.stderr
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "which-strategy.md").read_text(encoding="utf-8")
    assert "-->\n<!-- end -->" not in page.read_text(encoding="utf-8")  # every table is filled
    assert done.stdout == (SCRIPTS / "strategies.txt").read_text(encoding="utf-8")


def test_the_results_hold_five_seeds_of_every_strategy_and_width_of_ctcf() -> None:
    rows = [json.loads(line) for line in (SCRIPTS / "strategies.jsonl").read_text().splitlines()]
    seeds: dict[tuple, set[int]] = {}
    for r in rows:
        seeds.setdefault((r["task"], r["way"], r["width"]), set()).add(r["seed"])
    for way in {"plain", "augmented", "consistency"} | EXACT:
        for width in (16, 32, 64):
            assert len(seeds["ctcf-4000", way, width]) == 5
    for task in TASKS:
        width = 16 if task == "simulated-1000" else 32
        found = [seeds[task, way, w] for way, w in (("plain", width), ("augmented", width), ("tied", 2 * width))]
        assert min(map(len, found)) >= 3


def test_differences_have_the_interval_of_students_t(scripts: SimpleNamespace) -> None:
    report = importlib.import_module("strategies_report")
    values = np.array([0.01, 0.02, 0.03, 0.02, 0.02])
    middle, half = report.interval(values)
    assert middle == pytest.approx(0.02)
    assert half == pytest.approx(
        2.776445 * math.sqrt(0.00005) / math.sqrt(5)
    )  # the quantile of four degrees of freedom
    assert report.signed(values).startswith("**+0.0200 ± ")
    assert report.signed(np.array([0.01, -0.01])) == "+0.0000 ± 0.1271"
    rows = [{"task": "starr", "way": w, "width": 8, "seed": s, "x": {"score": v}} for w, s, v in (
        ("plain", 0, 0.5), ("plain", 1, 0.25), ("augmented", 1, 0.75), ("augmented", 2, 1.0))]  # fmt: skip
    plain, base = report.BY_NAME["plain"], report.BASE
    found = [report.chosen(rows, "starr", s, 8) for s in (plain, base)]
    assert report.differences(found[0], plain, found[1], base).tolist() == [-0.5]  # the one seed both have


@pytest.mark.parametrize("name", ["strategies_cost", "strategies_size", "strategies_discordance"])
def test_the_figures_are_light_and_hold_text(name: str) -> None:
    drawn = ROOT / "docs" / "images" / f"{name}.svg"
    assert drawn.stat().st_size < 200_000
    assert "augmented" in drawn.read_text(encoding="utf-8")


@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not beside the checkout")
def test_the_page_quotes_the_symmetry_of_the_labels() -> None:
    table = DATA / "mpra_230bp.tsv.gz"
    done = run_script(SCRIPTS / "label_symmetry.py", table, "--label", "log2_activity", "--trim", 15)
    page = (ROOT / "docs" / "which-strategy.md").read_text(encoding="utf-8")
    assert f"```text\n{done.stdout}```" in page


TASKS = (
    "ctcf-4000", "ctcf-1000", "ctcf-14134", "starr", "oct4-mafk", "simulated-200", "simulated-1000", "profile",
    "yeast", "mpra", "one-strand",
)  # fmt: skip
