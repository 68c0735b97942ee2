"""The judge: what reverse complement is, written by hand, and every entry of every output compared with it.

Nothing here comes from the package. The laws of inputs and outputs are texts that the grammar states.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .grammar import Case, Slot, blank, sizes

RELATIVE = {torch.float64: 1e-8, torch.float32: 2e-3}
"""Deviation that is always allowed, of the entry itself or of the middle one, whichever is larger."""

JITTER = {torch.float64: 1e-13, torch.float32: 4e-7}
"""Relative change of inputs and parameters under which a model shows what rounding does to it."""

JITTERS = 16
"""Such changes that are tried: an entry that jumps where a number is zero but for rounding takes either side."""

LEAST = {torch.float64: 1e-16, torch.float32: 1e-8}
"""Deviation that is always allowed of outputs that are zero but for rounding."""

MARGIN = 50
"""How many times the effect of such a change is allowed."""

HUGE = 1e4
"""Size from which on an entry may be a constant that stands for infinity."""

INFINITE = 1e300
"""What stands for infinity where an output that is infinite on some sequences is asked whether it depends on them."""

DRAWS = ("random", "padded", "repeats", "homopolymer", "soft", "quarters", "blank")


@dataclasses.dataclass
class Wrong(Exception):  # noqa: N818 - a finding, not an error of the program
    """A check that failed.

    Attributes:
        check: which one; the same for the same kind of failure.
        says: what was measured.
    """

    check: str
    says: str

    def __str__(self) -> str:
        return f"{self.check}: {self.says}"


def under(law: str, t: Tensor) -> Tensor:
    """The mirror image of a tensor."""
    return eval(law, {"torch": torch}, {"t": t})


def draw(slot: Slot, batch: int, length: int, way: str, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """An input of a kind: random DNA, or what real inputs are like."""
    shape = sizes(slot, batch, length)
    if slot.kind == "class":
        return torch.randint(3, shape, generator=generator)
    if slot.kind in ("vector", "tracks"):
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) * 3
    if slot.kind == "mask":
        return (torch.rand(shape, generator=generator) > 0.3).to(dtype)
    if slot.kind == "ids":
        return _bases(batch, length, _letters(slot), way, generator)
    axis = next(i for i, s in enumerate(slot.shape) if s in (4, 5) and i > 0)
    count, extent = shape[axis], next((shape[i] for i, s in enumerate(slot.shape) if s == "L"), shape[-1])
    hot = torch.nn.functional.one_hot(_bases(batch, extent, 4, way, generator), count).to(dtype).mT
    if way == "soft":
        hot = torch.rand(hot.shape, generator=generator, dtype=torch.float64).to(dtype).softmax(1)
    if way == "quarters":  # N as a quarter of each base
        hot[0, :, extent // 4 :] = 1 / count
    if way in ("padded", "blank"):
        hot = _padded(hot, generator) if way == "padded" else torch.zeros_like(hot)
    others = [i for i in range(1, len(shape)) if i != axis]
    long = next(i for i in others if shape[i] == extent)
    spread = hot.reshape([batch, count, extent] + [1] * (len(shape) - 3))
    order = [0] + [1 if i == axis else 2 if i == long else 3 for i in range(1, len(shape))]
    return spread.permute(order).reshape(shape).contiguous()


def _letters(slot: Slot) -> int:
    return slot.law.count(",") + 1


def _bases(batch: int, length: int, letters: int, way: str, generator: torch.Generator) -> Tensor:
    random = torch.randint(letters, (batch, length), generator=generator)
    if way == "homopolymer":
        return random[:, :1].expand(-1, length).clone()
    if way == "repeats":
        return random[:, [i % 3 for i in range(length)]]
    return random


def _padded(hot: Tensor, generator: torch.Generator) -> Tensor:
    """Columns of zeros at the right end, and one in the middle."""
    hot = hot.clone()
    keep = int(torch.randint(hot.shape[-1] // 2 + 1, (1,), generator=generator))
    hot[0, :, hot.shape[-1] - keep :] = 0
    hot[-1, :, hot.shape[-1] // 3] = 0
    return hot


def opened(value: Any) -> Iterator[Tensor]:
    """The tensors of an output, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from opened(part)
    elif dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            yield from opened(getattr(value, f.name))
    elif isinstance(value, Sequence):
        for part in value:
            yield from opened(part)
    else:
        raise Wrong("output", f"a {type(value).__name__} among the outputs")


def numbers(t: Tensor) -> Tensor:
    """Real numbers in float64: complex ones as pairs, truth values as 0 and 1."""
    return torch.view_as_real(t).to(torch.float64) if t.is_complex() else t.to(torch.float64)


def excess(got: Tensor, wanted: Tensor, allowed: Tensor | float, dtype: torch.dtype) -> float:
    """Largest deviation in units of what is allowed; above one is wrong."""
    a, b = numbers(got), numbers(wanted)
    if a.shape != b.shape:
        raise Wrong("shape", f"{tuple(a.shape)} and {tuple(b.shape)}")
    if not a.numel():
        raise Wrong("empty", "an output without entries")
    same = (a == b) | (a.isnan() & b.isnan())
    size = b.abs().nan_to_num(0, 0, 0)
    floor = RELATIVE[dtype] * size.clamp(min=middle(size)) + LEAST[dtype]
    gap = ((a - b).abs().nan_to_num(torch.inf, torch.inf, torch.inf) / (floor + allowed)).masked_fill(same, 0)
    return float(gap.max())


def middle(size: Tensor) -> float:
    """The size of the middle entry, among those that stand for no infinity if that is less."""
    ordinary = size[(size > 0) & (size < HUGE)]
    return float(min(size.median(), ordinary.median()) if ordinary.numel() else size.median())


def jittered(values: Sequence[Tensor], generator: torch.Generator, scale: float) -> list[Tensor]:
    """The tensors, each entry changed by a tiny part of itself."""
    return [
        t * (1 + scale * (2 * torch.rand(t.shape, generator=generator, dtype=torch.float64) - 1)).to(t.dtype)
        if t.is_floating_point()
        else t
        for t in values
    ]


class Rounding(TorchFunctionMode):
    """Changes every new number in its last place: tied channels, which are equal, round apart where terms cancel."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if type(result) is not Tensor or not result.is_floating_point() or result._base is not None:
            return result
        if any(isinstance(x, Tensor) and x.data_ptr() == result.data_ptr() for x in args):
            return result
        unit = 2 * torch.rand(result.shape, generator=self.generator, dtype=torch.float64) - 1
        return result * (1 + torch.finfo(result.dtype).eps * unit).to(result.dtype)


class Judge:
    """Compares a model with its mirror image.

    Args:
        case: what its inputs and outputs are.
        model: the model, in float64 or float32.
        seed: of the inputs.
    """

    def __init__(self, case: Case, model: nn.Module, seed: int = 0) -> None:
        self.case, self.model = case, model
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())

    def inputs(self, batch: int, length: int, way: str = "random") -> list[Tensor]:
        """Inputs of a kind."""
        return [draw(s, batch, length, way, self.generator, self.dtype) for s in self.case.inputs]

    def run(self, inputs: Sequence[Tensor], model: Callable[..., Any] | None = None) -> list[Tensor]:
        """Outputs, with buffers as they were before: running statistics do not move."""
        with torch._C.DisableTorchFunction():  # as they are, also where `Rounding` changes what is made
            kept = [(b, b.clone()) for b in self.model.buffers()]
        try:
            with torch.no_grad():
                return [t.clone() for t in opened((model or self.model)(*inputs))]
        finally:
            for b, old in kept:
                b.data.copy_(old)

    def mirrored(self, slots: Sequence[Slot], values: Sequence[Tensor], chosen: Tensor | None) -> list[Tensor]:
        """The mirror images of the chosen samples; the others stay."""
        out = []
        for slot, t in zip(slots, values, strict=True):
            image = under(slot.law, t)
            if chosen is not None and slot.batch:
                keep = chosen.view(-1, *[1] * (t.dim() - 1))
                if slot.shape == () and t.shape[0] != len(chosen):
                    raise Wrong("batch", f"an output has {t.shape[0]} samples of {len(chosen)}")
                image = torch.where(keep, image, t)
            out.append(image)
        return out

    def law(self, check: str, batch: int, length: int, way: str, chosen: Sequence[int] | None = None) -> None:
        """The outputs of mirrored samples are the mirrored outputs.

        Raises:
            Wrong: an entry deviates by more than rounding explains.
        """
        x = self.inputs(batch, length, way)
        mask = None if chosen is None else torch.tensor([i in chosen for i in range(batch)])
        rc = self.mirrored(self.case.inputs, x, mask)
        ours, theirs = self.run(x), self.run(rc)
        if len(ours) != len(self.case.outputs):
            raise Wrong("output", f"{len(ours)} outputs, not {len(self.case.outputs)}")
        images = self.mirrored(self.case.outputs, ours, mask)
        for i, (slot, got, wanted) in enumerate(zip(self.case.outputs, theirs, images, strict=True)):
            if excess(got, wanted, 0.0, self.dtype) <= 1:
                continue
            noise = self.noise(x, rc, mask, i)
            if (size := excess(got, wanted, MARGIN * noise, self.dtype)) > 1:
                gap = (numbers(got) - numbers(wanted)).abs().nan_to_num().max()
                says = f"output {slot.name} ({slot.kind}) differs by {gap:.2g} of {numbers(wanted).abs().max():.2g}"
                raise Wrong(
                    check, f"{says}, {size:.1g} times what is allowed; {way} input, batch {batch}, length {length}"
                )

    def noise(self, x: Sequence[Tensor], rc: Sequence[Tensor], mask: Tensor | None, i: int) -> Tensor:
        """What rounding can do to each entry of an output."""
        pairs = [self.same_way(x, False, mask, i), self.same_way(rc, True, mask, i)]
        return torch.stack([p for p in pairs]).amax(0)

    def same_way(self, x: Sequence[Tensor], image: bool, mask: Tensor | None, i: int) -> Tensor:
        """Largest change of each entry under tiny changes of inputs and parameters, mapped as the outputs are."""
        base = self.run(x)[i]
        worst = torch.zeros_like(numbers(base))
        held = [(p, p.detach().clone()) for p in self.model.parameters()]
        for _ in range(JITTERS):
            new = jittered([p for _, p in held], self.generator, JITTER[self.dtype])
            try:
                with torch.no_grad():
                    for (p, _), value in zip(held, new, strict=True):
                        p.copy_(value)
                moved = self.run(jittered(x, self.generator, JITTER[self.dtype]))[i]
            finally:
                with torch.no_grad():
                    for p, old in held:
                        p.copy_(old)
            worst = torch.maximum(worst, (numbers(moved) - numbers(base)).abs().nan_to_num(0, 0, 0))
        for _ in range(4):
            with Rounding(self.generator):
                moved = self.run(x)[i]
            worst = torch.maximum(worst, (numbers(moved) - numbers(base)).abs().nan_to_num(0, 0, 0))
        if image:
            return worst
        slot = self.case.outputs[i]
        if slot.law == "-t":
            return worst
        return numbers(self.mirrored([slot], [worst], mask)[0]) if not base.is_complex() else worst

    def last_places(self) -> float:
        """Rounding of numbers as large as parameters: what equal ones, computed in two ways, may differ by."""
        largest = max((float(p.detach().abs().max()) for p in self.model.parameters() if p.numel()), default=1.0)
        return 8 * torch.finfo(self.dtype).eps * largest

    def same(self, check: str, x: Sequence[Tensor], other: Callable[..., Any]) -> None:
        """Another callable computes the same outputs.

        Raises:
            Wrong: it does not.
        """
        ours, theirs = self.run(x), self.run(x, other)
        for i, (slot, a, b) in enumerate(zip(self.case.outputs, ours, theirs, strict=True)):
            if (
                excess(b, a, 0.0, self.dtype) > 1
                and excess(b, a, self.last_places() + MARGIN * self.same_way(x, True, None, i), self.dtype) > 1
            ):
                gap = (numbers(a) - numbers(b)).abs().nan_to_num().max()
                raise Wrong(check, f"output {slot.name} differs by {gap:.2g} of {numbers(a).abs().max():.2g}")

    def depends(self, length: int) -> list[bool]:
        """Whether each output changes with the sequence."""
        found = [False] * len(self.case.outputs)
        least = 1e-7 if self.dtype == torch.float64 else 1e-4
        for way in ("random", "soft"):
            x = self.inputs(3, length, way)
            others = self.inputs(3, length, way)
            y = [o if s.kind in ("onehot", "ids") else a for s, a, o in zip(self.case.inputs, x, others, strict=True)]
            for i, (a, b) in enumerate(zip(self.run(x), self.run(y), strict=True)):
                if a.shape == b.shape:
                    a, b = (numbers(t).nan_to_num(0, INFINITE, -INFINITE) for t in (a, b))
                    found[i] |= bool(((a - b).abs() > least * a.abs().clamp(min=1e-12)).any())
        return found


def zeros(case: Case, batch: int = 2) -> list[Tensor]:
    """The example of a case."""
    return [blank(s, batch, case.length) for s in case.inputs]
