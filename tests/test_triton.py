"""Half products in Triton, interpreted on the CPU: every kernel against the stock operators, without a GPU."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from rcps_convert.convert.fast import fused
from rcps_convert.convert.fast.backends import backend
from rcps_convert.convert.fast.channels import ChannelPairs, halves_of
from rcps_convert.convert.fast.product import Product

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/test_cuda.py runs the kernels themselves"),
]

DNA, PROFILE, FIXED = ChannelPairs((0, 1), (3, 2)), ChannelPairs((0,), (1,)), ChannelPairs((), (), (0, 1, 2))
ODD = ChannelPairs((0, 1, 2, 7), (3, 4, 5, 8), (6,))


@pytest.fixture(scope="module")
def kernels() -> Iterator[Any]:
    """The kernels as Triton interprets them: it decides that when it is imported, which compilers may have done."""
    others = {name: sys.modules.pop(name) for name in [*sys.modules] if _is_triton(name)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec = importlib.util.spec_from_file_location("interpreted_kernels", fused.__file__.replace("fused", "kernels"))
        assert spec is not None
        assert spec.loader is not None
        kernels = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kernels)
        yield kernels
    for name in [name for name in sys.modules if _is_triton(name)]:
        del sys.modules[name]
    sys.modules.update(others)


def _is_triton(name: str) -> bool:
    """A module of Triton's Python code; what is compiled cannot be loaded twice."""
    return name.split(".")[0] == "triton" and not name.startswith("triton._C")


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch, kernels: Any) -> None:
    """Interpreted kernels, in small tiles."""
    how = {"num_warps": 4, "num_stages": 1}
    monkeypatch.setattr(fused, "_loaded", lambda: (kernels, ""))
    monkeypatch.setattr(fused, "_time", lambda run, tile: 0.0)
    monkeypatch.setattr(fused, "_CHOSEN", {})
    monkeypatch.setattr(fused, "FORWARD", [{"BM": 16, "BL": 32, "BK": 16, **how}])
    monkeypatch.setattr(fused, "GRADIENT", [{"BM": 16, "BN": 16, "BL": 32, **how}])


def partners(ch: ChannelPairs) -> list[int]:
    table = [*range(ch.size)]
    for a, b in zip(ch.first, ch.second, strict=True):
        table[a], table[b] = b, a
    return table


def tied(p: Product) -> tuple[Tensor, Tensor]:
    """A weight and a bias that obey the tie, in float64."""
    w, b = (
        torch.randn(p.makes.size, p.reads.size, p.kernel, dtype=torch.float64),
        torch.randn(p.makes.size).double(),
    )
    rows, columns = partners(p.makes), partners(p.reads)
    return (w + w[rows][:, columns].flip(2)) / 2, (b + b[rows]) / 2


def whole(p: Product) -> tuple[Tensor, Tensor]:
    """A tied weight and a bias of small whole numbers: every sum is exact, in whatever order a computer takes it.

    The interpreter multiplies matrices with NumPy, which rounds the columns of one product in different ways.
    """
    w, b = tied(p)
    return (w * 8).round().float(), (b * 8).round().float()


def mirrored(x: Tensor, ch: ChannelPairs) -> Tensor:
    return x[:, partners(ch)].flip(2).contiguous()


CASES: dict[str, tuple[Product, Sequence[int]]] = {
    "first layer": (Product(DNA, halves_of(12), 5, 1, 2), (3, 30)),
    "even kernel, fixed channels": (Product(halves_of(8), ODD, 4, 2, 3), (2, 21)),
    "dilated": (Product(ODD, halves_of(40), 3, 8, 8), (2, 40)),
    "one tap": (Product(halves_of(36), FIXED), (5, 9)),
    "profile": (Product(ODD, PROFILE, 7), (2, 20)),
    "two taps": (Product(halves_of(8), halves_of(8), 2, 1, 1), (2, 6)),
    "several blocks": (Product(halves_of(64), halves_of(36), 3, 1, 1), (2, 50)),
}


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients_are_the_stock_ones(name: str, biased: bool) -> None:
    torch.manual_seed(0)
    p, (samples, length) = CASES[name]
    w, b = tied(p)
    x = torch.randn(samples, p.reads.size, length).double()
    stock, pure = backend("stock", p), backend("torch", p)
    y = stock.forward(x, w, b if biased else None, p)
    g = torch.randn_like(y)
    wanted = [y, stock.back(x, g, w, p), pure.weight(x, g, w, p)]
    xf, wf, bf, gf = x.float(), w.float(), b.float() if biased else None, g.float()
    found = [fused.compute(xf, wf, bf, p), fused.back(xf, gf, wf, p), fused.weight_gradient(xf, gf, wf, p)]
    for a, c in zip(found, wanted, strict=True):
        assert float((a - c).abs().max()) < 1e-6 * float(c.abs().max())


@pytest.mark.parametrize("name", ["first layer", "dilated", "two taps"])
def test_whole_numbers_are_computed_exactly_on_both_strands(name: str) -> None:
    torch.manual_seed(0)
    p, (samples, length) = CASES[name]
    w, b = whole(p)
    x = torch.randint(-9, 9, (samples, p.reads.size, length)).float()
    y = fused.compute(x, w, b, p)
    assert torch.equal(y, backend("stock", p).forward(x, w, b, p))
    assert torch.equal(fused.compute(mirrored(x, p.reads), w, b, p), mirrored(y, p.makes))
    g = torch.randint_like(y, -9, 9)
    back = fused.back(x, g, w, p)
    assert torch.equal(fused.back(x, mirrored(g, p.makes), w, p), mirrored(back, p.reads))


def test_tensors_that_are_laid_out_in_another_way() -> None:
    torch.manual_seed(0)
    p, _ = CASES["several blocks"]
    w, b = whole(p)
    x = torch.randint(-9, 9, (2, 50, 64)).float().mT
    y = fused.compute(x, w, b, p)
    assert torch.equal(y, backend("stock", p).forward(x, w, b, p))
    g = torch.ones(1, 1, 1).expand(y.shape)
    assert torch.equal(fused.back(x, g, w, p), backend("stock", p).back(x, g.clone(), w, p))
    assert torch.equal(fused.weight_gradient(x, g, w, p), backend("torch", p).weight(x, g, w, p))


def test_tensors_too_large_for_the_kernels_meet_the_stock_operators() -> None:
    torch.manual_seed(0)
    p, (samples, length) = CASES["dilated"]
    w, b = (t.float() for t in tied(p))
    x = torch.randn(samples, p.reads.size, length)
    stock = backend("stock", p)
    y = stock.forward(x, w, b, p)
    with mock.patch.object(fused, "ENTRIES", 10), mock.patch.object(fused, "_loaded", side_effect=AssertionError):
        torch.testing.assert_close(fused.compute(x, w, b, p), y, rtol=0, atol=1e-5)
        torch.testing.assert_close(fused.back(x, y, w, p), stock.back(x, y, w, p), rtol=1e-5, atol=1e-4)
        wanted = backend("torch", p).weight(x, y, w, p)
        torch.testing.assert_close(fused.weight_gradient(x, y, w, p), wanted, rtol=1e-5, atol=1e-4)
