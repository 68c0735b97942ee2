"""The parts of a model as its class makes them, read off a converted or a plain one: whether a recipe fits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .._torch import chains
from ..errors import ConversionError
from ..strands.mixed import mixed_layers
from ..tie.hooks import hook_of
from ..tie.norms import VECTORS, FoldedNorm
from ..tie.ties import RCTie

Outline = dict[str, Any]
"""Classes of modules by path, shapes of parameters and buffers by name, and the groups of shared parameters."""

KINDS = {"modules": "module", "parameters": "parameter", "buffers": "buffer"}
"""The parts of an outline that go by name, and what one is called."""


def outline(model: nn.Module) -> Outline:
    """The outline of a model; of a converted one that of the model it was made from."""
    full, hidden = _ties(model)
    hidden |= {f"{path}.cross_weight".lstrip(".") for path in mixed_layers(model)}
    doubled = {
        f"{path}.{leaf}".lstrip(".")
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(hook_of(module), FoldedNorm)
        for leaf in VECTORS
    }

    def shapes(held: Iterator[tuple[str, Tensor]]) -> dict[str, list[int]]:
        plain = {full[n][0] if n in full else n: [*full[n][1]] if n in full else [*t.shape] for n, t in held}
        seen = {name: shape for name, shape in plain.items() if not _lies_in(name, hidden)}
        return {name: [2 * shape[0]] if name in doubled else shape for name, shape in seen.items()}

    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(full[name][0] if name in full else name)
    modules = model.named_modules(remove_duplicate=False)
    return {
        "modules": {path: _class(module) for path, module in modules if not _lies_in(path, hidden)},
        "parameters": shapes(model.named_parameters(remove_duplicate=False)),
        "buffers": shapes(model.named_buffers(remove_duplicate=False)),
        "shared": sorted(sorted(group) for group in groups.values() if len(group) > 1),
    }


def _ties(model: nn.Module) -> tuple[dict[str, tuple[str, torch.Size]], set[str]]:
    """Each stored parameter's name with that of the weight and its shape, and the paths that ties added."""
    full: dict[str, tuple[str, torch.Size]] = {}
    hidden: set[str] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        held = chains(module)
        tied = {leaf: chain for leaf, chain in held.items() if isinstance(chain[0], RCTie)}
        within = f"{path}.parametrizations".lstrip(".")
        hidden |= {within} if tied and len(tied) == len(held) else {f"{within}.{leaf}" for leaf in tied}
        for leaf, chain in tied.items():
            full[f"{within}.{leaf}.original"] = f"{path}.{leaf}".lstrip("."), chain[0].full_shape
    return full, hidden


def user_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers of a model by name, without those of ties."""
    hidden = _ties(model)[1]
    return {name: b for name, b in model.named_buffers() if not _lies_in(name, hidden)}


def _lies_in(name: str, paths: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[: i + 1]) in paths for i in range(len(parts)))


def _class(module: nn.Module) -> str:
    """The name of a module's class, without the place where it is defined: a script's becomes a package's."""
    cls = type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)
    return cls.__qualname__.rpartition("<locals>.")[2]


def require_outline(model: nn.Module, wanted: Mapping[str, Any]) -> None:
    """State that a model has an outline.

    Raises:
        ConversionError: it has not; the message names the first difference.
    """
    found = outline(model)
    for kind, word in KINDS.items():
        ours, theirs = wanted[kind], found[kind]
        for name in {**theirs, **ours}:
            if ours.get(name) != theirs.get(name):
                raise _misfit(f"{word} {name or '(the model itself)'}", ours.get(name), theirs.get(name), word)
    in_order = [*wanted["modules"]] != sorted(wanted["modules"])  # a file may have been written with its names sorted
    for ours, theirs in zip(wanted["modules"], found["modules"], strict=True):
        if in_order and ours != theirs:
            raise _misfit(f"the order of its modules, {theirs} before {ours}", ours, theirs, "module")
    if wanted["shared"] != found["shared"]:
        raise _misfit("the parameters that modules share", wanted["shared"], found["shared"], "such parameter")


def _misfit(what: str, wanted: Any, found: Any, word: str) -> ConversionError:
    def said(value: Any) -> str:
        return f"no {word}" if value in (None, []) else f"{value}"

    return ConversionError(
        f"the recipe was made for another model: {what}",
        got=f"{said(found)} in this model, {said(wanted)} in the recipe",
        why="a recipe holds for one architecture, as its class makes it",
        do="make the model with the arguments it was saved with; for another architecture, call convert_model",
    )


# --- constants ----------------------------------------------------------------------------------

TOLERANCE = 0.02
"""How far the numbers of two fingerprints may lie apart, relative to the size of the values: rounding does less."""


def fingerprint(value: Tensor) -> list[float]:
    """Three numbers of a buffer: mean, size, and a weighted sum that depends on the order of its values."""
    flat = value.detach().cpu().double().nan_to_num().clamp(-1e4, 1e4).flatten()
    if not flat.numel():
        return [0.0, 0.0, 0.0]
    weights = torch.arange(flat.numel(), dtype=torch.float64).cos()
    weighted = (flat * weights).sum() / math.sqrt(flat.numel())
    return [float(f"{float(x):.6g}") for x in (flat.mean(), flat.square().mean().sqrt(), weighted)]


def require_constants(model: nn.Module, wanted: Mapping[str, list[float]]) -> None:
    """State that the buffers which were taken for constants have the values they had.

    Raises:
        ConversionError: one has not.
    """
    buffers = dict(model.named_buffers())
    for name, numbers in wanted.items():
        found, size = fingerprint(buffers[name]), max(numbers[1], 1e-12)
        if any(abs(a - b) > TOLERANCE * size for a, b in zip(found, numbers, strict=True)):
            raise ConversionError(
                f"the recipe was made for other values of the buffer {name}",
                got=f"mean, size and weighted sum {found}, in the recipe {numbers}",
                why="forward reads it as a constant, and how reverse complement acts depends on its values",
                do="load the saved values too, with load(path, model), or set the buffer before apply_recipe",
            )
