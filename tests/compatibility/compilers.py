"""Compilers and exporters."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rcps_convert import bake

from . import DNA, LENGTH, even, made, refused, row, sequences

COMPILERS = "Compilers and exporters"


def quietly(run: Any) -> Any:
    """What a function makes, its warnings and logs aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            return run()
        finally:
            logging.disable(before)


def agrees(found: Any, model: nn.Module, tolerance: float = 1e-5) -> None:
    """A compiled form computes what the model does, on both strands."""
    x = sequences(2)
    with torch.no_grad():
        torch.testing.assert_close(found(x), model(x), rtol=0, atol=tolerance)
    even(found, x, 1e-4)


@row(COMPILERS, "`torch.compile(fullgraph=True)`, traced and run in eager mode", slow=True)
def compiled(strategy: str) -> None:
    model = made(strategy).eval()
    torch.compiler.reset()
    agrees(torch.compile(model, backend="aot_eager", fullgraph=True), model)


@row(COMPILERS, "`torch.compile(fullgraph=True)`, Inductor", slow=True)
def inductor(strategy: str) -> None:
    model = made(strategy).eval()
    torch.compiler.reset()
    agrees(torch.compile(model, fullgraph=True), model)


@row(COMPILERS, "`torch.export`")
def exported(strategy: str) -> None:
    model = made(strategy).eval()
    agrees(torch.export.export(model, (DNA,)).module(), model)


@row(COMPILERS, "`torch.export` of a baked model, saved and loaded")
def baked(strategy: str) -> None:
    model = made(strategy).eval()
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.pt2")
        torch.export.save(torch.export.export(bake(model).eval(), (DNA,)), file)
        agrees(torch.export.load(file).module(), model)


@row(COMPILERS, "AOTInductor", slow=True)
def aot(strategy: str) -> None:
    model = made(strategy).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = str(Path(folder) / "model.pt2")
        torch._inductor.aoti_compile_and_package(torch.export.export(model, (DNA,)), package_path=file)
        agrees(torch._inductor.aoti_load_package(file), model)


@row(COMPILERS, "ONNX Runtime: `torch.onnx.export(dynamo=True)`", "onnx", "onnxscript", "onnxruntime", slow=True)
def onnx(strategy: str) -> None:
    import onnxruntime

    model = made(strategy).eval()
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.onnx")
        quietly(lambda: torch.onnx.export(model, (DNA,), file, dynamo=True, verbose=False))
        session = onnxruntime.InferenceSession(file)
        (name,) = [given.name for given in session.get_inputs()]
        agrees(lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), model)


@row(COMPILERS, "`torch.jit.script`")
def scripted(strategy: str) -> str:
    model = made(strategy).eval()
    return refused(lambda: quietly(lambda: torch.jit.script(model)), "torch.export or torch.compile")


@row(COMPILERS, f"`torch.jit.trace`, at a length that divides (here {LENGTH - 2})")
def traced(strategy: str) -> str | None:
    model = made(strategy).eval()
    x = sequences(2, LENGTH - 2)
    if strategy == "tied":
        return refused(lambda: quietly(lambda: torch.jit.trace(model, x)), "torch.export or torch.compile")
    found = quietly(lambda: torch.jit.trace(model, x))
    even(found, x, 1e-4)
    return None
