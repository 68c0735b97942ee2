"""Kinds of step that go by numbers: places that are read or written, bins, complex numbers, grids."""

from __future__ import annotations

from .grammar import STEPS, Scene, kind


@kind(STEPS, 14)
def places(s: Scene) -> str:
    """Values taken from places, put to places, and sorted into bins."""
    x, c = s.x, s.c
    s.maybe()  # where numbers tie, places do not
    edges = "torch.tensor([-.5, 0., .5])"
    return s.let(
        s.dice.pick(
            f"{x}.gather(1, {x}.argmax(1, keepdim=True))",
            f"torch.zeros_like({x}).scatter_add(1, {x}.argmax(1, keepdim=True), {x}.amax(1, keepdim=True))",
            f"torch.zeros_like({x}).scatter(1, {x}.argmax(1, keepdim=True), 1.)",
            f"{x}.scatter(1, {x}.argmax(1, keepdim=True), 0.)",
            f"torch.zeros_like({x}).scatter_reduce(1, {x}.argsort(1), {x}, 'amax')",
            f"torch.bucketize({x}, {edges}).to({x}.dtype)",
            f"torch.searchsorted({edges}, {x}).to({x}.dtype)",
            f"torch.take_along_dim({x}, {x}.argmin(1, keepdim=True), 1)",
            f"{x}.gather(1, torch.arange({c}).flip(0).view(1, -1, 1).expand_as({x}))",
            f"{x}.gather(-1, torch.arange({x}.shape[-1]).flip(0).expand_as({x}))",
        )
    )


@kind(STEPS, 10)
def complex_numbers(s: Scene) -> str:
    """Real and imaginary parts put together and taken apart."""
    x = s.x
    s.maybe()
    h = s.let(
        s.dice.pick(
            f"torch.complex({x}, {x}.tanh())",
            f"torch.view_as_complex(torch.stack([{x}, {x} ** 2], -1))",
            f"torch.polar({x}.abs(), {x})",
            f"torch.complex({x}, torch.zeros_like({x})).exp()",
        )
    )
    return s.let(
        s.dice.pick(
            f"{h}.abs()",
            f"{h}.real + {h}.imag",
            f"torch.view_as_real({h}).sum(-1)",
            f"({h} * {h}.conj()).real",
            f"{h}.angle()",
            f"torch.view_as_real({h}).permute(0, 3, 1, 2).flatten(1, 2)",
        )
    )


@kind(STEPS, 8)
def grids(s: Scene) -> str:
    """Positions read by their coordinates, which are symmetric, shifted, or computed from a channel."""
    x, n = s.x, s.n
    s.maybe()
    s.written = True  # coordinates that are not symmetric make no profile
    line = s.dice.pick(
        f"torch.linspace(-1, 1, {n})",
        f"torch.linspace(-1, 1, {2 * n})",
        f"torch.linspace(-.9, .9, {n})",
        f"torch.linspace(-1, 1, {n}) ** 3",
        f"torch.linspace(-.5, 1, {n})",
    )
    grid = s.let(f"torch.stack([{line}, torch.zeros_like({line})], -1).expand({x}.shape[0], 1, -1, -1)")
    moved = s.dice.pick(grid, grid, f"{grid} * {x}.mean((1, 2)).sigmoid().view(-1, 1, 1, 1)")
    align, mode = s.dice.pick("True", "False"), s.dice.pick("bilinear", "bilinear", "nearest", "bicubic")
    return s.let(
        f"F.grid_sample({x}.unsqueeze(2), ({moved}).to({x}.dtype), mode={mode!r}, align_corners={align}).squeeze(2)"
    )
