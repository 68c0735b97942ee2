"""Interruptions and threads: a model is converted or as it was, and the process is as it was."""

from __future__ import annotations

import functools
import gc
import logging
import random
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faults import Injector, events, picture, process
from oracle import assert_law
from tiers import some
from torch import Tensor, nn

from rcps_convert import (
    ConversionError,
    bake,
    check_equivariance,
    convert_model,
    load_plain_state_dict,
    plan_conversion,
    rc_equivariant,
    unwrap,
)
from rcps_convert.graph.precision import double_precision
from rcps_convert.graph.sandbox import alone

DNA = torch.zeros(2, 4, 41)
POINTS = 500


@pytest.fixture(scope="module", autouse=True)
def little_garbage() -> None:
    """Leave what is there out of the garbage collector's rounds, of which there are many here."""
    gc.collect()
    gc.freeze()


def sequence(n: int = 3, length: int = 41) -> Tensor:
    return F.one_hot(torch.randint(4, (n, length)), 4).mT.float()


class Everything(nn.Module):
    """Ties of halves and of orbits, folded and pooled norms, a buffer, a shared weight, weight norm, a symmetriser."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv1d(4, 8, 5, padding=2), nn.BatchNorm1d(8)
        self.odd, self.pooled = nn.Conv1d(8, 7, 3, padding=1), nn.BatchNorm1d(7)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(7, 8, 3, padding=1))
        self.shared = nn.Conv1d(8, 8, 1)
        self.again = nn.Conv1d(8, 8, 1)
        self.again.weight = self.shared.weight
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 41))
        self.head = nn.Sequential(nn.Conv1d(8, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
        self.register_forward_hook(lambda module, args, output: None)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.stem(x)).relu() * self.scale
        h = self.normed(self.pooled(self.odd(h)).relu()).relu()
        h = F.max_pool1d(self.again(self.shared(h)), 2)
        return self.head(h)


def ready(model: nn.Module | None = None) -> nn.Module:
    """With gradients, a layer in another mode, and running statistics of its own."""
    torch.manual_seed(0)
    model = Everything() if model is None else model
    model(sequence()).sum().backward()
    next(model.children()).eval()
    return model


@functools.cache
def tied_plan() -> Any:
    return plan_conversion(ready(), DNA, symmetrise_buffers=True, verify=False)


@functools.cache
def mixed_plan() -> Any:
    return plan_conversion(ready(), DNA, strategy="mixed", verify=False)


def quietly(run: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run()


Change = tuple[Callable[[], nn.Module], Callable[[nn.Module], Any]]

PLAIN = {k: v.detach().clone() * 2 for k, v in ready().state_dict().items()}

CHANGES: dict[str, Change] = {
    "apply tied": (ready, lambda m: tied_plan().apply(m, in_place=True)),
    "apply mixed": (ready, lambda m: mixed_plan().apply(m, in_place=True)),
    "bake": (lambda: tied_plan().apply(ready()), lambda m: bake(m, in_place=True)),
    "unwrap": (lambda: mixed_plan().apply(ready()), lambda m: unwrap(m, in_place=True)),
    "load": (lambda: tied_plan().apply(ready()), lambda m: load_plain_state_dict(m, PLAIN)),
    "load both": (lambda: mixed_plan().apply(ready()), lambda m: load_plain_state_dict(m, PLAIN)),
}


def interrupted(model: nn.Module, change: Callable[[nn.Module], Any], at: tuple[int, ...], **how: Any) -> Injector:
    """Change a model and be interrupted; `ended` says whether the change came to its end nevertheless.

    The one way to fail with another error is that torch's context managers dropped the interruption, in `contextlib`.

    Also what counts the events calls this: some lines are run once for each frame of the stack below.
    """
    told = ""
    with Injector(at, **how) as injector:
        try:
            change(model)
            injector.ended, injector.dropped = True, bool(injector.raised)
        except (KeyboardInterrupt, MemoryError):
            pass
        except (ConversionError, RuntimeError) as error:  # it may be caught, and told as the reason of another
            told = "".join(traceback.format_exception(error))
            injector.dropped = "injected" not in told
    assert injector.raised == len(at) or injector.ended or not injector.dropped, f"without an interruption: {told}"
    assert injector.ended or not injector.dropped or "contextlib" in injector.where, injector.where
    return injector


def traces(
    make: Callable[[], nn.Module], change: Callable[[nn.Module], Any], points: int, start: float = 0.0, **how: Any
) -> list[str]:
    """The injections that left a trace, of so many that are spread evenly, from a share of their distance on."""
    interrupted(make(), change, ())  # the first one in a process takes longer: caches are empty
    total = interrupted(make(), change, ()).count
    model, left, ended = make(), [], 0
    before, outside = picture(model), process()
    for number in sorted({round(1 + (k + start) * (total - 1) / points) for k in range(points)}):
        injector = interrupted(model, change, (number,), **how)
        if injector.dropped:
            gc.collect()  # what is left in a cycle would act later
        changed = not injector.ended and picture(model) != before
        if changed or process() != outside:
            outer = [after for after, it in zip(process(), outside, strict=True) if after != it]
            left.append(f"{number} of {total}: {injector.where}, {'the model' if changed else outer}")
        if injector.ended or changed or process() != outside:
            ended += injector.ended
            model = make()
            before, outside = picture(model), process()
    assert ended <= max(1, points // 50)  # torch's context managers may drop what is raised inside of them
    return left


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize(
    ("exception", "start", "points"),
    some([(KeyboardInterrupt, 0.5, 3), (KeyboardInterrupt, 0.0, POINTS // 60), (MemoryError, 0.5, POINTS // 60)], 1),
)
def test_an_interrupted_change_leaves_no_trace(
    name: str, exception: type[BaseException], start: float, points: int
) -> None:
    """The one exception is raised between the places of the other."""
    assert (tied_plan().norms, mixed_plan().mixed) != ([], {})
    make, change = CHANGES[name]
    assert quietly(lambda: traces(lambda: quietly(make), change, points, start, exception=exception)) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CHANGES)
def test_an_interrupted_change_leaves_no_trace_at_any_line(name: str) -> None:
    assert (tied_plan().norms, mixed_plan().mixed) != ([], {})
    make, change = CHANGES[name]
    assert quietly(lambda: traces(lambda: quietly(make), change, POINTS)) == []


@pytest.mark.parametrize("rounds", [*some([5, 12], 1), pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_a_second_interruption_while_the_first_is_undone_leaves_none_either(rounds: int) -> None:
    make, change = CHANGES["apply tied"]
    interrupted(make(), change, ())
    total = interrupted(make(), change, ()).count
    model = make()
    before = picture(model)
    generator, raised = random.Random(0), 0
    for _ in range(rounds):
        first = generator.randrange(1, total)
        injector = Injector((first, first + generator.randrange(1, 60)))
        try:
            with injector:
                change(model)
        except KeyboardInterrupt:
            raised += 1
            assert picture(model) == before
        else:  # with warm caches the change may be over before the last events
            assert injector.raised == 0
            model = make()
            before = picture(model)
    assert raised > 5 * rounds // 6


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.conv(x)).relu().mean(-1))


def converted_in_place(strategy: str) -> Change:
    return Small, lambda m: convert_model(m, torch.zeros(2, 4, 12), strategy=strategy, in_place=True)


@pytest.mark.parametrize(
    ("strategy", "points"),
    [
        *some([("conjoined", 2), ("tied", 2), ("tied", 4), ("conjoined", 4)], 1),
        pytest.param("tied", POINTS, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
        pytest.param("conjoined", POINTS, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_an_interrupted_conversion_leaves_no_trace(strategy: str, points: int) -> None:
    make, change = converted_in_place(strategy)
    assert traces(make, change, points) == []


def decomposed() -> bool:
    """Whether torch's own decompositions take the place of operators on this thread, as while it exports."""
    gc.collect()
    return torch._C._dispatch_tls_is_dispatch_key_included(torch._C.DispatchKey.PythonDispatcher)


@pytest.mark.slow
@pytest.mark.parametrize("points", [3, pytest.param(200, marks=pytest.mark.timeout(3600))])
@pytest.mark.filterwarnings("ignore")
def test_an_interruption_while_torch_leaves_several_modes_at_once_leaves_none_on(points: int) -> None:
    make, change = converted_in_place("conjoined")
    total = 0
    for _ in range(2):  # the first one in a process takes longer: caches are empty
        with Injector(only="ExitStack.__exit__") as counted:
            change(make())
        total = counted.count
    for at in sorted({total - 1 - k * (total - 1) // points for k in range(points)}):
        injector = interrupted(make(), change, (at,), only="ExitStack.__exit__")
        assert not decomposed(), injector.where


IN_TORCH = """
def left(stack, guard):
    stack.enter_context(guard())
    raise RuntimeError("broken by something that torch dropped")
"""


def test_what_a_dropped_interruption_leaves_in_frames_of_torch_does_not_act_later() -> None:
    """Nothing shows that there was one: torch tells of something else."""
    inside: dict[str, Any] = {}
    exec(compile(IN_TORCH, torch.__file__, "exec"), inside)

    @alone
    def exports() -> None:
        with torch._C._EnablePythonDispatcher():
            inside["left"](ExitStack(), torch._C._EnablePythonDispatcher)

    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            exports()
        assert not decomposed()


def test_what_belongs_to_the_user_is_there_to_be_looked_at() -> None:
    @alone
    def forward() -> None:
        width = 3  # noqa: F841 - looked at in the frame
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop") as caught:
        forward()
    (own,) = [f for f, _ in traceback.walk_tb(caught.value.__traceback__) if f.f_code.co_name == "forward"]
    assert own.f_locals["width"] == 3


def test_a_dispatch_key_that_is_left_on_is_switched_off() -> None:
    @alone
    def leaves() -> None:
        torch._C._dispatch_tls_set_dispatch_key_included(torch._C.DispatchKey.Python, True)

    before = process()
    leaves()
    assert process() == before


@pytest.mark.parametrize("how", some(["a stack", "a cycle", "the reason of another"], 2))
@pytest.mark.parametrize("raised", some([KeyboardInterrupt, MemoryError], 1))
def test_what_an_interruption_leaves_in_frames_does_not_act_later(how: str, raised: type[BaseException]) -> None:
    @alone
    def exports() -> None:
        with torch._C._EnablePythonDispatcher():
            inner = ExitStack()
            inner.enter_context(torch._C._EnablePythonDispatcher())
            if how == "a cycle":
                ring: list[Any] = [inner]
                ring.append(ring)
            if how == "the reason of another":
                try:
                    raise raised
                except BaseException as reason:
                    raise RuntimeError("told") from reason
            raise raised

    for _ in range(2):
        with pytest.raises((raised, RuntimeError)):
            exports()
        assert not decomposed()


def test_frames_of_the_caller_keep_what_they_hold() -> None:
    def fails() -> None:
        kept = [1]  # noqa: F841 - looked at in the frame
        raise KeyError

    @alone
    def interrupted_inside() -> None:
        raise KeyboardInterrupt

    frames: list[Any] = []
    try:
        fails()
    except KeyError as error:
        frames += [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        with pytest.raises(KeyboardInterrupt):
            interrupted_inside()
    assert frames[-1].f_locals["kept"] == [1]


def test_an_interrupted_decoration_leaves_the_class_as_it_was() -> None:
    def decorated() -> type[nn.Module]:
        class Net(Small):
            def __init_subclass__(cls, **kwargs: Any) -> None:
                super().__init_subclass__(**kwargs)

        return Net

    decorate = rc_equivariant(example=(2, 4, 12))
    total = events(lambda: decorate(decorated()))
    for number in range(1, total):
        cls = decorated()
        before = dict(vars(cls))
        with Injector((number,)), pytest.raises(KeyboardInterrupt):
            decorate(cls)
        assert dict(vars(cls)) == before


@pytest.mark.slow
def test_an_interrupted_instance_is_plain_and_the_next_one_converted() -> None:
    made: list[nn.Module] = []

    @rc_equivariant(example=(2, 4, 12), strategy="conjoined")
    class Net(Small):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    total, raised = events(Net), 0
    for k in range(1, 12):
        outside = process()[:5]
        try:
            with Injector((total * k // 12,)):
                Net()
        except KeyboardInterrupt:
            raised += 1
        else:  # some of torch's context managers drop what is raised inside of them
            continue
        plain = made[-1]
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in plain.modules())
        assert process()[:5] == outside
    assert raised >= 9
    assert check_equivariance(Net(), torch.zeros(2, 4, 12))


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_changes_nothing() -> None:
    model = ready()
    before = picture(model)
    with pytest.raises(UserWarning):
        tied_plan().apply(model, in_place=True)
    assert picture(model) == before


# --- the process --------------------------------------------------------------------------------


class Draws(nn.Module):
    """Draws from every source of random numbers in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        noise = (random.random() + np.random.rand()) * torch.rand(())
        return self.conv(x).mean(-1) + 0 * noise


@pytest.mark.parametrize("strategy", ["tied", "conjoined"])
def test_every_random_state_is_as_before(strategy: str) -> None:
    model = Draws()
    before = process()
    convert_model(model, torch.zeros(2, 4, 12), strategy=strategy)
    assert process() == before


@pytest.mark.parametrize("seconds", [0.3, pytest.param(60, marks=pytest.mark.slow)])
def test_four_threads_convert_and_train_at_once(seconds: float) -> None:
    """Each thread converts, and trains in float32; what comes out obeys the law, and the process is as it was."""
    stop, wrong, done = time.monotonic() + seconds, list[str](), Counter[str]()
    state = (torch.get_default_dtype(), logging.root.manager.disable, torch.is_grad_enabled())

    def rounds(strategy: str) -> None:
        while time.monotonic() < stop:
            model = convert_model(Small(), torch.zeros(2, 4, 12), strategy=strategy)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
            for _ in range(20):
                loss = model(sequence(4, 12)).square().mean() + torch.zeros(())
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                wrong.extend([f"{strategy}: {loss.dtype}"] * (loss.dtype != torch.float32))
            model, x = model.double().eval(), sequence(2, 12).double()
            y, r = model(x), model(x.flip(1, 2))
            wrong.extend([f"{strategy}: law"] * (not torch.allclose(y, r, rtol=0, atol=1e-12)))
            done[strategy] += 1

    def guarded(strategy: str) -> None:
        try:
            rounds(strategy)
        except Exception as reason:
            wrong.append(f"{strategy}: {reason!r}")

    threads = [threading.Thread(target=guarded, args=(s,)) for s in ("tied", "conjoined") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(done[s] > 0 for s in ("tied", "conjoined")), done
    assert (torch.get_default_dtype(), logging.root.manager.disable, torch.is_grad_enabled()) == state


def test_double_precision_is_of_one_thread() -> None:
    seen: list[torch.dtype] = []
    with double_precision():
        thread = threading.Thread(target=lambda: seen.append(torch.zeros(1).dtype))
        thread.start()
        thread.join()
        assert torch.zeros(1).dtype == torch.float64
    assert seen == [torch.float32]


INT = torch.arange(5)
MAKERS: list[Callable[[], Tensor]] = [
    lambda: torch.zeros(3), lambda: torch.full((2,), 0.1), lambda: torch.arange(0, 1, 0.1), lambda: torch.tensor([0.1]),
    lambda: INT / 3, lambda: 1 / (INT + 1), lambda: INT.sqrt(), lambda: INT * 0.1, lambda: (INT > 2) * 0.1,
    lambda: torch.where(INT > 2, 0.1, 0.2), lambda: torch.linspace(0, 1, 7), lambda: torch.hann_window(8),
    lambda: torch.rand(3), lambda: torch.ops.aten.div.Tensor(INT, INT + 1), lambda: INT**0.5, lambda: torch.eye(3),
    lambda: torch.polar(torch.ones(2), torch.ones(2)), lambda: torch.zeros(3, dtype=torch.int64),
    lambda: torch.ops.aten.arange.start_step(0, 1, 0.1), lambda: torch.randint(4, (3,)).double().mean(),
]  # fmt: skip


@pytest.mark.parametrize("make", MAKERS)
def test_double_precision_is_what_the_default_dtype_would_give(make: Callable[[], Tensor]) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        expected = make()
    finally:
        torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    with double_precision():
        found = make()
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


# --- what is kept between calls -----------------------------------------------------------------


@pytest.mark.parametrize("strategy", some(["tied", "conjoined", "mixed"], 1))
def test_converted_in_inference_mode_it_trains(strategy: str) -> None:
    class Deep(Small):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.Sequential(nn.Conv1d(6, 6, 3), nn.BatchNorm1d(6))

    model = Deep()
    with torch.inference_mode():
        converted = convert_model(model, torch.zeros(2, 4, 18), strategy=strategy)
        assert torch.is_inference_mode_enabled()
    converted(sequence(2, 18)).sum().backward()
    assert not any(p.is_inference() for p in converted.parameters())
    again = convert_model(Deep(), torch.zeros(2, 4, 18), strategy=strategy)
    again(sequence(2, 18)).sum().backward()
    assert check_equivariance(again, torch.zeros(2, 4, 18))
    assert_law(again, torch.zeros(2, 4, 18))


def test_converted_under_autocast_it_is_exact() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        converted = convert_model(Small(), torch.zeros(2, 4, 12))
        assert check_equivariance(converted, torch.zeros(2, 4, 12), tolerance=1e-10)
    assert_law(converted, torch.zeros(2, 4, 12))


@functools.lru_cache(maxsize=8)
def weights_of_positions(n: int) -> Tensor:
    at = torch.arange(n) / (n - 1) - 0.5
    return at.square()


class Tabled(Small):
    @staticmethod
    @functools.cache
    def table(n: int) -> Tensor:
        return torch.ones(n) / n

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x)).relu()
        return self.out((h * weights_of_positions(h.shape[-1]) * self.table(h.shape[-1])).sum(-1))


@pytest.mark.parametrize("strategy", ["tied", "conjoined"])
@pytest.mark.parametrize("filled", some([False, True], 1))
def test_cached_tables_of_the_user_hold_what_the_model_computes(strategy: str, filled: bool) -> None:
    weights_of_positions.cache_clear()
    if filled:
        weights_of_positions(10)
    converted = convert_model(Tabled(), torch.zeros(2, 4, 12), strategy=strategy)
    assert weights_of_positions(10).dtype == torch.float32
    assert type(weights_of_positions(10)) is Tensor
    assert converted(sequence(2, 12)).dtype == torch.float32
    assert check_equivariance(converted, torch.zeros(2, 4, 12))
    assert_law(converted, torch.zeros(2, 4, 12))


@pytest.mark.parametrize("strategy", ["tied", "conjoined", "mixed"])
def test_hooks_that_watch_see_real_tensors_only(strategy: str) -> None:
    seen: list[Tensor] = []
    model = Small()
    model.conv.register_forward_hook(lambda module, args, output: seen.append(output))
    model.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().numpy().sum()))
    model.register_forward_hook(lambda module, args, kwargs, output: seen.append(output), with_kwargs=True)
    convert_model(model, torch.zeros(2, 4, 12), strategy=strategy if strategy != "mixed" else "conjoined")
    assert all(type(x) in (Tensor, np.float32, np.float64) for x in seen)


def test_hooks_that_change_outputs_are_part_of_the_model() -> None:
    model = Small()
    model.conv.register_forward_hook(lambda module, args, output: output * 2)
    converted = convert_model(model, torch.zeros(2, 4, 12)).double().eval()
    x = sequence(2, 12).double()
    assert torch.allclose(converted(x), converted(x.flip(1, 2)), rtol=0, atol=1e-12)
    model = Small()
    ramp = torch.linspace(0, 1, 10)
    model.conv.register_forward_hook(lambda module, args, output: output * ramp.to(output.dtype))
    with pytest.raises(ConversionError):
        convert_model(model, torch.zeros(2, 4, 12))
