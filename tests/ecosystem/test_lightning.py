"""Lightning: a converted module fitted in two processes, and checkpoints that load into it or into a fresh one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import assert_law
from torch import Tensor, nn

lightning = pytest.importorskip("lightning")

from rcps_convert import apply_recipe, convert_model, recipe  # noqa: E402

EXAMPLE = torch.zeros(2, 4, 60)
HERE = str(Path(__file__).resolve().parent)

RUN = """
import sys
sys.path[:0] = [{here!r}]
from test_lightning import Module, data, trainer

if __name__ == "__main__":
    module = Module(sys.argv[1])
    fit = trainer(sys.argv[2], devices=2, strategy=sys.argv[3])
    fit.fit(module, data())
    fit.save_checkpoint(sys.argv[2] + "/last.ckpt")
"""


class Net(nn.Module):
    """A small network. (N, 4, L) -> (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 8, 7, padding=3), nn.BatchNorm1d(8)
        self.deep, self.pool, self.out = nn.Conv1d(8, 8, 3), nn.MaxPool1d(3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pool(self.deep(self.norm(self.conv(x)).relu()).relu()).mean(-1))


class Module(lightning.LightningModule):
    """Converts its network when it is made: a checkpoint then loads into an instance that is converted alike.

    Args:
        strategy: of the conversion.
    """

    def __init__(self, strategy: str = "tied") -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.net = convert_model(Net(), EXAMPLE, strategy=strategy, verify=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Recorded(lightning.LightningModule):
    """Keeps the recipe in its checkpoint, and converts a plain network by it when one is loaded."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = Net() if net is None else net

    training_step, configure_optimizers = Module.training_step, Module.configure_optimizers

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["recipe"] = recipe(self.net)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        apply_recipe(self.net, checkpoint["recipe"])


def bases(n: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return nn.functional.one_hot(torch.randint(4, (n, 60), generator=g), 4).mT.float()


def data() -> Any:
    x = bases(64)
    y = x[:, 1:3].mean((1, 2))[:, None] * 4
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)


def trainer(folder: str, **how: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(accelerator="cpu", max_epochs=2, default_root_dir=folder, **quiet, **how)


def check(loaded: Any, net: nn.Module) -> None:
    x = bases(5, 9)
    assert torch.equal(loaded.net.eval()(x), net.eval()(x))
    assert_law(loaded.net, EXAMPLE, outputs="invariant", tolerance=1e-9, randomise=False)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "launch"), [("tied", "ddp_spawn"), ("conjoined", "ddp_spawn"), ("tied", "ddp")])
def test_two_processes_and_load_from_checkpoint(tmp_path: Path, strategy: str, launch: str) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN.format(here=HERE))
    paths = [str(Path(HERE).parent), HERE, os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), strategy, str(tmp_path), launch]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    loaded = Module.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=False).eval()
    fresh = Module(strategy)
    moved = [not torch.equal(a, b) for a, b in zip(loaded.parameters(), fresh.parameters(), strict=True)]
    assert any(moved)
    state = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    fresh.load_state_dict(state)
    check(loaded, fresh.net)


@pytest.mark.parametrize("strategy", ["tied", "conjoined", "mixed"])
def test_a_recipe_in_the_checkpoint_converts_a_fresh_module(tmp_path: Path, strategy: str) -> None:
    module = Recorded(convert_model(Net(), EXAMPLE, strategy=strategy, verify=False))
    fit = trainer(str(tmp_path))
    fit.fit(module, data())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    check(Recorded.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=False), module.net)


def test_a_plain_module_says_that_the_checkpoint_is_not_its_own(tmp_path: Path) -> None:
    class Plain(Module):
        def __init__(self) -> None:
            lightning.LightningModule.__init__(self)
            self.net = Net()

    fit = trainer(str(tmp_path))
    module = Module()
    fit.fit(module, data())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(RuntimeError, match="parametrizations"):
        Plain.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=False)
