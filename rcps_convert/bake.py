"""Back to plain weights: `bake` a converted model, `unwrap` one that reads both strands, load a plain checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .boundary import unguard
from .conjoined import Conjoined, conjoined, part
from .errors import ConversionError, TraceError, first_line
from .hooks import hook_of, uninstall
from .mixed import Cross, mixed_layers, unmix
from .modules import fresh_copy, own_classes, quiet
from .norm import Fold, Pool, unfold
from .tie import mirrored, remove, ties


def is_converted(model: nn.Module) -> bool:
    """Whether a model carries ties or shared statistics, or reads both strands."""
    held = any(isinstance(hook_of(m), (Fold, Pool, Cross)) or conjoined(m) for m in model.modules())
    return bool(ties(model)) or held


def bake(model: nn.Module, *, in_place: bool = False) -> nn.Module:
    """Keep the tied values as plain parameters: the original classes and state_dict keys.

    The outputs in eval mode stay the same. Trained on, a baked model is an ordinary one: nothing
    keeps its weights tied or its statistics shared. A symmetriser inserted at a read-out stays, as
    no weights can stand for it.

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
    reading = conjoined(model)
    if reading is not None and mixed_layers(model):
        return _graph(model, reading, in_place)
    target = model if in_place else fresh_copy(model)
    own_classes(target)
    unguard(target)
    with torch.no_grad():
        for module, leaf, _, _ in ties(target):
            remove(module, leaf)
    for module in target.modules():
        hook = hook_of(module)
        if isinstance(hook, Fold):
            unfold(module)
        elif isinstance(hook, Pool):
            uninstall(module)
    return target


def _graph(model: nn.Module, reading: Conjoined, in_place: bool) -> nn.Module:
    """The eval-mode forward of a model that reads both strands, as a graph with the model's own state."""
    if in_place:
        raise ConversionError(
            "a mixed model cannot be baked in place",
            why="its layers read both strands, which no weights of its class can do: the result is another module",
            do="use the copy that bake(model) returns, or unwrap(model) to leave the other strand out",
        )
    twin = fresh_copy(model).eval()
    like = next((p for p in twin.parameters() if p.is_floating_point()), torch.zeros(()))
    args, kwargs = pytree.tree_map_only(
        Tensor, lambda x: x.to(like.device, like.dtype if x.is_floating_point() else x.dtype), reading.example
    )
    shapes = torch.export.ShapesCollection()
    for x in pytree.tree_leaves((args, kwargs)):
        if isinstance(x, Tensor):
            shapes[x] = dict.fromkeys(range(x.dim()), torch.export.Dim.AUTO)
    try:
        with quiet():
            program = torch.export.export(twin, args, kwargs, dynamic_shapes=shapes, strict=False)  # type: ignore[arg-type]
    except Exception as reason:  # torch.export raises anything
        raise TraceError(
            "the mixed model cannot be baked: torch.export cannot trace it",
            why=first_line(reason),
            do="keep the model as it is; torch.save(model.state_dict(), ...) saves it",
        ) from reason
    guarded = "check_guards" in inspect.signature(program.module).parameters  # not before torch 2.9
    exported = program.module(**({"check_guards": False} if guarded else {}))
    exported.graph._tracer_cls = None  # the exporter's own tracer, without which the graph can be pickled
    graph = torch.fx.GraphModule(exported, exported.graph, type(model).__name__)
    for path, module in graph.named_modules():  # tables of the mirror images are no state of the model
        module._non_persistent_buffers_set |= module._buffers.keys() - model.get_submodule(path)._buffers.keys()
    return graph


def unwrap(model: nn.Module, *, in_place: bool = False) -> nn.Module:
    """The model as it was before it read both strands, with the weights it has now.

    Args:
        model: a conjoined model, or a mixed one whose cross-strand weights are still zero.
        in_place: change and return this object instead of a copy.

    Returns: the model; its parameters and `state_dict` are what they were all along.

    Raises:
        ConversionError: it does not read both strands, or its layers have learned to read the other one.
    """
    if conjoined(model) is None:
        raise ConversionError(
            "the model does not read both strands",
            why='unwrap undoes strategy="conjoined" and "mixed"',
            do="use bake(model) for tied weights",
        )
    learned = [p for p, m in mixed_layers(model).items() if bool(m.cross_weight.detach().any())]  # type: ignore[operator]
    if learned:
        raise ConversionError(
            f"the cross-strand weight of {learned[0]} is not zero",
            got=f"{len(learned)} such layers",
            why="without it the layer computes another function",
            do="bake(model) keeps the function; to drop what was learned, set each cross_weight to zero first",
        )
    target = model if in_place else fresh_copy(model)
    unmix(target)
    part(target)
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
    """
    if init not in ("keep", "project"):
        raise ValueError(f"init={init!r}: use 'project' or 'keep'")
    if conjoined(model) is not None:
        _load_both_strands(model, state_dict)
        return
    expected = bake(model).state_dict()
    _check_keys(type(model).__name__, expected, state_dict)
    tied, images = {name: tie for _, _, name, tie in ties(model)}, mirrored(model)
    folded = {path for path, m in model.named_modules() if isinstance(hook_of(m), Fold)}
    own = model.state_dict()
    with torch.no_grad():
        for key, value in state_dict.items():
            path, _, leaf = key.rpartition(".")
            if key in tied:
                full = value.to(expected[key])
                stored = tied[key].reduce(tied[key].project(full) if init == "project" else full)
                own[f"{path}.parametrizations.{leaf}.original".lstrip(".")].copy_(stored)
            elif key in images and init == "project":
                image, tie = images[key]
                own[key].copy_((value.to(own[key]) + tie.image(state_dict[image].to(own[key]))) / 2)
            elif path in folded and isinstance(value, Tensor) and value.dim() == 1:
                halves = value.reshape(2, -1)
                own[key].copy_(halves.mean(0) if init == "project" else halves[0])
            elif isinstance(own[key], Tensor):
                own[key].copy_(value)
        _share_statistics(model)


def _load_both_strands(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    cross = {f"{path}.cross_weight".lstrip(".") for path in mixed_layers(model)}
    own = model.state_dict()
    _check_keys(type(model).__name__, {k: v for k, v in own.items() if k not in cross}, state_dict)
    model.load_state_dict({**state_dict, **{k: torch.zeros_like(own[k]) for k in cross}})


def _share_statistics(model: nn.Module) -> None:
    for module in model.modules():
        hook = hook_of(module)
        if isinstance(hook, Pool):
            hook.share(module)


def _check_keys(name: str, expected: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    missing, unexpected = expected.keys() - given.keys(), given.keys() - expected.keys()
    lines = [f"Missing key(s): {', '.join(sorted(missing))}."] if missing else []
    lines += [f"Unexpected key(s): {', '.join(sorted(unexpected))}."] if unexpected else []
    for key in expected.keys() & given.keys():
        a, b = expected[key], given[key]
        if isinstance(a, Tensor) and tuple(a.shape) != tuple(b.shape):
            lines.append(
                f"size mismatch for {key}: {tuple(b.shape)} in the checkpoint, {tuple(a.shape)} in the plain model."
            )
    if lines:
        raise RuntimeError("\n  ".join([f"Error(s) in loading a plain state_dict into converted {name}:", *lines]))
