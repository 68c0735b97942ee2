"""Two processes that train one model."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from processes import run_in_two

from . import row

PROCESSES = "Two processes (gloo)"

HEAD = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {here!r})
import torch, torch.distributed as dist
from torch import nn
from compatibility import DNA, LENGTH, Net, exact, made, sequences
strategy, rank, store = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
torch.manual_seed(rank)
"""

TAIL = """
full = torch.cat([state[name].flatten().double() for name in names])  # each process has statistics of its own
gathered = [torch.empty_like(full) for _ in range(2)]
dist.all_gather(gathered, full)
assert torch.equal(*gathered), "weights differ between processes"
single = made(strategy)
start = torch.cat([p.detach().flatten().double() for p in single.parameters()])
assert not torch.equal(start, full), "nothing was trained"
assert [name for name, _ in single.named_parameters()] == names
single.load_state_dict(state)
exact(single)
dist.destroy_process_group()
print("equivariant on rank", rank)
"""

TRAIN = """
optimizer = torch.optim.SGD(parallel.parameters(), 0.05)
for i in range(3):
    loss = (parallel(sequences(4 + rank)) - 1).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def in_two(body: str, strategy: str) -> None:
    """Run a script as two processes."""
    with tempfile.TemporaryDirectory() as folder:
        run_in_two(HEAD + body + TAIL, Path(folder), strategy)


@row(PROCESSES, "`DistributedDataParallel`", slow=True)
def ddp(strategy: str) -> None:
    body = """
model = made(strategy)
names = [name for name, _ in model.named_parameters()]
parallel = nn.parallel.DistributedDataParallel(model)
"""
    in_two(body + TRAIN + "state = model.state_dict()\n", strategy)


@row(PROCESSES, "FSDP2: `fully_shard` of each layer and the model", slow=True)
def fsdp(strategy: str) -> None:
    body = """
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
model = made(strategy)
names = [name for name, _ in model.named_parameters()]
mesh = init_device_mesh("cpu", (2,))
for part in (model.stem, model.conv, model.hidden):
    fully_shard(part, mesh=mesh)
parallel = fully_shard(model, mesh=mesh)
"""
    end = """
state = get_model_state_dict(parallel, options=StateDictOptions(full_state_dict=True))
"""
    in_two(body + TRAIN + end, strategy)


LIGHTNING = """
import lightning, logging
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Lit(lightning.LightningModule):
    def __init__(self, strategy):
        super().__init__()
        self.save_hyperparameters()
        self.net = made(strategy)

    def training_step(self, x, _):
        return (self.net(x) - 1).square().mean()

    def train_dataloader(self):
        return torch.utils.data.DataLoader(sequences(16), batch_size=4)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), 0.05)


if __name__ == "__main__":
    strategy, folder = sys.argv[1], sys.argv[2]
    lit = Lit(strategy)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_spawn", max_epochs=2, default_root_dir=folder,
        logger=False, enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(lit)
    file = folder + "/lit.ckpt"
    trainer.save_checkpoint(file)
    again = Lit.load_from_checkpoint(file)
    x = sequences()
    assert torch.equal(again.net.eval()(x), lit.net.cpu().eval()(x))
    assert not torch.equal(again.net(x), made(strategy).eval()(x))
    exact(again.net)
    print("equivariant after Lightning")
"""


@row(PROCESSES, "Lightning, two devices (`ddp_spawn`), `load_from_checkpoint`", "lightning", slow=True)
def lightning(strategy: str) -> None:
    head = HEAD.format(here=str(Path(__file__).resolve().parents[1])).partition("strategy, rank")[0]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "fit.py"
        script.write_text(head + LIGHTNING)
        command = [sys.executable, str(script), strategy, folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=folder)
        assert "equivariant after Lightning" in done.stdout, done.stdout + done.stderr
