"""The benchmark scripts of docs/benchmarks run from the command line and print what the page quotes."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from inprocess import run_script

ROOT = Path(__file__).resolve().parents[1]
CTCF = ROOT.parent / "shared" / "data" / "ctcf_101bp.tsv.gz"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """A script of docs/benchmarks, as the main program of this process."""
    return run_script(ROOT / "docs" / "benchmarks" / script, *arguments)


def run_apart(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """A script of docs/benchmarks in an interpreter of its own, with this checkout's package."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(ROOT / "docs" / "benchmarks" / script), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


def figures(script: str, folder: Path, *arguments: object, run: Any = run) -> tuple[dict[str, Any], str]:
    """What a script wrote to --json, and what it printed."""
    done = run(script, *arguments, "--json", folder / "figures.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "figures.json").read_text()), done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not CTCF.is_file(), reason="the CTCF peaks are not beside the checkout")
def test_the_converted_network_learns_both_strands_alike(tmp_path: Path) -> None:
    settings = ("--epochs", 1, "--width", 16, "--limit", 3000)
    found, printed = figures("train_ctcf.py", tmp_path, "--data", CTCF, *settings)
    (plain,), (converted,) = found["models"]["plain"], found["models"]["converted"]
    assert converted["auroc_x"] == converted["auroc_rc"] == converted["auroc_both"]
    assert converted["max_difference"] < 1e-12 < plain["max_difference"]
    assert converted["auroc_x"] > 0.65
    assert converted["parameters"] == (plain["parameters"] + 1) // 2
    assert f"{converted['auroc_x']:.6f}" in printed


@pytest.mark.slow
@pytest.mark.skipif(not CTCF.is_file(), reason="the CTCF peaks are not beside the checkout")
def test_a_trained_network_keeps_its_readings_at_conversion(tmp_path: Path) -> None:
    settings = ("--epochs", 1, "--tune", 1, "--repeats", 1, "--width", 8, "--limit", 1000)
    found, printed = figures("finetune_ctcf.py", tmp_path, "--data", CTCF, *settings)
    (seed,) = found["seeds"]
    assert max(seed["deviation"].values()) < 1e-6
    before, after = seed["at conversion"], seed["fine-tuned"]
    assert before["conjoined"] == pytest.approx(before["plain, both strands"], abs=1e-9)
    assert before["mixed"] == pytest.approx(before["conjoined"], abs=1e-9)
    assert before["mixed"] != after["mixed"] != after["conjoined"]
    assert seed["parameters"]["mixed"] > seed["parameters"]["conjoined"] == seed["parameters"]["plain"]
    assert f"{after['mixed']:.5f}" in printed


@pytest.mark.slow
@pytest.mark.skipif(not CTCF.is_file(), reason="the CTCF peaks are not beside the checkout")
def test_a_matched_start_is_compared_with_the_others(tmp_path: Path) -> None:
    settings = ("--epochs", 1, "--tune", 1, "--distil", 1, "--widths", 8, "--seeds", 0, "--limit", 800)
    out = tmp_path / "found.jsonl"
    done = run("match_ctcf.py", "--data", CTCF, "--out", out, *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {row["way"]: row["steps"] for row in map(json.loads, out.read_text().splitlines())}
    assert set(found) == {
        "trained", "match, sequences", "distilled", "match", "project", "keep", "conjoined", "scratch",
    }  # fmt: skip
    assert found["conjoined"]["conversion"]["test"] == pytest.approx(found["trained"]["conversion, both"]["test"])
    assert f"{found['match']['recalibrated']['test']:.4f}" in done.stdout
    again = run("match_ctcf.py", "--data", CTCF, "--out", out, *settings)  # nothing is left to do
    assert again.stdout == done.stdout
    assert len(out.read_text().splitlines()) == len(found)


@pytest.mark.slow
def test_matched_profiles_are_compared_with_the_others(tmp_path: Path) -> None:
    settings = ("--epochs", 1, "--tune", 1, "--width", 4, "--seeds", 0, "--limit", 64)
    out = tmp_path / "found.jsonl"
    done = run("match_profiles.py", "--out", out, *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {row["way"]: row["steps"] for row in map(json.loads, out.read_text().splitlines())}
    assert set(found) == {
        "trained", "match, sequences", "distilled", "match", "project", "keep", "conjoined", "scratch",
    }  # fmt: skip
    for score in ("profile", "counts"):
        now = found["trained"]["conversion, both"][score]
        assert found["conjoined"]["conversion"][score] == pytest.approx(now, abs=1e-5)
        assert f"{found['match']['tuned'][score]:.4f}" in done.stdout
    again = run("match_profiles.py", "--out", out, *settings)  # nothing is left to do
    assert done.stdout.endswith(again.stdout)
    assert len(out.read_text().splitlines()) == len(found)


@pytest.mark.slow
def test_drop_in_layers_and_the_conjoined_network_compute_the_same(tmp_path: Path) -> None:
    pytest.importorskip("rcps")
    sizes = ("--channels", 8, "--length", 100, "--batch", 4, "--rounds", 2)
    found, printed = figures("rcps_layers.py", tmp_path, *sizes, run=run_apart)  # it measures memory
    assert found["8"]["difference"] < 1e-5
    assert list(found["8"]["times"]) == ["drop-in layers", "conjoined"]
    assert all(math.isfinite(m) for m in found["8"]["memory"].values())
    assert "drop-in layers  train step" in printed


@pytest.mark.parametrize("script", ["train_ctcf.py", "finetune_ctcf.py"])
def test_a_missing_data_file_is_named(script: str, tmp_path: Path) -> None:
    done = run(script, "--data", tmp_path / "none.tsv.gz")
    assert done.returncode == 2
    assert "none.tsv.gz" in done.stderr


@pytest.mark.slow
def test_a_script_says_what_it_takes_in_an_interpreter_of_its_own() -> None:
    done = run_apart("train_ctcf.py", "--help")
    assert done.returncode == 0, done.stderr
    assert "--epochs" in done.stdout


@pytest.mark.slow
def test_the_cost_of_a_conversion_is_measured(tmp_path: Path) -> None:
    found, printed = figures("speed.py", tmp_path, "--quick")
    assert list(found) == ["Basset-like", "BPNet-like"]
    for case in found.values():
        ratios = [value for value in case.values() if isinstance(value, dict)]
        assert len(ratios) == 5
        assert all(math.isfinite(r["median"]) and 0 < r["low"] <= r["median"] <= r["high"] for r in ratios)
        assert all(f"{r['median']:.3f}" in printed for r in ratios)
        assert case["conversion_seconds"] > 0


@pytest.mark.slow
def test_half_products_are_measured(tmp_path: Path) -> None:
    found, printed = figures("half_products.py", tmp_path, "--quick")
    assert len(found) == 2
    for case in found.values():
        for values in case.values():
            assert [*values][:4] == ["plain", "converted", "accelerated", "pure torch"]
            assert all(math.isfinite(q["median"]) and 0 < q["low"] <= q["median"] <= q["high"] for q in values.values())
            assert all(f"{q['median']:.3f}" in printed for q in values.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_benchmark_says_so() -> None:
    done = run("gpu.py")
    assert done.returncode == 1
    assert "torch sees no GPU here" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
@pytest.mark.parametrize("how", ["eager", "captured"])
def test_a_gpu_is_measured(how: str, tmp_path: Path) -> None:
    out, ways = tmp_path / "gpu.json", ("plain again", "tied", "accelerated")
    settings = ("--quick", "--batch", 4, "--modes", "TF32", "--only", 128, "--how", how, "--ways", *ways)
    done = run("gpu.py", *settings, "--json", out)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = map(json.loads, out.read_text().splitlines())
    for name in ("train step", "inference"):
        assert [*found[name]] == ["plain", *ways]
        assert all(0 < q["low"] <= q["median"] <= q["high"] for q in found[name].values())


@pytest.mark.slow
def test_the_wait_for_a_conversion_is_measured(tmp_path: Path) -> None:
    found, printed = figures("conversion.py", tmp_path, "--quick")
    assert found["planning"]["Two convolutions"] > 0
    assert list(found["forward"]) == ["plain", "converted", "baked", "baked for 101 bp"]
    assert all(f"{name} / plain  {ratio:.3f}" in printed for name, ratio in list(found["forward"].items())[1:])


@pytest.mark.parametrize(
    "name",
    [
        "ctcf_width32",
        "ctcf_width64",
        "speed",
        "half_products",
        "half_products_two_threads",
        "gpu",
        "conversion",
        "geometry",
        "rcps_layers_kernel3",
        "rcps_layers_kernel9",
        "finetune_ctcf",
        "match_ctcf",
        "match_profiles",
    ],
)
def test_the_page_quotes_what_the_scripts_printed(name: str) -> None:
    printed = (ROOT / "docs" / "benchmarks" / f"{name}.txt").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert f"```text\n{printed}```" in page
