"""The main job, end to end, on networks in the style of the field's."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from lawful import assert_exact
from models import FAMILIES, BassetLike, ConvThenPool, Family, Siamese, SpliceAILike, StrandBias, Twice
from oracle import assert_law
from planned import converted_of, made, plan_of
from tiers import chosen
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rcps_convert import (
    ConversionError,
    Tracks,
    bake,
    check_equivariance,
    convert_model,
    load_plain_state_dict,
    plan_conversion,
)
from rcps_convert.algebra.arguments import leaves, with_leaves
from rcps_convert.algebra.nesting import input_actions, output_specs
from rcps_convert.graph.sandbox import call
from rcps_convert.measure.probe import Probe
from rcps_convert.measure.report import candidate_actions
from rcps_convert.measure.verify import verify
from rcps_convert.tie.attaching import ties

TOLERANCE = 1e-10
"""Relative error in float64: the sums of a network this size round to about 1e-15."""

SMALL = ("BassetLike", "DanQLike")
each_family = pytest.mark.parametrize(
    "family", chosen(FAMILIES, lambda f: f.name in SMALL), ids=[f.name for f in FAMILIES]
)


def checked(model: nn.Module, family: Family) -> None:
    """As it is, in eval mode."""
    assert_law(model, family.example, **family.how, tolerance=TOLERANCE, randomise=False, modes=("eval",))


def train_step(model: nn.Module, family: Family, optimizer: torch.optim.Optimizer) -> None:
    specs, actions = input_actions(family.example, family.how.get("inputs", "ACGT"), "auto")
    probe_inputs = Probe(nn.Identity(), torch.zeros(1), [], [])  # only for its drawing of inputs
    probe_inputs.example, probe_inputs.specs, probe_inputs.actions = family.example, specs, actions
    drawn = [x.float() if isinstance(x, Tensor) else x for x in probe_inputs.inputs(1)]
    out = call(model.train(), with_leaves(family.example, drawn))
    loss = sum(y.square().mean() for y in pytree.tree_leaves(out))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@each_family
def test_plain_model_is_not_equivariant_and_converted_is(family: Family) -> None:
    model = made(family)
    assert not check_equivariance(model, family.example, **{"outputs": "auto", **family.how})
    plan = plan_of(family)
    assert plan.verification is not None
    assert plan.verification.modes == "train and eval mode"
    assert plan.verification.error < TOLERANCE
    assert_exact(plan.apply(model), family.example, **family.how, tolerance=TOLERANCE)


@each_family
def test_equivariant_after_training_and_baked(family: Family) -> None:
    model = converted_of(family)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        train_step(model, family, optimizer)
    checked(model, family)
    baked = bake(model)
    assert not ties(baked)
    checked(baked, family)


@each_family
def test_train_mode_obeys_the_law_after_training(family: Family) -> None:
    model = converted_of(family)
    train_step(model, family, torch.optim.SGD(model.parameters(), lr=0.1))
    specs, actions = input_actions(family.example, family.how.get("inputs", "ACGT"), "auto")
    wanted = output_specs(family.how.get("outputs", "auto"), call(model, family.example))
    found = verify(model, family.example, specs, actions, lambda i, s: candidate_actions(wanted[i], s))
    assert found.error < TOLERANCE


@each_family
def test_baked_state_dict_loads_into_the_plain_class(family: Family) -> None:
    model = converted_of(family).eval()
    baked = bake(model)
    plain = family.make()
    plain.load_state_dict(baked.state_dict(), strict=True)
    if any("symmetriser" in line for line in str(plan_of(family)).splitlines()):
        return  # the inserted symmetriser is computation: no weights of the plain class can stand for it
    x = leaves(family.example)
    given = with_leaves(family.example, [torch.rand_like(v) for v in x])
    for a, b in zip(pytree.tree_leaves(call(plain.eval(), given)), pytree.tree_leaves(call(model, given)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@each_family
def test_classes_keys_and_original_stay(family: Family) -> None:
    model = made(family)
    before = copy.deepcopy(model.state_dict())
    classes = [type(m) for m in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    modes = [m.training for m in model.modules()]
    converted = convert_model(model, family.example, **family.how, verify=False)
    assert isinstance(converted, type(model))
    assert [type(m) for m in bake(converted).modules()] == classes
    assert [type(m) for m in model.modules()] == classes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert list(bake(converted).state_dict()) == list(before)
    assert [n for n, _ in bake(converted).named_parameters()] == [n for n, _ in model.named_parameters()]


def test_rng_state_is_untouched() -> None:
    model = BassetLike()
    state = torch.get_rng_state()
    convert_model(model, torch.zeros(2, 4, 144))
    assert torch.equal(state, torch.get_rng_state())


def test_optimizer_built_before_conversion_trains_the_converted_model() -> None:
    model = BassetLike()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    own = {id(p) for p in model.parameters()}
    converted = convert_model(model, torch.zeros(2, 4, 144), in_place=True)
    assert converted is model
    assert {id(p) for p in converted.parameters()} == own
    before = [p.detach().clone() for p in converted.parameters()]
    train_step(converted, FAMILIES[0], optimizer)
    moved = [not torch.equal(a, b) for a, b in zip(before, converted.parameters(), strict=True)]
    assert all(moved)
    checked(converted, FAMILIES[0])
    same = {id(p) for p in bake(converted, in_place=True).parameters()}
    assert same == own


def test_plain_checkpoint_loads_into_a_converted_model(tmp_path: Any) -> None:
    torch.manual_seed(1)
    plain = BassetLike()
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    converted = plan_of(FAMILIES[0]).apply(BassetLike())
    load_plain_state_dict(converted, torch.load(tmp_path / "plain.pt"), init="keep")
    kept = plan_of(FAMILIES[0]).apply(plain)
    x = torch.randn(2, 4, 144)
    assert torch.equal(converted.eval()(x), kept.eval()(x))
    load_plain_state_dict(converted, plain.state_dict())
    projected = convert_model(plain, torch.zeros(2, 4, 144), init="project", verify=False)
    torch.testing.assert_close(converted.eval()(x), projected.eval()(x), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_loading_a_baked_checkpoint_changes_nothing() -> None:
    for family in FAMILIES:
        converted = convert_model(made(family), family.example, verify=False, **family.how)
        before = copy.deepcopy(converted.state_dict())
        load_plain_state_dict(converted, bake(converted).state_dict())
        after = converted.state_dict()
        for key, value in before.items():
            torch.testing.assert_close(after[key], value, rtol=1e-6, atol=1e-7)


def test_bad_checkpoint_is_refused_whole() -> None:
    converted = plan_of(FAMILIES[0]).apply(BassetLike())
    before = copy.deepcopy(converted.state_dict())
    state = BassetLike().state_dict()
    state["extra"] = state.pop("fc2.bias")
    state["conv1.weight"] = state["conv1.weight"][:12]
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*fc2\.bias.*Unexpected.*extra.*size mismatch.*conv1\.weight"):
        load_plain_state_dict(converted, state)
    assert all(torch.equal(v, converted.state_dict()[k]) for k, v in before.items())


def test_converted_checkpoint_round_trip(tmp_path: Any) -> None:
    converted = converted_of(FAMILIES[0])
    torch.save(converted.state_dict(), tmp_path / "tied.pt")
    torch.manual_seed(5)
    other = plan_of(FAMILIES[0]).apply(BassetLike())
    other.load_state_dict(torch.load(tmp_path / "tied.pt"))
    x = torch.randn(2, 4, 144)
    assert torch.equal(other.eval()(x), converted.eval()(x))


def test_deepcopies_are_independent() -> None:
    """An EMA copy can be baked without touching its source."""
    converted = converted_of(FAMILIES[0]).eval()
    x = torch.randn(2, 4, 144)
    expected = converted(x)
    twin = copy.deepcopy(converted)
    bake(twin, in_place=True)
    assert torch.equal(converted(x), expected)
    assert torch.equal(twin(x), expected)
    assert len(ties(converted)) > 0


def test_readout_behind_a_nonlinearity_keeps_its_filters() -> None:
    model = ConvThenPool()
    plan = plan_conversion(model, torch.zeros(3, 4, 60), verify=False)
    assert [s.path for s in plan.symmetrisers] == ["readout"]
    assert "costs two passes" in str(plan)
    converted = plan.apply(model)
    weight = converted.readout[0].weight
    assert torch.equal(weight, model.readout[0].weight)
    tied_stem = converted.stem(torch.randn(2, 4, 60))
    mirrored = tied_stem.reshape(2, 2, 4, -1).flip(1, 3).reshape(tied_stem.shape)
    converted.eval()
    by_hand = (model.eval().readout(tied_stem) + model.readout(mirrored)) / 2
    torch.testing.assert_close(converted.readout(tied_stem), by_hand, rtol=0, atol=1e-6)


def test_readout_without_a_submodule_is_tied_with_a_warning() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x)).amax(-1)

    with pytest.warns(UserWarning, match="no submodule holds it alone"):
        converted = convert_model(Bare(), torch.zeros(2, 4, 30))
    assert_law(converted, torch.zeros(2, 4, 30), outputs="invariant")


def test_symmetric_model_needs_nothing() -> None:
    model = Siamese()
    plan = plan_conversion(model, torch.zeros(2, 4, 60))
    assert plan.symmetric
    assert "nothing needs tying" in str(plan)
    with pytest.warns(UserWarning, match="nothing needed tying"):
        converted = plan.apply(model)
    x = torch.randn(2, 4, 60)
    assert torch.equal(converted(x), model(x))
    assert converted.state_dict().keys() == model.state_dict().keys()


def test_trained_model_is_warned_about() -> None:
    model = BassetLike()
    train_step(model, FAMILIES[0], torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.warns(UserWarning, match=r"looks trained.*init=\"project\".*conjoined.*mixed"):
        convert_model(model, torch.zeros(2, 4, 144), verify=False)


def test_projecting_a_nearly_symmetric_model_keeps_its_function() -> None:
    tied = bake(converted_of(FAMILIES[0])).eval()
    x = torch.randn(2, 4, 144)
    again = convert_model(tied, torch.zeros(2, 4, 144), init="project", verify=False)
    torch.testing.assert_close(again(x), tied(x), rtol=0, atol=1e-6)


def test_converted_model_is_refused_until_baked() -> None:
    converted = plan_of(FAMILIES[0]).apply(BassetLike())
    with pytest.raises(ConversionError, match="converted already"):
        convert_model(converted, torch.zeros(2, 4, 144))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ties(convert_model(bake(converted), torch.zeros(2, 4, 144), verify=False))


def test_baking_an_unconverted_model_is_an_equal_copy() -> None:
    model = BassetLike()
    copied = bake(model)
    assert copied is not model
    assert all(torch.equal(v, copied.state_dict()[k]) for k, v in model.state_dict().items())


def test_shared_weight_stays_shared_and_frozen_stays_frozen() -> None:
    plan = plan_conversion(Twice(), torch.zeros(3, 60, 4), verify=False)
    assert plan.unused == ["unused.weight", "unused.bias"]
    converted = plan.apply(Twice())
    a, b = converted.a.parametrizations.weight.original, converted.b.parametrizations.weight.original
    assert a is b
    assert not converted.frozen.parametrizations.weight.original.requires_grad
    baked = bake(converted)
    assert baked.a.weight is baked.b.weight


def test_other_lengths_and_batch_sizes() -> None:
    converted = convert_model(SpliceAILike(), torch.zeros(1, 4, 180), verify=False).double().eval()
    for n, length in ((1, 97), (5, 181), (2, 300)):
        x = torch.randn(n, 4, length, dtype=torch.float64)
        difference = converted(x.flip(1, 2)) - converted(x).flip(2)
        assert difference.abs().max() < TOLERANCE


def test_antisymmetric_output_changes_its_sign() -> None:
    converted = convert_model(StrandBias(), torch.zeros(3, 4, 40), outputs="antisymmetric").eval()
    x = torch.randn(3, 4, 40)
    assert torch.allclose(converted(x.flip(1, 2)), -converted(x), atol=1e-6)
    assert float(converted(x).detach().abs().min()) > 0


def test_tracks_with_a_layout_and_plan_html() -> None:
    class Profile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.out = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.body(x)).mT)

    plan = plan_conversion(Profile(), torch.zeros(2, 4, 2), outputs=Tracks("+-", layout="n l c"))
    assert not plan.problems
    assert "tracks +-" in str(plan)
    assert "<table>" in plan._repr_html_()
    converted = plan.apply(Profile())
    x = torch.randn(2, 4, 2)
    assert torch.allclose(converted(x.flip(1, 2)), converted(x).flip(1, 2), atol=1e-6)


def test_compiles_and_exports() -> None:
    converted = converted_of(FAMILIES[0]).eval()
    x = torch.randn(2, 4, 144)
    program = torch.export.export(converted, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), converted(x), rtol=0, atol=1e-6)
    compiled = torch.compile(converted, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), converted(x), rtol=0, atol=1e-6)


class Pooled(nn.Module):
    """Pools whose remainder depends on the length; the length is averaged out at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 8, 5, padding=2), nn.Conv1d(8, 8, 3, padding=1)
        self.out = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.b(torch.max_pool1d(self.a(x), 4)))
        return self.out(torch.max_pool1d(h, 3).mean(-1))


def test_lengths_that_leave_a_remainder_are_re_anchored() -> None:
    plan = plan_conversion(Pooled(), torch.zeros(2, 4, 96))
    assert plan.valid_lengths(80, 130) == [84, 96, 108, 120]
    assert "max_pool1d, 96 = 4*24 + 0" in str(plan)
    converted = plan.apply(Pooled()).double().eval()
    for length in (100, 117, 120):
        x = torch.randn(3, 4, length, dtype=torch.float64)
        assert (converted(x) - converted(x.flip(1, 2))).abs().max() < TOLERANCE


def test_a_crop_by_number_is_aligned_at_one_length_only() -> None:
    class Cropped(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.a(x)[:, :, 10:86].relu().mean(-1))

    plan = plan_conversion(Cropped(), torch.zeros(2, 4, 96))
    assert not plan.problems
    assert plan.valid_lengths(90, 100) == [96]


def test_square_outputs_are_read_by_inference() -> None:
    model = nn.Conv1d(4, 6, 5, padding=2)
    plan = plan_conversion(model, torch.zeros(2, 4, 6), outputs="..++--")
    assert not plan.problems
    single = nn.Sequential(nn.Conv1d(4, 1, 5, padding=2), nn.Flatten())
    assert not plan_conversion(single, torch.zeros(2, 4, 30), outputs=".").problems


def test_a_pool_over_the_whole_length_is_aligned_at_its_multiples_only() -> None:
    class Whole(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.avg_pool1d(self.a(x), 96).mean(-1))

    plan = plan_conversion(Whole(), torch.zeros(2, 4, 96))
    assert not plan.problems
    assert plan.valid_lengths(90, 200) == [96, 192]
