"""What GPUs need of the package, as far as it shows without one: float32 in full, and tables that are copied once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from tiers import some
from torch import Tensor, nn

from rcps_convert import ConversionError, bake, check_equivariance, convert_model, plan_conversion
from rcps_convert.algebra import tables

BACKENDS: Any = torch.backends


@pytest.fixture(autouse=True)
def gpu_in_use() -> Iterator[None]:
    """The settings of GPUs are looked at, and brought back."""
    operators = (BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.cuda.matmul, BACKENDS.mkldnn.matmul)
    before = [op.fp32_precision for op in operators]
    allowed, words = BACKENDS.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    if torch.cuda.is_available():
        torch.cuda.init()
        yield
    else:
        with mock.patch.object(torch.cuda, "is_initialized", return_value=True), _no_generators():
            yield
    BACKENDS.fp32_precision = "none"
    BACKENDS.cudnn.allow_tf32 = allowed
    torch.set_float32_matmul_precision(words)
    for op, value in zip(operators, before, strict=True):
        op.fp32_precision = value


def _no_generators() -> Any:
    return mock.patch.object(torch.cuda, "default_generators", ())


def settings() -> list[Any]:
    """Everything that says how float32 is multiplied; what torch refuses to say is None."""
    found: list[Any] = [
        op.fp32_precision
        for op in (BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.cuda.matmul, BACKENDS.mkldnn.matmul)
    ]
    readers: list[Callable[[], Any]] = [
        torch.get_float32_matmul_precision,
        lambda: BACKENDS.cudnn.allow_tf32,
        lambda: BACKENDS.cuda.matmul.allow_tf32,
    ]
    for read in readers:
        try:
            found.append(read())
        except RuntimeError:
            found.append(None)
    return found


class Watching(nn.Module):
    """Notes how float32 is multiplied when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, 8, 5), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        SEEN.add("tf32" in settings()[:3])
        return self.out(self.conv(x).relu().mean(-1))


SEEN: set[bool] = set()

STATES: dict[str, Callable[[], None]] = {
    "default": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "allowed": lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", True),
    "off": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
    "new, mixed": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
    "new, for all": lambda: setattr(BACKENDS, "fp32_precision", "tf32"),
    "new, matrices": lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
}


@pytest.mark.parametrize("tf32", some([True, False], 1))
@pytest.mark.parametrize("name", some(STATES, 2))
def test_models_are_checked_in_full_float32_and_settings_stay(name: str, tf32: bool) -> None:
    BACKENDS.cudnn.allow_tf32 = tf32
    STATES[name]()
    before = settings()
    SEEN.clear()
    plan = plan_conversion(Watching(), (2, 4, 30))
    assert not plan.problems
    check_equivariance(Watching(), (2, 4, 30))
    assert {False} == SEEN
    assert settings() == before


@pytest.mark.parametrize("tf32", some([True, False], 1))
@pytest.mark.parametrize("name", ["new, mixed", "default"])
def test_without_a_gpu_settings_are_in_the_way_of_no_trace(name: str, tf32: bool) -> None:
    BACKENDS.cudnn.allow_tf32 = tf32
    STATES[name]()
    before = settings()
    with mock.patch.object(torch.cuda, "is_initialized", return_value=False):
        assert not plan_conversion(Watching(), (2, 4, 30)).problems
    assert settings() == before


def test_settings_stay_when_a_conversion_fails() -> None:
    torch.set_float32_matmul_precision("high")
    before = settings()
    with pytest.raises(ConversionError):
        convert_model(nn.Sequential(nn.Conv1d(4, 8, 5), nn.Flatten(), nn.Linear(8, 1)), (2, 4, 30))
    assert settings() == before


# --- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["tied", "conjoined"])
def test_a_gpu_that_is_not_in_use_yet_is_not_seeded(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What seeds it then is kept by torch, and done when it is first used: after the seeds that the user set."""
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    model = nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 1))
    converted = convert_model(model, torch.zeros(2, 4, 20), strategy=strategy)
    bake(converted)
    assert not seeds


def test_a_table_is_copied_to_a_device_once() -> None:
    table, x = torch.arange(4), torch.zeros(2, 4, device="meta")
    assert tables.beside(table, torch.zeros(2)) is table
    one = tables.beside(table, x)
    assert one.device == x.device
    assert tables.beside(table, x.clone()) is one
    assert tables.beside(torch.arange(4), x) is not one


def test_copies_of_tables_that_are_gone_are_gone() -> None:
    gc.collect()  # those of other tests
    table = torch.arange(4)
    tables.beside(table, torch.zeros(2, device="meta"))
    count = len(tables._COPIES)
    del table
    gc.collect()
    assert len(tables._COPIES) == count - 1


def test_copies_that_a_tracer_makes_are_not_kept() -> None:
    table = torch.arange(4)
    x = torch._subclasses.fake_tensor.FakeTensorMode().from_tensor(torch.zeros(2, device="meta"))
    assert tables.beside(table, x).device == x.device
    with mock.patch.object(tables, "is_recorded", return_value=True):
        tables.beside(table, torch.zeros(2, device="meta"))
    assert id(table) not in tables._COPIES


def test_a_copy_made_in_inference_mode_serves_training() -> None:
    table, x = torch.arange(4), torch.zeros(2, 4, device="meta", requires_grad=True)
    with torch.inference_mode():
        assert not tables.beside(table, x).is_inference()
    x.index_select(1, tables.beside(table, x)).sum().backward()
    assert x.grad is not None
