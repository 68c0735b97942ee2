"""Lengths that a converted model refuses: for each argument by name, after baking too, and with the reason."""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from tiers import some
from torch import Tensor, nn

from rcps_convert import bake, convert_model, plan_conversion
from rcps_convert.algebra.axis import Step
from rcps_convert.errors import BreaksSymmetryError, ConversionError


def bases(length: int, n: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(length + 1000 * seed)
    return F.one_hot(torch.randint(4, (n, length), generator=generator), 4).transpose(1, 2).double()


def error(model: nn.Module, *inputs: Tensor) -> float:
    """How far an invariant model is from the law, relative to its outputs."""
    with torch.no_grad():
        y, r = model(*inputs), model(*(x.flip(1, 2) for x in inputs))
    return float((y - r).abs().max() / y.abs().max())


def outcome(model: nn.Module, x: Tensor) -> str:
    try:
        return "exact" if error(model, x) < 1e-10 else "wrong"
    except ConversionError as refused:
        return str(refused)


def converted(model: nn.Module, example: object, **settings: object) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_model(model.double(), example, **settings).eval()  # type: ignore[arg-type]


class Table(nn.Module):
    """Learned positions, as many as the example has."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, 8, 3, padding=1), nn.Linear(8, 1)
        self.at = nn.Embedding(size, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).mT
        return self.out((h + self.at(torch.arange(h.shape[1]))).tanh().mean(1))


class Pair(nn.Module):
    """Two sequences; each has a table of its own."""

    def __init__(self, a: int = 64, b: int = 48) -> None:
        super().__init__()
        self.first, self.second = Table(a), Table(b)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.first(a) + self.second(b)


def test_bake_keeps_the_guard() -> None:
    tied = converted(Table(), bases(64))
    for model in (tied, bake(tied), copy.deepcopy(bake(tied)), bake(bake(tied))):
        assert error(model, bases(64)) < 1e-10
        with pytest.raises(BreaksSymmetryError, match="an input of 60 positions, in a model converted at 64"):
            model(bases(60))
    plain = Table().double()
    plain.load_state_dict(bake(tied).state_dict())
    assert plain(bases(60)).shape == (2, 1)


def test_the_length_that_the_caller_gives_counts() -> None:
    def without_ends(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0][..., 4:-4],)

    model = Table(64)
    model.register_forward_pre_hook(without_ends)
    tied = converted(model, bases(72))
    for one in (tied, bake(tied)):
        assert error(one, bases(72)) < 1e-10
        with pytest.raises(BreaksSymmetryError, match="an input of 68 positions, in a model converted at 72"):
            one(bases(68))


def test_forward_itself_is_guarded_and_no_hook_stays() -> None:
    tied = converted(Table(), bases(64))
    for model in (tied, bake(tied), copy.deepcopy(tied)):
        assert torch.equal(model.forward(bases(64)), model(bases(64)))
        assert not model._forward_pre_hooks
        with pytest.raises(BreaksSymmetryError, match="an input of 60 positions"):
            model.forward(bases(60))
    free = bake(converted(nn.Sequential(nn.Conv1d(4, 6, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()), bases(20)))
    assert not any({"forward", "_replicate_for_data_parallel"} & vars(m).keys() for m in free.modules())


def test_a_baked_model_is_converted_again_for_another_length() -> None:
    baked = bake(converted(Table(), bases(64)))
    again = converted(baked, bases(60))
    assert error(again, bases(60)) < 1e-10
    with pytest.raises(BreaksSymmetryError, match="converted at 60"):
        again(bases(64))


def test_each_input_has_its_own_length() -> None:
    tied = converted(Pair(), (bases(64), bases(48)), inputs=("ACGT", "ACGT"))
    assert error(tied, bases(64), bases(48)) < 1e-10
    for a, b, name in ((60, 48, "a"), (64, 40, "b"), (48, 48, "a")):
        with pytest.raises(BreaksSymmetryError, match=f"argument {name}"):
            tied(bases(a), bases(b))


def test_only_the_input_that_needs_it_is_guarded() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.conv, self.out = Table(), nn.Conv1d(4, 8, 3), nn.Linear(8, 1)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.first(a) + self.out(self.conv(b).tanh().mean(-1))

    tied = converted(Half(), (bases(64), bases(48)), inputs=("ACGT", "ACGT"))
    with pytest.raises(BreaksSymmetryError, match="an input of 60 positions"):
        tied(bases(60), bases(48))
    with contextlib.suppress(BreaksSymmetryError):  # refusing more than is needed is no error
        assert error(tied, bases(64), bases(40)) < 1e-10


@pytest.mark.parametrize("equal", some([False, True], 1))
def test_arguments_go_by_name_in_any_order(equal: bool) -> None:
    size = 64 if equal else 48
    tied = converted(Pair(64, size), {"a": bases(64), "b": bases(size)}, inputs={"a": "ACGT", "b": "ACGT"})
    a, b = bases(64), bases(size, seed=1)
    assert torch.equal(tied(a=a, b=b), tied(b=b, a=a))
    assert torch.equal(tied(a, b=b), tied(a, b))
    for call in ({"a": a, "b": bases(30)}, {"b": bases(30), "a": a}):
        with pytest.raises(BreaksSymmetryError, match="argument b"):
            tied(**call)
    with pytest.raises(BreaksSymmetryError, match="argument b"):
        tied(a, bases(30))


def test_inputs_of_a_list_are_told_apart() -> None:
    class Listed(Pair):
        def forward(self, both: list[Tensor]) -> Tensor:  # type: ignore[override]
            return self.first(both[0]) + self.second(both[1])

    tied = converted(Listed(), ([bases(64), bases(48)],), inputs=(["ACGT", "ACGT"],))
    assert tied([bases(64), bases(48)]).shape == (2, 1)
    with pytest.raises(BreaksSymmetryError, match="an input of 40 positions, in a model converted at 48"):
        tied([bases(64), bases(40)])


def test_the_reason_is_the_guards_own() -> None:
    class Remainder(nn.Module):
        """A pool that cannot be re-anchored, as a checkpointed function calls it."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 6, 5), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.utils.checkpoint.checkpoint(lambda h: F.max_pool1d(h, 4), self.conv(x), use_reentrant=False)
            return self.out(h.tanh().mean(-1))

    with pytest.raises(BreaksSymmetryError, match="leaves a remainder") as left:
        converted(Remainder(), bases(64))(bases(62))
    assert "nearest lengths that work are 60 and 64" in str(left.value)
    with pytest.raises(BreaksSymmetryError, match="the law fails by") as fixed:
        converted(Table(), bases(64))(bases(60))
    assert "remainder" not in str(fixed.value)
    assert "pad or crop the input to 64 positions" in str(fixed.value)
    assert "bake" not in str(fixed.value) + str(left.value)


# --- ceil_mode -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [nn.MaxPool1d, nn.AvgPool1d])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad"), [(3, 2, 0), (2, 3, 0), (4, 4, 1), (3, 3, 1), (5, 4, 2), (2, 2, 1)]
)
def test_the_arithmetic_of_ceil_mode_is_torchs(pool: type, kernel: int, stride: int, pad: int) -> None:
    step = Step(1, 2 * pad - kernel + stride, stride, ceil=pad)
    for length in range(6, 40):
        made = pool(kernel, stride, pad, ceil_mode=True)(torch.zeros(1, 1, length)).shape[-1]
        assert step.out(length) == made, length


def test_lengths_behind_a_pool_with_ceil_mode_are_right() -> None:
    class Ceil(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 6, 3, padding=1), nn.Linear(6, 1)
            self.first, self.second = nn.MaxPool1d(3, ceil_mode=True), nn.AvgPool1d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.second(self.first(self.conv(x))).tanh().mean(-1))

    plan = plan_conversion(Ceil().double(), bases(61))
    tied = plan.apply(Ceil().double()).eval()
    assert all(error(tied, bases(n)) < 1e-10 for n in range(40, 70))
    assert plan.valid_lengths(30, 70) == [36, 48, 60]


# --- modules that run on both strands -------------------------------------------------------------------


class LastState(nn.Module):
    """The state after the last position, which no rule covers, and a table as long as the example."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.rnn, self.at = nn.GRU(8, 8, batch_first=True), nn.Parameter(torch.randn(size, 8))

    def forward(self, h: Tensor) -> Tensor:
        return self.rnn(h.mT + self.at)[0][:, -1]


class Reads(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.conv, self.part, self.out = nn.Conv1d(4, 8, 3, padding=1), part, nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.part(self.conv(x)))


def test_a_module_of_one_length_on_both_strands_is_refused_by_name() -> None:
    tied = converted(Reads(LastState(64)), bases(64), on_unsupported="both_strands")
    assert error(tied, bases(64)) < 1e-10
    with pytest.raises(ConversionError, match="an input of 60 positions, in a model converted at 64"):
        tied(bases(60))


def test_no_internal_error_reaches_a_caller() -> None:
    class Mixes(nn.Module):
        """Positions and channels on one axis, cumulated: known at one length only."""

        def forward(self, h: Tensor) -> Tensor:
            return h.flatten(1).cumsum(1).tanh().unflatten(1, (8, -1)).mean(-1)

    tied = converted(Reads(Mixes()), bases(64), on_unsupported="both_strands", verify=False)
    for length in (40, 63, 64, 65, 80):
        found = outcome(tied, bases(length))
        assert "its action" not in found
        assert found == "exact" or "of shape" in found or "called at other lengths" in found
    conjoined = converted(Reads(Mixes()), bases(64), strategy="conjoined")
    with pytest.raises((ConversionError, RuntimeError)) as met:
        conjoined(torch.zeros(2, 5, 64).double())
    assert "its action" not in str(met.value)
    assert "5 entries on axis 1 instead of 4" in str(met.value)


# --- while another thread exports a model ---


class Waiting(nn.Module):
    """Stays in its forward until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.leave = threading.Event(), threading.Event()

    def forward(self, x: Tensor) -> Tensor:
        self.inside.set()
        self.leave.wait(60)
        return x + 1


class Branched(nn.Module):
    """Another convolution, once it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other, self.out = nn.Conv1d(4, 8, 3), nn.Conv1d(4, 8, 3), nn.Linear(8, 1)
        self.told = False

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.other if self.told else self.conv)(x).mean(-1))


@contextlib.contextmanager
def another_thread_exports() -> Iterator[None]:
    model = Waiting()
    thread = threading.Thread(target=lambda: torch.export.export(model, (torch.zeros(2),), strict=False))
    thread.start()
    try:
        assert model.inside.wait(60)
        assert torch.compiler.is_compiling(), "the flag is one for all threads"
        yield
    finally:
        model.leave.set()
        thread.join(60)


def test_guards_hold_while_another_thread_exports() -> None:
    table, branched, headed = converted(Table(), bases(64)), converted(Branched(), bases(64)), Branched().double()
    headed = converted(headed, bases(64))
    headed.out, branched.told = nn.Linear(8, 1).double(), True
    before = table(bases(64)).detach()
    with another_thread_exports():
        with pytest.raises(ConversionError, match="length"):
            table(bases(40))
        with pytest.raises(ConversionError, match="other"):
            branched(bases(64))
        with pytest.raises(ConversionError, match="out"):
            headed(bases(64))
        with torch.no_grad():
            nn.init.constant_(table.conv.weight, 0.25)
        assert torch.equal(table.conv.weight, torch.full_like(table.conv.weight, 0.25))
    assert not torch.equal(table(bases(64)), before)
