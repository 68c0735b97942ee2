"""`accelerate`: the tied layers of a converted model as half products, where they measure faster."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..algebra.arguments import Example, check_choice, check_switch
from ..algebra.nesting import read_call
from ..errors import ConversionError
from ..graph.export import does_not_run
from ..graph.sandbox import call, fresh_copy, mode, undisturbed_rng
from ..graph.transaction import all_or_nothing
from .fast import compiled, fused
from .fast.attached import Choice, accelerate_layer, computed_in, decelerate
from .fast.backends import CPP, STOCK, TORCH, TRITON, usable
from .fast.layers import Candidate, candidates
from .fast.operator import Ways
from .fast.plan import AccelerationPlan, LayerTimes
from .fast.timing import Times, measured
from .fast.whole import whole_times
from .state import is_converted


def accelerate(
    model: nn.Module, example: Example, backend: str = "auto", *, in_place: bool = False, verbose: bool = True
) -> nn.Module:
    """Compute the tied layers of a converted model as half products, where these measure faster.

    A tied layer has half the degrees of freedom, and half of the multiplications suffice. Each ``nn.Conv1d`` of
    stride 1 and each ``nn.Linear`` with a tied weight, and each such layer of a mixed model, is timed at the shape it
    meets: forward pass, gradient of the input, gradient of the weight. Each part runs in the way that was fastest, the
    stock operator included. On a GPU, where launching may cost more than what layers save, the whole model is timed
    too, and stays as it was if it is not faster. The function stays the same but for rounding; parameters, keys and
    class stay too.

    Args:
        model: a converted model.
        example: as in `convert_model`, of the batch size, length and type the model will be called with; called under
            ``torch.autocast``, layers are timed in its type. On tensors of other types the stock operators run. Batches
            of very many positions are timed on some of their samples.
        backend: ``"auto"``: C++ (built at the first use) for convolutions on a CPU, Triton on a GPU, pure torch for
            the rest, each where it is faster than the stock operator; ``"torch"``: pure torch, where it is faster;
            ``"cpp"``, ``"triton"``: as auto, but this for every layer that it can compute, whatever the times are:
            then these are bitwise equivariant.
        in_place: change and return this object instead of a copy.
        verbose: print the plan: layer, shape, ratio to the stock operator's time, backend.

    Returns: the model; `bake` undoes it.

    Raises:
        ConversionError: the model is not converted.
        TypeError, ValueError: an argument is something else.
    """
    check_choice("backend", backend, ("auto", CPP, TRITON, TORCH))
    check_switch("in_place", in_place)
    check_switch("verbose", verbose)
    with torch.inference_mode(False):
        example = read_call(model, example, None)
    if not is_converted(model):
        raise ConversionError(
            f"the {type(model).__name__} is not converted",
            why="half products follow from the ties of a converted model",
            do="convert it first, with convert_model",
        )
    target = model if in_place else fresh_copy(model)
    with torch.inference_mode(False):
        plan = all_or_nothing(target, lambda: _accelerated(target, example, backend))
    if verbose:
        print(plan)
    return target


def _accelerated(model: nn.Module, example: Example, backend: str) -> AccelerationPlan:
    """Measure and attach, in place."""
    decelerate(model)
    found = candidates(model)
    with undisturbed_rng(), torch.no_grad():
        try:
            met = inputs_met(model, found, example)
        except ConversionError:
            raise
        except Exception as reason:
            raise does_not_run(reason) from reason
        rows, known = [], dict[object, Times]()
        for candidate in found:
            if candidate.name in met:
                rows.append(_layer(candidate, met[candidate.name], backend, known))
        dtypes = sorted({str(m.dtype).removeprefix("torch.") for m in met.values()})
        devices = {m.device for m in met.values()}
        plan = AccelerationPlan(", ".join([*(dtypes or ["no type"]), *_machine(devices)]), rows)
        if any(d.type == "cuda" for d in devices) and plan.accelerated:
            _check_whole(model, example, plan, forced=backend == TRITON)
    if backend != TORCH:
        plan.notes += _not_used(devices)
    idle = len(found) - len(rows)
    if idle:
        plan.notes.append(f"{idle} tied layers were not called with a batch of tensors, and stay as they are")
    return plan


def _check_whole(model: nn.Module, example: Example, plan: AccelerationPlan, forced: bool) -> None:
    """Give layers their stock operators back where the whole model is not faster, unless they were asked for."""
    times = whole_times(model, example)
    if times.faster or forced:
        plan.notes.append(times.words())
        return
    decelerate(model)
    for row in plan.accelerated:
        row.backend, row.inference, row.train = STOCK, 1.0, 1.0
    plan.notes.append(f"layers that were faster by themselves run as before, as accelerated {times.words()}")


def _machine(devices: Set[torch.device]) -> list[str]:
    """What computes, in words."""
    gpus = sorted({torch.cuda.get_device_name(d) for d in devices if d.type == "cuda"})
    threads = torch.get_num_threads()
    cpu = [f"{threads} thread{'s' if threads > 1 else ''}", torch.backends.cpu.get_cpu_capability()]
    return gpus or cpu


def _not_used(devices: Set[torch.device]) -> list[str]:
    """Why the fastest code is not used on these devices, where it is not."""
    notes = []
    if any(d.type == "cpu" for d in devices) and compiled.why_not():
        notes.append(f"C++ is not used, as it could not be built: {compiled.why_not()}")
    for reason in sorted({fused.why_not(d) for d in devices if d.type == "cuda"} - {""}):
        notes.append(f"Triton is not used: {reason}")
    return notes


@dataclass(frozen=True)
class Met:
    """What a layer was called with.

    Attributes:
        shape: of its input.
        dtype: in which it computes.
        device: of the input.
        depends: its input depends on parameters, so that it has a gradient.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    depends: bool


def inputs_met(model: nn.Module, found: Sequence[Candidate], example: Example) -> dict[str, Met]:
    """What the layers of a model are called with, by name; of several calls the one with the largest input."""
    met: dict[str, Met] = {}

    def noted(name: str, x: object) -> None:
        if not isinstance(x, Tensor) or not x.numel() or x.dim() < 2:
            return
        if name not in met or x.numel() > torch.Size(met[name].shape).numel():
            met[name] = Met(tuple(x.shape), computed_in(x), x.device, x.requires_grad)

    handles = [
        c.module.register_forward_pre_hook(
            lambda _, args, kwargs, name=c.name: noted(name, args[0] if args else kwargs.get("input")), with_kwargs=True
        )
        for c in found
    ]
    try:
        with mode(model, False), torch.enable_grad():
            call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return {name: m for name, m in met.items() if _is_batch(next(c for c in found if c.name == name), m)}


def _is_batch(candidate: Candidate, met: Met) -> bool:
    return candidate.product.linear or len(met.shape) == 3


def _layer(candidate: Candidate, met: Met, backend: str, known: dict[object, Times]) -> LayerTimes:
    """Measure one layer and attach what is chosen; its row."""
    product, reading = candidate.product, candidate.reading
    w, b = (
        None if t is None else t.detach().to(met.dtype)
        for t in (reading.weight(candidate.module), reading.bias(candidate.module))
    )
    assert w is not None
    ways_here = usable(product, met.dtype, met.device)
    names = [TORCH] if backend == TORCH else ways_here[:1]
    shape = _read_shape(candidate, met)
    key = (product, shape, met, b is None, tuple(names))
    if key not in known:
        known[key] = measured(product, shape, w, b, names, met.depends)
    times = known[key]
    forced = backend in (CPP, TRITON) and backend in ways_here and backend not in times.differs
    train = Ways(backend, backend, backend) if forced else times.ways()
    if not train.stock:
        dtype = None if forced else met.dtype
        accelerate_layer(candidate, Choice(product, reading, train, dtype, met.device.type))
    ratios = times.ratio(train, ("forward",)), times.ratio(train)
    return LayerTimes(candidate.name, met.shape, product.words(), *ratios, train.words())


def _read_shape(candidate: Candidate, met: Met) -> tuple[int, ...]:
    """The shape of what a layer's product reads: for a linear layer, all samples and positions as rows."""
    probe = torch.empty(met.shape, device="meta")
    read = candidate.reading.before(probe)
    return (read.numel() // read.shape[-1], read.shape[-1]) if candidate.product.linear else tuple(read.shape)
