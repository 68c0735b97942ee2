"""What is kept of a call, its lengths, its parts and its buffers: value by value, judged by hand."""

from __future__ import annotations

import copy
import json
import pickle
import re
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils.parametrize import ParametrizationList

from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.axis import SIGN, Step
from rcps_convert.errors import BreaksSymmetryError, ConversionError
from rcps_convert.tie import attaching, written
from rcps_convert.tie.argument_guard import (
    ArgumentGuard,
    given_by,
    guard_arguments,
    guard_calls,
    read_given,
    unguard_calls,
)
from rcps_convert.tie.attaching import attach, attach_mirror, keep_full_weights, require_unpruned, ties
from rcps_convert.tie.checks import KNOWN, Check, attach_check, checks_of, drop_checks
from rcps_convert.tie.factors import Factor, factors, sign_of
from rcps_convert.tie.hooks import StrandHook, TensorHook, hook_of, install, install_inside, uninstall
from rcps_convert.tie.length_guard import LengthGuard, LengthRule, guard, only_at, read_rule, through
from rcps_convert.tie.norms import fold, folds, keeps_statistics, pool, settle_statistics, unfold, unpool
from rcps_convert.tie.notes import forget, note, noted
from rcps_convert.tie.parts import AddedPart, OtherPartError, Parts, parts_of, unwatch, watch
from rcps_convert.tie.passage import Passage
from rcps_convert.tie.states import read_buffers, share_states
from rcps_convert.tie.ties import HalfTie, MirrorTie, OrbitTie, make_tie, read_tie
from rcps_convert.tie.untied import IdleModule, allow_calls, is_idle, leave_untied, refuse_call, unguarded, untied
from rcps_convert.tie.writing import TiedWeight
from rcps_convert.tie.written import Written

X = torch.zeros(2, 4, 12)


# --- arguments ---


class Takes(nn.Module):
    def forward(self, x: Tensor, way: str = "mean", *, power: float = 1.0, weights: Any = None) -> Tensor:
        return x


class Gathers(nn.Module):
    def forward(self, x: Tensor, *more: Any, **others: Any) -> Tensor:
        return x


class TakesOne(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("model", "example", "given"),
    [
        (TakesOne(), X, None),
        (TakesOne(), {"x": X}, None),
        (Takes(), X, {"x": []}),
        (Takes(), (X, "sum"), {"x": [], "way": ["sum"]}),
        (Takes(), {"x": X, "power": 2.0}, {"x": [], "power": [2.0]}),
        (Takes(), {"x": X, "weights": None}, {"x": [], "weights": [None]}),
        (Takes(), {"x": X, "power": 1, "weights": X}, {"x": [], "power": [1], "weights": []}),
        (Gathers(), X, {"x": []}),
        (Gathers(), (X, X, True), {"x": [], "1": [], "2": [True]}),
    ],
)  # fmt: skip
def test_what_an_example_gives(model: nn.Module, example: Any, given: Any) -> None:
    assert given_by(model, example) == given


def test_a_forward_without_a_signature_is_taken_to_have_no_other_arguments() -> None:
    model = TakesOne()
    with mock.patch("inspect.signature", side_effect=ValueError):
        assert given_by(model, (X,)) is None


def guarded(given: dict[str, list[Any]], model: nn.Module | None = None) -> nn.Module:
    made = model or Takes()
    guard_arguments(made, given)
    return made


TAKEN: list[tuple[dict[str, list[Any]], tuple[Any, ...], dict[str, Any]]] = [
    ({"x": []}, (X,), {}),
    ({"x": []}, (X, "mean"), {}),
    ({"x": []}, (X,), {"power": 1.0, "weights": None}),
    ({"x": [], "way": ["sum"]}, (X, "sum"), {}),
    ({"x": [], "way": ["mean"]}, (X,), {}),  # left out, and its default
    ({"x": [], "weights": []}, (X,), {"weights": X}),
    ({"x": [], "weights": ["{'a': 1}"]}, (X,), {"weights": {"a": 1}}),
    ({"x": [], "weights": ["[1, 'Tensor']"]}, (X,), {"weights": [1, X]}),
]
REFUSED: list[tuple[dict[str, list[Any]], tuple[Any, ...], dict[str, Any], str, str, str]] = [
    ({"x": []}, (X, "sum"), {}, "way", "'sum'", "the example of the conversion did not have it"),
    ({"x": []}, (X,), {"power": 2.0}, "power", "2.0", "did not have it"),
    ({"x": []}, (X,), {"power": 1}, "power", "1", "did not have it"),  # of another kind
    ({"x": []}, (X,), {"power": True}, "power", "True", "did not have it"),
    ({"x": []}, (X,), {"weights": X}, "weights", r"a tensor of shape \(2, 4, 12\)", "did not have it"),
    ({"x": []}, (X,), {"weights": [X]}, "weights", r"\[tensor", "did not have it"),
    ({"x": []}, (X,), {"weights": torch.tensor(3.0)}, "weights", r"shape \(\), float32", "did not have it"),
    ({"x": []}, (X,), {"weights": object()}, "weights", "<object", "did not have it"),
    ({"x": [], "weights": []}, (X,), {}, "weights", "None", "with one in the place of weights=None"),  # it is left out
    (
        {"x": [], "weights": ["{'a': 1}"]},
        (X,),
        {"weights": {"a": 2}},
        "weights",
        "{'a': 2}",
        "was converted with weights={'a': 1}",
    ),
    (
        {"x": [], "weights": ["[1, 'Tensor']"]},
        (X,),
        {"weights": [2, X]},
        "weights",
        r"\[2, tensor",
        "weights=[1, 'Tensor']",
    ),
    ({"x": [], "way": ["sum"]}, (X,), {}, "way", "'mean'", "was converted with way='sum'"),
    ({"x": [], "way": ["sum"]}, (X, "mean"), {}, "way", "'mean'", "was converted with way='sum'"),
    ({"x": [], "power": [2.0]}, (X,), {"power": 2}, "power", "2", "was converted with power=2.0"),
    ({"x": [], "power": [None]}, (X,), {"power": X}, "power", "a tensor", "was converted with power=None"),
]


@pytest.mark.parametrize(("given", "args", "kwargs"), TAKEN)
def test_arguments_that_are_taken(given: Any, args: Any, kwargs: Any) -> None:
    assert guarded(given)(*args, **kwargs) is X


@pytest.mark.parametrize(("given", "args", "kwargs", "name", "got", "why"), REFUSED)
def test_arguments_that_are_refused(given: Any, args: Any, kwargs: Any, name: str, got: str, why: str) -> None:
    with pytest.raises(BreaksSymmetryError) as refused:
        guarded(given)(*args, **kwargs)
    assert refused.value.what == f"argument {name} is given as it was not when the model was converted"
    said = str(refused.value)
    assert re.search(got, said)
    assert why in said
    assert "a way that was not traced" in said
    assert "convert the model with an example that holds every argument as in this call" in said


@pytest.mark.parametrize("value", [3, 2.5, None, torch.tensor(3), True, "way", X, [X], object()])
def test_whatever_forward_gathers_is_another_argument(value: Any) -> None:
    with pytest.raises(BreaksSymmetryError, match="argument count is given as it was not"):
        guarded({"x": []}, Gathers())(X, count=value)


def test_long_values_are_shortened() -> None:
    with pytest.raises(BreaksSymmetryError) as refused:
        guarded({"x": []})(X, "w" * 100)
    assert f"got    '{'w' * 59}\n" in str(refused.value)


def test_what_was_given_is_kept_as_plain_values() -> None:
    guard = ArgumentGuard({"x": [], "way": ["sum"], "none": [None]})
    plain = json.loads(json.dumps(guard.plain()))
    assert read_given(plain) == guard.given
    assert guard.plain()["given"]["way"] is not guard.given["way"]
    with pytest.raises(ValueError, match="a value that is none of a recipe"):
        read_given({"given": {"x": [], "way": [["sum"]]}})


def test_checks_of_calls_are_attached_where_there_is_need_once_and_detached() -> None:
    rule = LengthRule("x", 0, 2, 12, ((Step(1, 0, only=12),),))
    for rules, given, kinds in (
        ([], None, []),
        ([rule], None, [LengthGuard]),
        ([], {"x": []}, [ArgumentGuard]),
        ([rule], {"x": []}, [ArgumentGuard, LengthGuard]),
    ):
        model = nn.Sequential(Takes())
        for _ in range(2):
            guard_calls(model[0], rules, given)
        assert sorted((type(c) for c in checks_of(model[0])), key=lambda t: t.__name__) == kinds
        unguard_calls(model)
        assert checks_of(model[0]) == []
        assert "forward" not in vars(model[0])


def test_checks_judge_what_the_caller_gave_before_the_hooks_of_a_user() -> None:
    model = Takes()
    model.register_forward_pre_hook(lambda m, args: (args[0], "sum"))
    guard_arguments(model, {"x": []})
    assert model(X) is X
    with pytest.raises(BreaksSymmetryError):
        model(X, "sum")


class Notes(Check):
    needed = False

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.calls.append((module, args, kwargs))


@pytest.mark.parametrize("hooked", [False, True])
def test_a_check_is_told_of_each_call_until_it_is_dropped(hooked: bool) -> None:
    module, check = Takes(), Notes()
    if hooked:
        module.register_forward_pre_hook(lambda m, args: None)
    attach_check(module, check)
    assert checks_of(module) == [check]
    assert module(X, power=2.0) is X
    assert check.calls == [(module, (X,), {"power": 2.0})]
    drop_checks(nn.Sequential(module), lambda c: isinstance(c, LengthGuard))
    assert checks_of(module) == [check]
    drop_checks(nn.Sequential(module), lambda c: isinstance(c, Notes))
    assert checks_of(module) == []
    module(X)
    assert len(check.calls) == 1


def test_a_check_follows_a_copy_of_its_module() -> None:
    module = Takes()
    attach_check(module, Notes())
    twin = copy.deepcopy(module)
    twin(X)
    (own,), (other,) = checks_of(twin), checks_of(module)
    assert [c[0] for c in own.calls] == [twin]  # type: ignore[attr-defined]
    assert other.calls == []  # type: ignore[attr-defined]


# --- lengths ---


def test_a_rule_is_kept_as_plain_values_and_admits_one_length_if_it_is_told_to() -> None:
    rule = LengthRule("x", 1, 2, 12, ((Step(1, 0, 4), Step(1, 1, 3)), (Step(2, -1, only=12),)), "why")
    assert read_rule(json.loads(json.dumps(rule.plain()))) == rule
    only = only_at(rule, 9)
    assert (only.argument, only.place, only.dim, only.start) == ("x", 1, 2, 9)
    assert only.fixed
    assert [n for n in range(1, 20) if only.holds(n)] == [9]
    assert "baked for another length" in only.why


def test_only_the_last_operator_of_a_chain_must_end_well() -> None:
    rule = LengthRule("x", 0, 2, 12, ((Step(1, 0, 2), Step(1, 0, 3)),))
    assert [n for n in range(1, 15) if rule.holds(n)] == [6, 12]
    assert [n for n in range(1, 15) if rule.ends_well(n)] == [6, 7, 12, 13]
    assert rule.nearest(9) == [7, 12]
    assert through(rule.chains[0], 13) == 2
    assert through((), 13) == 13
    assert not rule.fixed
    for chain in ((Step(1, -2, only=12),), (Step(1, 0, 2), Step(1, 0, 3), Step(1, -1, only=2))):
        one = LengthRule("x", 0, 2, 12, (chain,))
        assert one.fixed
        assert [n for n in range(1, 30) if one.ends_well(n) and one.holds(n)] == [12]


def test_a_length_is_refused_with_what_to_do() -> None:
    free = LengthRule("x", 0, 2, 12, ((Step(1, 0, 4),),), "because")
    LengthGuard.require(free, 16)
    with pytest.raises(BreaksSymmetryError) as refused:
        LengthGuard.require(free, 18)
    said = str(refused.value)
    for words in (
        "an input of 18 positions, in a model converted at 12",
        "argument x, axis 2",
        "because",
        "the nearest lengths that work are 16 and 20",
    ):
        assert words in said
    with pytest.raises(BreaksSymmetryError, match="pad or crop the input to 9 positions, or convert the model with"):
        LengthGuard.require(only_at(free, 9), 18)
    none = LengthRule("x", 0, 2, 12, ((Step(1, 0, only=7), Step(1, 0)), (Step(1, 0, only=12),)))
    with pytest.raises(BreaksSymmetryError, match="nearest lengths that work are 12"):
        LengthGuard.require(none, 13)


class Counting(Check):
    """Counts what it is asked, and stands for as long as `still`."""

    still = True

    def __init__(self, by_form: bool = False) -> None:
        self.by_form = by_form
        self.calls: list[Any] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.calls.append(args)

    def stands(self) -> bool:
        return self.still


def asked(module: nn.Module, check: Counting, *args: Any, **kwargs: Any) -> bool:
    before = len(check.calls)
    module(*args, **kwargs)
    return len(check.calls) > before


def test_a_call_of_a_form_that_passed_is_judged_again_only_where_a_check_does_not_stand() -> None:
    """Else a form that was measured with other settings passes unseen."""
    module, form, state = nn.ReLU().eval(), Counting(by_form=True), Counting()
    for check in (form, state):
        attach_check(module, check)
    forms = X, X[:1], X.double(), X.to_sparse()
    assert [[asked(module, check, x) for x in forms] for check in (form, state, form)] == [
        [True] * 4,
        [False] * 4,
        [False] * 4,
    ]
    module.train()
    assert [asked(module, form, x) for x in (X, X)] == [True, False]
    module.eval()
    state.still = False
    assert [asked(module, form, x) for x in (X, X, X[:1])] == [True] * 3
    state.still = True
    assert [asked(module, form, x) for x in (X, X, X[:1], X[:1])] == [True, False, True, False]


def test_calls_of_more_than_a_tensor_and_calls_that_are_watched_are_judged_each_time() -> None:
    module, check = Takes(), Counting(by_form=True)
    attach_check(module, check)
    assert [asked(module, check, X) for _ in range(2)] == [True, False]
    assert all(asked(module, check, X, "mean") and asked(module, check, X, power=2.0) for _ in range(2))
    assert all(asked(module, check, x=X) and asked(module, check, nn.Parameter(X)) for _ in range(2))
    assert all(asked(torch.vmap(module), check, X) for _ in range(2))  # type: ignore[arg-type]
    for _ in range(2):
        with torch.overrides.BaseTorchFunctionMode():
            assert asked(module, check, X)
    assert not asked(module, check, X)


def test_what_passed_is_nothing_that_a_compiler_goes_by() -> None:
    """Else each form that is met beside the compiled model compiles it anew."""
    torch.compiler.reset()  # of what other tests compiled with other lengths
    module, count = Takes(), CompileCounter()
    guard(module, [LengthRule("x", 0, 2, 12, ((Step(1, 0, only=12),),))])
    compiled = torch.compile(module, backend=count, fullgraph=True)
    for n in range(1, 4):
        module(torch.zeros(n, 4, 12))
        compiled(X)
    assert count.frame_count == 1


def test_what_did_not_pass_is_refused_again_and_forms_are_bounded() -> None:
    module = Takes()
    guard(module, [LengthRule("x", 0, 2, 12, ((Step(1, 0, only=12),),))])
    for _ in range(2):
        assert module(X) is X
        with pytest.raises(BreaksSymmetryError):
            module(torch.zeros(2, 4, 30))
    for n in range(2 * KNOWN):
        module(torch.zeros(n, 4, 12))
    assert 0 < len(module.forward.passed) <= KNOWN  # type: ignore[union-attr,arg-type]
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert twin.forward.passed == set()


def test_a_check_that_is_attached_or_dropped_is_told_at_once() -> None:
    module, first, second = Takes(), Counting(), Counting()
    attach_check(module, first)
    module(X)
    attach_check(module, second)
    assert checks_of(module) == [second, first]
    assert asked(module, second, X)
    assert not asked(module, first, X)
    around = module.forward
    drop_checks(module, lambda check: check is second)
    assert checks_of(module) == [first]
    assert checks_of(Takes()) == []
    assert [type(c) for c in around.checks] == [Counting] * 2  # type: ignore[attr-defined]
    drop_checks(module, lambda check: check is first)
    assert "forward" not in vars(module)


# --- parts ---


def tower() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(4, 8, 3), nn.Sequential(nn.ReLU(), nn.Conv1d(8, 8, 1)), nn.Conv1d(8, 8, 1))


def test_the_parts_of_a_model_are_its_modules_each_once() -> None:
    model = tower()
    model.append(model[0])
    found = parts_of(model, ())
    assert {*map(id, found)} == {*map(id, model.modules())} - {id(model)}
    assert len(found) == 5
    assert [model.get_submodule(path) for path in Parts(model).paths] == found


def refusal_of(model: nn.Module) -> tuple[str | None, str | None]:
    try:
        model(torch.zeros(2, 4, 12))
    except OtherPartError as refused:
        return getattr(refused.where, "path", None), refused.got
    return None, None


def test_what_differs_is_named_by_its_place_and_kind() -> None:
    model = tower()
    kept = model[2], model[1][1]  # type: ignore[index]
    watch(model)
    assert refusal_of(model) == (None, None)
    model[1][1] = nn.Conv1d(8, 8, 1)  # type: ignore[index]
    assert refusal_of(model) == ("1.1", "a Conv1d, where a Conv1d was converted")
    model[1][1] = kept[0]  # type: ignore[index]
    model[2] = kept[1]
    assert refusal_of(model) == ("2", "the Conv1d of another place, where a Conv1d was converted")
    model[1][1], model[2] = kept[1], kept[0]  # type: ignore[index]
    assert refusal_of(model) == (None, None)
    model[2] = nn.Identity()
    assert refusal_of(model) == ("2", "a Identity, where a Conv1d was converted")
    del model[2]
    assert refusal_of(model) == ("2", "nothing, where a Conv1d was converted")


def test_a_module_that_is_called_elsewhere_may_be_added() -> None:
    model = tower()
    watch(model)
    beside = nn.Linear(3, 3)
    model[0].head = beside
    assert refusal_of(model) == (None, None)
    assert beside(torch.zeros(3)).shape == (3,)
    checks = checks_of(beside)
    assert [type(c) for c in checks] == [AddedPart]
    assert refusal_of(model) == (None, None)
    assert checks_of(beside) == checks  # once
    model.append(nn.ReLU())
    assert refusal_of(model) == ("3", "a ReLU, where nothing was there")
    unwatch(model)
    assert refusal_of(model) == (None, None)
    assert not any(checks_of(m) for m in model.modules())


def test_what_is_noted_is_forgotten() -> None:
    model = nn.ReLU()
    assert noted(model) is None
    forget(model)
    note(model, {"given": {"a": 1}, "nothing": 2})
    assert noted(model) == {"given": {"a": 1}}
    forget(model)
    assert noted(model) is None


def test_watching_anew_takes_what_is_there_for_what_was_converted() -> None:
    model = tower()
    watch(model)
    model[2] = nn.ReLU()
    watch(model)
    assert refusal_of(model) == (None, None)
    assert len(checks_of(model)) == 1
    assert not checks_of(model)[0].needed


def test_the_order_of_modules_matters_to_a_forward_that_goes_through_them() -> None:
    model = nn.ModuleDict({"a": nn.ReLU(), "b": nn.Sigmoid()})
    model.forward = lambda x: x  # type: ignore[method-assign]
    parts, module = Parts(model), model
    parts(module, (), {})
    model._modules = {"b": model["b"], "a": model["a"]}
    with pytest.raises(OtherPartError, match="of another place"):
        parts(module, (), {})


def test_a_wrapper_of_torch_counts_as_what_it_wraps() -> None:
    model = tower()
    watch(model)
    model[0] = nn.Sequential(model[0])  # as torch.compile wraps it
    (parts,) = checks_of(model)
    parts(model, (), {})
    assert [checks_of(m) for m in model] == [[], [], []]
    model[0] = nn.Sequential(nn.Identity(), model[0])  # holds more than that
    assert refusal_of(model) == ("0", "a Sequential, where nothing was there")


def test_what_is_compiled_or_a_replica_is_not_compared() -> None:
    model = tower()
    watch(model)
    (parts,) = checks_of(model)
    model[2] = nn.ReLU()
    with mock.patch("rcps_convert.tie.parts.is_dynamo_compiling", return_value=True):
        parts(model, (), {})
    for exported in (True, False):
        with mock.patch("rcps_convert.tie.parts.is_compiling", return_value=exported), pytest.raises(OtherPartError):
            parts(model, (), {})


def test_what_a_tie_holds_is_no_part() -> None:
    model = tower()
    nn.utils.parametrizations.weight_norm(model[0])
    found = parts_of(model, ())
    assert sum(isinstance(p, ParametrizationList) for p in found) == 1
    assert not [p for p in found if "_WeightNorm" in type(p).__name__]


# --- buffers ---


def test_what_was_written_into_is_told_once() -> None:
    a, b, seen = torch.zeros(3), torch.zeros(3), Written()
    assert [seen.since(a, b), seen.since(a, b)] == [True, False]
    b += 1
    assert [seen.since(a, b), seen.since(a, b)] == [True, False]
    assert [seen.since(a, b.clone()), seen.since(b, a), seen.since(b), seen.since(b)] == [True, True, True, False]
    assert not seen.since(b, None, "text")  # no tensors
    with torch.inference_mode():
        c = torch.zeros(3)
        assert [seen.since(c), seen.since(c)] == [True, False]
    for again in (copy.deepcopy(seen), pickle.loads(pickle.dumps(seen))):
        assert again.seen == []
        assert again.since(c)


def test_nothing_is_told_where_calls_are_recorded_or_transformed() -> None:
    a = torch.zeros(3)
    for where in ("is_recorded", "transform_level"):
        seen = Written()
        with mock.patch.object(written, where, return_value=1):
            assert not seen.since(a)
        assert seen.since(a)


ACTION = Action((ax.regular(4),))


class Counter(nn.Module):
    """Counts what it is given in train mode."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.inner, self.fails = nn.Module(), fails
        self.inner.register_buffer("seen", torch.zeros(4))
        self.register_buffer("same", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.inner.seen += x
            self.given = self.inner.seen
            if self.fails:
                raise ValueError
        return x + self.inner.seen


def test_what_a_train_mode_forward_writes_is_averaged_over_the_strands() -> None:
    module, x = Counter(), torch.tensor([1.0, 2.0, 3.0, 8.0])
    share_states(module, {"inner.seen": ACTION})
    held = module.inner.seen
    assert torch.equal(module(x), 2 * x)
    assert module.inner.seen is held
    assert module.given is not held
    assert torch.equal(module.given, x)  # what gradients may need stays
    assert held.tolist() == [2.0, 5.0, 2.0, 5.0]
    assert torch.equal(module.eval()(x), x + held)
    held.copy_(torch.tensor([0.0, 1.0, 4.0, 1.0]))
    assert torch.equal(module(torch.zeros(4)), torch.tensor([2.0, 1.0, 2.0, 1.0]))  # renewed, as it was written into
    assert held.tolist() == [2.0, 1.0, 2.0, 1.0]


def test_a_forward_that_fails_leaves_its_buffers() -> None:
    module = Counter(fails=True)
    share_states(module, {"inner.seen": ACTION})
    held = module.inner.seen
    with pytest.raises(ValueError):  # noqa: PT011 - the module's own
        module(torch.ones(4))
    assert module.inner.seen is held
    assert held.tolist() == [0.0] * 4


def test_buffers_are_kept_as_plain_values() -> None:
    module = Counter()
    share_states(module, {"inner.seen": ACTION})
    hook = module.forward.hook  # type: ignore[attr-defined]
    again = read_buffers(json.loads(json.dumps(hook.plain())))
    assert {name: str(action) for name, action in again.items()} == {"inner.seen": str(ACTION)}


# --- factors, passages, and parameters without a tie ---


PAIR, REVERSED = ax.permutation([1, 0]), ax.permutation([3, 2, 1, 0])


@pytest.mark.parametrize(
    ("term", "found"),
    [
        (ax.trivial(3), [(3, False)]),
        (ax.length(5), [(5, True)]),
        (ax.regular(6), [(2, True), (3, False)]),
        (ax.product([ax.trivial(3), PAIR]), [(3, False), (2, True)]),
        (ax.product([ax.SIGN, PAIR]), [(2, True)]),
        (ax.total([PAIR, PAIR, PAIR]), [(3, False), (2, True)]),
        (ax.total([PAIR, ax.trivial(1)]), None),
        (ax.total([PAIR, ax.trivial(2)]), None),
        (ax.permutation([2, 3, 0, 1]), [(2, True), (2, False)]),
        (ax.permutation([1, 0, 3, 2]), [(2, False), (2, True)]),
        (ax.permutation([0, 2, 1]), None),
        (ax.permutation([4, 5, 2, 3, 0, 1]), [(3, True), (2, False)]),
        (ax.product([PAIR, ax.permutation([0, 2, 1])]), None),
    ],
)
def test_the_factors_of_an_axis(term: ax.Axis, found: Any) -> None:
    assert factors(term) == (None if found is None else [Factor(*f) for f in found])


@pytest.mark.parametrize(
    ("axes", "sign"),
    [
        ((PAIR, ax.trivial(3)), 1),
        ((ax.SIGN, ax.trivial(3)), -1),
        ((ax.product([ax.SIGN, PAIR]), ax.trivial(3)), -1),
        ((ax.product([ax.SIGN, PAIR]), ax.product([PAIR, ax.SIGN])), 1),
        ((ax.total([ax.SIGN, ax.trivial(1)]), PAIR), None),
        ((), 1),
    ],
)
def test_the_sign_of_an_action(axes: Any, sign: int | None) -> None:
    assert sign_of(Action(axes)) == sign


def passage(length: int = 8, batches: int | None = 0, stacks: bool = True) -> Passage:
    action = Action((ax.batch(2), REVERSED, ax.length(length)))
    return Passage((action, None), (action,), (batches, None), (batches,), stacks=stacks)


def test_calls_of_a_module_are_joined_where_they_act_alike() -> None:
    one = passage()
    assert one.calls == 1
    one.join(passage(12))  # another length
    assert (one.stacks, one.calls) == (True, 2)
    one.join(passage(batches=None))
    assert (one.stacks, one.calls) == (False, 3)
    one.join(passage())
    assert not one.stacks
    two = passage()
    two.join(passage(stacks=False))
    assert two.stacks  # the first call says whether both strands fit


@pytest.mark.parametrize(
    ("given", "made", "words"),
    [
        ((passage().given[0],), passage().made, "different numbers of tensors"),
        (passage().given, (), "different numbers of tensors"),
        ((None, None), passage().made, "a constant in one of its calls only"),
        (passage().given, (Action((ax.batch(2), REVERSED)),), "different numbers of axes"),
    ],
)
def test_calls_that_do_not_act_alike_are_not_joined(given: Any, made: Any, words: str) -> None:
    with pytest.raises(ax.Mismatch, match=words):
        passage().join(Passage(given, made, (0, None), (0,), stacks=True))


def test_channels_of_two_calls_are_the_same() -> None:
    other = Action((ax.batch(2), ax.trivial(4), ax.length(8)))
    with pytest.raises(ax.Mismatch):
        passage().join(Passage((other, None), (other,), (0, None), (0,), stacks=True))


def test_a_module_is_idle_if_none_that_holds_its_parameter_is_called() -> None:
    assert is_idle(["a.weight", "b.weight"], {"c"})
    assert not is_idle(["a.weight", "b.weight"], {"b"})
    assert is_idle(["weight"], {"a"})
    assert not is_idle(["weight"], {""})


def test_an_untied_parameter_is_read_outside_of_calls_and_keeps_its_values() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    values = model[0].weight.detach().clone()
    leave_untied(model, ["0.weight"], set())
    assert torch.equal(model[0].weight, values)
    (tie,) = untied(model).values()
    assert torch.equal(tie.project(values), values)
    assert torch.equal(tie.reduce(values), values)
    with pytest.raises(BreaksSymmetryError) as refused:
        model(torch.zeros(1, 3))
    said = str(refused.value)
    assert "forward reads 0.weight, which no trace of the model read" in said
    assert "was not traced" in said
    assert "convert with an example that takes this branch" in said


def test_calls_of_idle_modules_are_refused_until_they_are_allowed() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    assert unguarded(model) is model
    refuse_call(model[0], "0.weight")
    with pytest.raises(BreaksSymmetryError, match=r"forward reads 0\.weight"):
        model(torch.zeros(1, 3))
    twin = unguarded(model)
    assert twin is not model
    assert twin(torch.zeros(1, 3)).shape == (1, 2)
    assert isinstance(checks_of(model[0])[0], IdleModule)
    allow_calls(model)
    assert model(torch.zeros(1, 3)).shape == (1, 2)


# --- norms ---


def folded(make: Any = nn.BatchNorm1d, width: int = 4, **how: Any) -> nn.Module:
    norm = make(width, **how)
    with torch.no_grad():
        for i, name in enumerate(("weight", "bias", "running_mean", "running_var")):
            value = getattr(norm, name, None)
            if value is not None:
                value.copy_(torch.arange(1.0, width + 1) * (i + 1))
    fold(norm, "keep")
    return norm


@pytest.mark.parametrize("init", ["keep", "project"])
def test_a_folded_norm_keeps_one_half(init: str) -> None:
    norm = nn.BatchNorm1d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 5.0, 8.0]))
    kept = norm.weight
    norm.weight.grad = torch.ones(4)
    fold(norm, init)
    assert norm.weight is kept
    assert norm.weight.tolist() == ([1.0, 2.0] if init == "keep" else [3.0, 5.0])
    assert norm.weight.grad is None
    assert norm.num_features == 2
    assert norm.running_mean.shape == norm.running_var.shape == norm.bias.shape == (2,)  # type: ignore[union-attr]
    unfold(norm)
    assert norm.weight.tolist() == ([1.0, 2.0] * 2 if init == "keep" else [3.0, 5.0] * 2)
    assert norm.num_features == 4
    assert hook_of(norm) is None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5)])
def test_a_folded_norm_is_the_stock_one_on_twice_the_samples(training: bool, shape: tuple[int, ...]) -> None:
    norm = folded().train(training)
    plain = nn.BatchNorm1d(2).train(training)
    plain.load_state_dict(norm.state_dict())
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = plain(x.reshape(6, 2, *shape[2:])).reshape(shape)
    assert torch.equal(norm(x), expected)
    seen: list[Any] = []
    norm.register_forward_hook(lambda m, args, out: seen.append((args[0].shape, out.shape)))
    norm.load_state_dict(folded().state_dict())
    assert torch.allclose(norm(x), expected)
    assert seen == [(torch.Size(shape), torch.Size(shape))]
    with pytest.raises(ValueError):  # noqa: PT011 - of another number of axes
        norm(torch.zeros(4))


@pytest.mark.parametrize("training", [True, False])
def test_a_vector_of_both_halves_is_refused_by_name(training: bool) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        norm = folded().train(training)
        value = torch.ones(4)
        setattr(norm, name, nn.Parameter(value) if name in ("weight", "bias") else value)
        with pytest.raises(ConversionError) as refused:
            norm(torch.zeros(3, 4, 5))
        assert refused.value.what == f"the {name} of a BatchNorm1d was set to 4 values"
        assert refused.value.got == "2 are stored, for 4 channels"


def test_which_channels_fold() -> None:
    for term, does in (
        (ax.regular(6), True), (ax.product([PAIR, ax.trivial(3)]), True), (PAIR, True), (ax.trivial(4), False),
        (ax.product([ax.trivial(2), PAIR]), False), (ax.product([PAIR, SIGN]), False), (REVERSED, False),
        (ax.product([PAIR, ax.permutation([2, 1, 0])]), False), (ax.total([PAIR, ax.trivial(1)]), False),
    ):  # fmt: skip
        assert folds(term) is does


def test_statistics_that_were_written_by_hand_are_averaged_before_they_are_read() -> None:
    norm = nn.BatchNorm1d(3)
    pool(norm, ax.permutation([1, 0, 2]))
    norm.eval()
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([1.0, 3.0, 5.0]))  # type: ignore[union-attr]
        norm.running_var.copy_(torch.tensor([2.0, 4.0, 1.0]))  # type: ignore[union-attr]
    x = torch.randn(2, 3, 4)
    y = norm(x)
    assert norm.running_mean.tolist() == [2.0, 2.0, 5.0]  # type: ignore[union-attr]
    assert norm.running_var.tolist() == [3.0, 3.0, 1.0]  # type: ignore[union-attr]
    mean, var = torch.tensor([2.0, 2.0, 5.0]), torch.tensor([3.0, 3.0, 1.0])
    assert torch.allclose(y, (x - mean[:, None]) / (var[:, None] + norm.eps).sqrt(), atol=1e-6)
    assert keeps_statistics(norm)
    assert not keeps_statistics(nn.BatchNorm1d(3, track_running_stats=False))
    settle_statistics(norm)
    assert hook_of(norm) is None
    bare = nn.BatchNorm1d(3, track_running_stats=False)
    pool(bare, ax.permutation([1, 0, 2]))
    settle_statistics(bare)
    assert hook_of(bare) is not None
    unpool(nn.Sequential(bare))
    assert hook_of(bare) is None


# --- weights that are written into ---


def tied() -> nn.Conv1d:
    conv = nn.Conv1d(4, 4, 3)
    attach(conv, ["weight"], make_tie(Action((ax.regular(4), REVERSED, ax.length(3)))), "keep")  # type: ignore[arg-type]
    return conv


def image(w: Tensor) -> Tensor:
    return w.roll(2, 0).flip(1, 2)


WRITES: dict[str, Any] = {
    "normal_": lambda w: nn.init.normal_(w),
    "in place": lambda w: w.mul_(2),
    "a view": lambda w: w[0].fill_(3.0),
    "an image": lambda w: w[2:].fill_(3.0),
    "one entry": lambda w: w.__setitem__((3, 1, 2), 7.0),
    "data": lambda w: setattr(w, "data", torch.ones_like(w) * 4),
    "copy_": lambda w: w.copy_(torch.arange(48.0).view(4, 4, 3)),
    "out": lambda w: torch.add(torch.ones(4, 4, 3), 1, out=w),
}


@pytest.mark.parametrize("how", WRITES)
def test_what_is_written_into_a_weight_is_stored_with_its_image(how: str) -> None:
    conv, plain = tied(), nn.Conv1d(4, 4, 3)
    with torch.no_grad():
        plain.weight.copy_(conv.weight)
        torch.manual_seed(0)
        read = conv.weight
        WRITES[how](read)
        torch.manual_seed(0)
        WRITES[how](plain.weight)
    full = conv.weight.detach().as_subclass(Tensor)
    assert torch.equal(full, image(full))
    assert torch.equal(read.detach().as_subclass(Tensor), full)
    before = image(plain.weight.detach())
    assert bool(((full == plain.weight) | (full == before)).all())
    if how == "one entry":
        assert full[3, 1, 2] == full[1, 2, 0] == 7.0
    if how == "an image":
        assert bool((full == 3.0).all())


def test_weights_that_are_read_are_followed_and_copies_are_not() -> None:
    conv = tied()
    weight = conv.weight
    assert isinstance(weight, TiedWeight)
    assert not weight.is_view
    assert isinstance(weight[0], TiedWeight)
    assert weight[0].is_view
    assert all(isinstance(part, TiedWeight) for part in weight.unbind(0))
    for other in (weight + 1, weight.clone(), copy.deepcopy(weight.detach())):
        assert type(other) is Tensor
    stored = conv.parametrizations.weight.original  # type: ignore[union-attr,index]
    weight.requires_grad_(False)
    assert not stored.requires_grad
    weight.requires_grad = True
    assert stored.requires_grad
    view = weight.detach()[0]
    view.requires_grad_(True)
    with torch.no_grad():
        kept = conv.weight.clone()
        view.fill_(5.0)
    assert torch.equal(conv.weight.clone(), kept)  # a tensor of its own by then
    assert repr(weight).startswith("tensor(")
    assert type(pickle.loads(pickle.dumps(weight.detach()))) is Tensor


def test_what_a_tied_weight_refuses() -> None:
    conv = tied()
    chain: Any = conv.parametrizations.weight  # type: ignore[union-attr,index]
    cases: list[tuple[Any, str, str]] = [
        (lambda: setattr(conv, "weight", torch.zeros(4)), "values of another shape", r"\(4,\), and the weight is \(4,"),
        (lambda: chain.right_inverse("text"), "was set to no tensor", "text, and the weight"),
        (lambda: chain.write(torch.zeros(2, 4, 3)), "values of another shape", ""),
        (lambda: chain.append(nn.Identity()), "Identity on a tied weight", ""),
        (lambda: chain.refuse_removal("weight"), "weight is tied, so it cannot be deleted", ""),
        (lambda: nn.utils.prune.l1_unstructured(conv, "weight", 1), "prune on a tied weight", ""),
        (lambda: nn.utils.weight_norm(conv), "weight_norm on a tied weight", ""),
    ]  # fmt: skip
    for call, what, got in cases:
        with pytest.raises(ConversionError) as refused:
            call()
        assert what in refused.value.what
        assert re.search(got, str(refused.value.got))
    conv.weight = torch.ones(4, 4, 3)  # type: ignore[assignment]
    assert bool((conv.weight == 1).all())
    conv.weight = torch.ones(2, 4, 3) * 2  # type: ignore[assignment]
    assert bool((conv.weight == 2).all())
    chain.take(nn.Parameter(torch.ones(4, 4, 3), requires_grad=False))
    assert not chain.original.requires_grad
    wider = chain.write(torch.ones(4, 4, 3, dtype=torch.float64))
    assert wider.dtype == chain.original.dtype == torch.float64


# --- ties ---


def test_ties_come_back_from_plain_values() -> None:
    half = make_tie(Action((ax.regular(4), REVERSED, ax.length(3))))
    orbit = make_tie(Action((ax.permutation([0, 2, 1]),)))
    assert isinstance(half, HalfTie)
    assert isinstance(orbit, OrbitTie)
    for tie in (half, orbit):
        again = read_tie(json.loads(json.dumps(tie.plain())))
        stored = torch.randn(tie.stored_shape)
        assert torch.equal(again(stored), tie(stored))
        assert again.extra_repr() == tie.extra_repr()
    assert half.extra_repr() == f"(2, 4, 3) -> (4, 4, 3), {half.action}"
    for wrong in ({"kind": "none"}, {"dim": 3}, {"place": 5}, {"dim": -1}, {"place": 1}):
        with pytest.raises(ConversionError, match="no tie of the kind"):
            read_tie({**half.plain(), **wrong})
    assert make_tie(Action((ax.trivial(3), ax.batch(2)))) is None


@pytest.mark.parametrize(
    ("tie", "names"),
    [
        (HalfTie(Action((PAIR, ax.permutation([0, 2, 1]))), 0, 0), ["index1"]),
        (OrbitTie(Action((ax.permutation([0, 2, 1]),))), ["gather", "kept"]),
        (OrbitTie(Action((ax.product([ax.permutation([0, 2, 1]), SIGN]),))), ["gather", "kept", "factor"]),
        (MirrorTie(Action((ax.permutation([0, 2, 1]),)), (nn.BatchNorm1d(3), "bias")), ["index0"]),
    ],
)
def test_tables_of_ties_are_no_buffers(tie: Any, names: list[str]) -> None:
    assert [*tie.tables] == names
    assert not [*tie.buffers()]
    assert not tie.state_dict()


@pytest.mark.parametrize("name", ["half", "orbit", "mirror"])
def test_a_tie_of_an_older_file_had_them_among_its_buffers(name: str) -> None:
    action = Action((PAIR, ax.permutation([0, 2, 1])))
    layer = nn.Linear(3, 2)
    tie: Any = {
        "half": HalfTie(action, 0, 0),
        "orbit": OrbitTie(action),
        "mirror": MirrorTie(action, (layer, "weight")),
    }[name]
    old = copy.deepcopy(tie.__getstate__() if hasattr(tie, "__getstate__") else vars(tie))
    state = {**old, "_buffers": {**old["tables"], "factor": None}}
    del state["tables"]
    found = type(tie).__new__(type(tie))
    found.__setstate__(state)
    assert found.tables.keys() == tie.tables.keys()
    assert all(torch.equal(found.tables[key], tie.tables[key]) for key in tie.tables)
    assert not [*found.buffers()]


def test_an_orbit_stores_its_first_entry_and_zero_where_a_sign_meets_itself() -> None:
    tie = OrbitTie(Action((ax.product([ax.permutation([2, 1, 0]), SIGN]),)))
    assert tie.stored_shape == (1,)
    assert tie(torch.tensor([3.0])).tolist() == [3.0, 0.0, -3.0]
    assert tie.reduce(torch.tensor([5.0, 1.0, 2.0])).tolist() == [5.0]
    assert tie.project(torch.tensor([5.0, 1.0, 1.0])).tolist() == [2.0, 0.0, -2.0]
    nothing = OrbitTie(Action((ax.product([ax.trivial(2), SIGN]),)))
    zero = nothing(torch.zeros(0, requires_grad=True))
    assert zero.tolist() == [0.0, 0.0]
    assert zero.requires_grad
    assert zero.is_contiguous()
    plain = OrbitTie(Action((ax.permutation([0, 2, 1]),)))
    assert "factor" not in plain.tables
    assert plain(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0, 2.0]
    alias = torch.ones(3)
    assert plain(alias) is alias
    assert plain.right_inverse(torch.ones(2)).tolist() == [1.0, 1.0]


def test_a_mirror_image_writes_into_the_other_one() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(3, 4)})
    action = Action((ax.regular(4), ax.permutation([0, 2, 1])))
    attach_mirror(model, ["b.weight"], action, "a.weight", "keep")
    with torch.no_grad():
        model["b"].weight[0, 1] = 9.0
    assert model["a"].weight[2, 2] == 9.0
    assert torch.equal(model["b"].weight.detach().as_subclass(Tensor), model["a"].weight.roll(2, 0)[:, [0, 2, 1]])
    signed = MirrorTie(Action((ax.product([ax.trivial(2), SIGN]),)), (nn.BatchNorm1d(2), "bias"))
    assert signed.image(torch.tensor([1.0, 2.0])).tolist() == [-1.0, -2.0]
    assert signed.stored_shape == (0,)
    assert [t.shape for t in signed.sources()] == [(2,)]
    assert {*signed.tables} == {"sign"}
    two = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
    mean = (two["a"].weight + two["b"].weight.flip(0)).detach() / 2
    attach_mirror(two, ["b.weight"], Action((PAIR, ax.trivial(3))), "a.weight", "project")
    assert torch.allclose(two["a"].weight, mean)


def test_full_weights_of_small_copies_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for most, kept in ((48, True), (47, False)):
        monkeypatch.setattr(attaching, "KEPT", most)
        model = nn.Sequential(tied())
        keep_full_weights(model)
        ((_, _, _, tie),) = ties(model)
        assert (tie.known is not None) is kept


def test_pruned_weights_are_refused_by_their_place() -> None:
    model = nn.Sequential(tied())
    require_unpruned(model, "extend")
    nn.utils.prune.l1_unstructured(model[0].parametrizations.weight, "original", 1)
    with pytest.raises(ConversionError) as refused:
        require_unpruned(model, "extend")
    assert refused.value.what == "extend of a model with a pruned weight"
    assert refused.value.where is not None
    assert refused.value.where.path == "0"
    assert "module.parametrizations.weight, 'original'" in str(refused.value.do)


def test_statistics_that_gradients_flow_into_are_averaged_too() -> None:
    norm = nn.BatchNorm1d(2)
    norm.running_mean = torch.tensor([1.0, 3.0], requires_grad=True)
    pool(norm, PAIR)
    assert norm.running_mean.tolist() == [2.0, 2.0]
    assert norm.running_mean.is_leaf


def test_a_forward_that_is_followed_by_symbols_is_refused() -> None:
    class Adds(TensorHook):
        def tensor_before(self, module: nn.Module, x: Tensor) -> Tensor:
            return x + 1

        def tensor_after(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return y

    module = Takes()
    install_inside(module, Adds())
    with pytest.raises(ConversionError, match="symbolic_trace"):
        torch.fx.symbolic_trace(module)
    graph = torch.fx.Graph()
    symbol = torch.fx.Proxy(graph.placeholder("x"))
    with pytest.raises(ConversionError, match="symbolic_trace"):  # whoever makes it
        module(symbol)
    assert torch.equal(module(X), X + 1)
    assert torch.equal(module(x=X), X + 1)
    assert torch.equal(module(X, "sum"), X + 1)


def test_the_law_rests_on_the_checks_of_what_is_given_and_not_on_those_of_what_was_changed() -> None:
    rests = [ArgumentGuard({}), LengthGuard([]), IdleModule("a.weight"), Check()]
    assert [check.needed for check in rests] == [True] * 4
    assert not Parts(tower()).needed
    for check, needed in ((rests[0], True), (Parts(tower()), False)):
        module = Takes()
        attach_check(module, check)
        assert module.forward.needed is needed  # type: ignore[attr-defined]


def test_a_module_with_hooks_shows_a_forward_of_its_own_until_they_are_taken_off() -> None:
    for own in (False, True):
        module = Takes()
        if own:
            module.forward = lambda x: x * 2  # type: ignore[method-assign,assignment]
        before = vars(module).get("forward")
        install(module, StrandHook())
        assert "forward" in vars(module)
        assert own is (vars(module)["forward"] is before)
        uninstall(module)
        assert vars(module).get("forward") is before
