"""Branches of forward that no trace took: their layers are not tied, and do not run in silence."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiers import chosen, some
from torch import Tensor, nn

from rcps_convert import Tokens, bake, convert_model, load_plain_state_dict, plan_conversion
from rcps_convert.errors import BreaksSymmetryError, ConversionError

EXAMPLE = torch.zeros(2, 4, 64).double()


def bases(length: int = 64, n: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return F.one_hot(torch.randint(4, (n, length), generator=generator), 4).transpose(1, 2).double()


def error(model: nn.Module, x: Tensor) -> float:
    y, r = model(x), model(x.flip(1, 2))
    return float(((y - r).abs().max() / y.abs().max()).detach())


class Branching(nn.Module):
    """A convolution, and another one on a condition."""

    switch: object = False

    def __init__(self, condition: Callable[[nn.Module, Tensor, Tensor], object]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.condition, self.conv, self.out = condition, nn.Conv1d(4, 8, 3, padding=1), nn.Linear(8, 1)
        self.long, self.rnn = nn.Conv1d(8, 8, 3, padding=1), nn.GRU(8, 4, batch_first=True, bidirectional=True)
        self.scale, self.norm = nn.Parameter(torch.randn(8, 1)), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        taken = self.condition(self, x, h)
        if taken == "scale":
            h = h * self.scale
        elif taken == "rnn":
            h = self.rnn(h.mT)[0].mT
        elif taken == "norm":
            h = self.norm(h)
        elif taken == "weight":
            h = F.conv1d(h, self.long.weight, padding=1)
        elif taken:
            h = self.long(h)
        return self.out(h.tanh().mean(-1))


def converted(model: nn.Module, example: Tensor = EXAMPLE) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_model(model.double(), example).eval()


SWITCHES = (True, "scale", "rnn", "norm", "weight")


@pytest.mark.parametrize("kind", some(["converted", "copied", "baked", "copied and baked"], 1))
@pytest.mark.parametrize("taken", some(SWITCHES, 2))
def test_a_layer_that_no_trace_read_is_refused_when_a_call_reads_it(taken: object, kind: str) -> None:
    model = converted(Branching(lambda m, x, h: m.switch))
    model = copy.deepcopy(model) if "copied" in kind else model
    model = bake(model) if "baked" in kind else model
    assert error(model, bases()) < 1e-10
    model.switch = taken
    if "baked" in kind and taken in ("scale", "weight"):
        return  # a plain parameter that forward reads by itself: see docs/geometry.md
    with pytest.raises(BreaksSymmetryError, match=r"forward reads .*, which no trace of the model read"):
        model(bases())
    model.switch = False
    assert error(model, bases()) < 1e-10


def test_untied_parameters_are_named_and_can_be_looked_at() -> None:
    plain = Branching(lambda m, x, h: m.switch).double()
    plan = plan_conversion(plain, EXAMPLE)
    assert {"long.weight", "scale", "rnn.weight_hh_l0_reverse", "norm.bias"} <= set(plan.unused)
    assert "a call that reads one is refused" in str(plan)
    with pytest.warns(UserWarning, match=r"no trace of the model reads .*long\.weight"):
        model = plan.apply(plain)
    assert torch.equal(model.long.weight, plain.long.weight)
    with torch.no_grad():
        model.long.weight.mul_(2)
        model.scale.add_(1)
    assert torch.equal(model.long.weight, 2 * plain.long.weight)
    assert torch.equal(bake(model).scale, plain.scale + 1)


def test_checkpoints_and_optimisers_go_on_working() -> None:
    plain = Branching(lambda m, x, h: m.switch).double()
    long = plain.long.weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_model(plain, EXAMPLE, in_place=True)
    assert any(p is long for p in model.parameters())
    other = Branching(lambda m, x, h: m.switch).double()
    assert bake(model).state_dict().keys() == other.state_dict().keys()
    load_plain_state_dict(model, other.state_dict())
    assert torch.equal(model.rnn.weight_ih_l0, other.rnn.weight_ih_l0)
    twin = converted(Branching(lambda m, x, h: m.switch))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(bases()), model.eval()(bases()))


CONDITIONS: dict[str, Callable[[nn.Module, Tensor, Tensor], object]] = {
    "long inputs": lambda m, x, h: x.shape[-1] >= 400,
    "long inputs, twice the example": lambda m, x, h: x.shape[-1] >= 128,
    "short inputs": lambda m, x, h: x.shape[-1] < 20 and "scale",
    "odd lengths": lambda m, x, h: x.shape[-1] % 2 and "norm",
    "one sample": lambda m, x, h: x.shape[0] == 1,
    "many samples": lambda m, x, h: x.shape[0] > 5 and "weight",
    "gradients": lambda m, x, h: h.requires_grad,
    "no gradients": lambda m, x, h: not h.requires_grad and "rnn",
    "gradients of the input": lambda m, x, h: x.requires_grad and "scale",
    "train mode": lambda m, x, h: m.training and "rnn",
}


@pytest.mark.parametrize("name", chosen(CONDITIONS, lambda name: name in ("gradients", "odd lengths", "one sample")))
def test_a_branch_is_exact_or_refused(name: str) -> None:
    model = converted(Branching(CONDITIONS[name]))
    exact = 0
    for length in (8, 63, 64, 65, 128, 400):
        for n in (1, 3, 6):
            for gradients in (False, True):
                for training in (False, True):
                    x = bases(length, n).requires_grad_(gradients)
                    with torch.set_grad_enabled(gradients):
                        try:
                            assert error(model.train(training), x) < 1e-9, (length, n, gradients, training)
                            exact += 1
                        except ConversionError as refused:
                            assert "which no trace of the model read" in str(refused)  # noqa: PT017
    assert exact >= 36


# --- weights that forward changes ----------------------------------------------------------------------


def set_weight(m: nn.Module, name: str, value: Tensor) -> None:
    m.get_parameter(name).data = value


CHANGES: dict[str, tuple[str, Callable[[nn.Module], object]]] = {
    "renorm": ("conv.weight", lambda m: m.conv.weight.data.renorm_(2, 0, 1)),
    "clamp": ("out.weight", lambda m: m.out.weight.data.clamp_(-1, 1)),
    "non-negative": ("out.weight", lambda m: m.out.weight.data.clamp_(min=0)),
    "another tensor": ("out.weight", lambda m: set_weight(m, "out.weight", m.out.weight.data.clamp(-1, 1))),
    "norm of all": ("conv.weight", lambda m: m.conv.weight.data.div_(m.conv.weight.data.norm())),
    "copy": ("out.bias", lambda m: m.out.bias.data.copy_(m.out.bias.data.tanh())),
}


@pytest.mark.parametrize("always", some([False, True], 1))
@pytest.mark.parametrize("name", CHANGES)
def test_weights_that_forward_changes_are_named(name: str, always: bool) -> None:
    class Constrained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 8, 3, padding=1), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            if self.training or always:
                CHANGES[name][1](self)
            return self.out(self.conv(x).tanh().mean(-1))

    model = Constrained().double()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    problems = plan_conversion(model, EXAMPLE).problems
    assert any(
        f"changes the parameter {CHANGES[name][0]} in forward" in str(p) or "TraceError" in repr(p) for p in problems
    )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_embedding_with_a_largest_norm_is_named() -> None:
    class Renormed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.conv, self.out = nn.Embedding(5, 8, max_norm=1.0), nn.Conv1d(8, 8, 3), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.conv(self.emb(x).mT).tanh().mean(-1))

    with pytest.raises(ConversionError, match=r"changes the parameter emb\.weight in forward"):
        convert_model(Renormed(), torch.randint(4, (2, 40)), inputs=Tokens("ACGTN"))


MEMORY: dict[str, Callable[[Tensor], bool]] = {
    "contiguous": lambda x: x.is_contiguous(),
    "stride": lambda x: x.stride(-1) == 1,
    "strides": lambda x: x.stride() == tuple(sorted(x.stride(), reverse=True)),
}


class Laid(nn.Module):
    """A convolution, and something else where the input is transposed in memory."""

    def __init__(self, usual: Callable[[Tensor], bool], other: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.usual, self.other, self.conv, self.out = usual, other, nn.Conv1d(4, 8, 3, padding=1), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x if self.usual(x) else self.other(x))
        return self.out(h.tanh().mean(-1))


@pytest.mark.parametrize("usual", some(MEMORY.values(), 1))
def test_a_way_that_goes_by_how_the_input_lies_in_memory_is_refused(usual: Callable[[Tensor], bool]) -> None:
    plan = plan_conversion(Laid(usual, lambda x: x.cumsum(-1)), EXAMPLE.float())
    assert [p.what for p in plan.problems] == [
        "the law fails where an input lies otherwise in memory, as a transposed one does"
    ]


@pytest.mark.parametrize("usual", some(MEMORY.values(), 1))
def test_an_input_that_is_copied_where_it_lies_otherwise_is_no_other_way(usual: Callable[[Tensor], bool]) -> None:
    model = converted(Laid(usual, lambda x: x.contiguous()))
    for x in (bases(), bases().mT.contiguous().mT):
        assert error(model, x) < 1e-12


BESIDE: dict[str, Callable[[int, int], bool]] = {
    "as long": lambda n, k: n == k,
    "longer by more": lambda n, k: n - k > 20,
    "a multiple": lambda n, k: n >= 4 * k,
    "the shorter one": lambda n, k: math.copysign(1, k - n) > 0,
}


class Compares(nn.Module):
    """Two sequences, and another way where their lengths are of a kind."""

    def __init__(self, other: Callable[[int, int], bool], way: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.other, self.way = other, way
        self.a, self.b, self.out = nn.Conv1d(4, 8, 3), nn.Conv1d(4, 8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = self.a(x).relu()
        h = self.way(h) if self.other(x.shape[-1], z.shape[-1]) else h
        return self.out(h.mean(-1) + self.b(z).relu().mean(-1))


@pytest.mark.parametrize("other", some(BESIDE.values(), 1))
@pytest.mark.parametrize("lengths", some([[31, 17], [24, 24]], 1))
@pytest.mark.parametrize("way", some([lambda h: h.cumsum(-1), lambda h: h * 2], 1))
def test_a_way_that_goes_by_which_input_is_the_longer_is_exact_or_refused(
    other: Callable[[int, int], bool], lengths: list[int], way: Callable[[Tensor], Tensor]
) -> None:
    if other(*lengths):
        pytest.skip("the example goes that way itself")
    example = tuple(torch.zeros(2, 4, n) for n in lengths)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_model(Compares(other, way), example, inputs=("ACGT", "ACGT"), outputs="invariant").double()
    taken, refused = 0, not torch.equal(way(torch.ones(2)), torch.ones(2) * 2)
    for n, k in ([9, 9], lengths, (60, 17), (17, 40), (40, 9)):
        x, z = bases(n), bases(k)
        try:
            torch.testing.assert_close(model(x, z), model(x.flip(1, 2), z.flip(1, 2)), rtol=1e-10, atol=1e-10)
            taken += 1
        except ConversionError:
            assert refused
    assert taken == (1 if refused else 5)
