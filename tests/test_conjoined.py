"""`strategy="conjoined"`: the untouched model, read on both strands."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import BassetLike, Family, Siamese, StrandBias
from models.basic import FAMILIES
from oracle import assert_law
from planned import converted_of, made, plan_of
from tiers import chosen, some
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rcps_convert import (
    BreaksSymmetryError,
    ConversionError,
    NeedsChoiceError,
    NoRuleError,
    TraceError,
    Tracks,
    VerificationError,
    bake,
    convert_model,
    load_plain_state_dict,
    plan_conversion,
    unwrap,
)
from rcps_convert.convert.state import is_converted
from rcps_convert.measure import ways

TOLERANCE = 1e-10
DNA = torch.zeros(2, 4, 30)

SMALL = ("BassetLike", "ConvThenPool", "StrandBias")
each_family = pytest.mark.parametrize(
    "family", chosen(FAMILIES, lambda f: f.name in SMALL), ids=[f.name for f in FAMILIES]
)


def sequence(n: int = 3, length: int = 30) -> Tensor:
    return F.one_hot(torch.randint(4, (n, length)), 4).mT.double()


class Head(nn.Module):
    """A convolution and what a test does with its result. (N, 4, L) -> anything."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, channels, 5, padding=2)


# --- the law ------------------------------------------------------------------------------------


@each_family
def test_every_family_converts_and_keeps_class_and_keys(family: Family) -> None:
    model = made(family)
    plan = plan_of(family, "conjoined")
    assert plan.verification is not None
    assert plan.verification.modes == "train and eval mode"
    assert plan.verification.error < TOLERANCE
    converted = plan.apply(model)
    assert type(converted) is type(model)
    assert list(converted.state_dict()) == list(model.state_dict())
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in converted.state_dict().items())
    assert not is_converted(model)
    assert is_converted(converted)
    assert_law(converted, family.example, **family.how, tolerance=TOLERANCE)


@pytest.mark.parametrize("training", some([False, True], 1))
@pytest.mark.parametrize("merge", some(["mean", "sum", lambda a, b: torch.logaddexp(a, b), "max"], 2))
def test_the_result_is_the_merge_of_two_readings(merge: Any, training: bool) -> None:
    model = nn.Sequential(nn.Conv1d(4, 8, 5), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 3, 11), nn.Softmax(1))
    model = model.double().train(training)
    converted = convert_model(model, torch.zeros(2, 4, 40), strategy="conjoined", merge=merge, verify=merge == "max")
    x = sequence(3, 40)
    both = copy.deepcopy(model)(torch.cat([x, x.flip(1, 2)]))
    ours, theirs = both[:3], both[3:].flip(2)
    by_hand = {"mean": (ours + theirs) / 2, "sum": ours + theirs, "max": torch.maximum(ours, theirs)}
    expected = by_hand[merge] if isinstance(merge, str) else merge(ours, theirs)
    torch.testing.assert_close(converted(x), expected, rtol=0, atol=1e-12)


def test_batch_norm_sees_both_strands_together() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 6, 5), nn.BatchNorm1d(6), nn.Flatten(), nn.Linear(6 * 26, 1)).double()
    converted = convert_model(model, DNA, strategy="conjoined")
    x = sequence()
    converted(x)
    model(torch.cat([x, x.flip(1, 2)]))
    assert torch.equal(converted[1].running_mean, model[1].running_mean)
    assert torch.equal(converted[1].running_var, model[1].running_var)


def test_post_hoc_reads_one_strand_in_train_mode() -> None:
    model = BassetLike().double()
    plan = plan_conversion(model, torch.zeros(2, 4, 144), strategy="conjoined", post_hoc=True)
    assert "in train mode one strand is read" in str(plan)
    assert plan.verification is not None
    assert plan.verification.modes == "eval mode"
    converted = plan.apply(model)
    x = sequence(3, 144)
    torch.manual_seed(0)
    expected = copy.deepcopy(model)(x)
    torch.manual_seed(0)
    assert torch.equal(converted(x), expected)
    assert_law(converted, torch.zeros(2, 4, 144), outputs="invariant", tolerance=TOLERANCE, modes=("eval",))


def test_stays_equivariant_while_training() -> None:
    converted = converted_of(FAMILIES[0], "conjoined")
    optimizer = torch.optim.AdamW(converted.parameters(), lr=1e-2)
    for _ in range(3):
        converted(sequence(4, 144).float()).square().mean().backward()
        optimizer.step()
    assert_law(converted, FAMILIES[0].example, outputs="invariant", tolerance=TOLERANCE, randomise=False)


@pytest.mark.parametrize("length", [29, 31, 64])
def test_every_length_the_model_takes_is_exact(length: int) -> None:
    """A pool with a remainder and a strided convolution, which tied weights would refuse."""

    class Ragged(Head):
        def forward(self, x: Tensor) -> Tensor:
            h = F.max_pool1d(self.conv(x), 4)[:, :, ::2]
            return F.interpolate(h, x.shape[-1], mode="linear")

    converted = convert_model(Ragged(), DNA, strategy="conjoined", verify=False).double()
    x = sequence(2, length)
    torch.testing.assert_close(converted(x.flip(1, 2)), converted(x).flip(2), rtol=0, atol=1e-12)


# --- calls --------------------------------------------------------------------------------------


def test_inputs_of_any_nesting_and_values_that_are_no_tensors() -> None:
    class Nested(Head):
        def forward(self, x: Any, scale: float, *, side: Tensor, shared: Tensor, mode: str = "a") -> dict[str, Any]:
            h = self.conv(x["dna"]) + side[:, :, None] * scale + shared
            return {"profile": (h.sum(1, keepdim=True) + x["tracks"][0], None), "mode": mode, "count": 3}

    tracks, side, shared = torch.rand(2, 1, 30), torch.rand(2, 6), torch.rand(6, 1)
    example = {"x": {"dna": DNA, "tracks": [tracks]}, "scale": 0.5, "side": side, "shared": shared}
    specs = {
        "x": {"dna": "ACGT", "tracks": ["."]}, "scale": "invariant", "side": "invariant", "shared": "invariant",
    }  # fmt: skip
    model = Nested()
    converted = convert_model(model, example, inputs=specs, strategy="conjoined")
    x = {"dna": sequence().float(), "tracks": [torch.rand(3, 1, 30)]}
    other = {"dna": x["dna"].flip(1, 2), "tracks": [x["tracks"][0].flip(2)]}
    rest = {"side": torch.rand(3, 6), "shared": shared}
    out, mirrored = converted(x, 0.5, mode="b", **rest), converted(other, scale=0.5, mode="b", **rest)
    assert (out["mode"], out["count"], out["profile"][1]) == ("b", 3, None)
    torch.testing.assert_close(mirrored["profile"][0], out["profile"][0].flip(2), rtol=0, atol=1e-6)
    ours, theirs = model(x, 0.5, **rest)["profile"][0], model(other, 0.5, **rest)["profile"][0].flip(2)
    torch.testing.assert_close(out["profile"][0], (ours + theirs) / 2, rtol=0, atol=1e-6)


def test_arguments_are_known_by_name() -> None:
    class Two(Head):
        def forward(self, x: Tensor, control: Tensor, extra: Tensor | None = None) -> Tensor:
            h = self.conv(x).mean(-1) + control.sum(-1)[:, :1]
            return h if extra is None else h + extra

    specs = {"inputs": ("ACGT", "+-"), "outputs": "invariant"}
    converted = convert_model(Two(), (DNA, torch.rand(2, 2, 30)), strategy="conjoined", **specs).double()
    x, control = sequence(), torch.rand(3, 2, 30, dtype=torch.float64)
    assert torch.equal(converted(x, control), converted(control=control, x=x))
    mirrored = converted(x.flip(1, 2), control.flip(1, 2))
    torch.testing.assert_close(converted(x, control), mirrored, rtol=0, atol=1e-12)
    with pytest.raises(ConversionError, match="argument 'extra' holds 1 tensors"):
        converted(x, control, torch.rand(3, 6))
    example, specs["inputs"] = (DNA, torch.rand(2, 2, 30), None), ("ACGT", "+-", "invariant")  # type: ignore[assignment]
    converted = convert_model(Two(), example, strategy="conjoined", **specs).double()
    assert torch.isfinite(converted(x, control, None)).all()
    with pytest.raises(ConversionError, match="argument 'extra' holds 1 tensors"):
        converted(x, control, torch.rand(1, 6))


def test_an_output_without_batch_is_returned_as_it_is() -> None:
    class Loss(Head):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.conv(x).mean(-1)
            return h, h.square().mean()

    converted = convert_model(Loss(), DNA, strategy="conjoined").double()
    x = sequence()
    hidden, loss = converted(x)
    assert hidden.shape == (3, 6)
    torch.testing.assert_close(loss, converted(x.flip(1, 2))[1], rtol=0, atol=1e-12)


def test_a_model_that_returns_something_new_is_stopped() -> None:
    class Fickle(Head):
        more = False

        def forward(self, x: Tensor) -> Any:
            h = self.conv(x).mean(-1)
            return (h, h) if self.more else h

    converted = convert_model(Fickle(), DNA, strategy="conjoined")
    converted.more = True
    with pytest.raises(ConversionError, match="returned 2 values, and was converted for 1"):
        converted(torch.zeros(2, 4, 30))


# --- "auto" -------------------------------------------------------------------------------------


class Untraceable(Head):
    """Branches on the values of a tensor."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.end, self.linear = end, nn.Linear(6 * 30, 30)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        h = torch.tanh(h) if float(h.detach().mean()) > -1e9 else h
        if self.end == "profile":
            return h.mT
        return h.mean(-1) if self.end == "pooled" else self.linear(h.flatten(1))


def test_outputs_of_untraceable_models_are_measured() -> None:
    with pytest.raises(TraceError, match=r"torch\.export cannot trace the model"):
        convert_model(Untraceable("profile"), DNA)
    plan = plan_conversion(Untraceable("profile"), DNA, strategy="conjoined", verify=False)
    assert plan.outputs == ["0: unstranded profile (auto), shape (2, 30, 6), (batch of 2, 30 reversed, 6 fixed)"]
    plan = plan_conversion(Untraceable("pooled"), DNA, strategy="conjoined", verify=False)
    assert plan.outputs == ["0: invariant (auto), shape (2, 6), (batch of 2, 6 fixed)"]


def test_outputs_that_cannot_be_told_need_a_choice() -> None:
    """A linear layer gives as many numbers as there are positions: a profile, or not."""
    with pytest.raises(NeedsChoiceError, match="is axis 1 a length"):
        convert_model(Untraceable("flat"), DNA, strategy="conjoined")
    for outputs in ("invariant", Tracks(".", layout="n l")):
        converted = convert_model(Untraceable("flat"), DNA, outputs=outputs, strategy="conjoined")
        assert_law(converted, DNA, outputs=outputs, tolerance=TOLERANCE)


def test_a_permuted_output_needs_a_choice() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 5, padding=2)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x)

    with pytest.raises(NeedsChoiceError, match="axis 1 that reverse complement permutes"):
        convert_model(Residual(), DNA, strategy="conjoined")
    assert convert_model(Residual(), DNA, outputs="ACGT", strategy="conjoined")


# --- refusals -----------------------------------------------------------------------------------


class FixedBatch(Head):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(2, -1).mean(-1)


class ReshapesTwo(Head):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).view(2, 6, 30).mean(-1)


class BatchSecond(Head):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).permute(2, 0, 1)


class OverTheBatch(Head):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean(-1).cumsum(0)


class Boxed(Head):
    def forward(self, x: Tensor) -> Any:
        return Box(self.conv(x))


class Box:
    def __init__(self, inside: Tensor) -> None:
        self.inside = inside


class MoreInTraining(Head):
    def forward(self, x: Tensor) -> Any:
        h = self.conv(x).mean(-1)
        return (h, h) if self.training else h


class BatchLostInTraining(Head):
    def forward(self, x: Tensor) -> Any:
        h = self.conv(x).mean(-1)
        return h.mean(0) if self.training else h


class Classes(Head):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean(-1).argmax(-1)


REFUSED = [
    (FixedBatch(), DNA, {}, BreaksSymmetryError, "does not run on 4 samples, only on the 2"),
    (ReshapesTwo(), DNA, {}, BreaksSymmetryError, "does not run on 4 samples, only on the 2"),
    (BatchSecond(), DNA, {}, NoRuleError, "output 0 does not have the batch in front"),
    (OverTheBatch(), DNA, {"outputs": "invariant"}, VerificationError, "influence each other"),
    (Boxed(), DNA, {"outputs": "invariant"}, NoRuleError, "output 0 is a Box"),
    (MoreInTraining(), DNA, {}, NoRuleError, "other outputs in train mode"),
    (Classes(), DNA, {"outputs": "invariant"}, BreaksSymmetryError, "readings of output 0, of torch.int64"),
    (nn.Conv1d(4, 6, 5), torch.zeros(4, 30), {"layout": "c l"}, NoRuleError, "does not have the batch in front"),
    (nn.Conv1d(4, 6, 5), torch.zeros(30, 2, 4), {"layout": "l n c"}, NoRuleError, "does not have the batch in front"),
    (nn.Conv1d(4, 6, 5), torch.zeros(2, 4, 3), {}, TraceError, "does not run on the example"),
    (nn.LazyConv1d(6, 5), DNA, {}, ConversionError, "has no shape yet"),
    (StrandBias(), torch.zeros(2, 4, 40), {"outputs": "antisymmetric", "merge": "max"}, BreaksSymmetryError, "larger"),
    (nn.Conv1d(4, 6, 5), DNA, {"merge": lambda a, b: a}, VerificationError, "the merge treats the two readings diff"),
    (nn.Conv1d(4, 6, 5), DNA, {"merge": lambda a, b: torch.cat([a, b], 1)}, ConversionError, "merge gave (2, 12, 26)"),
    (BatchLostInTraining(), DNA, {}, ConversionError, "returned a tensor of shape (6,) for 4 samples"),
    (nn.Conv1d(4, 2, 5), DNA, {"outputs": "ACGT"}, NeedsChoiceError, "no axis of shape"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "example", "how", "error", "words"), REFUSED)
def test_refusals_leave_the_model_alone(
    model: nn.Module, example: Tensor, how: dict[str, Any], error: type[ConversionError], words: str
) -> None:
    with pytest.raises(error) as caught:
        convert_model(model, example, strategy="conjoined", in_place=True, **how)
    assert words in str(caught.value)
    assert caught.value.why
    assert caught.value.do
    assert not any(
        m._forward_hooks or m._forward_pre_hooks for m in model.modules() if not hasattr(m, "has_uninitialized_params")
    )


def test_what_one_strategy_has_no_use_for_is_a_value_error() -> None:
    for how in (
        {"strategy": "both"}, {"merge": "sum"}, {"post_hoc": True}, {"mix": "a"},
        {"strategy": "conjoined", "mix": "a"}, {"strategy": "conjoined", "init": "project"},
        {"strategy": "mixed", "post_hoc": True}, {"strategy": "conjoined", "merge": "median"},
        {"strategy": "conjoined", "merge": nn.Bilinear(2, 2, 2)}, {"strategy": "mixed", "symmetrise_buffers": True},
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            convert_model(BassetLike(), torch.zeros(2, 4, 144), **how)
        assert not isinstance(caught.value, ConversionError)


def test_the_middle_reading_of_a_class_is_the_larger() -> None:
    converted = convert_model(Classes(), DNA, outputs="invariant", strategy="conjoined", merge="max")
    assert_law(converted, DNA, outputs="invariant")


# --- the life of a converted model --------------------------------------------------------------


def test_checkpoints_load_both_ways_and_unwrap_gives_the_model_back() -> None:
    model = BassetLike()
    converted = convert_model(model, torch.zeros(2, 4, 144), strategy="conjoined", verify=False)
    again = BassetLike()
    again.load_state_dict(converted.state_dict(), strict=True)
    load_plain_state_dict(converted, BassetLike().state_dict())
    load_plain_state_dict(converted, model.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*fc2\.bias"):
        load_plain_state_dict(converted, {k: v for k, v in model.state_dict().items() if k != "fc2.bias"})
    plain = unwrap(converted).eval()
    x = sequence(3, 144).float()
    assert torch.equal(plain(x), model.eval()(x))
    assert torch.equal(again.eval()(x), model(x))
    assert is_converted(converted)
    assert unwrap(converted, in_place=True) is converted
    assert not is_converted(converted)
    with pytest.raises(ConversionError, match="does not read both strands"):
        unwrap(converted)


def test_converted_twice_is_refused_and_bake_keeps_both_strands() -> None:
    converted = convert_model(BassetLike(), torch.zeros(2, 4, 144), strategy="conjoined", verify=False).eval()
    for strategy in ("tied", "conjoined", "mixed"):
        with pytest.raises(ConversionError, match="unwrap"):
            convert_model(converted, torch.zeros(2, 4, 144), strategy=strategy)
    baked = bake(converted)
    x = sequence(3, 144).float()
    assert baked is not converted
    assert torch.equal(baked(x), converted(x))


def test_copies_pickles_and_autocast_agree() -> None:
    converted = converted_of(FAMILIES[0], "conjoined").eval()
    x = sequence(3, 144).float()
    expected = converted(x)
    assert torch.equal(copy.deepcopy(converted)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(converted))(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(converted(x), converted(x.flip(1, 2)))


@pytest.mark.slow
@pytest.mark.variation
def test_compiles_and_exports() -> None:
    converted = converted_of(FAMILIES[0], "conjoined").eval()
    x = sequence(3, 144).float()
    expected = converted(x)
    program = torch.export.export(converted, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), expected, rtol=0, atol=1e-6)
    compiled = torch.compile(converted, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected, rtol=0, atol=1e-6)


def test_hooks_of_the_user_stay_and_run_inside() -> None:
    model = Siamese()
    seen: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape))
    model.register_forward_hook(lambda m, args, out: seen.append(out.shape))
    converted = convert_model(model, torch.zeros(2, 4, 60), strategy="conjoined", verify=False)
    seen.clear()
    converted(torch.zeros(3, 4, 60))
    assert seen == [(6, 4, 60), (6, 2)]
    unwrap(converted, in_place=True)(torch.zeros(3, 4, 60))
    assert seen[2:] == [(3, 4, 60), (3, 2)]


def test_activation_checkpointing_and_gradients_of_the_input() -> None:
    class Checkpointed(Head):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.conv, x, use_reentrant=False).mean(-1)

    converted = convert_model(Checkpointed(), DNA, strategy="conjoined").double()
    x = sequence().requires_grad_()
    other = x.detach().flip(1, 2).requires_grad_()
    (one,) = torch.autograd.grad(converted(x).sum(), x)
    (two,) = torch.autograd.grad(converted(other).sum(), other)
    torch.testing.assert_close(one.flip(1, 2), two, rtol=0, atol=1e-12)


def test_plan_says_what_it_costs_and_a_trained_model_is_not_warned_about(recwarn: Any) -> None:
    model = BassetLike()
    model(sequence(4, 144).float())
    plan = plan_conversion(model, torch.zeros(2, 4, 144), strategy="conjoined", merge="sum")
    for words in ("conjoined: both strands are read", "merged: sum", "two passes per call", "17,291, untouched"):
        assert words in str(plan)
    assert "two passes per call" in plan._repr_html_()
    plan.apply(model)
    assert not recwarn.list


# --- axes of one entry on the example ---


class Grows(Head):
    """One entry on an example of 12 positions, more on longer ones."""

    def __init__(self, read: Any, most: int = 10**6) -> None:
        super().__init__()
        self.read, self.most = read, most

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > self.most:
            raise ValueError("too long")
        return self.read(F.max_pool1d(F.softplus(self.conv(x)), 8))  # type: ignore[no-any-return]


def branched(h: Tensor) -> Tensor:
    """Positions, behind a branch that no trace follows."""
    return h * 2 if bool((h > 1e9).all()) else h


ONE_ENTRY = {
    "frequencies": (lambda h: torch.fft.rfft(h).abs(), 0),
    "in order of size": (lambda h: h.sort(-1).values, 0),
    "positions": (lambda h: h, 1),
    "positions, untraced": (branched, 1),
    "frequencies, untraced": (lambda h: torch.fft.rfft(branched(h)).abs(), 0),
}


@pytest.mark.parametrize("name", ONE_ENTRY)
def test_an_axis_of_one_entry_is_looked_at_where_it_has_more(name: str) -> None:
    read, is_length = ONE_ENTRY[name]
    torch.manual_seed(0)
    plain = Grows(read).double()
    model = convert_model(plain, torch.zeros(2, 4, 12), strategy="conjoined").eval()
    for n in (12, 24, 40, 60):
        x = sequence(length=n)
        one, other = plain(x), plain(x.flip(1, 2))
        mean = (one + (other.flip(-1) if is_length else other)) / 2
        assert torch.allclose(model(x), mean, rtol=0, atol=1e-12), n


@pytest.mark.parametrize("read", some([lambda h: h, branched], 1))
def test_an_axis_that_never_has_many_entries_must_be_said(read: Any) -> None:
    example = torch.zeros(2, 4, 12)
    with pytest.raises(NeedsChoiceError, match="is axis 2 a length") as caught:
        convert_model(Grows(read, most=17), example, strategy="conjoined")
    assert "it has one entry on the example" in str(caught.value)
    said = convert_model(Grows(read, most=17), example, strategy="conjoined", outputs=Tracks("......", layout="n c l"))
    assert said(example).shape == (2, 6, 1)


ALL_PAIRS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "pairs": (lambda h: (h[..., None] - h[..., None, :]).abs().mean(-1), 2),
    "windows": (lambda h: F.pad(h, (h.shape[-1] // 2,) * 2).unfold(-1, h.shape[-1] // 2 * 2 + 1, 1).amax(-1), 2),
    "triples": (
        lambda h: (h[..., None, None] - h[..., None, :, None] * h[..., None, None, :]).abs().mean((-1, -2)),
        3,
    ),
}


@pytest.mark.parametrize("name", ALL_PAIRS)
def test_an_axis_of_one_entry_is_looked_at_only_as_far_as_forward_is_not_long(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Example of 12 positions: at 96 the axis has 8 entries."""
    make, power = ALL_PAIRS[name]
    most = 6 * 60**power
    monkeypatch.setattr(ways, "LONG_WORK", most)
    lengths = list[int]()

    def read(h: Tensor) -> Tensor:
        lengths.append(h.shape[-1])
        return F.avg_pool1d(make(h) if h.shape[-1] < 300 else h, 8)  # what is longer is never run

    class Long(Head):
        def forward(self, x: Tensor) -> Tensor:
            return read(branched(F.softplus(self.conv(x))))

    plan = plan_conversion(Long(), torch.zeros(2, 4, 12), strategy="conjoined")
    assert all(isinstance(p, NeedsChoiceError) for p in plan.problems)
    assert 2 * 12 < max(lengths) <= 60
