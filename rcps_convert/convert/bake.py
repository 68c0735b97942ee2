"""Back to plain weights: `bake` a converted model, `unwrap` one that reads both strands, load a plain checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from .._torch import chains
from ..algebra.arguments import check_choice, check_count, check_model, check_switch
from ..algebra.axis import nearest
from ..algebra.plain import read_structure
from ..algebra.texts import read_action
from ..errors import ConversionError
from ..geometry import anchored, unanchor
from ..graph.parametrized import own_classes
from ..graph.sandbox import alone, fresh_copy, owner
from ..graph.transaction import all_or_nothing
from ..strands.baked_graph import bake_graph
from ..strands.conjoined import conjoined
from ..strands.mixed import mixed_layers
from ..tie.attaching import mirrored, remove, ties
from ..tie.checks import checks_of
from ..tie.hooks import hook_of, uninstall
from ..tie.input_forms import trust_all_but_sizes
from ..tie.length_guard import LengthGuard, LengthRule, guard, only_at, read_rule
from ..tie.norms import FoldedNorm, PooledNorm, settle_statistics, unfold
from ..tie.notes import KEPT, noted
from ..tie.parts import unwatch
from ..tie.states import SharedState
from ..tie.untied import refuse_calls, untied
from ..tie.writing import TiedList
from .convert import planned
from .fast.attached import decelerate
from .given import unwatch_given
from .recipe import average
from .settings import Init


def bake(model: nn.Module, *, length: int | None = None, in_place: bool = False) -> nn.Module:
    """Keep the tied values as plain parameters: the original classes and state_dict keys.

    The outputs in eval mode stay the same. Trained on, a baked model is an ordinary one: nothing
    keeps its weights tied or its statistics shared, and what `accelerate` set is dropped. What no weights can
    stand for stays: a symmetriser inserted at a read-out, the statistics of a norm that keeps none
    (``track_running_stats=False``), and the refusal of lengths and of modules that no trace called. Where forward goes
    by the numbers of its sizes, a call of new sizes is still looked at, while the model obeys the law at the example's.

    Nor can weights stand for the second pass of a conjoined model: its copy still reads both strands,
    and its `state_dict` is the plain one as it is. A mixed model becomes a `torch.fx.GraphModule` of its
    eval-mode forward, both strands included, which needs nothing of this package. It is compared with the model
    wherever forward may take another way, and refused where it would be another function.

    Args:
        model: a converted model; one that is not comes back as an equal copy.
        length: the one length the baked model will be called with, in positions of its longest input: what is there
            for other lengths is left out, so that the plain forward runs, and other lengths are refused.
        in_place: change and return this object instead of a copy. The parameters stay the same objects.

    Returns: the model with full-size parameters.

    Raises:
        ConversionError: at `length` something has to be re-anchored, or the model is refused there; or a mixed
            model is to be baked in place, cannot be exported, or has no graph of the same function (`TraceError`).
    """
    check_model(model)
    check_switch("in_place", in_place)
    rules = () if length is None else _rules_at(model, length)
    reading = conjoined(model)
    if reading is not None and mixed_layers(model):
        return bake_graph(model, reading, in_place, length)
    if not in_place:
        return untied_in_place(fresh_copy(model), rules)
    return all_or_nothing(model, lambda: untied_in_place(model, rules))


def _rules_at(model: nn.Module, length: int) -> Sequence[LengthRule]:
    """The rules that every input has the length it has where the longest has this one; none where all lengths do.

    Raises:
        ConversionError: something has to be re-anchored there, or the length is refused.
        TypeError, ValueError: no length.
    """
    check_count("length", length, low=1)
    root = anchored(model).get("")
    rules = [read_rule(rule) for rule in root.lengths] if root is not None else []
    longest = max((r.start for r in rules), default=0)
    for rule in rules:
        own = rule.start + length - longest
        if own < 1 or not rule.holds(own):
            near = [n - rule.start + longest for n in nearest(max(own, 1), rule.holds)]
            raise _needs_both_edges(length, near)
    for guard_ in (h for h in checks_of(model) if isinstance(h, LengthGuard)):
        for rule in guard_.rules:
            guard_.require(rule, rule.start + length - longest if longest else length)
    return [only_at(rule, rule.start + length - longest) for rule in rules]


def _needs_both_edges(length: int, near: Sequence[int]) -> ConversionError:
    return ConversionError(
        f"at {length} positions some operators read one edge of the sequence and not the other",
        why="half of their channels is read from the other edge, and that takes more than the plain forward",
        do=f"bake for {' or '.join(map(str, near))} positions, where nothing needs it"
        if near
        else "bake without length=: there is no length at which nothing needs it",
    )


@alone
def untied_in_place(target: nn.Module, rules: Sequence[LengthRule] = ()) -> nn.Module:
    """A model with its ties and shared norms undone, in place; with rules for the lengths that are left to it."""
    own_classes(target)
    unwatch(target)
    unwatch_given(target)
    trust_all_but_sizes(target)
    decelerate(target)
    if rules and not any(table.strict for table in anchored(target).values()):
        unanchor(target)
    if rules:
        before = (rule for h in checks_of(target) if isinstance(h, LengthGuard) for rule in h.rules)
        guard(target, [*before, *rules])
    with torch.no_grad():
        idle = untied(target)
        for module, leaf, _, _ in ties(target):
            remove(module, leaf)
        refuse_calls(idle)
    for module in target.modules():
        hook = hook_of(module)
        if isinstance(hook, FoldedNorm):
            unfold(module)
        elif isinstance(hook, PooledNorm):
            settle_statistics(module)
        uninstall(module, SharedState)
    return target


SEEMS_CONVERTED = "This seems to be a checkpoint of a converted model: model.load_state_dict(state_dict) loads it."
"""What is said of a checkpoint that is none of the plain model."""


def load_plain_state_dict(
    model: nn.Module, state_dict: Mapping[str, Any], *, init: str = "project", sequences: Any = None
) -> None:
    """Load a checkpoint of the unconverted model into a converted one.

    A model that reads both strands takes the weights as they are; cross-strand weights become zero, so
    that it computes the merged readings of the checkpoint.

    Args:
        model: a converted model, changed in place.
        state_dict: as saved from the plain class.
        init: ``"project"`` averages each weight with its mirror image (the nearest tied weight);
            ``"keep"`` takes the representatives as they are; ``"match"`` finds the pairs that the checkpoint has
            learned, and reorders its channels so that they become the swapped ones (see `convert_model`).
        sequences: with ``init="match"``, inputs to find the pairs with, as in `convert_model`; random DNA by default.

    Raises:
        ConversionError: ``init="match"`` for a model that does not know what it was converted with, as one that was
            made from a recipe.
        RuntimeError: missing or unexpected keys, or wrong shapes, all in one message; the model is unchanged.
        ValueError: another `init`, or `sequences` without ``"match"``.
        TypeError: `model` or `state_dict` is something else, or the checkpoint holds a value that is no tensor.
    """
    check_model(model)
    check_choice("init", init, get_args(Init))
    if init != "match" and sequences is not None:
        raise ValueError(f'sequences= has no meaning with init={init!r}: it is for init="match"')
    if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
        raise TypeError(f"state_dict= is a {type(state_dict).__name__}: give what model.state_dict() returned")
    all_or_nothing(model, lambda: _load(model, state_dict, init, sequences))


@alone
def _load(model: nn.Module, state_dict: Mapping[str, Any], init: str, sequences: Any) -> None:
    if conjoined(model) is not None:
        _load_both_strands(model, state_dict)
        return
    plain = bake(model)
    _load_checked(plain, state_dict, type(model).__name__)
    if init == "match":
        _load_matched(model, plain, sequences)
        return
    given = {**dict(plain.named_parameters()), **dict(plain.named_buffers())}
    images = mirrored(model)
    with torch.no_grad():
        for name, value in given.items():
            if name in images and init == "project":
                image, tie = images[name]
                value = (value + tie.image(given[image])) / 2
            _store(model, name, value, init)
        for path, module in plain.named_modules():
            _take_over(model.get_submodule(path), module)
        for name, text in (noted(model) or {}).get("averaged", {}).items():
            average(getattr(*owner(model, name)), read_action(text))


def _load_checked(plain: nn.Module, state_dict: Mapping[str, Any], name: str) -> None:
    """Load a checkpoint into a plain model as torch does: hooks of the user's may rename its keys.

    Raises:
        RuntimeError: keys are missing or unexpected, or shapes are wrong.
        TypeError: a value is no tensor.
    """
    expected = plain.state_dict()
    for key in expected.keys() & state_dict.keys():
        if isinstance(expected[key], Tensor) and not isinstance(state_dict[key], Tensor):
            kind = type(state_dict[key]).__name__
            raise TypeError(f"state_dict[{key!r}] is a {kind}: give tensors, as model.state_dict() returns")
    try:
        plain.load_state_dict(state_dict)
    except RuntimeError as reason:
        lines = str(reason).splitlines()
        lines[0] = f"Error(s) in loading a plain state_dict into converted {name}:"
        if any(key.endswith(".original") for key in state_dict.keys() - expected.keys()):
            lines.append(SEEMS_CONVERTED)
        raise RuntimeError("\n".join(lines)) from None


def _store(model: nn.Module, name: str, value: Tensor, init: str) -> None:
    """Set a parameter or a buffer of a converted model to what stands for its value in the plain model."""
    module, leaf = owner(model, name)
    chain = chains(module).get(leaf)
    if isinstance(chain, TiedList):
        tie: Any = chain[0]
        chain.original.copy_(tie.reduce(tie.project(value) if init == "project" else value))
        return
    own = getattr(module, leaf)
    if nn.parameter.is_lazy(own):
        return
    if isinstance(hook_of(module), FoldedNorm) and value.shape != own.shape:
        halves = value.reshape(2, -1)
        value = halves.mean(0) if init == "project" else halves[0]
    own.copy_(value)


def _take_over(module: nn.Module, plain: nn.Module) -> None:
    """Share the statistics of a norm layer; take over what a module keeps in its state beside tensors."""
    for kind in (PooledNorm, SharedState):
        hook = hook_of(module, kind)
        if hook is not None:
            hook.share(module)
    if type(plain).get_extra_state is not nn.Module.get_extra_state:
        module.set_extra_state(plain.get_extra_state())


def _load_matched(model: nn.Module, plain: nn.Module, sequences: Any) -> None:
    """Convert the plain model with the checkpoint's weights in the same way, and take over what it stores."""
    given = (noted(model) or {}).get(KEPT)
    if given is None:
        raise ConversionError(
            'load_plain_state_dict(..., init="match") into a model that does not know what it was converted with',
            why="its channels are compared on inputs, and a recipe does not say their shape",
            do='load the checkpoint into the plain model, and convert that with init="match"',
        )
    settings = replace(given[1], init="match", sequences=sequences, verify=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = planned(plain, read_structure(given[0]), settings)
        model.load_state_dict(plan.convert(plain, in_place=True, stacklevel=1).state_dict())


def _load_both_strands(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load a checkpoint into a model that reads both strands; weights between the strands become zero."""
    zero = {f"{p}.cross_weight".lstrip("."): torch.zeros_like(m.cross_weight) for p, m in mixed_layers(model).items()}  # type: ignore[arg-type]
    _load_checked(model, {**state_dict, **zero}, type(model).__name__)
