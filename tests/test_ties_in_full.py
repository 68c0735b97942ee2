"""Small parts of what is attached to modules: images, guards, refusals, replicas."""

from __future__ import annotations

import copy
import json
from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.axis import Step
from rcps_convert.errors import ConversionError
from rcps_convert.geometry.replicas import follow_replicas, rebound, unfollow_replicas
from rcps_convert.graph.closed_modules import Bundle
from rcps_convert.tie.attaching import attach, attach_mirror, mirrored
from rcps_convert.tie.hooks import StrandHook, TensorHook, hook_of, install, install_inside, uninstall
from rcps_convert.tie.length_guard import LengthGuard, LengthRule, unguard
from rcps_convert.tie.norms import fold, needs_statistics, unfold
from rcps_convert.tie.parts import OtherPartError, watch
from rcps_convert.tie.passage import Passage, read_passage
from rcps_convert.tie.states import share_states
from rcps_convert.tie.symmetriser import symmetrise, symmetrised, unsymmetrised
from rcps_convert.tie.ties import HalfTie, MirrorTie
from rcps_convert.tie.untied import Untied, UntiedParameterError, leave_untied, refusal, refuse_calls, untied
from rcps_convert.tie.writing import TiedWeight

ACTION = Action((ax.regular(4), ax.length(3)))


# --- mirror images ----------------------------------------------------------------------------------


def pair() -> nn.ModuleDict:
    return nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(3, 4)})


def test_a_model_knows_which_parameters_are_mirror_images() -> None:
    model = pair()
    attach_mirror(model, ["b.weight"], ACTION, "a.weight", "keep")
    ((original, (image, tie)),) = mirrored(model).items()
    assert (original, image) == ("a.weight", "b.weight")
    assert isinstance(tie, MirrorTie)
    assert torch.equal(model.b.weight, model.a.weight.roll(2, 0).flip(1))


def test_what_an_image_stores_is_empty_and_has_as_many_axes() -> None:
    model = pair()
    attach_mirror(model, ["b.weight"], ACTION, "a.weight", "keep")
    (stored,) = model.b.parametrizations.weight.parameters()
    assert stored.shape == (0, 3)


@pytest.mark.parametrize("cached", [False, True])
def test_a_call_computes_with_plain_tensors(cached: bool) -> None:
    class Reads(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.read = type(self.weight)
            return super().forward(x)

    model = Reads(4, 4)
    attach(model, ["weight"], HalfTie(Action((ax.regular(4), ax.regular(4))), 0, 0), "keep")
    with parametrize.cached() if cached else nullcontext():
        assert type(model(torch.zeros(1, 4))) is torch.Tensor
    assert model.read is torch.Tensor
    assert type(model.weight) is TiedWeight


def test_a_tensor_class_that_knows_few_operators_is_tied() -> None:
    class Few(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "take" in getattr(func, "__name__", ""):
                raise NotImplementedError
            return super().__torch_function__(func, types, args, kwargs)

    tie, stored = HalfTie(Action((ax.regular(4), ax.length(3))), 0, 0), torch.randn(2, 3)
    full = tie.expand(stored.as_subclass(Few)).as_subclass(torch.Tensor)
    assert torch.equal(full, torch.cat([stored, stored.flip(1)]))


# --- length guards ----------------------------------------------------------------------------------


def rule(argument: str, place: int = 0, *chains: tuple[Step, ...]) -> LengthRule:
    return LengthRule(argument, place, 2, 12, chains or ((Step(1, 0, 4),),))


@pytest.mark.parametrize(
    ("found", "args", "kwargs", "length"),
    [
        (rule("x"), (torch.zeros(2, 4, 8),), {}, 8),
        (rule("x"), (), {"x": torch.zeros(2, 4, 9)}, 9),
        (rule("y"), (torch.zeros(2, 4, 8),), {}, 12),
        (rule("y"), (torch.zeros(2, 4, 8), torch.zeros(2, 4, 10)), {}, 10),
        (rule("2"), (0, 0, torch.zeros(2, 4, 11)), {}, 11),
        (rule("2"), (0, 0), {}, 12),
        (rule("x", 1), ([torch.zeros(2, 4, 8), torch.zeros(2, 4, 7)],), {}, 7),
        (rule("x", 1), (torch.zeros(2, 4, 8),), {}, 12),
        (rule("x"), (torch.zeros(2),), {}, 12),
        (rule("x"), ("text",), {}, 12),
    ],
)
def test_a_guard_finds_the_length_of_its_input(
    found: LengthRule, args: tuple[Any, ...], kwargs: dict[str, Any], length: int
) -> None:
    assert found.found_in(["x", "y"], args, kwargs) == length


def test_a_rule_holds_where_every_chain_does_and_names_the_nearest_lengths() -> None:
    found = rule("x", 0, (Step(1, 0, 4),), (Step(1, 0, 2), Step(1, 1, 3)))
    assert [n for n in range(1, 41) if found.holds(n)] == [4, 16, 28, 40]
    assert found.nearest(17) == [16, 28]
    assert not found.fixed
    assert rule("x", 0, (Step(1, 0), Step(1, 0, only=12))).fixed


def test_guards_are_taken_off() -> None:
    model = nn.Sequential(nn.Conv1d(4, 2, 1))
    model.register_forward_pre_hook(LengthGuard([rule("input")], ["input"]), with_kwargs=True)
    with pytest.raises(Exception, match="13"):
        model(torch.zeros(2, 4, 13))
    unguard(model)
    assert model(torch.zeros(2, 4, 13)).shape == (2, 2, 13)


# --- parameters that no trace read ------------------------------------------------------------------


def test_a_refusal_says_which_parameter_and_where_it_is() -> None:
    said = refusal("tower.conv.weight")
    assert "tower.conv.weight" in str(said)
    assert said.where is not None
    assert said.where.path == "tower.conv"


@pytest.mark.parametrize(("called", "idle"), [({"a"}, False), ({"b", "weight"}, True)])
def test_a_module_is_idle_where_no_trace_calls_it(called: set[str], idle: bool) -> None:
    model = pair()
    leave_untied(model, ["a.weight"], called)
    ((module, tie),) = untied(model).items()
    assert module is model.a
    assert tie.idle is idle


@pytest.mark.parametrize("called", [{"a"}, {"b"}])
def test_a_module_that_is_called_is_not_idle_if_it_shares_its_parameter(called: set[str]) -> None:
    model = pair()
    model.b.weight = model.a.weight
    leave_untied(model, ["a.weight", "b.weight"], called)
    assert [tie.idle for tie in untied(model).values()] == [False, False]


@pytest.mark.parametrize("called", [set(), {"a"}])
def test_an_untied_parameter_is_kept_as_plain_values(called: set[str]) -> None:
    model = pair()
    leave_untied(model, ["a.weight"], called)
    (tie,) = untied(model).values()
    plain = json.loads(json.dumps(tie.plain()))
    again = Untied(plain["name"], (4, 3), plain["idle"])
    assert (again.kind, again.name, again.idle) == (plain["kind"], "a.weight", not called)


def test_an_untied_parameter_is_not_read_where_a_compiler_hides_the_modules_that_run() -> None:
    model = pair()
    leave_untied(model, ["a.weight"], set())
    assert model.a.weight.shape == (4, 3)
    with mock.patch("rcps_convert.tie.untied.is_compiling", return_value=True), pytest.raises(UntiedParameterError):
        model.a.weight  # noqa: B018


# --- replicas ---------------------------------------------------------------------------------------


def test_following_replicas_is_undone() -> None:
    module = nn.Linear(3, 4)
    before = dict(vars(module))
    follow_replicas(module)
    assert dict(vars(module)) != before
    unfollow_replicas(module)
    assert dict(vars(module)) == before


def test_a_replica_runs_its_own_forward_and_keeps_what_belongs_to_nobody() -> None:
    module = nn.Linear(3, 4)
    twin, other = copy.deepcopy(module), nn.Linear(3, 4)
    assert rebound(module.forward, module, twin).__self__ is twin
    assert rebound(other.forward, module, twin).__self__ is other
    assert rebound(torch.relu, module, twin) is torch.relu
    assert rebound(pair, module, twin) is pair


def test_a_replica_is_made_once() -> None:
    module = nn.Linear(3, 4)
    follow_replicas(module)
    twin = module._replicate_for_data_parallel()
    assert set(vars(module)) - set(vars(twin)) == {"_replicate_for_data_parallel"}
    assert twin.forward.__self__ is twin


def test_a_replica_holds_replicas_of_the_parts() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4)), torch.zeros(2, 3)
    watch(model)
    twin = model._replicate_for_data_parallel()
    twin._modules["0"] = nn.Linear(3, 4)
    assert twin(x).shape == (2, 4)
    model[0] = nn.ReLU()
    with pytest.raises(OtherPartError, match="a ReLU, where a Linear was converted"):
        model(x)
    del model[0]
    with pytest.raises(OtherPartError, match="nothing, where a Linear was converted"):
        model(x)


def test_what_was_added_is_named_by_its_own_place() -> None:
    class Added(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    model = nn.Sequential(nn.Linear(3, 4))
    watch(model)
    model.append(nn.Sequential(Added()))
    with pytest.raises(OtherPartError, match="a Sequential, where nothing was there") as refused:
        model(torch.zeros(2, 3))
    assert refused.value.where is not None
    assert refused.value.where.path == "1"


# --- hooks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", [StrandHook(), TensorHook()])
def test_a_hook_says_what_it_lacks(hook: StrandHook) -> None:
    for work in (hook.before, lambda *given: hook.after(*given, torch.zeros(1))):
        with pytest.raises(NotImplementedError):
            work(nn.Identity(), (torch.zeros(1),), {})


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        (nn.BatchNorm1d(4), True),
        (nn.BatchNorm1d(4, track_running_stats=False), True),
        (nn.InstanceNorm1d(4), False),
        (nn.InstanceNorm1d(4, track_running_stats=True), True),
        (nn.LayerNorm(4), False),
    ],
)
def test_which_norms_depend_on_statistics_over_the_batch(module: nn.Module, needs: bool) -> None:
    assert needs_statistics(module) is needs


def test_a_hook_sees_the_first_tensor() -> None:
    class Seen(TensorHook):
        def tensor_before(self, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
            return x + 1

        def tensor_after(self, module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.stack([x, y])

    module = nn.Bilinear(1, 1, 1, bias=False)
    nn.init.ones_(module.weight)
    install(module, Seen())
    first, second = torch.tensor([2.0]), torch.tensor([5.0])
    assert module(first, second).flatten().tolist() == [3.0, 15.0]
    assert module(first, input2=second).flatten().tolist() == [3.0, 15.0]
    uninstall(module)
    assert module(first, second).tolist() == [10.0]


@pytest.mark.parametrize("outer_stays", [True, False])
def test_of_two_hooks_on_a_forward_each_can_be_taken_off(outer_stays: bool) -> None:
    class Adds(StrandHook):
        def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            return (args[0] + 1,), kwargs

        def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            return output

    class Doubles(StrandHook):
        def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            return (2 * args[0],), kwargs

        def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            return output

    module, x = nn.Identity(), torch.tensor([3.0])
    install_inside(module, Adds())
    install_inside(module, Doubles())
    assert module(x) == 7
    twin = module._replicate_for_data_parallel()
    assert twin(x) == 7
    assert twin.forward.module is twin
    uninstall(module, Adds if outer_stays else Doubles)
    assert module(x) == (6 if outer_stays else 4)
    uninstall(module)
    assert module(x) == 3
    assert "forward" not in vars(module)


def test_a_module_that_no_trace_calls_says_which_parameter_it_holds() -> None:
    model = pair()
    leave_untied(model, ["a.weight"], set())
    (tie,), plain = untied(model).values(), nn.Linear(3, 4)
    refuse_calls({plain: tie})
    with pytest.raises(UntiedParameterError, match=r"a\.weight"):
        plain(torch.zeros(3))


# --- norms and both strands -------------------------------------------------------------------------


@pytest.mark.parametrize("width", [4, 12])
def test_an_unfolded_norm_without_statistics_pools_both_halves(width: int) -> None:
    norm = nn.BatchNorm1d(width, track_running_stats=False)
    fold(norm, "keep")
    unfold(norm)
    x = torch.randn(3, width, 5, dtype=torch.float64)
    y = norm.double()(x)
    strands = torch.cat([x, x.roll(width // 2, 1)])
    expected = (x - strands.mean((0, 2))[:, None]) / (strands.var((0, 2), correction=0)[:, None] + norm.eps).sqrt()
    assert torch.allclose(y, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stacks", [True, False])
def test_a_module_on_both_strands_is_symmetric_and_says_so_at_other_shapes(stacks: bool) -> None:
    bases = Action((ax.batch(2), ax.permutation([3, 2, 1, 0]), ax.length(8)))
    module = nn.Conv1d(4, 4, 3, padding=1).double()
    plain = copy.deepcopy(module)
    symmetrise(module, Passage((bases,), (bases,), (0,), (0,), stacks=stacks))
    x = torch.randn(2, 4, 8, dtype=torch.float64)
    expected = (plain(x) + plain(x.flip(1, 2)).flip(1, 2)) / 2
    assert torch.allclose(module(x), expected, rtol=0, atol=1e-12)
    with pytest.raises(ConversionError, match="in another way than at conversion"):
        hook_of(module)._mirrored(module, Bundle.of(((x, x), {})))  # type: ignore[union-attr]
    assert symmetrised(module) == [""]
    assert symmetrised(unsymmetrised(module)) == []


def test_a_passage_is_kept_as_plain_values() -> None:
    bases = Action((ax.batch(2), ax.permutation([3, 2, 1, 0]), ax.length(8)))
    plain = json.loads(json.dumps(Passage((bases, None), (bases,), (0, None), (0,), stacks=True, calls=2).plain()))
    again = read_passage(plain)
    assert again.given[1] is None
    assert again.given_batch == (0, None)
    assert [str(a) for a in (again.given[0], *again.made)] == [str(bases)] * 2
    assert again.plain() == plain


def test_a_module_on_both_strands_refuses_channels_that_it_was_not_converted_for() -> None:
    swapped = Action((ax.batch(2), ax.product([ax.permutation([1, 0, 2]), ax.trivial(2)])))
    module = nn.Identity()
    symmetrise(module, Passage((swapped,), (swapped,), (0,), (0,), stacks=True))
    with pytest.raises(ConversionError, match="at other lengths than at conversion"):
        module(torch.zeros(2, 5))


def test_a_buffer_that_gradients_flow_into_is_averaged_too() -> None:
    module, values = nn.Module(), torch.randn(4, 3)
    module.register_buffer("mean", values.clone().requires_grad_())
    share_states(module, {"mean": ACTION})
    assert torch.allclose(module.mean, (values + values.roll(2, 0).flip(1)) / 2)
    assert module.mean.is_leaf
    assert module.mean.requires_grad


@pytest.mark.parametrize("by_sample", [True, False])
def test_half_of_a_batch_on_both_strands_is_half_of_the_samples(by_sample: bool) -> None:
    """DeepLIFT takes one half for samples and the other for references; rows of other kinds stay in their order."""

    class Seen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.given = x
            return x

    rows = ax.batch(4) if by_sample else ax.product([ax.batch(4), ax.length(3)])
    rule = Action((rows, ax.permutation([3, 2, 1, 0])))
    module, x = Seen(), torch.randn(rows.size, 4)
    theirs = x.flip(1) if by_sample else x.reshape(4, 3, 4).flip(1, 2).reshape(12, 4)
    symmetrise(module, Passage((rule,), (rule,), (0,), (0,), stacks=True))
    module(x)
    if by_sample:
        pairs = torch.cat([t for pair in zip(x, theirs, strict=True) for t in pair])
        assert torch.equal(module.given, pairs.view(8, 4))
    else:
        assert torch.equal(module.given, torch.cat([x, theirs]))
