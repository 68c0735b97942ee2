"""Special tokens stay at the ends of a sequence, and padding in its place: judged on strings that a tokenizer cut."""

from __future__ import annotations

import copy
import functools
import json
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import collected
from tiers import some
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rcps_convert import (
    ConversionError,
    Mask,
    NeedsChoiceError,
    Tokens,
    apply_recipe,
    check_equivariance,
    convert_model,
    load,
    plan_conversion,
    recipe,
    reverse_complement,
    save,
)

TOLERANCE = 1e-10
BASES = str.maketrans("ACGT", "TGCA")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB = [*SPECIAL, *("".join(k) for k in product("ACGT", repeat=3))]
PLACE = {text: i for i, text in enumerate(VOCAB)}
ENDED = Tokens(VOCAB, prefix=1, suffix=1)
HOW: dict[str, Any] = {"inputs": {"ids": ENDED, "mask": "mask"}}
EXAMPLE = {"ids": torch.zeros(3, 14, dtype=torch.long), "mask": torch.ones(3, 14)}


# --- a tokenizer, and encoders ----------------------------------------------------------------------


def rc(text: str) -> str:
    return text.translate(BASES)[::-1]


def tokenize(texts: Sequence[str], side: str = "right", extra: int = 0) -> dict[str, Tensor]:
    """Overlapping k-mers as DNABERT's tokenizer cuts them: [CLS] ... [SEP], and padding."""
    rows = [[PLACE["[CLS]"], *(PLACE[t[i : i + 3]] for i in range(len(t) - 2)), PLACE["[SEP]"]] for t in texts]
    longest = max(map(len, rows)) + extra
    padding = [[PLACE["[PAD]"]] * (longest - len(r)) for r in rows]
    ids = torch.tensor([r + p if side == "right" else p + r for r, p in zip(rows, padding, strict=True)])
    return {"ids": ids, "mask": (ids != PLACE["[PAD]"]).double()}


def texts(count: int, low: int = 5, high: int = 40, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("ACGT", k=draw.randint(low, high))) for _ in range(count)]


class Layer(nn.Module):
    """Attention and a dense layer, as an encoder has them. (N, L, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm, self.again = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(h).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, mask[:, None, None, :] > 0)
        h = self.norm(h + self.out(y.transpose(1, 2).flatten(2)))
        return self.again(h + self.down(F.gelu(self.up(h))))


class Encoder(nn.Module):
    """An encoder of ids with a read-out. (N, L), (N, L) -> (N, 2)."""

    def __init__(self, pool: str = "mean", positions: bool = False, width: int = 16, saving: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(VOCAB), width)
        self.positions = nn.Embedding(64, width) if positions else None
        self.layers = nn.ModuleList([Layer(width), Layer(width)])
        self.score = nn.Linear(width, 2)
        self.pool, self.saving = pool, saving

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.embed(ids)
        if self.positions is not None:
            h = h + self.positions(torch.arange(ids.shape[1]))
        for layer in self.layers:
            h = checkpoint(layer, h, mask, use_reentrant=False) if self.saving else layer(h, mask)
        if self.pool == "first":
            return self.score(h[:, 0])
        if self.pool == "none":
            return self.score(h)
        share = mask.to(h.dtype) / mask.to(h.dtype).sum(1, keepdim=True)
        return self.score((h * share[..., None]).sum(1))


def off(model: nn.Module, strings: Sequence[str], **how: Any) -> float:
    """The largest deviation between the two orientations of strings, in units of the largest output."""
    with torch.no_grad():
        ours, theirs = (model(**tokenize(s, **how)) for s in (strings, [rc(s) for s in strings]))
    assert float(ours.std()) > 1e-3
    return float((ours - theirs).abs().max() / ours.abs().max())


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    model = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.2)
    return model


# --- the spec ---------------------------------------------------------------------------------------


def test_the_ends_stay_and_the_rest_is_reversed() -> None:
    for side in ("right", "left"):
        strings = texts(6)
        ours = tokenize(strings, side)["ids"]
        assert torch.equal(reverse_complement(ours, ENDED), tokenize([rc(s) for s in strings], side)["ids"])


def test_padding_is_reversed_with_the_rest_where_nothing_was_said_of_the_ends() -> None:
    ids = torch.tensor([[1, 2, 3, 4, 0, 0]])
    letters = ["[PAD]", "A", "C", "G", "T"]
    assert reverse_complement(ids, Tokens(letters)).tolist() == [[0, 0, 1, 2, 3, 4]]
    assert reverse_complement(ids, Tokens(letters, prefix=0)).tolist() == [[1, 2, 3, 4, 0, 0]]
    assert reverse_complement(ids, Tokens(letters, suffix=1)).tolist() == [[2, 3, 4, 1, 0, 0]]


def test_labels_below_zero_stay() -> None:
    ids = torch.tensor([[2, -100, 7, -100, 3]])
    assert reverse_complement(torch.tensor([[2, 7, 3]]), ENDED)[0, 1] == PLACE[rc(VOCAB[7])]
    assert ENDED.action(ids.shape).value is not None
    from rcps_convert.algebra.action import act

    assert act(ENDED.action(ids.shape), ids).tolist() == [[2, -100, PLACE[rc(VOCAB[7])], -100, 3]]


@pytest.mark.parametrize("text", some(["[CLS]", "<s>", "</s>", "<cls>", "[SEP]", "<|endoftext|>", "[BOS]", "<EOS>"], 2))
@pytest.mark.parametrize("strategy", ["tied", "conjoined"])
def test_a_vocabulary_with_end_tokens_asks_for_their_number(text: str, strategy: str) -> None:
    vocab = ["[PAD]", text, "A", "C", "G", "T"]
    model = nn.Sequential(nn.Embedding(6, 4), nn.Flatten(), nn.Linear(40, 1))
    ids = torch.zeros(2, 10, dtype=torch.long)
    with pytest.raises(NeedsChoiceError, match=r"begin or end") as caught:
        convert_model(model, ids, inputs=Tokens(vocab), strategy=strategy)
    assert "prefix=1, suffix=1" in str(caught.value)
    for stated in (Tokens(vocab, prefix=1), Tokens(vocab, prefix=0, suffix=0)):
        assert not plan_conversion(model, ids, inputs=stated, strategy=strategy, verify=False).problems


@pytest.mark.parametrize("text", ["[PAD]", "[UNK]", "<mask>", "N"])
def test_other_special_tokens_ask_for_nothing(text: str) -> None:
    Tokens([text, "A", "C", "G", "T"]).action((2, 10))


@pytest.mark.parametrize(("prefix", "suffix"), [(-1, 0), (0, -2)])
def test_negative_numbers_of_special_tokens_are_refused(prefix: int, suffix: int) -> None:
    with pytest.raises(ValueError, match="whole number of at least 0"):
        Tokens(VOCAB, prefix=prefix, suffix=suffix)


def test_a_row_of_special_tokens_alone_is_refused() -> None:
    with pytest.raises(NeedsChoiceError, match="no position between 1 before and 1 after"):
        ENDED.action((2, 2))


def test_masks_of_any_rank_are_reversed_along_every_length() -> None:
    x = torch.rand(2, 1, 6, 6)
    assert torch.equal(reverse_complement(x, "mask"), x.flip(2, 3))
    inner = reverse_complement(x, Mask(prefix=1, suffix=2))
    assert torch.equal(inner[:, :, 1:4, 1:4], x[:, :, 1:4, 1:4].flip(2, 3))
    assert torch.equal(inner[:, :, 0, 4:], x[:, :, 0, 4:])


def test_a_mask_takes_the_ends_of_the_ids_beside_it() -> None:
    plan = plan_conversion(Encoder("mean"), EXAMPLE, **HOW, strategy="conjoined", verify=False)
    assert [line.split(", (")[1] for line in plan.inputs] == [
        "batch of 3, 1 fixed + 12 reversed + 1 fixed) of ids (32 pairs + 5 fixed)",
        "batch of 3, 1 fixed + 12 reversed + 1 fixed)",
    ]


def test_one_spec_for_ids_and_mask_names_the_mask() -> None:
    with pytest.raises(NeedsChoiceError, match='"mask" is reversed with its sequence'):
        convert_model(Encoder(), EXAMPLE, inputs=ENDED)


# --- strings in both orientations -------------------------------------------------------------------


@functools.cache
def plan_of_positions(pool: str, strategy: str) -> Any:
    return plan_conversion(Encoder(pool, positions=True), EXAMPLE, **HOW, strategy=strategy)


def with_positions(pool: str, strategy: str) -> nn.Module:
    """An encoder with positions, converted; the plan is made once."""
    return plan_of_positions(pool, strategy).apply(Encoder(pool, positions=True))


def test_tied_encoders_agree_on_200_strings_padded_and_alone() -> None:
    plan = plan_conversion(Encoder("mean"), EXAMPLE, **HOW, verify=False)
    assert not [n for n in plan.notes if "padding" in n]
    model = randomised(plan.apply(Encoder("mean")))
    strings = texts(200)
    assert off(model, strings) < TOLERANCE
    alone = torch.cat([model(**tokenize([s])) for s in strings[:20]])
    assert float((alone - model(**tokenize(strings[:20], extra=3))).abs().max()) < TOLERANCE


@pytest.mark.parametrize("strategy", some(["conjoined", "mixed"], 1))
@pytest.mark.parametrize("pool", some(["first", "mean"], 1))
def test_conjoined_and_mixed_encoders_agree_on_200_strings(strategy: str, pool: str) -> None:
    model = randomised(with_positions(pool, strategy))
    strings = texts(200)
    assert off(model, strings) < TOLERANCE
    assert off(model, strings, side="left") < TOLERANCE
    alone = torch.cat([model(**tokenize([s])) for s in strings[:20]])
    together = model(**tokenize(strings[:20], extra=3))
    assert float((alone - together).abs().max()) < TOLERANCE


@pytest.mark.slow
def test_scores_per_position_follow_the_tokens_of_each_row() -> None:
    for strategy in ("conjoined", "mixed"):
        plan = plan_conversion(Encoder("none", positions=True), EXAMPLE, **HOW, strategy=strategy)
        assert "1 fixed + 12 reversed + 1 fixed" in plan.outputs[0]
        model = randomised(plan.apply(Encoder("none", positions=True)))
        strings = texts(8)
        batch = tokenize(strings)
        ours, theirs = model(**batch), model(**tokenize([rc(s) for s in strings]))
        for row, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            n = int(batch["mask"][row].sum())
            order = [0, *range(n - 2, 0, -1), n - 1]
            assert float((a[:n] - b[order]).abs().max()) < TOLERANCE < float(a[:n].std())


def test_tied_positions_are_exact_without_padding_and_the_plan_says_so() -> None:
    plan = plan_conversion(Encoder("first", positions=True), EXAMPLE, **HOW)
    assert not plan.problems
    assert any("exact on rows without padding only" in n for n in plan.warnings)
    model = randomised(plan.apply(Encoder("first", positions=True)))
    assert off(model, texts(30, 14, 14)) < TOLERANCE
    with pytest.raises(ConversionError, match="in a model converted at 14"):
        model(**tokenize(texts(2, 20, 20)))


def test_check_equivariance_knows_the_ends() -> None:
    assert check_equivariance(with_positions("first", "conjoined"), EXAMPLE, **HOW)
    assert not check_equivariance(Encoder("first", positions=True), EXAMPLE, **HOW)


# --- labels and scores of a vocabulary --------------------------------------------------------------


class Language(Encoder):
    """Scores of each id at each position, and a loss over labels that are not -100."""

    def __init__(self) -> None:
        super().__init__("none")
        self.score = nn.Linear(16, len(VOCAB))

    def forward(self, ids: Tensor, mask: Tensor, labels: Tensor) -> Any:
        scores = super().forward(ids, mask)
        return {"loss": F.cross_entropy(scores.transpose(1, 2), labels), "scores": scores}


@pytest.mark.parametrize("strategy", some(["tied", "conjoined", "mixed"], 1))
def test_a_language_model_and_its_loss(strategy: str) -> None:
    example = {**EXAMPLE, "labels": EXAMPLE["ids"]}
    how = {"inputs": {**HOW["inputs"], "labels": ENDED}, "outputs": {"loss": "auto", "scores": ENDED}}
    model = randomised(convert_model(Language(), example, **how, strategy=strategy, verify=False))
    strings = texts(6, 20, 20)
    ours, theirs = tokenize(strings), tokenize([rc(s) for s in strings])
    chosen = torch.rand(ours["ids"].shape, generator=torch.Generator().manual_seed(0)) < 0.3
    order = [0, *range(ours["ids"].shape[1] - 2, 0, -1), ours["ids"].shape[1] - 1]
    a = model(**ours, labels=torch.where(chosen, ours["ids"], -100))
    b = model(**theirs, labels=torch.where(chosen[:, order], theirs["ids"], -100))
    assert float((a["loss"] - b["loss"]).abs()) < TOLERANCE < float(a["loss"])
    table = [PLACE[rc(t)] if t not in SPECIAL else i for i, t in enumerate(VOCAB)]
    assert float((a["scores"] - b["scores"][:, order][..., table]).abs().max()) < TOLERANCE


# --- keeping, and training --------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", some(["conjoined", "mixed"], 1))
def test_recipes_and_files_keep_the_ends_and_the_padding(strategy: str, tmp_path: Path) -> None:
    model = randomised(with_positions("first", strategy))
    fresh = apply_recipe(Encoder("first", positions=True), json.loads(json.dumps(recipe(model))))
    fresh.double().eval().load_state_dict(model.state_dict())
    save(model, tmp_path / "model.pt")
    loaded = load(tmp_path / "model.pt", Encoder("first", positions=True)).eval()
    batch = tokenize(texts(12))
    expected = model(**batch)
    assert torch.equal(fresh(**batch), expected)
    assert torch.equal(loaded(**batch), expected)
    assert torch.equal(copy.deepcopy(model)(**batch), expected)


def gradients(model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> list[Tensor]:
    model.zero_grad()
    sum(model(**b).square().sum() for b in batches).backward()  # type: ignore[union-attr]
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_checkpointed_mixed_layers_recall_the_padding() -> None:
    model = randomised(convert_model(Encoder("mean", saving=True), EXAMPLE, **HOW, strategy="mixed", verify=False))
    plain = copy.deepcopy(model)
    plain.saving = False
    one, other = tokenize(texts(4)), tokenize(texts(4, seed=1))
    for batch in (one, other):
        for a, b in zip(gradients(model, [batch]), gradients(plain, [batch]), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    with pytest.raises(ConversionError, match="for one of several calls"):
        gradients(model, [one, other])
    gradients(plain, [one, other])


def test_a_batch_axis_behind_the_positions_is_followed() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(len(VOCAB), 8)
            self.a, self.b, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            h = self.embed(ids).transpose(0, 1)  # (L, N, C)
            at = torch.arange(h.shape[0]).view(-1, 1, 1)
            h = self.b((self.a(h).relu() * (1 + at)).tanh())
            return self.out((h * mask.T[..., None]).sum(0))

    model = randomised(convert_model(Turned(), EXAMPLE, **HOW, strategy="mixed", verify=False))
    strings = texts(30)
    assert off(model, strings) < TOLERANCE
    alone = torch.cat([model(**tokenize([s])) for s in strings])
    assert float((alone - model(**tokenize(strings))).abs().max()) < TOLERANCE


# --- what is padded beside them ---------------------------------------------------------------------------

BASES_AFTER = ["[yeast]", "[human]", "[MASK]", *"ACGT"]


class Beside(nn.Module):
    """A bias by offset among the bases, padded where special tokens stand. (N, L) -> (N, L, 6)."""

    def __init__(self, prefix: int, suffix: int) -> None:
        super().__init__()
        self.pads, self.embed, self.offsets = (prefix, suffix) * 2, nn.Embedding(7, 6), nn.Embedding(9, 2)
        self.qkv = nn.Linear(6, 18)

    def forward(self, ids: Tensor) -> Tensor:
        at = torch.arange(ids.shape[1] - self.pads[0] - self.pads[1])
        bias = self.offsets((at[None] - at[:, None]).clamp(-4, 4) + 4).permute(2, 0, 1)
        q, k, v = (t.unflatten(-1, (2, 3)).transpose(1, 2) for t in self.qkv(self.embed(ids)).chunk(3, -1))
        return ((q @ k.mT + F.pad(bias, self.pads)).softmax(-1) @ v).transpose(1, 2).flatten(2)


def assert_mirrored(model: nn.Module, prefix: int, suffix: int, length: int) -> None:
    """By hand: the bases are turned round and complemented, what stands beside them stays."""
    ids = torch.randint(3, 7, (4, length), generator=torch.Generator().manual_seed(length))
    ids[:, :prefix], ids[:, length - suffix :] = 1, 0
    inner = slice(prefix, length - suffix)
    other = ids.clone()
    other[:, inner] = 9 - ids[:, inner].flip(1)
    with torch.no_grad():
        x, y = model(ids), model(other)
    turned = torch.cat([x[:, :prefix], x[:, inner].flip(1), x[:, length - suffix :]], 1)
    assert float((y - turned).abs().max()) < TOLERANCE


@pytest.mark.parametrize(("prefix", "suffix"), some([(1, 0), (0, 1), (2, 1)], 1))
def test_a_bias_is_padded_beside_tokens_that_stay(prefix: int, suffix: int) -> None:
    torch.manual_seed(0)
    vocab = Tokens(BASES_AFTER, prefix=prefix, suffix=suffix)
    model = nn.Sequential(Beside(prefix, suffix), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    plan = plan_conversion(model, torch.zeros(2, 12, dtype=torch.long), inputs=vocab)
    assert not plan.problems, str(plan)
    converted = plan.apply(model).double()
    for length in (12, 9):
        assert_mirrored(converted, prefix, suffix, length)


@pytest.mark.slow
def test_a_language_model_with_a_token_of_the_species_first() -> None:
    torch.manual_seed(0)
    ids = torch.zeros(2, 17, dtype=torch.long)
    model = collected.SpeciesLike()
    converted = convert_model(model, ids, inputs=Tokens(BASES_AFTER, prefix=1)).double()
    x = torch.randint(3, 7, (4, 12))
    x[:, 0] = 1
    y, r = converted(x), converted(torch.cat([x[:, :1], 9 - x[:, 1:].flip(1)], 1))
    assert (r - y.flip(1)).abs().max() < TOLERANCE
