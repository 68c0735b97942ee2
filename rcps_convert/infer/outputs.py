"""What the specs of the outputs demand of their actions."""

from __future__ import annotations

from torch.utils import _pytree as pytree

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis, Mismatch
from ..algebra.specs import Antisymmetric, Invariant, Spec
from ..errors import ConversionError, NeedsChoiceError, Refusal, Where
from ..graph.trace import Trace

AUTO = "auto"


def pin_output(x: Action, spec: Spec | str, where: Where, name: str) -> ConversionError | None:
    """Unify an output's action with its spec; the problem, if they do not fit.

    Args:
        x: the output's action.
        spec: its spec, or ``"auto"``.
        where: the node that made it.
        name: the output in words, for the report.
    """
    got = str(x.walk())
    try:
        with ax.attempt():
            _demand(x, spec, name)
    except Refusal as fact:
        return fact.at(where, got)
    except Mismatch as fact:
        words = "invariant (auto)" if spec == AUTO else str(spec)
        return NeedsChoiceError(
            f"{name} cannot be {words}",
            where=where,
            got=got,
            why=str(fact),
            do="state how it transforms in outputs=: " + _other_words(spec),
        )
    return None


def _other_words(spec: Spec | str) -> str:
    """The ways to state an output, less the one that was refused."""
    words = {"auto": '"auto"', "invariant": '"invariant"', "antisymmetric": '"antisymmetric"'}
    words.pop(str(spec), None)
    return ", ".join([*words.values(), 'tracks such as "+-", an alphabet, or Tracks("+-", layout="n l c")'])


def _demand(x: Action, spec: Spec | str, name: str) -> None:
    """Unify an output's action with its spec."""
    if isinstance(spec, str):
        for term in x.axes:
            ax.trivialise(term)
            if not _only_lengths(term):
                raise Mismatch(f"its axis of {term.size} is permuted: {ax.describe(term)}")
    elif isinstance(spec, (Invariant, Antisymmetric)):
        lengths = [i for i, t in enumerate(x.axes) if ax.is_length(t) and t.size > 1]
        if lengths:
            raise Mismatch(f'axis {lengths[0]} is still a length; for an unstranded profile say "auto"')
        for term, wanted in zip(x.axes, spec.action(x.shape).axes, strict=True):
            ax.unify(term, wanted)
    else:
        _demand_tracks(x, spec, name)


def _only_lengths(term: Axis) -> bool:
    term = ax.walk(term)
    factors = term.factors if isinstance(term, ax.Prod) else (term,)
    return all(ax.is_trivial(f) or ax.is_length(f) for f in factors)


def _demand_tracks(x: Action, spec: Spec, name: str) -> None:
    channel = spec.channel()
    assert channel is not None
    layout = getattr(spec, "layout", AUTO)
    if layout != AUTO:
        letters = layout.split()
    else:
        letters = [r.name[0] if (r := ax.role(t)) and t.size > 1 else "?" for t in x.axes]
        letters = ["l" if c == "l" else "n" if c == "b" else c for c in letters]
        fits = [i for i, c in enumerate(letters) if c == "?" and x.axes[i].size == channel.size]
        if not fits and channel.size == 1:  # one track without an axis of its own, such as (N, L)
            fits = [len(letters)]
            letters.append("c")
        if len(fits) != 1:
            found = "several axes have" if fits else "no axis has"
            raise Refusal(
                NeedsChoiceError,
                f"{name}: {found} {channel.size} entries for {spec}",
                why=f"its shape is {x.shape}",
                do='name the axes: outputs=Tracks("+-", layout="n l c")',
            )
        letters[fits[0]] = "c"
    letters = letters[: len(x.axes)] if layout == AUTO else letters
    if len(letters) != len(x.axes):
        raise Mismatch(f"layout {layout!r} has {len(letters)} axes, the output {len(x.axes)}")
    for term, letter in zip(x.axes, letters, strict=True):
        if letter == "l" and not ax.lengthen(term):
            raise Mismatch(f"its axis of {term.size} is no length")
        if letter == "l":
            ax.forbid_sign(term)
        else:
            ax.unify(term, channel if letter == "c" else ax.trivial(term.size))


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
