"""A mixed model as a graph: its layers read both strands, which no weights of its class can do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import hide_buffers, picklable, pytree, require_size, unguarded
from ..algebra import axis as ax
from ..algebra.action import Action, ActionMap
from ..algebra.arguments import Example, leaves, with_leaves
from ..algebra.opened import output_leaves
from ..errors import ConversionError, TraceError, first_line
from ..graph.sandbox import alone, call, fix_randomness, fresh_copy, quiet, undisturbed_rng
from ..measure.deviation import compare
from ..measure.lengths import Variant, Variants
from ..measure.situations import turning_situations
from ..measure.thresholds import seen_of, turns_of
from ..measure.ways import turns_by_way
from .conjoined import Conjoined

SAME = 1e-3
"""Largest difference of two entries, relative to them or the middle one, that rounding may make; another way more."""

SHARE = 3 / 4
"""Share of a mask's entries that are true."""

LARGER, LEAST = 10.0, 0.5
"""Size of parameters drawn anew: so many times that of the model's own, and a little more."""

KEEP = "keep the model as it is; torch.save(model.state_dict(), ...) saves it"


@alone
def bake_graph(model: nn.Module, reading: Conjoined, in_place: bool, length: int | None = None) -> nn.Module:
    """The eval-mode forward of a model that reads both strands, as a graph with the model's own state.

    Args:
        model: a mixed model.
        reading: how it reads both strands.
        in_place: refused.
        length: the one length it will be called with; None for all.

    Raises:
        ConversionError: it is to be baked in place, takes no such length, or refuses calls since it was changed.
        TraceError: it cannot be exported, or the graph is another function at lengths, or for numbers of samples, that
            the model takes.
    """
    if in_place:
        raise ConversionError(
            "a mixed model cannot be baked in place",
            why="its layers read both strands, which no weights of its class can do: the result is another module",
            do="use the copy that bake(model) returns, or unwrap(model) to leave the other strand out",
        )
    twin = fresh_copy(model).eval()
    variants = Variants(twin, _example(twin, reading), _actions(reading))
    here = _variant(variants, length)
    _require_calls(twin, here)
    graph = _exported(twin, here.example)
    for path, module in graph.named_modules():  # tables of the mirror images are no state of the model
        hide_buffers(module, like=model.get_submodule(path))
    _require_same(graph, twin, here, _others(variants, any_length=length is None))
    if length is not None:
        _refuse_others(graph, here)
    return graph


def _example(twin: nn.Module, reading: Conjoined) -> Example:
    """The example of the conversion, in the model's precision."""
    like = next((p for p in twin.parameters() if p.is_floating_point()), torch.zeros(()))
    args, kwargs = pytree.tree_map_only(
        Tensor, lambda x: x.to(like.device, like.dtype if x.is_floating_point() else x.dtype), reading.example
    )
    return kwargs if kwargs and not args else args


def _actions(reading: Conjoined) -> list[Action | None]:
    return [held.action if isinstance(held, ActionMap) else None for held in chain(*reading.inputs.values())]


def _variant(variants: Variants, length: int | None) -> Variant:
    """The example, or the model's at a length."""
    own = Variant(variants.example, variants.actions, variants.longest, "the example")
    found = own if length in (None, variants.longest) else next(variants.at(length or 0), None)
    if found is None:
        raise ConversionError(f"the model takes no length of {length}", do="bake for a length that it takes")
    return found


def _require_calls(twin: nn.Module, here: Variant) -> None:
    """Refuse a model that refuses to be called, as one does that was changed so that its strands disagree.

    Raises:
        ConversionError: its own refusal.
    """
    try:
        with quiet(), undisturbed_rng(), torch.no_grad():
            call(twin, here.example)
    except ConversionError:
        raise
    except Exception:  # the model's own errors, which the export tells of
        return


def _exported(twin: nn.Module, example: Example) -> torch.fx.GraphModule:
    shapes = torch.export.ShapesCollection()
    for x in leaves(example):
        if isinstance(x, Tensor):
            shapes[x] = dict.fromkeys(range(x.dim()), torch.export.Dim.AUTO)
    args, kwargs = ((), example) if isinstance(example, dict) else (example, {})
    try:
        with quiet():
            program = torch.export.export(twin, args, kwargs, dynamic_shapes=shapes, strict=False)  # type: ignore[arg-type]
    except Exception as reason:  # torch.export raises anything
        raise TraceError(
            "the mixed model cannot be baked: torch.export cannot trace it", why=first_line(reason), do=KEEP
        ) from reason
    return picklable(unguarded(program), type(twin).__name__)


def _others(variants: Variants, *, any_length: bool) -> Iterator[Variant]:
    """The example with other numbers of samples, and at other lengths, wherever forward may take another way."""
    survey = variants.survey()
    seen = seen_of(variants, survey)
    turns = turns_of(variants, survey, seen), turns_by_way(variants, survey, seen)
    if variants.batched:
        yield variants.with_samples(variants.other_samples)
        yield from (variants.with_samples(n) for _, samples in turns for turn in samples for n in turn.tried)
    if any_length:
        yield from (*survey.ways, *survey.accepted)
        for turn in (turn for lengths, _ in turns for turn in lengths):
            yield from (v for n in turn.tried for v in variants.at(n, turn.samples))


def _require_same(graph: nn.Module, twin: nn.Module, here: Variant, others: Iterable[Variant]) -> None:
    """Refuse a graph that computes something else than the model, where the model runs.

    Args:
        graph, twin: of the same parameters.
        here: what the graph was made with.
        others: where forward may take another way.

    Raises:
        TraceError: it does.
    """
    tried = [*others]
    _require_same_numbers(graph, twin, here, tried)
    for situation in turning_situations(twin, here.example):
        with situation.enter(), torch.no_grad():
            if _differ(graph, twin, here):
                raise _refused(f"a graph has one way, and {situation.words} forward takes another", KEEP)
    with _other_weights(twin):
        _require_same_numbers(graph, twin, here, tried)


def _require_same_numbers(graph: nn.Module, twin: nn.Module, here: Variant, others: Sequence[Variant]) -> None:
    """The same, with the parameters as they are.

    Raises:
        TraceError: as there.
    """
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            if _differ(graph, twin, here):
                words = "while gradients are recorded" if not gradients else "while none are"
                raise _refused(f"a graph has one way, and {words} forward takes another", KEEP)
    with torch.no_grad():
        other = next((v for v in others if _differ(graph, twin, v)), None)
    if other is not None:
        at_length = other.length != here.length
        than = f"at {here.length}" if at_length else "with others"
        do = f"bake for one length, bake(model, length={here.length}), or {KEEP}" if at_length else KEEP
        raise _refused(f"a graph has one way, and at {other.words} forward takes another than {than}", do)


@contextmanager
def _other_weights(model: nn.Module) -> Iterator[None]:
    """All parameters drawn anew, and larger: a gate that is closed for those of the model opens."""
    kept = [(p, p.detach().clone()) for p in model.parameters() if p.is_floating_point() and p.numel()]
    try:
        with torch.no_grad(), undisturbed_rng():
            fix_randomness()
            for p, before in kept:
                size = torch.linalg.vector_norm(before, dtype=torch.float64) / before.numel() ** 0.5
                p.normal_(0, LARGER * float(size) + LEAST)
        yield
    finally:
        with torch.no_grad():
            for p, before in kept:
                p.copy_(before)


def _refused(why: str, do: str) -> TraceError:
    return TraceError("the mixed model cannot be baked: its graph would be another function", why=why, do=do)


def _differ(graph: nn.Module, twin: nn.Module, at: Variant) -> bool:
    """Whether two modules compute different numbers of random ones; not where the second does not run."""
    with undisturbed_rng():
        given = [_drawn(x, action) for x, action in zip(leaves(at.example), at.actions, strict=True)]
    made = []
    for module in (twin, graph):
        try:
            with quiet(), undisturbed_rng():
                fix_randomness()  # both draw the same noise
                found = output_leaves(call(module, with_leaves(at.example, given)))
            made.append([y.detach() for y in found if isinstance(y, Tensor)])
        except Exception:  # the model's own errors: it takes no such length; nor need a graph of it
            return bool(made)
    before, after = made
    return len(before) != len(after) or any(compare(b, a).error > SAME for a, b in zip(before, after, strict=True))


def _drawn(x: Any, action: Action | None) -> Any:
    """Random numbers, ids or truth values in the place of an input; whole numbers that are no ids stay as they are."""
    if not isinstance(x, Tensor):
        return x
    if x.is_floating_point():
        return torch.rand_like(x)
    if action is not None and action.value is not None:
        return torch.randint_like(x, action.value.size)
    return torch.rand(x.shape, device=x.device) < SHARE if x.dtype is torch.bool else x


def _refuse_others(graph: torch.fx.GraphModule, here: Variant) -> None:
    """Let a graph refuse inputs of other lengths, by a function of torch's own."""
    held = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node, action in zip(held, here.actions, strict=True):
        for dim, term in enumerate(action.axes if action is not None else ()):
            if ax.ends(term) is not None:
                says = f"the model was baked for {term.size} positions along axis {dim} of {node.name}"
                require_size(graph, node, held[-1], dim, term.size, says)
    graph.recompile()
