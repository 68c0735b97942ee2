"""What the world around does with models: data-parallel processes, other parametrizations, averages, autocast."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from models import BassetLike
from oracle import assert_law
from processes import run_in_two
from torch import Tensor, nn

from rcps_convert import bake, convert_model, plan_conversion

EXAMPLE = torch.zeros(2, 4, 144)

WORKER = """
import sys
import torch
import torch.distributed as dist
from torch import nn
sys.path.insert(0, {here!r})
from models import BassetLike, DanQLike
from oracle import assert_law
from rcps_convert import convert_model

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
for make, length in ((BassetLike, 144), (DanQLike, 84)):
    example = torch.zeros(2, 4, length)
    torch.manual_seed(rank)
    model = convert_model(make(), example, verify=False)
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.05)
    for _ in range(3):
        loss = parallel(torch.randn(4, 4, length)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    total = torch.cat([p.detach().flatten() for p in model.parameters()])
    gathered = [torch.empty_like(total) for _ in range(2)]
    dist.all_gather(gathered, total)
    assert torch.equal(gathered[0], gathered[1]), "weights differ between processes"
    assert_law(model, example, outputs="invariant", tolerance=1e-10, randomise=False)
dist.destroy_process_group()
print("equivariant on rank", rank)
"""


@pytest.mark.slow
def test_data_parallel_training_in_two_processes(tmp_path: Path) -> None:
    run_in_two(WORKER, tmp_path)


def test_averaged_model_of_a_converted_one() -> None:
    model = convert_model(BassetLike(), EXAMPLE, verify=False)
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        model(torch.randn(4, 4, 144)).square().mean().backward()
        optimizer.step()
        average.update_parameters(model)
    assert_law(average.module, EXAMPLE, outputs="invariant", tolerance=1e-10, randomise=False)
    baked = bake(average.module).eval()
    x = torch.randn(2, 4, 144)
    torch.testing.assert_close(baked(x), average.module.eval()(x), rtol=0, atol=1e-6)


def test_autocast_keeps_the_law_up_to_its_precision() -> None:
    model = convert_model(BassetLike(), EXAMPLE, verify=False).eval()
    x = torch.randn(4, 4, 144)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, b = model(x), model(x.flip(1, 2))
    assert float((a - b).abs().max().detach()) < 2e-2 * float(a.abs().max().detach())


def test_functional_call_and_gradients_of_inputs() -> None:
    """Attributions on both strands are each other's mirror image."""
    model = convert_model(BassetLike(), EXAMPLE, verify=False).double().eval()
    x = torch.randn(2, 4, 144, dtype=torch.float64, requires_grad=True)
    other = x.detach().flip(1, 2).requires_grad_()
    (one,) = torch.autograd.grad(model(x).sum(), x)
    (two,) = torch.autograd.grad(model(other).sum(), other)
    torch.testing.assert_close(one.flip(1, 2), two, rtol=0, atol=1e-12)
    called = torch.func.functional_call(model, dict(model.named_parameters()), (x,))
    assert torch.equal(called, model(x))


def test_conversion_of_a_copy_of_a_parametrized_model_leaves_the_original() -> None:
    model = convert_model(BassetLike(), EXAMPLE, verify=False)
    twin = copy.deepcopy(model)
    bake(twin, in_place=True)
    x = torch.randn(2, 4, 144)
    torch.testing.assert_close(model.eval()(x), twin.eval()(x), rtol=0, atol=1e-6)
    assert_law(model, EXAMPLE, outputs="invariant")


def test_reduced_gradient_norms_and_weight_decay_see_stored_parameters() -> None:
    model = convert_model(BassetLike(), EXAMPLE, verify=False)
    model(torch.randn(4, 4, 144)).sum().backward()
    total: Tensor = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert bool(torch.isfinite(total))
    shapes = {tuple(p.shape) for p in model.parameters()}
    assert (12, 4, 19) in shapes
    assert (24, 4, 19) not in shapes


class Transformer(nn.Module):
    """A stock encoder layer between convolutions, with dropout inside its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv1d(4, 8, 5), nn.Linear(8, 1)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.stem(x).transpose(1, 2)).mean(1))


def test_stock_transformer_layer_in_train_and_in_fused_eval_mode() -> None:
    plan = plan_conversion(Transformer(), torch.zeros(2, 4, 30))
    assert not plan.problems
    assert plan.verification is not None
    assert plan.verification.error < 1e-10
    converted = plan.apply(Transformer()).eval()
    x = torch.randn(2, 4, 30)
    with torch.no_grad():
        torch.testing.assert_close(converted(x.flip(1, 2)), converted(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(bake(converted)(x), converted(x), rtol=0, atol=1e-5)
