"""Sizes that no check at conversion came to, at which forward takes another way: measured when they are called."""

from __future__ import annotations

import copy
import math
import re
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import Net, bases, conv, mirror, worst
from tiers import some
from torch import Tensor, nn

from rcps_convert import BreaksSymmetryError, Tokens, apply_recipe, bake, convert_model, plan_conversion, recipe
from rcps_convert.convert import measured_call
from rcps_convert.tie.checks import checks_of
from rcps_convert.tie.input_forms import InputForms

EXAMPLE = torch.zeros(2, 4, 24)
TOLERANCE = 1e-9


def later_more(h: Tensor) -> Tensor:
    """Breaks the law: each position by where it stands."""
    return h * torch.linspace(0, 1, h.shape[-1], dtype=h.dtype)


def sideways(h: Tensor) -> Tensor:
    """Another way that obeys the law."""
    return h + h.roll(1, -1) + h.roll(-1, -1)


def is_prime(n: int) -> bool:
    return all(n % k for k in range(2, n))


ASKED: dict[str, tuple[Callable[[Tensor], bool], int]] = {
    "a table of lengths": (lambda h: {50: 1, 500: 2}.get(int(h.shape[-1])) is not None, 50),
    "squares": (lambda h: math.isqrt(h.shape[-1]) ** 2 == h.shape[-1] and h.shape[-1] > 60, 100),
    "primes": (lambda h: h.shape[-1] > 100 and is_prime(int(h.shape[-1])), 107),
    "digits": (lambda h: len(str(h.shape[-1])) >= 4, 1000),
    "a logarithm": (lambda h: math.log(h.shape[-1]) > 7, 1100),
    "entries of an array": (lambda h: int(h.shape[-1]) in (61, 62), 62),
}


def asking(asks: Callable[[Tensor], bool], other: Callable[[Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.c(x).relu()
        return m.o((other(h) if asks(h) else h).mean(-1))

    return Net(forward, c=conv(), o=nn.Linear(8, 2))


def quietly(model: nn.Module, example: Any = EXAMPLE, **how: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_model(model, example, **how).double().eval()


@pytest.mark.parametrize("name", some(ASKED, 2))
def test_a_length_at_which_forward_breaks_the_law_is_refused_when_called(name: str) -> None:
    asks, length = ASKED[name]
    model = quietly(asking(asks, later_more))
    for n in (24, 25, 40, length + 2 if name == "a table of lengths" else 30):
        x = bases(3, n)
        assert worst(model(mirror(x)), model(x)) < TOLERANCE
    for _ in range(2):
        with pytest.raises(BreaksSymmetryError, match=r"(?s)another way at the sizes.*disagree|which compares sizes"):
            model(bases(3, length))


@pytest.mark.parametrize("name", some(ASKED, 1))
def test_another_way_that_obeys_the_law_is_measured_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asks, length = ASKED[name]
    model, measured, measure = quietly(asking(asks, sideways)), list[Any](), measured_call.fault_of
    monkeypatch.setattr(measured_call, "fault_of", lambda *given: measured.append(given) or measure(*given))
    x = bases(3, length)
    for _ in range(2):
        assert worst(model(mirror(x)), model(x)) < TOLERANCE
    assert len(measured) == 1


def test_numbers_of_samples_count_too() -> None:
    model = quietly(asking(lambda h: {37: True}.get(int(h.shape[0]), False), later_more))
    for samples in (1, 36, 38):
        x = bases(samples, 24)
        assert worst(model(mirror(x)), model(x)) < TOLERANCE
    with pytest.raises(BreaksSymmetryError, match=r"(?s)another way at the sizes.*37, 4, 24"):
        model(bases(37, 24))


def test_a_forward_that_takes_the_same_way_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes with the length as a plain number; calls in train mode leave its statistics as they are."""

    def forward(m: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        h = m.n(m.e(ids).mT * math.log(ids.shape[1])).mT
        h = m.r(h)[0] if mask is None else m.r(h)[0] * mask[..., None]
        return m.o(sum(h.roll(2**k, 1) + h.roll(-(2**k), 1) for k in range(3)).mean(1))

    class Both(Net):
        def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
            return forward(self, ids, mask)

    torch.manual_seed(0)
    parts = {"e": nn.Embedding(6, 8), "n": nn.BatchNorm1d(8), "o": nn.Linear(8, 2)}
    model = Both(forward, r=nn.GRU(8, 4, batch_first=True, bidirectional=True), **parts)
    example = {"ids": torch.zeros(2, 24, dtype=torch.long), "mask": torch.ones(2, 24)}
    model = quietly(model, example, inputs={"ids": Tokens(["[PAD]", *"ACGTN"], prefix=0, suffix=0), "mask": "mask"})
    looked, look = list[Any](), measured_call.goes_by_sizes
    monkeypatch.setattr(measured_call, "fault_of", lambda *given: pytest.fail("measured"))
    monkeypatch.setattr(measured_call, "goes_by_sizes", lambda *given: looked.append(given) or look(*given))
    for length in (24, 31, 31, 40):
        ids, mask = torch.randint(1, 5, (3, length)), torch.ones(3, length).double()
        before = model.n.running_mean.clone()
        found = model.train()(ids, mask=mask)
        assert torch.allclose(model.n.running_mean, 0.9 * before + 0.1 * whole_mean(model, ids))
        found.sum().backward()
        assert worst(model.eval()(5 - ids.flip(1), mask), model(ids, mask=mask)) < TOLERANCE
    assert len(looked) == 9  # three lengths, in train mode and, with the mask by position and by name, in eval mode


def whole_mean(model: Any, ids: Tensor) -> Tensor:
    """The mean of each channel over both strands, which a tied batch norm keeps half of, (C / 2,)."""
    h = (model.e(ids) * math.log(ids.shape[1])).flatten(0, 1).mean(0)
    return h.reshape(2, -1).mean(0) if len(model.n.running_mean) < len(h) else h


def test_a_forward_that_goes_by_no_size_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_call, "goes_by_sizes", lambda *given: pytest.fail("looked at"))
    model = quietly(nn.Sequential(conv(), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2)))
    for n in (24, 31):
        model(bases(3, n))


def test_a_recipe_keeps_the_sizes() -> None:
    asks, length = ASKED["a table of lengths"]
    model = quietly(asking(asks, later_more))
    again = apply_recipe(asking(asks, later_more), recipe(model)).double().eval()
    with pytest.raises(BreaksSymmetryError, match="another way at the sizes"):
        again(bases(3, length))


def test_a_model_that_needs_no_ties_is_looked_at_too() -> None:
    asks, length = ASKED["a table of lengths"]

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.o((later_more(x) if asks(x) else x + x.flip(1, 2)).amax(-1))

    torch.manual_seed(0)
    model = quietly(Net(forward, o=nn.Linear(4, 2)))
    x = bases(3, 30)
    assert worst(model(mirror(x)), model(x)) < TOLERANCE
    with pytest.raises(BreaksSymmetryError, match="another way at the sizes"):
        model(bases(3, length))


def test_a_wrapped_model_that_cannot_be_copied_says_once_that_sizes_are_not_looked_at() -> None:
    asks, _ = ASKED["a table of lengths"]
    model = quietly(asking(asks, sideways))
    model.c.lock = threading.Lock()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for length in (24, 30, 31):
            x = bases(3, length)
            assert worst(model(mirror(x)), model(x)) < TOLERANCE
    assert len(said) == 1
    assert re.search("may go by the sizes.*cannot be copied.*before it is wrapped", str(said[0].message))


@pytest.mark.parametrize("name", some(ASKED, 2))
def test_a_baked_model_is_looked_at_too(name: str) -> None:
    asks, length = ASKED[name]
    model = bake(quietly(asking(asks, later_more)))
    for n in (24, 25, 40):
        x = bases(3, n)
        assert worst(model(mirror(x)), model(x)) < TOLERANCE
    for twin in (model, copy.deepcopy(model), bake(model)):
        with pytest.raises(BreaksSymmetryError, match=r"(?s)another way at the sizes.*disagree|which compares sizes"):
            twin(bases(3, length))


def test_one_that_was_trained_on_is_an_ordinary_model() -> None:
    asks, length = ASKED["squares"]
    model: Any = bake(quietly(asking(asks, later_more)))
    with torch.no_grad():
        model.c.weight[0] += 1
    assert model(bases(3, length)).isfinite().all()
    assert worst(model(mirror(bases(3, 24))), model(bases(3, 24))) > 1e-3


@pytest.mark.parametrize("by_sizes", [True, False])
def test_the_plan_says_whether_sizes_are_looked_at(by_sizes: bool) -> None:
    model = asking((lambda h: len(str(h.shape[-1])) > 3) if by_sizes else (lambda h: False), later_more)
    assert ("each call with new ones is looked at first" in str(plan_conversion(model, EXAMPLE))) is by_sizes


def test_a_baked_model_that_goes_by_no_size_has_no_checks() -> None:
    model: Any = bake(quietly(asking(lambda h: False, later_more)))
    assert checks_of(model) == []
    assert "forward" not in vars(model)


def by_table(h: Tensor) -> Tensor:
    """The same functions at all lengths, with another number at one of them."""
    return h + {50: 1}.get(int(h.shape[-1]), 0) * torch.arange(h.shape[-1], dtype=h.dtype) * h


def by_root(h: Tensor) -> Tensor:
    n = h.shape[-1]
    return h.lerp(later_more(h), float(n > 60 and math.isqrt(n) ** 2 == n))


def by_digits(h: Tensor) -> Tensor:
    n = h.shape[-1]
    weights = torch.linspace(1, 1 if len(str(n)) < 4 else 2, n, dtype=h.dtype)
    return h * weights


@pytest.mark.parametrize(("step", "length"), some([(by_table, 50), (by_root, 100), (by_digits, 1000)], 2))
def test_the_same_functions_with_other_numbers_are_measured(step: Callable[[Tensor], Tensor], length: int) -> None:
    model = quietly(asking(lambda h: True, step))
    for n in (24, 25, 40):
        x = bases(3, n)
        assert worst(model(mirror(x)), model(x)) < TOLERANCE
    for _ in range(2):
        with pytest.raises(BreaksSymmetryError, match=r"(?s)another way at the sizes.*disagree"):
            model(bases(3, length))


def test_a_bake_that_fails_leaves_the_check_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quietly(asking(ASKED["squares"][0], later_more))
    before = [(check, dict(vars(check))) for check in checks_of(model) if isinstance(check, InputForms)]
    monkeypatch.setattr("rcps_convert.convert.bake.remove", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bake(model, in_place=True)
    assert [(check, dict(vars(check))) for check in checks_of(model) if isinstance(check, InputForms)] == before
    assert len(before) == 1
    assert not before[0][0].only_sizes
