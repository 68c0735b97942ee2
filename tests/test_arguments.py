"""Every public function checks what it is given, and says what it takes."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from faults import picture
from oracle import assert_law
from tiers import some
from torch import Tensor, nn

import rcps_convert
from rcps_convert import (
    Antisymmetric,
    ConversionError,
    Invariant,
    OneHot,
    ReverseComplementAugment,
    Tokens,
    TraceError,
    Tracks,
    bake,
    check_equivariance,
    convert_model,
    layers,
    load_plain_state_dict,
    plan_conversion,
    rc_equivariant,
    rc_leaf,
    reverse_complement,
    rule,
    unwrap,
)
from rcps_convert.rules.registry import RULES

DNA = torch.zeros(2, 4, 20)


class Net(nn.Module):
    """(N, 4, L) to (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, 6, 5), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).relu().mean(-1))


class Thing:
    """Something else."""


def function(*given: Any) -> Any:
    return given


WORDS = ["", "x", "profile", "ACGX", "AACC", "ACG", "n c l!", "+", "-+", "auto!"]
NUMBERS = [-1, 0.5, float("nan"), True]
OTHERS = [None, 3, Thing(), object, function, b"ACGT", {1, 2}]

MODELS = [Net, function, None, Net().state_dict(), 3, "model", [Net()], torch.zeros(2), torch.jit.script(Net())]
EXAMPLES = [None, "x", 3, (), {}, [], (0, 4, 20), (2, -4, 20), ("a", "b"), {1: DNA}, DNA.to("meta"), Thing(), [1.5, 2]]
INPUTS = [*OTHERS, "", "x", "profile", "ACGX", "AACC", "ACG", "+", "-", "auto", ["ACGT", "ACGT"], {"a": "ACGT"}]
OUTPUTS = [*OTHERS, "", "x", "profile", "AACC", "+", "ACGX", [None], {"a": "ACGT"}, ("auto", "auto")]
LAYOUTS = [*OTHERS, "", "x", "n c", "n c l l l", "N C L", "n l c", ["n c l", 3], [None, None]]
SWITCHES = [None, 0, 1, "yes", "False", [], torch.tensor(True)]
CHOICES = [None, 3, "", "Tied", "both", True, ["tied"], nn.Linear(1, 1)]
NUMERIC = [None, "x", -1, float("nan"), [1], True, torch.ones(2), "0.5"]
COUNTS = [None, "3", 0, -1, 2.5, True, [3], float("inf")]

CONVERT: list[tuple[str, list[Any]]] = [
    ("inputs", INPUTS),
    ("outputs", OUTPUTS),
    ("layout", LAYOUTS),
    ("strategy", CHOICES),
    ("init", CHOICES),
    ("on_unsupported", CHOICES),
    ("symmetrise_buffers", SWITCHES),
    ("verify", SWITCHES),
]


def cases() -> list[Any]:
    """What is called, with what, and a name."""
    found: list[tuple[str, Callable[[], Any]]] = []

    def add(name: str, values: list[Any], call: Callable[[Any], Any]) -> None:
        found.extend((f"{name}-{i}", lambda v=v: call(v)) for i, v in enumerate(values))  # type: ignore[misc]

    for verb in (convert_model, plan_conversion, check_equivariance):
        name = verb.__name__
        add(f"{name}.model", MODELS, lambda v, verb=verb: verb(v, DNA))
        add(f"{name}.example", EXAMPLES, lambda v, verb=verb: verb(Net(), v))
    for parameter, values in CONVERT:
        add(f"convert_model.{parameter}", values, lambda v, p=parameter: convert_model(Net(), DNA, **{p: v}))
    add("convert_model.in_place", SWITCHES, lambda v: convert_model(Net(), DNA, in_place=v))
    for name, values in (("merge", [*CHOICES[:4], nn.Bilinear(2, 2, 2), max]), ("post_hoc", SWITCHES)):
        add(
            f"conjoined.{name}",
            values[:-1],
            lambda v, n=name: convert_model(Net(), DNA, strategy="conjoined", **{n: v}),
        )
    mixes = [3, "", "nothing", [], [3], Net, {"conv": True}, True]
    add("mixed.mix", mixes, lambda v: convert_model(Net(), DNA, strategy="mixed", mix=v))
    for name, values in (("inputs", INPUTS), ("outputs", OUTPUTS), ("layout", LAYOUTS)):
        add(f"check.{name}", values, lambda v, n=name: check_equivariance(Net(), DNA, **{n: v}))
        add(f"conj.{name}", values, lambda v, n=name: convert_model(Net(), DNA, strategy="conjoined", **{n: v}))
    add("check.tolerance", NUMERIC[1:], lambda v: check_equivariance(Net(), DNA, tolerance=v))
    plan = plan_conversion(Net(), DNA, verify=False)
    both = plan_conversion(Net(), DNA, strategy="conjoined", verify=False)
    add("apply.model", MODELS, lambda v: plan.apply(v))
    add("apply.in_place", SWITCHES, lambda v: plan.apply(Net(), in_place=v))
    add("valid_lengths.low", COUNTS, lambda v: plan.valid_lengths(v, 30))
    add("valid_lengths.high", COUNTS, lambda v: plan.valid_lengths(10, v))
    for undo in (bake, unwrap):
        add(f"{undo.__name__}.model", MODELS, lambda v, undo=undo: undo(v))
    add("bake.in_place", SWITCHES, lambda v: bake(plan.apply(Net()), in_place=v))
    add("unwrap.in_place", SWITCHES, lambda v: unwrap(both.apply(Net()), in_place=v))
    state = Net().state_dict()
    add("load.model", MODELS, lambda v: load_plain_state_dict(v, state))
    states = [None, 3, "x", [], Net(), [("a", 1)], {3: torch.ones(1)}, OrderedDict(state, **{"out.bias": "x"}), Net]
    add("load.state_dict", states, lambda v: load_plain_state_dict(plan.apply(Net()), v))
    add("load.init", CHOICES, lambda v: load_plain_state_dict(plan.apply(Net()), state, init=v))
    add("rc_equivariant.example", EXAMPLES, lambda v: rc_equivariant(example=v)(type("Other", (Net,), {}))())
    add("rc_equivariant.class", [*MODELS[1:], Net(), Thing], lambda v: rc_equivariant(example=(2, 4, 20))(v))
    for name, values in (("inputs", INPUTS[:9]), ("strategy", CHOICES[:4]), ("outptus", ["+-"])):
        add(
            f"rc_equivariant.{name}",
            values,
            lambda v, n=name: rc_equivariant((2, 4, 20), **{n: v})(type("O", (Net,), {}))(),
        )
    add("rc_leaf.action", [None, 3, "", "anything", Net, Net(), []], rc_leaf)
    add("rc_leaf.module", [None, 3, "x", function, Thing, Thing()], lambda v: rc_leaf("commutes")(v))
    add("rule.op", [None, 3, "aten.relu", F.relu, Net, Net(), [torch.ops.aten.relu.default], Thing()], rule)
    op = torch.ops.aten.special_bessel_j0.default
    add("rule.function", [None, 3, "x", Net, []], lambda v: rule(op)(v))
    add("rule.constants", SWITCHES, lambda v: rule(op, constants=v))
    add("rule", [()], lambda v: rule(*v))
    add("reverse_complement.x", [None, 3, ["ACGT"], b"ACGT", Thing(), "ACGX?", DNA.numpy()], reverse_complement)
    add("reverse_complement.alphabet", [*OTHERS, "", "x", "ACG"], lambda v: reverse_complement(DNA, v))
    add("reverse_complement.alphabet of text", [*OTHERS, "", "x"], lambda v: reverse_complement("ACGT", v))
    add("reverse_complement.layout", LAYOUTS, lambda v: reverse_complement(DNA, layout=v))
    ids = [torch.tensor([[0, 7]]), torch.tensor([[-1, 0]]), torch.rand(1, 2), torch.zeros(1, 2, dtype=torch.bool)]
    add("reverse_complement.ids", ids, lambda v: reverse_complement(v, Tokens("ACGT")))
    specs = [*OTHERS, "", "x", "profile"]
    add("augment.inputs", specs, lambda v: ReverseComplementAugment(v))
    add("augment.targets", specs, lambda v: ReverseComplementAugment(targets=v))
    add("augment.layout", LAYOUTS[:7], lambda v: ReverseComplementAugment(layout=v))
    add("augment.p", [*NUMERIC, 1.5], lambda v: ReverseComplementAugment(p=v))
    add("augment.seed", ["x", None, 1.5, [1]], lambda v: ReverseComplementAugment(seed=v))
    add(
        "augment.x", [None, 3, "ACGT", (), [], torch.zeros(()), torch.zeros(3)], lambda v: ReverseComplementAugment()(v)
    )
    add("augment.target", [3, None, "x"], lambda v: ReverseComplementAugment(targets="+-")(DNA, v))
    add("augment.choose", COUNTS[:2] + COUNTS[3:], lambda v: ReverseComplementAugment().choose(v))
    add(
        "Tokens.vocab",
        [None, 3, [], "", {}, "x", "xyz", [1, 2], ["A", None], {"A": "x"}, {"A": 1}, "ACG", "AA"],
        Tokens,
    )
    add("Tokens.layout", LAYOUTS[:7], lambda v: Tokens("ACGT", layout=v))
    add("OneHot.alphabet", [*OTHERS[:6], "", "x", "ACG", "AACC", ["A", "C"]], OneHot)
    add("OneHot.layout", LAYOUTS[:7], lambda v: OneHot("ACGT", layout=v))
    add("Tracks.signs", [*OTHERS[:6], "", "x", "+", "-", ["+", "-"]], Tracks)
    add("Tracks.layout", LAYOUTS[:7], lambda v: Tracks("+-", layout=v))
    add("Invariant", ["x", 3], Invariant)
    add("Antisymmetric", ["x", 3], Antisymmetric)
    for name in ("in_kernels", "out_kernels", "kernel_size", "stride", "dilation", "groups"):
        sizes = {"in_kernels": 4, "out_kernels": 4, "kernel_size": 3}
        add(f"RCPS.{name}", COUNTS, lambda v, n=name, s=sizes: layers.RCPS(**{**s, n: v}))
    add("RCPS.padding", [None, -1, "full", 1.5, [1]], lambda v: layers.RCPS(4, 4, 3, v))
    add("RCPS.bias", SWITCHES, lambda v: layers.RCPS(4, 4, 3, bias=v))
    add("RCPSInput.alphabet", [None, 3, "", "x", "ACG"], lambda v: layers.RCPSInput(4, 3, alphabet=v))
    add("RCPSBatchNorm.num_channels", COUNTS, layers.RCPSBatchNorm)
    add("RCPSOutput.align", SWITCHES, layers.RCPSOutput)
    wrong = [None, 3, "x", torch.zeros(3), torch.zeros(2, 7, 5)]
    for layer in (layers.RCPS(4, 4, 3), layers.RCPSInput(4, 3), layers.RCPSBatchNorm(4), layers.RCPSOutput()):
        add(f"{type(layer).__name__}.x", wrong, layer)
    return [pytest.param(call, id=name) for name, call in found]


CASES = cases()


def raise_problems(result: Any) -> None:
    """The problems of a plan, which it lists instead of raising them."""
    for problem in getattr(result, "problems", ()):
        raise problem


def test_there_are_enough() -> None:
    assert len(CASES) > 500


@pytest.mark.parametrize("call", CASES)
def test_a_wrong_argument_is_refused_with_words(call: Callable[[], Any], request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id.rpartition("-")[0]
    known = len(RULES)
    with pytest.raises((ConversionError, ValueError, TypeError)) as refused:
        raise_problems(call())
    text = str(refused.value)
    parameter = name.rpartition(".")[2]
    takes = ("give ", "use ", "takes", "needs", "such as", "say ", "must", "each", "expected", "do  ", "lies", "lacks")
    assert parameter in text or any(word in text for word in takes), text
    assert len(text) > 20
    assert len(RULES) == known


# --- what models are ----------------------------------------------------------------------------

both = pytest.mark.parametrize("strategy", ["tied", "conjoined"])


def sequence(n: int = 3, length: int = 20) -> Tensor:
    return F.one_hot(torch.randint(4, (n, length)), 4).mT.double()


def assert_invariant(model: nn.Module, sign: int = 1) -> None:
    x = sequence()
    model = model.double().eval()
    y = model(x)
    assert float(y.detach().abs().max()) > 0
    torch.testing.assert_close(model(x.flip(1, 2)), sign * y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("verb", [convert_model, check_equivariance])
def test_a_shape_is_an_example(verb: Callable[..., Any]) -> None:
    assert verb(Net(), (2, 4, 20)) is not None
    assert verb(Net(), [2, 4, 20]) is not None
    assert verb(Net(), torch.Size((2, 4, 20))) is not None


@both
def test_a_shape_of_tokens_is_an_example_of_ids(strategy: str) -> None:
    class Embeds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(5, 6), nn.Linear(6, 1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.embed(ids).mean(1))

    model = convert_model(Embeds(), (2, 20), inputs=Tokens("ACGTN"), strategy=strategy)
    x = torch.randint(5, (3, 20))
    torch.testing.assert_close(model(torch.tensor([3, 2, 1, 0, 4])[x.flip(1)]), model(x), rtol=0, atol=1e-6)


@both
@pytest.mark.parametrize("device", ["meta"])
def test_a_model_without_values_is_refused(strategy: str, device: str) -> None:
    with pytest.raises(ConversionError, match="meta device"):
        convert_model(Net().to(device), DNA, strategy=strategy)
    with pytest.raises(ConversionError, match="no shape yet"):
        convert_model(nn.LazyConv1d(4, 5), DNA, strategy=strategy)


class ReadsNamed(Net):
    def forward(self, x: Tensor) -> Tensor:
        own = dict(self.conv.named_parameters())
        return self.out(F.conv1d(x, own["weight"], own["bias"]).relu().mean(-1))


class ReadsTable(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.conv1d(x, self.conv._parameters["weight"]).relu().mean(-1))


class ReadsState(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.conv1d(x, self.conv.state_dict()["weight"]).relu().mean(-1))


@pytest.mark.parametrize("cls", some([ReadsNamed, ReadsTable, ReadsState], 1))
def test_forwards_that_read_parameters_by_their_names(cls: type[nn.Module]) -> None:
    model = cls()
    before = picture(model)
    with pytest.raises(ConversionError) as refused:
        convert_model(model, DNA, in_place=True)
    assert picture(model) == before
    text = str(refused.value)
    assert "test_arguments.py:" in text
    assert refused.value.do
    assert_invariant(convert_model(model, DNA, strategy="conjoined"))


class Registry(nn.Module):
    """Wants to know each subclass by a name."""

    known: dict[str, type] = {}  # noqa: RUF012 - shared on purpose

    def __init_subclass__(cls, *, name: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Registry.known[name] = cls


class Registered(Registry, name="registered"):
    """With a parameter of its own, so that its class is a parametrized one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.randn(6, 4, 5)), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.conv1d(x, self.weight).relu().mean(-1))


@both
def test_a_class_that_keeps_a_list_of_its_subclasses(strategy: str) -> None:
    before = dict(Registry.known)
    model = convert_model(Registered(), DNA, strategy=strategy)
    twin = copy.deepcopy(model)
    assert isinstance(twin, Registered)
    assert_invariant(twin)
    assert_invariant(bake(twin))
    assert type(bake(convert_model(Registered(), DNA))) is Registered
    assert Registry.known == before


@torch.library.custom_op("test_arguments::soft", mutates_args=())
def soft(x: Tensor) -> Tensor:
    """Pointwise."""
    return x.sigmoid()


soft.register_fake(lambda x: torch.empty_like(x))


class KeepsOperators(Net):
    def __init__(self) -> None:
        super().__init__()
        self.op, self.others = soft, [torch.ops.aten.relu, torch.ops.aten.relu.default]
        self.functional = F

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.op(self.functional.relu(self.conv(x))).mean(-1))


@both
def test_a_model_that_keeps_operators_and_modules_of_python(strategy: str) -> None:
    assert_invariant(convert_model(KeepsOperators(), DNA, strategy=strategy))


class Fails(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv.weights(x)  # type: ignore[operator]


class Looks(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + {"a": 1}["b"]


class Needs(Net):
    def forward(self, x: Tensor, scale: float) -> Tensor:  # type: ignore[override]
        return super().forward(x) * scale


@pytest.mark.parametrize("cls", [Fails, Looks, Needs])
@pytest.mark.parametrize(
    "verb",
    [convert_model, lambda m, x: convert_model(m, x, strategy="conjoined"), check_equivariance],
    ids=["tied", "conjoined", "check"],
)
def test_an_exception_of_the_user_s_forward_is_told_with_its_line(cls: type[nn.Module], verb: Any) -> None:
    with pytest.raises(TraceError, match="does not run on the example") as refused:
        verb(cls(), DNA)
    text = str(refused.value)
    reason = {Fails: "AttributeError", Looks: "KeyError", Needs: "TypeError"}[cls]
    assert reason in text
    assert "test_arguments.py:" in text or cls is Needs


@both
def test_a_result_that_nobody_reads(strategy: str) -> None:
    class Unused(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            h.cumsum(-1)
            return self.out(h.relu().mean(-1))

    assert_invariant(convert_model(Unused(), DNA, strategy=strategy))


class One(Net):
    """One number per sample, (N,)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 0]


@pytest.mark.parametrize("strategy", ["conjoined", "mixed"])
@pytest.mark.parametrize("samples", some([1, 2], 1))
def test_one_antisymmetric_number_per_sample(strategy: str, samples: int) -> None:
    class Deep(One):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Sequential(nn.Conv1d(4, 6, 5), nn.ReLU(), nn.Conv1d(6, 6, 3))

    model = convert_model(Deep(), (samples, 4, 20), strategy=strategy, outputs="antisymmetric")
    assert_invariant(model, sign=-1)
    assert check_equivariance(model, (samples, 4, 20), outputs="antisymmetric")


class Views(Net):
    """As Beluga takes it: (N, 4, L, 1), whose forward uses ``view``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(x.size(0), 4, -1))


class ViewsLast(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(x.size(0), -1).view(x.size(0), 4, -1))


@both
@pytest.mark.parametrize(
    ("cls", "shape", "layout"),
    some([(Views, (2, 4, 20, 1), "auto"), (Views, (2, 4, 1, 20), "auto"), (ViewsLast, (2, 4, 20), "auto")], 2),
)
def test_forwards_that_view_their_input(cls: type[nn.Module], shape: Any, layout: str, strategy: str) -> None:
    model = convert_model(cls(), shape, layout=layout, strategy=strategy, verify=False).double().eval()
    x = sequence()
    y, z = (model(t.reshape(3, *shape[1:]).contiguous()) for t in (x, x.flip(1, 2)))
    torch.testing.assert_close(y, z, rtol=0, atol=1e-12)


# --- what is left out ---

SPECS = {"layout": "auto"}
AS_ASKED = {"inputs": "ACGT", "outputs": "auto", **SPECS}
CONVERTED = {
    **AS_ASKED, "strategy": "tied", "merge": "mean", "post_hoc": False, "mix": None, "init": "keep", "sequences": None,
    "on_unsupported": "error", "symmetrise_buffers": False, "verify": True, "progress": None,
}  # fmt: skip

DEFAULTS: dict[str, dict[str, Any]] = {
    "Channels": SPECS,
    "Mask": {"prefix": None, "suffix": None, **SPECS},
    "OneHot": SPECS,
    "Permutation": {"signs": None, **SPECS, "offset": 0},
    "ReverseComplementAugment": {"inputs": "ACGT", "targets": "invariant", **SPECS, "p": 0.5, "seed": 0},
    "Tokens": {**SPECS, "prefix": None, "suffix": None},
    "Tracks": {**SPECS, "offset": 0},
    "UpperTriangle": {"diagonal": 2, "tracks": ".", **SPECS},
    "accelerate": {"backend": "auto", "in_place": False, "verbose": True},
    "bake": {"length": None, "in_place": False},
    "check_equivariance": {**AS_ASKED, "tolerance": None},
    "conjoined_strings": {"merge": "mean"},
    "convert_model": {**CONVERTED, "in_place": False},
    "extend": {
        "inputs": None, "outputs": None, "layout": None, "init": "keep", "verify": True, "in_place": False,
    },
    "load_plain_state_dict": {"init": "project", "sequences": None},
    "plan_conversion": CONVERTED,
    "recalibrate": {"progress": None},
    "reverse_complement": {"alphabet": "ACGT", **SPECS},
    "rule": {"replace": False},
    "unwrap": {"in_place": False},
}  # fmt: skip
"""What the documentation says of arguments that are left out."""


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_is_left_out_is_what_the_documentation_says(name: str) -> None:
    parameters = inspect.signature(getattr(rcps_convert, name)).parameters.values()
    assert {p.name: p.default for p in parameters if p.default is not p.empty} == DEFAULTS[name]


def test_no_public_function_has_defaults_that_are_not_looked_at() -> None:
    """Results, which are made by the package, have others."""
    functions = [(n, getattr(rcps_convert, n)) for n in rcps_convert.__all__]
    functions = [(n, f) for n, f in functions if callable(f) and not (isinstance(f, type) and issubclass(f, Exception))]
    defaults = {n for n, f in functions for p in inspect.signature(f).parameters.values() if p.default is not p.empty}
    assert defaults - {"ConversionPlan", "EquivarianceReport"} == DEFAULTS.keys()


class Signals(nn.Module):
    """Bases and four signals, each read by a layer of its own. Twice (N, 4, 20) -> (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.bases, self.signals, self.out = nn.Conv1d(4, 6, 5), nn.Conv1d(4, 6, 5), nn.Linear(6, 2)

    def forward(self, bases: Tensor, signals: Tensor) -> Tensor:
        return self.out((self.bases(bases) * self.signals(signals)).tanh().mean(-1))


@pytest.mark.parametrize("nested", some([False, True], 1))
def test_one_tensor_that_is_given_twice_stands_for_two_inputs(nested: bool) -> None:
    x, model = torch.zeros(2, 4, 20), Signals()
    example: Any = {"bases": x, "signals": x} if nested else (x, x)
    inputs: Any = {"bases": "ACGT", "signals": "...."} if nested else ("ACGT", "....")
    plan = plan_conversion(model, example, inputs=inputs, verify=False)
    assert not plan.problems, str(plan)
    assert_law(plan.apply(model), example, inputs=inputs, outputs="invariant", tolerance=1e-10)
