"""The law, measured: ``f(rc x)`` against ``rho f(x)``.

Shares only the action algebra with inference, never the rules, or it would repeat their mistakes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from . import axis as ax
from .action import Action, Spec, act, random_like
from .anchors import Reanchoring
from .errors import ConversionError, VerificationError, Where
from .hooks import hook_of
from .modules import Example, call, fresh_copy, leaves, mode, owner, undisturbed_rng, with_leaves
from .norm import Fold, Pool
from .registry import Anchor
from .specs import input_actions, output_specs
from .trace import Trace, double_precision, interpret, widened

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Largest relative deviation taken for rounding, by the precision the model could run in."""

ROUNDED_CONSTANTS = 1e-6
"""The same in float64 for a model with constants that float32 rounded, which obeys the law only to their rounding."""

VARIED = 1e-12
"""Relative change of the outputs between two inputs above which they depend on the sequence."""

DROPOUTS = (
    torch.nn.functional.dropout,
    torch.nn.functional.dropout1d,
    torch.nn.functional.dropout2d,
    torch.nn.functional.dropout3d,
    torch.nn.functional.alpha_dropout,
    torch.nn.functional.feature_alpha_dropout,
    torch.dropout,
)

WITHIN = {
    torch.nn.functional.scaled_dot_product_attention: 4,
    torch.nn.functional.multi_head_attention_forward: 10,
    torch.lstm: 5,
    torch.gru: 5,
    torch.rnn_tanh: 5,
    torch.rnn_relu: 5,
}
"""Functions with a dropout inside, and the position of its probability among their arguments."""


@dataclass(frozen=True)
class EquivarianceReport:
    """How far a model is from equivariance.

    Attributes:
        errors: per output leaf, the largest ``|f(rc x) - rho f(x)|`` over ``max |f(x)|``.
        actions: per output leaf, the action it was held to, in words.
        tolerance: the largest deviation taken for rounding.
        dtype: the precision the model ran in.
    """

    errors: tuple[float, ...]
    actions: tuple[str, ...]
    tolerance: float
    dtype: torch.dtype

    @property
    def error(self) -> float:
        """The largest error over outputs; infinite if an output is not finite."""
        return max(self.errors, default=0.0)

    @property
    def equivariant(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance

    def __bool__(self) -> bool:
        return self.equivariant

    def __str__(self) -> str:
        word = "equivariant" if self else "NOT equivariant"
        name = str(self.dtype).removeprefix("torch.")
        lines = [f"{word}: error {self.error:.1e} (tolerance {self.tolerance:.0e}, {name})"]
        lines += [
            f"  output {i} as {a}: {e:.1e}" for i, (e, a) in enumerate(zip(self.errors, self.actions, strict=True))
        ]
        return "\n".join(lines)


def check_equivariance(
    model: nn.Module,
    example: Example,
    *,
    inputs: Any = "ACGT",
    outputs: Any = "auto",
    layout: Any = "auto",
    tolerance: float | None = None,
) -> EquivarianceReport:
    """Measure how far a model, as it is, is from equivariance, in eval mode.

    The model is not traced, so any model can be measured, converted or not. It runs on a copy in
    float64 if it can, else in float32.

    Args:
        model: any model.
        example: what it is called with; only shapes and dtypes matter.
        inputs, outputs, layout: as in `convert_model`. With ``"auto"`` an output is held to the best
            of: invariant, reversed along one axis, or along two of equal length.
        tolerance: largest relative deviation taken for rounding; default 1e-9 in float64, 1e-3 in float32.

    Returns: a report; true in a boolean context if the model is equivariant.

    Raises:
        NeedsChoiceError: the inputs can be read in several ways, or in none.

    Source: definition of equivariance in Mallet & Vert, NeurIPS 2021, section 2.
    """
    specs, actions = input_actions(example, inputs, layout)
    with undisturbed_rng():
        probe = Probe(model, example, specs, actions)
        pairs = [probe.readings(seed) for seed in range(3)]
        wanted = output_specs(outputs, pairs[0][0])
        found = _held_to([_tensors(a) for a, _ in pairs], [_tensors(b) for _, b in pairs], wanted)
    limit = TOLERANCE[probe.dtype] if tolerance is None else tolerance
    return EquivarianceReport(tuple(e for e, _ in found), tuple(str(a) for _, a in found), limit, probe.dtype)


class Probe:
    """A private copy of a model, in the best precision it runs in, with random inputs for it.

    In float64 the casts to float32 inside the forward are casts to float64, and tensors it makes are float64, so
    that the model is measured rather than its rounding. What cannot be run so is run in float32.

    Args:
        model: copied, never touched.
        example: what it is called with.
        specs, actions: per input leaf; None for leaves that are no tensors.
    """

    def __init__(
        self, model: nn.Module, example: Example, specs: list[Spec | None], actions: list[Action | None]
    ) -> None:
        self.example, self.specs, self.actions = example, specs, actions
        self.model, self.dtype = fresh_copy(model).double(), torch.float64
        try:
            self.outputs(self.inputs(0))
        except (RuntimeError, TypeError, ValueError):
            self.model, self.dtype = fresh_copy(model).float(), torch.float32

    def inputs(self, seed: int) -> list[Any]:
        """Random input leaves."""
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for leaf, spec, action in zip(leaves(self.example), self.specs, self.actions, strict=True):
            if spec is None or action is None:
                drawn.append(leaf)
                continue
            x = random_like(spec, action, leaf, generator)
            drawn.append(x.to(self.dtype) if x.is_floating_point() else x)
        return drawn

    def mirrored(self, drawn: list[Any]) -> list[Any]:
        """The reverse complement of input leaves."""
        return [x if a is None else act(a, x) for x, a in zip(drawn, self.actions, strict=True)]

    def outputs(self, drawn: list[Any], training: bool = False) -> Any:
        """The model's outputs, without dropout, other randomness fixed."""
        torch.manual_seed(0)
        wide = _in_double() if self.dtype == torch.float64 else nullcontext()
        with warnings.catch_warnings(), torch.no_grad(), mode(self.model, training):
            warnings.simplefilter("ignore")  # what the model has to say, it says when the user runs it
            with _without_dropout(), _statistics_kept(self.model), wide:
                out = call(self.model, with_leaves(self.example, drawn))
        return pytree.tree_map(lambda y: y.detach() if isinstance(y, Tensor) else y, out)

    def readings(self, seed: int, training: bool = False) -> tuple[Any, Any]:
        """``f(x)`` and ``f(rc x)`` for one random input."""
        drawn = self.inputs(seed)
        return self.outputs(drawn, training), self.outputs(self.mirrored(drawn), training)

    def perturb(self, seed: int) -> None:
        """Move all parameters and running statistics, so that no zero or one hides a broken law."""
        generator = torch.Generator().manual_seed(seed)

        def normal(x: Tensor) -> Tensor:
            return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)

        with torch.no_grad():
            for p in self.model.parameters():
                if p.is_floating_point() and p.numel():
                    p.add_(normal(p) * (0.3 * p.detach().square().mean().sqrt() + 0.05))
            for module in self.model.modules():
                if isinstance(module, _NormBase) and module.running_mean is not None and module.running_var is not None:
                    self._perturb_statistics(module, normal)

    def _perturb_statistics(self, module: nn.Module, normal: Callable[[Tensor], Tensor]) -> None:
        hook, stats = hook_of(module), (module.running_mean, module.running_var)
        for value, positive in zip(stats, (False, True), strict=True):
            noise = normal(value) * 0.3  # type: ignore[arg-type]
            if isinstance(hook, Pool):
                noise = (noise + noise[hook.table.to(noise.device)]) / 2
            value.copy_(value * noise.exp() if positive else value + noise)  # type: ignore[operator,union-attr]


@contextmanager
def _in_double() -> Iterator[None]:
    """Casts to float32 are casts to float64, and so are new tensors."""

    class Wide(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is Tensor.float:
                return args[0].double()
            return func(*(widened(a) for a in args), **{k: widened(v) for k, v in (kwargs or {}).items()})

    with Wide(), double_precision():
        yield


@contextmanager
def _without_dropout() -> Iterator[None]:
    class Identity(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func in DROPOUTS:
                return args[0] if args else kwargs["input"]
            place = WITHIN.get(func)
            if place is not None and len(args) > place and isinstance(args[place], float):
                args = (*args[:place], 0.0, *args[place + 1 :])
            elif "dropout_p" in kwargs:
                kwargs = {**kwargs, "dropout_p": 0.0}
            return func(*args, **kwargs)

    with Identity():
        yield


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Every pass sees the same buffers: a train-mode forward may change them."""
    before = [(b, b.detach().clone()) for b in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def _tensors(output: Any) -> list[Any]:
    return pytree.tree_leaves(output)


def deviation(reverse: Tensor, forward: Tensor, action: Action | None) -> float:
    """``max |f(rc x) - rho f(x)| / max |f(x)|``; infinite where a value is not finite."""
    if action is None:
        return 0.0
    expected = act(action, forward)
    if reverse.shape != expected.shape or not (
        bool(torch.isfinite(reverse).all()) and bool(torch.isfinite(expected).all())
    ):
        return float("inf")
    if not reverse.numel():
        return 0.0
    scale = float(expected.abs().double().max())
    return float((reverse.double() - expected.double()).abs().max()) / scale if scale else float(reverse.abs().max())


def _held_to(forward: list[list[Any]], reverse: list[list[Any]], specs: list[Spec | str]) -> list[tuple[float, Action]]:
    """Per output leaf, the error and the action it was held to."""
    found = []
    for i, spec in enumerate(specs):
        ys = [draw[i] for draw in forward]
        if not isinstance(ys[0], Tensor):
            continue
        shape = tuple(ys[0].shape)
        candidates = candidate_actions(spec, shape) or [spec.action(shape)]  # type: ignore[union-attr]
        scored = [(max(deviation(r[i], y, a) for r, y in zip(reverse, ys, strict=True)), a) for a in candidates]
        found.append(min(scored, key=lambda s: s[0]))
    return found


def candidate_actions(spec: Spec | str, shape: tuple[int, ...]) -> list[Action]:
    """The actions an output may be held to when nothing is known but its shape and spec.

    Invariant, a profile reversed along one axis, or a contact map reversed along two of equal length.
    """
    if isinstance(spec, Spec):
        return spec.actions(shape)
    fixed = Action(tuple(ax.batch(s) if i == 0 else ax.trivial(s) for i, s in enumerate(shape)))
    flips = [fixed.with_axis(i, ax.length(s)) for i, s in enumerate(shape) if i and s > 1]
    pairs = [(i, j) for i, j in combinations(range(1, len(shape)), 2) if shape[i] == shape[j] > 1]
    maps = [fixed.with_axis(i, ax.length(shape[i])).with_axis(j, ax.length(shape[j])) for i, j in pairs]
    return [fixed, *flips, *maps]


# --- verifying a conversion ---------------------------------------------------------------------


@dataclass(frozen=True)
class Verification:
    """What the check of a converted model found.

    Attributes:
        error: largest relative deviation over draws, modes and outputs.
        tolerance: largest deviation taken for rounding.
        dtype: the precision the check ran in.
        varied: whether the outputs depended on the sequence at all.
        modes: the modes that were run, in words.
    """

    error: float
    tolerance: float
    dtype: torch.dtype
    varied: bool
    modes: str = "train and eval mode"

    @property
    def passed(self) -> bool:
        """Whether the law held, on outputs that depend on the input."""
        return self.error <= self.tolerance and self.varied

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return (
            f"error {self.error:.1e} in {name} on randomised parameters, {self.modes} (tolerance {self.tolerance:.0e})"
        )


def undecided(found: Verification) -> VerificationError | None:
    """Why a check says nothing about the law; None where it does."""
    if found.error == float("inf"):
        return VerificationError(
            "the model gives infinite or undefined outputs, so nothing could be verified",
            got=str(found),
            why="it was run on random inputs (one-hot bases, non-negative tracks) with randomised parameters",
            do="look for logarithms, divisions or exponentials that leave their range, or pass verify=False",
        )
    if not found.varied:
        return VerificationError(
            "the outputs do not depend on the sequence, so nothing could be verified",
            why="random sequences gave the same outputs, with three sets of random weights",
            do="check the example's length and values, or pass verify=False to convert unchecked",
        )
    return None


def verify(
    model: nn.Module,
    example: Example,
    specs: list[Spec | None],
    actions: list[Action | None],
    outputs: Callable[[int, tuple[int, ...]], list[Action]] | list[Action | None],
    draws: int = 3,
    training: bool = True,
) -> Verification:
    """Check the law on a perturbed copy, in train and eval mode.

    Args:
        model: a converted model; not touched.
        example: what it is called with.
        specs, actions: per input leaf.
        outputs: per output leaf its action, or a function from its index and shape to the actions
            it may have.
        draws: random parameter sets, each with a random input.
        training: the law holds in train mode too.
    """
    check = _Check(outputs)
    trained: Exception | None = None
    with undisturbed_rng():
        probe = Probe(model, example, specs, actions)
        for seed in range(4 * draws):
            if seed >= draws and check.spread > VARIED:
                break  # further draws are only for networks whose activations happened to be dead
            probe.perturb(seed)
            check.add(probe, seed, training=False)
            try:
                if training:
                    check.add(probe, seed, training=True)
            except ConversionError:
                raise
            except (RuntimeError, ValueError) as reason:  # such as batch norm of a single value
                trained = reason
    modes = "train and eval mode" if training else "eval mode"
    if trained is not None:
        modes = f"eval mode only (train mode: {str(trained).splitlines()[0]})"
    return Verification(check.error(), TOLERANCE[probe.dtype], probe.dtype, check.spread > VARIED, modes)


class _Check:
    """Collects errors over draws and modes: per output leaf, the best of the actions it may have."""

    def __init__(self, outputs: Callable[[int, tuple[int, ...]], list[Action]] | list[Action | None]) -> None:
        self.outputs, self.spread = outputs, 0.0
        self.errors: dict[tuple[int, int], float] = {}

    def add(self, probe: Probe, seed: int, *, training: bool) -> None:
        """One random input in one mode."""
        forward, reverse = (_tensors(o) for o in probe.readings(seed, training))
        other = _tensors(probe.outputs(probe.inputs(seed + 1000), training))
        for i, (y, r, o) in enumerate(zip(forward, reverse, other, strict=True)):
            if not isinstance(y, Tensor):
                continue
            self.spread = max(self.spread, _spread(y, o))
            allowed = self.outputs(i, tuple(y.shape)) if callable(self.outputs) else [self.outputs[i]]
            if not allowed:
                self.errors[i, 0] = float("inf")
            for k, action in enumerate(allowed):
                self.errors[i, k] = max(self.errors.get((i, k), 0.0), deviation(r, y, action))

    def error(self) -> float:
        """The largest error over outputs."""
        leaves_ = {i for i, _ in self.errors}
        return max((min(e for (j, _), e in self.errors.items() if j == i) for i in leaves_), default=0.0)


def _spread(a: Tensor, b: Tensor) -> float:
    """How far two outputs differ, relative to their size."""
    if a.shape != b.shape or not a.numel():
        return 1.0
    scale = float(a.abs().double().max())
    return float((a.double() - b.double()).abs().max()) / scale if scale else 0.0


def moved(
    before: nn.Module, after: nn.Module, example: Example, specs: list[Spec | None], actions: list[Action | None]
) -> float:
    """How far conversion moved the outputs, relative to their size, in eval mode.

    Args:
        before, after: the model and its converted form; not touched.
        example, specs, actions: as in `verify`.
    """
    with undisturbed_rng():
        probes = [Probe(m, example, specs, actions) for m in (before, after)]
        pairs = []
        for seed in range(8):
            drawn = probes[0].inputs(seed)
            old, new = (_tensors(p.outputs([_as(p, x) for x in drawn])) for p in probes)
            pairs.append((old, new))
    by_output = [_together(readings) for readings in zip(*([*zip(o, n, strict=True)] for o, n in pairs), strict=True)]
    return max((_spread(a, b) for a, b in by_output if a.numel()), default=0.0)


def _together(readings: Sequence[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
    """One output over several inputs, before and after, end to end."""
    kept = [(a, b) for a, b in readings if isinstance(a, Tensor)]
    if not kept:
        return torch.zeros(0), torch.zeros(0)
    old, new = zip(*kept, strict=True)
    return torch.cat([a.double().flatten() for a in old]), torch.cat([b.double().flatten() for b in new])


def _as(probe: Probe, x: Any) -> Any:
    return x.to(probe.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


def first_failure(
    trace: Trace,
    model: nn.Module,
    values: dict[str, Any],
    inputs: list[Action | None],
    example_leaves: list[Any],
    anchors: Mapping[str, list[Anchor]],
) -> tuple[Where, float] | None:
    """The first node whose result breaks the law, with its deviation.

    Args:
        trace: the eval-mode trace of the unconverted model.
        model: the converted model (perturbed, float64), whose full weights are put into the graph.
        values: inferred action of each result.
        inputs: action of each input leaf.
        example_leaves: input leaves.
        anchors: the results that are re-anchored where they are not aligned.
    """
    mirrored = iter([x if a is None else act(a, x) for x, a in zip(example_leaves, inputs, strict=True)])
    given = iter(example_leaves)
    sources = {
        n: next(given) if s.kind == "input" else _state(model, s.target, s.value) for n, s in trace.sources.items()
    }
    other = {n: next(mirrored) if s.kind == "input" else sources[n] for n, s in trace.sources.items()}
    seen: dict[str, Any] = {}
    found: list[tuple[Where, float]] = []

    def compare(node: Any, result: Any) -> None:
        action = values.get(node.name)
        if found or not isinstance(action, Action) or not isinstance(result, Tensor):
            return
        error = deviation(result, seen[node.name], action.walk())
        if error > TOLERANCE[torch.float64]:
            found.append((node.where, error))

    with torch.no_grad():
        run = Reanchoring(values, anchors)
        interpret(trace, sources, lambda node, result: seen.__setitem__(node.name, _frozen(result)), model, run)
        interpret(trace, other, compare, model, run)
    return found[0] if found else None


def _frozen(result: Any) -> Any:
    return result.clone() if isinstance(result, Tensor) else result


def _state(model: nn.Module, name: str, default: Any) -> Any:
    """A parameter or buffer of a converted model, in the shape it had before."""
    try:
        module, leaf = owner(model, name)
        value = getattr(module, leaf)
    except AttributeError:
        return default.double() if default.is_floating_point() else default
    if isinstance(hook_of(module), Fold) and value.dim() == 1:
        value = value.repeat(2)
    return value.detach().clone()
