"""Ties as laws: W = rho(W) exactly, idempotent projections, round trips, over a registry of actions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action, act
from rcps_convert.algebra.axis import Axis
from rcps_convert.tie.attaching import attach, keep_full_weights, remove, ties
from rcps_convert.tie.ties import HalfTie, MirrorTie, OrbitTie, RCTie, make_tie

ACGT, ATCG, PLUS_MINUS = ax.permutation([3, 2, 1, 0]), ax.permutation([1, 0, 3, 2]), ax.permutation([1, 0])


def signed(term: Axis) -> Axis:
    return ax.product([term, ax.SIGN])


CASES: dict[str, tuple[tuple[Axis, ...], type]] = {
    "first convolution": ((ax.regular(6), ACGT, ax.length(5)), HalfTie),
    "another base order": ((ax.regular(6), ATCG, ax.length(5)), HalfTie),
    "hidden convolution": ((ax.regular(6), ax.regular(8), ax.length(4)), HalfTie),
    "odd filters": ((ax.regular(7), ax.regular(8), ax.length(3)), HalfTie),
    "odd everywhere": ((ax.regular(7), ax.regular(5), ax.length(3)), OrbitTie),
    "palindrome of even kernel": ((ax.trivial(3), ax.trivial(2), ax.length(4)), HalfTie),
    "palindrome of odd kernel": ((ax.trivial(3), ax.trivial(2), ax.length(5)), OrbitTie),
    "read-out": ((ax.trivial(1), ax.regular(10)), HalfTie),
    "stranded profile": ((PLUS_MINUS, ax.regular(10), ax.length(7)), HalfTie),
    "flattened": ((ax.regular(6), ax.product([ax.regular(4), ax.length(5)])), HalfTie),
    "flattened, odd": ((ax.trivial(2), ax.product([ax.regular(3), ax.length(5)])), OrbitTie),
    "gate": ((ax.total([ax.regular(4), ax.regular(4)]), ax.regular(6), ax.length(3)), HalfTie),
    "unequal concatenation": ((ax.regular(4), ax.total([ax.regular(4), ax.regular(6), ax.trivial(1)])), HalfTie),
    "antisymmetric": ((signed(ax.trivial(1)), ax.regular(6)), HalfTie),
    "antisymmetric bias": ((signed(ax.trivial(3)),), OrbitTie),
    "signed part": ((ax.total([ax.trivial(2), signed(ax.trivial(1))]), ax.regular(4)), OrbitTie),
    "inner pairs": ((ax.product([ax.trivial(3), ax.regular(4)]), ax.regular(2)), HalfTie),
}

each_case = pytest.mark.parametrize("case", CASES, ids=list(CASES))


def tie_of(case: str) -> RCTie:
    tie = make_tie(Action(CASES[case][0]))
    assert isinstance(tie, CASES[case][1])
    return tie


@each_case
def test_full_weight_is_its_own_mirror_image(case: str) -> None:
    tie = tie_of(case)
    full = tie(torch.randn(tie.stored_shape, dtype=torch.float64))
    assert full.shape == tie.full_shape
    assert torch.equal(act(tie.action, full), full)


@each_case
@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_layer_of_torch_gets_the_full_weight_however_often_it_asks(case: str, learns: bool, recorded: bool) -> None:
    tie = tie_of(case)
    stored = torch.randn(tie.stored_shape, dtype=torch.float64).requires_grad_(learns)
    with torch.set_grad_enabled(recorded):
        for _ in range(2):
            found = tie.in_stock_call(stored)
            assert torch.equal(found, tie(stored))
            assert found.requires_grad == (learns and recorded)
        with torch.no_grad():
            stored.mul_(2)
        assert torch.equal(tie.in_stock_call(stored), tie(stored))


@each_case
def test_stores_one_entry_per_orbit(case: str) -> None:
    """The rank of the expansion is the trace formula's count of invariants, (n + trace rho) / 2."""
    tie = tie_of(case)
    n = tie.full_shape.numel()
    basis = torch.eye(n, dtype=torch.float64).reshape(n, *tie.full_shape)
    trace = sum(float(act(tie.action, e).flatten()[i]) for i, e in enumerate(basis))
    assert tie.stored_shape.numel() == (n + trace) / 2


@each_case
def test_reduce_and_expand_are_inverse(case: str) -> None:
    tie = tie_of(case)
    stored = torch.randn(tie.stored_shape, dtype=torch.float64)
    assert torch.equal(tie.right_inverse(tie(stored)), stored)


@each_case
def test_projection_is_idempotent_and_onto_tied_weights(case: str) -> None:
    tie = tie_of(case)
    once = tie.project(torch.randn(tie.full_shape, dtype=torch.float64))
    torch.testing.assert_close(tie.project(once), once, rtol=0, atol=1e-15)
    torch.testing.assert_close(tie(tie.right_inverse(once)), once, rtol=0, atol=1e-15)


@each_case
def test_gradient_is_the_sum_over_the_orbit(case: str) -> None:
    tie = tie_of(case)
    stored = torch.randn(tie.stored_shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(tie.full_shape, dtype=torch.float64)
    (tie(stored) * weight).sum().backward()
    numeric = (
        torch.stack(
            [(tie(e) * weight).sum() for e in torch.eye(stored.numel(), dtype=torch.float64).reshape(-1, *stored.shape)]
        )
        if stored.numel()
        else stored.detach().flatten()
    )
    torch.testing.assert_close(stored.grad.flatten(), numeric.flatten(), rtol=0, atol=1e-12)


@each_case
def test_a_mirror_image_is_the_other_parameter_acted_on(case: str) -> None:
    holder = nn.Module()
    holder.weight = nn.Parameter(torch.randn(Action(CASES[case][0]).shape, dtype=torch.float64))
    tie = MirrorTie(Action(CASES[case][0]), (holder, "weight"))
    image = tie(tie.right_inverse(torch.zeros_like(holder.weight)))
    assert torch.equal(image, act(tie.action, holder.weight))
    assert torch.equal(tie.image(image), holder.weight)
    assert not list(tie.parameters())


def test_free_weights_need_no_tie() -> None:
    assert make_tie(Action((ax.trivial(4), ax.trivial(3)))) is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_permutation_ties_exactly(data: st.DataObject) -> None:
    terms = []
    for _ in range(data.draw(st.integers(1, 3))):
        size = data.draw(st.integers(1, 6))
        order = data.draw(st.permutations(range(size)))
        table = list(range(size))
        for a, b in zip(order[::2], order[1::2], strict=False):
            if data.draw(st.booleans()):
                table[a], table[b] = b, a
        terms.append(ax.permutation(table))
    action = Action(tuple(terms))
    tie = make_tie(action)
    if tie is None:
        assert action.is_trivial()
        return
    full = tie(torch.randn(tie.stored_shape, dtype=torch.float64))
    assert torch.equal(act(action, full), full)
    fixed = math.prod(int((ax.indices(t) == torch.arange(t.size)).sum()) for t in terms)
    assert tie.stored_shape.numel() == (full.numel() + fixed) // 2


def test_attach_keeps_the_parameter_and_the_representatives() -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(4, 6, 5)
    parameter, before = conv.weight, conv.weight.detach().clone()
    action = Action(CASES["first convolution"][0])
    attach(conv, ["weight"], make_tie(action), "keep")
    assert conv.parametrizations.weight.original is parameter
    assert parameter.shape == (3, 4, 5)
    assert torch.equal(conv.weight[:3], before[:3])
    assert torch.equal(conv.weight[3:], before[:3].flip(1, 2))
    remove(conv, "weight")
    assert type(conv) is nn.Conv1d
    assert conv.weight is parameter
    assert parameter.shape == (6, 4, 5)


def test_project_takes_the_orbit_mean() -> None:
    conv = nn.Conv1d(4, 6, 5)
    before = conv.weight.detach().clone()
    action = Action(CASES["first convolution"][0])
    attach(conv, ["weight"], make_tie(action), "project")
    torch.testing.assert_close(conv.weight, (before + act(action, before)) / 2, rtol=0, atol=1e-7)


def test_assigning_a_weight_stores_its_representatives() -> None:
    conv = nn.Conv1d(4, 6, 5)
    attach(conv, ["weight"], make_tie(Action(CASES["first convolution"][0])), "keep")
    new = torch.randn(6, 4, 5)
    conv.weight = new
    assert torch.equal(conv.weight[:3], new[:3])


def test_a_copy_of_a_tie_is_independent() -> None:
    conv = nn.Conv1d(4, 6, 5)
    attach(conv, ["weight"], make_tie(Action(CASES["first convolution"][0])), "keep")
    twin = copy.deepcopy(conv)
    with torch.no_grad():
        twin.parametrizations.weight.original.zero_()
    assert float(conv.weight.detach().abs().sum()) > 0
    assert len(ties(twin)) == 1
    assert parametrize.is_parametrized(conv)


# --- full weights that a private copy keeps ------------------------------------------------------


class Kept(nn.Module):
    """Computes with its weight, and counts how often that is put together."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 4 if kind is HalfTie else 1, bias=False)
        attach(self, ["lin.weight"], kept_tie(kind), "keep")
        self.tie, self.made = next(tie for _, _, _, tie in ties(self)), 0
        expand = self.tie.expand

        def counted(stored: torch.Tensor) -> torch.Tensor:
            self.made += 1
            return expand(stored)

        self.tie.expand = counted  # type: ignore[method-assign]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lin(x)

    @property
    def stored(self) -> nn.Parameter:
        return self.lin.parametrizations.weight.original


def kept_tie(kind: type) -> RCTie:
    axes = (
        (ax.regular(4), ax.regular(6))
        if kind is HalfTie
        else (ax.trivial(1), ax.product([ax.trivial(2), ax.length(3)]))
    )
    tie = make_tie(Action(axes))
    assert type(tie) is kind
    return tie


CHANGES = {
    "in place": lambda m: m.stored.mul_(2),
    "one entry": lambda m: m.stored.view(-1)[:1].fill_(3.0),
    "through a view": lambda m: m.stored.detach().add_(1),
    "optimiser": lambda m: _step(m),
    "loaded": lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
    "precision": lambda m: m.double(),
    "handed out": lambda m: m.handed.add_(1),
}


def _step(model: Kept) -> None:
    with torch.enable_grad():
        model(torch.ones(2, 6)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()


@pytest.mark.parametrize("kind", [HalfTie, OrbitTie])
@pytest.mark.parametrize("change", CHANGES)
def test_a_full_weight_that_is_kept_is_that_of_what_is_stored(kind: type, change: str) -> None:
    torch.manual_seed(0)
    model = Kept(kind)
    keep_full_weights(model)
    x = torch.randn(2, 6)
    with torch.no_grad():
        before, count = model(x), model.made
        assert torch.equal(model(x), before)
        assert model.made == count
        model.handed = model.tie.known.full  # type: ignore[union-attr]
        CHANGES[change](model)
        plain = copy.deepcopy(model)
        weight = kept_tie(kind).expand(plain.stored.detach().clone())
        x = x.to(weight.dtype)
        assert torch.equal(model(x), torch.nn.functional.linear(x, weight))
        assert model.made > count


def test_a_full_weight_with_gradients_is_not_kept() -> None:
    model = Kept(HalfTie)
    keep_full_weights(model)
    with torch.no_grad():
        model(torch.ones(2, 6))
    for _ in range(2):
        model.stored.grad = None
        model(torch.ones(2, 6)).sum().backward()
        assert model.stored.grad is not None
        assert bool((model.stored.grad != 0).all())


def test_large_weights_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rcps_convert.tie.attaching.KEPT", 23)
    model = Kept(HalfTie)
    keep_full_weights(model)
    assert model.tie.known is None


# --- full weights that layers of torch's are given again -----------------------------------------


def tied_conv() -> nn.Conv1d:
    """A convolution of 3 to 8 channels, tied on its outputs; `by_hand` puts its weight together."""
    torch.manual_seed(0)
    conv = nn.Conv1d(3, 8, 5).eval()
    attach(conv, ["weight"], make_tie(Action((REGULAR, ax.trivial(3), ax.length(5)))), "keep")
    return conv


REGULAR = ax.regular(8)
SEQUENCE = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(1))


def by_hand(conv: nn.Conv1d) -> torch.Tensor:
    """What a convolution computes with the weight that is stored now."""
    stored = conv.parametrizations.weight.original.detach()
    weight = torch.cat([stored, stored.flip(2)])
    return torch.conv1d(SEQUENCE.to(stored), weight, conv.bias)


def write_into_data(conv: nn.Conv1d) -> None:
    conv.parametrizations.weight.original.data.view(-1)[7] += 1


def train_a_step(conv: nn.Conv1d) -> None:
    with torch.enable_grad():
        conv(SEQUENCE.to(conv.bias)).square().mean().backward()
    torch.optim.SGD(conv.parameters(), 0.1).step()


def load_another(conv: nn.Conv1d) -> None:
    conv.load_state_dict({name: value + 1 for name, value in conv.state_dict().items()})


def assign(conv: nn.Conv1d) -> None:
    conv.weight = torch.ones(8, 3, 5).to(conv.bias)


def another_precision(conv: nn.Conv1d) -> None:
    conv.double()


def scale_what_a_hook_reads(conv: nn.Conv1d) -> None:
    """A hook writes into the weight that it reads; what it read is none of the layer's, so nothing changes."""

    def scales(module: nn.Module, args: object) -> None:
        module.weight.mul_(2)

    handle = conv.register_forward_pre_hook(scales)
    conv(SEQUENCE.to(conv.bias))
    handle.remove()


HAPPENS = [write_into_data, train_a_step, load_another, assign, another_precision, scale_what_a_hook_reads]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("change", HAPPENS)
def test_a_layer_computes_with_what_is_stored_now(change: Callable[[nn.Conv1d], None], context: type) -> None:
    conv = tied_conv()
    with context():
        first = conv(SEQUENCE)
        assert torch.equal(conv(SEQUENCE), first)
    assert torch.equal(first, by_hand(conv))
    with torch.no_grad():
        change(conv)
        wanted = by_hand(conv)
    with context():
        assert torch.equal(conv(SEQUENCE.to(wanted)), wanted)
        assert torch.equal(conv(SEQUENCE.to(wanted)), wanted)


def test_a_layer_that_was_called_is_copied_and_pickled_as_it_was() -> None:
    conv = tied_conv()
    before = set(vars(copy.deepcopy(conv).parametrizations.weight[0]))
    with torch.no_grad():
        conv(SEQUENCE)
        conv(SEQUENCE)
    assert conv.parametrizations.weight[0].seen is not None
    twin = copy.deepcopy(conv)
    assert set(vars(twin.parametrizations.weight[0])) == before
    with torch.no_grad():
        write_into_data(twin)
        assert torch.equal(twin(SEQUENCE), by_hand(twin))
        assert torch.equal(conv(SEQUENCE), by_hand(conv))


def test_gradients_reach_what_is_stored_after_calls_without() -> None:
    conv = tied_conv()
    with torch.no_grad():
        conv(SEQUENCE)
    conv(SEQUENCE).sum().backward()
    assert bool((conv.parametrizations.weight.original.grad != 0).all())


def test_an_inference_tensor_is_never_kept_for_a_call_with_gradients() -> None:
    conv = tied_conv()
    conv.requires_grad_(False)
    with torch.inference_mode():
        conv(SEQUENCE)
    x = SEQUENCE.clone().requires_grad_()
    conv(x).sum().backward()
    assert bool((x.grad != 0).any())
