"""Forwards that go another way, or compute other constants, far from the example's size, however that is decided."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import Net, bases, conv, mirror, worst
from tiers import some
from torch import Tensor, nn

from rcps_convert import BreaksSymmetryError, ConversionError, bake, convert_model, plan_conversion
from rcps_convert.measure import ways

TOLERANCE = 1e-10
EXAMPLE = torch.zeros(2, 4, 20)


def net(body: Callable[[Any, Tensor, Tensor, int], Tensor]) -> nn.Module:
    """A convolution, something done to its channels, given the input and its length, and an answer."""
    torch.manual_seed(0)
    return Net(lambda m, x: m.a(body(m, m.c(x).relu(), x, x.shape[-1]).mean(-1)), c=conv(), a=nn.Linear(8, 2))


def converted(body: Callable[..., Tensor]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_model(net(body), EXAMPLE).double().eval()


def error(model: nn.Module, length: int, samples: int = 3) -> float | None:
    """How far the outputs are from the law; None where the call is refused."""
    x = bases(samples, length)
    try:
        return worst(model(mirror(x)), model(x))
    except ConversionError:
        return None


def running(h: Tensor, *, if_: object) -> Tensor:
    return h.cumsum(-1) if if_ else h


BRANCHES = {
    "a quotient": lambda m, h, x, n: running(h, if_=n / 100 > 1),
    "a logarithm": lambda m, h, x, n: running(h, if_=int(math.log(n)) >= 5),
    "a whole quotient as it is": lambda m, h, x, n: running(h, if_=n // 101),
    "a square": lambda m, h, x, n: running(h, if_=n**2 > 10000),
    "a number of entries": lambda m, h, x, n: running(h, if_=x[0].numel() > 400),
    "a list": lambda m, h, x, n: running(h, if_=len([0] * n) > 100),
    "a shape of its own class": lambda m, h, x, n: running(h, if_=isinstance(x.shape, torch.Size) and n > 100),
    "columns": lambda m, h, x, n: running(h, if_=len(x.unbind(-1)) > 100),
    "text": lambda m, h, x, n: running(h, if_=len(str(n)) > 2),
    "a set": lambda m, h, x, n: running(h, if_=n in {101, 150, 260}),
    "a table": lambda m, h, x, n: {101: torch.Tensor.cumsum}.get(n, lambda h, dim: h)(h, -1),
    "a bit": lambda m, h, x, n: running(h, if_=n & 128),
}
CONSTANTS = {
    "a mask of positions": lambda m, h, x, n: h * (torch.arange(n).float() <= 100),
    "a band": lambda m, h, x, n: h @ torch.ones(n, n, dtype=h.dtype).tril(100),
    "whole numbers that overflow": lambda m, h, x, n: h * (torch.arange(n).to(torch.int8) >= 0),
    "numbers that overflow in float32": lambda m, h, x, n: h * torch.exp(torch.arange(n) - 8.0).isfinite(),
    "distances in half precision": lambda m, h, x, n: h * (torch.arange(n).bfloat16() - (n - 1) / 2).abs(),
}


@pytest.mark.parametrize("body", [*some(BRANCHES.values(), 3), *some(CONSTANTS.values(), 1)])
def test_what_breaks_the_law_at_far_lengths_is_refused_there(body: Any) -> None:
    model = converted(body)
    for each in (model, bake(model)):
        found = {n: error(each, n) for n in (19, 20, 21, 260)}
        assert all((e or 0.0) < TOLERANCE for e in found.values()), found
        assert None not in [found[n] for n in (19, 20, 21)]
        assert found[260] is None


def test_a_far_length_that_was_measured_is_named_with_what_fails() -> None:
    plan = plan_conversion(net(CONSTANTS["a band"]), EXAMPLE)
    assert any("calls at 102 positions or more are refused: the law fails at length 261" in w for w in plan.warnings)


def test_short_lengths_are_measured_too() -> None:
    model = converted(lambda m, h, x, n: h @ torch.ones(n, n, dtype=h.dtype).triu(8 - n) if n < 8 else h)
    assert error(model, 8) is not None
    assert error(model, 8) < TOLERANCE  # type: ignore[operator]
    assert [error(model, n) for n in (3, 5, 7)] == [None] * 3


def test_the_way_of_train_mode_is_looked_at_too() -> None:
    model = converted(lambda m, h, x, n: running(h, if_=m.training and n > 100)).train()
    assert error(model, 20) is not None
    assert error(model, 101) is None


SAMPLES = {
    "a rest": lambda m, h, x, n: running(h, if_=x.shape[0] % 5 == 0),
    "a logarithm": lambda m, h, x, n: running(h, if_=math.log2(len(x)) > 6),
    "train mode": lambda m, h, x, n: running(h, if_=m.training and x.shape[0] > 3),
}


def test_a_branch_that_asks_for_samples_and_a_length_is_refused_from_that_length_on() -> None:
    model = converted(lambda m, h, x, n: running(h, if_=n / 100 > 1 and x.shape[0] > 2))
    assert [error(model, 101, samples) for samples in (2, 3)] == [None, None]
    assert error(model, 100) is not None


@pytest.mark.parametrize("body", some(SAMPLES.values(), 1))
def test_another_way_for_more_samples_is_refused_if_the_law_fails_there(body: Any) -> None:
    with pytest.raises(BreaksSymmetryError, match=r"the law fails with \d+ samples"):
        convert_model(net(body), EXAMPLE)


LAWFUL = {
    "rounds": lambda m, h, x, n: [h := h * 0.9 for _ in range(1 + n // 30)][-1],
    "a way that obeys": lambda m, h, x, n: h.flip(-1) if n / 100 > 1 else h,
    "kept tables": lambda m, h, x, n: h * m.__dict__.setdefault("kept", {}).setdefault(n, torch.ones(n)),
    "a distance that is bounded": lambda m, h, x, n: h * (torch.arange(n) * 2 - (n - 1)).abs().clamp(max=100),
}


@pytest.mark.parametrize("body", some(LAWFUL.values(), 2))
def test_other_ways_that_obey_the_law_are_taken(body: Any) -> None:
    model = converted(body)
    found = [error(model, n) for n in (5, 19, 20, 21, 101, 260)]
    assert all(e is not None and e < TOLERANCE for e in found), found


@pytest.mark.parametrize("strategy", some(["conjoined", "mixed"], 1))
def test_a_place_in_a_large_batch_is_refused_by_both_strands_too(strategy: Any) -> None:
    def body(m: Any, h: Tensor, x: Tensor, n: int) -> Tensor:
        h = m.d(h)
        return h * (1.0 + torch.arange(x.shape[0])[:, None, None]) if x.shape[0] > 64 else h

    model = net(body)
    model.d = nn.Conv1d(8, 8, 3, padding=1)
    with pytest.raises(BreaksSymmetryError, match="the law fails with 33 samples, which are 66 with both strands"):
        convert_model(model, EXAMPLE, strategy=strategy)


ALONE: dict[str, Callable[[Any, Tensor, Tensor, int], Tensor]] = {
    "summed up": lambda m, h, x, n: running(h, if_=len(x) == 1),
    "summed up in train mode": lambda m, h, x, n: running(h, if_=m.training and x.shape[0] < 2),
    "weighed": lambda m, h, x, n: h * torch.linspace(0, 1, n, dtype=h.dtype) if x.size(0) == 1 else h,
}


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("body", ALONE.values(), ids=ALONE)
def test_one_sample_alone_is_measured_whatever_other_lengths_give(body: Any, fixed: bool) -> None:
    """Another way for a single sample, in models that are exact at one length only and in others."""
    table = torch.arange(20.0)

    def step(m: Any, h: Tensor, x: Tensor, n: int) -> Tensor:
        h = body(m, h, x, n)
        return h * (table[:n] - 9.5).abs().to(h) if fixed else h

    with pytest.raises(BreaksSymmetryError, match="the law fails with 1 sample"):
        converted(step)


LONG: dict[str, tuple[Callable[[Any, Tensor, Tensor, int], Tensor], int]] = {
    "a logarithm": (lambda m, h, x, n: running(h, if_=math.log2(n) > 4.8), 28),
    "train mode": (lambda m, h, x, n: running(h, if_=m.training and n > 30), 31),
    "text, shorter": (lambda m, h, x, n: running(h, if_=len(str(n)) < 2), 9),
}


@pytest.mark.parametrize(("body", "length"), LONG.values(), ids=LONG)
def test_a_forward_that_makes_many_numbers_is_run_at_lengths_around_the_example_s(
    body: Any, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one forward makes more than a ladder may, some rungs are tried all the same."""
    monkeypatch.setattr(ways, "WORK", 2**8)
    model = converted(body).train()
    assert error(model, length) is None
    assert error(model, 20) is not None


def test_a_long_forward_that_knows_no_size_is_run_at_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "WORK", 2**8)
    seen: list[Tensor] = []

    def body(m: Any, h: Tensor, x: Tensor, n: int) -> Tensor:
        seen.append(x)
        return h

    converted(body)
    assert max(map(len, seen)) < 100
    assert max(map(len, seen)) > 3


def test_a_batch_norm_that_one_sample_stops_tells_nothing_of_sizes() -> None:
    """With more samples it is asked again."""
    seen: list[Tensor] = []

    def body(m: Any, h: Tensor, x: Tensor, n: int) -> Tensor:
        seen.append(x)
        return h + m.norm(h.mean(-1))[:, :, None]

    model = net(body)
    model.norm = nn.BatchNorm1d(8)
    convert_model(model, EXAMPLE)
    assert max(map(len, seen)) < 100
