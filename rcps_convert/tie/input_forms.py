"""Tensors of another form than those a model was converted with are measured, or refused: forward may go by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import is_compiling, is_recorded, own_attributes, pytree
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example, argument_names, leaves, places
from ..algebra.axis import Axis
from ..errors import BreaksSymmetryError
from ..graph.sandbox import positional_names
from .argument_guard import OTHER_WAY, PLAIN, States, words_of
from .checks import Check, attach_check, checks_of, drop_checks


@dataclass(frozen=True)
class Form:
    """What the tensors have in common that may stand in the place of one.

    Attributes:
        axes: the size of each axis that reverse complement permutes, such as that of the bases; None for any size.
        kind: of numbers, as `kind_of` says.
        sizes: of all axes in the example, where forward may go by sizes in a way that nobody sees; else None.
    """

    axes: tuple[int | None, ...]
    kind: str
    sizes: tuple[int, ...] | None = None

    def fits(self, value: Any) -> bool:
        """Whether a value is such a tensor."""
        if not isinstance(value, Tensor) or value.layout is not torch.strided or kind_of(value.dtype) != self.kind:
            return False
        if value.dim() != len(self.axes):
            return False
        return all(size is None or size == given for size, given in zip(self.axes, value.shape, strict=True))

    @property
    def words(self) -> str:
        """The form in words."""
        sizes = ", ".join("any" if size is None else str(size) for size in self.axes)
        return f"a tensor of {self.kind} numbers, shape ({sizes})"


Forms = dict[str, list[Form | None]]
"""By name of an argument the form of each of its leaves; None for what is no tensor."""


def by_sizes(forms: Forms) -> bool:
    """Whether forward may go by the sizes of its inputs, so that they are looked at."""
    return any(form is not None and form.sizes is not None for row in forms.values() for form in row)


def kind_of(dtype: torch.dtype) -> str:
    """What numbers of a type are: ``"complex"``, ``"floating-point"``, ``"logical"`` or ``"whole"``."""
    if dtype.is_complex or dtype.is_floating_point:
        return "complex" if dtype.is_complex else "floating-point"
    return "logical" if dtype is torch.bool else "whole"


def forms_of(model: nn.Module, example: Example, actions: Sequence[Action | None], by_sizes: bool = False) -> Forms:
    """The forms of the tensors of an example.

    Args:
        model: is called with it.
        example: with what.
        actions: how reverse complement acts on each of its leaves; None for what it does not act on.
        by_sizes: forward may go by the sizes of its inputs.
    """
    names, found = positional_names(model), Forms()
    for (name, _), value, action in zip(places(names, example), leaves(example), actions, strict=True):
        form = None
        if isinstance(value, Tensor):
            axes, sizes = tuple(_fixed(action, dim) for dim in range(value.dim())), tuple(value.shape)
            form = Form(axes, kind_of(value.dtype), sizes if by_sizes else None)
        found.setdefault(name, []).append(form)
    return {name: forms for name, forms in found.items() if any(form is not None for form in forms)}


def _fixed(action: Action | None, dim: int) -> int | None:
    """The size of an axis that reverse complement permutes, and that has no length in it."""
    term = None if action is None else action.axes[dim]
    return None if term is None or ax.is_trivial(term) or _has_role(term) else term.size


def _has_role(term: Axis) -> bool:
    """Whether an axis is a batch or a length, or put together of such and others."""
    return ax.role(term) is not None or any(map(_has_role, ax.children(ax.walk(term))))


def misfit(forms: Sequence[Form | None], value: Any) -> str | None:
    """What was in the place of a value that has another form; None where it has the same.

    Args:
        forms: of what the example had there.
        value: of a call.
    """
    given = [value] if isinstance(value, Tensor) else pytree.tree_leaves(value)
    if len(given) != len(forms) or isinstance(value, Tensor) != (len(forms) == 1 and forms[0] is not None):
        return f"{len(forms)} values" if len(forms) != 1 or forms[0] is None else forms[0].words
    return next((f.words for f, v in zip(forms, given, strict=True) if f is not None and not f.fits(v)), None)


def _as_in(forms: Sequence[Form | None], value: Any) -> Any:
    """A value with its tensors in the sizes of the example; the same value where they have them, or need not."""
    given, spec = pytree.tree_flatten(value)
    same = all(f is None or f.sizes is None or f.sizes == v.shape for f, v in zip(forms, given, strict=False))
    if same or len(given) != len(forms):
        return value
    kept = [v if f is None or f.sizes is None else v.new_zeros(f.sizes) for f, v in zip(forms, given, strict=True)]
    return pytree.tree_unflatten(kept, spec)


def _of(kwargs: Mapping[str, Any], example: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in example.items() if name in kwargs}


class InputForms(Check):
    """The check of a converted model that compares the tensors of a call with those of the conversion.

    Args:
        forms: of these.
        names: of the parameters of forward that can be given by position.
        states: measures a call with other ones; None where they are refused.
        only_sizes: nothing else is compared, as of a baked model.
    """

    needed = on_copies = only_sizes = False
    by_form = True

    def __init__(
        self, forms: Forms, names: Sequence[str] = (), states: States | None = None, only_sizes: bool = False
    ) -> None:
        self.forms, self.names, self.states, self.only_sizes = forms, tuple(names), states, only_sizes

    def plain(self) -> dict[str, Any]:
        """The forms as plain values, for `read_forms`."""
        return {"forms": plain_forms(self.forms)}

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Measure a call with a tensor of another form, or of sizes at which forward takes another way.

        Raises:
            BreaksSymmetryError: with it the strands disagree, or that cannot be measured.
        """
        if is_recorded() and not is_compiling():  # `torch.jit.trace` follows what sizes are compared with
            return
        call = dict(zip(argument_names(self.names, len(args)), args, strict=True)) | kwargs
        found = ((name, misfit(forms, call[name])) for name, forms in self.forms.items() if name in call)
        name, was = next(((name, was) for name, was in found if was is not None), ("", ""))
        if name and self.only_sizes:
            return
        if name:
            fault = "" if self.states is None or is_compiling() else self.states.fault(module, args, kwargs, None)
            if fault is not None:
                raise BreaksSymmetryError(
                    f"argument {name} has another form than the one the model was converted with",
                    got=words_of(call[name]),
                    why=f"it was converted with {was}, and {fault or OTHER_WAY}",
                    do="convert the model with an example as in this call; or bring the argument into that form",
                )
        if self.states is not None and not is_compiling():
            if not self.only_sizes:
                self._require_plain(module, args, kwargs, {name: call[name] for name in self.forms if name in call})
            self._require_way(module, args, kwargs, call)

    def _require_way(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], call: Mapping[str, Any]
    ) -> None:
        """Refuse sizes at which forward takes another way than on the example, and the strands disagree."""
        example = {name: _as_in(forms, call[name]) for name, forms in self.forms.items() if name in call}
        changed = next((name for name, value in example.items() if value is not call[name]), None)
        if changed is None or self.states is None:
            return
        usual = tuple(example.get(name, value) for name, value in zip(self.names, args, strict=False))
        usual += args[len(usual) :]
        fault = self.states.fault_at(module, (args, kwargs), (usual, {**kwargs, **_of(kwargs, example)}))
        if fault is not None:
            raise BreaksSymmetryError(
                "forward takes another way at the sizes of this call",
                got=f"argument {changed}: {words_of(call[changed])}",
                why=f"the law was measured where it takes the way of the example, and {fault or OTHER_WAY}",
                do="convert the model with an example of these sizes; or write forward so that it does the same at all",
            )

    def _require_plain(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], given: Mapping[str, Any]
    ) -> None:
        """Refuse tensors of a class of their own, or with attributes, if forward goes by these."""
        found = (
            (name, leaf) for name, value in given.items() for leaf in pytree.tree_leaves(value) if _is_special(leaf)
        )
        special = [(name, leaf, _marks(leaf)) for name, leaf in found]
        state = tuple((name, type(leaf), *marks) for name, leaf, marks in special)
        if special and self.states is not None and self.states.goes_otherwise(module, args, kwargs, state):
            name, leaf, marks = special[0]
            words = f" with {', '.join(mark for mark, _ in marks)}" if marks else ""
            raise BreaksSymmetryError(
                f"argument {name} is no plain tensor, and forward goes by that",
                got=f"a {type(leaf).__name__}{words}",
                why="the model was converted with plain tensors, and with this one forward takes another way",
                do="hand over a plain tensor, such as x.detach().clone()",
            )


def _is_special(value: Any) -> bool:
    """Whether a tensor is of a class of its own, or has attributes."""
    return isinstance(value, Tensor) and (type(value) is not Tensor or bool(own_attributes(value)))


def _marks(x: Tensor) -> tuple[tuple[str, Any], ...]:
    """The attributes of a tensor: the value of a plain one, the class of any other."""
    found = sorted(own_attributes(x).items())
    return tuple((name, value if isinstance(value, PLAIN) else type(value)) for name, value in found)


def compare_forms(model: nn.Module, forms: Forms, states: States | None = None) -> None:
    """Attach an `InputForms` to a model, in place of one it may have."""
    trust_forms(model)
    if forms:
        attach_check(model, InputForms(forms, positional_names(model), states))


def trust_all_but_sizes(model: nn.Module) -> None:
    """Let the `InputForms` of a model look at nothing but sizes, where forward may go by these, in place."""
    kept = [check for check in checks_of(model) if isinstance(check, InputForms) and by_sizes(check.forms)]
    trust_forms(model)
    for check in kept:  # another one: where the change is undone, the check of before is as it was
        attach_check(model, InputForms(check.forms, check.names, check.states, only_sizes=True))


def trust_forms(model: nn.Module) -> None:
    """Detach the `InputForms` of a model and its parts, in place."""
    drop_checks(model, lambda check: isinstance(check, InputForms))


def plain_forms(forms: Forms) -> dict[str, Any]:
    """Forms as plain values, for `read_forms`."""
    return {name: [None if form is None else _plain(form) for form in row] for name, row in forms.items()}


def _plain(form: Form) -> dict[str, Any]:
    sizes = {} if form.sizes is None else {"sizes": [*form.sizes]}
    return {"axes": [*form.axes], "kind": form.kind, **sizes}


def _form(row: Mapping[str, Any]) -> Form:
    sizes = tuple(row["sizes"]) if "sizes" in row else None
    return Form(tuple(row["axes"]), str(row["kind"]), sizes)


def read_forms(data: Mapping[str, Any]) -> Forms:
    """The forms that `plain_forms` describes."""
    return {str(name): [None if row is None else _form(row) for row in rows] for name, rows in data.items()}
