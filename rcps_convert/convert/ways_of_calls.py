"""Which way forward takes in a call, beside the way it takes in another: on copies, at the first such call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import pytree
from ..errors import ConversionError
from ..geometry import unanchor
from ..graph.sandbox import alone, fresh_copy
from ..measure.ways import Way, way_of
from ..tie.argument_guard import Call
from ..tie.attaching import remove, ties
from ..tie.checks import drop_checks
from ..tie.untied import Untied
from ..tie.watched_hooks import MEASURING, keep_acting_hooks
from .fast.attached import decelerate


@alone
def goes_otherwise(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether forward takes another way than with plain tensors of the same numbers; not where it does not run.

    Args:
        model: not touched.
        args, kwargs: of a call.
    """
    before = MEASURING.set(True)
    try:
        twin = fresh_copy(model)
        drop_checks(twin, lambda check: not check.on_copies)
        keep_acting_hooks(twin.modules())
        ways = [_way(twin, (args, kwargs), kept, model.training) for kept in (_as_given, _as_plain)]
        own = {id(p) for p in twin.parameters()}
        usual, plain = (way and {pair for pair in way if pair[0] != "reads" or pair[1] in own} for way in ways)
        return None not in ways and usual != plain
    except Exception:  # a tensor may be of any class
        return False
    finally:
        MEASURING.reset(before)


def _as_given(x: Tensor) -> Tensor:
    """A copy of the same class, with the same attributes."""
    twin = x.detach().clone()
    if isinstance(x, nn.Parameter):
        twin = type(x)(twin, x.requires_grad)
    vars(twin).update(vars(x))
    return twin


def _as_plain(x: Tensor) -> Tensor:
    return x.detach().clone().as_subclass(Tensor)


@alone
def goes_by_sizes(model: nn.Module, given: Call, usual: Call) -> bool:
    """Whether forward takes another way in one call than in another, or that cannot be told.

    Args:
        model: not touched.
        given, usual: the calls; what they have in common are the values of what is no tensor.

    Raises:
        ConversionError: the model cannot be copied, such as one whose parameters lie on several devices.
    """
    before = MEASURING.set(True)
    try:
        twin = _without_ties(model)
        ways = (_way(twin, call, torch.zeros_like, model.training, closely=False) for call in (given, usual))
        here, there = ways  # without the numbers that functions are given: sizes are among them
        return here is None or here != there
    except ConversionError:
        raise
    except Exception:  # what measures the call will say why it cannot
        return True
    finally:
        MEASURING.reset(before)


def _without_ties(model: nn.Module) -> nn.Module:
    """A copy of a model without ties and edges, whose own work goes by the length."""
    twin = fresh_copy(model)
    drop_checks(twin, lambda _: True)
    keep_acting_hooks(twin.modules())
    decelerate(twin)
    unanchor(twin)
    with torch.no_grad():
        for module, leaf, _, tie in ties(twin):
            if not isinstance(tie, Untied):  # it refuses to be read, here too
                remove(module, leaf)
    return twin


def _way(
    model: nn.Module, call: Call, made: Callable[[Tensor], Tensor], training: bool, closely: bool = True
) -> Way | None:
    """As `way_of`, of a call in which each tensor is replaced by what is made of it."""
    args, kwargs = pytree.tree_map_only(Tensor, made, call)
    forward = model.forward
    model.forward = partial(forward, **kwargs)
    try:
        return way_of(model, args, training, closely)
    finally:
        model.forward = forward
