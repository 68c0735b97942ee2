"""Compiled models: what changed since the conversion, and lengths that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import Net, bases, conv, mirror, worst
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from rcps_convert import BreaksSymmetryError, convert_model
from rcps_convert.tie.parts import OtherPartError

EXAMPLE = torch.zeros(2, 4, 24)
X = bases(3, 24).contiguous()


def forward(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    if m.late:
        h = h * torch.arange(h.shape[-1], dtype=h.dtype)
    return m.o(h.mean(-1) * m.factor)


def compiled(example: Any = EXAMPLE, **held: Any) -> tuple[Any, Any, CompileCounter]:
    torch._dynamo.reset()
    net: Any = Net(forward, c=conv(), o=nn.Linear(8, 2))
    net.late, net.factor = False, 1.0
    for name, value in held.items():
        setattr(net, name, value)
    counter, model = CompileCounter(), convert_model(net, example).double().eval()
    return model, torch.compile(model, backend=counter, dynamic=False), counter


@pytest.mark.parametrize("called", [False, True])
def test_a_model_as_it_was_converted_is_one_graph(called: bool) -> None:
    model, call, counter = compiled()
    if called:
        model(X)
    for x in (X, mirror(X).contiguous(), X):
        assert worst(call(x), model(X)) < 1e-10
    assert counter.frame_count == 1


def late(model: Any) -> None:
    model.late = True


def another_layer(model: Any) -> None:
    model.c = conv().double()


def a_forward(model: Any) -> None:
    own = model.c.forward
    model.c.forward = lambda x: own(x).cumsum(-1)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("change", [late, another_layer, a_forward])
def test_what_changed_is_seen_when_it_is_compiled_again(change: Any, first: bool) -> None:
    model, call, _ = compiled()
    if first:
        call(X)
    change(model)
    for _ in range(2):
        with pytest.raises(OtherPartError):
            call(X)


def test_a_compiler_that_may_not_break_the_graph_says_why() -> None:
    model, _, _ = compiled()
    another_layer(model)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="the model is no longer what was converted"):
        torch.compile(model, backend="eager", fullgraph=True)(X)


def test_a_change_that_does_no_harm_is_measured() -> None:
    model, call, _ = compiled()
    before = call(X)
    model.factor = 2.0
    for _ in range(2):
        assert worst(call(X), call(mirror(X))) < 1e-10
    assert worst(call(X), before) > 0.1


@pytest.mark.timeout(60)
def test_the_search_for_lengths_that_work_is_not_compiled() -> None:
    def at_one_length(m: Any, x: Tensor) -> Tensor:
        h = m.c(x).relu()
        return m.o((h if h.shape[-1] != 30 else h * torch.arange(h.shape[-1], dtype=h.dtype)).mean(-1))

    torch._dynamo.reset()
    model: Any = convert_model(Net(at_one_length, c=conv(), o=nn.Linear(8, 2)), EXAMPLE).double().eval()
    call = torch.compile(model, backend="eager")
    assert worst(call(X), model(X)) < 1e-10
    counters.clear()
    with pytest.raises(BreaksSymmetryError, match="the nearest lengths that work are"):
        call(bases(3, 30))
    assert counters["frames"]["total"] < 20
