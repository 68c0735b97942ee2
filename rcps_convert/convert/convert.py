"""`convert_model` and `plan_conversion`: trace, infer, plan, tie a copy, verify."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..algebra.arguments import Example, check_choice, check_switch
from ..algebra.nesting import read_call
from ..errors import ConversionError
from ..graph.held_forward import held_forward
from ..graph.sandbox import alone
from ..strands.conjoined import MERGES, Merge
from ..strands.layers_to_mix import Filter
from .both_strands_plan import plan_both_strands
from .plan import ConversionPlan, looks_trained, refuse_converted
from .tied_plan import TiedPlanner


def convert_model(
    model: nn.Module,
    example: Example,
    *,
    inputs: Any = "ACGT",
    outputs: Any = "auto",
    layout: Any = "auto",
    strategy: str = "tied",
    merge: Merge = "mean",
    post_hoc: bool = False,
    mix: Filter = None,
    init: str = "keep",
    on_unsupported: str = "error",
    symmetrise_buffers: bool = False,
    verify: bool = True,
    in_place: bool = False,
) -> nn.Module:
    """Make a model on DNA exactly reverse-complement equivariant: by tying its weights, or by reading both strands.

    The result has the same class and the same forward, and satisfies ``f(rc x) = rho f(x)`` for every x,
    before, during and after training. Tied, it has about half the parameters and costs one pass.

    Args:
        model: any module; for tied weights one that ``torch.export`` can trace. Not touched unless `in_place`.
        example: a tensor, a tuple of tensors or a dict of keyword arguments, exactly what ``model(...)``
            takes; only shapes and dtypes matter.
        inputs: what the input is: a one-hot alphabet in base order (``"ACGT"``, ``"ACGTN"``), tracks
            (``"+-."``), ``"invariant"``, or a spec such as `Tokens`; nested as the example for several inputs.
        outputs: the same for the outputs, and ``"antisymmetric"``; with ``"auto"`` an axis that is still
            a length is an unstranded profile, and everything else is invariant.
        layout: axes of the inputs in einops letters (``"n c l"``, ``"n l c"``, ``"n 1 c l"``), or ``"auto"``.
        strategy: ``"tied"``; ``"conjoined"``: the untouched model reads both strands in one batch of twice the
            size, and the two readings are merged; or ``"mixed"``: the same, and layers read the other strand's
            features through new weights that start at zero.
        merge: how the readings are merged when both strands are read: ``"mean"``, ``"sum"``, ``"max"``, or a
            symmetric function of two tensors.
        post_hoc: conjoined in eval mode only; in train mode the model reads one strand, as before.
        mix: which layers mix: a function of path and module, paths or patterns such as ``"tower.*"``; by default
            every convolution and linear layer that is trained and can be.
        init: where tied weights start: ``"keep"`` (representatives keep their values, and so their
            variance) or ``"project"`` (orbit mean: the nearest equivariant weights).
        on_unsupported: ``"error"``, or ``"both_strands"``: the smallest submodule that holds what cannot be
            inferred runs on both strands, and its two readings are averaged; the rest stays tied.
        symmetrise_buffers: average a buffer that is not invariant instead of refusing it.
        verify: check the law on a randomised copy before returning.
        in_place: convert this object. Its parameters stay the same `nn.Parameter` objects, so an optimiser
            built before, and not yet stepped, trains the converted model.

    Returns: the converted model.

    Raises:
        ConversionError: of the class of the first problem, listing all (`BreaksSymmetryError`,
            `NoRuleError`, `NeedsChoiceError`, `TraceError`, `VerificationError`); the model is as it was.
        ValueError: a spec that cannot be read, or settings that do not go together.

    Source: design after Shrikumar et al. 2017 (weight sharing) and Mallet & Vert, NeurIPS 2021 (theory).
    """
    check_switch("in_place", in_place)
    plan = plan_conversion(
        model,
        example,
        inputs=inputs,
        outputs=outputs,
        layout=layout,
        strategy=strategy,
        merge=merge,
        post_hoc=post_hoc,
        mix=mix,
        init=init,
        on_unsupported=on_unsupported,
        symmetrise_buffers=symmetrise_buffers,
        verify=verify,
    )
    return plan.convert(model, in_place=in_place, stacklevel=3)


@alone
def plan_conversion(
    model: nn.Module,
    example: Example,
    *,
    inputs: Any = "ACGT",
    outputs: Any = "auto",
    layout: Any = "auto",
    strategy: str = "tied",
    merge: Merge = "mean",
    post_hoc: bool = False,
    mix: Filter = None,
    init: str = "keep",
    on_unsupported: str = "error",
    symmetrise_buffers: bool = False,
    verify: bool = True,
) -> ConversionPlan:
    """Work out a conversion without doing it; problems are listed in the plan instead of raised.

    Args:
        model: the model; not touched.
        example, inputs, outputs, layout, strategy, merge, post_hoc, mix, init, verify: as in `convert_model`.
        on_unsupported, symmetrise_buffers: as in `convert_model`.

    Returns: a plan to print, and to apply with ``plan.apply(model)``.

    Raises:
        ConversionError: the model is converted already.
        ValueError: a spec that cannot be read, or settings that do not go together.
    """
    example = read_call(model, example, inputs)
    refuse_converted(model)
    check_switch("verify", verify)
    _check_settings(strategy, merge, post_hoc, mix, init, on_unsupported, symmetrise_buffers)
    held = held_forward(model, example)
    if strategy != "tied" and not (held and strategy == "mixed"):
        return plan_both_strands(
            model,
            example,
            inputs=inputs,
            outputs=outputs,
            layout=layout,
            strategy=strategy,
            merge=merge,
            post_hoc=post_hoc,
            mix=mix,
            verify=verify,
            held=held,
        )
    plan = ConversionPlan(type(model).__name__, init=init, trained=looks_trained(model))
    if held is not None:
        plan.problems.append(held)
        return plan
    try:
        planner = TiedPlanner(model, example, plan, verify)
        planner.run(inputs, outputs, layout, symmetrise_buffers, on_unsupported == "both_strands")
    except ConversionError as problem:
        plan.problems.extend(problem.problems)
    return plan


def _check_settings(
    strategy: str, merge: Merge, post_hoc: bool, mix: Filter, init: str, on_unsupported: str, symmetrise_buffers: bool
) -> None:
    """Refuse values that are none, and settings of one strategy given to another."""
    check_choice("strategy", strategy, ("tied", "conjoined", "mixed"))
    check_choice("init", init, ("keep", "project"))
    check_choice("on_unsupported", on_unsupported, ("error", "both_strands"))
    check_switch("post_hoc", post_hoc)
    check_switch("symmetrise_buffers", symmetrise_buffers)
    known = callable(merge) and not isinstance(merge, (nn.Module, type))
    if not known and not (isinstance(merge, str) and merge in MERGES):
        raise ValueError(f"merge={merge!r}: use 'mean', 'sum', 'max', or a function of two tensors")
    patterns = isinstance(mix, (list, tuple)) and bool(mix) and all(isinstance(p, str) for p in mix)
    if not (mix is None or patterns or isinstance(mix, str) or (callable(mix) and not isinstance(mix, type))):
        raise TypeError(
            f"mix={mix!r}: give paths of layers or patterns such as 'tower.*', or a function of path and module"
        )
    only_tied = [("init", init != "keep"), ("on_unsupported", on_unsupported != "error")]
    only_tied.append(("symmetrise_buffers", symmetrise_buffers))
    misplaced = {
        "tied": [("merge", merge != "mean"), ("post_hoc", post_hoc), ("mix", mix is not None)],
        "conjoined": [("mix", mix is not None), *only_tied],
        "mixed": [("post_hoc", post_hoc), *only_tied],
    }
    for name, given in misplaced[strategy]:
        if given:
            raise ValueError(f"{name}= has no meaning with strategy={strategy!r}")
