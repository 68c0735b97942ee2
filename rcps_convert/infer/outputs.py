"""What the specs of the outputs demand of their actions."""

from __future__ import annotations

from .._torch import pytree
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis, Mismatch
from ..algebra.channels import UpperTriangle
from ..algebra.layouts import axes_of, inside
from ..algebra.specs import Antisymmetric, Invariant, Spec, Tokens
from ..errors import ConversionError, NeedsChoiceError, Refusal, Where
from ..graph.trace import Trace

AUTO = "auto"


def pin_output(x: Action, spec: Spec | str, where: Where, name: str, limits: str = "") -> ConversionError | None:
    """Unify an output's action with its spec; the problem, if they do not fit.

    Args:
        x: the output's action.
        spec: its spec, or ``"auto"``.
        where: the node that made it.
        name: the output in words, for the report.
        limits: what keeps it from changing its sign, in words.
    """
    got = str(x.walk())
    try:
        with ax.attempt():
            _demand(x, spec, name)
    except Refusal as fact:
        return fact.at(where, got)
    except Mismatch as fact:
        if limits and isinstance(spec, Antisymmetric):
            return NeedsChoiceError(
                f"{name} cannot be {spec}",
                where=where,
                got=got,
                why=f"{limits}, so it cannot change its sign",
                do='return what goes in there (the logits), or use tanh instead; or state outputs="invariant"',
            )
        words = "invariant (auto)" if spec == AUTO else str(spec)
        return NeedsChoiceError(
            f"{name} cannot be {words}",
            where=where,
            got=got,
            why=str(fact),
            do=_apart(x, spec) + "state how it transforms in outputs=: " + _fitting_spec(x) + _other_words(spec),
        )
    return None


def _apart(x: Action, spec: Spec | str) -> str:
    """A way out where tracks are to be swapped that may come from a layer each."""
    channel = None if isinstance(spec, str) else spec.channel()
    if channel is None or ax.is_trivial(channel):
        return ""
    found = [ax.walk(t) for t in x.axes if t.size == channel.size and ax.role(t) is None]
    pieces = any(isinstance(t, ax.Sum) or ax.is_trivial(t) for t in found)
    return "if each strand has a layer of its own, let one layer write both; else " if pieces else ""


def _fitting_spec(x: Action) -> str:
    """The spec that says how an output transforms, where its channels are permuted and nothing else is strange."""
    known = [ax.walk(t) for t in x.axes if ax.role(t) is None and not ax.free(t) and not ax.is_trivial(t)]
    if len(known) != 1 or ax.has_sign(known[0]):
        return ""
    table = ax.indices(known[0]).tolist()
    contacts = UpperTriangle(0)
    if contacts.bins(len(table)) is not None and ax.same(known[0], contacts.along(len(table))):
        return "UpperTriangle(diagonal=k) for contacts from the k-th diagonal of a map on, as these are; or "
    shown = str(table) if len(table) <= MOST_SHOWN else "[...]"
    return f"Tracks.pairs({shown}), or Tokens(...) for scores of a vocabulary's texts, as it is; or "


MOST_SHOWN = 32
"""Channels up to which their pairs are spelled out."""


def _other_words(spec: Spec | str) -> str:
    """The ways to state an output, less the one that was refused."""
    words = {"auto": '"auto"', "invariant": '"invariant"', "antisymmetric": '"antisymmetric"'}
    words.pop(str(spec), None)
    return ", ".join([*words.values(), 'tracks such as "+-", an alphabet, or Tracks("+-", layout="n l c")'])


def _demand(x: Action, spec: Spec | str, name: str) -> None:
    """Unify an output's action with its spec."""
    if isinstance(spec, Tokens):
        return _demand_ids(x, spec)
    if x.value is not None:
        ax.trivialise(x.value)
        if ax.is_length(x.value) and x.value.size > 1:
            raise Refusal(
                NeedsChoiceError,
                f"{name} holds positions along a length",
                why=f"position i of {x.value.size} becomes {x.value.size} - 1 - i, and no spec of an output says that",
                do="return the values found there (amax) or weights of positions (softmax), and look for places "
                "outside of forward",
            )
        if not ax.is_trivial(x.value):
            raise Mismatch(f"its numbers are places along an axis that is permuted: {ax.describe(x.value)}")
    if isinstance(spec, str):
        for term in x.axes:
            ax.trivialise(term)
            require_plain(term)
    elif isinstance(spec, (Invariant, Antisymmetric)):
        lengths = [i for i, t in enumerate(x.axes) if ax.is_length(t) and t.size > 1]
        if lengths:
            raise Mismatch(f'axis {lengths[0]} is still a length; for an unstranded profile say "auto"')
        for term in x.axes:
            _require_apart(term)
        for term, wanted in zip(x.axes, spec.action(x.shape).axes, strict=True):
            ax.unify(term, wanted)
    else:
        _demand_tracks(x, spec, name)


def require_plain(term: Axis) -> None:
    """Refuse an axis that `"auto"` has no words for: it is permuted, and no length.

    Raises:
        Mismatch: the axis is permuted otherwise than a length is.
    """
    if ax.is_trivial(term) or ax.ends(term) is not None:
        return
    _require_apart(term)
    raise Mismatch(f"its axis of {term.size} is permuted: {ax.describe(term)}")


def _require_apart(term: Axis) -> None:
    """Refuse an axis that holds positions and something else.

    Raises:
        Mismatch: it does.
    """
    factors = [f for f in (ax.walk(term), *ax.children(ax.walk(term))) if ax.is_length(f) and f.size > 1]
    if factors and isinstance(ax.walk(term), ax.Prod):
        raise Mismatch(
            f"its axis of {term.size} holds positions and something else ({ax.describe(term)}), so it is neither "
            "invariant nor a length: give the positions an axis of their own, as in (N, C, L), or say what is "
            'flattened there, as in Tracks("..", layout="n (c l)")'
        )


def auto_words(action: Action) -> str:
    """What `"auto"` takes an output for."""
    profile = any(ax.ends(t) is not None for t in action.axes)
    return ("unstranded profile" if profile else "invariant") + " (auto)"


def _demand_tracks(x: Action, spec: Spec, name: str) -> None:
    """Unify an output's action with tracks, one-hot bases or scores, read as the spec reads shapes."""
    channel = spec.channel() or ax.trivial(1)
    layout = getattr(spec, "layout", AUTO)
    letters = axes_of(layout) if layout != AUTO else _letters(x, spec, channel.size, name)
    if len(letters) != len(x.axes):
        raise Mismatch(f"layout {layout!r} has {len(letters)} axes, the output {len(x.axes)}")
    for term, axis in zip(x.axes, letters, strict=True):
        sizes = spec.sizes(axis, term.size, x.shape, letters)
        for part, letter in zip(ax.factor_into(term, sizes), inside(axis), strict=True):
            _demand_letter(part, letter, spec, name)


def _demand_letter(term: Axis, letter: str, spec: Spec, name: str) -> None:
    """Unify an axis, or a factor of one, with what a letter of a layout says."""
    along = spec.along(term.size) if letter == "l" else None
    if along is None:
        ax.unify(term, (spec.channel() if letter == "c" else None) or ax.trivial(term.size))
    elif ax.has_edge(along):
        _refuse_between(name, spec)
    elif ax.is_length(along):
        _lengthen(term)
        ax.forbid_sign(term)
    else:
        ax.unify(term, along)


def _demand_ids(x: Action, spec: Tokens) -> None:
    """Unify an output of ids with a vocabulary, and its one long axis with a length."""
    if x.value is None:
        raise Mismatch("its numbers are not known to be ids")
    ax.unify(x.value, spec.values())
    for term, wanted in zip(x.axes, spec.action(x.shape).axes, strict=True):
        _lengthen(term) if ax.is_length(wanted) else ax.unify(term, wanted)


def _refuse_between(name: str, spec: Spec) -> None:
    raise Refusal(
        NeedsChoiceError,
        f"{name} cannot be {spec} with tied weights",
        why="what a tied model writes for position i of L is mirrored to L - 1 - i",
        do='take offset=0 and cut the targets so that position i is mirrored to L - 1 - i, or use strategy="conjoined"',
    )


def _letters(x: Action, spec: Spec, channels: int, name: str) -> tuple[str, ...]:
    """The one reading of the output's shape that agrees with what is known of its axes."""
    fits = [r for r in spec.readings(x.shape) if all(map(_agrees, x.axes, r))]
    sure = [
        r
        for r in fits
        if all(c != "l" or t.size == 1 or ax.ends(t) is not None for t, c in zip(x.axes, r, strict=True))
    ]
    if len(fits) != 1 and len(sure) == 1:
        fits = sure
    if len(fits) == 1:
        return fits[0]
    named = [i for i, t in enumerate(x.axes) if t.size == channels and ax.role(t) is None]
    if fits or len(named) > 1:
        raise Refusal(
            NeedsChoiceError,
            f"{name}: several axes have {channels} entries for {spec}",
            why=f"its shape is {x.shape}",
            do='name the axes: outputs=Tracks("+-", layout="n l c")',
        )
    if not named:
        raise Refusal(
            NeedsChoiceError,
            f"{name}: no axis has {channels} entries for {spec}",
            why=f"its shape is {x.shape}",
            do='describe each channel that the output has, as in "+-." for three; or name the axes: layout="n l c"',
        )
    raise Mismatch(f"its axes must be read as {spec.forms()}")


def _agrees(term: Axis, letter: str) -> bool:
    """Whether an axis may have a letter, by its role; an axis of one entry may have any."""
    role = ax.role(term)
    if role is None or (term.size == 1 and role.name != "batch"):
        return letter != "n" or ax.is_trivial(term) or bool(ax.free(term))
    return letter == role.name[0].replace("b", "n")


def _lengthen(term: Axis) -> None:
    """Make an axis a length: an open one, such as positions that a dense layer writes, becomes reversed."""
    if term.size == 1 or ax.lengthen(term):
        return
    if not ax.free(term):
        raise Mismatch(
            f'its axis of {term.size} is no length; if it holds features that stay, as in layout="n c f", say so'
        )
    ax.unify(term, ax.length(term.size, ax.Role("length", steps=None)))


def specs_of(trace: Trace, first: Trace, specs: list[Spec | str]) -> list[Spec | str]:
    """The spec of each output of a trace: that of the first trace's output in the same place, else ``"auto"``.

    A train-mode forward may return more: what is returned alone elsewhere is then the first output.
    """
    if trace.out_spec == first.out_spec:
        return specs
    known = dict(zip(_output_places(first), specs, strict=True))
    if "" in known:
        return [specs[0], *[AUTO] * (len(trace.outputs) - 1)]
    return [known.get(place, AUTO) for place in _output_places(trace)]


def _output_places(trace: Trace) -> list[str]:
    whole = pytree.tree_unflatten([*range(len(trace.outputs))], trace.out_spec)
    return [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(whole)[0]]
