"""`convert_model` and `plan_conversion`: start reading here.

A tied conversion passes these stages, each in a folder of its own:

1. ``algebra``: the specs become the actions of the inputs' axes.
2. ``measure``: a model that obeys the law with any weights is left as it is.
3. ``graph``: `torch.export` gives the operators of the eval-mode and the train-mode forward.
4. ``infer``: the rules of ``rules`` relate the actions of all tensors, unification solves for them.
5. ``convert``: the plan lists what each parameter, norm and call becomes.
6. ``tie``, ``geometry``: a copy gets its ties, shared statistics and re-anchored calls.
7. ``measure``: the law is measured on that copy, and the plan says how well it held.

``strands`` replaces stages 3 to 6 where both strands are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .._torch import pytree
from ..algebra.arguments import Example, check_switch
from ..algebra.nesting import read_call
from ..algebra.specs import Tokens
from ..graph.held_forward import held_forward, kept_elsewhere, loses_hooks
from ..graph.progress import progress_shown, stage
from ..graph.sandbox import alone
from ..strands.layers_to_mix import Filter
from .both_strands_plan import plan_both_strands
from .plan import ConversionPlan, refuse_converted
from .settings import Init, MergeWord, OnUnsupported, Settings, Strategy
from .tied_plan import plan_tied


def convert_model(
    model: nn.Module,
    example: Example,
    *,
    inputs: Any = "ACGT",
    outputs: Any = "auto",
    layout: Any = "auto",
    strategy: Strategy = "tied",
    merge: MergeWord | Callable[[Tensor, Tensor], Tensor] = "mean",
    post_hoc: bool = False,
    mix: Filter = None,
    init: Init = "keep",
    sequences: Any = None,
    on_unsupported: OnUnsupported = "error",
    symmetrise_buffers: bool = False,
    verify: bool = True,
    progress: bool | None = None,
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
            variance), ``"project"`` (orbit mean: the nearest equivariant weights) or ``"match"`` (for a trained
            model: the pairs of channels that it has learned are found, the channels are reordered so that they
            become the swapped halves, and then it is projected).
        sequences: with ``init="match"``, inputs without labels to find the pairs with, to fit the tied weights with by
            least squares, and to compute the statistics of norm layers anew with at the end (`recalibrate`): a tensor,
            tuple or dict like `example`, with any number of samples, or an iterable of such. By default pairs are found
            on random DNA, weights are projected, and statistics are averaged.
        on_unsupported: ``"error"``, or ``"both_strands"``: the smallest submodule that holds what cannot be
            inferred runs on both strands, and its two readings are averaged; the rest stays tied.
        symmetrise_buffers: average a buffer that is not invariant instead of refusing it.
        verify: check the law on a randomised copy before returning; if not, nothing is measured: neither the law,
            at no length, nor how far the outputs move, nor whether the model is equivariant already.
        progress: show a line on the standard error that says what is being done and for how long, once that takes more
            than a second; None shows it where the standard error is a terminal.
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
    _check_progress(progress)
    settings = Settings(
        inputs=inputs,
        outputs=outputs,
        layout=layout,
        strategy=strategy,
        merge=merge,
        post_hoc=post_hoc,
        mix=mix,
        init=init,
        sequences=sequences,
        on_unsupported=on_unsupported,
        symmetrise_buffers=symmetrise_buffers,
        verify=verify,
    )
    with progress_shown(progress):
        plan = planned(model, example, settings)
    return plan.convert(model, in_place=in_place, stacklevel=3)


def plan_conversion(
    model: nn.Module,
    example: Example,
    *,
    inputs: Any = "ACGT",
    outputs: Any = "auto",
    layout: Any = "auto",
    strategy: Strategy = "tied",
    merge: MergeWord | Callable[[Tensor, Tensor], Tensor] = "mean",
    post_hoc: bool = False,
    mix: Filter = None,
    init: Init = "keep",
    sequences: Any = None,
    on_unsupported: OnUnsupported = "error",
    symmetrise_buffers: bool = False,
    verify: bool = True,
    progress: bool | None = None,
) -> ConversionPlan:
    """Work out a conversion without doing it; problems are listed in the plan instead of raised.

    Args:
        model: the model; not touched.
        example, inputs, outputs, layout, strategy, merge, post_hoc, mix, init, verify: as in `convert_model`.
        sequences, on_unsupported, symmetrise_buffers, progress: as in `convert_model`.

    Returns: a plan to print, and to apply with ``plan.apply(model)``.

    Raises:
        ConversionError: the model is converted already.
        ValueError: a spec that cannot be read, or settings that do not go together.
    """
    _check_progress(progress)
    settings = Settings(
        inputs=inputs,
        outputs=outputs,
        layout=layout,
        strategy=strategy,
        merge=merge,
        post_hoc=post_hoc,
        mix=mix,
        init=init,
        sequences=sequences,
        on_unsupported=on_unsupported,
        symmetrise_buffers=symmetrise_buffers,
        verify=verify,
    )
    with progress_shown(progress):
        return planned(model, example, settings)


def _check_progress(progress: Any) -> None:
    if progress is not None:
        check_switch("progress", progress)


@alone
def planned(model: nn.Module, example: Example, settings: Settings) -> ConversionPlan:
    """The plan of a conversion: what each stage found, and the problems it met.

    Args:
        model: not touched.
        example: what it is called with.
        settings: how it is analysed and converted.

    Raises:
        ConversionError: the model is converted already.
    """
    example = read_call(model, example, settings.inputs)
    refuse_converted(model)
    stage("looking at the model")
    held = held_forward(model, example)
    elsewhere = kept_elsewhere(model, example) if held is None else None
    both = settings.strategy == "conjoined" or (settings.strategy == "mixed" and held is None)
    plan = (plan_both_strands if both else plan_tied)(model, example, settings, held or elsewhere)
    if elsewhere is not None:
        plan.problems = [elsewhere]
    past = loses_hooks(model, example) if both or not plan.problems else None
    if past is not None:
        plan.problems = [past]
    plan.warnings += _of_rcps_pytorch(model)
    plan.notes += _of_pieces(settings.inputs)
    return plan


def _of_pieces(inputs: Any) -> list[str]:
    """What to say of a vocabulary that cuts what is left of a sequence into shorter texts."""
    specs = pytree.tree_leaves(inputs, is_leaf=lambda spec: isinstance(spec, Tokens))
    found = [s.text_lengths for s in specs if isinstance(s, Tokens) and len(s.text_lengths) > 1]
    return [
        f"the vocabulary has texts of {' and '.join(map(str, lengths))} letters: a sequence and its reverse complement "
        "are cut at the same places if nothing is left over at the right end, as for lengths that are multiples of "
        f"{lengths[-1]}; for others read both strands as strings: conjoined_strings(model, tokenize)"
        for lengths in found[:1]
    ]


def _of_rcps_pytorch(model: nn.Module) -> list[str]:
    """What to say of a network made of the layers of rcps-pytorch."""
    own = [type(m) for m in model.modules() if str(type(m).__module__).partition(".")[0] == "rcps"]
    names = dict.fromkeys(cls.__name__ for cls in own if cls.__name__.startswith("RCPS"))
    if not names:
        return []
    return [
        f"the model has layers of rcps-pytorch ({', '.join(names)}), which keep the symmetry themselves: import them "
        "from rcps_convert.layers, or go on to a plain network that is converted; see the page Migrating from "
        "rcps-pytorch (docs/migrating-from-rcps-pytorch.md)"
    ]
