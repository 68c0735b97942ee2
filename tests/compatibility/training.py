"""Copies, files, optimisers, transforms, precisions, devices."""

from __future__ import annotations

import copy
import io
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from rcps_convert import apply_recipe, load, load_plain_state_dict, recipe, save

from . import DNA, LENGTH, Net, even, exact, made, refused, row, sequences, step

COPIES = "Copies and files"
TRAINING = "Training"
TRANSFORMS = "`torch.func`"
PRECISION = "Precision, devices, memory"

# --- copies and files ---------------------------------------------------------------------------


def same(a: nn.Module, b: nn.Module) -> None:
    """Two models compute the same, bit for bit."""
    x = sequences()
    assert torch.equal(a.eval()(x), b.eval()(x))


@row(COPIES, "`copy.deepcopy`")
def deepcopied(strategy: str) -> None:
    model = made(strategy)
    twin = copy.deepcopy(model)
    same(model, twin)
    step(twin, torch.optim.SGD(twin.parameters(), 0.1))
    exact(twin)
    exact(model)


@row(COPIES, "`torch.save(model)`, `torch.load(weights_only=False)`")
def saved_whole(strategy: str) -> None:
    model, file = made(strategy), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    same(torch.load(file, weights_only=False), model)


@row(COPIES, "`state_dict`, `torch.load(weights_only=True)`")
def saved_state(strategy: str) -> None:
    model, file = made(strategy), io.BytesIO()
    step(model, torch.optim.SGD(model.parameters(), 0.1))
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = made(strategy)
    other.load_state_dict(torch.load(file, weights_only=True))
    same(other, model)


@row(COPIES, "`save`, `load` of this package")
def saved_with_recipe(strategy: str) -> None:
    model = made(strategy)
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / "model.pt")
        same(load(Path(folder) / "model.pt", Net()), model)


@row(COPIES, "a plain checkpoint: `load_plain_state_dict`")
def plain_checkpoint(strategy: str) -> None:
    model = made(strategy)
    load_plain_state_dict(model, Net().state_dict())
    exact(model)


@row(COPIES, "safetensors", "safetensors")
def safe_tensors(strategy: str) -> None:
    from safetensors.torch import load_file, load_model, save_file, save_model

    model = made(strategy)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.safetensors")
        save_file(model.state_dict(), file)
        other = apply_recipe(Net(), recipe(model))
        other.load_state_dict(load_file(file))
        same(other, model)
        save_model(model, file)
        load_model(other, file)
        same(other, model)


# --- training -----------------------------------------------------------------------------------

OPTIMISERS: dict[str, Any] = {
    "`AdamW(fused=True)`": partial(torch.optim.AdamW, lr=1e-2, fused=True),
    "`Adam(foreach=True)`": partial(torch.optim.Adam, lr=1e-2, foreach=True),
    "`SGD` with momentum and weight decay": partial(torch.optim.SGD, lr=1e-2, momentum=0.9, weight_decay=0.1),
    "`LBFGS`": partial(torch.optim.LBFGS, max_iter=4, line_search_fn="strong_wolfe"),
}


def optimised(strategy: str, optimiser: Any) -> None:
    model = made(strategy)
    optimizer = optimiser(model.parameters())
    for _ in range(3):
        step(model, optimizer)
    exact(model)


for name, optimiser in OPTIMISERS.items():
    row(TRAINING, name)(partial(optimised, optimiser=optimiser))


@row(TRAINING, "`clip_grad_norm_`, gradient accumulation")
def clipped(strategy: str) -> None:
    model = made(strategy)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for seed in (2, 3):
        (model(sequences(seed)) - 1).square().mean().backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    assert float(norm) > 0.01
    total = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
    assert abs(total - 1e-4) < 1e-6
    optimizer.step()
    exact(model)


@row(TRAINING, "`AveragedModel` (EMA), `update_bn`")
def averaged(strategy: str) -> None:
    model = made(strategy)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        step(model, optimizer)
        average.update_parameters(model)
    update_bn([sequences(6), sequences(7)], average)
    exact(average.module)


@row(TRAINING, "activation checkpointing: `checkpoint_wrapper`")
def checkpointed(strategy: str) -> None:
    model, plain = made(strategy), made(strategy)
    model.conv, model.hidden = checkpoint_wrapper(model.conv), checkpoint_wrapper(model.hidden)
    x = sequences()
    for m in (model, plain):
        m.eval()(x).sum().backward()
    grads = [torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (model, plain)]
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-6)
    exact(model)


@row(TRAINING, "gradients of the input, `create_graph=True`")
def input_gradients(strategy: str) -> None:
    model, x = made(strategy).double().eval(), sequences().double()

    def slope(y: Tensor) -> Tensor:
        y = y.requires_grad_()
        return torch.autograd.grad(model(y).sum(), y, create_graph=True)[0]

    there, back = slope(x), slope(x.flip(1, 2).clone())
    torch.testing.assert_close(there.flip(1, 2), back, rtol=0, atol=1e-12)
    assert float(there.abs().max()) > 0
    there.square().sum().backward()


# --- torch.func ---------------------------------------------------------------------------------


@row(TRANSFORMS, "`functional_call`")
def called_functionally(strategy: str) -> None:
    model, x = made(strategy).eval(), sequences()
    other = {name: p.detach() * 1.5 for name, p in model.named_parameters()}
    given = functional_call(model, other, (x,))
    assert not torch.equal(given, model(x))
    even(lambda y: functional_call(model, other, (y,)), x, 1e-5)


@row(TRANSFORMS, "gradients of each sample: `vmap(grad(...))`")
def per_sample(strategy: str) -> None:
    model, x = made(strategy).eval(), sequences()
    held = {name: p.detach() for name, p in model.named_parameters()}

    def loss(params: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(model, params, (one[None],)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(held, x)
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name].sum(0), parameter.grad, rtol=1e-4, atol=1e-5)


@row(TRANSFORMS, "an ensemble: `stack_module_state`, `vmap`")
def ensemble(strategy: str) -> None:
    models, x = [made(strategy).eval() for _ in range(3)], sequences()
    for i, m in enumerate(models):
        for parameter in m.parameters():
            parameter.data *= 1 + 0.1 * i
    params, buffers = stack_module_state(models)
    found = vmap(lambda p, b, y: functional_call(models[0], (p, b), (y,)), in_dims=(0, 0, None))(params, buffers, x)
    torch.testing.assert_close(found, torch.stack([m(x) for m in models]), rtol=1e-4, atol=1e-5)


# --- precision and devices ----------------------------------------------------------------------


def cast(strategy: str, dtype: torch.dtype, tolerance: float) -> None:
    model = made(strategy).eval().to(dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    even(model, sequences().to(dtype), tolerance)


row(PRECISION, "`model.bfloat16()`")(partial(cast, dtype=torch.bfloat16, tolerance=0.05))
row(PRECISION, "`model.half()`")(partial(cast, dtype=torch.float16, tolerance=0.01))
row(PRECISION, "`model.double()`")(partial(cast, dtype=torch.float64, tolerance=1e-12))


@row(PRECISION, "`torch.autocast`, in training")
def autocast(strategy: str) -> None:
    model = made(strategy)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step(model, optimizer)
        even(model.eval(), sequences(), 0.05)
    exact(model)


@row(PRECISION, '`model.to("meta")`, `to_empty`, `load_state_dict`')
def meta(strategy: str) -> None:
    model = made(strategy)
    moved = copy.deepcopy(model).to("meta")
    assert moved(torch.zeros(2, 4, LENGTH, device="meta")).shape == (2, 1)
    moved = moved.to_empty(device="cpu")
    moved.load_state_dict(model.state_dict())
    same(moved, model)


@row(PRECISION, "`apply_recipe` to a model made on the meta device")
def made_on_meta(strategy: str) -> str:
    told = recipe(made(strategy))
    with torch.device("meta"):
        fresh = Net()
    return refused(lambda: apply_recipe(fresh, told), "load its values first")


class Wide(nn.Module):
    """Two-dimensional convolutions over one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 8, (1, 5)), nn.BatchNorm2d(8)
        self.deep, self.out = nn.Conv2d(8, 8, (1, 3)), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x[:, :, None])).relu()
        return self.out(self.deep(h).relu().mean((2, 3)))


@row(PRECISION, "`memory_format=torch.channels_last`")
def channels_last(strategy: str) -> None:
    model = made(strategy, Wide).to(memory_format=torch.channels_last)
    step(model, torch.optim.AdamW(model.parameters(), 1e-2))
    exact(model, DNA)


@row(PRECISION, "`torch.inference_mode`")
def inference(strategy: str) -> None:
    model, x = made(strategy).eval(), sequences()
    with torch.inference_mode():
        made_there = model(x)
    assert torch.equal(made_there, model(x))
