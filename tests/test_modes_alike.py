"""One trace stands for both modes only where the train-mode forward makes the calls of the eval-mode forward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_law
from tiers import chosen
from torch import Tensor, nn

from rcps_convert import plan_conversion
from rcps_convert.graph.modes_alike import modes_alike

X = torch.zeros(2, 4, 12)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv1d(4, 6, 3, padding=1), nn.Conv1d(4, 6, 3, padding=1)
        self.norm, self.drop, self.head = nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 1)

    def features(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.features(x)).relu()).mean(-1))


class Functional(Base):
    def features(self, x: Tensor) -> Tensor:
        return F.dropout(self.conv(x), 0.2, training=self.training)


class Recurrent(Base):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 3, 2, bidirectional=True, batch_first=True, dropout=0.2)

    def features(self, x: Tensor) -> Tensor:
        return self.lstm(self.conv(x).transpose(1, 2))[0].transpose(1, 2)


class Attends(Base):
    """Attention that is told the mode as how often it drops a weight."""

    def features(self, x: Tensor) -> Tensor:
        h = self.conv(x).mT
        drop = 0.3 if self.training else 0.0
        return (
            F.scaled_dot_product_attention(h, h, h, None, drop).mT
            + F.scaled_dot_product_attention(h, h, h, dropout_p=drop).mT
        )


class Encodes(Base):
    """torch's own encoder looks at more of its tensors in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 1)

    def features(self, x: Tensor) -> Tensor:
        return self.encoder(self.conv(x).mT).mT


class OtherMask(Base):
    """Attention that is masked in train mode."""

    def features(self, x: Tensor) -> Tensor:
        h = self.conv(x).mT
        return F.scaled_dot_product_attention(h, h, h, is_causal=self.training).mT


class Overwrites(Base):
    """A call that returns no tensor, and is no look at one."""

    def features(self, x: Tensor) -> Tensor:
        h = self.conv(x) * 1
        if self.training:
            h[:, 0] = 0.0
        return h


class OtherWeights(Base):
    def features(self, x: Tensor) -> Tensor:
        return self.conv(x) if self.training else self.other(x)


class OtherNumber(Base):
    def features(self, x: Tensor) -> Tensor:
        return self.conv(x) * (0.5 if self.training else 1.0)


class OtherOrder(Base):
    def features(self, x: Tensor) -> Tensor:
        a, b = self.conv(x), self.other(x)
        return a - b if self.training else b - a


class OtherConstant(Base):
    def features(self, x: Tensor) -> Tensor:
        return self.conv(x) * torch.tensor([0.5 if self.training else 1.0])


class FromOutside(Base):
    """A tensor that no caught call makes."""

    def features(self, x: Tensor) -> Tensor:
        return self.conv(x) * torch.from_numpy(torch.ones(1).numpy() * (0.5 if self.training else 1.0))


class MoreOutputs(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return (y, y) if self.training else y  # type: ignore[return-value]


class MoreCalls(Base):
    def features(self, x: Tensor) -> Tensor:
        return self.conv(x).clamp(-1, 1) if self.training else self.conv(x)


@pytest.mark.parametrize("cls", [Base, Functional, Recurrent, Attends, Encodes])
def test_modes_that_differ_in_dropout_and_norms_are_alike(cls: type[nn.Module]) -> None:
    assert modes_alike(cls(), X)


@pytest.mark.parametrize(
    "cls",
    [OtherWeights, OtherNumber, OtherOrder, OtherConstant, FromOutside, MoreOutputs, MoreCalls, OtherMask, Overwrites],
)
def test_modes_that_differ_in_anything_else_are_not(cls: type[nn.Module]) -> None:
    assert not modes_alike(cls(), X)


def test_a_batch_that_train_mode_refuses_is_not_alike() -> None:
    assert not modes_alike(nn.Sequential(nn.Conv1d(4, 2, 12), nn.BatchNorm1d(2)), X[:1])


def test_the_model_is_left_as_it_is() -> None:
    model = Base()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes_alike(model, X)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("cls", chosen([Functional, OtherWeights, Encodes], lambda cls: cls is not Encodes))
def test_both_modes_obey_the_law(cls: type[nn.Module]) -> None:
    model = cls()
    plan = plan_conversion(model, X, verify=False)
    assert ("other.weight" in plan.unused) == (cls is not OtherWeights)
    assert_law(plan.apply(model), X, outputs="invariant")
