"""What a conversion attached to a model, as plain values; read off a model, and attached to another one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from .._torch import chains
from ..algebra.action import Action, act
from ..algebra.arguments import check_choice
from ..algebra.texts import read_action, read_axis, write_action
from ..errors import ConversionError, first_line
from ..geometry import anchor, anchored, read_table
from ..graph.parametrized import own_classes
from ..graph.sandbox import owner
from ..strands.conjoined import Conjoined, conjoin, conjoined, read_reading
from ..strands.mixed import Cross, mix
from ..tie.argument_guard import ArgumentGuard, guard_arguments, read_given
from ..tie.attaching import attach, attach_mirror, register, require_unpruned, ties
from ..tie.checks import checks_of
from ..tie.hooks import hook_of
from ..tie.input_forms import InputForms, compare_forms, read_forms
from ..tie.length_guard import LengthGuard, guard, read_rule
from ..tie.norms import FoldedNorm, PooledNorm, fold, pool
from ..tie.notes import WORDS, note, noted
from ..tie.parts import watch
from ..tie.passage import read_passage
from ..tie.states import SharedState, read_buffers, share_states
from ..tie.symmetriser import BothStrands, symmetrise
from ..tie.ties import MirrorTie, RCTie, read_tie
from ..tie.untied import IdleModule, Untied, refuse_call
from .given import Given, print_of, watch_given
from .measured_call import MeasuredStates
from .outline import outline
from .settings import Init, tie_init

FORMAT = 1
"""The number of the form of a recipe; another form has another number, and this one stays readable."""

PACKAGE = __name__.partition(".")[0]
"""The name of the package, and the key of its version."""

T = TypeVar("T")
Modules = list[tuple[str, nn.Module]]
"""The modules of a model, by path."""

Recipe = dict[str, Any]
Step = Callable[[nn.Module], None]
"""Attaches one thing to a model, in place."""

ATTACHED = (
    "parameters",
    "norms",
    "states",
    "symmetrisers",
    "guards",
    "arguments",
    "forms",
    "watched",
    "idle",
    "anchors",
    "readings",
    "mixed",
)
"""The parts of a recipe that say what is attached; each is a list."""

NEW = ("states", "arguments", "forms", "watched", "code")
"""Parts that the first recipes did not have: left out where they are empty."""


def document(model: str, shape: Mapping[str, Any], **parts: Any) -> Recipe:
    """A recipe of its parts; those that are left out are empty.

    Args:
        model: class name.
        shape: the outline of the model.
        parts: by name.
    """
    strategy = "tied" if not parts.get("readings") else "mixed" if parts.get("mixed") else "conjoined"
    head = {"format": FORMAT, PACKAGE: sys.modules[PACKAGE].__version__, "model": model, "strategy": strategy}
    words = {name: parts.get(name) or {} for name in WORDS if parts.get(name) or name not in NEW}
    attached = {name: parts.get(name) or [] for name in ATTACHED if parts.get(name) or name not in NEW}
    place = {path: i for i, path in enumerate(shape.get("modules", ()))}
    attached["parameters"] = sorted(attached["parameters"], key=lambda row: place[row["names"][0].rpartition(".")[0]])
    attached["anchors"] = sorted(attached["anchors"], key=lambda row: place[row["at"]])
    return {**head, **words, "outline": dict(shape), **attached}


# --- reading it off -----------------------------------------------------------------------------


def read_off(model: nn.Module) -> Recipe:
    """The recipe of a converted model; that of a plain one has no parts.

    Raises:
        ConversionError: something that is attached cannot be written as plain values.
    """
    require_unpruned(model, "recipe")
    modules, shape = list(model.named_modules()), outline(model)
    readings = {path: module for path, module in modules if conjoined(module) is not None}
    return document(
        shape["modules"][""],
        shape,
        **_notes(modules),
        parameters=[*_tied(model)],
        norms=[{"path": p, **h.plain()} for kind in (FoldedNorm, PooledNorm) for p, h in _hooks(modules, kind)],
        states=[{"path": p, **h.plain()} for p, h in _hooks(modules, SharedState)],
        symmetrisers=[{"path": p, **h.passage.plain()} for p, h in _hooks(modules, BothStrands)],
        guards=[{"path": p, "rules": [r.plain() for r in h.rules]} for p, h in _checks(modules, LengthGuard)],
        arguments=[{"path": p, **h.plain()} for p, h in _checks(modules, ArgumentGuard)],
        forms=[{"path": p, **h.plain()} for p, h in _checks(modules, InputForms)],
        watched=[] if ties(model) else [{"path": p} for p, _ in _checks(modules, Given)],
        idle=[{"path": p, "name": h.name} for p, h in _checks(modules, IdleModule)],
        anchors=[{"at": path, **table.plain()} for path, table in anchored(model).items()],
        readings=[{"path": p, **h.plain()} for p, h in _hooks(modules, Conjoined)],
        mixed=[
            {"path": p, "action": write_action(h.mirror.action), "reading": _place(readings, h.reading)}
            for p, h in _hooks(modules, Cross)
        ],
    )


def _hooks(modules: Modules, kind: type) -> Iterator[tuple[str, Any]]:
    """The hooks of a kind around modules, by path."""
    return ((path, hook) for path, module in modules if (hook := hook_of(module, kind)) is not None)


def _checks(modules: Modules, kind: type) -> Iterator[tuple[str, Any]]:
    """The hooks of a kind that run before modules only, by path."""
    return ((path, check) for path, module in modules for check in checks_of(module) if isinstance(check, kind))


def _place(readings: Mapping[str, nn.Module], reading: Conjoined) -> str:
    """The path of the module that reads both strands in a way."""
    return next(path for path, module in readings.items() if conjoined(module) is reading)


def _notes(modules: Modules) -> dict[str, Any]:
    """What is noted on a model and its parts, names as the whole has them."""
    found: dict[str, Any] = {name: {} for name in WORDS}
    for path, module in modules:
        words = noted(module)
        if words is not None:
            found["settings"] = found["settings"] or words["settings"]
            found["code"] = "" if path else words.get("code", "")
            for kind in ("averaged", "constants"):
                found[kind].update({f"{path}.{name}".lstrip("."): value for name, value in words[kind].items()})
    return found


def _tied(model: nn.Module) -> Iterator[dict[str, Any]]:
    """A row for each tie, in an order in which each module gets its parametrizations as it has them."""
    ties: dict[int, tuple[RCTie, list[str]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for leaf, chain in chains(module).items():
            if isinstance(chain[0], RCTie):
                ties.setdefault(id(chain[0]), (chain[0], []))[1].append(f"{path}.{leaf}".lstrip("."))
    paths = {id(module): path for path, module in model.named_modules()}
    for tie, names in ties.values():
        row = {"names": names, **tie.plain()}
        if isinstance(tie, MirrorTie):
            module, leaf = tie.source
            row["original"] = f"{paths[id(module)]}.{leaf}".lstrip(".")
        yield row


# --- attaching it -------------------------------------------------------------------------------


def attach_all(model: nn.Module, recipe: Mapping[str, Any]) -> None:
    """Attach everything a recipe says to a model of its outline, in place, unchecked.

    Raises:
        ConversionError: the recipe cannot be read; nothing was changed.
    """
    steps = readable(recipe, lambda: [*_steps(recipe)])
    another = recipe.get("code") not in (None, print_of(model))
    own_classes(model)
    for step in steps:
        step(model)
    note(model, {name: recipe[name] for name in WORDS if name in recipe})
    if recipe["parameters"] or recipe["norms"] or recipe.get("watched"):
        watch(model)
        watch_given(model, another)


def readable(recipe: Any, read: Callable[[], T]) -> T:
    """What is read from a recipe.

    Raises:
        ConversionError: it is not as it was written.
    """
    try:
        return read()
    except ConversionError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as reason:
        raise ConversionError(
            "the recipe cannot be read",
            got=first_line(reason),
            why="a part of it is missing, or has another form",
            do="give what recipe(model) or plan.to_dict() returned",
        ) from reason


def _steps(recipe: Mapping[str, Any]) -> Iterator[Step]:
    """What attaches the parts of a recipe, in the order in which a conversion attaches them."""
    init = recipe["settings"].get("init", "keep")
    check_choice("init", init, get_args(Init))
    init = tie_init(init)
    shapes, paths = recipe["outline"]["parameters"], recipe["outline"]["modules"]
    for row in recipe["norms"]:
        yield _norm(_known(row["path"], paths), row, init)
    for row in recipe.get("states", ()):
        yield _on(_known(row["path"], paths), partial(share_states, buffers=read_buffers(row)))
    for row in recipe["parameters"]:
        yield _tie(row, {name: tuple(shapes[name]) for name in row["names"]}, init)
    for name, text in recipe["averaged"].items():
        yield _average(name, read_action(text))
    for row in recipe["idle"]:
        yield _on(_known(row["path"], paths), partial(refuse_call, name=row["name"]))
    for row in recipe["symmetrisers"]:
        yield _on(_known(row["path"], paths), partial(symmetrise, passage=read_passage(row)))
    tables = {_known(row["at"], paths): read_table(row) for row in recipe["anchors"]}
    yield lambda model: anchor(model, tables)
    for row in recipe["guards"]:
        yield _on(_known(row["path"], paths), partial(guard, rules=[read_rule(rule) for rule in row["rules"]]))
    for row in recipe.get("arguments", ()):
        yield _on(_known(row["path"], paths), partial(guard_arguments, given=read_given(row), states=MeasuredStates()))
    for row in recipe.get("forms", ()):
        forms = read_forms(row["forms"])
        yield _on(_known(row["path"], paths), partial(compare_forms, forms=forms, states=MeasuredStates()))
    readings = {_known(row["path"], paths): read_reading(row) for row in recipe["readings"]}
    for path, reading in readings.items():
        yield _on(path, partial(conjoin, reading=reading))
    for row in recipe["mixed"]:
        action, reading = read_action(row["action"]), readings[row["reading"]]
        yield _on(_known(row["path"], paths), partial(mix, reading=reading, action=action))


def _known(path: Any, paths: Mapping[str, Any]) -> str:
    """A path of a module, which the outline must have."""
    if path not in paths:
        raise ValueError(f"no module {path!r} is in the outline")
    return str(path)


def _on(path: str, change: Step) -> Step:
    """A change of a model that is one of its module at a path."""
    return lambda model: change(model.get_submodule(path))


def _norm(path: str, row: Mapping[str, Any], init: str) -> Step:
    return _on(path, partial(fold, init=init) if row["folds"] else partial(pool, channel=read_axis(row["channel"])))


def _tie(row: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], init: str) -> Step:
    """What ties a parameter; its shape must be that of the action."""
    names, kind = row["names"], row["kind"]
    first = shapes[names[0]]
    if kind == Untied.kind:
        tie = Untied(row["name"], first, row["idle"])
        return lambda model: register(model, names, tie)
    if kind == MirrorTie.kind:
        action, original = read_action(row["action"]), row["original"]
        _require_shape(row, action, first)
        return lambda model: attach_mirror(model, names, action, original, init)
    made = read_tie(row)
    _require_shape(row, made.action, first)
    return lambda model: attach(model, names, made, init)


def _require_shape(row: Mapping[str, Any], action: Action, shape: tuple[int, ...]) -> None:
    if action.shape != shape:
        raise ValueError(f"{row['action']} is no action on {row['names'][0]} of shape {shape}")


def _average(name: str, action: Action) -> Step:
    """What replaces a buffer by the mean with its mirror image."""

    def change(model: nn.Module) -> None:
        module, leaf = owner(model, name)
        average(getattr(module, leaf), action)

    return change


def average(buffer: Tensor, action: Action) -> None:
    """Replace the values of a buffer by the mean with their mirror image."""
    with torch.no_grad():
        buffer.copy_((buffer + act(action, buffer)) / 2)
