"""Submodules that run on both strands: which are chosen, what they compute, how they live on."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from lawful import assert_exact
from models import FAMILIES, Family
from oracle import assert_law
from tiers import chosen, some
from torch import Tensor, nn

from rcps_convert import (
    ConversionError,
    ConversionPlan,
    NeedsChoiceError,
    TraceError,
    bake,
    convert_model,
    plan_conversion,
)
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.graph.closed_modules import Bundle, ModuleCall
from rcps_convert.measure.axis_roles import Undecided, axis_roles

TOLERANCE = 1e-10
LENGTH = 24
DNA = torch.zeros(2, 4, LENGTH)
STRANDS = {"on_unsupported": "both_strands"}


# --- what cannot be tied ----------------------------------------------------------------------------


class Recurrent(nn.Module):
    """A recurrence in one direction, over the first axis: the batch is the second."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.permute(2, 0, 1))[0].permute(1, 2, 0)


class LastStep(nn.Module):
    """The last time step of a recurrence in both directions: no length is left."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 3, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x.transpose(1, 2))[0][:, -1]


class CausalAttention(nn.Module):
    """Attention to earlier positions only."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        t = x.transpose(1, 2)
        earlier = torch.ones(x.shape[-1], x.shape[-1], device=x.device).tril()
        weights = (self.query(t) @ t.transpose(1, 2)).masked_fill(earlier == 0, -1e9).softmax(-1)
        return self.norm((weights @ t).transpose(1, 2))


class Sinusoidal(nn.Module):
    """Sinusoidal positions of one length."""

    def __init__(self) -> None:
        super().__init__()
        at = torch.arange(LENGTH)[None] / torch.tensor([1, 2, 4, 8, 16, 32])[:, None]
        self.register_buffer("encoding", at.sin())
        self.mix = nn.Conv1d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x + self.encoding)


class Branching(nn.Module):
    """A branch on values: `torch.export` fails."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if float(x.detach().mean()) > 0.1 else self.conv(-x).tanh()


@torch.library.custom_op("test_both_strands::running", mutates_args=())
def running(x: Tensor) -> Tensor:
    """Running maximum."""
    return x.cummax(-1).values


@running.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


running.register_autograd(lambda ctx, grad: grad)


class CustomOperator(nn.Module):
    """An operator without a rule, and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        return running(x * self.scale)


class Dropping(nn.Module):
    """Sums from the left; positions are halved."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool1d(x.cumsum(-1), 2)


class Indices(nn.Module):
    """Its inner module returns integers, which have no mean: the module around it has to run on both strands."""

    class Inner(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.cumsum(-1), x.argmax(-1)

    def __init__(self) -> None:
        super().__init__()
        self.inner = self.Inner()

    def forward(self, x: Tensor) -> Tensor:
        sums, where = self.inner(x)
        return sums + where[..., None]


class Writing(nn.Module):
    """Its inner module writes into what it is given."""

    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(torch.arange(x.shape[-1]))

    def __init__(self) -> None:
        super().__init__()
        self.inner = self.Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * 1.0)


@dataclass(frozen=True)
class Part:
    """A module that cannot be tied as a whole.

    Attributes:
        make: takes and returns (N, 6, L); `keeps` says otherwise.
        region: path of the submodule that runs on both strands.
        keeps: the result has a length.
        stacks: both strands fit into one batch.
        lengths: it runs at other lengths.
    """

    make: Callable[[], nn.Module]
    region: str = "part"
    keeps: bool = True
    stacks: bool = True
    lengths: bool = True

    @property
    def name(self) -> str:
        return self.make.__name__


PARTS = [
    Part(Recurrent, region="part.lstm"),
    Part(LastStep, keeps=False),
    Part(CausalAttention),
    Part(Sinusoidal, lengths=False),
    Part(Branching, stacks=False),
    Part(CustomOperator),
    Part(Dropping),
    Part(Indices),
    Part(Writing),
]
each_part = pytest.mark.parametrize(
    "part", chosen(PARTS, lambda part: part.make in (Branching, Recurrent)), ids=[p.name for p in PARTS]
)


class Host(nn.Module):
    """Convolution, part, convolution, mean: DNA (N, 4, L) to (N, 2)."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.part, self.after = nn.Conv1d(4, 6, 5, padding=2), part, nn.Conv1d(6, 6, 3, padding=1)
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.part(F.relu(self.before(x)))
        return self.out(F.relu(self.after(h)).mean(-1) if h.dim() == 3 else h)


def host(part: Part) -> Host:
    return Host(part.make())


@functools.cache
def plan_of(part: Part) -> ConversionPlan:
    """A verified plan, that several tests start from."""
    return plan_conversion(host(part), DNA, **STRANDS)


REFUSED = {
    "Recurrent": "reads in one direction only",
    "LastStep": "select of the last position cannot be equivariant",
    "CausalAttention": "a constant made in forward is not invariant",
    "Sinusoidal": r"the buffer part\.encoding is not invariant",
    "Branching": r"torch\.export cannot trace the model",
    "CustomOperator": r"no rule for test_both_strands\.running\.default",
    "Dropping": r"no rule for aten\.cumsum\.default",
    "Indices": r"no rule for aten\.cumsum\.default",
    "Writing": "a constant made in forward is not invariant",
}
"""What is wrong with each part where nothing may run on both strands."""


# --- which submodule, and what is left ----------------------------------------------------------------


@each_part
def test_the_smallest_submodule_runs_on_both_strands(part: Part) -> None:
    model = host(part)
    with pytest.raises(ConversionError, match=REFUSED[part.name]) as refused:
        convert_model(model, DNA)
    assert str(refused.value.where).startswith("part")
    plan = plan_of(part)
    assert not plan.problems, str(plan)
    (symmetriser,) = plan.symmetrisers
    assert (symmetriser.path, symmetriser.passage.stacks) == (part.region, part.stacks)
    assert plan.verification is not None
    assert plan.verification.error < TOLERANCE
    assert plan.verification.modes == "train and eval mode"
    tied = {name: row for row in plan.parameters for name in row.names}
    assert tied.keys() == {n for n, _ in model.named_parameters() if not n.startswith(f"{part.region}.")} - set(
        plan.unused
    )
    assert tied["before.weight"].stored == (3, 4, 5)
    if part.keeps:
        assert ax.is_length(tied["after.weight"].action.axes[2])
    assert symmetriser.parameters == sum(p.numel() for p in model.get_submodule(part.region).parameters())
    assert f"symmetriser at {part.region}: " in str(plan)
    assert str(symmetriser.why) in str(plan)


@each_part
def test_stays_exact_when_trained_copied_saved_and_baked(part: Part) -> None:
    converted = plan_of(part).apply(host(part))
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.1)
    for seed in range(2):
        x = F.one_hot(torch.randint(4, (6, LENGTH), generator=torch.Generator().manual_seed(seed)), 4).mT.float()
        optimizer.zero_grad()
        (converted(x) - 1).square().mean().backward()
        assert all(p.grad is not None for n, p in converted.named_parameters() if n.startswith("part"))
        optimizer.step()
    other = plan_of(part).apply(host(part))
    other.load_state_dict(converted.state_dict())
    lengths = (LENGTH, 18) if part.lengths else (LENGTH,)
    for model in (converted, other, copy.deepcopy(converted), bake(converted)):
        assert_law(model, DNA, outputs="invariant", lengths=lengths, tolerance=TOLERANCE, randomise=False)


@each_part
def test_computes_the_mean_of_both_readings(part: Part) -> None:
    model, plan = host(part).eval(), plan_of(part)
    (symmetriser,) = plan.symmetrisers
    plain, converted = model.get_submodule(part.region), plan.apply(model).get_submodule(part.region)
    (given,), (made, *_) = symmetriser.passage.given, symmetriser.passage.made
    x = torch.randn([3 if ax.role(t) == ax.Role("batch") else t.size for t in map(ax.walk, given.axes)])

    def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
        return output if isinstance(output, Tensor) else output[0]

    def mirrored(action: Action, tensor: Tensor) -> Tensor:
        for dim, term in enumerate(action.axes):
            tensor = tensor if ax.is_trivial(term) else tensor.index_select(dim, ax.indices(term))
        return tensor

    with torch.no_grad():
        by_hand = (first(plain(x.clone())) + mirrored(made, first(plain(mirrored(given, x))))) / 2
        torch.testing.assert_close(first(converted(x.clone())), by_hand, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", some(FAMILIES, 1), ids=[f.name for f in FAMILIES])
def test_never_where_a_tie_will_do(family: Family) -> None:
    torch.manual_seed(0)
    model = family.make()
    plans = [plan_conversion(model, family.example, verify=False, **family.how, **how) for how in ({}, STRANDS)]
    assert [str(s) for s in plans[0].symmetrisers] == [str(s) for s in plans[1].symmetrisers]
    assert plans[0].parameters == plans[1].parameters


# --- how modules are called ---------------------------------------------------------------------------


class Several(nn.Module):
    """Several tensors in and out, by position and by name, with constants and settings beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(6, 6, 3, padding=1)

    def forward(self, pair: tuple[Tensor, Tensor], *, mask: Tensor, power: int, note: str | None = None) -> dict:
        a, b = pair
        sums = (self.mix(a) * mask).cumsum(-1) ** power
        return {"sums": sums, "rest": [b[:, None] + sums.mean(-1), power, note]}


class CallsSeveral(Host):
    """Hands over nested arguments and takes a nested result apart."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.before(x))
        mask = (torch.arange(x.shape[-1]) > 7).float()
        found = self.part((h, h.mean((1, 2))), mask=mask, power=2)
        return self.out(self.after(found["sums"]).mean(-1) + found["rest"][0])


class CallsTwice(Host):
    """The same module at two resolutions."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.part(F.relu(self.before(x)))
        h = self.part(F.max_pool1d(self.after(h), 2))
        return self.out(h.mean(-1))


class CallsUnlike(Host):
    """The same module on the bases, which swap, and on tracks, which do not: its calls do not act alike."""

    class Around(nn.Module):
        def __init__(self, part: nn.Module) -> None:
            super().__init__()
            self.part = part
            self.register_buffer("scale", torch.arange(1.0, 5.0)[:, None])

        def forward(self, x: Tensor) -> Tensor:
            return self.part(x) + self.part(x.mean(1, keepdim=True) * self.scale)

    def __init__(self, part: nn.Module) -> None:
        super().__init__(self.Around(part))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.before(self.part(x))).mean(-1))


class TwoRegions(Host):
    """Two modules that cannot be tied, and one between them that can."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__(part)
        self.after = nn.Sequential(nn.Conv1d(6, 6, 3, padding=1), nn.Sequential(Dropping(), nn.ReLU()))


@pytest.mark.parametrize(
    ("model", "regions"),
    chosen(
        [
            (CallsSeveral(Several()), ["part"]),
            (CallsTwice(Dropping()), ["part"]),
            (CallsTwice(Branching()), ["part"]),
            (CallsUnlike(Dropping()), ["part"]),
            (TwoRegions(CustomOperator()), ["part", "after.1.0"]),
            (Host(nn.Sequential(nn.Conv1d(6, 6, 3, padding=1), nn.Sequential(Branching(), nn.ReLU()))), ["part.1.0"]),
        ],
        lambda case: not isinstance(case[0], (TwoRegions, Host)) and not isinstance(case[0].part, Branching),
    ),
    ids=["several", "twice", "twice-branching", "unlike", "two", "nested"],
)
def test_however_a_module_is_called(model: nn.Module, regions: list[str]) -> None:
    plan = plan_conversion(model, DNA, **STRANDS)
    assert not plan.problems, str(plan)
    assert [s.path for s in plan.symmetrisers] == regions
    converted = plan.apply(model)
    assert_exact(converted, DNA, outputs="invariant", tolerance=TOLERANCE)


def test_both_strands_share_the_statistics_of_a_batch_norm() -> None:
    model = host(PARTS[2])
    converted = convert_model(model, DNA, verify=False, **STRANDS)
    seen = []
    part = converted.part
    part.query.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = F.one_hot(torch.randint(4, (6, LENGTH)), 4).mT.float()
    converted.train()(x)
    assert [len(t) for t in seen] == [12]
    stock = CausalAttention()
    stock.load_state_dict(model.part.state_dict())
    stock.train()(seen[0].transpose(1, 2))
    torch.testing.assert_close(part.norm.running_mean, stock.norm.running_mean)
    torch.testing.assert_close(part.norm.running_var, stock.norm.running_var)


@pytest.mark.slow
@pytest.mark.parametrize("index", some([2, 3, 6], 1), ids=lambda i: PARTS[i].name)
def test_compiles_and_exports(index: int) -> None:
    converted = convert_model(host(PARTS[index]), DNA, verify=False, **STRANDS).eval()
    x = torch.rand(2, 4, LENGTH)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.compile(converted, fullgraph=True, backend="aot_eager")(x), converted(x), rtol=1e-4, atol=1e-5
        )
        exported = torch.export.export(converted, (x,), strict=False).module()
        torch.testing.assert_close(exported(x), converted(x), rtol=1e-4, atol=1e-5)


def test_the_user_s_hooks_see_one_strand_in_the_user_s_shapes() -> None:
    model, seen = host(PARTS[6]), []
    model.part.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    convert_model(model, DNA, verify=False, **STRANDS)(torch.rand(3, 4, LENGTH))
    assert seen[-1] == (3, 6, LENGTH // 2)


def test_a_baked_model_converts_again_as_before() -> None:
    model = host(PARTS[6])
    baked = bake(convert_model(model, DNA, **STRANDS, verify=False))
    with torch.no_grad():
        baked.after.weight.normal_()
    first, again = plan_conversion(model, DNA, **STRANDS, verify=False), plan_conversion(baked, DNA, verify=False)
    assert [s.path for s in again.symmetrisers] == ["part"]
    assert again.parameters == first.parameters
    converted = again.apply(baked)
    assert_law(converted, DNA, outputs="invariant", tolerance=TOLERANCE)
    assert len(converted.part._forward_hooks) == 1


# --- refusals -----------------------------------------------------------------------------------------


class Bare(Host):
    """What cannot be tied stands in the model's own forward."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.before(x)).cumsum(-1).mean(-1))


class BareBranch(Host):
    """A branch in the model's own forward."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        return self.out(h.mean(-1) if float(h.sum()) > 0 else h.amax(-1))


class Pairs(Host):
    """Returns the bases: only the user can say how they act."""

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


class OneLength(nn.Module):
    """Takes one length, and gives as many numbers: positions or not, nothing shows."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6 * LENGTH, LENGTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x.cumsum(-1).flatten(1))[:, None].expand(-1, 6, -1) * 1.0


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    chosen(
        [
            (
                Bare(nn.Identity()),
                ConversionError,
                ("test_both_strands.py:", 'strategy="conjoined"', "no submodule holds"),
            ),
            (BareBranch(nn.Identity()), TraceError, ("(the model itself)", 'strategy="conjoined"')),
            (Pairs(nn.ReLU()), NeedsChoiceError, ("where  part", "outputs=")),
            (
                Host(OneLength()),
                ConversionError,
                ("where  part", "axis 2 of its output", "cumsum", 'strategy="conjoined"'),
            ),
        ],
        lambda case: not isinstance(case[0], BareBranch),
    ),
    ids=["root", "root-branch", "choice", "one-length"],
)
def test_what_no_submodule_holds_is_refused(model: nn.Module, kind: type, words: tuple[str, ...]) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(kind) as refused:
        convert_model(model, DNA, in_place=True, **STRANDS)
    for word in words:
        assert word in str(refused.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())


def test_an_untraceable_submodule_is_named_with_the_ways_out() -> None:
    with pytest.raises(TraceError) as refused:
        convert_model(host(PARTS[4]), DNA)
    for word in ("where  part (", "test_both_strands.py:", "rc_leaf", 'on_unsupported="both_strands"'):
        assert word in str(refused.value)


def test_other_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="on_unsupported='maybe'"):
        plan_conversion(host(PARTS[0]), DNA, on_unsupported="maybe")


def test_a_call_unlike_that_of_the_conversion_is_refused() -> None:
    converted = convert_model(CallsSeveral(Several()), DNA, verify=False, **STRANDS)
    x = torch.rand(2, 6, 12)
    with pytest.raises(ConversionError, match="called in another way"):
        converted.part((x, x.mean((1, 2))), mask=1.0, power=2)


# --- what running a module shows ------------------------------------------------------------------------

LENGTHS = Action((ax.batch(2), ax.Var(6), ax.length(LENGTH)))


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], *parameters: Tensor) -> None:
        super().__init__()
        self.function, self.held = function, parameters

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.held)


def roles_found(module: nn.Module, action: Action = LENGTHS) -> tuple[int | None, set[int], bool]:
    torch.manual_seed(0)
    calls = []
    for _ in range(2):
        x = torch.rand(action.shape, dtype=torch.float64)
        calls.append(ModuleCall(Bundle.of(((x,), {})), Bundle.of(module(x))))
    found = axis_roles(module, calls, [action], {})
    return found.made_batch[0], set(found.lengths[0]), found.stacks


POSITIONS = torch.rand(6, LENGTH, dtype=torch.float64)
MIXING = torch.rand(6 * LENGTH, 9, dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "batch", "lengths", "stacks"),
    [
        (lambda x: x, 0, {2}, True),
        (lambda x: x.mT, 0, {1}, True),
        (lambda x: x.permute(2, 0, 1), 1, {0}, True),
        (lambda x: x.mean(-1), 0, set(), True),
        (lambda x: x[..., -1], 0, set(), True),
        (lambda x: F.max_pool1d(x, 4), 0, {2}, True),
        (lambda x: x[..., ::3], 0, {2}, True),
        (lambda x: x.repeat_interleave(2, -1), 0, {2}, True),
        (lambda x: x.mT @ x, 0, {1, 2}, True),
        (lambda x: (x.mT @ x).softmax(-1) @ x.mT, 0, {1}, True),
        (lambda x: x.cumsum(0), 0, {2}, False),
        (lambda x: x - x.mean(0), 0, {2}, False),
        (lambda x: (x + POSITIONS).cumsum(-1), 0, {2}, True),
        (lambda x: x.flatten(1) @ MIXING, 0, set(), True),
        (lambda x: x.view(2, 6, LENGTH).mT * 2, 0, {1}, False),
        (lambda x: x.mean((0, 2)), None, set(), False),
    ],
)
def test_batches_and_lengths_are_found_by_running(
    function: Callable[[Tensor], Tensor], batch: int | None, lengths: set[int], stacks: bool
) -> None:
    assert roles_found(Lambda(function)) == (batch, lengths, stacks)


def test_a_flattened_length_is_no_length() -> None:
    with pytest.raises(Undecided, match="axis 1"):
        roles_found(Lambda(lambda x: x.flatten(1)))
