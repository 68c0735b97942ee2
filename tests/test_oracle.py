"""The oracle itself: it accepts what obeys the law, and fails on each planted fault."""

from __future__ import annotations

import ast
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
import torch.nn.functional as F
from oracle import (
    Bases,
    Ids,
    Signs,
    assert_law,
    entry_error,
    examples,
    id_table,
    law_error,
    mirror_bases,
    mirror_ids,
    mirror_tracks,
    mirrored,
    randomised,
    run,
    some_error,
)
from torch import Tensor, nn
from torch.nn.utils import parametrize

DNA = torch.zeros(2, 4, 24)


def test_the_oracle_shares_no_code_with_the_package() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    assert found == {
        "__future__",
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "itertools",
        "torch",
        "typing",
        "warnings",
    }


# --- mirror images, letter by letter ------------------------------------------------------------------


def encoded(text: str, alphabet: str) -> Tensor:
    return torch.tensor([[float(c == a) for c in text] for a in alphabet])[None]


@pytest.mark.parametrize(
    ("alphabet", "text", "wanted"),
    [("ACGT", "AACGT", "ACGTT"), ("ATCG", "AACGT", "ACGTT"), ("ACGTN", "ANCC", "GGNT"), ("ACGU", "AUUC", "GAAU")],
)
def test_bases(alphabet: str, text: str, wanted: str) -> None:
    x, y = encoded(text, alphabet), encoded(wanted, alphabet)
    assert torch.equal(mirror_bases(x, alphabet), y)
    assert torch.equal(mirror_bases(x.mT, alphabet, "n l c"), y.mT)
    assert torch.equal(mirror_bases(x[:, None], alphabet, "n 1 c l"), y[:, None])
    assert torch.equal(mirrored(x, Bases(alphabet, "n c l")), y)


def test_tracks_and_masks_and_contacts() -> None:
    x = torch.arange(6.0).view(1, 3, 2)
    assert mirror_tracks(x, "+-.").tolist() == [[[3, 2], [1, 0], [5, 4]]]
    assert mirror_tracks(x, "-.+").tolist() == [[[5, 4], [3, 2], [1, 0]]]
    assert mirror_tracks(x.mT, "+-.", "n l c").tolist() == [[[3, 1, 5], [2, 0, 4]]]
    assert mirrored(x[:, :, 0], "+-.").tolist() == [[2, 0, 4]]
    assert mirrored(x[:, 0], "mask").tolist() == [[1, 0]]
    assert mirrored(torch.tensor([[[1, 2], [3, 4]]]), "contacts").tolist() == [[[4, 3], [2, 1]]]


def test_ids() -> None:
    assert id_table("ACGTN") == [3, 2, 1, 0, 4]
    assert id_table(["[PAD]", "AC", "GT", "AT", "aG", "Ct", "ca"]) == [0, 2, 1, 3, 5, 4, 6]
    assert id_table({"A": 1, "U": 0}) == [1, 0]
    assert mirror_ids(torch.tensor([[0, 0, 1, 4]]), "ACGTN").tolist() == [[4, 2, 3, 3]]


def test_an_ambiguous_shape_asks_for_a_layout() -> None:
    with pytest.raises(AssertionError, match="give a layout"):
        mirrored(torch.zeros(2, 4, 4))


# --- inputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "shape"), [("n c l", (5, 4, 40)), ("n l c", (5, 40, 4)), ("n 1 c l", (5, 1, 4, 40))]
)
def test_samples_of_several_kinds(layout: str, shape: tuple[int, ...]) -> None:
    example = torch.zeros(2, *shape[1:])
    seen = [
        x.movedim(x.shape.index(4), -1).flatten(1, -2)
        for x in (examples(example, layout=layout, seed=s) for s in range(6))
    ]
    assert examples(example, layout=layout).shape == shape
    rows = [r for x in seen for r in x]
    assert any(bool((r.sum(-1) == 0).any()) for r in rows)
    assert any(bool(((r > 0) & (r < 1)).any()) for r in rows)
    assert any(bool((r == r[:1]).all()) for r in rows)
    assert any(bool((r[6:] == r[:-6]).all() or (r[4:] == r[:-4]).all()) for r in rows)


def test_nested_examples_and_other_lengths() -> None:
    example = {"dna": DNA, "side": (torch.zeros(2, 2, 12), torch.zeros(2, 3)), "scale": 0.5}
    specs = {"dna": "ACGT", "side": ("+-", "invariant"), "scale": None}
    x = examples(example, specs, length=48)
    assert [x["dna"].shape, x["side"][0].shape, x["side"][1].shape, x["scale"]] == [(5, 4, 48), (5, 2, 24), (5, 3), 0.5]
    other = mirrored(x, specs)
    assert torch.equal(other["side"][0], x["side"][0].flip(1, 2))
    assert torch.equal(other["side"][1], x["side"][1])
    ids = examples(torch.zeros(2, 30, dtype=torch.long), Ids(["[CLS]", *"ACGT"]))
    assert (ids.dtype, int(ids.max()) <= 4, ids.shape) == (torch.int64, True, (5, 30))


# --- models that obey the law -------------------------------------------------------------------------


class Both(nn.Module):
    """``f(x) + rho f(rc x)`` for a convolution and a batch norm: obeys the law by construction."""

    def __init__(self, read: Callable[[Tensor, Tensor], Any] | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(4, 6, 5, padding=2), nn.Tanh(), nn.Conv1d(6, 2, 3, padding=1))
        self.read, self.drop = read, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        ours, theirs = self.body(x), self.body(x.flip(1, 2)).flip(1, 2)
        return self.drop(ours + theirs) if self.read is None else self.read(ours, theirs)


@dataclass
class Output:
    profile: Tensor
    count: Tensor
    words: str = "as they are"


class ModelOutput(OrderedDict):
    """In the manner of Hugging Face: a dict whose entries are fields too."""


RIGHT: dict[str, tuple[Callable[[Tensor, Tensor], Any] | None, Any]] = {
    "profile": (None, "+-"),
    "laid out": (lambda a, b: (a + b).mT, Signs("+-", "n l c")),
    "counts": (lambda a, b: (a + b).sum(-1), "+-"),
    "invariant": (lambda a, b: (a + b).sum((1, 2)), "invariant"),
    "antisymmetric": (lambda a, b: (a - b).sum((1, 2)), "antisymmetric"),
    "contacts": (lambda a, b: (a + b).sum(1)[:, :, None] * (a + b).sum(1)[:, None], "contacts"),
    "contacts by itself": (lambda a, b: (a + b).sum(1)[:, :, None] * (a + b).sum(1)[:, None], "auto"),
    "tuple": (lambda a, b: (a + b, None, [(a + b).sum((1, 2))]), ("+-", None, ["invariant"])),
    "dict": (lambda a, b: {"p": (a + b).sum(1), "n": 3}, {"p": Signs("."), "n": None}),
    "dataclass": (lambda a, b: Output(a + b, (a + b).sum((1, 2))), ("+-", "invariant", None)),
    "dataclass by field": (
        *(lambda a, b: Output(a + b, (a + b).sum((1, 2))),),
        {"profile": "+-", "count": "invariant", "words": None},
    ),
    "model output": (lambda a, b: ModelOutput(logits=(a + b).sum((1, 2))), {"logits": "invariant"}),
    "complex": (lambda a, b: torch.fft.fft((a + b).sum(1)).abs() + 1j * (a + b).sum((1, 2))[:, None], "invariant"),
    "classes": (lambda a, b: ((a + b).sum((1, 2)) > 0, (a + b).sum(1).round().long()), ("invariant", Signs("."))),
    "a huge mask": (lambda a, b: (a + b).index_fill(2, torch.tensor([0, 23]), -1e9), "+-"),
    "infinite ends": (lambda a, b: (a + b).index_fill(2, torch.tensor([0, 23]), float("-inf")), "+-"),
    "a hand-written map": (lambda a, b: torch.stack([a.sum((1, 2)), b.sum((1, 2))], 1), lambda y: y.flip(1)),
}


@pytest.mark.parametrize("case", RIGHT.values(), ids=RIGHT)
def test_accepts_what_obeys_the_law(case: tuple[Any, Any]) -> None:
    read, outputs = case
    assert_law(Both(read), DNA, outputs=outputs)


def test_the_batch_may_be_small_or_kept_and_lengths_differ() -> None:
    for batch in (None, 1, 2):
        assert_law(Both(), DNA, outputs="+-", lengths=[24, 31, 60], batch=batch)
    assert_law(Both(), DNA.float(), outputs="+-", dtype=torch.float32, tolerance=1e-4)


# --- planted faults -----------------------------------------------------------------------------------


def off_by(entry: tuple[int, int], amount: float, huge: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    """One entry of the profile is off; others are huge on both strands."""

    def read(a: Tensor, b: Tensor) -> Tensor:
        y = a + b
        y[:, entry[0], entry[1]] *= 1 + amount
        if huge:
            y[:, :, [2, 21]] = huge
        return y

    return read


def from_others(a: Tensor, b: Tensor) -> Tensor:
    """Each sample also sees its neighbour's own strand, faintly."""
    return (a + b).sum((1, 2)) + 1e-5 * a.sum((1, 2)).roll(1)


def undefined(where: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: (a + b).masked_fill(where(a), float("nan"))


def at(position: int) -> Callable[[Tensor], Tensor]:
    return lambda a: (torch.arange(a.shape[-1]) == position).expand(a.shape)


class OnlyInTraining(Both):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + 1e-3 * self.body(x) if self.training else y


class AtZeroWeights(Both):
    """Broken by a bias, which is zero in a new network."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(24))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.bias


class AtFreshStatistics(Both):
    """Broken by running statistics, which are all alike in a new network."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        self.norm(self.body(x))
        assert self.norm.running_mean is not None
        return super().forward(x) + (0 if self.training else self.norm.running_mean[:, None])


class AtGaps(Both):
    """Broken where a column is all zero."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (self.body(x) if bool((x.sum(1) == 0).any()) else 0)


class AtLengths(Both):
    """Broken at odd lengths."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (self.body(x) if x.shape[-1] % 2 else 0)


WRONG: dict[str, tuple[nn.Module, Any, str]] = {
    "not symmetric at all": (nn.Conv1d(4, 2, 5, padding=2), "+-", "error"),
    "one entry off": (Both(off_by((0, 5), 1e-6)), "+-", "error"),
    "one entry off beside 1e9": (Both(off_by((0, 5), 1e-6, 1e9)), "+-", "error"),
    "one entry off beside -1e9": (Both(off_by((1, 0), 1e-6, -1e9)), "+-", "error"),
    "tracks not swapped": (Both(), "..", "error"),
    "tracks swapped that should stay": (
        Both(lambda a, b: (a + b).sum(1, True).repeat(1, 2, 1) * a.new_tensor([[1], [2]])), "+-", "error"
    ),
    "wrong pairs": (Both(lambda a, b: torch.cat([a + b, a + b], 1)), "++--", "error"),
    "a position not mirrored": (Both(lambda a, b: (a + b).roll(1, -1)), "+-", "error"),
    "a profile said to be invariant": (Both(lambda a, b: (a + b).sum(1)), "invariant", "error"),
    "no action fits": (Both(lambda a, b: a), "auto", "error"),
    "one strand's sign": (Both(lambda a, b: (a - b).sum((1, 2))), "invariant", "error"),
    "half of a contact map": (Both(lambda a, b: (a + b).sum(1)[:, :, None] * (a + b).sum(1)[:, None].roll(1, -1)),
                              "contacts", "error"),
    "one output of two": (Both(lambda a, b: (a + b, a.sum((1, 2)))), ("+-", "invariant"), "output 1"),
    "one output of two, by itself": (Both(lambda a, b: {"x": (a + b).sum((1, 2)), "y": a}), "auto", "output y"),
    "a field": (Both(lambda a, b: Output(a + b, a.sum((1, 2)))), ("+-", "invariant", None), "output count"),
    "another value": (Both(lambda a, b: (a + b, bool(a[0].sum() > b[0].sum()))), ("+-", None), "differ"),
    "imaginary part": (Both(lambda a, b: (a + b).sum((1, 2)) + 1e-5j * a.sum((1, 2))), "invariant", "error"),
    "classes": (Both(lambda a, b: ((a + b).sum((1, 2)), a.sum((1, 2)) > b.sum((1, 2)))), "invariant", "output 1"),
    "samples that influence each other": (Both(from_others), "invariant", "error"),
    "undefined at one side": (Both(undefined(at(3))), "+-", "not finite on one side"),
    "undefined everywhere": (Both(undefined(lambda a: torch.ones_like(a) > 0)), "+-", "no value is finite"),
    "infinite at one side": (Both(lambda a, b: (a + b).index_fill(2, torch.tensor([0]), float("inf"))), "+-",
                             "not finite on one side"),
    "another shape": (Both(lambda a, b: (a + b)[:, :, int(a[0, 0, 0] > b[0, 1, 0]) :]), "+-", "shapes"),
    "empty": (Both(lambda a, b: (a + b)[:, :, :0]), "+-", "nothing to compare"),
    "no tensors": (Both(lambda a, b: "words"), None, "nothing was compared"),
    "nothing of the sequence": (Both(lambda a, b: torch.ones(len(a))), "invariant", "depends on the sequence"),
    "in training only": (OnlyInTraining(), "+-", "train mode"),
    "by a bias that is zero": (AtZeroWeights(), "+-", "error"),
    "by statistics that are fresh": (AtFreshStatistics(), "+-", "eval mode"),
    "where a column is zero": (AtGaps(), "+-", "error"),
    "at another length": (AtLengths(), "+-", "length 25"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_fails_on_planted_faults(case: tuple[nn.Module, Any, str]) -> None:
    model, outputs, words = case
    torch.manual_seed(0)
    lengths = [24] if isinstance(model, AtZeroWeights) else [24, 25]
    if "not finite" in words or words == "error":
        lengths = [24]
    with pytest.raises(AssertionError, match=words):
        assert_law(model, DNA, outputs=outputs, lengths=lengths)


def test_a_fresh_network_would_have_hidden_these() -> None:
    """What randomising the copy is for."""
    x = examples(DNA)
    for model in (AtZeroWeights(), AtFreshStatistics()):
        assert law_error(model.double(), x, outputs="+-") < 1e-12
    assert law_error(OnlyInTraining().double(), x, outputs="+-") < 1e-12
    assert law_error(OnlyInTraining().double(), x, outputs="+-", training=True) > 1e-6


def test_single_mirrored_samples_show_what_whole_batches_hide() -> None:
    """Each sample adds the batch's mean over both strands: the law holds when all are mirrored, and not for some."""

    class Coupled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            own = x[:, 0].sum(-1) - x[:, 3].sum(-1)
            return x.square().sum((1, 2)) + (own * own.roll(1)).sum()

    x = examples(DNA)
    assert law_error(Coupled(), x, outputs="invariant") < 1e-12
    assert some_error(Coupled(), x, outputs="invariant") > 1e-6
    assert some_error(Both().double(), x, outputs="+-") < 1e-12


# --- one pair of tensors ------------------------------------------------------------------------------


def test_the_error_is_that_of_the_worst_entry() -> None:
    wanted = torch.tensor([1.0, 2.0, 4.0, 1e9], dtype=torch.float64)
    assert entry_error(wanted, wanted) == 0
    assert entry_error(wanted + torch.tensor([0, 0, 1e-3, 0]), wanted) == pytest.approx(2.5e-4, rel=1e-3)
    assert entry_error(wanted + torch.tensor([1e-3, 0, 0, 0]), wanted) == pytest.approx(5e-4)  # against the middle one
    assert entry_error(torch.ones(2), torch.zeros(2)) == 1
    assert entry_error(torch.zeros(2), torch.zeros(2)) == 0
    assert entry_error(torch.tensor([True]), torch.tensor([False])) == float("inf")
    assert entry_error(torch.tensor([3]), torch.tensor([3])) == 0
    assert entry_error(torch.tensor([1 + 1e-3j, 1 + 0j]), torch.tensor([1 + 0j, 1 + 0j])) == pytest.approx(1e-3)
    assert entry_error(torch.tensor([float("-inf"), 1.0]), torch.tensor([float("-inf"), 1.0])) == 0


@pytest.mark.parametrize(
    ("got", "wanted", "words"),
    [
        (torch.ones(2), torch.ones(1, 2), "shapes"),
        (torch.ones(2), torch.ones(2).double(), "float32 and torch.float64 differ"),
        (torch.ones(0), torch.ones(0), "nothing to compare"),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), "no value is finite"),
        (torch.tensor([float("nan"), 1]), torch.tensor([1.0, 1]), "one side only"),
        (torch.tensor([float("inf"), 1]), torch.tensor([-float("inf"), 1]), "one side only"),
    ],
)
def test_what_cannot_be_compared_is_no_success(got: Tensor, wanted: Tensor, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        entry_error(got, wanted)


# --- running and randomising --------------------------------------------------------------------------


def test_running_leaves_the_model_alone_and_drops_nothing() -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.AlphaDropout(0.5)).double().train()
    model.append(nn.LSTM(22, 3, 2, dropout=0.5).double())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x, state = examples(DNA), torch.get_rng_state()
    out, again = run(model, x, True)[0], run(model, x, True)[0]
    assert torch.equal(out, again)
    assert bool((out != 0).all())
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert torch.equal(state, torch.get_rng_state())
    assert (model.training, model[2].p, model[4].dropout) == (True, 0.5, 0.5)


def test_functional_dropout_and_casts() -> None:
    class Casting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            h = F.dropout(x.float(), 0.5, self.training) + torch.zeros(1, dtype=torch.float32)
            h = F.dropout1d(h, 0.5, self.training) * torch.full((1,), 1 / 3)
            return F.scaled_dot_product_attention(h, h, h, dropout_p=0.5 if self.training else 0.0).to(torch.float32)

    x = examples(DNA)
    y = run(Casting(), x, True)
    assert y.dtype == torch.float64
    assert torch.equal(y, run(Casting(), x, False))
    assert torch.get_default_dtype() == torch.float32


def test_a_tied_weight_is_moved_by_what_is_stored() -> None:
    class Palindrome(nn.Module):
        def forward(self, half: Tensor) -> Tensor:
            return torch.cat([half, half.flip(-1)], -1)

        def right_inverse(self, whole: Tensor) -> Tensor:
            return whole[..., :2]

    layer = nn.Conv1d(4, 2, 4)
    parametrize.register_parametrization(layer, "weight", Palindrome())
    before = layer.weight.detach().clone()
    moved = randomised(nn.Sequential(layer, nn.BatchNorm1d(2)), DNA)
    weight = moved[0].weight
    assert torch.equal(weight, weight.flip(-1))
    assert bool((weight != before).all())
    assert torch.equal(layer.weight, before)
    assert bool((moved[1].running_mean != 0).all() and (moved[1].running_var != 1).all())
