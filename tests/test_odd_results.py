"""What a forward makes or is given that is refused by name: sparse tensors, tensors without values, wrong arguments."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import Net, conv
from tiers import some
from torch import Tensor, nn

from rcps_convert import (
    BreaksSymmetryError,
    ConversionError,
    TraceError,
    accelerate,
    check_equivariance,
    convert_model,
    load,
    rc_equivariant,
    recalibrate,
    save,
)

EXAMPLE = torch.zeros(2, 4, 21)


def of_gradients(m: Any, x: Tensor) -> Tensor:
    """Gradients that are taken inside of forward."""
    return m.a(torch.func.grad(lambda h: (h**3).sum())(m.c(x)).mean(-1))


def of_both(m: Any, x: Tensor) -> Tensor:
    value, backward = torch.func.vjp(torch.Tensor.square, m.c(x))
    return m.a(backward(value)[0].mean(-1))


@pytest.mark.parametrize("body", some([of_gradients, of_both], 1))
def test_a_gradient_inside_of_forward_is_refused_or_exact(body: Any) -> None:
    model = Net(body, c=conv(), a=nn.Linear(8, 2))
    with pytest.raises(TraceError, match=r"(has no value in the trace|cannot trace)(.|\n)*conjoined"):
        convert_model(model, EXAMPLE)


SPARSE = [
    lambda m, x: m.a(m.c(x).mean(-1)).to_sparse(),
    lambda m, x: {"answer": m.a(m.c(x).mean(-1)), "tracks": m.c(x).to_sparse()},
]


@pytest.mark.parametrize("body", some(SPARSE, 1))
def test_sparse_outputs_are_refused_by_name(body: Any) -> None:
    with pytest.raises(ConversionError, match="sparse"):
        convert_model(Net(body, c=conv(), a=nn.Linear(8, 2)), EXAMPLE)


LAID_OTHERWISE = [lambda y: y.to_sparse(), lambda y: torch.nested.as_nested_tensor([*y])]


@pytest.mark.parametrize("lay", some(LAID_OTHERWISE, 2))
def test_sparse_and_nested_readings_are_not_merged(lay: Any) -> None:
    model = Net(lambda m, x: lay(m.c(x).relu()), c=conv())
    with pytest.raises(ConversionError, match=r"an output is a (sparse|nested) tensor(.|\n)*to_dense"):
        convert_model(model, EXAMPLE, strategy="conjoined")


OF_ONE_STRAND: dict[str, Any] = {
    "a number": lambda h: h[0, 0, 0].item(),
    "a place": lambda h: int(h[0, 0].argmax()),
    "a text": lambda h: "+" if h[0, 0, 0] > h[0, 0, -1] else "-",
    "a tensor or none": lambda h: h[0] if h[0, 0, 0] > 0 else None,
}
OF_BOTH: dict[str, Any] = {
    "a size": lambda h: h.shape[-1],
    "an invariant": lambda h: h.abs().amax().item(),
    "a text": lambda h: "v1",
    "a clock": lambda h: time.perf_counter(),
}


@pytest.mark.parametrize("name", some([*OF_ONE_STRAND], 3))
def test_a_number_of_one_strand_beside_the_tensors_is_refused(name: str) -> None:
    torch.manual_seed(0)
    model = Net(lambda m, x: (m.a(m.c(x).mean(-1)), OF_ONE_STRAND[name](m.c(x))), c=conv(), a=nn.Linear(8, 2))
    with pytest.raises(ConversionError, match="not equivariant"):
        convert_model(model, EXAMPLE, strategy="conjoined")
    assert not check_equivariance(model, EXAMPLE)


@pytest.mark.parametrize("name", some([*OF_BOTH], 2))
def test_a_number_that_both_strands_have_is_returned(name: str) -> None:
    model = Net(lambda m, x: (m.a(m.c(x).mean(-1)), OF_BOTH[name](m.c(x))), c=conv(), a=nn.Linear(8, 2))
    both = convert_model(model, EXAMPLE, strategy="conjoined")
    x = torch.rand(2, 4, 21)
    assert torch.allclose(both(x)[0], both(x.flip((1, 2)))[0], atol=1e-6)


WRONG = [None, 1, b"x", [], EXAMPLE]


@pytest.mark.parametrize("path", some(WRONG, 2))
def test_a_path_is_a_file(path: Any) -> None:
    with pytest.raises(TypeError, match="give a file name, or a file that is open to write bytes"):
        save(nn.Linear(2, 1), path)
    with pytest.raises(TypeError, match="give a file name, or a file that is open to read bytes"):
        load(path, nn.Linear(2, 1))


def test_an_open_file_is_taken(tmp_path: Path) -> None:
    model = convert_model(nn.Sequential(conv(), nn.AdaptiveAvgPool1d(1)), EXAMPLE)
    with (tmp_path / "model.rc").open("wb") as file:
        save(model, file)
    with (tmp_path / "model.rc").open("rb") as file:
        loaded = load(file, nn.Sequential(conv(), nn.AdaptiveAvgPool1d(1)))
    assert torch.equal(loaded(EXAMPLE), model(EXAMPLE))


def test_inputs_that_the_model_does_not_take_are_named() -> None:
    model = convert_model(nn.Sequential(conv(), nn.BatchNorm1d(8), nn.AdaptiveAvgPool1d(1)), EXAMPLE)
    with pytest.raises(TraceError, match=r"does not run on what it is given(.|\n)*`batches\[...\]`"):
        recalibrate(model, (EXAMPLE, EXAMPLE))
    with pytest.raises(TraceError, match="does not run on the example"):
        accelerate(model, (EXAMPLE, EXAMPLE))
    for use in (recalibrate, accelerate):
        with pytest.raises(BreaksSymmetryError, match=r"has another form(.|\n)*shape \(3,\)"):
            use(model, torch.zeros(3))


@pytest.mark.parametrize("example", some([None, 1, "x", [], {"x": 1}], 2))
def test_a_decorator_says_at_once_what_an_example_is(example: Any) -> None:
    with pytest.raises(TypeError, match="give what model"):
        rc_equivariant(example=example)
