"""Back to plain weights: `bake` a converted model, `unwrap` one that reads both strands, load a plain checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import stored_name
from ..algebra.arguments import check_choice, check_model, check_switch
from ..fast.attached import decelerate
from ..graph.parametrized import own_classes
from ..graph.sandbox import alone, fresh_copy
from ..graph.transaction import all_or_nothing
from ..strands.conjoined import conjoined
from ..strands.mixed import mixed_layers
from ..strands.unwrapped import bake_graph
from ..tie.hooks import hook_of
from ..tie.norms import FoldedNorm, PooledNorm, settle_statistics, unfold
from ..tie.ties import mirrored, remove, ties
from ..tie.untied import refuse_calls, untied


def bake(model: nn.Module, *, in_place: bool = False) -> nn.Module:
    """Keep the tied values as plain parameters: the original classes and state_dict keys.

    The outputs in eval mode stay the same. Trained on, a baked model is an ordinary one: nothing
    keeps its weights tied or its statistics shared, and what `accelerate` set is dropped. What no weights can
    stand for stays: a symmetriser inserted at a read-out, the statistics of a norm that keeps none
    (``track_running_stats=False``), and the refusal of lengths and of modules that no trace called.

    Nor can weights stand for the second pass of a conjoined model: its copy still reads both strands,
    and its `state_dict` is the plain one as it is. A mixed model becomes a `torch.fx.GraphModule` of its
    eval-mode forward, both strands included, which needs nothing of this package.

    Args:
        model: a converted model; one that is not comes back as an equal copy.
        in_place: change and return this object instead of a copy. The parameters stay the same objects.

    Returns: the model with full-size parameters.

    Raises:
        ConversionError: a mixed model is to be baked in place, or cannot be exported (`TraceError`).
    """
    check_model(model)
    check_switch("in_place", in_place)
    reading = conjoined(model)
    if reading is not None and mixed_layers(model):
        return bake_graph(model, reading, in_place)
    if not in_place:
        return _baked(fresh_copy(model))
    return all_or_nothing(model, lambda: _baked(model))


@alone
def _baked(target: nn.Module) -> nn.Module:
    """A model with its ties and shared norms undone, in place."""
    own_classes(target)
    decelerate(target)
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
    return target


def load_plain_state_dict(model: nn.Module, state_dict: Mapping[str, Any], *, init: str = "project") -> None:
    """Load a checkpoint of the unconverted model into a converted one.

    A model that reads both strands takes the weights as they are; cross-strand weights become zero, so
    that it computes the merged readings of the checkpoint.

    Args:
        model: a converted model, changed in place.
        state_dict: as saved from the plain class.
        init: ``"project"`` averages each weight with its mirror image (the nearest tied weight);
            ``"keep"`` takes the representatives as they are.

    Raises:
        RuntimeError: missing or unexpected keys, or wrong shapes, all in one message; the model is unchanged.
        ValueError: another `init`.
        TypeError: `model` or `state_dict` is something else, or the checkpoint holds a value that is no tensor.
    """
    check_model(model)
    check_choice("init", init, ("keep", "project"))
    if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
        raise TypeError(f"state_dict= is a {type(state_dict).__name__}: give what model.state_dict() returned")
    all_or_nothing(model, lambda: _load(model, state_dict, init))


@alone
def _load(model: nn.Module, state_dict: Mapping[str, Any], init: str) -> None:
    if conjoined(model) is not None:
        _load_both_strands(model, state_dict)
        return
    plain = bake(model)
    expected, again = plain.state_dict(), _second_names(plain)
    _check_keys(type(model).__name__, expected, state_dict)
    tied, images = {name: tie for _, _, name, tie in ties(model)}, mirrored(model)
    folded = {path for path, m in model.named_modules() if isinstance(hook_of(m), FoldedNorm)}
    own = model.state_dict()
    with torch.no_grad():
        for key, value in state_dict.items():
            path, _, leaf = key.rpartition(".")
            if key in again:
                continue
            if key in tied:
                full = value.to(expected[key])
                stored = tied[key].reduce(tied[key].project(full) if init == "project" else full)
                own[stored_name(path, leaf)].copy_(stored)
            elif key in images and init == "project":
                image, tie = images[key]
                own[key].copy_((value.to(own[key]) + tie.image(state_dict[image].to(own[key]))) / 2)
            elif path in folded and isinstance(value, Tensor) and value.dim() == 1:
                halves = value.reshape(2, -1)
                own[key].copy_(halves.mean(0) if init == "project" else halves[0])
            elif isinstance(own[key], Tensor):
                own[key].copy_(value)
        _share_statistics(model)


def _second_names(model: nn.Module) -> set[str]:
    """The names of parameters and buffers that have another one before."""
    first = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    every = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {name for name, _ in every} - first


def _load_both_strands(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    cross = {f"{path}.cross_weight".lstrip(".") for path in mixed_layers(model)}
    own = model.state_dict()
    _check_keys(type(model).__name__, {k: v for k, v in own.items() if k not in cross}, state_dict)
    model.load_state_dict({**state_dict, **{k: torch.zeros_like(own[k]) for k in cross}})


def _share_statistics(model: nn.Module) -> None:
    for module in model.modules():
        hook = hook_of(module)
        if isinstance(hook, PooledNorm):
            hook.share(module)


def _check_keys(name: str, expected: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    missing, unexpected = expected.keys() - given.keys(), given.keys() - expected.keys()
    lines = [f"Missing key(s): {', '.join(sorted(missing))}."] if missing else []
    lines += [f"Unexpected key(s): {', '.join(sorted(unexpected))}."] if unexpected else []
    if any(key.endswith(".original") for key in unexpected):
        lines.append("This seems to be a checkpoint of a converted model: model.load_state_dict(state_dict) loads it.")
    for key in expected.keys() & given.keys():
        a, b = expected[key], given[key]
        if isinstance(a, Tensor) and not isinstance(b, Tensor):
            raise TypeError(f"state_dict[{key!r}] is a {type(b).__name__}: give tensors, as model.state_dict() returns")
        if isinstance(a, Tensor) and tuple(a.shape) != tuple(b.shape):
            lines.append(
                f"size mismatch for {key}: {tuple(b.shape)} in the checkpoint, {tuple(a.shape)} in the plain model."
            )
    if lines:
        raise RuntimeError("\n  ".join([f"Error(s) in loading a plain state_dict into converted {name}:", *lines]))
