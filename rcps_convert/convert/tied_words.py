"""What a plan of tied weights says of what stands in the way, and of what is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ConversionError, NeedsChoiceError, VerificationError, Where


def wrong_rule(where: Where | None, whole: bool = False) -> tuple[str, str]:
    """Why the law fails and what to do, where neither rounding, rare ties, noise nor state explains it.

    Args:
        where: the first node whose law fails, if there is one.
        whole: its result is whole numbers or truth values.
    """
    if whole:
        return (
            "numbers tie here on random bases too, as those of one-hot bases and the zeros behind a ReLU do: which of "
            "equal numbers is taken (by argmax, topk, a sort) goes by their place, which is not mirrored",
            'use values in place of their positions (amax, values of topk, softmax weights), or strategy="conjoined"',
        )
    if where is not None:
        return (
            "a rule or a custom operator is wrong: this is the first node whose law fails",
            "report the operator named here, or register a corrected rule for it",
        )
    return (
        "every step that was traced obeys its law, so forward computes something else when it is run: it takes another "
        "way on these values, reads what it was given in another order, or takes the place of one of several equal "
        "numbers (argmax, the indices of a maximum)",
        "replace branches on the values of tensors (torch.where) and places of maxima (amax, softmax weights), or use "
        'strategy="conjoined"; a tied model needs no random reverse complements in train mode; if there are none of '
        "these, report the model",
    )


def reading_note(where: Where) -> str:
    """What a plan says of a length that is read from either end.

    Args:
        where: the node that joins the two readings.
    """
    place = Where(where.path, where.source)
    return (
        f"what is joined at {place} reads one length from either end: reverse complement makes the two readings change "
        "places, so the weights of one are those of the other, mirrored"
    )


def zero_score(name: str, others: Sequence[str], weight: str | None) -> ConversionError:
    """The refusal of an antisymmetric output that is zero, whatever the weights.

    Args:
        name: the output, empty if there is one only.
        others: the outputs beside it that are not antisymmetric.
        weight: a parameter that tying makes zero, if there is one.
    """
    reads = (
        f"the channels that {weight} reads stay as they are" if weight else "what it is computed from stays as it is"
    )
    fixed = f"; stating what other outputs are ({', '.join(others)}) fixes the channels they return" if others else ""
    do = "let it read two channels or more that nothing fixes, as a maximum over channels or a constant for each does; "
    if others:
        do = 'state of the other outputs which of their channels swap, such as Tracks("+-", layout="n c"), or ' + do
    return NeedsChoiceError(
        f"output {name} would be zero, whatever the weights"
        if name
        else "the output would be zero, whatever the weights",
        where=Where(weight.rpartition(".")[0]) if weight else None,
        got="antisymmetric",
        why=f"a score changes its sign only where channels swap, and {reads} under reverse complement{fixed}",
        do=do + 'or state outputs="invariant"',
    )


def idle_once_tied() -> ConversionError:
    """The refusal of a model that ignores the sequence once its weights are tied, and did not before."""
    return VerificationError(
        "the outputs do not depend on the sequence once the weights are tied",
        why="those of the plain model do; what the outputs are said to be leaves none of their features, whatever the "
        "weights, as where a norm of one pair of channels is summed",
        do='widen the layer that the outputs read, say otherwise what they are, or use strategy="conjoined"',
    )


def does_not_run_tied(plain: ConversionError) -> ConversionError:
    """The refusal of a forward that finds something else where its weights were."""
    return ConversionError(
        "the model does not run once its weights are tied",
        where=plain.where,
        why=f"{plain.why}; a tied weight is computed from what is stored: self.weight is the full weight, while "
        "_parameters, named_parameters() and state_dict() have what is stored, under other names",
        do='read weights as attributes in forward, or use strategy="conjoined", which leaves them as they are',
    )


def lost_note(problem: ConversionError) -> str:
    """A note on a way through forward for which there is no solution."""
    place = f" at {Where(problem.where.path, problem.where.source)}" if problem.where else ""
    return f"refused at lengths at which forward takes another way: {problem.what}{place}"


def unheld_note(where: Any) -> str:
    """A note on a read-out for which no symmetriser can be inserted."""
    return (
        f"the read-out at {where} follows a nonlinearity and no submodule holds it alone: its filters become their own "
        "reverse complements; put the last convolution, its activation and the pooling into one submodule, or add a "
        "linear layer after the pooling"
    )
