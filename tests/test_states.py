"""Statistics that a model keeps in buffers of its own: exact after any number of train-mode forwards."""

from __future__ import annotations

import copy
import functools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_law, examples, law_error, mirrored
from tiers import chosen, some
from torch import Tensor, nn

from rcps_convert import (
    ConversionError,
    ConversionPlan,
    apply_recipe,
    bake,
    convert_model,
    load,
    load_plain_state_dict,
    plan_conversion,
    recipe,
    save,
)

TOLERANCE = 1e-10
EXAMPLE = torch.zeros(2, 4, 12)


class Own(nn.Module):
    """A batch norm of one's own. (N, C, L) -> the same."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(c, 1) + 0.5)
        self.register_buffer("center", torch.zeros(c, 1))
        self.register_buffer("spread", torch.ones(c, 1))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.center, self.spread
        if self.training:
            mean, var = x.mean((0, 2))[:, None], x.var((0, 2), unbiased=False)[:, None]
            self.update(mean.detach(), var.detach())
            self.seen += 1
        return (x - mean) / (var + 1e-5).sqrt() * self.weight

    def update(self, mean: Tensor, var: Tensor) -> None:
        self.center.lerp_(mean, 0.1)
        self.spread.lerp_(var, 0.1)


class MulAdd(Own):
    def update(self, mean: Tensor, var: Tensor) -> None:
        self.center.mul_(0.9).add_(0.1 * mean)
        self.spread.mul_(0.9).add_(var, alpha=0.1)


class Copied(Own):
    def update(self, mean: Tensor, var: Tensor) -> None:
        self.center.copy_(0.9 * self.center + 0.1 * mean)
        self.spread.copy_(0.9 * self.spread + 0.1 * var)


class Assigned(Own):
    """``torch.export`` does not see it by itself."""

    def update(self, mean: Tensor, var: Tensor) -> None:
        self.center = 0.9 * self.center + 0.1 * mean
        self.spread = 0.9 * self.spread + 0.1 * var


class Data(Own):
    def update(self, mean: Tensor, var: Tensor) -> None:
        self.center.data = 0.9 * self.center + 0.1 * mean
        self.spread.data.mul_(0.9).add_(0.1 * var)


class Functional(Own):
    """torch's function on buffers of one's own."""

    def __init__(self, c: int) -> None:
        super().__init__(c)
        self.register_buffer("mean", torch.zeros(c))
        self.register_buffer("var", torch.ones(c))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, self.weight[:, 0], None, self.training, 0.1)


class RenormedAssigned(Assigned):
    """Batch renormalisation: train mode reads what it keeps, and gradients need it as it was."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return (x - self.center) / self.spread * self.weight
        mean, std = x.mean((0, 2))[:, None], x.std((0, 2))[:, None]
        shown = (x - mean) / std * (std.detach() / self.spread).clamp(1 / 3, 3) * self.weight / self.spread
        self.update(mean.detach(), std.detach())
        return shown + (mean.detach() - self.center).clamp(-2, 2)


class Net(nn.Module):
    """(N, 4, L) -> (N, 2)."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.mid, self.out = nn.Conv1d(4, 8, 5, padding=2), nn.Conv1d(8, 5, 3, padding=1), nn.Linear(5, 2)
        self.first, self.second = norm(8), norm(5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(self.conv(x)))
        return self.out(torch.tanh(self.second(self.mid(h))).mean(-1))


def converted(norm: type[nn.Module]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plan_of(norm).apply(Net(norm)).double()


@functools.cache
def plan_of(norm: type[nn.Module]) -> ConversionPlan:
    plan = plan_conversion(Net(norm), EXAMPLE)
    assert not plan.problems, str(plan)
    return plan


def trained(model: Any, steps: int = 3) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for seed in range(steps):
        optimizer.zero_grad()
        model.train()(examples(EXAMPLE.double(), seed=seed)).square().mean().backward()
        optimizer.step()
    return model.eval()


WAYS = [Own, MulAdd, Copied, Assigned, Data, Functional, RenormedAssigned]


@pytest.mark.parametrize("norm", chosen(WAYS, lambda norm: norm in (Own, Assigned, Functional, MulAdd)))
def test_own_statistics_are_exact_after_training(norm: type[nn.Module]) -> None:
    model = trained(converted(norm))
    x = examples(EXAMPLE.double(), seed=9)
    assert law_error(model, x) < TOLERANCE
    assert law_error(model, x, training=True) < TOLERANCE
    assert law_error(model, x) < TOLERANCE  # train-mode forwards of the check moved the statistics
    assert any((b != 0).any() and (b != 1).any() for b in model.first.buffers() if b.dim())
    assert_law(bake(model), EXAMPLE, randomise=False, modes=("eval",), tolerance=TOLERANCE)
    assert torch.equal(bake(model)(x), model(x))


def test_statistics_in_a_precision_that_forward_names() -> None:
    class InFloat(Own):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.float())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_model(Net(InFloat), EXAMPLE)
    for seed in range(3):
        model.train()(examples(EXAMPLE, seed=seed).float())
    assert law_error(model.eval(), examples(EXAMPLE, seed=9).float()) < 1e-4


@pytest.mark.parametrize("norm", [Own, Assigned, Functional])
def test_what_is_kept_is_the_mean_of_what_both_strands_would_write(norm: type[nn.Module]) -> None:
    model, x = converted(norm), examples(EXAMPLE.double())
    strands = [bake(model).train() for _ in range(2)]
    strands[0](x)
    strands[1](mirrored(x, "ACGT"))
    model.train()(x)
    for (name, one), other in zip(strands[0].named_buffers(), strands[1].buffers(), strict=True):
        kept = model.get_buffer(name)
        torch.testing.assert_close(kept, (one + other) / 2 if kept.dim() else one, rtol=0, atol=1e-12)


class Pooled(Net):
    def shortened(self, h: Tensor) -> Tensor:
        return F.max_pool1d(h, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.shortened(torch.relu(self.first(self.conv(x))))
        return self.out(torch.tanh(self.second(self.mid(h))).mean(-1))


class Padded(Pooled):
    def shortened(self, h: Tensor) -> Tensor:
        return F.avg_pool1d(F.pad(h, (0, -h.shape[-1] % 4)), 4)


class Convolved(Pooled):
    def shortened(self, h: Tensor) -> Tensor:
        return F.conv1d(h, h.new_ones(8, 1, 3), stride=2, groups=8)


@pytest.mark.parametrize("net", some([Pooled, Padded, Convolved], 1))
def test_own_statistics_in_a_forward_that_is_re_anchored(net: type[Net]) -> None:
    """Averaging them makes calls of the library's own, which are not calls of the model's."""
    example = torch.zeros(2, 4, 13)
    model = trained(convert_model(net(Own), example, verify=False).double())
    assert_law(model, example, randomise=False, lengths=(None, 11), tolerance=TOLERANCE)


def test_a_plan_names_what_is_averaged() -> None:
    plan = plan_conversion(Net(Own), EXAMPLE, verify=False)
    assert [(s.path, list(s.buffers)) for s in plan.states] == [
        ("first", ["center", "spread"]),
        ("second", ["center", "spread"]),
    ]
    assert "first keeps center, spread: averaged over strands after each train-mode forward" in str(plan)


def test_own_statistics_through_copies_recipes_and_files(tmp_path: Path) -> None:
    model, x = trained(converted(Own)), examples(EXAMPLE.double(), seed=9)
    save(model, tmp_path / "model.pt")
    again = load(tmp_path / "model.pt", Net(Own).double())
    fresh = apply_recipe(Net(Own).double(), recipe(model))
    fresh.load_state_dict(model.state_dict())
    assert recipe(fresh) == recipe(model)
    for twin in (again, fresh, copy.deepcopy(model)):
        assert torch.equal(twin.eval()(x), model(x))
        assert law_error(trained(twin, 1), x) < TOLERANCE
    plain = Net(Own).double().train()
    plain(x)
    load_plain_state_dict(model, plain.state_dict())
    assert law_error(model, x) < TOLERANCE


def test_the_tensors_stay_the_same_objects_whatever_happens() -> None:
    model = converted(Assigned)
    held = model.first.center
    model.train()(examples(EXAMPLE.double()))
    assert model.first.center is held
    before = held.clone()
    with pytest.raises(RuntimeError):
        model.first(torch.zeros(2, 7, 5).double())
    assert model.first.center is held
    assert torch.equal(held, before)


# --- what stays refused ---------------------------------------------------------------------------------


class InEval(Own):
    """What eval-mode forward updates mixes the samples of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        self.center.lerp_(x.detach().mean((0, 2))[:, None], 0.1)
        return x - self.center


class Counts(Own):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen = self.seen + (x > 0).sum()
        return x / (1 + self.seen)


class OwnBatch(Own):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.center[:, 0], self.spread[:, 0], training=True)


@pytest.mark.parametrize(
    ("norm", "words"),
    [
        (InEval, "the buffer first.center is updated from hidden values"),
        (Counts, "the buffer first.seen is updated from hidden values"),
        (OwnBatch, "a functional batch norm gathers its statistics from each batch, in eval mode too"),
    ],
)
def test_other_state_is_refused(norm: type[nn.Module], words: str) -> None:
    with pytest.raises(ConversionError) as caught:
        convert_model(Net(norm), EXAMPLE)
    assert words in str(caught.value)


class OfTheBases(nn.Module):
    """A norm of the model's own right behind the input, whose bases swap whatever the weights are."""

    def __init__(self, norm: type[Own]) -> None:
        super().__init__()
        self.norm, self.conv, self.out = norm(4), nn.Conv1d(4, 6, 3, padding=1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(self.norm(x)).relu().mean(2))


class BySize(Own):
    """Without a mean, so that what forward reads is computed of the buffer."""

    def forward(self, x: Tensor) -> Tensor:
        size = self.spread
        if self.training:
            size = x.square().mean((0, 2))[:, None]
            self.spread.mul_(0.9).add_(0.1 * size.detach())
        return x * (size + 1e-5).rsqrt() * self.weight


@pytest.mark.parametrize("norm", some([BySize, MulAdd, Copied, Assigned], 1))
def test_statistics_of_a_model_that_has_been_trained_are_no_constants(norm: type[Own]) -> None:
    """What differs in eval mode, and meets the bases, is a constant only if no train-mode forward writes it."""
    torch.manual_seed(0)
    model = OfTheBases(norm)
    for _ in range(2):
        model(torch.rand(8, 4, 12) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None])
    converted = convert_model(model, EXAMPLE, verify=False).double()
    converted(torch.rand(8, 4, 12).double())
    assert_law(converted, EXAMPLE, randomise=False, modes=("eval",))


def test_a_table_that_no_forward_writes_stays_a_constant() -> None:
    torch.manual_seed(0)
    model = OfTheBases(MulAdd)
    model.norm.update = lambda mean, var: None
    model.norm.center.copy_(torch.rand(4, 1))
    with pytest.raises(ConversionError, match=r"norm\.center"):
        convert_model(model, EXAMPLE)
