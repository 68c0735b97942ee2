"""Changing a model after its conversion."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from rcps_convert import bake, extend

from . import DNA, Net, even, exact, made, refused, row, sequences, step

EDITS = "After conversion"


def initialise(module: nn.Module) -> None:
    """Weights of one value."""
    if isinstance(module, (nn.Conv1d, nn.Linear)):
        nn.init.constant_(module.weight, 0.3)


@row(EDITS, "`model.apply(init)` with `nn.init`")
def initialised(strategy: str) -> None:
    model = made(strategy)
    model.apply(initialise)
    assert bool((model.conv.weight == 0.3).all())
    exact(model)


@row(EDITS, "`reset_parameters()`, `weight.data = w`")
def reset(strategy: str) -> None:
    model = made(strategy)
    before = model.stem.weight.detach().clone()
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert not torch.equal(model.stem.weight, before)
    wanted = torch.randn(8, 7)
    model.hidden.weight.data = wanted
    assert torch.equal(model.hidden.weight[:4], wanted[:4])
    exact(model)


@row(EDITS, "freezing: `weight.requires_grad = False`, `parameters()`")
def frozen(strategy: str) -> None:
    model = made(strategy)
    model.stem.weight.requires_grad = False
    for parameter in model.conv.parameters():
        parameter.requires_grad = False
    before = [model.stem.weight.detach().clone(), model.conv.weight.detach().clone()]
    step(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1))
    assert torch.equal(model.stem.weight, before[0])
    assert torch.equal(model.conv.weight, before[1])
    exact(model)


@row(EDITS, '`prune.l1_unstructured(conv, "weight")`')
def pruned(strategy: str) -> str | None:
    model = made(strategy)
    if strategy == "tied":
        return refused(lambda: prune.l1_unstructured(model.conv, "weight", amount=0.3), "prune what is stored")
    prune.l1_unstructured(model.conv, "weight", amount=0.3)
    even(model.double().eval(), sequences().double(), 1e-10)
    return None


@row(EDITS, "pruning what is stored: `conv.parametrizations.weight`")
def stored_pruned(strategy: str) -> str | None:
    if strategy != "tied":
        return "-"
    model = made(strategy)
    prune.l1_unstructured(model.conv.parametrizations.weight, "original", amount=0.5)
    assert abs(float((model.conv.weight == 0).double().mean()) - 0.5) < 0.01
    step(model, torch.optim.SGD(model.parameters(), 0.1))
    exact(model)
    return None


NORMS: dict[str, Any] = {
    "`parametrizations.weight_norm`": parametrizations.weight_norm,
    "`parametrizations.spectral_norm`": parametrizations.spectral_norm,
    "`parametrizations.orthogonal`": parametrizations.orthogonal,
    "`nn.utils.weight_norm`, the older one": nn.utils.weight_norm,
}


def parametrized(strategy: str, norm: Any) -> str | None:
    model = made(strategy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if strategy == "tied":
            return refused(lambda: norm(model.hidden), "before convert_model")
        norm(model.hidden)
    even(model.double().eval(), sequences().double(), 1e-10)  # torch cannot copy what the older one leaves
    return None


for name, norm in NORMS.items():
    row(EDITS, f"{name} on a layer")(partial(parametrized, norm=norm))


@row(EDITS, "hooks of the user's on a batch norm")
def hooked(strategy: str) -> None:
    model, seen = made(strategy), []
    model.norm.register_forward_hook(lambda module, args, out: seen.append((args[0].shape[1:], out.shape[1:])))
    model.eval()(sequences())
    assert seen == [(torch.Size([8, 42]), torch.Size([8, 42]))]


@row(EDITS, "a new head, without saying so")
def new_head(strategy: str) -> str | None:
    model = made(strategy)
    model.head = nn.Linear(8, 1)
    if strategy == "tied":
        return refused(lambda: model(sequences()), "extend(model, example)")
    exact(model)
    return None


@row(EDITS, "a new head, and `extend`")
def extended(strategy: str) -> str | None:
    model = made(strategy)
    model.head = nn.Linear(8, 1)
    if strategy != "tied":
        return refused(lambda: extend(model, DNA), "call it as it is")
    model = extend(model, DNA)
    step(model, torch.optim.SGD(model.parameters(), 0.1))
    exact(model)
    return None


@row(EDITS, "LoRA of `peft`, and `extend`", "peft")
def adapted(strategy: str) -> str | None:
    from peft import LoraConfig, get_peft_model

    model = made(strategy)
    before = model.eval()(sequences()).detach()
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["hidden", "head"]))
    if strategy == "tied":
        refused(lambda: wrapped(sequences()), "extend(model, example)")
        extend(model, DNA, in_place=True)
    assert torch.allclose(wrapped.eval()(sequences()), before, atol=1e-6)
    for parameter in (p for name, p in wrapped.named_parameters() if "lora_B" in name):
        nn.init.normal_(parameter)
    step(wrapped, torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], 0.1))
    exact(model)
    merged = wrapped.eval()(sequences()).detach()
    assert float((merged - before).abs().max()) > 1e-3
    if strategy == "tied":
        plain = bake(model).eval()
        assert torch.allclose(plain(sequences()), merged, atol=1e-5)
    return None


class Synced(Net):
    """With synchronised batch norms from the start."""

    def __init__(self) -> None:
        super().__init__()
        nn.SyncBatchNorm.convert_sync_batchnorm(self)


@row(EDITS, "`convert_sync_batchnorm` before conversion")
def synced_before(strategy: str) -> None:
    model = made(strategy, Synced)
    assert type(model.norm).__name__.endswith("SyncBatchNorm")
    exact(model)


@row(EDITS, "`convert_sync_batchnorm` after conversion")
def synced_after(strategy: str) -> str | None:
    model = made(strategy)
    if strategy == "tied":
        return refused(lambda: nn.SyncBatchNorm.convert_sync_batchnorm(model)(sequences()), "before convert_model")
    exact(nn.SyncBatchNorm.convert_sync_batchnorm(model))
    return None
