"""Trained models at one pass: reordering changes nothing, shuffled pairs are found again, trained ones are matched."""

from __future__ import annotations

import copy
import functools
import time
import warnings
from typing import Any

import pytest
import torch
from models import FAMILIES, ZOO, BassetLike, Family
from oracle import examples
from reordering import assert_reordering_changes_nothing, distance, inputs_for, moved, reordered, shuffle
from tiers import chosen
from torch import Tensor, nn

from rcps_convert import (
    ConversionError,
    apply_recipe,
    bake,
    check_equivariance,
    convert_model,
    load_plain_state_dict,
    plan_conversion,
    rc_equivariant,
    recalibrate,
    recipe,
    reverse_complement,
)
from rcps_convert.infer.match import search
from rcps_convert.infer.match.normal import Normal, windows

EVERY = [*FAMILIES, *ZOO]


def named(name: str) -> Family:
    return next(f for f in EVERY if f.name == name)


def matched(model: nn.Module, example: Any, **how: Any) -> tuple[Any, nn.Module]:
    """The plan of a matched conversion, unverified, and the converted model."""
    plan = plan_conversion(model, example, init="match", verify=False, **how)
    assert not plan.problems, str(plan)
    return plan, quietly(plan, model)


def quietly(plan: Any, model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plan.apply(model)


# --- the two laws, for the whole zoo ----------------------------------------------------------------


QUICK = {"StrandBias", "MultiQuery"}
"""The networks whose pairs are found in the quick suite; recurrences are reordered in `DanQLike`."""


@functools.cache
def first_match(name: str) -> tuple[nn.Module, Any, nn.Module]:
    """A network of the zoo, its plan, and the converted one.

    Few sequences are looked at: what is reordered must change nothing whatever the pairs are.
    """
    family = named(name)
    torch.manual_seed(0)
    model = family.make()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "SAMPLES", 16)
        return model, *matched(model, family.example, **family.how)


@pytest.mark.parametrize("family", chosen(FAMILIES, lambda f: f.name == "DanQLike"), ids=[f.name for f in FAMILIES])
def test_reordering_changes_nothing(family: Family) -> None:
    """That of the zoo is judged where its networks are converted, in `test_zoo`."""
    model, plan, _ = first_match(family.name)
    assert_reordering_changes_nothing(model, plan, family)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(f, marks=() if f.name in QUICK else pytest.mark.slow, id=f.name)
        for f in EVERY
        if f.name != "ConvThenPool"  # baked, it still swaps the channels that it was converted with
    ],
)
def test_shuffled_pairs_are_found_again(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SAMPLES", 64)  # partners of an exact model answer alike on any
    _, plan, tied = first_match(family.name)
    x = inputs_for(family)
    equivariant = bake(moved(tied, family)).float()
    shuffled = reordered(equivariant, plan, shuffle(plan, 2))
    assert distance(equivariant, shuffled, x) < 1e-12
    _, again = matched(shuffled, family.example, **family.how)
    assert distance(equivariant, bake(again), x) < 1e-6


def test_other_starts_do_not_find_shuffled_pairs() -> None:
    """The law above cannot be passed by luck."""
    family = named("BassetLike")
    _, plan, tied = first_match("BassetLike")
    equivariant = bake(moved(tied, family)).float()
    shuffled = reordered(equivariant, plan, shuffle(plan, 3))
    for init in ("keep", "project"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = convert_model(shuffled, family.example, init=init, verify=False)
        assert distance(equivariant, bake(other), inputs_for(family)) > 0.1


# --- the same with shuffles written out by hand ------------------------------------------------------


def permute(tensor: Tensor, dim: int, order: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(tensor.detach().index_select(dim, order))


def test_a_basset_shuffled_by_hand() -> None:
    family = named("BassetLike")
    _, _, tied = first_match("BassetLike")
    equivariant = bake(moved(tied, family)).float()
    shuffled = copy.deepcopy(equivariant)
    torch.manual_seed(1)
    first, last = torch.randperm(24), torch.randperm(20)
    for vector in (shuffled.conv1.bias, *norm_vectors(shuffled.bn1)):
        permute(vector, 0, first)
    permute(shuffled.conv1.weight, 0, first)
    permute(shuffled.conv2.weight, 1, first)
    for vector in (shuffled.conv3.bias, *norm_vectors(shuffled.bn3)):
        permute(vector, 0, last)
    permute(shuffled.conv3.weight, 0, last)
    permute(shuffled.fc1.weight, 1, (last[:, None] * 5 + torch.arange(5)).flatten())
    x = inputs_for(family)
    assert distance(equivariant, shuffled, x) < 1e-12
    _, again = matched(shuffled, family.example)
    assert distance(equivariant, bake(again), x) < 1e-6


def norm_vectors(norm: Any) -> tuple[Tensor, ...]:
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


@pytest.mark.slow
def test_the_units_of_the_two_directions_are_shuffled_apart() -> None:
    """Each direction of a recurrence has an order of its own: gates, hidden units and what reads them."""
    family = named("DanQLike")
    torch.manual_seed(2)
    equivariant = bake(moved(convert_model(family.make(), family.example, verify=False), family)).float()
    shuffled = copy.deepcopy(equivariant)
    orders = [torch.randperm(6), torch.randperm(6)]
    for end, order in zip(("", "_reverse"), orders, strict=True):
        gates = torch.cat([g * 6 + order for g in range(4)])
        for kind in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            permute(getattr(shuffled.lstm, kind + end), 0, gates)
        permute(getattr(shuffled.lstm, "weight_hh_l0" + end), 1, order)
    read = torch.cat([orders[0], 6 + orders[1]])
    permute(shuffled.fc1.weight, 1, torch.cat([at * 12 + read for at in range(19)]))
    x = inputs_for(family)
    assert distance(equivariant, shuffled, x) < 1e-12
    plan, again = matched(shuffled, family.example)
    assert plan.start.found.moves.copies
    assert distance(equivariant, bake(again), x) < 1e-6


@pytest.mark.slow
def test_heads_and_the_channels_in_them_are_shuffled() -> None:
    family = named("Encoder")
    torch.manual_seed(3)
    equivariant = bake(moved(convert_model(family.make(), family.example, verify=False), family)).float()
    shuffled = copy.deepcopy(equivariant)
    for layer in shuffled.body.layers:
        heads = torch.randperm(4)
        order = torch.cat([head * 4 + torch.randperm(4) for head in heads])
        attention = layer.self_attn
        permute(attention.in_proj_weight, 0, torch.cat([k * 16 + order for k in range(3)]))
        permute(attention.in_proj_bias, 0, torch.cat([k * 16 + order for k in range(3)]))
        permute(attention.out_proj.weight, 1, order)
    x = inputs_for(family)
    assert distance(equivariant, shuffled, x) < 1e-12
    _, again = matched(shuffled, family.example)
    assert distance(equivariant, bake(again), x) < 1e-6


class Normalised(nn.Module):
    """Weight norm: a factor and a direction for each filter. (N, 4, 30) -> (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 12, 5))
        self.b = nn.utils.parametrizations.weight_norm(nn.Conv1d(12, 7, 3))
        self.out = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.a(x).relu()).relu().mean(-1))


def test_factors_of_weight_norm_are_reordered() -> None:
    example = torch.zeros(2, 4, 30)
    torch.manual_seed(4)
    family = Family(Normalised, example)
    plan, tied = matched(Normalised(), example)
    equivariant = bake(moved(tied, family)).float()
    shuffled = reordered(equivariant, plan, shuffle(plan, 5))
    assert not torch.equal(
        shuffled.a.parametrizations.weight.original0, equivariant.a.parametrizations.weight.original0
    )
    x = inputs_for(family)
    assert distance(equivariant, shuffled, x) < 1e-12
    assert distance(equivariant, bake(matched(shuffled, example)[1]), x) < 1e-6


class LowRank(nn.Module):
    """A weight that is a product of two: what passes between them is no activation. (N, 4, 30) -> (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(6, 20)), nn.Parameter(torch.randn(8, 6))
        self.out = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.conv1d(x, (self.b @ self.a).view(8, 4, 5))
        return self.out(h.relu().mean(-1))


def test_where_there_are_no_activations_weights_are_compared() -> None:
    example = torch.zeros(2, 4, 30)
    torch.manual_seed(5)
    plan, tied = matched(LowRank(), example)
    assert {row.how for row in plan.start.found.rows} == {"activations", "weights"}
    equivariant = bake(moved(tied, Family(LowRank, example))).float()
    shuffled = reordered(equivariant, plan, shuffle(plan, 6))
    x = examples(example)
    assert distance(equivariant, bake(matched(shuffled, example)[1]), x) < 1e-6


def test_a_module_on_both_strands_is_reordered_with_what_it_reads() -> None:
    family = named("ConvThenPool")
    torch.manual_seed(6)
    model = family.make()
    plan, converted = matched(model, family.example)
    assert [s.path for s in plan.symmetrisers] == ["readout"]
    assert not torch.equal(converted.readout[0].weight, model.readout[0].weight)
    assert check_equivariance(converted, family.example)


class Scaled(nn.Module):
    """Channels are scaled by numbers that no parameter or buffer holds, behind a module that is not looked into."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.read = nn.Conv1d(4, 6, 5), Reader()

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.stem(x).relu())


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Conv1d(6, 2, 3)

    def forward(self, h: Tensor) -> Tensor:
        return (self.out(h * torch.arange(1.0, 7.0)[:, None]).relu()).amax(-1)


def test_what_cannot_be_permuted_stays_and_the_plan_says_so() -> None:
    torch.manual_seed(7)
    model, example = Scaled(), torch.zeros(2, 4, 30)
    plan, converted = matched(model, example)
    assert plan.start.found.kept == ["stem.weight"]
    assert not plan.start.found.moves.variables
    assert "not reordered, as that would change the function: stem.weight" in str(plan)
    assert torch.equal(converted.read.out.weight, model.read.out.weight)


# --- a trained model --------------------------------------------------------------------------------


class Small(nn.Module):
    """(N, 4, 40) -> (N, 1)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, c, 7), nn.BatchNorm1d(c)
        self.mid, self.norm2 = nn.Conv1d(c, c, 5), nn.BatchNorm1d(c)
        self.out = nn.Linear(c, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.mid(self.norm(self.conv(x)).relu())).relu()
        return self.out(h.amax(-1)).squeeze(-1)


EXAMPLE = torch.zeros(4, 4, 40)


def dna(n: int, seed: int = 0, length: int = 40) -> Tensor:
    ids = torch.randint(4, (n, length), generator=torch.Generator().manual_seed(seed))
    return nn.functional.one_hot(ids, 4).mT.float()


def planted(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sequences, and whether a motif or its reverse complement was planted."""
    x = dna(n, seed)
    motif = nn.functional.one_hot(torch.tensor([0, 0, 2, 1, 0, 1, 3, 0]), 4).T.float()
    y = torch.arange(n) % 2
    for i in range(0, n):
        if y[i]:
            start = (7 * i) % 32
            x[i, :, start : start + 8] = motif if i % 4 == 1 else motif.flip(0, 1)
    return x, y.float()


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network that was trained with augmentation, a little."""
    return fitted(epochs=2)


@pytest.fixture(scope="module")
def well_trained() -> nn.Module:
    """The same to its end; about 2 seconds."""
    return fitted(epochs=8)


def fitted(epochs: int) -> nn.Module:
    torch.manual_seed(0)
    model, (x, y) = Small(24), planted(4096, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(epochs):
        for index in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(64):
            given = x[index] if torch.rand(()) < 0.5 else reverse_complement(x[index])
            loss = nn.functional.binary_cross_entropy_with_logits(model(given), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def tied_once(trained: nn.Module) -> nn.Module:
    """The trained network, matched on sequences of the library's own."""
    return matched(trained, EXAMPLE)[1]


@pytest.fixture(scope="module")
def tied_on_some(trained: nn.Module) -> nn.Module:
    """The same, on given ones."""
    return matched(trained, EXAMPLE, sequences=dna(64))[1]


def follows(model: nn.Module, trained: nn.Module, x: Tensor) -> float:
    """Correlation of a model's outputs with the mean of both readings of the trained one."""
    with torch.no_grad():
        mean = (trained(x) + trained(reverse_complement(x))) / 2
        both = torch.stack([mean, copy.deepcopy(model).eval()(x)])
    return float(torch.corrcoef(both)[0, 1])


@pytest.mark.slow
def test_a_trained_network_keeps_more_than_with_other_starts(well_trained: nn.Module) -> None:
    trained = well_trained
    x, unlabelled = planted(2000, 2)[0], planted(1024, 3)[0]
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for init in ("keep", "project"):
            model = recalibrate(convert_model(trained, EXAMPLE, init=init, verify=False), [unlabelled])
            found[init] = follows(model, trained, x)
        model = convert_model(trained, EXAMPLE, init="match", sequences=unlabelled, verify=False)
        found["match"] = follows(model, trained, x)
    assert found["match"] > max(found["keep"], found["project"]) + 0.03, found
    assert found["match"] > 0.97, found


def test_the_plan_says_what_was_matched(trained: nn.Module) -> None:
    unlabelled = planted(256, 3)[0]
    plan = plan_conversion(trained, EXAMPLE, init="match", sequences=unlabelled)
    rows = {row.name: row for row in plan.start.found.rows}
    assert set(rows) == {"conv.weight", "mid.weight"}
    assert rows["conv.weight"].pairs == 12
    assert set(rows["conv.weight"].names) >= {"conv.bias", "norm.weight", "norm.running_mean", "mid.weight"}
    assert all(row.likeness > row.chance + 0.1 for row in rows.values())
    (agreement,) = plan.start.agreement
    assert 0.5 < agreement <= 1
    text = str(plan)
    assert "init='match'" in text
    assert f"matched conv.weight: 12 pairs by activations, correlation {rows['conv.weight'].likeness:.2f}" in text
    assert f"correlation {agreement:.3f} on the given sequences" in text
    assert plan.verification is not None
    assert plan.verification.passed


@pytest.mark.slow
@pytest.mark.variation
def test_agreement_is_one_for_an_equivariant_model() -> None:
    torch.manual_seed(8)
    plain = bake(convert_model(Small(), EXAMPLE, verify=False))
    plan = plan_conversion(plain, EXAMPLE, init="match")
    assert plan.start.agreement == pytest.approx([1.0], abs=1e-5)
    assert plan.moved < 1e-5


def test_a_trained_model_is_told_of_the_route(trained: nn.Module) -> None:
    with pytest.warns(UserWarning, match=r'looks trained.*init="match"'):
        convert_model(trained, EXAMPLE, verify=False)
    with pytest.warns(UserWarning, match=r"pairs were matched.*sequences= or call recalibrate.*fine-tune"):
        convert_model(trained, EXAMPLE, init="match", verify=False)
    with pytest.warns(UserWarning, match="pairs were matched") as told:
        convert_model(trained, EXAMPLE, init="match", sequences=dna(64), verify=False)
    assert "recalibrate" not in str(told[0].message)


@pytest.mark.slow
def test_the_same_pairs_are_found_each_time(trained: nn.Module) -> None:
    one, two = (matched(trained, EXAMPLE)[1].state_dict() for _ in range(2))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_the_model_is_left_as_it_was(trained: nn.Module) -> None:
    before, state = copy.deepcopy(trained.state_dict()), torch.get_rng_state()
    matched(trained, EXAMPLE, sequences=dna(64))
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not trained.training


def test_in_place_parameters_stay_the_same_objects(trained: nn.Module, tied_once: nn.Module) -> None:
    model = copy.deepcopy(trained)
    held = [*model.parameters()]
    expected = tied_once
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = convert_model(model, EXAMPLE, init="match", verify=False, in_place=True)
    assert converted is model
    assert {id(p) for p in model.parameters()} == {id(p) for p in held}
    assert all(torch.equal(v, expected.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_plan_finds_the_pairs_of_another_model() -> None:
    torch.manual_seed(9)
    plan, tied = matched(Small(), EXAMPLE)
    family = Family(Small, EXAMPLE)
    equivariant = bake(moved(tied, family)).float()
    shuffled = reordered(equivariant, plan, shuffle(plan, 7))
    assert distance(equivariant, bake(quietly(plan, shuffled)), dna(5).double()) < 1e-6
    other = reordered(equivariant, plan, shuffle(plan, 8))
    assert distance(equivariant, bake(quietly(plan, other)), dna(5).double()) < 1e-6


# --- sequences --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.variation
def test_sequences_come_in_any_form(trained: nn.Module) -> None:
    x = dna(50)
    forms = [x, (x,), [x], iter([x]), [(x,)]]
    found = [matched(trained, EXAMPLE, sequences=form)[1].state_dict() for form in forms]
    assert all(torch.equal(value, other[name]) for other in found for name, value in found[0].items())
    pieces = matched(trained, EXAMPLE, sequences=[x[:24], x[24:48]])[1]
    assert pieces.norm.num_batches_tracked == 2
    assert found[0]["norm.num_batches_tracked"] == 1


def test_sequences_nest_as_the_example() -> None:
    family = named("BPNetLike")
    torch.manual_seed(10)
    given = examples(family.example, family.how["inputs"], batch=9)
    given = {name: value.float() for name, value in given.items()}
    plan, converted = matched(family.make(), family.example, sequences=given, **family.how)
    assert plan.start.found.moves.variables
    assert check_equivariance(converted, family.example, **family.how)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (dna(4, length=41), ValueError, r"\(4, 4, 41\), the example has \(4, 4, 40\)"),
        ((dna(4), dna(4)), ValueError, "2 inputs in a call, the example 1"),
        ([], ValueError, "holds no inputs"),
        ("ACGT", TypeError, "is a str"),
        (7, TypeError, "is a int"),
        ([["ACGT"]], TypeError, "holds a list where the example has a tensor"),
    ],
)
def test_other_sequences_are_refused(given: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        plan_conversion(Small(), EXAMPLE, init="match", sequences=given)


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="sequences= has no meaning with init='keep'"):
        convert_model(Small(), EXAMPLE, sequences=dna(4))
    with pytest.raises(ValueError, match="sequences= has no meaning with strategy='conjoined'"):
        convert_model(Small(), EXAMPLE, strategy="conjoined", sequences=dna(4))
    with pytest.raises(ValueError, match="init='matched': use 'keep', 'project' or 'match'"):
        convert_model(Small(), EXAMPLE, init="matched")


# --- the other ways in ------------------------------------------------------------------------------


def test_a_checkpoint_is_matched(trained: nn.Module, tied_once: nn.Module, tied_on_some: nn.Module) -> None:
    model = convert_model(Small(24), EXAMPLE, verify=False)
    load_plain_state_dict(model, trained.state_dict(), init="match")
    expected = tied_once.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    load_plain_state_dict(model, trained.state_dict(), init="match", sequences=dna(64))
    expected = tied_on_some.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_that_cannot_be_matched_leaves_the_model_as_it_was(trained: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = convert_model(Small(24), EXAMPLE, verify=False)
        model = apply_recipe(Small(24), recipe(first))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConversionError, match="does not know what it was converted with"):
        load_plain_state_dict(model, trained.state_dict(), init="match")
    with pytest.raises(ValueError, match="sequences= has no meaning with init='project'"):
        load_plain_state_dict(first, trained.state_dict(), sequences=dna(4))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_recipe_of_a_matched_model_makes_a_fresh_one_like_it(tied_on_some: nn.Module) -> None:
    converted = copy.deepcopy(tied_on_some).eval()
    said = recipe(converted)
    assert said["settings"]["init"] == "match"
    assert "sequences" not in said["settings"]
    fresh = apply_recipe(Small(24), said).eval()
    fresh.load_state_dict(converted.state_dict())
    assert torch.equal(fresh(dna(5)), converted(dna(5)))


@pytest.mark.slow
@pytest.mark.variation
def test_a_decorated_class_matches_its_new_instances() -> None:
    Decorated = rc_equivariant(example=(4, 4, 40), init="match", verify=False)(type("Decorated", (Small,), {}))
    torch.manual_seed(11)
    made = Decorated()
    torch.manual_seed(11)
    expected = matched(Small(), EXAMPLE)[1]
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in made.state_dict().items())


@pytest.mark.slow
def test_a_basset_without_scipy_is_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rcps_convert.infer.match.pairing.solver", lambda: None)
    torch.manual_seed(12)
    family = Family(BassetLike, torch.zeros(3, 4, 144))
    plan, tied = matched(BassetLike(), family.example)
    equivariant = bake(moved(tied, family)).float()
    shuffled = reordered(equivariant, plan, shuffle(plan, 9))
    assert distance(equivariant, bake(matched(shuffled, family.example)[1]), inputs_for(family)) < 1e-6


# --- least squares ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_layers_are_refitted_and_the_plan_says_so(well_trained: nn.Module) -> None:
    """Towards the mean of both readings, on sequences that were not looked at."""
    trained = well_trained
    x = planted(2000, 4)[0]
    plan, refitted = matched(trained, EXAMPLE, sequences=planted(512, 3)[0])
    assert plan.start.refitted == 2
    assert "weights of 2 layers by least squares on the given sequences" in str(plan)
    plan, projected = matched(trained, EXAMPLE)
    assert plan.start.refitted == 0
    assert "least squares" not in str(plan)
    recalibrate(projected, [planted(512, 3)[0]])
    assert follows(refitted, trained, x) > follows(projected, trained, x) + 0.005
    assert check_equivariance(refitted, EXAMPLE)


@pytest.mark.parametrize(
    "name",
    chosen(
        ["DeepSEALike", "BPNetLike", "UNetLike", "DanQLike", "SideInputs", "MultiQuery"],
        lambda name: name == "MultiQuery",
    ),
)
def test_what_fits_already_stays(name: str) -> None:
    """With sequences too, shuffled pairs are found again: no layer of an equivariant model can be fitted better."""
    family = named(name)
    _, plan, tied = first_match(name)
    equivariant = bake(moved(tied, family)).float()
    shuffled = reordered(equivariant, plan, shuffle(plan, 2))
    again, found = matched(shuffled, family.example, sequences=narrow(inputs_for(family)), **family.how)
    assert again.start.refitted == 0
    assert distance(equivariant, bake(found), inputs_for(family)) < 1e-6


def narrow(value: Any) -> Any:
    """In float32."""
    if isinstance(value, dict):
        return {name: narrow(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(map(narrow, value))
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(3, 5, 4), (6, 3, 20)),
        (nn.Conv1d(3, 5, 4, stride=3, padding=2, dilation=2), (6, 3, 20)),
        (nn.Conv1d(3, 5, 5, padding="same"), (6, 3, 20)),
        (nn.Conv2d(3, 5, (2, 3), stride=(1, 2), padding=(1, 0)), (6, 3, 8, 9)),
        (nn.Linear(7, 5), (6, 7)),
        (nn.Linear(7, 5), (6, 4, 7)),
    ],
    ids=str,
)
def test_windows_are_what_a_layer_reads(layer: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    dense = isinstance(layer, nn.Linear)
    rows = windows(x, layer.weight, None if dense else (layer.stride, layer.padding, layer.dilation))
    y = layer(x)
    wanted = y.flatten(0, -2) if dense else y.movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(rows @ layer.weight.flatten(1).mT + layer.bias, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("biased", [True, False])
def test_the_normal_equations_give_the_ridge_solution(biased: bool) -> None:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(4000, 6, generator=g) + 1, torch.randn(4000, 3, generator=g)
    weight, bias = torch.randn(3, 6, generator=g), torch.zeros(3) if biased else None
    normal = Normal(6, 3, 4, biased)
    for a, b in zip(x.split(1000), y.split(1000), strict=True):
        normal.add(a, b)
    solved = normal.solve(weight, bias)
    assert solved is not None
    w = solved[0].clone().requires_grad_()
    b = None if solved[1] is None else solved[1].clone().requires_grad_()
    pull = 0.01 * (1 + 10 * 6 / 4000) * float((x.var(0, correction=0) if biased else x.square().mean(0)).mean())
    error = x.double() @ w.mT + (0 if b is None else b) - y.double()
    (error.square().sum(1).mean() + pull * (w - weight).square().sum()).backward()
    assert w.grad.abs().max() < 1e-5
    assert b is None or b.grad.abs().max() < 1e-5


def test_a_weight_that_fits_is_left() -> None:
    g = torch.Generator().manual_seed(2)
    x, weight, bias = torch.randn(500, 6, generator=g), torch.randn(3, 6, generator=g), torch.randn(3, generator=g)
    normal = Normal(6, 3, 1, True)
    normal.add(x, x @ weight.mT + bias)
    assert normal.solve(weight, bias) is None
    assert normal.solve(weight, bias + 0.1) is not None
    assert normal.solve(weight * 1.01, bias) is not None


@pytest.mark.slow
@pytest.mark.parametrize("channels", [32, 256])
def test_matching_costs_at_most_twice_the_conversion_again(channels: int) -> None:
    """In CPU time, so other work on the machine does not count."""
    model = nn.Sequential(
        nn.Conv1d(4, channels, 15, padding=7), nn.BatchNorm1d(channels), nn.ReLU(), nn.MaxPool1d(4),
        nn.Conv1d(channels, channels, 5, padding=2), nn.BatchNorm1d(channels), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, 5),
    )  # fmt: skip
    seconds: dict[str, list[float]] = {"project": [], "match": []}
    for _ in range(3):
        for init, found in seconds.items():
            start = time.process_time()
            convert_model(model, torch.zeros(2, 4, 200), init=init)
            found.append(time.process_time() - start)
    assert min(seconds["match"]) <= 3 * min(seconds["project"]), seconds
