"""What is done to all buffers of a model, as by averages of weights: it reaches no table of a tie."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import bases, mirror, worst
from planned import remembered
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

DNA = torch.zeros(2, 4, 21)
TOLERANCE = 1e-10
X = bases(3)


class Net(nn.Module):
    """Weights whose ties need tables of places: of two directions, and of channels that do not halve."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 8, 5, padding=2), nn.BatchNorm1d(8)
        self.rnn, self.out = nn.GRU(8, 6, bidirectional=True, batch_first=True), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.norm(self.conv(x)).relu().mT)[0].mean(1))


def converted() -> Any:
    return remembered(Net, DNA).double()


def stepped(model: Any) -> Any:
    model.train()(bases(8, seed=1)).square().sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad
    return model.eval()


def averaged(model: Any) -> Any:
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        average.update_parameters(stepped(model))
    return average


def mixed(model: Any) -> Any:
    """The mean of two models, buffers included."""
    others = [*stepped(copy.deepcopy(model)).buffers()]
    for buffer, other in zip(model.buffers(), others, strict=True):
        buffer.copy_((0.7 * buffer + 0.3 * other).to(buffer.dtype))
    return model


def filled(model: Any) -> Any:
    for buffer in model.buffers():
        buffer.data.fill_(1)
    return model


def by_meta(model: Any) -> Any:
    """Loaded where it has no memory, as large models are."""
    state = stepped(copy.deepcopy(model)).state_dict()
    model.to("meta").load_state_dict(state, assign=True)
    return model


def emptied(model: Any) -> Any:
    model.to("meta").to_empty(device="cpu")
    for value in model.state_dict().values():
        value.data.copy_(torch.rand(value.shape))
    return model


@pytest.mark.parametrize("change", [averaged, mixed, filled, by_meta, emptied])
def test_ties_hold_whatever_is_done_to_all_buffers(change: Callable[[Any], Any]) -> None:
    model = change(converted()).eval()
    assert worst(model(X), model(mirror(X))) < TOLERANCE
    assert not any("parametrizations" in name for name, _ in model.named_buffers())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tables_are_where_the_model_is() -> None:
    tables = [t for m in converted().cuda().modules() for t in getattr(m, "tables", {}).values()]
    assert {t.device.type for t in tables} == {"cuda"}
