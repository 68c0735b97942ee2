"""Statistics of norm layers from unlabelled inputs: what they become, for every strategy, and what stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from models import BassetLike
from torch import Tensor, nn

from rcps_convert import BreaksSymmetryError, ConversionError, convert_model, recalibrate, reverse_complement


class Normed(nn.Module):
    """(N, 4, 30) -> (N, 2)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv1d(4, c, 5), nn.BatchNorm1d(c), nn.Dropout(0.5)
        self.mid, self.out = nn.Conv1d(c, c, 3), nn.Linear(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mid(self.drop(self.norm(self.conv(x)).relu())).mean(-1))


EXAMPLE = torch.zeros(2, 4, 30)


def dna(n: int, seed: int = 0, length: int = 30) -> Tensor:
    """Unbalanced, so that the strands differ."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.multinomial(torch.tensor([0.5, 0.1, 0.3, 0.1]), n * length, replacement=True, generator=g)
    return nn.functional.one_hot(ids.view(n, length), 4).mT.float()


def converted(c: int = 8, **how: Any) -> nn.Module:
    torch.manual_seed(c)
    model = convert_model(Normed(c), EXAMPLE, verify=False, **how)
    with torch.no_grad():
        model.norm.running_mean.add_(3)
        model.norm.running_var.mul_(7)
    return model


def expected(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the channels over both strands, from the full weights."""
    with torch.no_grad():
        h = nn.functional.conv1d(torch.cat([x, reverse_complement(x)]), model.conv.weight, model.conv.bias)
    return h.mean((0, 2)), h.transpose(0, 1).flatten(1).var(1)


@pytest.mark.parametrize(("c", "how"), [(8, {}), (7, {}), (8, {"strategy": "conjoined"}), (8, {"strategy": "mixed"})])
def test_statistics_are_those_of_both_strands(c: int, how: dict[str, Any]) -> None:
    model, x = converted(c, **how), dna(200)
    mean, var = expected(model, x)
    assert recalibrate(model, x) is model
    width = len(model.norm.running_mean)
    torch.testing.assert_close(model.norm.running_mean, mean[:width], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.norm.running_var, var[:width], rtol=1e-3, atol=1e-5)


def test_statistics_are_averaged_over_batches() -> None:
    one, two = converted(), converted()
    x = dna(300)
    recalibrate(one, x)
    recalibrate(two, (part for part in x.split(100)))
    assert (one.norm.num_batches_tracked, two.norm.num_batches_tracked) == (1, 3)
    torch.testing.assert_close(one.norm.running_mean, two.norm.running_mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(one.norm.running_var, two.norm.running_var, rtol=0.01, atol=0)


def test_everything_else_stays() -> None:
    model = converted().train()
    model.out.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    momentum, modes = model.norm.momentum, [m.training for m in model.modules()]
    state = torch.get_rng_state()
    recalibrate(model, [dna(50)])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert model.norm.momentum == momentum == 0.1
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_deep_layers_see_what_recalibrated_ones_give() -> None:
    """Each layer's statistics are those of its inputs in eval mode afterwards, but for the averages over batches."""
    model = convert_model(BassetLike(), torch.zeros(2, 4, 144), verify=False)
    x = dna(256, length=144)
    recalibrate(model, x)
    seen: dict[str, Tensor] = {}
    for name in ("bn1", "bn2", "bn3", "bn4"):
        norm = getattr(model, name)
        norm.register_forward_hook(lambda m, given, made, name=name: seen.__setitem__(name, made))
    with torch.no_grad():
        model.eval()(torch.cat([x, reverse_complement(x)]))
    for name, y in seen.items():
        y = y.transpose(0, 1).flatten(1)
        assert y.mean(1).abs().max() < 0.05, name
        assert (y.std(1) - 1).abs().max() < 0.05, name


def test_calls_of_every_form() -> None:
    model = converted()
    recalibrate(model, dna(20))
    wanted = model.norm.running_mean.clone()
    for form in ((dna(20),), {"x": dna(20)}, [dna(20)], [{"x": dna(20)}], iter([(dna(20),)])):
        assert torch.equal(recalibrate(model, form).norm.running_mean, wanted)


def test_progress_is_told() -> None:
    told: list[tuple[int, int | None]] = []
    recalibrate(converted(), [dna(9), dna(9)], progress=lambda done, total: told.append((done, total)))
    recalibrate(converted(), iter([dna(9)]), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2), (1, None)]


@pytest.mark.parametrize(
    ("batches", "error", "words"),
    [
        ([], ValueError, "holds no inputs"),
        ("ACGT", TypeError, "batches is a str"),
        (3, TypeError, "batches is a int"),
        ([dna(5), torch.zeros(2, 3, 30)], BreaksSymmetryError, r"shape \(2, 3, 30\)"),
    ],
)
def test_a_run_that_fails_leaves_the_model_as_it_was(batches: Any, error: type[Exception], words: str) -> None:
    model = converted().train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=words):
        recalibrate(model, batches)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.norm.momentum == 0.1
    assert all(m.training for m in model.modules())


def test_something_else_than_a_model_is_refused() -> None:
    with pytest.raises((TypeError, ConversionError)):
        recalibrate(3, dna(4))  # type: ignore[arg-type]


def test_a_model_without_statistics_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 5), nn.BatchNorm1d(6, track_running_stats=False))
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, dna(8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
