"""From models to nodes: places, nested graphs, shared weights, in-place writes; and what inference makes of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from oracle import Ids, assert_law
from tiers import some
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rcps_convert import Tokens, convert_model, plan_conversion
from rcps_convert.graph.export import trace
from rcps_convert.graph.run import interpret
from rcps_convert.rules.registry import op_name

TOLERANCE = 1e-10
DNA, IDS = torch.zeros(2, 4, 40), torch.zeros(2, 40, dtype=torch.long)


class Base(nn.Module):
    """Two convolutions and a linear layer; subclasses differ in their forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.body, self.out = nn.Conv1d(4, 8, 5, padding=2), nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 2)


class Nested(Base):
    """no_grad, autocast and checkpointed blocks: nested graphs."""

    def forward(self, x: Tensor) -> Tensor:
        h = checkpoint(self.stem, x, use_reentrant=False)
        with torch.no_grad():
            shift = self.body(h).mean()
        with torch.autocast("cpu", enabled=False):
            h = h - shift
        return self.out(F.relu(h).mean(-1))


class Written(Base):
    """A created tensor filled piece by piece, and in-place activations on views."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        buffer = torch.zeros_like(h)
        buffer[:, :4] = h[:, :4]
        buffer[:, 4:] = self.body(h)[:, 4:]
        buffer.view(len(x), -1).relu_()
        h += buffer
        h *= 0.5
        return self.out(h.mean(-1))


class Padded(Base):
    """Zeros joined to both ends, a class token at the front, a repeat over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        edge = x.new_zeros(len(x), 4, 3)
        h = self.body(self.stem(torch.cat([edge, x, edge], dim=-1)))
        token = repeat(self.token, "one c -> n c one", n=len(x))
        h = torch.cat([token, h], dim=-1)
        weights = torch.softmax(torch.einsum("ncl,ncm->nlm", h, h), dim=-1)
        h = torch.einsum("nlm,ncm->ncl", weights, h)
        return self.out(h[..., 0])


class Masked(Base):
    """A symmetric mask computed from positions, and the distance between them."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(F.relu(self.stem(x)))
        at = torch.arange(h.shape[-1], device=x.device)
        near = (at[:, None] - at[None, :]).abs()
        weights = torch.softmax(-0.1 * near.to(h), dim=-1).masked_fill(near > 9, 0.0)
        middle = ((at >= 5) & (at < h.shape[-1] - 5)).to(h)
        return self.out(((h @ weights) * middle).sum(-1))


class Binned(Base):
    """A buffer of bin values: it pins the bins, which no hidden channel may permute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bins", torch.linspace(-1, 1, 6))
        self.logits = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.stem(x)).mean(-1)
        return (self.logits(h).softmax(-1) * self.bins).sum(-1, keepdim=True)


class Grouped(Base):
    """Rearrangements: heads by einops, channels shuffled by reshape, a stack, an unbind, a movedim."""

    def forward(self, x: Tensor) -> Tensor:
        h = rearrange(self.stem(x), "n (g c) l -> n l g c", g=2)
        a, b = torch.stack([h, 2 * h], dim=2).unbind(2)
        h = (a + b).movedim(1, -1).flatten(1, 2)
        h = h.view(len(x), 4, 2, -1).transpose(1, 2).reshape(len(x), 8, -1)
        return self.out(self.body(h).amax(-1))


@pytest.mark.parametrize("model", some([Nested, Written, Padded, Masked, Binned, Grouped], 2))
def test_converts_exactly(model: type[Base]) -> None:
    plan = plan_conversion(model(), DNA)
    assert not plan.problems, str(plan)
    assert plan.verification is not None
    assert plan.verification.error < TOLERANCE
    assert any(r.stored != r.shape for r in plan.parameters)
    assert_law(plan.apply(model()), DNA, outputs="invariant", tolerance=TOLERANCE)


@pytest.mark.parametrize("model", [Nested, Written, Masked, Grouped])
@pytest.mark.parametrize("training", some([False, True], 1))
def test_interpreting_a_trace_repeats_the_model(model: type[Base], training: bool) -> None:
    net = model().train(training)
    traced = trace(net, DNA, training=training)
    x = torch.randn(2, 4, 40)
    values = {n: x if s.kind == "input" else s.value.detach().clone() for n, s in traced.sources.items()}
    seen: list[str] = []
    (out,) = interpret(traced, values, lambda node, result: seen.append(node.name))
    torch.testing.assert_close(out, net(x), rtol=0, atol=1e-6)
    assert seen == [n.name for n in traced.nodes]


def test_nodes_know_their_module_and_line() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nested = Nested()
            nested.body = nested.body

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    nodes = trace(Outer(), DNA).nodes
    convolutions = [n for n in nodes if op_name(n.op) == "conv1d"]
    assert [n.where.path for n in convolutions] == ["inner.stem", "inner.body"]
    assert all("test_trace.py:" in str(n.where.source) for n in nodes)
    assert not any("wrap_with" in str(n.op) for n in nodes)


def test_shared_parameters_have_one_name() -> None:
    class Shared(Base):
        def __init__(self) -> None:
            super().__init__()
            self.again = nn.Conv1d(8, 8, 3, padding=1)
            self.again.weight = self.body.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.again(self.body(self.body(self.stem(x)))).mean(-1))

    traced = trace(Shared(), DNA)
    names = [s.target for s in traced.sources.values() if s.kind == "parameter"]
    assert names.count("body.weight") == 2
    assert "again.weight" not in names
    rows = {r.names for r in plan_conversion(Shared(), DNA).parameters}
    assert ("body.weight", "again.weight") in rows


class Embedded(nn.Module):
    """Token ids through an embedding, or one-hot encoded inside forward."""

    def __init__(self, hot: bool, size: int) -> None:
        super().__init__()
        self.hot = hot
        self.table, self.size = nn.Embedding(size, 6), size
        self.conv, self.out = nn.Conv1d(size if hot else 6, 8, 5), nn.Linear(8, 1)

    def forward(self, ids: Tensor) -> Tensor:
        h = F.one_hot(ids, self.size).to(self.out.weight.dtype) if self.hot else self.table(ids)
        return self.out(F.relu(self.conv(h.permute(0, 2, 1))).mean(-1))


TWO_MERS = [a + b for a in "ACGT" for b in "ACGT"]
VOCABULARIES = {"letters": "ACGTN", "special": ["[PAD]", "A", "C", "G", "T"], "two-mers": ["[UNK]", *TWO_MERS]}


@pytest.mark.parametrize("vocabulary", some(VOCABULARIES.values(), 2), ids=list(VOCABULARIES))
@pytest.mark.parametrize("hot", some([False, True], 1))
def test_token_models_convert(vocabulary: object, hot: bool) -> None:
    tokens = Tokens(vocabulary)  # type: ignore[arg-type]
    model = convert_model(Embedded(hot, len(tokens.vocab)), IDS, inputs=tokens, verify=False)
    assert_law(model, IDS, inputs=Ids(vocabulary), outputs="invariant", tolerance=TOLERANCE)
    table = tokens.values()
    assert table.size == len(tokens.vocab)
