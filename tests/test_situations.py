"""Branches on what is no value of an input: precision, autocast, gradients, inference mode, a GPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from threading import current_thread
from typing import Any

import pytest
import torch
from tiers import some
from torch import Tensor, nn
from torch.jit import is_scripting
from torch.utils.checkpoint import checkpoint

from rcps_convert import BreaksSymmetryError, Tokens, convert_model, plan_conversion
from rcps_convert.measure.situations import turning_situations

DNA = torch.zeros(2, 4, 12)


class Net(nn.Module):
    """Asks for something, and does something else there."""

    other: Callable[[Tensor], Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 2)

    def asks(self, x: Tensor, h: Tensor) -> bool:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        h = self.other(h) if self.asks(x, h) else h
        return self.head(h.relu().mean(-1))


class Autocast(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return torch.is_autocast_enabled("cpu")


class CastResult(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return h.dtype == torch.bfloat16


class Half(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return self.head.weight.dtype == torch.float16


class Inference(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return torch.is_inference_mode_enabled()


class Explained(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return x.requires_grad


class Inner(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return not x.is_leaf


class Made(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return x.grad_fn is not None


class OnGPU(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return h.is_cuda


class Default(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return torch.get_default_dtype() == torch.float64


class Deterministic(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return torch.are_deterministic_algorithms_enabled()


def ramp(h: Tensor) -> Tensor:
    """Breaks the law."""
    return h * torch.arange(h.shape[-1], dtype=h.dtype)


def usual(h: Tensor) -> Tensor:
    """Obeys it, in other words."""
    return h.float().to(h.dtype).flip(-1).flip(-1)


def again(h: Tensor) -> Tensor:
    """A part that a backward pass runs again."""
    return checkpoint(torch.relu, h, use_reentrant=False)  # type: ignore[no-any-return]


ASKING = {
    Autocast: "under autocast",
    CastResult: "under autocast",
    Half: "in float16",
    Inference: "in inference mode",
    Explained: "with an input that requires a gradient",
    Inner: "with an input that other gradients flow to",
    Made: "with an input that other gradients flow to",
    OnGPU: "on a GPU",
    Default: "with another default dtype",
    Deterministic: "with deterministic algorithms",
}


def made(kind: type[Net], other: Callable[[Tensor], Tensor]) -> Any:
    torch.manual_seed(0)
    return type(kind.__name__, (kind,), {"other": staticmethod(other)})()


@pytest.mark.parametrize("kind", ASKING)
def test_a_branch_that_breaks_the_law_is_refused(kind: type[Net]) -> None:
    plan = plan_conversion(made(kind, ramp), DNA)
    assert [type(p) for p in plan.problems] == [BreaksSymmetryError]
    assert plan.problems[0].what == f"the law fails {ASKING[kind]}"


@pytest.mark.parametrize(("kind", "other"), [(CastResult, usual), (Explained, again), (Inference, usual)])
def test_a_branch_that_obeys_it_is_converted(kind: type[Net], other: Callable[[Tensor], Tensor]) -> None:
    model = made(kind, other)
    assert ASKING[kind] in [situation.words for situation in turning_situations(model, DNA)]
    converted = convert_model(model, DNA).double()
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    with torch.inference_mode(kind is Inference):
        given = x if kind is Inference else x.requires_grad_(kind is Explained)
        assert torch.allclose(converted(given), converted(given.flip(1, 2)), rtol=0, atol=1e-12)


def test_what_belongs_to_the_process_is_as_it_was() -> None:
    settings = torch.get_default_dtype, torch.are_deterministic_algorithms_enabled
    before = [ask() for ask in settings]
    for kind in (Default, Deterministic):
        assert plan_conversion(made(kind, ramp), DNA).problems
    assert [ask() for ask in settings] == before


def test_a_forward_that_asks_for_nothing_is_run_no_more() -> None:
    assert [*turning_situations(nn.Sequential(nn.Conv1d(4, 2, 3)), DNA)] == []


def test_what_is_told_is_told_to_the_user_alone() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []
            self.norm, self.attention = nn.BatchNorm1d(4), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append((x.dtype, x.long().dtype))
            h = self.norm(x).mT.to(x.dtype)
            return self.attention(h, h, h)[0]

    model = Asks()
    assert [*turning_situations(model, DNA)] == []
    model(DNA)
    assert model.seen == [(torch.float32, torch.int64)]


# --- devices, and who traces ---


class OnDevice(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return x.device.type == "cuda"


class NotOnCPU(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return not self.head.weight.is_cpu and h.get_device() >= 0


class Made(Net):
    """Makes tensors where its input is, and asks where that is."""

    def asks(self, x: Tensor, h: Tensor) -> bool:
        made = torch.zeros(3, device=x.device).to(h.device) + torch.ones(3, device=x.device.type)
        return made.device == x.device and "cuda" in str(h.device)


class Compiled(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return torch.compiler.is_dynamo_compiling()  # the export that is looked at is none


class Traced(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return torch.jit.is_tracing()  # type: ignore[no-any-return]


class Scripted(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return is_scripting()


class Exported(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return torch.onnx.is_in_onnx_export()


MORE = {
    OnDevice: "on a GPU",
    NotOnCPU: "on a GPU",
    Made: "on a GPU",
    Compiled: "compiled or exported",
    Traced: "traced",
    Scripted: "scripted",
    Exported: "exported to ONNX",
}


@pytest.mark.parametrize("kind", MORE)
def test_a_branch_on_where_or_by_whom_it_is_run_is_refused_if_it_breaks_the_law(kind: type[Net]) -> None:
    plan = plan_conversion(made(kind, ramp), DNA)
    assert [p.what for p in plan.problems] == [f"the law fails {MORE[kind]}"]


@pytest.mark.parametrize("kind", [Made, Compiled, Scripted])
def test_the_plan_says_in_which_situations_the_law_was_measured(kind: type[Net]) -> None:
    plan = plan_conversion(made(kind, usual), DNA)
    assert not plan.problems
    assert f"measured too, as forward asks for it: {MORE[kind]}\n" in str(plan)


def test_what_traces_is_told_to_the_user_alone() -> None:
    functions = torch.compiler.is_compiling, torch.jit.is_tracing, is_scripting, torch.onnx.is_in_onnx_export
    assert plan_conversion(made(Scripted, ramp), DNA).problems
    now = torch.compiler.is_compiling, torch.jit.is_tracing, is_scripting, torch.onnx.is_in_onnx_export
    assert now == functions == (now[0], now[1], torch.jit.is_scripting, now[3])
    assert not any(ask() for ask in functions)


# --- how a tensor came about, and what is kept with it ---

PART = "with an input that is a part of another tensor"
KEPT: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "offset": (lambda x: x.storage_offset() > 0, PART),
    "base": (lambda x: x._base is not None and x._base.dim() == 3, PART),
    "version": (lambda x: x._version != 0, PART),
    "storage": (lambda x: x.untyped_storage().size() > x.nbytes, PART),
    "numbers in storage": (lambda x: x.storage().size() > x.numel(), PART),
    "output": (lambda x: x.output_nr > 0, PART),
    "repeated": (lambda x: x.stride(0) == 0, "with an input that is expanded"),
    "strides": (lambda x: 0 in x.stride(), "with an input that is expanded"),
    "shared": (lambda x: x.is_shared(), "with an input in shared or pinned memory"),
    "pinned": (lambda x: x.is_pinned(), "with an input in shared or pinned memory"),
    "negated": (lambda x: x.is_neg(), "with an input that is negated or conjugated when it is read"),
    "gradient": (lambda x: x.grad is not None, "with an input that has a gradient"),
    "retained": (lambda x: x.retains_grad, "with an input that has a gradient"),
    "a GPU": (lambda x: torch.cuda.is_available(), "where a GPU is available"),
    "threads": (lambda x: torch.get_num_threads() > 32, "with many threads"),
    "cores": (lambda x: (os.cpu_count() or 1) > 32, "with many threads"),
    "thread": (lambda x: current_thread() is not threading.main_thread(), "on another thread"),
    "its number": (lambda x: threading.get_ident() != threading.main_thread().ident, "on another thread"),
    "processes": (lambda x: torch.distributed.is_initialized(), "with several processes or GPUs"),
    "products": (lambda x: torch.get_float32_matmul_precision() == "medium", "with quicker products of matrices"),
    "kernels": (lambda x: not torch.backends.cuda.flash_sdp_enabled(), "without kernels of attention"),
}


class Keeps(Net):
    def __init__(self, asked: Callable[[Tensor], Any], ids: bool = False) -> None:
        super().__init__()
        self.asked, self.table = asked, nn.Embedding(4, 4) if ids else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x if self.table is None else self.table(x).mT)
        return self.head((ramp(h) if self.asked(x) else h).relu().mean(-1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU is available on the example already")
@pytest.mark.parametrize("name", KEPT)
def test_a_branch_on_how_an_input_came_about_is_another_way(name: str) -> None:
    asked, words = KEPT[name]
    assert words in [situation.words for situation in turning_situations(Keeps(asked), DNA)]


@pytest.mark.parametrize(
    ("name", "ids"), some([("offset", False), ("base", False), ("storage", True), ("thread", False)], 2)
)
def test_such_a_branch_is_refused_if_it_breaks_the_law(name: str, ids: bool) -> None:
    asked, words = KEPT[name]
    example, how = (torch.zeros(2, 12, dtype=torch.long), {"inputs": Tokens("ACGT")}) if ids else (DNA, {})
    plan = plan_conversion(Keeps(asked, ids), example, **how)
    assert [p.what for p in plan.problems] == [f"the law fails {words}"]


HOOKED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "autocast": (lambda h: torch.is_autocast_enabled("cpu"), "under autocast"),
    "gradients": (lambda h: h.requires_grad and torch.is_grad_enabled(), "with an input that requires a gradient"),
    "a step before": (
        lambda h: torch.is_grad_enabled() and h.grad_fn is not None,
        "with an input that other gradients flow to",
    ),
}


@pytest.mark.parametrize("name", HOOKED)
def test_a_hook_of_a_layer_may_ask_too(name: str) -> None:
    asked, words = HOOKED[name]
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU())
    assert [*turning_situations(model, DNA)] == []
    model[0].register_forward_hook(lambda module, args, h: ramp(h) if asked(h) else None)
    assert words in [situation.words for situation in turning_situations(model, DNA)]


class Frozen(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return not self.head.weight.requires_grad


class Single(Net):
    def asks(self, x: Tensor, h: Tensor) -> bool:
        return h.dtype == torch.float32


@pytest.mark.parametrize(("kind", "words"), [(Frozen, "with parameters that are frozen"), (Single, "in float32")])
def test_a_model_is_frozen_and_cast_later(kind: type[Net], words: str) -> None:
    found = [situation.words for situation in turning_situations(made(kind, ramp).double(), DNA.double())]
    assert words in found
    assert "in float32" not in [situation.words for situation in turning_situations(made(Half, ramp), DNA)]


class Slanted(Keeps):
    """Calls the same functions, with other numbers."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.head((h * torch.linspace(1, 1 + int(self.asked(x) > 0), h.shape[-1])).relu().mean(-1))


def test_another_number_is_another_way() -> None:
    plan = plan_conversion(Slanted(lambda x: x.storage_offset()), DNA)
    assert [p.what for p in plan.problems] == [f"the law fails {PART}"]
