"""Copies of models: what ``copy.deepcopy`` makes, made attribute by attribute."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiers import some
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rcps_convert import ConversionError, convert_model
from rcps_convert.graph.copies import deep_copy
from rcps_convert.graph.sandbox import fresh_copy, mode


class Remembers(nn.Module):
    """Values of many kinds, some of them held twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv1d(4, 4, 3), {}
        self.same, self.held, self.others = self.table, [nn.Linear(2, 2)], {"conv": self.conv, "n": [1, 2]}
        self.register_buffer("counts", torch.arange(3))
        self.plain, self.dtype, self.parent = torch.ones(2), torch.float32, (self,)


class SetsState(nn.Module):
    """Has a say in its state, both ways."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "given": True}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "taken": self.__class__.__name__})


class OnlyTakes(nn.Module):
    """Looks at its inner module when its state is set."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.width = self.inner.weight.shape[0]


class CopiesItself(nn.Module):
    def __deepcopy__(self, memo: dict[int, Any]) -> CopiesItself:
        made = CopiesItself()
        made.by_itself = True
        return made


class Slotted(nn.Module):
    __slots__ = ("aside",)

    def __init__(self) -> None:
        super().__init__()
        self.aside = [1]


class HeldTwice(nn.Module):
    """Holds containers in two places, as Enformer holds its stem: by itself, and in the trunk it begins."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Identity())
        self.stem = nn.Sequential(nn.Linear(2, 2))
        self.trunk.append(self.stem)
        self.heads, self.none = nn.ModuleDict(), nn.ModuleList()
        self.both = nn.ModuleList([self.heads, self.none, self.trunk])
        self.heads["stem"] = self.stem


def models() -> dict[str, nn.Module]:
    tied = convert_model(
        nn.Sequential(nn.Conv1d(4, 8, 5), nn.BatchNorm1d(8), nn.Flatten(), nn.Linear(32, 1)), torch.zeros(2, 4, 8)
    )
    watched = nn.Sequential(nn.Linear(2, 2))
    watched[0].register_forward_hook(lambda *_: None)
    return {
        "values": Remembers(),
        "hooks": watched,
        "recurrent": nn.LSTM(3, 2, 2),
        "attention": nn.TransformerEncoderLayer(4, 2, 8),
        "weight norm": nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))),
        "spectral norm": nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)),
        "tied": tied,
        "state": nn.Sequential(SetsState()),
        "taken": nn.Sequential(OnlyTakes()),
        "held twice": HeldTwice(),
        "itself": nn.Sequential(CopiesItself()),
        "slots": nn.Sequential(Slotted()),
    }


def described(value: Any, seen: dict[int, int]) -> Any:
    """A value in full: what is met twice by its number."""
    if id(value) in seen:
        return ("again", seen[id(value)])
    if isinstance(value, (nn.Module, dict, list, tuple)):
        seen[id(value)] = len(seen)
    if isinstance(value, Tensor):
        return type(value).__name__, value.tolist(), value.requires_grad, value.dtype
    if isinstance(value, nn.Module):
        kind = type(value).__bases__[0] if parametrize.is_parametrized(value) else type(value)
        aside = getattr(value, "aside", None)
        return kind, {k: described(v, seen) for k, v in sorted(vars(value).items())}, described(aside, seen)
    if isinstance(value, dict):
        return type(value), [(k if isinstance(k, (str, int)) else "", described(v, seen)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [described(v, seen) for v in value]
    return value if isinstance(value, (bool, int, float, str, torch.dtype)) else type(value)


@pytest.mark.parametrize("name", [*some([n for n in models() if n != "held twice"], 1), "held twice"])
def test_a_copy_is_what_deepcopy_makes(name: str) -> None:
    model = models()[name]
    twin = deep_copy(model)
    assert described(twin, {}) == described(copy.deepcopy(model), {})
    mine = {t.data_ptr() for t in (*model.parameters(), *model.buffers()) if t.numel()}
    assert not any(t.data_ptr() in mine for t in (*twin.parameters(), *twin.buffers()) if t.numel())
    assert not {*map(id, model.modules())} & {*map(id, twin.modules())}


@pytest.mark.parametrize("name", ["weight norm", "spectral norm", "tied"])
def test_parametrized_modules_of_a_copy_have_classes_of_their_own(name: str) -> None:
    model = models()[name]
    twin = fresh_copy(fresh_copy(model))
    pairs = [(a, b) for a, b in zip(model.modules(), twin.modules(), strict=True) if parametrize.is_parametrized(a)]
    assert pairs
    for a, b in pairs:
        assert type(a) is not type(b)
        assert type(a).__bases__ == type(b).__bases__
        parametrize.remove_parametrizations(b, "weight")
        assert parametrize.is_parametrized(a, "weight")


def test_tensors_of_an_earlier_computation_are_copied_as_values() -> None:
    layer = nn.Linear(2, 2)
    layer.kept = layer.weight * 2  # type: ignore[assignment]
    with pytest.raises(RuntimeError):
        copy.deepcopy(layer)
    assert torch.equal(deep_copy(layer).kept, layer.weight * 2)


class Told(nn.Module):
    """Does something of its own when its mode is set."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[bool] = []

    def train(self, mode: bool = True) -> Told:
        self.told.append(mode)
        return super().train(mode)


class Notices(nn.Module):
    """Notices when its mode is set."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[bool] = []

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training" and "told" in vars(self):
            self.told.append(value)
        super().__setattr__(name, value)


@pytest.mark.parametrize("inner", [Told, Notices])
@pytest.mark.parametrize("training", [False, True])
def test_modes_are_set_and_brought_back(inner: type[nn.Module], training: bool) -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(4), inner().train(not training), torch.jit.script(nn.Dropout(0.5)))
    model[1].told = []
    before = [m.training for m in model.modules()]
    with mode(model, training):
        assert {m.training for m in model.modules()} == {training}
        assert model[1].told == [training]
    assert [m.training for m in model.modules()] == before


class Note:
    """An object without methods, which may lead back to the model."""


class SharesMemory(nn.Module):
    """Buffers and attributes that are parts of each other, and an object."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(3))
        self.register_buffer("whole", torch.arange(6.0))
        self.register_buffer("across", self.whole.view(2, 3).t())
        self.register_buffer("twice", self.whole)
        self.register_buffer("part", torch.arange(9.0)[2:5])
        self.register_buffer("flag", torch.tensor(True))
        self.part.named = "kept"
        self.seen, self.note = self.whole[1:3], Note()
        self.note.model, self.note.values, self.note.itself = self, [self.whole, (1, 2)], self.note


@pytest.mark.parametrize("make", [deep_copy, copy.deepcopy], ids=["ours", "deepcopy"])
def test_what_shares_memory_does_so_in_the_copy(make: Any) -> None:
    model = SharesMemory()
    twin = make(model)
    assert twin.note.model is twin
    assert twin.note.itself is twin.note is not model.note
    assert twin.note.values[0] is twin.whole is twin.twice
    assert twin.part.named == "kept"
    assert torch.equal(twin.part, torch.arange(2.0, 5.0))
    twin.whole += 1
    assert torch.equal(twin.seen, torch.tensor([2.0, 3.0]))
    assert torch.equal(twin.across, torch.arange(1.0, 7.0).view(2, 3).t())
    assert torch.equal(model.whole, torch.arange(6.0))
    assert torch.equal(model.seen, torch.tensor([1.0, 2.0]))
    assert twin.first is not model.first
    assert torch.equal(twin.first, model.first)


def test_ties_of_a_copy_share_their_tables_until_one_of_them_moves() -> None:
    model = convert_model(nn.Sequential(nn.Conv1d(4, 5, 3), nn.Flatten(), nn.Linear(100, 1)), torch.zeros(2, 4, 22))
    twin = deep_copy(model)
    pairs = [*zip(model.modules(), twin.modules(), strict=True)]
    ties = [(one, other) for one, other in pairs if hasattr(one, "shared_by_copies")]
    assert len(ties) >= 3
    for one, other in ties:
        assert one is not other
        assert one.tables is not other.tables
        assert {*map(id, one.shared_by_copies())} == {*map(id, other.shared_by_copies())}
    x, before = torch.randn(2, 4, 22), model(torch.ones(2, 4, 22))
    assert torch.equal(twin(x), model(x))
    with torch.no_grad():
        for p in twin.double().parameters():
            p.zero_()
    twin.to("meta")
    assert torch.equal(model(torch.ones(2, 4, 22)), before)


def test_a_frozen_parameter_stays_frozen_in_a_copy() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    model.weight.grad = torch.ones(2, 2)
    twin = deep_copy(model)
    assert (twin.weight.requires_grad, twin.bias.requires_grad) == (False, True)
    assert twin.weight.grad is None  # as ``deepcopy`` has it
    assert copy.deepcopy(model).weight.grad is None


# --- what copy.copy makes ---


class Scaled(nn.Module):
    """Reads a setting and its own mode in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.conv, self.mid, self.head = 1.0, nn.Conv1d(4, 8, 5), nn.Conv1d(8, 8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.dropout(self.mid(self.conv(x)).relu(), 0.5, self.training)
        return self.head(h.mean(-1)) * self.scale


SHALLOW = {"tied": {}, "conjoined": {"strategy": "conjoined"}, "mixed": {"strategy": "mixed"}}


@pytest.mark.parametrize("name", SHALLOW)
def test_a_shallow_copy_computes_as_it_says_or_is_refused(name: str) -> None:
    x, y = torch.randn(2, 4, 12), torch.randn(2, 4, 12)
    model: Any = convert_model(Scaled(), x, verify=False, **SHALLOW[name]).eval()
    twin = copy.copy(model)
    assert torch.equal(twin(x), model(x))
    model.head.weight.data.mul_(2)  # shared, as copy.copy shares it
    assert torch.equal(twin(y), model(y))
    twin.scale = 3.0
    with pytest.raises(ConversionError, match=r"(?s)shallow copy.*scale.*copy\.deepcopy"):
        twin(x)
    twin.scale = model.scale
    twin.train()
    model.eval()
    with pytest.raises(ConversionError, match=r"(?s)shallow copy.*training.*copy\.deepcopy"):
        twin(x)
    whole = copy.deepcopy(model)
    whole.scale = 3.0
    assert torch.allclose(whole(x), 3 * model(x))


def test_a_module_that_borrows_a_forward_is_no_shallow_copy() -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.forward = inner, inner.forward  # type: ignore[method-assign]

    x = torch.randn(2, 4, 12)
    model = convert_model(Scaled(), x, verify=False).eval()
    assert torch.equal(Wrapper(model)(x), model(x))
