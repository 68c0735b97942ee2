"""From a model to a list of operators: ``torch.export``, flattened, with module paths and lines.

The graph is used for analysis only; the converted model runs the user's own ``forward``.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .._torch import exporting, is_mapped, transform_level, unvalidated_distributions
from ..algebra.arguments import Example, separate_arguments
from ..algebra.opened import opened
from ..errors import NoRuleError, TraceError, Where, first_line
from ..geometry import Recorder, unanchor
from .assigned import AssignedBuffers
from .closed_modules import ModuleCall, closed, recording, watching
from .data_access import DataAccess
from .precision import WIDER
from .program import TORCH_FOLDER, read_program, source_line, without_value
from .sandbox import call, fresh_copy, mode, quiet, undisturbed_rng
from .trace import Trace
from .users_state import caches_kept_clean, without_watchers


def trace(model: nn.Module, example: Example, *, training: bool = False, cuts: Collection[str] = ()) -> Trace:
    """Trace a copy of a model.

    Args:
        model: any module ``torch.export`` understands.
        example: what the model is called with.
        training: trace the train-mode forward.
        cuts: paths of modules that are not looked into; each call of one is a single node, `CLOSED`.

    Raises:
        TraceError: the model cannot be run or exported; repeats torch's reason and names the innermost
            module that raised it.
    """
    twin = fresh_copy(model)
    unanchor(twin)
    args, kwargs = separate_arguments(example)
    with undisturbed_rng(), mode(twin, training), quiet(), caches_kept_clean(twin):
        try:
            without_watchers(twin, example)
            calls = _record(model, example, training, cuts) if cuts else {}
            twin.register_forward_hook(_open_outputs)
            AssignedBuffers(twin)
            recorder = Recorder()
            with exporting(), closed(twin, calls), during(twin, DataAccess(twin), recorder):
                program = torch.export.export(twin, args, kwargs, strict=False)
        except NoRuleError:
            raise
        except Exception as reason:  # torch.export raises anything, the model's own errors included
            raise _trace_error(model, example, training, cuts, reason) from reason
    return replace(read_program(program, twin, example, calls, recorder), training=training)


@contextmanager
def during(model: nn.Module, *modes: Any) -> Iterator[None]:
    """Enter modes whenever a model's forward is run, hooks included, and not in what torch does around it."""
    stacks: list[ExitStack] = []

    def enter(*given: Any) -> None:
        stacks.append(ExitStack())
        for one in modes:
            stacks[-1].enter_context(one)

    def leave(*given: Any) -> None:
        if stacks:
            stacks.pop().close()

    handles = [
        model.register_forward_pre_hook(enter, prepend=True),
        model.register_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _open_outputs(module: nn.Module, args: Any, output: Any) -> Any:
    """Outputs as torch.export opens them."""
    return opened(output, loosely=True)


def _record(
    model: nn.Module, example: Example, training: bool, cuts: Collection[str]
) -> dict[tuple[str, int], ModuleCall]:
    """The calls of some modules, from a real run of a copy."""
    twin = fresh_copy(model)
    with mode(twin, training), torch.no_grad(), recording(twin, cuts) as calls:
        call(twin, example)
    return calls


def _failing_module(model: nn.Module, example: Example, training: bool, cuts: Collection[str]) -> str:
    """The innermost module that ``torch.export`` fails in; ``""`` when it is the model's own forward."""
    twin = fresh_copy(model)
    args, kwargs = separate_arguments(example)
    with mode(twin, training), caches_kept_clean(twin), unvalidated_distributions(), watching(twin) as raised:
        try:
            without_watchers(twin, example)
            twin.register_forward_hook(_open_outputs)
            with closed(twin, _record(model, example, training, cuts) if cuts else {}):
                torch.export.export(twin, args, kwargs, strict=False)
        except Exception:  # the same as before; only its place is wanted
            return raised[0] if raised else ""
    return ""


def _trace_error(
    model: nn.Module, example: Example, training: bool, cuts: Collection[str], reason: Exception
) -> TraceError:
    lines = [line.strip() for line in str(reason).strip().splitlines() if line.strip()]
    first = f"{type(reason).__name__}: {lines[0] if lines else 'no message'}"
    calls = _CalledNames()
    try:
        with torch.no_grad(), calls:
            call(fresh_copy(model), example)
    except Exception as own:
        return does_not_run(own)
    path = _failing_module(model, example, training, cuts)
    source = source_line(str(reason)) or _forward_line(reason)
    where = Where(path, source) if source or path else None
    if "_pack_padded_sequence" in calls.names:
        return TraceError(
            "a packed sequence cannot be traced",
            where=where,
            why=f"its layout depends on the values of the lengths ({first})",
            do="run the recurrent layer on the padded batch and pool over the positions that count; where all "
            "sequences have one length, leave the packing out, or keep it in a submodule of its own and pass "
            'on_unsupported="both_strands", or use strategy="conjoined"',
        )
    unknown = re.search(r"Found <class '([^']+)'> in output, which is not a known type", str(reason))
    if unknown:
        return TraceError(
            f"the model returns an object of class {unknown[1].rpartition('.')[2]}, which torch.export does not open",
            where=where,
            why="what it holds is not seen, so how its tensors transform cannot be inferred",
            do="return tensors, tuples, lists, dicts, named tuples or dataclasses",
        )
    if calls.transformed and (not lines or "fake" in str(reason).lower()):  # torch 2.9 says nothing
        return _of_a_map(where) if calls.mapped and lines else without_value(where)
    known = next((words for pattern, *words in TRANSLATED if re.search(pattern, str(reason))), None)
    why, do = known or (first, f"{VALUES_DO}")
    return TraceError(
        "torch.export cannot trace the model",
        where=where,
        why=why,
        do=f"{do}, "
        + (
            f'declare how {path} acts with rc_leaf, or pass on_unsupported="both_strands"'
            if path
            else "or move them into a submodule, which rc_leaf can declare"
        ),
    )


def _of_a_map(where: Where | None) -> TraceError:
    return TraceError(
        "torch.export cannot trace this torch.vmap",
        where=where,
        why="some functions, such as convolutions over a stack of weights, make tensors inside of it that a trace "
        "does not keep",
        do="stack the weights instead (one convolution whose filters are those of all, or groups=), or write a "
        "loop over them",
    )


VALUES_DO = "replace branches and loops that depend on tensor values (torch.where, fixed lengths)"

TRANSLATED = (
    (
        "data-dependent|unbacked|u0",
        "forward asks for the value of a tensor, as a branch, a loop, int(...), .item() or an assert does, and a trace "
        "has none (data-dependent)",
        VALUES_DO,
    ),
    (
        r"\.numpy\(\) is not supported|numpy",
        "forward leaves torch for numpy, where no trace can follow",
        "write these steps with functions of torch",
    ),
    (
        "fake tensor in the exported program|FakeTensor|fake",
        "forward hands a tensor to something that a trace cannot look into: an extension, a function of its own, or "
        "what is kept from an earlier call",
        "write these steps with functions of torch, register an operator of your own (torch.library.custom_op)",
    ),
)
"""Texts of ``torch.export``, why it says so in terms of what forward does, and what to do."""


def does_not_run(reason: Exception, given: str = "example") -> TraceError:
    """The refusal of a model whose own forward raises on what it is given; by default on the example."""
    frames = [f'File "{f.filename}", line {f.lineno}' for f in traceback.extract_tb(reason.__traceback__)]
    source = source_line("\n".join(frames))
    return TraceError(
        f"the model does not run on {'the example' if given == 'example' else 'what it is given'}",
        where=Where("", source) if source else None,
        why=first_line(reason),
        do=f"pass as `{given}` exactly what model(...) takes, on the model's device: a tensor, a tuple, or a dict of "
        "keyword arguments",
    )


class _CalledNames(TorchFunctionMode):
    """Collects the names of torch functions that are called, and whether a transform ran, such as ``torch.vmap``."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.transformed = self.mapped = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(getattr(func, "__name__", ""))
        self.transformed |= transform_level() is not None
        self.mapped |= is_mapped()
        return func(*args, **(kwargs or {}))


def _forward_line(reason: Exception) -> str | None:
    """Where in the user's code an exception arose while torch was running it."""
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(reason.__traceback__)]
    inside = next((i for i, (name, _) in enumerate(frames) if name.startswith(TORCH_FOLDER)), len(frames))
    return source_line("\n".join(f'File "{name}", line {line}' for name, line in frames[inside:]))


# --- reading an exported program ---------------------------------------------------------------


# --- running parts of a graph ------------------------------------------------------------------

WIDER[torch.complex64] = torch.complex128


# --- in-place writes ---------------------------------------------------------------------------
