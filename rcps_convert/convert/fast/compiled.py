"""Half products in C++: built once, kept in torch's directory of extensions, and called through plain pointers."""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ...errors import first_line
from ...graph.sandbox import quiet
from .channels import ChannelPairs
from .product import Product

SOURCE = Path(__file__).with_name("half_products.cpp")
HEADER = Path(__file__).with_name("half_rows.h")

DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}
"""What the functions are compiled for, and how their names end."""

INSTRUCTIONS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}
"""What the compiler may use, by what torch says of the processor; elsewhere what it uses anyway."""

FLAGS = ("-O3", "-std=c++17", "-fno-math-errno", "-ffp-contract=fast")

THREADS = ("-fopenmp",)
"""Left out where the compiler does not know it: then one thread computes."""


class NotBuiltError(Exception):
    """The library cannot be built here."""


@cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and the reason."""
    try:
        return ctypes.CDLL(str(_built())), ""
    except (NotBuiltError, OSError) as reason:
        return None, str(reason)


def library() -> ctypes.CDLL | None:
    """The compiled functions; None where they cannot be built. The first call in a process may build them."""
    return _loaded()[0]


def why_not() -> str:
    """Why there are no compiled functions, in a few words; empty where there are."""
    return _loaded()[1]


def _built() -> Path:
    """The library's file, compiled if it is not there yet.

    Raises:
        NotBuiltError: no compiler, or it failed.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    flags = [*FLAGS, *INSTRUCTIONS.get(capability, ())]
    text = SOURCE.read_bytes() + HEADER.read_bytes() + " ".join([*flags, *THREADS]).encode()
    name = f"rcps_half_products_{hashlib.sha256(text).hexdigest()[:12]}"
    target = _directory() / name / f"{name}_{capability.lower().replace(' ', '_')}.so"
    if not target.is_file():
        _build(name, flags, target)
    return target


def _directory() -> Path:
    """Where torch keeps the extensions it builds."""
    from torch.utils.cpp_extension import get_default_build_root  # it looks for CUDA: only when needed

    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


def _build(name: str, flags: Sequence[str], target: Path) -> None:
    """Compile in a folder of its own, then move the result in place: no process sees a part of a file.

    Raises:
        NotBuiltError: no compiler, or it failed.
    """
    if sys.platform == "win32":
        raise NotBuiltError("the C++ code needs GCC or Clang")
    reasons = []
    for extra in (THREADS, ()):
        folder: str | None = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder = tempfile.mkdtemp(dir=target.parent)
            os.replace(_compile(name, [*flags, *extra], extra, folder), target)
            return
        except Exception as reason:  # torch raises errors of many classes when a build fails
            reasons.append(first_line(reason)[:70])
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
    raise NotBuiltError(reasons[0])


def _compile(name: str, flags: Sequence[str], linking: Sequence[str], folder: str) -> Path:
    """Compile with ``torch.utils.cpp_extension``; the file."""
    from torch.utils.cpp_extension import load

    with quiet(), redirect_stdout(io.StringIO()):
        load(
            name,
            [str(SOURCE)],
            extra_cflags=list(flags),
            extra_ldflags=list(linking),
            build_directory=folder,
            is_python_module=False,
        )
    return next(Path(folder).glob("*.so"))


# --- calling it ---------------------------------------------------------------------------------


@cache
def _table(ch: ChannelPairs) -> ctypes.Array:
    """The channels as the functions read them."""
    return (ctypes.c_int64 * ch.size)(*ch.order)


def _sizes(p: Product, x: Tensor, made: int, transposed: bool) -> ctypes.Array:
    """What the functions are told of a call, in their order."""
    numbers = (
        p.reads.pairs, len(p.reads.fixed), p.makes.pairs, len(p.makes.fixed), x.shape[0], x.shape[2], made,
        p.kernel, p.dilation, p.pad, torch.get_num_threads(), transposed,
    )  # fmt: skip
    return (ctypes.c_int64 * len(numbers))(*map(int, numbers))


def _call(name: str, p: Product, sizes: ctypes.Array, *tensors: Tensor | None) -> None:
    """Run a compiled function.

    Raises:
        RuntimeError: out of memory.
    """
    dtype = next(t.dtype for t in tensors if t is not None)
    function = getattr(library(), f"{name}_{DTYPES[dtype]}")
    pointers = [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in tensors]
    if function(sizes, _table(p.reads), _table(p.makes), *pointers):
        raise RuntimeError("out of memory in a half product")


def convolve(x: Tensor, w: Tensor, bias: Tensor | None, p: Product, *, transposed: bool = False) -> Tensor:
    """A tied convolution.

    Args:
        x: (N, C, L), on the CPU.
        w: the whole weight, (out, in, K); as it is stored, (in, out, K), where it is to be transposed.
        bias: (out,), or None.
        p: the product.
        transposed: compute with the transposed weight.
    """
    x, w = x.contiguous(), w.contiguous()
    y = x.new_empty(x.shape[0], p.makes.size, p.made(x.shape[2]))
    bias = None if bias is None else bias.contiguous()
    _call("half_forward", p, _sizes(p, x, y.shape[2], transposed), x, w, bias, y)
    return y


def convolve_back(x: Tensor, g: Tensor, w: Tensor, p: Product) -> Tensor:
    """The gradient of what a tied convolution reads."""
    return convolve(g, w, None, p.transposed(), transposed=True)


def weight_gradient(x: Tensor, g: Tensor, w: Tensor, p: Product) -> Tensor:
    """The gradient of the weight of a tied convolution."""
    x, g, found = x.contiguous(), g.contiguous(), torch.zeros_like(w, memory_format=torch.contiguous_format)
    _call("half_gradient", p, _sizes(p, x, g.shape[2], False), x, g, found)
    return found
