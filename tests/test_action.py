"""Specs and `reverse_complement`: laws, layouts that are found or named, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action, act
from rcps_convert.algebra.nesting import input_actions
from rcps_convert.algebra.specs import (
    COMPLEMENT,
    Antisymmetric,
    Invariant,
    OneHot,
    Tokens,
    Tracks,
    read_spec,
    reverse_complement,
)
from rcps_convert.errors import ConversionError, NeedsChoiceError
from rcps_convert.measure.inputs import random_like

KMERS = [a + b for a in "ACGT" for b in "ACGT"]


def encode(text: str, alphabet: str) -> torch.Tensor:
    """One-hot of shape (1, A, L)."""
    columns = [[float(letter == c) for c in text] for letter in alphabet]
    return torch.tensor([columns], dtype=torch.float64)


# --- strings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ACGT", "ACGT"),
        ("AACG", "CGTT"),
        ("aacG", "Cgtt"),
        ("GATTACA", "TGTAATC"),
        ("ACUG", "CAGU"),
        ("ANNC", "GNNT"),
        ("ARYKMSWBDHVN", "NBDHVWSKMRYT"),
        ("", ""),
    ],
)
def test_strings(text, expected):
    assert reverse_complement(text) == expected


def test_an_alphabet_with_u_makes_a_string_rna():
    assert reverse_complement("AAC", "ACGU") == "GUU"
    assert reverse_complement("AAC", "ACGT") == "GTT"


@settings(deadline=None)
@given(st.text("ACGTNRYSWKMBDHVacgtn"))
def test_strings_return(text):
    assert reverse_complement(reverse_complement(text)) == text


@settings(deadline=None)
@given(st.text("ACGUNacgu"))
def test_rna_strings_return(text):
    assert reverse_complement(reverse_complement(text, "ACGU"), "ACGU") == text


@pytest.mark.parametrize("text", ["ACGX", "AC-GT", "AC GT", "1"])
def test_a_letter_without_complement_is_named(text):
    with pytest.raises(ValueError, match="no complement for"):
        reverse_complement(text)


# --- one-hot ----------------------------------------------------------------------------------

ALPHABETS = ["ACGT", "ATCG", "AGCT", "TGCA", "ACGTN", "NACGT", "ACGU", "acgt", "ACGTRYSWKMBDHVN"]


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x,
        lambda x: x.transpose(1, 2),
        lambda x: x.unsqueeze(1),
        lambda x: x.unsqueeze(2),
        lambda x: x.transpose(1, 2).unsqueeze(1),
        lambda x: x[0],
    ],
    ids=["n c l", "n l c", "n 1 c l", "n c 1 l", "n 1 l c", "c l"],
)
def test_one_hot_follows_the_string_in_every_layout(alphabet, arrange):
    text = (alphabet * 3)[: 2 * len(alphabet) + 3]
    x, expected = arrange(encode(text, alphabet)), arrange(encode(_rc(text, alphabet), alphabet))
    assert torch.equal(reverse_complement(x, alphabet), expected)
    assert torch.equal(reverse_complement(reverse_complement(x, alphabet), alphabet), x)


def _rc(text: str, alphabet: str) -> str:
    return reverse_complement(text, alphabet)


def test_the_alphabet_is_the_order_of_the_channels():
    x = torch.arange(4.0).view(1, 4, 1)
    assert reverse_complement(x, "ACGT", "n c l").flatten().tolist() == [3, 2, 1, 0]
    assert reverse_complement(x, "ATCG", "n c l").flatten().tolist() == [1, 0, 3, 2]
    x = torch.arange(5.0).view(1, 5, 1)
    assert reverse_complement(x, "ACGTN", "n c l").flatten().tolist() == [3, 2, 1, 0, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool])
def test_type_and_shape_stay(dtype):
    x = encode("AACGTG", "ACGT").to(dtype)
    y = reverse_complement(x)
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    assert torch.equal(y, encode("CACGTT", "ACGT").to(dtype))


@pytest.mark.parametrize(
    ("alphabet", "fact"),
    [
        ("ACG", "complement of A"),
        ("ACGR", "complement of"),
        ("AACT", "distinct"),
        ("ACGX", "X"),
        ("ACGTU", "complement of"),
        ("ACG T", "distinct"),
    ],
)
def test_bad_alphabets(alphabet, fact):
    with pytest.raises(ValueError, match=fact):
        OneHot(alphabet)


@pytest.mark.parametrize("text", ["", None, 3, ["ACGT"]])
def test_what_is_no_spec(text):
    with pytest.raises(ValueError, match="no spec"):
        read_spec(text)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("ACGT", OneHot("ACGT")),
        ("+-", Tracks("+-")),
        (".", Tracks(".")),
        ("invariant", Invariant()),
        ("antisymmetric", Antisymmetric()),
        (Tokens("ACGT"), Tokens("ACGT")),
    ],
)
def test_what_a_string_stands_for(text, spec):
    assert read_spec(text) == spec


# --- layouts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((2, 4, 9), "n c l"),
        ((2, 9, 4), "n l c"),
        ((2, 1, 4, 9), "n 1 c l"),
        ((2, 4, 1, 9), "n c 1 l"),
        ((2, 9, 1, 4), "n l 1 c"),
        ((4, 4, 9), "n c l"),
        ((1, 4, 9), "n c l"),
        ((2, 4, 1), "n c l"),
        ((4, 9), "c l"),
        ((9, 4), "l c"),
    ],
)
def test_a_layout_is_found_where_one_reading_fits(shape, layout):
    assert OneHot("ACGT").action(shape) == OneHot("ACGT").action(shape, layout)


def roles(action: Action) -> list[str]:
    return [r.name if (r := ax.role(t)) else "-" for t in action.axes]


def test_a_layout_gives_every_axis_its_role():
    assert roles(OneHot("ACGT").action((2, 1, 4, 9))) == ["batch", "-", "-", "length"]
    assert roles(Tracks("+-").action((2, 9, 2))) == ["batch", "length", "-"]
    assert roles(Tracks("+-").action((3, 2))) == ["batch", "-"]
    assert roles(Tokens("ACGT").action((2, 9))) == ["batch", "length"]


@pytest.mark.parametrize(
    ("spec", "shape", "remedy"),
    [
        (OneHot("ACGT"), (2, 4, 4), 'layout="n c l"'),
        (OneHot("ACGT"), (4, 4), 'layout="c l"'),
        (OneHot("ACGT"), (2, 1, 4, 4), 'layout="n 1 c l"'),
        (OneHot("ACGT"), (2, 5, 9), "alphabet"),
        (OneHot("ACGT"), (2, 3, 4, 9), "layout"),
        (OneHot("ACGT"), (4,), "layout"),
        (Tracks("+-"), (2, 2, 2), "layout"),
        (Tracks("+-"), (2, 3), "tracks"),
        (Tokens("ACGT"), (2, 3, 9), "layout"),
    ],
)
def test_shapes_that_fit_several_readings_or_none(spec, shape, remedy):
    with pytest.raises(NeedsChoiceError) as caught:
        spec.action(shape)
    assert remedy in caught.value.do
    assert caught.value.why


@pytest.mark.parametrize(
    ("spec", "shape", "layout"),
    [
        (OneHot("ACGT"), (2, 4, 9), "n l c"),
        (OneHot("ACGT"), (2, 4, 9), "n c"),
        (OneHot("ACGT"), (2, 4, 9), "n l l"),
        (OneHot("ACGT"), (2, 4, 9), "n c x"),
        (OneHot("ACGT"), (2, 4, 9), "1 c l"),
        (OneHot("ACGT"), (4, 4), "c c"),
        (Tokens("ACGT"), (2, 4), "n c"),
    ],
)
def test_a_named_layout_must_fit(spec, shape, layout):
    with pytest.raises(NeedsChoiceError) as caught:
        spec.action(shape, layout)
    assert "does not fit" in caught.value.what
    assert caught.value.do


def test_a_named_layout_decides_where_shapes_leave_a_choice():
    x = torch.arange(16.0).view(1, 4, 4)
    channels_first = reverse_complement(x, layout="n c l")
    assert torch.equal(channels_first, x.flip(1, 2))
    y = torch.arange(4.0).view(1, 2, 2)
    assert torch.equal(reverse_complement(y, Tracks("..", layout="n l c")), y.flip(1))
    assert torch.equal(reverse_complement(y, Tracks("..", layout="n c l")), y.flip(2))


# --- tracks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signs", "table"),
    [
        ("+-", [1, 0]),
        ("+-+-", [1, 0, 3, 2]),
        ("++--", [2, 3, 0, 1]),
        ("+-.", [1, 0, 2]),
        (".+.-", [0, 3, 2, 1]),
        ("-+", [1, 0]),
        ("-++-", [1, 0, 3, 2]),
        ("..", [0, 1]),
    ],
)
def test_the_kth_plus_swaps_with_the_kth_minus(signs, table):
    assert ax.indices(Tracks(signs).channel()).tolist() == table
    x = torch.randn(2, len(signs), 7, dtype=torch.float64)
    y = reverse_complement(x, signs)
    assert torch.equal(y, x[:, table].flip(-1))
    assert torch.equal(reverse_complement(y, signs), x)
    counts = torch.randn(3, len(signs), dtype=torch.float64)
    assert torch.equal(reverse_complement(counts, signs), counts[:, table])


@pytest.mark.parametrize("signs", ["+", "+-+", "+x", "", "++-"])
def test_bad_tracks(signs):
    with pytest.raises(ValueError, match="tracks"):
        Tracks(signs)


# --- tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vocab", "partners"),
    [
        ("ACGT", [3, 2, 1, 0]),
        ("ACGTN", [3, 2, 1, 0, 4]),
        ("ACGU", [3, 2, 1, 0]),
        ("acgt", [3, 2, 1, 0]),
        (["[PAD]", "A", "C", "G", "T", "[MASK]"], [0, 4, 3, 2, 1, 5]),
        (["PAD", "UNK", "MASK", "A", "C", "G", "T"], [0, 1, 2, 6, 5, 4, 3]),
        ({"A": 1, "C": 0, "G": 3, "T": 2}, [3, 2, 1, 0]),
        (["AA", "AC", "GT", "TT", "AT"], [3, 2, 1, 0, 4]),
        (["AA", "UU", "N"], [1, 0, 2]),
        (["", " ", "A", "T"], [0, 1, 3, 2]),
    ],
)
def test_texts_go_to_their_reverse_complements(vocab, partners):
    spec = Tokens(vocab)
    assert ax.indices(spec.values()).tolist() == partners
    ids = torch.randint(len(spec.vocab), (2, 9))
    y = reverse_complement(ids, spec)
    assert torch.equal(y, torch.tensor(partners)[ids].flip(1))
    assert y.dtype == ids.dtype
    assert torch.equal(reverse_complement(y, spec), ids)


def test_kmers_follow_the_string():
    text = "GATTACAT"
    rc = reverse_complement(text)
    ids = torch.tensor([[KMERS.index(text[i : i + 2]) for i in range(len(text) - 1)]])
    expected = torch.tensor([[KMERS.index(rc[i : i + 2]) for i in range(len(rc) - 1)]])
    assert torch.equal(reverse_complement(ids, Tokens(KMERS)), expected)


@pytest.mark.parametrize(
    ("vocab", "fact"),
    [
        ("ACG", "lacks 'T'"),
        (["AA", "AC"], "lacks 'TT'"),
        (["A", "T", "M"], "lacks 'K'"),
        (["A", "T", "A"], "twice"),
        ({"A": 0, "T": 2}, "without gaps"),
        ({"A": 0, "T": 0}, "without gaps"),
    ],
)
def test_bad_vocabularies(vocab, fact):
    with pytest.raises(ValueError, match=fact):
        Tokens(vocab)


# --- invariant, antisymmetric, act ------------------------------------------------------------


def test_invariant_and_antisymmetric():
    x = torch.randn(3, 5, dtype=torch.float64)
    assert torch.equal(act(Invariant().action(x.shape), x), x)
    assert torch.equal(act(Antisymmetric().action(x.shape), x), -x)
    assert torch.equal(act(Antisymmetric().action((3,)), x[:, 0]), -x[:, 0])
    with pytest.raises(ConversionError, match="no axis"):
        Antisymmetric().action(())


def test_a_known_action_fits_other_batches_and_lengths_but_not_other_channels():
    action = OneHot("ACGT").action((2, 4, 9))
    assert act(action, torch.zeros(5, 4, 30)).shape == (5, 4, 30)
    with pytest.raises(ValueError, match="5 entries on axis 1 instead of 4"):
        act(action, torch.zeros(2, 5, 9))
    with pytest.raises(ValueError, match="2 axes instead of 3"):
        act(action, torch.zeros(4, 9))
    with pytest.raises(ValueError, match="not known"):
        act(Action((ax.Var(4),)), torch.zeros(4))


@pytest.mark.parametrize(
    "axes",
    [
        (ax.trivial(2), ax.regular(6), ax.length(5)),
        (ax.regular(3), ax.product([ax.regular(4), ax.SIGN])),
        (ax.total([ax.SIGN, ax.trivial(1)]), ax.permutation([1, 0, 2, 4, 3])),
    ],
)
def test_acting_twice_changes_nothing(axes):
    action = Action(axes)
    x = torch.randn(action.shape, dtype=torch.float64)
    assert torch.equal(act(action, act(action, x)), x)
    assert not torch.equal(act(action, x), x)


def test_ids_are_permuted_and_moved():
    action = Action((ax.length(3),), ax.permutation([1, 0, 2]))
    assert act(action, torch.tensor([0, 0, 2])).tolist() == [2, 1, 1]


def test_printed_forms():
    assert str(OneHot("ACGT").action((2, 4, 9))) == "(batch of 2, 2 pairs, 9 reversed)"
    assert str(Tokens("ACGTN").action((2, 9))) == "(batch of 2, 9 reversed) of ids (2 pairs + 1 fixed)"
    assert [str(s) for s in (OneHot("ACGT"), Tracks("+-"), Invariant())] == ["one-hot ACGT", "tracks +-", "invariant"]


# --- random inputs ----------------------------------------------------------------------------


def test_random_inputs_are_of_the_kind_the_spec_describes():
    generator = torch.Generator().manual_seed(0)
    for shape in [(2, 4, 9), (2, 9, 4), (2, 1, 4, 9)]:
        spec, example = OneHot("ACGT"), torch.zeros(shape)
        x = random_like(spec, spec.action(shape), example, generator)
        assert x.shape == shape
        assert torch.equal(x.sum(shape.index(4)).unique(), torch.ones(1))
    ids = torch.zeros(2, 50, dtype=torch.long)
    assert random_like(Tokens("ACGT"), Tokens("ACGT").action((2, 50)), ids, generator).unique().tolist() == [0, 1, 2, 3]
    keys = torch.arange(3)
    assert random_like(Invariant(), Invariant().action((3,)), keys, generator) is keys


def test_complement_is_an_involution_but_for_u():
    assert all(COMPLEMENT[COMPLEMENT[c]] == c for c in COMPLEMENT if c != "U")


def test_a_nesting_that_does_not_match_is_shown_beside_the_sizes_of_the_tensors() -> None:
    example = {"a": torch.zeros(2, 4, 9), "b": [torch.zeros(2, 3), None]}
    with pytest.raises(NeedsChoiceError, match="does not match the tensors it describes") as refused:
        input_actions(example, ("ACGT", "invariant"), "auto")
    assert refused.value.got == "{'a': (2, 4, 9), 'b': ((2, 3), None)}"
