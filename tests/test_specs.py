"""Specs beyond bases and stranded tracks, against rules written by hand: several kinds, tables, triangles, offsets."""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from lawful import assert_exact
from oracle import read_spec as read_by_hand
from tiers import some
from torch import Tensor, nn

import rcps_convert
from rcps_convert import (
    Channels,
    ConversionError,
    NeedsChoiceError,
    Permutation,
    ReverseComplementAugment,
    Tokens,
    Tracks,
    UpperTriangle,
    bake,
    check_equivariance,
    convert_model,
    plan_conversion,
    reverse_complement,
)
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.texts import read_axis, write_axis

G = torch.Generator().manual_seed(0)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=G, dtype=torch.float64)


def cnn(channels: int = 4, tracks: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(channels, 8, 5, padding=2), nn.Tanh(), nn.Conv1d(8, tracks, 3, padding=1))


def converted(model: nn.Module, example: Any, **how: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_model(model, example, **how)


# --- what they say ------------------------------------------------------------------------------


SPECS = {
    "kinds": (Channels("ACGT", "+-", ".."), [3, 2, 1, 0, 5, 4, 6, 7], [1] * 8),
    "flag": (Channels("AGCT", Permutation([0], [-1]), "."), [3, 2, 1, 0, 4, 5], [1, 1, 1, 1, -1, 1]),
    "nested": (Channels(Channels(".", "ACGT"), "-+"), [0, 4, 3, 2, 1, 6, 5], [1] * 7),
    "table": (Permutation([3, 2, 1, 0]), [3, 2, 1, 0], [1] * 4),
    "signs": (Permutation([0, 2, 1, 3, 4], [1, -1, -1, -1, 1]), [0, 2, 1, 3, 4], [1, -1, -1, -1, 1]),
    "interleaved": (Permutation([2, 3, 0, 1], [1, -1, 1, -1]), [2, 3, 0, 1], [1, -1, 1, -1]),
    "strand pairs": (Tracks.pairs([3, 2, 1, 0, 4]), [3, 2, 1, 0, 4], [1] * 5),
    "two cases": (rcps_convert.OneHot("ACGTacgt"), [3, 2, 1, 0, 7, 6, 5, 4], [1] * 8),
    "lower case": (rcps_convert.OneHot("acgtN"), [3, 2, 1, 0, 4], [1] * 5),
}


@pytest.mark.parametrize(("spec", "table", "signs"), SPECS.values(), ids=SPECS)
def test_channels_come_from_where_the_table_says(spec: Any, table: list[int], signs: list[int]) -> None:
    x = numbers(2, len(table), 9)
    expected = x[:, table].flip(-1) * torch.tensor(signs)[:, None]
    found = reverse_complement(x, spec)
    assert torch.equal(found, expected)
    assert torch.equal(reverse_complement(found, spec), x)
    assert torch.equal(reverse_complement(x.mT, spec), expected.mT)
    assert torch.equal(read_by_hand(spec).mirror(x), expected)
    term = spec.channel()
    assert ax.same(read_axis(write_axis(term)), term)


@pytest.mark.parametrize("pairs", [[1, 0], [3, 2, 1, 0, 4, 6, 5], list(range(5))])
def test_tracks_equal_the_switch_of_baskerville(pairs: list[int]) -> None:
    """SwitchReverse: ``tf.reverse`` along positions, then ``tf.gather`` of the strand pairs, (N, L, T)."""
    x = numbers(2, 11, len(pairs)).numpy()
    switched = np.take(x[:, ::-1], pairs, axis=-1)
    assert np.array_equal(reverse_complement(torch.from_numpy(x), Tracks.pairs(pairs)).numpy(), switched)


@pytest.mark.parametrize(("bins", "diagonal"), [(7, 0), (9, 2), (5, 1), (12, 3)])
def test_triangles_equal_the_switch_of_baskerville(bins: int, diagonal: int) -> None:
    """SwitchReverseTriu: a map of numbers of contacts, both ways round, read at the kept places of its reversal."""
    kept = np.triu_indices(bins, diagonal)
    count = len(kept[0])
    places = np.zeros((bins, bins), dtype=int)
    places[kept] = np.arange(count)
    order = (places + np.triu(places, 1).T)[::-1, ::-1][kept]
    x = numbers(2, count, 3)
    found = reverse_complement(x, UpperTriangle(diagonal, "..."))
    assert np.array_equal(found.numpy(), x.numpy()[:, order])
    assert torch.equal(found, read_by_hand(UpperTriangle(diagonal, "...")).mirror(x))
    assert torch.equal(reverse_complement(x[..., 0], UpperTriangle(diagonal)), found[..., 0])


@pytest.mark.parametrize("offset", [1, -1, 3, -2])
def test_an_offset_moves_positions_and_leaves_the_edge(offset: int) -> None:
    x = numbers(2, 2, 9)
    found, size = reverse_complement(x, Tracks("+-", offset=offset)), 9
    for i in range(size):
        j = size - 1 - i - offset
        assert torch.equal(found[..., i], x.flip(1)[..., j if 0 <= j < size else i])
    assert torch.equal(reverse_complement(found, Tracks("+-", offset=offset)), x)
    term = ax.positions(9, offset)
    assert read_axis(write_axis(term)) == term
    assert ax.has_edge(read_axis(write_axis(term)))
    assert ax.describe(term) == " + ".join(
        [f"{9 - abs(offset)} reversed", f"{abs(offset)} at the edge"][:: 1 if offset > 0 else -1]
    )


@pytest.mark.parametrize("offset", [9, -9, 20])
def test_an_offset_that_leaves_no_pair_is_refused(offset: int) -> None:
    """It was taken for an axis on which nothing moves, also at lengths at which there are pairs."""
    spec = Tracks("+-", offset=offset)
    with pytest.raises(NeedsChoiceError, match="no two of 9 positions"):
        reverse_complement(numbers(2, 2, 9), spec)
    for strategy in ("tied", "conjoined"):
        with pytest.raises(NeedsChoiceError, match="no two of 9 positions"):
            convert_model(nn.Conv1d(4, 2, 3, padding=1), torch.zeros(2, 4, 9), outputs=spec, strategy=strategy)
    with pytest.raises(NeedsChoiceError, match="no two of 9 positions"):
        check_equivariance(nn.Conv1d(4, 2, 3, padding=1), torch.zeros(2, 4, 9), outputs=spec)
    assert ax.has_edge(ax.positions(9, offset))
    assert ax.has_edge(read_axis(write_axis(ax.positions(9, offset))))


def test_samples_and_targets_of_such_specs_are_mirrored_together() -> None:
    augment = ReverseComplementAugment(Channels("ACGT", "+-"), Tracks.pairs([2, 1, 0]), p=1.0)
    x, y = numbers(3, 6, 8), numbers(3, 3, 8)
    a, b = augment(x, y)
    assert torch.equal(a, x[:, [3, 2, 1, 0, 5, 4]].flip(-1))
    assert torch.equal(b, y[:, [2, 1, 0]].flip(-1))


# --- what converts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "channels"),
    some(
        [
            (Channels("AGCT", Permutation([0], [-1]), "."), 6),
            (Channels("ACGT", "+-", ".."), 8),
            ("ACGTacgt", 8),
            (Permutation([4, 3, 2, 1, 0, 5], [1, 1, 1, 1, 1, -1]), 6),
        ],
        1,
    ),
)
def test_inputs_of_several_kinds_convert(spec: Any, channels: int) -> None:
    example = torch.zeros(2, channels, 30)
    model = converted(cnn(channels), example, inputs=spec, outputs="-+")
    assert_exact(model, example, inputs=spec, outputs="-+", lengths=(30, 41), tolerance=1e-10)


def test_outputs_paired_by_a_table_convert() -> None:
    pairs = Tracks.pairs([3, 2, 1, 0, 4])
    model = converted(cnn(tracks=5), (2, 4, 30), outputs=pairs)
    assert_exact(model, torch.zeros(2, 4, 30), outputs=pairs, lengths=(30, 41), tolerance=1e-10)
    signed = Permutation([1, 0, 2], [1, 1, -1])
    model = converted(cnn(tracks=3), (2, 4, 30), outputs=signed)
    assert_exact(model, torch.zeros(2, 4, 30), outputs=signed, lengths=(30, 41), tolerance=1e-10)


class Contacts(nn.Module):
    """Akita's way: pairs of positions, a symmetric map, and its upper triangle."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.map = nn.Conv1d(4, 8, 5, padding=2), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.conv(x))
        y = self.map(h[..., :, None] * h[..., None, :])
        y = (y + y.mT) / 2
        i, j = torch.triu_indices(y.shape[-1], y.shape[-1], 2)
        return y[..., i, j]


def test_the_upper_triangle_of_contacts_converts() -> None:
    spec, example = UpperTriangle(2, "+-."), torch.zeros(2, 4, 16)
    plan = plan_conversion(Contacts(), example, outputs=spec)
    assert not plan.problems
    assert len(plan.checked) >= 2
    assert plan.checked
    assert not plan.guards
    assert_exact(plan.apply(Contacts()), example, outputs=spec, lengths=(16, 23), tolerance=1e-10)
    assert not check_equivariance(Contacts(), example, outputs=spec)


def between_bases(x: Tensor, y: Tensor, offset: int) -> bool:
    """Whether an output obeys the law away from the uncovered edge; tracks +-."""
    size = y.shape[-1]
    covered = [i for i in range(size) if 0 <= size - 1 - i - offset < size]
    partner = [size - 1 - i - offset for i in covered]
    return bool(torch.allclose(x[..., covered], y.flip(1)[..., partner], rtol=0, atol=1e-12))


def test_values_between_bases_are_read_on_both_strands() -> None:
    spec, x = Tracks("+-", offset=1), torch.nn.functional.one_hot(torch.randint(4, (3, 30), generator=G), 4).mT.double()
    model = converted(cnn().double(), (2, 4, 30), outputs=spec, strategy="conjoined")
    assert between_bases(model(reverse_complement(x)), model(x), 1)
    assert not between_bases(cnn().double()(reverse_complement(x)), cnn().double()(x), 1)
    longer = reverse_complement(x[..., :27].contiguous())
    assert between_bases(model(longer), model(reverse_complement(longer)), 1)
    assert check_equivariance(model, (2, 4, 30), outputs=spec)
    assert not check_equivariance(model, (2, 4, 30), outputs="+-")


class Cuts(nn.Module):
    """Exact for cuts between bases, but for the last position, where a kernel of two reads the padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = convert_model(nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.Tanh()), (2, 4, 20), outputs="+++---")
        w = torch.randn(1, 6, 2)
        self.weight = nn.Parameter(w + w.flip(-1).roll(3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv1d(self.body(x), self.weight, padding="same")


def test_a_check_passes_over_the_uncovered_edge() -> None:
    assert check_equivariance(Cuts(), (2, 4, 20), outputs=Tracks(".", offset=1))
    for offset in (0, -1, 2):
        assert not check_equivariance(Cuts(), (2, 4, 20), outputs=Tracks(".", offset=offset))


def test_recipes_keep_such_specs() -> None:
    spec = Channels("ACGT", "+-", "..")
    model = converted(cnn(8), (2, 8, 30), inputs=spec, outputs=Tracks.pairs([1, 0]), strategy="conjoined")
    kept = json.loads(json.dumps(rcps_convert.recipe(model)))
    again = rcps_convert.apply_recipe(cnn(8), kept)
    x = torch.rand(2, 8, 30)
    assert torch.equal(again(x), model(x))


# --- what is flattened -----------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "apart"), [("n (c l)", "n c l"), ("n (l c)", "n l c"), ("(n l) c", None)])
def test_axes_that_were_flattened(layout: str, apart: str | None) -> None:
    if apart is None:
        with pytest.raises(NeedsChoiceError, match="does not fit shape"):
            reverse_complement(numbers(18, 2), Tracks("+-", layout=layout))
        return
    x = numbers(3, 2, 7) if apart == "n c l" else numbers(3, 7, 2)
    expected = reverse_complement(x, Tracks("+-", layout=apart)).flatten(1)
    assert torch.equal(reverse_complement(x.flatten(1), Tracks("+-", layout=layout)), expected)
    model = converted(FlatProfile(layout), (2, 4, 12), outputs=Tracks("+-", layout=layout), strategy="conjoined")
    for length in (12, 15):
        y = torch.rand(2, 4, length)
        assert torch.allclose(
            model(reverse_complement(y)), reverse_complement(model(y), Tracks("+-", layout=layout)), atol=1e-6
        )


class FlatProfile(nn.Module):
    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout, self.body = layout, cnn()

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return (y if self.layout == "n (c l)" else y.mT).flatten(1)


@pytest.mark.parametrize("layout", ["n (c l", "n c l)", "n () l", "n (x l)"])
def test_a_layout_that_cannot_be_read(layout: str) -> None:
    with pytest.raises(NeedsChoiceError, match="does not fit any shape"):
        Tracks("+-", layout=layout)


@pytest.mark.parametrize("outputs", ["auto", "invariant"])
def test_positions_beside_something_else_are_never_invariant(outputs: str) -> None:
    with pytest.raises(NeedsChoiceError, match="holds positions and something else") as caught:
        convert_model(FlatProfile("n (c l)"), (2, 4, 12), outputs=outputs)
    assert 'layout="n (c l)"' in str(caught.value)


class FlatInput(nn.Module):
    """Takes bases and positions as one axis, and adds a table's rows by position to its hidden tensor."""

    def __init__(self, layout: str, channels: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layout, self.channels, self.conv = layout, channels, nn.Conv1d(channels, 8, 5, padding=2)
        self.table, self.out = nn.Embedding(30, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        shape = (self.channels, -1) if self.layout == "n (c l)" else (-1, self.channels)
        x = x.unflatten(1, shape)
        h = self.conv(x if self.layout == "n (c l)" else x.mT).mT
        return self.out((h + self.table(torch.arange(h.shape[1]))).tanh().mean(1))


class ContactTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.out = nn.Embedding(60, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((x[..., None] * self.table(torch.arange(x.shape[1]))).tanh().mean(1))


def contacts_by_hand(x: Tensor) -> Tensor:
    """Contacts above the second diagonal of a map of 11 bins, read on the other strand."""
    i, j = torch.triu_indices(11, 11, 2)
    whole = x.new_zeros(len(x), 11, 11)
    whole[:, i, j] = whole[:, j, i] = x
    return whole.flip((1, 2))[:, i, j]


ONE_SIZE: list[tuple[nn.Module, dict[str, Any], int, Any]] = [
    (FlatInput("n (c l)"), {"layout": "n (c l)"}, 48, lambda x: x.flip(1)),
    (FlatInput("n (l c)", 2), {"inputs": Tracks("+-", layout="n (l c)")}, 24, lambda x: x.flip(1)),
    (
        FlatInput("n (c l)", 6),
        {"inputs": Channels("ACGT", "+-", layout="n (c l)")},
        72,
        lambda x: x.unflatten(1, (6, -1))[:, [3, 2, 1, 0, 5, 4]].flip(2).flatten(1),
    ),
    (ContactTable(), {"inputs": UpperTriangle(2)}, 45, contacts_by_hand),
]
"""Models whose input has no axis that is a length: the size of the example, and the mirror image of an input."""


@pytest.mark.parametrize(("model", "how", "size", "mirror"), some(ONE_SIZE, 2))
def test_an_input_without_an_axis_of_positions_has_one_size(
    model: nn.Module, how: dict[str, Any], size: int, mirror: Any
) -> None:
    tied = converted(model, torch.zeros(2, size), **how).double()
    with torch.no_grad():
        for parameter in tied.parameters():
            parameter.copy_(numbers(*parameter.shape))
    x = numbers(3, size)
    for each in (tied, bake(tied)):
        assert torch.allclose(each(mirror(x)), each(x), rtol=1e-10, atol=1e-10)
        with pytest.raises(ConversionError, match=r"an input of|another form"):
            each(torch.zeros(2, size // 4 * 3))


def test_a_reading_of_both_strands_of_such_an_input_needs_its_outputs() -> None:
    model = converted(FlatInput("n (c l)"), (2, 48), layout="n (c l)", outputs="invariant", strategy="conjoined")
    for size in (48, 44):
        x = torch.rand(2, size)
        assert torch.allclose(model(x.unflatten(1, (4, -1)).flip((1, 2)).flatten(1)), model(x), atol=1e-6)


class OfSeveral(nn.Module):
    """Several sequences of one sample, on an axis of features before the channels: (N, F, L, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.out = nn.Conv1d(channels, 8, 5, padding=2), nn.Conv1d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(sum(self.conv(x[:, i].mT).relu() for i in range(x.shape[1])))


@pytest.mark.parametrize(("inputs", "shape"), some([(Channels("ACGT", "+-"), (2, 3, 9, 6)), ("ACGT", (2, 4, 9, 4))], 1))
def test_an_axis_of_features_before_the_channels_is_not_taken_for_them(inputs: Any, shape: tuple[int, ...]) -> None:
    model = converted(OfSeveral(shape[-1]), shape, inputs=inputs, layout="n f l c").double()
    x = numbers(*shape)
    swapped = [3, 2, 1, 0, *([5, 4] if shape[-1] == 6 else [])]
    assert torch.allclose(model(x[..., swapped].flip(2)), model(x).flip(2), atol=1e-12)


def test_a_number_is_an_input_also_as_a_tensor() -> None:
    class Tempered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = cnn()

        def forward(self, x: Tensor, temperature: Tensor, more: list[Any]) -> Tensor:
            return self.body(x) / temperature * more[0]

    example = torch.zeros(2, 4, 20), torch.tensor(1.0), [3, torch.tensor(2.0)]
    specs = ("ACGT", "invariant", [None, "invariant"])
    model = converted(Tempered(), example, inputs=specs, outputs="+-").double()
    x = numbers(2, 4, 20)
    args = torch.tensor(0.7), [3, torch.tensor(2.0)]
    assert torch.allclose(model(x.flip((1, 2)), *args), model(x, *args).flip((1, 2)), atol=1e-12)


# --- shapes as examples --------------------------------------------------------------------------


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.side, self.out = nn.Embedding(5, 8), nn.Linear(3, 8), nn.Conv1d(8, 1, 3, padding=1)

    def forward(self, ids: Tensor, cell: Tensor) -> Tensor:
        return self.out(torch.tanh(self.table(ids).mT + self.side(cell)[..., None]))


def test_shapes_stand_for_the_arguments_of_a_call() -> None:
    specs = (Tokens("ACGTN"), "invariant")
    given = ((2, 20), (2, 3))
    plan = plan_conversion(TwoInputs(), given, inputs=specs)
    assert not plan.problems
    named = plan_conversion(TwoInputs(), {"ids": (2, 20), "cell": (2, 3)}, inputs={"ids": specs[0], "cell": specs[1]})
    assert [(p.names, p.stored) for p in named.parameters] == [(p.names, p.stored) for p in plan.parameters]
    model = plan.apply(TwoInputs())
    assert check_equivariance(model, given, inputs=specs)
    assert bake(model)(torch.zeros(2, 20, dtype=torch.long), torch.zeros(2, 3)).shape == (2, 1, 20)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Permutation([1, 2, 0]), "not an involution"),
        (lambda: Permutation([1, 0], [1, -1]), "the same sign"),
        (lambda: Permutation([1, 0, 2], [1, -1, 1]), "the same sign"),
        (lambda: Permutation([0, 1], [1, 2]), "1 or -1"),
        (lambda: Permutation([]), "the place each channel comes from"),
        (lambda: Permutation([4, 5, 2, 3, 0, 1], [1, -1, 1, 1, 1, -1]), "interleaved"),
        (lambda: Channels(), "no parts"),
        (lambda: Channels("ACGT", "invariant"), "no kind of channels"),
        (lambda: Channels("ACGT", Tracks("+-", offset=1)), "no kind of channels"),
        (lambda: Channels("ACGT", "profile"), "a part of Channels"),
        (lambda: UpperTriangle(-1), "diagonal"),
        (lambda: Tracks("++-"), "each '\\+' needs a '-'"),
        (lambda: rcps_convert.OneHot("ACGTacg"), "complement of a"),
    ],
)
def test_what_is_no_spec(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "bad", [lambda: Permutation("ab"), lambda: Tracks("+-", offset="x"), lambda: Permutation([0.5])]
)
def test_what_is_of_another_type(bad: Any) -> None:
    with pytest.raises(TypeError, match="give"):
        bad()


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("profile", "one unstranded track is '.'"),
        ("contacts", "along both of its axes is 'mask'"),
        ("counts", "counts of two strands are '+-'"),
        ("one-hot", "such as 'ACGT'"),
        ("tokens", "Tokens('ACGTN')"),
    ],
)
def test_a_word_that_is_no_spec_gets_the_list(word: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"{word}.*'invariant', 'antisymmetric'.*{re.escape(remedy)}"):
        plan_conversion(cnn(), (2, 4, 30), outputs=word)


def test_tied_weights_have_no_values_between_bases() -> None:
    model = cnn()
    with pytest.raises(NeedsChoiceError, match="with tied weights") as caught:
        convert_model(model, (2, 4, 30), outputs=Tracks("+-", offset=1))
    assert 'strategy="conjoined"' in str(caught.value)


def test_contacts_must_make_a_triangle() -> None:
    with pytest.raises(NeedsChoiceError, match="no triangle above diagonal 2"):
        reverse_complement(numbers(2, 3, 11), UpperTriangle(2, "...", layout="n c l"))
