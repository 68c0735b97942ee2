"""The command line: in this process, and once in one of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from inprocess import finished

from rcps_convert import apply_recipe, check_equivariance
from rcps_convert.__main__ import load as load_model
from rcps_convert.__main__ import main, shape_of, vocabulary
from rcps_convert.convert.saving import load as load_saved

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
        (["missing.py:Net", "--shape", "4,40"], "no module 'missing'"),
        (["a/b.py:Net", "--shape", "4,40"], "no FILE:FACTORY"),
        (["no.such.place:Net", "--shape", "4,40"], "no module 'no'"),
        (["{file}:Nothing", "--shape", "4,40"], "has no 'Nothing'"),
        (["{file}:not_a_model", "--shape", "4,40"], "returned int"),
        (["{file}:Net"], "--shape is needed"),
        (["{file}:Net", "--shape", "4*40"], "'4*40' is no shape: write the sizes of an input without batch"),
        (["{file}:Net", "--shape", "4x0"], "'4x0' is no shape"),
        (["{file}:Net", "--shape", "4x40", "--inputs", "ACGT", "--tokens", "ACGT"], "not allowed with"),
        (["{file}:Net", "--shape", "4x40", "--checkpoint", "{file}"], "--checkpoint"),
        (["{file}:Net", "--shape", "4x40", "--init", "middle"], "invalid choice"),
    ],
)
def test_wrong_calls_say_what_is_wrong(file: Path, arguments: list[str], words: str) -> None:
    done = run(*(a.replace("{file}", str(file)) for a in arguments))
    assert done.returncode != 0
    assert words in done.stderr


TOKENS = """
from torch import nn


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.conv, self.out = nn.Embedding(6, 8), nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 1)

    def forward(self, ids):
        return self.out(self.conv(self.embed(ids).mT).relu().mean(-1))
"""


@pytest.mark.parametrize("text", ["4x100", "4,100", "(4, 100)", "4 100", "4 x 100"])
def test_a_shape_is_read_as_people_write_it(text: str) -> None:
    assert shape_of(text) == (4, 100)
    assert shape_of("512") == (512,)


def test_a_vocabulary_is_letters_or_a_file(tmp_path: Path) -> None:
    texts = ["[PAD]", "A", "C", "G", "T", "N"]
    (tmp_path / "vocab.txt").write_text("\n".join(texts) + "\n")
    ids = {text: i for i, text in enumerate(texts)}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": ids}}))
    assert vocabulary("ACGTN") == "ACGTN"
    assert vocabulary("[PAD],A,C,G,T,N") == vocabulary(str(tmp_path / "vocab.txt")) == texts
    assert vocabulary(str(tmp_path / "vocab.json")) == vocabulary(str(tmp_path / "tokenizer.json")) == ids


def test_tokens_are_planned(tmp_path: Path) -> None:
    (tmp_path / "reader.py").write_text(TOKENS)
    done = run(f"{tmp_path / 'reader.py'}:Reader", "--shape", "30", "--tokens", "[PAD],A,C,G,T,N")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tokens of 6 texts" in done.stdout


def test_a_factory_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab_for_cli").mkdir()
    (tmp_path / "lab_for_cli" / "nets.py").write_text(MODEL.replace("{pool}", "MaxPool1d(4)"))
    (tmp_path / "lab_for_cli" / "broken.py").write_text("import nothing_like_this\n")
    monkeypatch.chdir(tmp_path)
    done = run("lab_for_cli.nets:Net", "--shape", "4x40")
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.raises(ModuleNotFoundError, match="nothing_like_this"):
        load_model("lab_for_cli.broken:Net")


def test_a_checkpoint_is_converted_and_saved(file: Path, tmp_path: Path) -> None:
    net: torch.nn.Module = load_model(f"{file}:Net")
    net[0].weight.data.fill_(0.5)  # type: ignore[index,union-attr,operator]
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "net.pt")
    given = ("--shape", "4x40", "--checkpoint", str(tmp_path / "net.pt"), "--init", "project")
    done = run(f"{file}:Net", *given, "--save", str(tmp_path / "tied.pt"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "init='project'" in done.stdout
    fresh = load_model(f"{file}:Net")
    loaded = load_saved(tmp_path / "tied.pt", fresh)
    assert bool((loaded[0].weight == 0.5).all())  # type: ignore[index,union-attr]
    assert check_equivariance(loaded, torch.zeros(2, 4, 40))


def test_the_plan_as_json_is_a_recipe(file: Path) -> None:
    done = run(f"{file}:Net", "--shape", "4x40", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["plan"]["problems"] == []
    assert check_equivariance(apply_recipe(load_model(f"{file}:Net"), told), torch.zeros(2, 4, 40))


def test_help_has_examples() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert done.stdout.count("rcps-convert net.py") >= 4
    for option in ("--tokens", "--strategy", "--init", "--checkpoint", "--save", "--json"):
        assert option in done.stdout
