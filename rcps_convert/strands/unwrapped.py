"""Back from both strands: `unwrap` a model, or bake a mixed one into a graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._torch import hide_buffers, picklable, pytree, unguarded
from ..algebra.arguments import check_model, check_switch
from ..errors import ConversionError, TraceError, first_line
from ..graph.sandbox import alone, fresh_copy, quiet
from ..graph.transaction import all_or_nothing
from ..tie.checks import drop_checks
from ..tie.notes import forget
from ..tie.watched_hooks import bare_hooks
from .conjoined import Conjoined, conjoined, part
from .mixed import mixed_layers, unmix


@alone
def bake_graph(model: nn.Module, reading: Conjoined, in_place: bool) -> nn.Module:
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
    graph = picklable(unguarded(program), type(model).__name__)
    for path, module in graph.named_modules():  # tables of the mirror images are no state of the model
        hide_buffers(module, like=model.get_submodule(path))
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
    check_model(model)
    check_switch("in_place", in_place)
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
    if not in_place:
        return _parted(fresh_copy(model))
    return all_or_nothing(model, lambda: _parted(model))


@alone
def _parted(target: nn.Module) -> nn.Module:
    """A model that reads one strand again, in place."""
    unmix(target)
    part(target)
    drop_checks(target, lambda check: not check.needed)
    bare_hooks(target.modules())
    forget(target)
    return target
