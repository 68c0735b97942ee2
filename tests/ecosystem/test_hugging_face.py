"""Hugging Face: models built from configurations, their heads, masks and labels; Trainer; files of safetensors.

Nothing is fetched: the configurations are small, the weights random, the tokenizers written here.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")
os.environ["HF_HUB_OFFLINE"] = "1"

from rcps_convert import (  # noqa: E402
    BreaksSymmetryError,
    Tokens,
    apply_recipe,
    convert_model,
    load_plain_state_dict,
    recipe,
)

TOLERANCE = 1e-10
BASES = str.maketrans("ACGT", "TGCA")
KMERS = ["".join(k) for k in product("ACGT", repeat=3)]
DNABERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *KMERS]
NUCLEOTIDE_TRANSFORMER = ["<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>", *KMERS, *"ACGTN"]
LETTERS = ["[PAD]", "[MASK]", "[UNK]", *"acgt"]
HYENA = ["[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", *"ACGTN"]


# --- tokenizers -------------------------------------------------------------------------------------


def rc(text: str) -> str:
    return text.translate(BASES)[::-1]


def texts(count: int, low: int, high: int, step: int = 1, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("ACGT", k=draw.randrange(low, high + 1, step))) for _ in range(count)]


def tokenize(
    strings: Sequence[str], vocab: list[str], k: int, step: int, ends: tuple[str, str], side: str
) -> dict[str, Tensor]:
    """The ids of k-mers that begin every `step` letters, with a text before and after them, padded on one side."""
    place, lower = {t: i for i, t in enumerate(vocab)}, "acgt" if "a" in vocab else ""
    pad = next(place[t] for t in ("[PAD]", "<pad>") if t in place)
    rows = []
    for text in strings:
        text = text.lower() if lower else text
        inner = [place[text[i : i + k]] for i in range(0, len(text) - k + 1, step)]
        rows.append([*(place[t] for t in ends[:1] if t), *inner, *(place[t] for t in ends[1:] if t)])
    longest = max(map(len, rows))
    filled = [r + [pad] * (longest - len(r)) if side == "right" else [pad] * (longest - len(r)) + r for r in rows]
    ids = torch.tensor(filled)
    return {"input_ids": ids, "attention_mask": (ids != pad).long()}


# --- models -----------------------------------------------------------------------------------------


def bert(head: str = "BertForSequenceClassification") -> nn.Module:
    """BERT with DNABERT's vocabulary of overlapping k-mers."""
    config = transformers.BertConfig(
        vocab_size=len(DNABERT),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return getattr(transformers, head)(config)


def esm() -> nn.Module:
    """ESM with the Nucleotide Transformer's vocabulary of k-mers one after the other."""
    config = transformers.EsmConfig(
        vocab_size=len(NUCLEOTIDE_TRANSFORMER), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=48, pad_token_id=1, mask_token_id=2, token_dropout=False, position_embedding_type="rotary",
    )  # fmt: skip
    return transformers.EsmForSequenceClassification(config)


class Config(transformers.PretrainedConfig):
    """A configuration of a model of this file."""

    model_type = "of-a-test"

    def __init__(self, vocab_size: int = 8, hidden_size: int = 16, **kwargs: Any) -> None:
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        super().__init__(**kwargs)


class Pretrained(transformers.PreTrainedModel):
    """What the models of this file share: an embedding, blocks, and a read-out of the mean of unmasked positions."""

    config_class = Config
    block: Any = None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList([self.block(config.hidden_size, i) for i in range(2)])
        self.score = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Any:
        h = self.embed(input_ids)
        keep = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        for block in self.blocks:
            h = block(h * keep[..., None])
        h = (h * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
        logits = self.score(h)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return transformers.modeling_outputs.SequenceClassifierOutput(loss=loss, logits=logits)


class ConvBlock(nn.Module):
    """GPN's: a dilated convolution and a dense layer, each behind a norm and added."""

    def __init__(self, width: int, i: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 5, padding="same", dilation=2**i)
        self.norm, self.again = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        h = self.norm(h + F.gelu(self.conv(h.transpose(1, 2)).transpose(1, 2)))
        return self.again(h + self.down(F.gelu(self.up(h))))


class HyenaBlock(nn.Module):
    """HyenaDNA's: gates around a long causal convolution, computed by FFT with an implicit filter."""

    def __init__(self, width: int, i: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.filter = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, width))

    def forward(self, h: Tensor) -> Tensor:
        a, b, v = self.into(h).chunk(3, -1)
        n = h.shape[1]
        t = torch.arange(n, device=h.device).to(h.dtype)[:, None] / 64
        kernel = self.filter(torch.cat([t, torch.sin(6 * t), torch.cos(6 * t)], -1)) * torch.exp(-3 * t)
        spectra = torch.fft.rfft((b * v).transpose(1, 2), 2 * n) * torch.fft.rfft(kernel.T, 2 * n)
        return h + self.out(a * torch.fft.irfft(spectra, 2 * n)[..., :n].transpose(1, 2))


class CaduceusBlock(nn.Module):
    """Caduceus': one selective scan, read in both directions with shared weights."""

    def __init__(self, width: int, i: int) -> None:
        super().__init__()
        self.norm, self.into, self.out = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.step, self.decay = nn.Linear(width, width), nn.Parameter(torch.rand(width))

    def scan(self, x: Tensor) -> Tensor:
        rate = F.softplus(self.step(x))
        total = torch.cumsum(rate * self.decay.exp(), 1)
        weight = torch.exp((total[:, None] - total[:, :, None]).clamp(min=-30, max=0)).tril_()
        return torch.einsum("nijc,njc->nic", weight.transpose(1, 2), rate * x)

    def forward(self, h: Tensor) -> Tensor:
        x, gate = self.into(self.norm(h)).chunk(2, -1)
        both = self.scan(x) + self.scan(x.flip(1)).flip(1)
        return h + self.out(both * F.silu(gate))


class GPN(Pretrained):
    block = ConvBlock


class Hyena(Pretrained):
    block = HyenaBlock


class Caduceus(Pretrained):
    block = CaduceusBlock


def example(vocab: list[str], length: int = 16, labels: bool = True) -> dict[str, Tensor]:
    found = {"input_ids": torch.zeros(3, length, dtype=torch.long), "attention_mask": torch.ones(3, length).long()}
    return found | ({"labels": torch.zeros(3, dtype=torch.long)} if labels else {})


def specs(tokens: Tokens, labels: bool = True) -> dict[str, Any]:
    return {"input_ids": tokens, "attention_mask": "mask"} | ({"labels": "invariant"} if labels else {})


CASES: dict[str, Any] = {
    "dnabert": (bert, DNABERT, {"k": 3, "step": 1, "ends": ("[CLS]", "[SEP]"), "side": "right"}, (1, 1)),
    "nucleotide-transformer": (
        esm, NUCLEOTIDE_TRANSFORMER, {"k": 3, "step": 3, "ends": ("<cls>", ""), "side": "right"}, (1, 0)
    ),
    "gpn": (
        lambda: GPN(Config(len(LETTERS))), LETTERS, {"k": 1, "step": 1, "ends": ("", ""), "side": "right"}, (0, 0)
    ),
    "hyena": (
        lambda: Hyena(Config(len(HYENA))), HYENA, {"k": 1, "step": 1, "ends": ("", "[SEP]"), "side": "left"}, (0, 1)
    ),
    "caduceus": (
        lambda: Caduceus(Config(len(HYENA))), HYENA, {"k": 1, "step": 1, "ends": ("", "[SEP]"), "side": "right"}, (0, 1)
    ),
}  # fmt: skip


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.1)
    return model.double().eval()


def off(model: nn.Module, strings: Sequence[str], vocab: list[str], how: dict[str, Any]) -> float:
    """The largest deviation between both orientations, in units of the largest logit."""
    with torch.no_grad():
        ours, theirs = (model(**tokenize(s, vocab, **how)).logits for s in (strings, [rc(s) for s in strings]))
    assert float(ours.std()) > 1e-4
    return float((ours - theirs).abs().max() / ours.abs().max())


# --- conversion -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("strategy", ["conjoined", "mixed"])
def test_both_orientations_of_200_strings_agree(name: str, strategy: str) -> None:
    make, vocab, how, (prefix, suffix) = CASES[name]
    torch.manual_seed(0)
    tokens = Tokens(vocab, prefix=prefix, suffix=suffix)
    model = convert_model(make(), example(vocab), inputs=specs(tokens), strategy=strategy)
    assert type(model(**example(vocab))).__name__ == "SequenceClassifierOutput"
    model = randomised(model)
    strings = texts(200, 9, 60, how["step"])
    assert off(model, strings, vocab, how) < TOLERANCE
    alone = torch.cat([model(**tokenize([s], vocab, **how)).logits for s in strings[:10]])
    assert off(model, strings[:1] * 2 + strings[:9], vocab, how) < TOLERANCE
    if name not in ("hyena", "caduceus"):  # as they are, these read the padding
        together = model(**tokenize(strings[:10], vocab, **how)).logits
        assert float((alone - together).abs().max()) < TOLERANCE


def test_a_tied_bert_of_one_length() -> None:
    model = convert_model(bert(), example(DNABERT), inputs=specs(Tokens(DNABERT, prefix=1, suffix=1)))
    model, how = randomised(model), CASES["dnabert"][2]
    assert off(model, texts(50, 16, 16), DNABERT, how) < TOLERANCE
    with pytest.raises(BreaksSymmetryError, match="in a model converted at 16"):
        model(**tokenize(texts(2, 30, 30), DNABERT, **how))


@pytest.mark.parametrize("lengths", [(40, 40), (20, 60)])
def test_a_tied_gpn(lengths: tuple[int, int]) -> None:
    """A convolution reads the padding beside a sequence: `padding="same"` has zeros there, and so has the mask."""
    tokens = Tokens(LETTERS, prefix=0, suffix=0)
    model = randomised(convert_model(GPN(Config(len(LETTERS))), example(LETTERS), inputs=specs(tokens)))
    assert off(model, texts(200, *lengths), LETTERS, CASES["gpn"][2]) < TOLERANCE


@pytest.mark.parametrize(
    ("head", "outputs", "shape"),
    [
        ("BertForTokenClassification", "auto", (3, 16, 2)),
        ("BertForMaskedLM", "scores", (3, 16, 69)),
        ("BertModel", "auto", None),
    ],
)
@pytest.mark.parametrize("strategy", ["tied", "conjoined"])
def test_other_heads(head: str, outputs: str, shape: tuple[int, ...] | None, strategy: str) -> None:
    tokens = Tokens(DNABERT, prefix=1, suffix=1)
    wanted: Any = {"logits": tokens} if outputs == "scores" else outputs
    given = {"inputs": specs(tokens, labels=False), "outputs": wanted, "strategy": strategy}
    model = randomised(convert_model(bert(head), example(DNABERT, labels=False), **given))
    strings = texts(5, 16, 16)
    how = CASES["dnabert"][2]
    ours, theirs = (model(**tokenize(s, DNABERT, **how)) for s in (strings, [rc(s) for s in strings]))
    order = [0, *range(14, 0, -1), 15]
    hidden = ours.last_hidden_state if shape is None else ours.logits
    mirrored = theirs.last_hidden_state if shape is None else theirs.logits
    if outputs == "scores":
        place = {t: i for i, t in enumerate(DNABERT)}
        mirrored = mirrored[..., [place.get(rc(t), place[t]) if t in KMERS else i for i, t in enumerate(DNABERT)]]
    if shape is None and strategy == "tied":  # features come in pairs
        half = hidden.shape[-1] // 2
        hidden = hidden[..., :half] + hidden[..., half:]
        mirrored = mirrored[..., :half] + mirrored[..., half:]
    assert float((hidden - mirrored[:, order]).abs().max()) < TOLERANCE < float(hidden.std())


# --- training and files -----------------------------------------------------------------------------


def rows(count: int) -> list[dict[str, Tensor]]:
    strings = texts(count, 16, 16, seed=3)
    batch = tokenize(strings, DNABERT, **CASES["dnabert"][2])
    label = [int(s.count("G") + s.count("C") > 8) for s in strings]
    return [{**{k: v[i] for k, v in batch.items()}, "labels": torch.tensor(y)} for i, y in enumerate(label)]


def train(model: nn.Module, folder: Path) -> Any:
    arguments = transformers.TrainingArguments(
        str(folder), per_device_train_batch_size=16, num_train_epochs=12, learning_rate=2e-3, report_to=[], seed=1,
        disable_tqdm=True, use_cpu=True, save_strategy="epoch", eval_strategy="epoch", logging_steps=2,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows(96), eval_dataset=rows(16))
    trainer.train()
    return trainer


def from_folder(make: Any, folder: Path) -> nn.Module:
    """A converted model of a folder that `save_pretrained` wrote, as the documentation says."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model = apply_recipe(make(config), json.loads(config.rcps_convert))
    safetensors_torch.load_model(model, folder / "model.safetensors")
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["tied", "conjoined", "mixed"])
def test_a_pretrained_checkpoint_is_tuned_saved_and_loaded(strategy: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    bert("BertForMaskedLM").save_pretrained(tmp_path / "pretrained")
    plain = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "pretrained")
    tokens = Tokens(DNABERT, prefix=1, suffix=1)
    model = convert_model(plain, example(DNABERT), inputs=specs(tokens), strategy=strategy)
    model.config.rcps_convert = json.dumps(recipe(model))
    trainer = train(model, tmp_path / "run")
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.9 * losses[0]
    trainer.save_model(tmp_path / "tuned")
    loaded = from_folder(transformers.BertForSequenceClassification, tmp_path / "tuned")
    last = max((tmp_path / "run").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    resumed = from_folder(transformers.BertForSequenceClassification, last)
    how, model = CASES["dnabert"][2], model.eval()
    strings = texts(100, 16, 16) if strategy == "tied" else texts(100, 9, 60)
    batch = tokenize(strings, DNABERT, **how)
    with torch.no_grad():
        expected = model(**batch).logits
        assert torch.equal(loaded(**batch).logits, expected)
        assert torch.equal(resumed(**batch).logits, expected)
        mirrored = loaded(**tokenize([rc(s) for s in strings], DNABERT, **how)).logits
        torch.testing.assert_close(mirrored, expected, rtol=0, atol=1e-5)
        alone = torch.cat([loaded(**tokenize([s], DNABERT, **how)).logits for s in strings[:20]])
        torch.testing.assert_close(alone, expected[:20], rtol=0, atol=1e-5)
    assert float(expected.std()) > 0.05


def test_a_loss_of_both_strands_is_their_mean(tmp_path: Path) -> None:
    """Trainer hands over no number of items, by which a loss of both strands would come out twice as large."""
    tokens = Tokens(DNABERT, prefix=1, suffix=1)
    plain = bert().eval()
    model = convert_model(plain, example(DNABERT), inputs=specs(tokens), strategy="conjoined", verify=False).eval()
    arguments = transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, disable_tqdm=True)
    trainer = transformers.Trainer(model=model, args=arguments)
    data = rows(8)
    batch = {k: torch.stack([r[k] for r in data]) for k in data[0]}
    loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=torch.tensor(8))
    mirrored = {**batch, "input_ids": batch["input_ids"].clone()}
    from rcps_convert import reverse_complement

    mirrored["input_ids"] = reverse_complement(batch["input_ids"], tokens)
    expected = (plain(**batch).loss + plain(**mirrored).loss) / 2
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_plain_and_tied_checkpoints_do_not_mix_in_silence(tmp_path: Path, capfd: Any) -> None:
    torch.manual_seed(0)
    plain = bert()
    plain.save_pretrained(tmp_path / "plain")
    tied = convert_model(plain, example(DNABERT), inputs=specs(Tokens(DNABERT, prefix=1, suffix=1)), verify=False)
    tied.save_pretrained(tmp_path / "tied")
    state = safetensors_torch.load_file(tmp_path / "plain" / "model.safetensors")
    with pytest.raises(RuntimeError, match="load_plain_state_dict"):
        tied.load_state_dict(state)
    load_plain_state_dict(tied, state)
    _, told = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "tied", output_loading_info=True)
    assert any("parametrizations" in str(key) for key in told["unexpected_keys"])
    assert len(told["missing_keys"]) == len([n for n, _ in tied.named_parameters() if "original" in n])
