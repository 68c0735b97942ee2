"""Calls with tensors of another form than the example's: another number of axes, type, nesting, or another alphabet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from by_hand import bases, conv, mirror, worst
from torch import Tensor, nn

from rcps_convert import BreaksSymmetryError, apply_recipe, bake, convert_model, recipe
from rcps_convert.convert import measured_call

TOLERANCE = 1e-10
EXAMPLE = torch.zeros(2, 4, 21)
X = bases(3)


class Asks(nn.Module):
    """A forward that goes by the form of its input. (N, 4, L) -> (N, 2)

    Args:
        asks: whether an input has another form.
        as_usual: what that input is in the usual form.
        breaks: the other way breaks the symmetry.
    """

    def __init__(self, asks: Callable[[Any], bool], as_usual: Callable[[Any], Tensor], breaks: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.a = conv(), nn.Linear(8, 2)
        self.asks, self.as_usual, self.breaks = asks, as_usual, breaks

    def forward(self, x: Any) -> Tensor:
        other = self.asks(x)
        h = self.c(self.as_usual(x) if other else x).relu()
        return self.a((h.cumsum(-1) if other and self.breaks else h).mean(-1))


Form = tuple[Callable[[Any], bool], Callable[[Any], Tensor], Callable[[Tensor], Any]]

FORMS: dict[str, Form] = {
    "no batch": (lambda x: x.dim() == 2, lambda x: x[None], lambda x: x[0]),
    "pairs": (lambda x: x.ndim == 4, lambda x: x.flatten(0, 1), lambda x: x[None]),
    "bytes": (lambda x: x.dtype == torch.uint8, lambda x: x.double(), lambda x: x.to(torch.uint8)),
    "logical": (lambda x: not x.is_floating_point(), lambda x: x.double(), lambda x: x.bool()),
    "bases last": (lambda x: x.shape[1] != 4, lambda x: x.mT, lambda x: x.mT.contiguous()),
    "a list": (lambda x: isinstance(x, list), torch.stack, list),
    "a dict": (lambda x: isinstance(x, dict), lambda x: x["dna"], lambda x: {"dna": x}),
    "sparse": (lambda x: x.is_sparse, lambda x: x.to_dense(), lambda x: x.to_sparse()),
}

UNKNOWN: dict[str, Form] = {
    "ids": (lambda x: x.dtype == torch.long, lambda x: F.one_hot(x, 4).mT.double(), lambda x: x.argmax(1)),
    "five letters": (lambda x: x.shape[1] == 5, lambda x: x[:, :4], lambda x: F.pad(x, (0, 0, 0, 1))),
    "text": (lambda x: isinstance(x, str), lambda x: X, lambda x: "ACGT"),
}
"""Forms of which the specs of the conversion do not say what reverse complement does to them."""


def made(name: str, breaks: bool) -> tuple[nn.Module, Callable[[Tensor], Any]]:
    asks, as_usual, form = {**FORMS, **UNKNOWN}[name]
    return convert_model(Asks(asks, as_usual, breaks), EXAMPLE, verify=False).double().eval(), form


@pytest.mark.parametrize("name", [*FORMS, *UNKNOWN])
def test_another_form_with_which_the_strands_disagree_is_refused(name: str) -> None:
    model, form = made(name, breaks=True)
    assert worst(model(mirror(X)), model(X)) < TOLERANCE
    with pytest.raises(BreaksSymmetryError, match=r"(?s)argument x has another form.*shape \(any, 4, any\)"):
        model(form(X))


@pytest.mark.parametrize("name", ["no batch", "bytes", "logical", "bases last"])
def test_another_form_that_obeys_the_law_is_measured_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, form = made(name, breaks=False)
    measured: list[Any] = []
    measure = measured_call.fault_of
    monkeypatch.setattr(measured_call, "fault_of", lambda *given: measured.append(given) or measure(*given))
    for _ in range(2):
        assert worst(model(form(mirror(X))), model(form(X))) < TOLERANCE
    assert len(measured) == 1


def test_other_lengths_samples_and_precisions_are_no_other_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_call, "fault_of", lambda *given: pytest.fail("measured"))
    model, _ = made("text", breaks=True)
    for x in (bases(3, 30), bases(1), bases(0), X[:, :, 2:9], nn.Parameter(X)):
        model(x)
    model.float()(X.float())
    model.bfloat16()(X.bfloat16())


def test_the_form_of_each_input_counts() -> None:
    class Two(nn.Module):
        """Bases beside a vector of any size, of which the first decides the way."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.c, self.a = conv(), nn.Linear(8, 2)

        def forward(self, x: Tensor, extra: Tensor | None) -> Tensor:
            h = self.c(x).relu()
            return self.a((h.cumsum(-1) if extra is None or extra.dim() == 3 else h * extra.mean()).mean(-1))

    example = {"x": EXAMPLE, "extra": torch.ones(2, 5)}
    model = convert_model(Two(), example, inputs={"x": "ACGT", "extra": "invariant"}, verify=False).double().eval()
    for extra in (torch.ones(3, 5), torch.ones(3, 9)):
        assert worst(model(mirror(X), extra.double()), model(X, extra.double())) < TOLERANCE
    for extra in (torch.ones(3, 1, 5).double(), None):
        with pytest.raises(BreaksSymmetryError, match=r"(?s)argument extra has another form.*shape \(any, any\)"):
            model(X, extra)


def test_a_recipe_keeps_the_forms_and_bake_leaves_them_out() -> None:
    model, form = made("bytes", breaks=True)
    again = apply_recipe(Asks(*FORMS["bytes"][:2], breaks=True), recipe(model)).double().eval()
    again.load_state_dict(model.state_dict())
    assert worst(again(X), model(X)) < TOLERANCE
    with pytest.raises(BreaksSymmetryError, match="argument x has another form"):
        again(form(X))
    assert bake(model)(form(X)).shape == (3, 2)  # an ordinary model, with a forward of its own
    assert "forward" not in vars(bake(model))


def test_a_compiled_call_with_another_form_is_refused() -> None:
    """Nothing can be measured while a compiler traces the call."""
    model, form = made("bytes", breaks=False)
    compiled = torch.compile(model, backend="eager")
    assert worst(compiled(mirror(X)), compiled(X)) < TOLERANCE
    with pytest.raises(BreaksSymmetryError, match="argument x has another form"):
        compiled(form(X))


# --- tensors of a class of their own, or with attributes ---


class Marked(Tensor):
    """A class of the user's own."""


def tagged(x: Tensor) -> Tensor:
    x.tag = 1  # type: ignore[attr-defined]
    return x


SPECIAL: dict[str, tuple[Callable[[Any], bool], Callable[[Tensor], Tensor]]] = {
    "a parameter": (lambda x: isinstance(x, nn.Parameter), nn.Parameter),
    "a class": (lambda x: type(x).__name__ == "Marked", lambda x: x.as_subclass(Marked)),
    "an attribute": (lambda x: hasattr(x, "tag"), tagged),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_a_tensor_that_is_no_plain_one_is_refused_if_forward_goes_by_that(name: str) -> None:
    asks, special = SPECIAL[name]
    model = convert_model(Asks(asks, lambda x: x, breaks=True), EXAMPLE, verify=False).double().eval()
    assert worst(model(mirror(X)), model(X)) < TOLERANCE
    for _ in range(2):
        with pytest.raises(BreaksSymmetryError, match=r"(?s)argument x is no plain tensor, and forward goes by that"):
            model(special(X.clone()))


def test_a_tensor_that_is_no_plain_one_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = convert_model(Asks(lambda x: False, lambda x: x, breaks=True), EXAMPLE, verify=False).double().eval()
    looked: list[Any] = []
    goes = measured_call.goes_otherwise
    monkeypatch.setattr(measured_call, "goes_otherwise", lambda *given: looked.append(given) or goes(*given))
    for _, special in SPECIAL.values():
        for _ in range(2):
            x, image = special(X.clone()), special(mirror(X))
            assert worst(model(image).detach().as_subclass(Tensor), model(x).detach().as_subclass(Tensor)) < TOLERANCE
    assert len(looked) == len(SPECIAL)
    assert x.tag == 1  # type: ignore[attr-defined]


def test_what_a_compiler_notes_on_a_tensor_is_no_attribute_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = convert_model(Asks(lambda x: False, lambda x: x, breaks=True), EXAMPLE, verify=False).double().eval()
    monkeypatch.setattr(measured_call, "goes_otherwise", lambda *given: True)
    x, image = X.clone(), mirror(X)
    for y in (x, image):
        torch._dynamo.mark_dynamic(y, 2)
        assert vars(y)
    assert worst(model(image), model(x)) < TOLERANCE
    x.tag = 1  # type: ignore[attr-defined]
    with pytest.raises(BreaksSymmetryError, match=r"a Tensor with tag\n"):
        model(x)
