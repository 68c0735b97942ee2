"""`strategy="mixed"`: both strands are read, and layers read the other strand's features too."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from models import BassetLike, Family, SpliceAILike, Twice
from models.basic import FAMILIES
from oracle import assert_law
from planned import converted_of, made, plan_of
from processes import run_in_two
from tiers import chosen, some
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from rcps_convert import (
    ConversionError,
    NeedsChoiceError,
    TraceError,
    bake,
    convert_model,
    load_plain_state_dict,
    plan_conversion,
    unwrap,
)
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action, act
from rcps_convert.algebra.arguments import leaves, with_leaves
from rcps_convert.graph.sandbox import call
from rcps_convert.strands.mixed import mirrored_positions, mixed_layers

TOLERANCE = 1e-10
BASSET = torch.zeros(2, 4, 144)
DNA = torch.zeros(2, 4, 30)

SMALL = ("ConvThenPool", "StrandBias")
each_family = pytest.mark.parametrize(
    "family", chosen(FAMILIES, lambda f: f.name in SMALL), ids=[f.name for f in FAMILIES]
)


def random_call(family: Family, dtype: torch.dtype = torch.float64) -> Any:
    generator = torch.Generator().manual_seed(3)
    return with_leaves(
        family.example, [torch.rand(x.shape, generator=generator).to(dtype) for x in leaves(family.example)]
    )


def sequence(n: int = 3, length: int = 30) -> Tensor:
    return F.one_hot(torch.randint(4, (n, length)), 4).mT.double()


def stirred(model: nn.Module) -> nn.Module:
    """With cross-strand weights that matter."""
    for layer in mixed_layers(model).values():
        nn.init.normal_(layer.cross_weight, std=0.1)  # type: ignore[arg-type]
    return model


@each_family
def test_starts_as_the_conjoined_model_and_stays_equivariant(family: Family) -> None:
    plan = plan_of(family, "mixed")
    assert plan.verification is not None
    assert plan.verification.error < TOLERANCE
    assert plan.verification.modes == "train and eval mode"
    mixed, conjoined = (converted_of(family, strategy).double() for strategy in ("mixed", "conjoined"))
    given = random_call(family)
    for training in (False, True):
        torch.manual_seed(0)
        ours = call(mixed.train(training), given)
        torch.manual_seed(0)
        theirs = call(conjoined.train(training), given)
        for a, b in zip(pytree.tree_leaves(ours), pytree.tree_leaves(theirs), strict=True):
            assert torch.equal(a, b)
    optimizer = torch.optim.Adam(stirred(mixed).parameters(), lr=1e-2)
    sum(y.square().mean() for y in pytree.tree_leaves(call(mixed.train(), given))).backward()
    assert all(m.cross_weight.grad.abs().sum() > 0 for m in mixed_layers(mixed).values())
    optimizer.step()
    assert_law(mixed, family.example, **family.how, tolerance=TOLERANCE)
    after = [call(m.eval(), given) for m in (mixed, unwrapped_copy(mixed))]
    pairs = zip(*map(pytree.tree_leaves, after), strict=True)
    assert any(not torch.allclose(a, b) for a, b in pairs)


def unwrapped_copy(model: nn.Module) -> nn.Module:
    """The conjoined model without what the layers learned about the other strand."""
    twin = copy.deepcopy(model)
    for layer in mixed_layers(twin).values():
        nn.init.zeros_(layer.cross_weight)  # type: ignore[arg-type]
    return twin


@each_family
def test_keys_classes_and_checkpoints(family: Family) -> None:
    model, mixed = made(family), converted_of(family, "mixed")
    assert [type(m) for m in mixed.modules()] == [type(m) for m in model.modules()]
    new = set(mixed.state_dict()) - set(model.state_dict())
    assert new == {f"{p}.cross_weight" for p in mixed_layers(mixed)}
    assert not mixed_layers(model)
    saved = stirred(mixed).state_dict()
    again = converted_of(family, "mixed")
    again.load_state_dict(saved)
    given = random_call(family, torch.float32)
    ours, theirs = (pytree.tree_leaves(call(m.eval(), given)) for m in (mixed, again))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    load_plain_state_dict(mixed, model.state_dict())
    assert not any(m.cross_weight.any() for m in mixed_layers(mixed).values())
    assert list(unwrap(mixed).state_dict()) == list(model.state_dict())


@each_family
@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
def test_baked_is_a_plain_graph_of_the_same_function(family: Family) -> None:
    mixed = stirred(converted_of(family, "mixed")).eval()
    baked = bake(mixed)
    assert isinstance(baked, torch.fx.GraphModule)
    assert set(baked.state_dict()) == set(mixed.state_dict())
    assert not any("rcps" in type(m).__module__ for m in baked.modules())
    given = random_call(family, torch.float32)
    pairs = zip(*(pytree.tree_leaves(call(m, given)) for m in (mixed, baked)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert_law(baked, family.example, **family.how, tolerance=TOLERANCE, randomise=False, modes=("eval",))


def test_baked_graph_takes_other_batch_sizes_and_lengths_and_survives_saving(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv1d(4, 8, 5), nn.BatchNorm1d(8), nn.Tanh(), nn.Conv1d(8, 8, 11, dilation=2), nn.Conv1d(8, 3, 1)
    )
    mixed = stirred(convert_model(model, torch.zeros(1, 4, 180), strategy="mixed", verify=False)).eval()
    baked = bake(mixed)
    for n, length in ((1, 180), (5, 97), (2, 300)):
        x = sequence(n, length).float()
        torch.testing.assert_close(baked(x), mixed(x), rtol=0, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(baked, tmp_path / "baked.pt")
        again = torch.load(tmp_path / "baked.pt", weights_only=False)
    x = sequence(2, 100).float()
    assert torch.equal(again(x), baked(x))
    with pytest.raises(ConversionError, match="cannot be baked in place"):
        bake(mixed, in_place=True)


class Turns(nn.Module):
    """Something else where something is asked for. (N, 4, L) -> (N, 2)"""

    def __init__(self, asks: Callable[[Tensor, Tensor], bool], times: float = 2) -> None:
        super().__init__()
        self.times = times
        self.first, self.second, self.out = nn.Conv1d(4, 8, 5, padding=2), nn.Conv1d(8, 8, 3), nn.Linear(8, 2)
        self.asks = asks

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        h = F.pad(h, (0, -h.shape[-1] % 4))
        h = self.second(h)
        return self.out(h.mean(-1)) * (self.times if self.asks(x, h) else 1)


@pytest.mark.parametrize("asks", [lambda x, h: x.shape[-1] < 100, lambda x, h: x.shape[-1] % 3 != 0])
def test_a_graph_that_is_another_function_at_other_lengths_is_baked_for_one(asks: Any) -> None:
    mixed = stirred(convert_model(Turns(asks), torch.zeros(2, 4, 64), strategy="mixed", verify=False)).eval()
    with pytest.raises(TraceError, match=r"(?s)another function.*at length \d+ forward takes another than at 64"):
        bake(mixed)
    baked = bake(mixed, length=64)
    for n in (1, 2, 5):
        x = sequence(n, 64).float()
        torch.testing.assert_close(baked(x), mixed(x), rtol=0, atol=1e-6)
    with pytest.raises(AssertionError, match="the model was baked for 64 positions along axis 2"):
        baked(sequence(2, 63).float())


@pytest.mark.parametrize(
    ("asks", "where"),
    [(lambda x, h: len(x) < 9, "samples? forward"), (lambda x, h: h.requires_grad, "gradients are recorded forward")],
)
def test_a_graph_that_is_another_function_at_every_length_is_no_baked_model(asks: Any, where: str) -> None:
    mixed = stirred(convert_model(Turns(asks), torch.zeros(2, 4, 64), strategy="mixed", verify=False)).eval()
    for length in (None, 64):
        with pytest.raises(TraceError, match=rf"(?s)another function.*{where} takes another.*do     keep the model"):
            bake(mixed, length=length)


def test_a_graph_that_differs_by_its_sign_is_another_function() -> None:
    model = Turns(lambda x, h: x.shape[-1] < 100, times=-1)
    mixed = stirred(convert_model(model, torch.zeros(2, 4, 64), strategy="mixed", verify=False)).eval()
    with pytest.raises(TraceError, match=r"(?s)another function.*at length \d+ forward takes another than at 64"):
        bake(mixed)


def test_a_mixed_model_is_baked_for_a_length_that_is_not_the_example_s() -> None:
    mixed = stirred(
        convert_model(Turns(lambda x, h: True), torch.zeros(2, 4, 64), strategy="mixed", verify=False)
    ).eval()
    baked, x = bake(mixed, length=63), sequence(3, 63).float()
    torch.testing.assert_close(baked(x), mixed(x), rtol=0, atol=1e-6)


def test_a_layer_reads_w_on_its_strand_and_v_on_the_other_turned_round() -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 5), nn.Conv1d(6, 3, 4, stride=3), nn.Tanh()).double()
    mixed = stirred(convert_model(model, DNA, strategy="mixed", verify=False))
    x = sequence()
    ours, theirs = model[0](x), model[0](x.flip(1, 2))
    v = mixed[1].cross_weight
    one = torch.tanh(model[1](ours) + F.conv1d(theirs.flip(2), v, stride=3))
    two = torch.tanh(model[1](theirs) + F.conv1d(ours.flip(2), v, stride=3))
    torch.testing.assert_close(mixed(x), (one + two.flip(2)) / 2, rtol=0, atol=1e-12)


def test_flattened_lengths_are_turned_round_inside() -> None:
    plan = plan_conversion(BassetLike(), BASSET, strategy="mixed", verify=False)
    action = plan.mixed["fc1"]  # type: ignore[attr-defined]
    h = torch.randn(2, 20, 5)
    assert torch.equal(act(action, h.flatten(1)), h.flip(2).flatten(1))
    assert "(20 fixed) x (5 reversed)" in str(plan)
    term = ax.total([ax.trivial(1), ax.length(4), ax.regular(4)])
    turned = mirrored_positions(Action((ax.batch(2), term))).axes[1]
    assert ax.indices(turned).tolist() == [0, 4, 3, 2, 1, 5, 6, 7, 8]


@pytest.mark.parametrize("layer", some([nn.ConvTranspose1d(6, 4, 4, stride=2), nn.Conv1d(6, 4, 4, padding="same")], 1))
def test_geometry_that_tied_weights_cannot_take_is_exact(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 5), nn.ReLU(), layer, nn.ReLU(), nn.MaxPool1d(3))
    for length in (30, 31):
        mixed = stirred(convert_model(model, torch.zeros(2, 4, length), strategy="mixed", verify=False))
        assert_law(mixed, torch.zeros(2, 4, length), tolerance=TOLERANCE)


def test_transposed_convolution_called_with_a_size() -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up = nn.Conv1d(4, 6, 5), nn.ConvTranspose1d(6, 4, 4, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            return torch.tanh(self.up(h, output_size=[2 * h.shape[2] + 3]))

    mixed = stirred(convert_model(Up(), DNA, strategy="mixed"))
    assert list(mixed_layers(mixed)) == ["up"]
    assert_law(mixed, DNA, tolerance=TOLERANCE)


# --- which layers mix ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "found"),
    some(
        [
            ("conv2", ["conv2"]),
            (["conv*"], ["conv2", "conv3"]),
            (("fc?", "conv3"), ["conv3", "fc1"]),
            (lambda path, module: isinstance(module, nn.Linear), ["fc1"]),
            (None, ["conv2", "conv3", "fc1"]),
        ],
        2,
    ),
)
def test_chosen_layers_mix(chosen: Any, found: list[str]) -> None:
    plan = plan_conversion(BassetLike(), BASSET, strategy="mixed", mix=chosen, verify=False)
    mixed = plan.apply(BassetLike())
    assert list(mixed_layers(mixed)) == found
    added = sum(mixed.get_parameter(f"{p}.cross_weight").numel() for p in found)
    assert f"17,291 + {added:,} between strands" in str(plan)
    assert plan.after == sum(p.numel() for p in mixed.parameters())
    assert plan.before == 17291


def test_a_pattern_without_a_layer_and_nothing_to_mix_need_a_choice() -> None:
    with pytest.raises(NeedsChoiceError, match=r"mix='conv9' names no"):
        convert_model(BassetLike(), BASSET, strategy="mixed", mix=["conv2", "conv9"])
    for mix in ("conv1", lambda path, module: False):
        with pytest.raises(NeedsChoiceError, match="no layer is left to mix"):
            convert_model(BassetLike(), BASSET, strategy="mixed", mix=mix)


class Odd(nn.Module):
    """Layers of which some cannot mix."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv1d(4, 8, 5, padding=2), nn.Conv1d(8, 8, 3, padding=1)
        self.causal, self.frozen = Causal(8, 8, 3), nn.Conv1d(8, 8, 1).requires_grad_(False)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.positions, self.idle, self.out = nn.Linear(8, 8), nn.Linear(2, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.causal(torch.relu(self.body(torch.relu(self.stem(x)))))
        h = torch.relu(self.frozen(h)).mT
        h = self.attention(h, h, h)[0]
        h = self.positions(h.flatten(0, 1)).view(h.shape).mean(1)
        return self.out(h)


class Causal(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (2, 0)))


def test_the_plan_says_why_a_layer_does_not_mix() -> None:
    plan = plan_conversion(Odd(), DNA, strategy="mixed")
    assert not plan.problems
    assert list(plan.mixed) == ["body"]  # type: ignore[attr-defined]
    for words in (
        "stem (reads the sequence itself", "causal (its forward is not the stock one)",
        "attention.out_proj (the forward does not call it)", "positions (its input has no batch axis of its own)",
        "idle (the forward does not call it)", "out (is an output",
    ):  # fmt: skip
        assert f"not mixed: {words}" in str(plan)
    assert "frozen" not in str(plan)
    named = plan_conversion(Odd(), DNA, strategy="mixed", mix="frozen").apply(Odd())
    assert named.frozen.cross_weight.requires_grad
    assert not named.frozen.weight.requires_grad


def test_an_output_layer_mixes_where_the_merge_is_no_sum() -> None:
    plan = plan_conversion(Odd(), DNA, strategy="mixed", merge="max")
    assert list(plan.mixed) == ["body", "out"]  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.variation
def test_untraceable_models_mix_where_the_length_can_be_measured() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.flat = nn.Conv1d(4, 8, 5), nn.Conv1d(8, 8, 5), nn.Linear(8 * 22, 5)
            self.positions, self.out = nn.Linear(8, 8), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(torch.tanh(self.stem(x)))
            h = self.positions((h if float(h.detach().sum()) < 1e9 else -h).mT).mT
            return self.out(torch.tanh(self.flat(h.flatten(1)))).tanh()

    model = Branching()
    with pytest.raises(TraceError, match=r"torch\.export cannot trace the model"):
        convert_model(model, DNA)
    plan = plan_conversion(model, DNA, strategy="mixed", outputs="invariant", verify=False)
    assert not plan.problems
    flips = {p: [d for d, t in enumerate(a.axes) if ax.is_length(t)] for p, a in plan.mixed.items()}  # type: ignore[attr-defined]
    assert flips["body"] == [2]
    assert flips["positions"] == [1]
    assert "flat (which axis of its input is the length could not be told)" in str(plan)
    mixed = stirred(plan.apply(model))
    assert_law(mixed, DNA, outputs="invariant", tolerance=TOLERANCE)


@pytest.mark.slow
@pytest.mark.variation
def test_layers_called_in_places_laid_out_alike_mix_others_do_not() -> None:
    assert "block.0" in plan_conversion(Twice(), torch.zeros(3, 60, 4), strategy="mixed").mixed  # type: ignore[attr-defined]

    class TwoPlaces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.twice, self.body = nn.Conv1d(4, 8, 5), nn.Linear(8, 8), nn.Conv1d(8, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.twice(self.body(self.stem(x)).mT))
            return torch.tanh(self.twice(h.mean(1)))

    plan = plan_conversion(TwoPlaces(), DNA, strategy="mixed")
    assert "twice (it is called in several places, whose inputs are laid out differently)" in str(plan)


# --- the life of a mixed model ------------------------------------------------------------------


def test_copies_optimisers_and_functional_calls() -> None:
    mixed = stirred(converted_of(FAMILIES[0], "mixed")).eval()
    x = sequence(3, 144).float()
    expected = mixed(x)
    twin = copy.deepcopy(mixed)
    nn.init.zeros_(twin.conv2.cross_weight)
    assert torch.equal(mixed(x), expected)
    assert not torch.equal(twin(x), expected)
    average = torch.optim.swa_utils.AveragedModel(mixed, use_buffers=True)
    average.update_parameters(mixed)
    torch.testing.assert_close(average(x), expected, rtol=0, atol=1e-6)
    called = torch.func.functional_call(mixed, dict(mixed.named_parameters()), (x,))
    assert torch.equal(called, expected)


@pytest.mark.slow
def test_a_compiled_model_computes_the_same() -> None:
    mixed = stirred(converted_of(FAMILIES[0], "mixed")).eval()
    x = sequence(3, 144).float()
    compiled = torch.compile(mixed, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), mixed(x), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_code_compiled_for_one_model_is_not_taken_for_another() -> None:
    """Models of one class that differ in nothing but their hooks."""
    model, x = BassetLike().eval(), sequence(3, 144).float()
    kinds: list[dict[str, Any]] = [
        {"strategy": "conjoined"}, {"strategy": "conjoined", "merge": "sum"}, {"strategy": "mixed"},
        {"strategy": "mixed", "mix": "conv2"}, {"strategy": "mixed", "mix": "conv3"},
    ]  # fmt: skip
    models = [model, *(stirred(convert_model(model, BASSET, verify=False, **how)) for how in kinds)]
    for each in (*models, *map(nn.Sequential, models)):  # the compiler treats a part of a model as it does the model
        compiled = torch.compile(each, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), each(x), rtol=0, atol=1e-6)


def test_in_place_and_unwrapped() -> None:
    model = BassetLike()
    own = {id(p) for p in model.parameters()}
    mixed = convert_model(model, BASSET, strategy="mixed", in_place=True, verify=False)
    assert mixed is model
    assert own < {id(p) for p in mixed.parameters()}
    assert unwrap(mixed).state_dict().keys() == BassetLike().state_dict().keys()
    with pytest.raises(ConversionError, match=r"cross-strand weight of conv2 is not zero"):
        unwrap(stirred(mixed))
    with pytest.raises(ConversionError, match="converted already"):
        convert_model(mixed, BASSET)


def test_a_plan_for_another_model_does_not_fit() -> None:
    plan = plan_conversion(BassetLike(), BASSET, strategy="mixed", verify=False)
    with pytest.raises(
        ConversionError, match=r"another model: the model itself\n  got    models\.basic\.SpliceAILike, planned"
    ):
        plan.apply(SpliceAILike())
    wider = BassetLike()
    wider.fc2 = nn.Linear(40, 6)
    with pytest.raises(ConversionError, match=r"fc2\.weight\n  got    \(6, 40\), planned \(5, 40\)"):
        plan.apply(wider)


def test_a_layer_called_by_itself_is_refused_but_checkpointing_works() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv1d(4, 6, 5), nn.Conv1d(6, 6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(checkpoint(self.body, self.stem(x), use_reentrant=False)).mean(-1)

    mixed = stirred(convert_model(Checkpointed(), DNA, strategy="mixed"))
    mixed(sequence().float()).sum().backward()
    assert mixed.body.cross_weight.grad is not None
    with pytest.raises(ConversionError, match="called outside of its model"):
        mixed.body(torch.zeros(2, 6, 20))


def test_weight_normed_layers_mix() -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 5), nn.ReLU(), parametrizations.weight_norm(nn.Conv1d(6, 6, 5)), nn.ReLU())
    mixed = stirred(convert_model(model, DNA, strategy="mixed"))
    assert list(mixed_layers(mixed)) == ["2"]
    assert_law(mixed, DNA, tolerance=TOLERANCE)


WORKER = """
import sys
import torch
import torch.distributed as dist
from torch import nn
sys.path.insert(0, {here!r})
from models import BassetLike
from oracle import assert_law
from rcps_convert import convert_model

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
torch.manual_seed(0)
model = convert_model(BassetLike(), torch.zeros(2, 4, 144), strategy="mixed", verify=False)
parallel = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(parallel.parameters(), lr=0.05)
torch.manual_seed(10 + rank)
for _ in range(3):
    loss = parallel(torch.randn(4, 4, 144)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
total = torch.cat([p.detach().flatten() for p in model.parameters()])
gathered = [torch.empty_like(total) for _ in range(2)]
dist.all_gather(gathered, total)
assert torch.equal(gathered[0], gathered[1]), "weights differ between processes"
assert model.conv2.cross_weight.any()
assert_law(model, torch.zeros(2, 4, 144), outputs="invariant", tolerance=1e-10, randomise=False)
dist.destroy_process_group()
print("equivariant on rank", rank)
"""


def test_data_parallel_training_in_one_process(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mixed = converted_of(FAMILIES[0], "mixed")
        parallel = nn.parallel.DistributedDataParallel(mixed)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.05)
        for _ in range(2):
            parallel(sequence(4, 144).float()).square().mean().backward()
            optimizer.step()
    finally:
        dist.destroy_process_group()
    assert mixed.conv2.cross_weight.any()
    assert_law(mixed, BASSET, outputs="invariant", tolerance=TOLERANCE, randomise=False)


@pytest.mark.slow
def test_data_parallel_training_in_two_processes(tmp_path: Path) -> None:
    run_in_two(WORKER, tmp_path)


class BehindTheUnknown(nn.Module):
    """Layers behind positions that are taken one by one, which no rule follows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Conv1d(4, 6, 3), nn.Conv1d(6, 5, 3), nn.Conv1d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        h = torch.stack([h[..., i].tanh() for i in range(h.shape[-1])], -1)
        return self.third(self.second(h).relu()).sigmoid()


@pytest.mark.slow
@pytest.mark.variation
def test_positions_behind_what_no_rule_follows_are_mapped_back() -> None:
    plan = plan_conversion(BehindTheUnknown(), torch.zeros(2, 4, 40), strategy="mixed", verify=False)
    assert not plan.problems
    assert [ax.is_length(a.axes[-1]) for a in plan.mixed.values()] == [True, True]
    assert_law(plan.apply(BehindTheUnknown()).double(), torch.zeros(2, 4, 40).double(), outputs="..")
