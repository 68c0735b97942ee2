"""The command line: in this process, and once in one of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from inprocess import finished

from rcps_convert.__main__ import main

MODEL = """
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv1d(4, 8, 5), nn.ReLU(), nn.{pool}, nn.Flatten(), nn.LazyLinear(1))
        self(torch.zeros(1, 4, 40))


def not_a_model():
    return 3
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line; a file of the user's is imported anew."""
    sys.modules.pop("net", None)
    return finished(lambda: main([*arguments]), arguments)


def test_demo_converts_and_scores_both_strands() -> None:
    done = subprocess.run([sys.executable, "-m", "rcps_convert"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert re.search(r"verified: +error", done.stdout)
    differences = {
        m[1].strip(): float(m[2])
        for m in re.finditer(r"^  (plain model|converted.*?)\s+-?\d.* (\S+)$", done.stdout, re.M)
    }
    assert differences["plain model"] > 1e-4
    assert differences["converted"] < 1e-6
    assert differences["converted, baked"] < 1e-6


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(MODEL.replace("{pool}", "MaxPool1d(4)"))
    return path


def test_own_model_is_planned_and_verified(file: Path) -> None:
    done = run(f"{file}:Net", "--shape", "4,40", "--inputs", "ACGT", "--outputs", "invariant")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"0 +weight +\(8, 4, 5\) +4 pairs, 2 pairs, 5 reversed +\(4, 4, 5\)", done.stdout)
    assert re.search(r"verified: +error", done.stdout)


def test_problems_exit_with_one(file: Path) -> None:
    file.write_text(MODEL.replace("{pool}", "GLU(-1)"))
    done = run(f"{file}:Net", "--shape", "4,40")
    assert done.returncode == 1
    assert "BreaksSymmetryError: the operands of glu transform in ways that do not fit together" in done.stdout
    assert run(f"{file}:Net", "--shape", "4,40", "--inputs", "ACGX").returncode == 1
    done = run(f"{file}:Net", "--shape", "4,40", "--strategy", "conjoined")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cost: two passes" in done.stdout


def test_what_no_rule_covers_runs_on_both_strands_if_asked(file: Path) -> None:
    running = "class Running(nn.Module):\n    def forward(self, x):\n        return x.cumsum(-1)\n\n\nclass Net"
    file.write_text(MODEL.replace("class Net", running).replace("nn.{pool}", "Running()"))
    assert "cumsum" in run(f"{file}:Net", "--shape", "4,40").stdout
    done = run(f"{file}:Net", "--shape", "4,40", "--on-unsupported", "both_strands")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "symmetriser at 2: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.py:Net", "--shape", "4,40"], "no FILE:FACTORY"),
        (["{file}:Nothing", "--shape", "4,40"], "has no 'Nothing'"),
        (["{file}:not_a_model", "--shape", "4,40"], "returned int"),
        (["{file}:Net"], "--shape is needed"),
    ],
)
def test_wrong_calls_say_what_is_wrong(file: Path, arguments: list[str], words: str) -> None:
    done = run(*(a.replace("{file}", str(file)) for a in arguments))
    assert done.returncode != 0
    assert words in done.stderr
