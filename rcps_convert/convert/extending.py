"""Tying what was put into a converted model later: a new head, adapters, a deeper tower.

The model is planned again as a whole, on a copy with plain weights and with the settings it was converted with. What
was tied stays as it is: its values obey the new ties too, which is checked, so nothing that was learned is lost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..algebra import axis as ax
from ..algebra.action import Action, act
from ..algebra.arguments import Example, check_model, check_switch
from ..algebra.plain import read_setting
from ..errors import ConversionError, Where, gather
from ..geometry import unanchor
from ..graph.transaction import all_or_nothing
from ..tie.attaching import require_unpruned, ties
from ..tie.hooks import hook_of
from ..tie.norms import VECTORS, FoldedNorm, PooledNorm
from ..tie.notes import noted
from ..tie.states import SharedState
from ..tie.symmetriser import BothStrands
from ..tie.untied import Untied
from .bake import bake, untied_in_place
from .convert import planned
from .given import has_given
from .plan import ConversionPlan
from .settings import Init, Settings
from .state import is_converted


def extend(
    model: nn.Module,
    example: Example,
    *,
    inputs: Any = None,
    outputs: Any = None,
    layout: Any = None,
    init: Init = "keep",
    verify: bool = True,
    in_place: bool = False,
) -> nn.Module:
    """Tie what was put into a converted model after its conversion.

    What was converted before keeps its values and its `nn.Parameter` objects; an optimiser goes on with them.

    Args:
        model: a model with tied weights, and whatever was added, replaced or removed since.
        example: what it is called with now.
        inputs, outputs, layout: as in `convert_model`; by default as the model was converted with.
        init: where the new weights start, as in `convert_model`.
        verify: measure the law on a randomised copy.
        in_place: extend this object instead of a copy.

    Returns: the model, with the same guarantee as `convert_model` gives.

    Raises:
        ConversionError: the model is not converted, or reads both strands; what was added cannot be tied (of the class
            of the first problem, listing all); or it could be tied only with other values of what was. The model is as
            it was.
    """
    check_model(model)
    check_switch("in_place", in_place)
    settings = _settings(model, dict(inputs=inputs, outputs=outputs, layout=layout, init=init, verify=verify))
    require_unpruned(model, "extend")
    plain = bake(model)
    unanchor(plain)  # what is read from both edges is found anew
    plan = planned(plain, example, settings)
    plan.trained = False  # its tied part does not move
    if plan.problems:
        raise gather(plan.problems)
    _require_kept(_tied_values(model, plain), plan)
    _require_readings(model, plan)
    if not in_place:
        return plan.convert(plain, in_place=True, stacklevel=3)
    return all_or_nothing(model, lambda: plan.convert(untied_in_place(model), in_place=True, stacklevel=5))


def _settings(model: nn.Module, given: dict[str, Any]) -> Settings:
    """The settings that a model was converted with, and those that are given now."""
    words = noted(model)
    if words is None or not (is_converted(model) or has_given(model)):
        inside = [path for path, module in model.named_modules() if path and noted(module) is not None]
        raise ConversionError(
            f"the {type(model).__name__} is not converted",
            got=f"converted inside of it: {', '.join(inside)}" if inside else None,
            why="only what was put into a converted model can be tied to it",
            do=f"give that part: extend(model.{inside[0]}, example)" if inside else "call convert_model",
        )
    kept = {name: read_setting(value) for name, value in words["settings"].items()}
    if kept.get("strategy") != "tied":
        raise ConversionError(
            "extend is for tied weights, and this model reads both strands",
            why="whatever is put into it is read on both strands as well, so nothing has to be tied",
            do="call it as it is; for other outputs than before, unwrap(model) and convert it again",
        )
    return Settings(**{**kept, **{name: value for name, value in given.items() if value is not None}})


# --- what was tied ------------------------------------------------------------------------------


def _tied_values(model: nn.Module, plain: nn.Module) -> dict[str, Tensor]:
    """The full values of what was tied or shared, by the name in the plain model."""
    names = [name for _, _, name, tie in ties(model) if not isinstance(tie, Untied)]
    for path, module in model.named_modules():
        if hook_of(module, FoldedNorm) or hook_of(module, PooledNorm):
            names += [f"{path}.{leaf}".lstrip(".") for leaf in VECTORS]
        state = hook_of(module, SharedState)
        names += [f"{path}.{leaf}".lstrip(".") for leaf in state.buffers] if state is not None else []
    held = {**dict(plain.named_parameters(remove_duplicate=False)), **dict(plain.named_buffers(remove_duplicate=False))}
    return {name: held[name].detach() for name in names if name in held}


def _require_kept(before: dict[str, Tensor], plan: ConversionPlan) -> None:
    """Refuse a plan whose ties would change values that were tied before."""
    for row in plan.parameters:
        value = next((before[name] for name in row.names if name in before), None)
        if value is None:
            continue
        image = before.get(row.partner, value) if row.partner else value
        if not _is_lawful(row.action, value, image):
            raise _refusal(row.names[0], str(row.action.walk()))
    for norm in plan.norms:
        for name in (f"{norm.path}.{leaf}".lstrip(".") for leaf in VECTORS):
            if name in before and not _is_lawful(Action((norm.channel,)), before[name], before[name]):
                raise _refusal(name, ax.describe(norm.channel))
    for state in plan.states:
        for leaf, action in state.buffers.items():
            name = f"{state.path}.{leaf}".lstrip(".")
            if name in before and not _is_lawful(action, before[name], before[name]):
                raise _refusal(name, str(action.walk()))


def _require_readings(model: nn.Module, plan: ConversionPlan) -> None:
    """Refuse a plan in which a part that runs on both strands averages its two readings otherwise than before."""
    now = {s.path: s.passage.plain()["made"] for s in plan.symmetrisers}
    for path, module in model.named_modules():
        hook = hook_of(module, BothStrands)
        if hook is not None and now.get(path) != hook.passage.plain()["made"]:
            raise ConversionError(
                f"what was added can be tied only if {path}, which runs on both strands, averages them otherwise",
                where=Where(path),
                got=", ".join(now.get(path, ["not on both strands"])),
                why="its outputs are no longer the model's own, so what it has learned would mean something else",
                do="add the new part elsewhere; or let it happen: convert_model(bake(model), example), and train on",
            )


def _is_lawful(action: Action, value: Tensor, source: Tensor) -> bool:
    return torch.equal(act(action, source), value)


def _refusal(name: str, action: str) -> ConversionError:
    return ConversionError(
        f"what was added can be tied only if {name}, which is tied already, gets other values",
        where=Where(name.rpartition(".")[0]),
        got=f"it would have to be {action}",
        why="what the model has learned would change",
        do="say otherwise what the outputs are; or let it happen: convert_model(bake(model), example, "
        'init="project"), and train on',
    )
