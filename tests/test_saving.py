"""Saving: a loaded model equals the saved one bit for bit, in another process, without tracing or converting."""

from __future__ import annotations

import copy
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import FAMILIES, ZOO
from planned import remembered
from saved import BY_NAME, DNA, VARIANTS, Buffers, InMain, OneWay, Pooled, Shared, Symmetric, measured, outputs
from test_axis import terms
from tiers import chosen, drawn, some
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from rcps_convert import (
    ConversionError,
    Tracks,
    apply_recipe,
    bake,
    convert_model,
    load,
    load_plain_state_dict,
    plan_conversion,
    rc_equivariant,
    recipe,
    save,
    unwrap,
)
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.texts import read_action, read_axis, read_step, write_action, write_axis, write_step
from rcps_convert.convert.recipe import ATTACHED
from rcps_convert.tie.hooks import hooks_of
from rcps_convert.tie.norms import PooledNorm
from rcps_convert.tie.states import SharedState

HERE = Path(__file__).parent

TIED_ONLY = ("init", "on_unsupported", "symmetrise_buffers")


def converted(name: str, strategy: str = "tied", seed: int = 0, **how: Any) -> nn.Module:
    """A converted model of the registry, every parameter moved so that none is zero or shared by chance."""
    family = BY_NAME[name]
    given = {k: v for k, v in family.how.items() if strategy == "tied" or k not in TIED_ONLY}
    model = remembered(family.make, family.example, seed, strategy=strategy, **{"verify": False, **given, **how})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def file_of(model: nn.Module) -> io.BytesIO:
    file = io.BytesIO()
    save(model, file)
    file.seek(0)
    return file


def kinds(model: nn.Module) -> list[type]:
    """The classes of a model's modules; of parametrized ones the user's."""
    return [type(m).__bases__[0] if parametrize.is_parametrized(m) else type(m) for m in model.modules()]


# --- in another process -------------------------------------------------------------------------

QUICK = [
    *((f.name, "tied") for f in VARIANTS if f.name != "Symmetric"),
    ("BPNetLike", "tied"),
    ("BPNetLike", "conjoined"),
    ("BPNetLike", "mixed"),
    ("DanQLike", "tied"),
    ("OneWay", "baked"),
]
EVERY = [(f.name, s) for f in (*FAMILIES, *ZOO) for s in ("tied", "conjoined", "mixed")]


def in_another_process(cases: list[tuple[str, str]], folder: Path, whole: dict[str, nn.Module] | None = None) -> None:
    """Save models here, load them in a process of their own, and compare what each process makes of them.

    Args:
        cases: names and strategies of models, saved whole and with `save`.
        folder: where the files go.
        whole: further models by name, which read `DNA`, saved whole.
    """
    expected = {}
    for name, strategy in cases:
        try:
            model = converted(name, "tied" if strategy == "baked" else strategy)
        except ConversionError:  # no layer is left to mix
            assert strategy == "mixed"
            continue
        model = bake(model) if strategy == "baked" else model
        outputs(model, BY_NAME[name].example)  # what a model keeps of a call is saved too
        torch.save(model, folder / f"{name}-{strategy}.pt")
        save(model, folder / f"{name}-{strategy}.rc")
        for kind in ("pt", "rc"):
            expected[f"{name}-{strategy}.{kind}"] = measured(copy.deepcopy(model), BY_NAME[name].example)
    assert len(expected) > len(cases) * 1.6
    for name, model in (whole or {}).items():
        torch.save(model, folder / f"{name}-tied.pt")
        expected[f"{name}-tied.pt"] = measured(model, DNA)
    command = [sys.executable, str(HERE / "saved.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    wrong = [name for name, values in expected.items() if not equal(torch.load(folder / f"{name}.out"), values)]
    assert wrong == []


@pytest.mark.slow
def test_a_model_loaded_in_another_process_equals_the_saved_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class of the main program is found by its name there, as pickle does it."""
    monkeypatch.setattr(sys.modules["__main__"], "InMain", InMain, raising=False)
    monkeypatch.setattr(InMain, "__module__", "__main__")
    in_another_process(QUICK, tmp_path, {"InMain": convert_model(InMain(), DNA, verify=False)})


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_every_model_loaded_in_another_process_equals_the_saved_one(part: int, tmp_path: Path) -> None:
    in_another_process(EVERY[part::8], tmp_path)


def _answer(model: nn.Module, example: Any, answers: Any) -> None:
    answers.put([y.detach().numpy() for y in outputs(model.eval(), example)])


@pytest.mark.slow
def test_a_spawned_worker_is_given_a_model() -> None:
    model = converted("TwoWays")
    example = BY_NAME["TwoWays"].example
    expected = outputs(model.eval(), example)  # a recurrent layer now keeps computed weights
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    worker = context.Process(target=_answer, args=(model, example, answers))
    worker.start()
    found = answers.get(timeout=100)
    worker.join()
    assert equal([torch.tensor(y) for y in found], [y.detach() for y in expected])


# --- pickles and copies in this process ---------------------------------------------------------


@pytest.mark.parametrize("strategy", ["tied", "conjoined", "mixed"])
def test_a_pickled_model_is_what_it_was(strategy: str) -> None:
    model = converted("Shared", strategy)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), pickle.loads(pickle.dumps(model, 2))):
        assert kinds(twin) == kinds(model)
        assert [n for n, _ in twin.named_parameters()] == [n for n, _ in model.named_parameters()]
        assert [*twin.state_dict()] == [*model.state_dict()]
        assert twin.a is twin.again
        assert recipe(twin) == recipe(model)
        assert equal(measured(twin, DNA), measured(copy.deepcopy(model), DNA))


def test_a_pickled_copy_shares_nothing_with_the_original() -> None:
    model = converted("Pooled")
    twin = pickle.loads(pickle.dumps(model))
    parametrize.remove_parametrizations(twin.conv, "weight")
    assert parametrize.is_parametrized(model.conv, "weight")
    assert not parametrize.is_parametrized(twin.conv, "weight")
    assert model.conv.weight.shape == twin.conv.weight.shape


def test_a_shallow_copy_shares_the_parameters() -> None:
    model = converted("Pooled")
    twin = copy.copy(model.conv)
    assert twin is not model.conv
    assert twin.parametrizations is model.conv.parametrizations
    assert torch.equal(twin.weight, model.conv.weight)


def test_a_loaded_model_s_hooks_keep_their_place_when_others_are_attached() -> None:
    """A process counts its hooks from 0, and a hook of the user's must not take the number of one of ours."""
    model = converted("Pooled")
    data = pickle.dumps(model)
    before = torch.utils.hooks.RemovableHandle.next_id
    try:
        torch.utils.hooks.RemovableHandle.next_id = 0
        twin = pickle.loads(data)
        expected = outputs(copy.deepcopy(twin).eval(), DNA)
        for module in twin.modules():
            for _ in range(50):
                module.register_forward_pre_hook(lambda module, args: None)
                module.register_forward_hook(lambda module, args, output: None)
        assert equal(outputs(twin.eval(), DNA), expected)
        assert recipe(twin) == recipe(model)
    finally:
        torch.utils.hooks.RemovableHandle.next_id = max(before, torch.utils.hooks.RemovableHandle.next_id)


class Remembering(nn.Conv1d):
    """A layer with a state of its own: it leaves a cache out."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.cache = lambda: 1  # cannot be pickled

    def __getstate__(self) -> dict[str, Any]:
        return {**{k: v for k, v in vars(self).items() if k != "cache"}, "told": "by getstate"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.told = state["told"]
        super().__setstate__({k: v for k, v in state.items() if k != "told"})
        self.cache = lambda: 2


class Rebuilding(nn.Conv1d):
    """A layer with a reduction of its own, which makes it of its settings and gives a state."""

    def __reduce__(self) -> Any:
        return type(self), (self.in_channels, self.out_channels, *self.kernel_size), vars(self)


class Setting(nn.Conv1d):
    """A layer whose reduction says how its state is set, and leaves the submodules out."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _make_setting, (self.out_channels,), {"_parameters": self._parameters}, None, None, _set

    def __deepcopy__(self, memo: Any) -> Any:
        made = memo[id(self)] = type(self).__new__(type(self))
        _set(made, copy.deepcopy(vars(self), memo))
        return made


def _make_setting(channels: int) -> nn.Module:
    made = Setting(4, channels, 5)
    made.told = "by a function"
    return made


def _set(module: nn.Module, state: dict[str, Any]) -> None:
    vars(module).update(state)


class Elsewhere(nn.Conv1d):
    """A layer with arguments for ``__new__``."""

    def __new__(cls, *args: Any, mark: str = "none") -> Any:
        made = super().__new__(cls)
        object.__setattr__(made, "mark", mark)
        return made

    def __init__(self, *args: Any, mark: str = "none") -> None:
        super().__init__(*args)

    def __getnewargs_ex__(self) -> Any:
        return (), {"mark": "new"}


@pytest.mark.parametrize("cls", [Remembering, Rebuilding, Setting, Elsewhere])
def test_the_user_s_own_pickling_is_respected(cls: type[nn.Module]) -> None:
    model = nn.Sequential(cls(4, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(160, 1))
    model = convert_model(model, DNA, verify=False, in_place=True)
    twin = pickle.loads(pickle.dumps(model))
    assert isinstance(twin[0], cls)
    assert equal(outputs(twin, DNA), outputs(model, DNA))
    assert parametrize.is_parametrized(twin[0], "weight")
    if cls is Remembering:
        assert twin[0].told == "by getstate"
        assert twin[0].cache() == 2
    if cls is Setting:
        assert twin[0].told == "by a function"
    again = pickle.loads(pickle.dumps(twin))
    assert equal(outputs(again, DNA), outputs(model, DNA))


def test_a_class_that_is_converted_when_made_is_pickled() -> None:
    model = Decorated()
    twin = pickle.loads(pickle.dumps(model))
    assert equal(measured(twin, DNA), measured(model, DNA))
    other = load(file_of(model), Decorated())
    assert equal(measured(other, DNA), measured(copy.deepcopy(model), DNA))


@rc_equivariant(example=(2, 4, 24), verify=False)
class Decorated(nn.Sequential):
    """Converted when it is made."""

    def __init__(self) -> None:
        super().__init__(nn.Conv1d(4, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(160, 1))


def test_a_conjoined_model_with_weight_norm_is_pickled() -> None:
    model = nn.Sequential(weight_norm(nn.Conv1d(4, 8, 5)), nn.Flatten(), nn.Linear(160, 1))
    for in_place in (False, True):
        made = convert_model(model, DNA, strategy="conjoined", verify=False, in_place=in_place)
        assert equal(outputs(pickle.loads(pickle.dumps(made)), DNA), outputs(made, DNA))


def test_a_merge_that_is_a_function_is_pickled_by_name_and_in_no_recipe() -> None:
    model = converted("Pooled", "conjoined", merge=torch.maximum)
    assert equal(outputs(pickle.loads(pickle.dumps(model)).eval(), DNA), outputs(model.eval(), DNA))
    with pytest.raises(ConversionError, match="merge=maximum is a function"):
        recipe(model)
    plan = plan_conversion(Pooled(), DNA, strategy="conjoined", merge=torch.maximum, verify=False)
    with pytest.raises(ConversionError, match="merge=maximum is a function"):
        plan.to_dict()


def test_old_optimisers_go_on() -> None:
    """An optimiser's state fits the loaded model's parameters, in their order."""
    model, x = converted("Shared"), torch.rand(3, 4, 24)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    for _ in range(3):
        step(model, optimizer)
    checkpoint = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "recipe": recipe(model)}
    file = io.BytesIO()
    torch.save(checkpoint, file)  # as trainers write them
    file.seek(0)
    read = torch.load(file, weights_only=True)
    twin = apply_recipe(Shared(), read["recipe"])
    twin.load_state_dict(read["state_dict"])
    other = torch.optim.Adam(twin.parameters(), lr=0.01)
    other.load_state_dict(read["optimizer"])
    for _ in range(2):
        step(model, optimizer)
        step(twin, other)
    assert equal([*model.state_dict().values()], [*twin.state_dict().values()])


# --- recipes ------------------------------------------------------------------------------------

LAW = ["BassetLike", "DeepSEALike", "Twice", "DanQLike", "MultiQuery", "BasenjiLike", *(f.name for f in VARIANTS)]


@pytest.mark.parametrize(
    "name",
    chosen(LAW, lambda name: name not in ("BasenjiLike", "BassetLike", "DeepSEALike", "MultiQuery", "OneWay", "Twice")),
)
def test_plan_recipe_and_model_say_the_same(name: str) -> None:
    family = BY_NAME[name]
    plain = family.make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = plan_conversion(plain, family.example, **{"verify": False, **family.how})
        model = plan.apply(plain)
    planned = json.loads(json.dumps(plan.to_dict()))
    assert planned.pop("plan")["parameters"] == [plan.before, plan.after]
    found = recipe(model)
    assert json.loads(json.dumps(found)) == found
    assert {kind: value for kind, value in planned.items() if found[kind] != value} == {}
    twin = apply_recipe(family.make(), planned)
    assert recipe(twin) == found
    twin.load_state_dict(model.state_dict())
    assert equal(measured(twin, family.example), measured(model, family.example))


def test_a_recipe_s_parts() -> None:
    found = recipe(converted("Pooled"))
    assert (found["format"], found["strategy"], found["model"]) == (1, "tied", "Pooled")
    assert found["settings"]["inputs"] == "ACGT"
    assert found["norms"] == [{"path": "norm", "folds": False, "channel": "[4 5 6 7 0 1 2 3 8]"}]
    rows = {row["names"][0]: (row["kind"], row["action"]) for row in found["parameters"]}
    assert rows["norm.bias"] == ("orbit", "(2r * 4 + 1)")
    assert rows["out.weight"] == ("orbit", "(2, 2r * 4 + 1)")
    mixed = recipe(converted("Shared", "mixed", mix=lambda path, module: True))
    assert mixed["strategy"] == "mixed"
    assert mixed["settings"]["mix"] == {"function": "test_a_recipe_s_parts.<locals>.<lambda>"}
    assert [row["path"] for row in mixed["mixed"]] == ["b"]


def test_specs_are_written_as_plain_values() -> None:
    plan = plan_conversion(nn.Conv1d(4, 2, 5), DNA, outputs=Tracks("+-", layout="n c l"), verify=False)
    assert plan.to_dict()["settings"]["outputs"] == {
        "spec": "Tracks",
        "signs": "+-",
        "layout": "n c l",
        "offset": 0,
    }


def test_parameters_stay_the_same_objects() -> None:
    found, model = recipe(converted("Shared")), Shared()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    apply_recipe(model, found)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("init", ["keep", "project"])
def test_a_recipe_converts_as_the_conversion_did(init: str) -> None:
    torch.manual_seed(5)
    plain = Buffers()
    how = {"symmetrise_buffers": True, "init": init, "verify": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_model(plain, DNA, **how)
    twin = apply_recipe(copy.deepcopy(plain), recipe(model))
    assert equal([*twin.state_dict().values()], [*model.state_dict().values()])
    assert equal(outputs(twin.eval(), DNA), outputs(model.eval(), DNA))


class Fewer(Pooled):
    def __init__(self) -> None:
        super().__init__()
        del self.norm
        self.norm = nn.Identity()


class Wider(Pooled):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(9, 3)


class More(Pooled):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(2, 2)


class Tabled(Pooled):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(3))


class Tied(Shared):
    def __init__(self) -> None:
        super().__init__()
        self.b.weight = nn.Parameter(self.a.weight.detach().clone())


def rename(cls: type, name: str) -> type:
    cls.__name__ = cls.__qualname__ = name
    return cls


@pytest.mark.parametrize(
    ("name", "other", "named"),
    [
        ("Pooled", rename(Fewer, "Pooled"), "module norm"),
        ("Pooled", rename(Wider, "Pooled"), "parameter out.weight"),
        ("Pooled", rename(More, "Pooled"), "module extra"),
        ("Pooled", rename(Tabled, "Pooled"), "buffer table"),
        ("Shared", rename(Tied, "Shared"), "parameters that modules share"),
        ("Pooled", Symmetric, r"module \(the model itself\)"),
    ],
)
@pytest.mark.parametrize("by_file", [False, True])
def test_another_architecture_is_refused_and_left_as_it_was(
    name: str, other: type[nn.Module], named: str, by_file: bool
) -> None:
    model, plain = converted(name), other()
    before = copy.deepcopy(plain.state_dict())
    with pytest.raises(ConversionError, match=f"made for another model: .*{named}"):
        load(file_of(model), plain) if by_file else apply_recipe(plain, recipe(model))
    assert [*before] == [*plain.state_dict()]
    assert equal([*before.values()], [*plain.state_dict().values()])
    assert not any(map(parametrize.is_parametrized, plain.modules())) or name == "Shared"


def test_other_constants_are_refused_and_loaded_ones_fit() -> None:
    model = converted("Buffers")
    other = Buffers()
    other.mask = torch.linspace(0, 1, 24)
    with pytest.raises(ConversionError, match="other values of the buffer mask"):
        apply_recipe(other, recipe(model))
    assert equal(measured(load(file_of(model), other), DNA), measured(model, DNA))
    rounded = Buffers().half()
    assert recipe(apply_recipe(rounded, recipe(model)))["parameters"] == recipe(model)["parameters"]


def test_a_state_is_loaded_in_its_precision() -> None:
    model = converted("Pooled").double()
    twin = load(file_of(model), Pooled())
    x = torch.rand(3, 4, 24, dtype=torch.float64)
    assert torch.equal(model.eval()(x), twin.eval()(x))


class Renewed(nn.Linear):
    """A layer whose older checkpoints held its weight in other units."""

    _version = 2

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, versions: dict[str, Any], *rest: Any) -> None:
        if versions.get("version") is None:
            state.update({name: 2 * value for name, value in state.items() if name.startswith(prefix)})
        super()._load_from_state_dict(state, prefix, versions, *rest)


@pytest.mark.parametrize("kind", ["spectral norm", "own layer", "own layer, conjoined"])
def test_versions_of_a_state_are_kept(kind: str) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        first = nn.Conv1d(4, 8, 5)
        first = nn.utils.spectral_norm(first) if kind == "spectral norm" else first
        return nn.Sequential(first, nn.AdaptiveMaxPool1d(1), nn.Flatten(), Renewed(8, 2))

    model = convert_model(make(), DNA, verify=False, strategy="conjoined" if "conjoined" in kind else "tied")
    twin = load(file_of(model), make())
    x = torch.rand(3, 4, 24)
    assert torch.equal(model.eval()(x), twin.eval()(x))


def test_a_model_that_needed_nothing_has_a_recipe() -> None:
    with pytest.warns(UserWarning, match="equivariant already"):
        model = convert_model(Symmetric(), DNA)
    twin = load(file_of(model), Symmetric())
    assert torch.equal(twin.out.weight, model.out.weight)
    assert recipe(twin) == recipe(model)


def test_a_baked_and_an_unwrapped_model() -> None:
    baked = bake(converted("OneWay"))
    found = recipe(baked)
    assert [row["path"] for row in found["symmetrisers"]] == ["rnn"]
    assert found["parameters"] == []
    twin = apply_recipe(OneWay(), found)
    twin.load_state_dict(baked.state_dict())
    assert equal(outputs(twin.eval(), DNA), outputs(baked.eval(), DNA))
    with pytest.raises(ConversionError, match="not converted"):
        recipe(unwrap(converted("Pooled", "conjoined")))


def test_a_model_inside_of_another_has_its_part_of_the_recipe() -> None:
    inner = converted("Shared", "mixed")
    outer = nn.Sequential(inner, nn.Linear(1, 1))
    twin = apply_recipe(nn.Sequential(Shared(), nn.Linear(1, 1)), recipe(outer))
    twin.load_state_dict(outer.state_dict())
    assert equal(measured(twin, DNA), measured(outer, DNA))


# --- refusals -----------------------------------------------------------------------------------


def test_a_plain_model_has_no_recipe() -> None:
    for plain in (Pooled(), Shared()):
        with pytest.raises(ConversionError, match="not converted"):
            recipe(plain)
        with pytest.raises(ConversionError, match="not converted"):
            save(plain, io.BytesIO())


@pytest.mark.parametrize(
    "function", [recipe, lambda m: save(m, "x"), lambda m: apply_recipe(m, {}), lambda m: load("", m)]
)
def test_what_is_no_model_is_named(function: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="model= is the class Pooled"):
        function(Pooled)


def damaged(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    found = recipe(converted("Pooled"))
    change(found)
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(format=2), "format 2, and this version reads up to 1"),
        (lambda r: r.update(format="1"), "no format"),
        (lambda r: r.pop("outline"), "cannot be read"),
        (lambda r: r.pop("norms"), "cannot be read"),
        (lambda r: r["parameters"].append({"names": ["conv.weight"]}), "cannot be read"),
        (lambda r: r["parameters"][0].update(action="(2r, "), "no text of an action"),
        (lambda r: r["parameters"][0].update(kind="orbit", action="(4r)"), "cannot be read"),
        (lambda r: r["parameters"][0].update(kind="half", dim=7, place=0), "no tie of the kind"),
        (lambda r: r["norms"][0].update(path="absent"), "cannot be read"),
        (lambda r: r["settings"].update(init="other"), "cannot be read"),
        (lambda r: r.update(anchors=[3]), "cannot be read"),
        (lambda r: r.update(outline={"modules": []}), "cannot be read"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_refused_and_changes_nothing(change: Any, said: str) -> None:
    plain = Pooled()
    before = copy.deepcopy(plain.state_dict())
    with pytest.raises(ConversionError, match=said):
        apply_recipe(plain, damaged(change))
    assert equal([*before.values()], [*plain.state_dict().values()])
    assert not any(map(parametrize.is_parametrized, plain.modules()))


def test_a_recipe_is_no_text_and_a_plan_with_problems_is_none() -> None:
    with pytest.raises(TypeError, match="recipe= is a str"):
        apply_recipe(Pooled(), "recipe")
    plan = plan_conversion(OneWay(), DNA, verify=False)
    assert plan.problems
    with pytest.raises(ConversionError, match="the plan has problems"):
        apply_recipe(OneWay(), json.loads(json.dumps(plan.to_dict())))


def test_a_model_that_is_converted_otherwise_is_refused() -> None:
    tied, conjoined = converted("Pooled"), converted("Pooled", "conjoined")
    with pytest.raises(ConversionError, match="converted already, and not as the recipe says"):
        apply_recipe(conjoined, recipe(tied))
    assert apply_recipe(tied, recipe(tied)) is tied


def test_files_of_another_kind_are_told_apart(tmp_path: Path) -> None:
    model = converted("Pooled")
    torch.save(model.state_dict(), tmp_path / "tied.pt")
    torch.save({"state_dict": Pooled().state_dict(), "epoch": 3}, tmp_path / "plain.pt")
    torch.save(model, tmp_path / "whole.pt")
    with pytest.raises(ConversionError, match=r"model.load_state_dict .*which this seems to be"):
        load(tmp_path / "tied.pt", Pooled())
    with pytest.raises(ConversionError, match="load_plain_state_dict for one of the plain class"):
        load(tmp_path / "plain.pt", Pooled())
    with pytest.raises(ConversionError, match="weights_only=False"):
        load(tmp_path / "whole.pt", Pooled())


class Extra(Pooled):
    def get_extra_state(self) -> Any:
        return {"when": ConversionError}

    def set_extra_state(self, state: Any) -> None:
        pass


def test_a_state_that_only_a_pickle_could_hold_is_refused() -> None:
    model = convert_model(Extra(), DNA, verify=False)
    with pytest.raises(ConversionError, match=r"state_dict\['_extra_state'\]\['when'\] is a type"):
        save(model, io.BytesIO())


@pytest.mark.parametrize("strict", some([True, False], 1))
@pytest.mark.parametrize("name", ["Pooled", "Shared", "TwoWays"])
def test_a_plain_checkpoint_in_a_converted_model_is_told_what_loads_it(name: str, strict: bool) -> None:
    plain = BY_NAME[name].make().state_dict()
    first = converted(name)
    for model in (first, copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        with pytest.raises(RuntimeError, match=r"rcps_convert.load_plain_state_dict\(model, state_dict\)") as caught:
            model.load_state_dict(plain, strict=strict)
        assert str(caught.value).count("load_plain_state_dict") == 1
        load_plain_state_dict(model, plain)
        model.load_state_dict(model.state_dict())
    bake(first).load_state_dict(plain)


def test_a_converted_checkpoint_as_a_plain_one_is_told_what_loads_it() -> None:
    model = converted("Pooled")
    with pytest.raises(RuntimeError, match=r"checkpoint of a converted model: model.load_state_dict"):
        load_plain_state_dict(model, model.state_dict())


# --- the format ---------------------------------------------------------------------------------


def fixed_answer(model: nn.Module, name: str) -> list[Any]:
    """What a model makes of a fixed input, with fixed weights and buffers."""
    model.double().eval()
    with torch.no_grad():
        for i, (path, value) in enumerate((*model.named_parameters(), *model.named_buffers())):
            if value.is_floating_point() and (value.requires_grad or "parametrizations" not in path):
                ramp = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).reshape(value.shape)
                value.copy_((ramp * (1 + i % 3)).square() / 4 if "running" in path else ramp * (1 + i % 3) / 3)
    for hook in (h for m in model.modules() for h in hooks_of(m) if isinstance(h, (PooledNorm, SharedState))):
        hook.written.since = lambda *tensors: (
            False
        )  # the answers were written when such statistics were read as they are
    example = BY_NAME[name].example
    x = torch.arange(example.numel()).reshape(example.shape)
    x = (x.double() * 0.7).sin() if example.is_floating_point() else (x * x + x // 3) % 5
    return model(x).tolist()


RECIPES = sorted((HERE / "recipes").glob("*.json"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_first_format_stays_readable(path: Path) -> None:
    """`tests/recipes/` holds recipes as they were written, with the shapes they make and an answer.

    They are never written anew: a recipe of a new form gets a file of its own.
    """
    held, name = json.loads(path.read_text()), path.stem.partition("-")[0]
    model = apply_recipe(BY_NAME[name].make(), held["recipe"])
    assert {n: [*v.shape] for n, v in model.state_dict().items()} == held["shapes"]
    assert {**recipe(model), "rcps_convert": held["recipe"]["rcps_convert"]} == held["recipe"]
    answer = torch.tensor(held["answer"], dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(fixed_answer(model, name), dtype=torch.float64), answer, rtol=0, atol=1e-9)
    assert answer.std() > 1e-3


def test_there_are_recipes_of_each_kind() -> None:
    held = [json.loads(path.read_text())["recipe"] for path in RECIPES]
    assert {row["kind"] for r in held for row in r["parameters"]} == {"half", "orbit", "mirror", "untied"}
    assert all(any(r.get(part) for r in held) for part in (*ATTACHED, "averaged", "constants"))


def test_a_file_is_read_without_running_code(tmp_path: Path) -> None:
    save(converted("Pooled"), tmp_path / "model.rc")
    held = torch.load(tmp_path / "model.rc", weights_only=True)
    assert json.loads(held["rcps_convert_recipe"])["format"] == 1
    assert set(held) == {"rcps_convert_recipe", "state_dict", "buffers"}


# --- actions as texts ---------------------------------------------------------------------------


@drawn(terms(12, variables=False), few=50, many=150)
def test_a_term_is_read_as_it_was_written(term: ax.Axis) -> None:
    term = ax.walk(term)
    again = read_axis(write_axis(term))
    assert repr(again) == repr(term)  # roles too, which == leaves out
    assert torch.equal(ax.indices(again), ax.indices(term))


@drawn(terms(6, variables=False), terms(4, variables=False), terms(5, variables=False), few=50, many=150)
def test_an_action_is_read_as_it_was_written(a: ax.Axis, b: ax.Axis, value: ax.Axis) -> None:
    for action in (Action((a, b)).walk(), Action((a,), value).walk(), Action(())):
        assert repr(read_action(write_action(action))) == repr(action)


@pytest.mark.parametrize(
    "step",
    [ax.Step(1, 0), ax.Step(2, -3, 4), ax.Step(1, 0, only=7), ax.Step(1, -1, lopsided=True), ax.Step(1, 2, 3, ceil=-1)],
)
def test_a_step_is_read_as_it_was_written(step: ax.Step) -> None:
    assert read_step(write_step(step)) == step
    term = ax.length(5, ax.Role("length", 20, (step, step)))
    assert repr(read_axis(write_axis(term))) == repr(term)


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("2r * 4, ", None),
        ("2r * 4", ax.regular(8)),
        (" 2r*4 + 1", ax.regular(9)),
        ("[1 0 3 2]", ax.permutation([1, 0, 3, 2])),
        ("4 * -", ax.product([ax.trivial(4), ax.SIGN])),
        ("(2r * 4 + 1) * 3", ax.product([ax.regular(9), ax.trivial(3)])),
        ("[1 2 0]", None),
        ("2r * (4", None),
        ("5@other", None),
        ("", None),
        ("-3", None),
        (8, None),
    ],
)
def test_texts_written_by_hand(text: Any, term: ax.Axis | None) -> None:
    if term is None:
        with pytest.raises(ConversionError, match="is no text of an axis"):
            read_axis(text)
    else:
        assert read_axis(text) == term


def test_an_open_action_has_no_text() -> None:
    with pytest.raises(ValueError, match="not known yet"):
        write_axis(ax.Var(4))
