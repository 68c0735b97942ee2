"""A private copy of a model, with random inputs for it, on which the law is measured."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import NormBase, all_modules, own_parameters
from ..algebra.action import Action, act
from ..algebra.arguments import Example, leaves, with_leaves
from ..algebra.opened import flatten
from ..algebra.specs import Invariant, OneHot, Spec, Tokens
from ..errors import ConversionError
from ..graph.sandbox import call, evaluated, fix_randomness, fresh_copy, mode
from ..graph.users_state import cached_functions, caches_kept_clean
from ..tie.attaching import keep_full_weights
from ..tie.hooks import hook_of
from ..tie.norms import PooledNorm
from ..tie.states import SharedState
from .held_noise import HeldNoise
from .inputs import batch_dim, of_kinds, padded, random_like, turned
from .kept_buffers import KeptBuffers
from .rounded_sums import RoundedSums
from .without_dropout import InDouble, WithoutDropout

ULPS = 4
"""Size of a nudge of the parameters, in units of their last place."""


KEPT = 0.3
"""Share of the size of parameters that is kept where they are drawn anew."""

TRAIN_STEPS = 2
"""Train-mode forwards that statistics see which a model keeps in buffers of its own."""

MANY = 2**16
"""Entries of a parameter from which on its random numbers are drawn in single precision, which is quicker."""


class Probe:
    """A private copy of a model, in the best precision it runs in, with random inputs for it.

    In float64 the casts to float32 inside the forward are casts to float64, and tensors it makes are float64, so
    that the model is measured rather than its rounding. What cannot be run so is run in float32.

    Args:
        model: copied, never touched.
        example: what it is called with.
        specs, actions: per input leaf; None for leaves that are no tensors.
        own: run in the precision that the model and the example have.
        padded: draw padded rows of ids too, where padding stays in its place.
        held: hold random numbers; see `HeldNoise`.

    Attributes:
        dtype: the precision the model runs in.
        own: the precision of the model as it was given.
        batch: samples of the example; None where its inputs have no batch axis, or different ones.
        fed: norms keep the statistics of random inputs; see `feed_norms`.
        discrete: forward was seen to make whole numbers or truth values of others, such as places of maxima, that
            depend on the input.
        recorded: record gradients.

    Raises:
        ConversionError: the example holds no samples or no positions.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Example,
        specs: list[Spec | None],
        actions: list[Action | None],
        *,
        own: bool = False,
        padded: bool = False,
        held: bool = False,
    ) -> None:
        self.padded, self.held, self.recorded = padded, held, False
        self.example, self.specs, self.actions = example, specs, actions
        self.reads = any(isinstance(spec, (OneHot, Tokens)) for spec in specs)  # a sequence
        self.batch = self._batch()
        self.own, self.as_given = own_dtype(model), own
        self.caches: list[Any] | None = None
        self.first: Any = None
        self.perturbed: set[int] = set()
        self.fed = False
        self.discrete, self.whole = False, list[Tensor]()
        self.precise: list[Probe] = []
        self.model, self.dtype = evaluated(fresh_copy(model)), self.own
        self.buffers = KeptBuffers(self.model)
        if not own:
            self._widen(model)
        self.caches = cached_functions(self.model)
        keep_full_weights(self.model)

    def _widen(self, model: nn.Module) -> None:
        """Run the model in float64 if it can be, else in float32."""
        self.model, self.dtype = self.model.double(), torch.float64
        try:
            self.first = self.outputs(self.inputs(0))
        except (RuntimeError, TypeError, ValueError):
            self.model, self.dtype = evaluated(fresh_copy(model)).float(), torch.float32
            self.buffers = KeptBuffers(self.model)

    def at(self, example: Example, actions: list[Action | None]) -> Probe:
        """The same copy of the model, called with another example: at other lengths, or of other samples.

        Raises:
            ConversionError: the example holds no samples or no positions.
        """
        twin = copy.copy(self)
        twin.example, twin.actions, twin.first, twin.whole = example, actions, None, []
        twin.batch = twin._batch()
        return twin

    def again(self, model: nn.Module, *, own: bool = False) -> Probe:
        """A new copy of a model, looked at in the same way.

        Args:
            model: copied, never touched.
            own: run in the precision that the model and the example have.
        """
        given = self.example, self.specs, self.actions
        return Probe(model, *given, own=own, padded=self.padded, held=self.held)

    def in_own_precision(self, model: nn.Module) -> Probe:
        """A copy of the model in the precision that it and the example have: one for all that this one is called with.

        Args:
            model: copied, never touched.
        """
        if not self.precise:
            self.precise.append(self.again(model, own=True))
        twin = self.precise[0].at(self.example, self.actions)
        twin.held = self.held
        return twin

    def _batch(self) -> int | None:
        """Samples of the inputs that are sequences, where they agree."""
        sizes = set()
        for leaf, spec, action in zip(leaves(self.example), self.specs, self.actions, strict=False):
            if action is None or isinstance(spec, Invariant):
                continue
            if not leaf.numel():
                raise ConversionError(
                    f"the example has an input without entries, of shape {tuple(leaf.shape)}",
                    why="nothing can be measured on it",
                    do="give an example with two samples, such as torch.zeros(2, 4, 1000)",
                )
            dim = batch_dim(action)
            sizes.add(None if dim is None else leaf.shape[dim])
        return sizes.pop() if len(sizes) == 1 else None

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
        return padded(self.specs, drawn, seed) if self.padded else drawn

    def drawn(self, seed: int, kinds: Sequence[str]) -> list[Any]:
        """Random input leaves, one sample of each kind; their batch is as large as there are kinds.

        Args:
            seed: of the random numbers.
            kinds: of the samples; see `inputs.KINDS`. Tracks beside a sequence are of other kinds but for seed 0.
        """
        generator = torch.Generator().manual_seed(seed)
        found = []
        for leaf, spec, action in zip(leaves(self.example), self.specs, self.actions, strict=True):
            if spec is None or action is None:
                found.append(leaf)
                continue
            example = self._resized(leaf, spec, action, len(kinds))
            dtype = leaf.dtype if self.as_given else self.dtype
            own = kinds if isinstance(spec, (OneHot, Tokens)) or not self.reads else turned(kinds, seed)
            found.append(of_kinds(spec, action, example, generator, own, dtype))
        return padded(self.specs, found, seed) if self.padded else found

    def _resized(self, leaf: Tensor, spec: Spec, action: Action, samples: int) -> Tensor:
        """A leaf with another number of samples; a side input that has no entry per sample stays."""
        dim = batch_dim(action)
        if dim is None or self.batch is None or leaf.dim() == 0 or leaf.shape[dim] != self.batch:
            return leaf
        return leaf.index_select(dim, torch.arange(samples, device=leaf.device) % self.batch)

    def some_mirrored(self, drawn: list[Any], chosen: Tensor) -> list[Any]:
        """Input leaves with some samples mirrored.

        Args:
            drawn: of all inputs.
            chosen: which samples, (N,).
        """
        found = []
        for x, y, action in zip(drawn, self.mirrored(drawn), self.actions, strict=True):
            dim = None if action is None else batch_dim(action)
            if dim is not None:
                these = chosen[torch.arange(x.shape[dim]) % len(chosen)].to(x.device)
                x = torch.where(these.view(-1, *[1] * (x.dim() - dim - 1)), y, x)
            found.append(x)
        return found

    def mirrored(self, drawn: list[Any]) -> list[Any]:
        """The reverse complement of input leaves."""
        orders = self.orders(drawn)
        return [x if a is None else act(a, x, orders) for x, a in zip(drawn, self.actions, strict=True)]

    def orders(self, drawn: list[Any]) -> list[Tensor]:
        """For each input of ids whose padding stays in its place, where the entries of each row come from."""
        pairs = zip(drawn, self.specs, strict=True)
        return [s.runs.order(x) for x, s in pairs if isinstance(s, Tokens) and s.runs is not None and x.dim() == 2]

    def outputs(self, drawn: list[Any], training: bool = False, rng: int = 0) -> Any:
        """The model's outputs, without dropout, other randomness fixed by the seed `rng`; what was drawn stays."""
        fix_randomness(rng)
        own = leaves(self.example)
        given = [laid_as(x, y) if isinstance(x, Tensor) else x for x, y in zip(drawn, own, strict=True)]
        wide = not self.as_given and self.dtype == torch.float64
        with warnings.catch_warnings(), torch.set_grad_enabled(self.recorded), mode(self.model, training) as modules:
            warnings.simplefilter("ignore")  # what the model has to say, it says when the user runs it
            kept = self.buffers.held(training, modules), caches_kept_clean(self.model, self.caches)
            noise = HeldNoise(rng) if self.held else nullcontext()
            with kept[0], kept[1], noise, InDouble() if wide else WithoutDropout() as watched:
                out = _own(call(self.model, with_leaves(self.example, given)))
        self._note_whole(watched.whole)
        return out

    def _note_whole(self, whole: list[Tensor]) -> None:
        """Compare whole numbers that a forward made with those that the first one made."""
        self.whole = self.whole or whole
        pairs = zip(self.whole, whole, strict=False)
        self.discrete = self.discrete or any(a.shape == b.shape and not torch.equal(a, b) for a, b in pairs)

    def usual_outputs(self) -> Any:
        """The outputs in eval mode for one random input, before any parameter was changed."""
        return self.outputs(self.inputs(0)) if self.first is None else self.first

    def readings(self, seed: int, training: bool = False) -> tuple[Any, Any]:
        """``f(x)`` and ``f(rc x)`` for one random input."""
        drawn = self.inputs(seed)
        return self.outputs(drawn, training), self.outputs(self.mirrored(drawn), training)

    def perturb(self, seed: int, *, anew: bool = False) -> None:
        """Move all parameters and running statistics, so that no zero or one hides a broken law.

        Args:
            seed: of the random numbers; with one that was used before nothing moves.
            anew: keep little but the size of the parameters, so that others of them are the largest.
        """
        if seed in self.perturbed:
            return
        self.perturbed.add(seed)
        modules = all_modules(self.model)
        generator = torch.Generator().manual_seed(seed)
        kept, moved = (KEPT, (1 - KEPT**2) ** 0.5) if anew else (1.0, 0.3)

        def drawn(x: Tensor) -> Tensor:
            dtype = torch.float64 if x.numel() <= MANY else torch.float32
            return torch.randn(x.shape, generator=generator, dtype=dtype).to(x.device)

        with torch.no_grad():
            for p in self._each_parameter():
                if p.is_floating_point() and p.numel():
                    size = torch.linalg.vector_norm(p.detach(), dtype=torch.float64) / p.numel() ** 0.5
                    (p.mul_(kept) if anew else p).add_(drawn(p), alpha=moved * float(size) + 0.05)
            for module in modules:
                if isinstance(module, NormBase) and module.running_mean is not None and module.running_var is not None:
                    self._perturb_statistics(module, lambda x: drawn(x).to(x))
        if any(hook_of(module, SharedState) for module in modules):
            self._train_states(seed)
        if self.fed:
            self._feed(seed)

    def feed_norms(self) -> bool:
        """From now on let norms keep the statistics of random inputs; whether that is new, and there are any norms.

        With statistics that have nothing to do with their inputs, many norms in a row let a sequence fade until the
        outputs no longer depend on it, and hide whatever is wrong.
        """
        if self.fed or not self._norms():
            return False
        self.fed = True
        self._feed(max(self.perturbed, default=0))
        return True

    def _norms(self) -> list[Any]:
        return [m for m in all_modules(self.model) if isinstance(m, NormBase) and m.running_mean is not None]

    def _feed(self, seed: int) -> None:
        """Let norms keep the statistics of one batch of random inputs."""
        before = [(m, m.momentum) for m in self._norms()]
        try:
            for m, _ in before:
                m.momentum = 1.0
            self._train(seed)
        except (RuntimeError, ValueError):  # such as a batch norm of a single value
            return
        finally:
            for m, momentum in before:
                m.momentum = momentum

    @contextmanager
    def nudged(self, seed: int) -> Iterator[None]:
        """Every parameter, and what norms make, changed in its last places: outputs move as far as by rounding."""
        generator = torch.Generator().manual_seed(seed)
        with self._kept() as kept:
            with torch.no_grad():
                for p, before in kept:
                    dtype = torch.float64 if p.numel() <= MANY else torch.float32
                    noise = torch.rand(p.shape, generator=generator, dtype=dtype).mul_(2).sub_(1).to(p.device)
                    p.copy_(noise.double().mul_(ULPS * torch.finfo(p.dtype).eps).add_(1).mul_(before))
            with RoundedSums(generator, ULPS * torch.finfo(self.dtype).eps):
                yield

    @contextmanager
    def multiplied(self, factor: float) -> Iterator[None]:
        """Every parameter larger by a factor."""
        with self._kept() as kept:
            with torch.no_grad():
                for p, _ in kept:
                    p.mul_(factor)
            yield

    def _each_parameter(self) -> list[Tensor]:
        """The parameters, each once: as ``parameters()``, and quicker."""
        return [*dict.fromkeys(own_parameters(self.model))]

    @contextmanager
    def _kept(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """The parameters, with copies that they are given back afterwards."""
        kept = [(p, p.detach().clone()) for p in self._each_parameter() if p.is_floating_point()]
        try:
            yield kept
        finally:
            with torch.no_grad():
                for p, before in kept:
                    p.copy_(before)

    def _train_states(self, seed: int) -> None:
        """Let statistics that the model keeps in buffers of its own see random inputs: what they may be, it knows."""
        for i in range(TRAIN_STEPS):
            self._train(seed + i)

    def _train(self, seed: int) -> None:
        """Run the model in train mode on random inputs; what it writes into its buffers stays."""
        wide = not self.as_given and self.dtype == torch.float64
        fix_randomness(seed)
        try:
            with warnings.catch_warnings(), torch.no_grad(), mode(self.model, True):
                warnings.simplefilter("ignore")
                with InDouble() if wide else WithoutDropout():
                    call(self.model, with_leaves(self.example, self.inputs(seed)))
        finally:
            self.buffers.forget()

    def _perturb_statistics(self, module: nn.Module, normal: Callable[[Tensor], Tensor]) -> None:
        hook, stats = hook_of(module), (module.running_mean, module.running_var)
        for value, positive in zip(stats, (False, True), strict=True):
            noise = normal(value) * 0.3  # type: ignore[arg-type]
            if isinstance(hook, PooledNorm):
                noise = (noise + noise[hook.table.to(noise.device)]) / 2
            value.copy_(value * noise.exp() if positive else value + noise)  # type: ignore[operator]


def laid_as(x: Tensor, other: Any) -> Tensor:
    """A copy, in memory as another tensor is: a forward may write into its inputs, or ask how they lie."""
    if not isinstance(other, Tensor) or other.dim() != x.dim() or other.is_contiguous():
        return x.clone()
    order = sorted(range(x.dim()), key=other.stride, reverse=True)
    back = sorted(range(x.dim()), key=order.__getitem__)
    return x.permute(order).clone(memory_format=torch.contiguous_format).permute(back)


def _own(output: Any) -> Any:
    """An output in memory of its own: a model may return the same tensor, or the same dict, at each call."""
    if type(output) is Tensor:
        return output.detach().clone()
    values, again = flatten(output)
    return again([y.detach().clone() if isinstance(y, Tensor) else y for y in values])


def own_dtype(model: nn.Module) -> torch.dtype:
    """The precision of a model's parameters and buffers; float32 where it has none."""
    held = itertools.chain(model.parameters(), model.buffers())
    return next((t.dtype for t in held if t.is_floating_point()), torch.float32)
