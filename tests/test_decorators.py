"""Classes that come out converted, and modules that are declared."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import warnings
from abc import ABC, abstractmethod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lawful import assert_exact
from oracle import assert_law
from tiers import chosen, some
from torch import Tensor, nn

from rcps_convert import (
    BreaksSymmetryError,
    ConversionError,
    Tokens,
    VerificationError,
    bake,
    convert_model,
    load_plain_state_dict,
    plan_conversion,
    rc_equivariant,
    rc_leaf,
    rule,
)
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.rules.registry import RULES, refuse
from rcps_convert.tie.attaching import ties

TOLERANCE = 1e-10
DNA = torch.zeros(2, 4, 30)


# --- rc_equivariant -------------------------------------------------------------------------------------


class Plain(nn.Module):
    """DNA (N, 4, L) to (N, out)."""

    def __init__(self, channels: int = 8, out: int = 1) -> None:
        super().__init__()
        self.length = 30
        self.conv, self.norm = nn.Conv1d(4, channels, 5), nn.BatchNorm1d(channels)
        self.out = nn.Linear(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.conv(x)).relu().mean(-1))


@rc_equivariant(example=(2, 4, 30))
class Net(Plain):
    pass


class Wider(Net):
    """Adds to the network after the base class is done."""

    def __init__(self, channels: int = 8, hidden: int = 6) -> None:
        super().__init__(channels)
        self.out = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, 3))


class Mixin:
    """Replaces a layer after the rest of the chain is done."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv = nn.Conv1d(4, 8, 7)


class Mixed(Mixin, Net):
    pass


@rc_equivariant(example=lambda model: torch.zeros(2, 4, model.length + 6), outputs="antisymmetric")
class Signed(Net):
    """A subclass with settings of its own."""


class Task(ABC):
    """Another base, with another metaclass."""

    @abstractmethod
    def task(self) -> str: ...


class Abstract(Net, Task):
    def task(self) -> str:
        return "binding"


@rc_equivariant(example={"dna": (2, 30, 4), "assay": torch.zeros(2, 3)}, inputs={"dna": "ACGT", "assay": "invariant"})
class Named(nn.Module):
    """Called by name; a parameter of its own, so that its class is a parametrized one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))
        self.out = nn.Linear(6, 1)

    def forward(self, dna: Tensor, assay: Tensor) -> Tensor:
        return self.out((dna @ self.weight).relu().mean(1)) * assay.mean(-1, keepdim=True)


@rc_equivariant(example=torch.zeros(2, 30, dtype=torch.long), inputs=Tokens("ACGTN"))
class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(5, 8), nn.Linear(8, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.embed(ids).mean(1))


class Registered(nn.Module):
    """Counts its subclasses in a hook of its own."""

    names: list[str] = []  # noqa: RUF012 - shared on purpose

    def __init_subclass__(cls, *, label: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Registered.names.append(label or cls.__name__)


@rc_equivariant(example=(2, 4, 30))
class WithHook(Registered, Plain, label="base"):
    def __init_subclass__(cls, *, label: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(label=label.upper(), **kwargs)


NAMED = {"dna": torch.zeros(2, 30, 4), "assay": torch.zeros(2, 3)}

CASES = [
    (Net, DNA, {}),
    (Wider, DNA, {}),
    (Mixed, DNA, {}),
    (Signed, DNA, {"outputs": "antisymmetric"}),
    (Abstract, DNA, {}),
    (
        Named,
        {"dna": torch.zeros(2, 30, 4), "assay": torch.zeros(2, 3)},
        {"inputs": {"dna": "ACGT", "assay": "invariant"}},
    ),
    (Embedded, torch.zeros(2, 30, dtype=torch.long), {"inputs": Tokens("ACGTN")}),
    (WithHook, DNA, {}),
]
each_class = pytest.mark.parametrize(
    ("cls", "example", "how"),
    chosen(CASES, lambda case: case[0] is Named),
    ids=[c.__name__ for c, _, _ in CASES],
)


@each_class
def test_every_instance_comes_out_converted_and_lives_on(cls: type[nn.Module], example: Any, how: dict) -> None:
    model, other = cls(), cls()
    assert isinstance(model, cls)
    assert ties(model)
    other.load_state_dict(model.state_dict())
    for m in (model, other, copy.deepcopy(model), bake(model)):
        assert_law(m, example, **{"outputs": "invariant", **how}, tolerance=TOLERANCE, randomise=False)
    assert_exact(model, example, **{"outputs": "invariant", **how}, tolerance=TOLERANCE)
    load_plain_state_dict(other, bake(model).state_dict(), init="keep")
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())


@each_class
def test_the_class_is_the_same_one(cls: type[nn.Module], example: Any, how: dict) -> None:
    assert pickle.loads(pickle.dumps(cls)) is cls
    assert cls.__name__ in repr(cls())
    assert vars(cls)["__module__"] == __name__


def test_signatures_stay() -> None:
    assert list(inspect.signature(Net).parameters) == ["channels", "out"]
    assert list(inspect.signature(Wider).parameters) == ["channels", "hidden"]
    assert Wider(4, hidden=2).out[0].weight.shape == (2, 4)


def test_converted_once_by_the_settings_of_its_own_class(monkeypatch: pytest.MonkeyPatch) -> None:
    from rcps_convert.convert import decorators

    planned: list[tuple[str, Any]] = []
    original = decorators.planned

    def counted(model: nn.Module, example: Any, settings: Any) -> Any:
        planned.append((type(model).__name__, settings.outputs))
        return original(model, example, dataclasses.replace(settings, verify=False))

    monkeypatch.setattr(decorators, "planned", counted)
    for cls in (Net, Wider, Mixed, Signed):
        copy.deepcopy(cls())
    assert planned == [("Net", "auto"), ("Wider", "auto"), ("Mixed", "auto"), ("Signed", "antisymmetric")]


def test_hooks_of_the_user_s_classes_run() -> None:
    Registered.names.clear()

    class Sub(WithHook, label="sub"):
        pass

    assert Registered.names == ["SUB"]
    assert ties(Sub())


def test_the_random_state_is_that_of_the_plain_class() -> None:
    after = []
    for cls in (Plain, Net):
        torch.manual_seed(3)
        cls()
        after.append(torch.get_rng_state())
    assert torch.equal(*after)


def test_what_cannot_be_converted_is_refused_when_it_is_made() -> None:
    @rc_equivariant(example=(2, 4, 30))
    class Positional(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.conv(x)[..., 0])

    with pytest.raises(BreaksSymmetryError, match="position"):
        Positional()
    with pytest.raises(ConversionError, match="meta device"), torch.device("meta"):
        Net()


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: rc_equivariant(example=(2, 4, 30), outptus="+-"), "outptus"),
        (lambda: rc_equivariant(example=(2, 4, 30), in_place=True), "in_place"),
        (lambda: rc_equivariant(example=(2, 4, 30))(Plain()), "convert_model"),
        (lambda: rc_leaf(Plain), "needs to be told"),
        (lambda: rc_leaf("commutes")(F.relu), "use rule"),
    ],
)
def test_wrong_use_is_refused_at_once(use: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        use()


def test_warnings_point_at_the_line_that_makes_the_instance() -> None:
    @rc_equivariant(example=(2, 4, 30))
    class Counted(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.norm.num_batches_tracked += 1

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Counted()
    assert [w.filename for w in caught if "trained" in str(w.message)] == [__file__]


class LightningLike(nn.Module):
    """What lightning modules do around ``__init__``: look for the arguments in frames, guard attributes, count."""

    def __init__(self) -> None:
        super().__init__()
        self._log_hyperparams = False
        self._trainer: Any = None
        self.register_load_state_dict_pre_hook(lambda *args: None)

    def save_hyperparameters(self) -> None:
        frame = inspect.currentframe()
        assert frame is not None
        assert frame.f_back is not None
        names, _, _, values = inspect.getargvalues(frame.f_back)
        self.hparams = {k: values[k] for k in names if k != "self"}

    @property
    def trainer(self) -> Any:
        if self._trainer is None:
            raise RuntimeError(f"{type(self).__name__} is not attached to a trainer")
        return self._trainer

    @property
    def example_input_array(self) -> Tensor:
        return torch.zeros(2, 4, 30)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def lit(base: type[nn.Module]) -> type[nn.Module]:
    @rc_equivariant(example=lambda model: model.example_input_array)
    class Lit(base):
        def __init__(self, channels: int = 8, rate: float = 1e-2) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = Plain(channels)
            if base is not LightningLike:
                self.example_input_array = torch.zeros(2, 4, 30)

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

        def training_step(self, batch: tuple[Tensor, Tensor], index: int = 0) -> Tensor:
            return F.mse_loss(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=self.hparams["rate"])

    return Lit


def trained(model: Any) -> nn.Module:
    optimizer = model.configure_optimizers()
    for _ in range(2):
        optimizer.zero_grad()
        model.training_step((torch.rand(4, 4, 30), torch.rand(4, 1))).backward()
        optimizer.step()
    return model


def test_modules_in_the_manner_of_lightning() -> None:
    model: Any = trained(lit(LightningLike)(channels=6))
    assert model.hparams == {"channels": 6, "rate": 1e-2}
    assert_law(model, DNA, outputs="invariant", tolerance=TOLERANCE, randomise=False)
    with pytest.raises(RuntimeError, match="trainer"):
        _ = model.trainer


def test_lightning(tmp_path: Any) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    cls = lit(lightning.LightningModule)
    model: Any = cls(channels=6)
    assert dict(model.hparams) == {"channels": 6, "rate": 1e-2}
    data = torch.utils.data.TensorDataset(torch.rand(8, 4, 30), torch.rand(8, 1))
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.fit(model, torch.utils.data.DataLoader(data, 4))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded: Any = cls.load_from_checkpoint(tmp_path / "last.ckpt")
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert_law(loaded, DNA, outputs="invariant", tolerance=TOLERANCE, randomise=False)


# --- rc_leaf --------------------------------------------------------------------------------------------


@rc_leaf("commutes")
class Sharpen(nn.Module):
    """Positions against the mean around them; branches on values, so it cannot be traced."""

    def forward(self, x: Tensor, width: int = 3) -> Tensor:
        around = F.avg_pool1d(x, width, stride=1, padding=width // 2)
        return x - around if float(x.detach().abs().max()) > 0 else x


@rc_leaf("commutes")
class Scale(nn.Module):
    """Wrong: its parameters differ from channel to channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def scaled(node: Any, x: Action) -> Action:
    """scale = x.C; linear in x."""
    ax.unify(node.parameters["scale"].axes[0], x.axes[1])
    return x


@rc_leaf(scaled)
class TiedScale(Scale):
    """As `Scale`, and the law says how its parameter is tied; the other one is free."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale * (self.slope.mean() if float(x.detach().sum()) > 0 else 1)


@rc_leaf(lambda node, x: x)
class WrongLaw(TiedScale):
    """Wrong: its law forgets the parameter."""


def thinned(node: Any, x: Action, *, every: int) -> tuple[Action, dict[str, Action]]:
    """Thins the length, and gives the mean too."""
    if every % 2 == 0:
        refuse("thinning by an even number", why="it starts at the left edge", do="thin by an odd number")
    length = ax.length(-(-x.shape[2] // every), ax.Role("length", steps=None))
    return x.with_axis(2, length), {"mean": Action(x.axes[:2])}


@rc_leaf(thinned)
class Thin(nn.Module):
    """Every k-th position from the first, here of a length where the last is taken too; and the mean."""

    def forward(self, x: Tensor, *, every: int) -> tuple[Tensor, dict[str, Tensor]]:
        return x[..., ::every], {"mean": x.mean(-1)}


@rc_leaf("both_strands")
class Running(nn.Module):
    """Runs on both strands, whatever `on_unsupported` says."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.cumsum(-1)).relu()


class Host(nn.Module):
    """Convolution, leaf in a container, convolution, mean."""

    def __init__(self, leaf: nn.Module, channels: int = 8, **how: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.inner = nn.Conv1d(4, 8, 4), nn.ModuleDict({"leaf": leaf})
        self.after, self.out, self.how = nn.Conv1d(channels, 6, 3), nn.Linear(6, 2), how

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner["leaf"](self.before(x), **self.how)
        h, extra = (h[0], h[1]["mean"].mean()) if isinstance(h, tuple) else (h, 0)
        return self.out(F.relu(self.after(h)).mean(-1)) + extra


LEAVES = [
    (lambda: Host(Sharpen()), [], "leaf inner.leaf: commutes"),
    (lambda: Host(Sharpen(), width=5), [], "leaf inner.leaf: commutes"),
    (lambda: Host(TiedScale()), ["inner.leaf.scale"], "leaf inner.leaf: acts by scaled (rc_leaf); 3 parameters stay"),
    (lambda: Host(Thin(), every=13), [], "leaf inner.leaf: acts by thinned"),
    (lambda: Host(Running()), [], "symmetriser at inner.leaf"),
    (lambda: Host(rc_leaf("commutes")(nn.Hardshrink())), [], "leaf inner.leaf: commutes"),
]


@pytest.mark.parametrize(("make", "tied", "words"), some(LEAVES, 2), ids=[str(i) for i in range(len(LEAVES))])
def test_a_declared_module_is_not_looked_into(make: Any, tied: list[str], words: str) -> None:
    model = make()
    plan = plan_conversion(model, DNA)
    assert not plan.problems, str(plan)
    assert words in str(plan)
    assert plan.verification is not None
    assert plan.verification.error < TOLERANCE
    rows = {name: row for row in plan.parameters for name in row.names}
    assert [name for name in rows if name.startswith("inner")] == tied
    assert ax.is_length(rows["after.weight"].action.axes[2])
    assert rows["before.weight"].stored == (4, 4, 4)
    converted = plan.apply(model)
    assert_law(copy.deepcopy(converted), DNA, outputs="invariant", tolerance=TOLERANCE, randomise=False)
    assert_exact(converted, DNA, outputs="invariant", tolerance=TOLERANCE)


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        (Host(Scale()), VerificationError, ("where  inner.leaf", "commutes", "Scale")),
        (Host(WrongLaw()), VerificationError, ("where  inner.leaf", "acts by <lambda>", "WrongLaw")),
        (Host(Thin(), every=2), ConversionError, ("thinning by an even number", "test_decorators.py:")),
        (
            Host(rc_leaf("commutes")(nn.Conv1d(8, 6, 1)), channels=6),
            ConversionError,
            ("where  inner.leaf", "commute", "rc_leaf a rule"),
        ),
        (Host(rc_leaf(lambda node, x: (x, x))(nn.Tanh())), ConversionError, ("where  inner.leaf", "shapes")),
    ],
    ids=["scale", "law", "refusing-law", "shape", "structure"],
)
def test_a_false_declaration_is_caught(model: nn.Module, kind: type, words: tuple[str, ...]) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(kind) as refused:
        convert_model(model, DNA, in_place=True)
    for word in words:
        assert word in str(refused.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.thin = Thin()

    def forward(self, x: Tensor) -> Tensor:
        return self.thin(x, every=2)[0]


def test_a_refused_declaration_runs_on_both_strands_only_within_a_larger_module() -> None:
    alone = plan_conversion(Host(Thin(), every=2), DNA, on_unsupported="both_strands")
    assert "no submodule holds" in str(alone.problems[0])
    within = plan_conversion(Host(Block()), DNA, on_unsupported="both_strands")
    assert [s.path for s in within.symmetrisers] == ["inner.leaf"]
    assert within.verification is not None
    assert within.verification.error < TOLERANCE


def test_a_class_that_is_declared_converts_when_it_is_the_model() -> None:
    @rc_leaf("both_strands")
    class Whole(Plain):
        pass

    assert ties(convert_model(Whole(), DNA))
    assert not plan_conversion(Whole(), DNA).symmetrisers


def test_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match="'anything'"):
        rc_leaf("anything")


# --- operators of the user's own --------------------------------------------------------------------------


class Square(torch.autograd.Function):
    """Traced into: what its forward does is what counts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad * ctx.saved_tensors[0]


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Square.apply(x)


def test_an_autograd_function_needs_nothing() -> None:
    converted = convert_model(Host(Squares()), DNA)
    assert_law(converted, DNA, outputs="invariant", tolerance=TOLERANCE)
    converted(torch.rand(2, 4, 30)).sum().backward()
    assert all(p.grad is not None for p in converted.parameters())


@torch.library.custom_op("test_decorators::gate", mutates_args=())
def gate(x: Tensor, scale: Tensor) -> Tensor:
    """(N, C, L), (C,) -> (N, C, L)."""
    return x.sigmoid() * scale[:, None]


@gate.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, scale = ctx.saved_tensors
    s = x.sigmoid()
    return grad * s * (1 - s) * scale[:, None], (grad * s).sum((0, 2))


gate.register_autograd(_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.test_decorators.gate(x, self.scale)


def test_an_operator_of_the_user_s_own_converts_and_trains() -> None:
    op = torch.ops.test_decorators.gate.default
    try:

        @rule(op)
        def gated(node: Any, x: Action, scale: Action) -> Action:
            """scale = x.C."""
            ax.unify(scale.axes[0], x.axes[1])
            return x

        plan = plan_conversion(Host(Gated()), DNA, verify=False)
        assert not plan.problems, str(plan)
        converted = plan.apply(Host(Gated()))
    finally:
        RULES.pop(op, None)
    assert converted.inner["leaf"].parametrizations.scale.original.shape == (4,)
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.1)
    converted(torch.rand(2, 4, 30)).square().mean().backward()
    optimizer.step()
    assert_law(converted, DNA, outputs="invariant", tolerance=TOLERANCE)
