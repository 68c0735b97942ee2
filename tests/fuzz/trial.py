"""One model: converted, and checked in every way a user may use it."""

from __future__ import annotations

import logging
import random
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import rcps_convert
from rcps_convert import ConversionError, bake, convert_model

from . import by_number, lives, positional, readouts, sources, steps  # noqa: F401 - they register kinds
from .grammar import Case, Program, build, render
from .oracle import DRAWS, MARGIN, Judge, Wrong, jittered, numbers, opened, zeros

SCALES = (3.0, 1.0, 0.3)
"""How far parameters are moved before an output is called constant."""

SECONDS = 240
"""A model that takes longer is reported as such."""


@dataclass
class Result:
    """What became of a model.

    Attributes:
        outcome: ``converted``, ``refused``, ``foreign``, ``wrong`` or ``slow``.
        reason: class and first words of a refusal; name of the failed check; class and place of an exception.
        says: more about it.
        fate: what the documentation promises: ``yes``, ``maybe``, ``never``.
        refused_lengths: other lengths at which a call was refused, of those at which the plain model runs.
    """

    seed: int
    outcome: str
    reason: str = ""
    says: str = ""
    fate: str = ""
    seconds: float = 0.0
    ask: dict[str, str] = field(default_factory=dict)
    lengths: int = 0
    refused_lengths: int = 0

    @property
    def kind(self) -> tuple[str, str]:
        """What the minimiser keeps."""
        return self.outcome, self.reason

    @property
    def unreasonable(self) -> bool:
        """A refusal that the documentation gives no reason for."""
        if self.outcome != "refused" or self.fate == "never":
            return False
        ties = "on some input" in self.says  # the kind of input is named, and docs/refusals.md says what to do
        return self.fate == "yes" or (self.reason.startswith("VerificationError") and not ties)


class Slow(BaseException):
    """Time is over."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `Slow` inside after so many seconds."""

    def stop(*_: Any) -> None:
        raise Slow

    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


class Foreign(Exception):  # noqa: N818 - a finding, not an error of the program
    """An exception that is no refusal.

    Args:
        step: what was being done.
        error: the exception.
    """

    def __init__(self, step: str, error: Exception) -> None:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "rcps_convert" in f.filename]
        place = f" in {frames[-1].name}" if frames else ""
        self.reason = f"{step}: {type(error).__name__}{place}"
        lines = str(error).strip().splitlines() or [""]
        self.says = lines[0][:200] + (
            f" ({frames[-1].filename.split('rcps_convert/')[-1]}:{frames[-1].lineno})" if frames else ""
        )
        super().__init__(self.reason)


@contextmanager
def ours(step: str) -> Iterator[None]:
    """Exceptions other than refusals become `Foreign`."""
    try:
        yield
    except (ConversionError, Wrong, Foreign):
        raise
    except Exception as error:
        raise Foreign(step, error) from error


def judge(program: Program) -> Result:
    """Render, convert and check a program."""
    start = time.process_time()
    result = Result(program.seed, "slow")
    try:
        with limited(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case = render(program)
            result = _judge(program, case)
    except Slow:
        result.reason = f"more than {SECONDS} s"
    result.seconds = round(time.process_time() - start, 3)
    return result


def _judge(program: Program, case: Case) -> Result:
    result = Result(program.seed, "converted", fate=case.fate, ask=case.ask)
    torch.manual_seed(program.seed)
    plain = build(case.source, program.seed)
    try:
        with ours("convert"):
            converted, said = convert(case, plain)
        _check(case, plain, converted, said, program.seed, result)
    except Wrong as error:
        result.outcome, result.reason, result.says = "wrong", error.check, error.says
    except Foreign as error:
        result.outcome, result.reason, result.says = "foreign", error.reason, error.says
    except ConversionError as error:
        result.outcome, result.says = "refused", str(error)[:600]
        result.reason = f"{type(error).__name__}: {' '.join(error.what.split()[:6])}"
        idle = "do not depend" in error.what or "would be zero" in error.what
        if idle and not any(Judge(case, randomise(plain.eval(), 1), 5).depends(case.length)):
            result.fate = "never"  # nothing in this model depends on the sequence
        if "infinite or undefined" in error.what and not _is_finite(case, plain.eval()):
            result.fate = "never"
    return result


def _is_finite(case: Case, plain: nn.Module) -> bool:
    """Whether the plain model gives numbers on random sequences."""
    judge = Judge(case, plain, 3)
    return all(bool(numbers(y).isfinite().all()) for y in judge.run(judge.inputs(3, case.length)))


def ask_of(case: Case) -> dict[str, Any]:
    """Keywords of `convert_model` as values."""
    scope = {name: getattr(rcps_convert, name) for name in ("Tokens", "Tracks", "OneHot")}
    return {k: eval(v, dict(scope)) for k, v in case.ask.items()}


def example_of(case: Case) -> Any:
    """The example: a tensor, or a tuple of several."""
    x = zeros(case)
    return x[0] if len(x) == 1 else tuple(x)


def convert(case: Case, plain: nn.Module) -> tuple[nn.Module, str]:
    """The converted model and the words of its warnings; the plain one must be as it was."""
    ask = ask_of(case)
    given = deepcopy(plain) if ask.get("in_place") else plain
    before = {k: v.clone() for k, v in given.state_dict().items()}
    state = (torch.get_rng_state(), torch.get_default_dtype(), logging.root.manager.disable, given.training)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            converted = convert_model(given, example_of(case), **ask)
        except ConversionError:
            _untouched(given, before, state)
            raise
    if not ask.get("in_place"):
        _untouched(given, before, state)
    return converted, " ".join(str(w.message) for w in caught)


def _untouched(model: nn.Module, before: dict[str, Tensor], state: Any) -> None:
    after = model.state_dict()
    if set(after) != set(before) or any(
        not torch.equal(v.nan_to_num(), after[k].nan_to_num()) for k, v in before.items()
    ):
        raise Wrong("touched", "the plain model's state changed")
    if not torch.equal(state[0], torch.get_rng_state()):
        raise Wrong("touched", "the random state changed")
    if state[1:] != (torch.get_default_dtype(), logging.root.manager.disable, model.training):
        raise Wrong("touched", "default dtype, logging or mode changed")


def randomise(model: nn.Module, seed: int, scale: float = 0.3) -> nn.Module:
    """Moves every stored parameter, and runs nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.is_floating_point():
                spread = float(p.double().std()) if p.numel() > 1 else 1.0
                p.add_(
                    torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) * (scale * spread + 0.05)
                )
    return model


def redrawn(model: nn.Module, seed: int) -> nn.Module:
    """Draws every stored parameter anew; single numbers, such as biases, are small in half of the draws."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.is_floating_point():
                scale = SCALES[seed % 3] * (0.1 if p.numel() == 1 and seed % 2 else 1)
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * scale)
    return model


def quiet(model: nn.Module) -> nn.Module:
    """Without dropout."""
    for m in model.modules():
        if isinstance(m, nn.modules.dropout._DropoutNd):
            m.p = 0.0
        if isinstance(m, nn.MultiheadAttention):
            m.dropout = 0.0
    return model


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    """A default dtype for a while, as forward may make tensors."""
    old = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(old)


def _runs(case: Case, plain: nn.Module, batch: int, length: int) -> bool:
    """Whether the plain model takes a batch and a length."""
    try:
        judge = Judge(case, plain, 1)
        judge.mirrored(case.outputs, judge.run(judge.inputs(batch, length)), None)
    except Exception:
        return False
    return True


def _check(case: Case, plain: nn.Module, converted: nn.Module, said: str, seed: int, result: Result) -> None:
    alone = "conjoined" in case.ask.get("strategy", "") or "mixed" in case.ask.get("strategy", "")
    quiet(converted)
    _float32(case, plain, converted, seed)
    unmoved = deepcopy(plain).double().eval()
    plain, model = quiet(deepcopy(plain)).double(), converted.double()
    with default(torch.float64):
        if not _runs(case, plain, 3, case.length):
            return  # forward writes a dtype or a number of samples: float32 was checked
        _law(case, model, seed, "law")
        randomise(model, seed)
        _law(case, model, seed, "randomised")
        _lost(case, randomise(plain, seed), model, said)
        _shapes(case, plain, model, seed, result)
        _spellings(case, model, seed)
        if _trains(case, plain, seed):
            _trained(case, model, seed)
        if "mixed" not in case.ask.get("strategy", ""):
            _baked(case, plain, model, seed, alone, result)
        _transformed(case, plain, model, seed)
        lives.lead(lives.Lived(case, seed, unmoved, model.eval(), random.Random(seed)), ours)


def _float32(case: Case, plain: nn.Module, model: nn.Module, seed: int) -> None:
    judge = Judge(case, model.eval(), seed)
    with ours("call"):
        judge.law("float32", 2, case.length, "random")
        judge.law("one sample (float32)", 2, case.length, "random", chosen=[1])


def _law(case: Case, model: nn.Module, seed: int, name: str) -> None:
    """Every kind of input, whole batches and single samples, in both modes."""
    judge = Judge(case, model, seed)
    for train in (False, True):
        model.train(train)
        mode = "train" if train else "eval"
        with ours(f"call ({mode})"):
            judge.law(f"{name} ({mode})", 3, case.length, "random")
            judge.law(f"one sample ({mode})", 3, case.length, "random", chosen=[1])
            for i, way in enumerate(DRAWS[1:]):
                judge.law(f"{way} input ({mode})", 3, case.length, way, chosen=([0, 2], [0, 1, 2], [1])[i % 3])
        if train:
            _statistics(case, model, judge)
    model.eval()


def _statistics(case: Case, model: nn.Module, judge: Judge) -> None:
    """Running statistics move alike for both strands: behind a step on either, eval mode is the same model."""
    x = judge.inputs(3, case.length)
    rc = judge.mirrored(case.inputs, x, None)
    kept = [b.clone() for b in model.buffers()]
    results = []
    for given in (x, rc):
        with torch.no_grad(), ours("call (train)"):
            list(opened(model.train()(*given)))
        results.append(judge.run(x, model.eval()))
        for b, old in zip(model.buffers(), kept, strict=True):
            b.data.copy_(old)
    for i, (slot, a, b) in enumerate(zip(case.outputs, *results, strict=True)):
        gap, size = (
            (numbers(a) - numbers(b)).abs().nan_to_num(0, 0, 0).max(),
            numbers(a).abs().nan_to_num(0, 0, 0).max(),
        )
        if (
            slot.kind not in ("discrete",)
            and gap > 1e-6 * size
            and gap > MARGIN * judge.same_way(x, True, None, i).max()
        ):
            raise Wrong("statistics", f"output {slot.name} depends on the strand trained on: {gap:.2g} of {size:.2g}")
    with torch.no_grad():
        list(opened(model.train()(*x)))
    model.eval()


def _lost(case: Case, plain: nn.Module, model: nn.Module, said: str) -> None:
    """Outputs that depended on the sequence still do."""
    before = Judge(case, plain.eval(), 5).depends(case.length)
    with ours("call"):
        after = Judge(case, model.eval(), 5).depends(case.length)
    if any(b and not a for b, a in zip(before, after, strict=True)):
        again = [Judge(case, redrawn(deepcopy(model), k), k).depends(case.length) for k in range(24)]
        lost = [
            f"{slot.name} ({slot.kind})"
            for i, slot in enumerate(case.outputs)
            if before[i] and not after[i] and slot.kind != "discrete" and not any(found[i] for found in again)
        ]
        if lost and "depend" not in said and "constant" not in said:
            raise Wrong("lost", f"no longer depends on the sequence, nothing said: {', '.join(lost)}")


def other_lengths(n: int) -> list[int]:
    """Lengths around that of the example, halves, doubles and multiples."""
    return [
        m for m in (n + 1, n + 2, n + 3, n - 1, n - 2, n // 2, 2 * n, 2 * n + 1, n + 4, n + 8, n - 4, 3 * n) if m > 0
    ]


def _shapes(case: Case, plain: nn.Module, model: nn.Module, seed: int, result: Result) -> None:
    judge = Judge(case, model.eval(), seed + 1)
    for batch in (1, 5):
        if _runs(case, plain, batch, case.length):
            _call(f"batch of {batch}" if batch == 1 else "other batch", judge, batch, case.length, None)
    for length in other_lengths(case.length):
        if not _runs(case, plain, 3, length):
            continue
        result.lengths += 1
        result.refused_lengths += not _call("other length", judge, 3, length, [0, 2])


def _call(check: str, judge: Judge, batch: int, length: int, chosen: list[int] | None) -> bool:
    """Whether a call was answered; refusals are fine."""
    try:
        with ours(check):
            judge.law(check, batch, length, "random", chosen)
    except ConversionError:
        return False
    return True


def _spellings(case: Case, model: nn.Module, seed: int) -> None:
    """Arguments by name, in both orders."""
    judge = Judge(case, model.eval(), seed + 2)
    x = judge.inputs(2, case.length)
    names = [s.name for s in case.inputs]

    def by_name(order: list[int]) -> Callable[..., Any]:
        return lambda *given: model(**{names[i]: given[i] for i in order})

    with ours("keywords"):
        for order in (list(range(len(names))), list(range(len(names)))[::-1]):
            judge.same("keywords", x, by_name(order))


def _stacked(model: nn.Module, x: list[Tensor]) -> list[Tensor]:
    """Outputs of two batches under `vmap`, those of the second."""
    pairs = [torch.stack([t, t]) for t in x]
    return [t[1] for t in torch.func.vmap(lambda *given: tuple(opened(model(*given))))(*pairs)]


def _called(model: nn.Module, x: list[Tensor]) -> list[Tensor]:
    """Outputs with the parameters given from outside."""
    given = {k: v.clone() for k, v in [*model.named_parameters(), *model.named_buffers()]}
    return list(opened(torch.func.functional_call(model, given, tuple(x))))


def _slopes(model: nn.Module, x: list[Tensor], transformed: bool) -> Tensor:
    """Gradient of the outputs' sum of squares with respect to the first input."""

    def loss(first: Tensor) -> Tensor:
        outputs = [t for t in opened(model(first, *x[1:])) if t.is_floating_point()]
        return sum(t.nan_to_num().square().mean() for t in outputs)  # type: ignore[return-value]

    if transformed:
        return torch.func.grad(loss)(x[0])
    first = x[0].clone().requires_grad_()
    return torch.autograd.grad(loss(first), first)[0]


def _transformed(case: Case, plain: nn.Module, model: nn.Module, seed: int) -> None:
    """Transforms of functions change nothing, at two lengths, where they change nothing for the plain model."""
    plain, model = plain.eval(), model.eval()
    judge = Judge(case, model, seed + 6)
    for length in (case.length, case.length + 1):
        x = judge.inputs(2, length)
        for name, way in (("vmap", _stacked), ("functional_call", _called)):
            if _agrees(lambda w=way, x=x: Judge(case, plain).same("", x, lambda *given: w(plain, list(given)))):
                with suppress(ConversionError), ours(name):
                    judge.run(x)
                    judge.same(name, x, lambda *given, w=way: w(model, list(given)))
        x = judge.inputs(2, length, "soft")  # where equal bases tie, a maximum has several gradients
        if x[0].is_floating_point() and _agrees(lambda x=x: _same_slopes(plain, x)):
            with suppress(ConversionError), ours("func.grad"):
                _same_slopes(model, x)


def _same_slopes(model: nn.Module, x: list[Tensor]) -> None:
    a, b = _slopes(model, x, False).nan_to_num(0, 0, 0), _slopes(model, x, True).nan_to_num(0, 0, 0)
    gap, allowed = (a - b).abs().max(), 1e-6 * a.abs().max() + 1e-14
    if gap > allowed and gap > allowed + MARGIN * _noise(model, x, a):
        raise Wrong("func.grad", f"the gradient differs by {(a - b).abs().max():.2g} of {a.abs().max():.2g}")


def _noise(model: nn.Module, x: list[Tensor], slopes: Tensor) -> Tensor:
    """How far rounding moves a gradient: behind a norm of two equal numbers it is a small number times a huge one."""
    generator = torch.Generator().manual_seed(0)
    moved = [_slopes(model, [*jittered(x[:1], generator, 1e-13), *x[1:]], False).nan_to_num(0, 0, 0) for _ in range(4)]
    return torch.stack([(m - slopes).abs().max() for m in moved]).max()


def _agrees(check: Callable[[], None]) -> bool:
    """Whether the plain model passes."""
    try:
        check()
    except Exception:
        return False
    return True


def _trains(case: Case, plain: nn.Module, seed: int) -> bool:
    """Whether the plain model runs in train mode while gradients are recorded."""
    twin = quiet(deepcopy(plain)).train()
    try:
        twin(*Judge(case, twin, seed).inputs(3, case.length))
    except Exception:  # the model's own
        return False
    return True


def _trained(case: Case, model: nn.Module, seed: int) -> None:
    """A few steps of an optimiser, then the law again."""
    judge = Judge(case, model, seed + 3)
    parameters = [p for p in model.parameters() if p.requires_grad and p.is_floating_point()]
    if not parameters:
        return
    optimiser = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(2):
        with ours("training"):
            outputs = [numbers(t) for t in opened(model.train()(*judge.inputs(3, case.length)))]
            loss = sum(
                (t / t.detach().abs().nan_to_num().max().clamp(min=1)).nan_to_num().square().mean() for t in outputs
            )
            optimiser.zero_grad()
            if isinstance(loss, Tensor) and loss.requires_grad:
                loss.backward()
        for p in parameters:
            if p.grad is not None:
                p.grad.nan_to_num_(0, 0, 0)
        optimiser.step()
    with ours("call"):
        model.eval()
        judge.law("after training (eval)", 3, case.length, "random", [0])
        model.train()
        judge.law("after training (train)", 3, case.length, "random")
        model.eval()


def _baked(case: Case, plain: nn.Module, model: nn.Module, seed: int, alone: bool, result: Result) -> None:
    try:
        with ours("bake"):
            baked = bake(model)
    except ConversionError as error:
        raise Foreign("bake", error) from error
    judge = Judge(case, model.eval(), seed + 4)
    with ours("baked call"):
        x = judge.inputs(3, case.length)
        judge.same("baked differs (eval)", x, baked.eval())
        judge.same("baked differs (eval)", judge.inputs(3, case.length, "padded"), baked)
        model.train(), baked.train()
        if not any(isinstance(m, nn.modules.batchnorm._NormBase) for m in model.modules()):
            judge.same("baked differs (train)", x, baked)
        model.eval(), baked.eval()
    theirs = Judge(case, baked, seed + 5)
    for length in [case.length, *other_lengths(case.length)[:8]]:
        if _runs(case, plain, 3, length):
            _call("baked", theirs, 3, length, [1])


def as_line(result: Result, program: Program, snippet: str = "") -> dict[str, Any]:
    """A result as plain JSON values."""
    line = {k: v for k, v in asdict(result).items() if v not in ("", {}, 0)}
    line["seed"] = result.seed
    if result.unreasonable:
        line["unreasonable"] = True
    if result.outcome in ("wrong", "foreign", "slow") or result.unreasonable:
        line["program"] = asdict(program)
    if snippet:
        line["snippet"] = snippet
    return line
