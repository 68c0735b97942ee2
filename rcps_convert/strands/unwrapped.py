"""Back from both strands: a model that reads one again."""

from __future__ import annotations

from torch import nn

from ..algebra.arguments import check_model, check_switch
from ..errors import ConversionError
from ..graph.sandbox import alone, fresh_copy
from ..graph.transaction import all_or_nothing
from ..tie.checks import drop_checks
from ..tie.notes import forget
from ..tie.watched_hooks import bare_hooks
from .conjoined import conjoined, part
from .mixed import mixed_layers, unmix


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
