"""`conjoined_strings`: both strands as strings, cut by the model's own tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcps_convert import BreaksSymmetryError, Tokens, conjoined_strings, plan_conversion

PIECES = ["[PAD]", "ACG", "GATTA", "TT", "CA", *"ACGT"]
"""A vocabulary of texts of several lengths, as byte-pair encoding makes one."""

STRINGS = ["ACGATTACA", "TTTGATTA", "CACAC"]
BASES = str.maketrans("ACGT", "TGCA")


def tokenize(strings: list[str]) -> dict[str, Tensor]:
    """The longest text that fits, from the left."""
    rows = []
    for text in strings:
        row = []
        while text:
            piece = next(p for p in sorted(PIECES[1:], key=len, reverse=True) if text.startswith(p))
            row.append(PIECES.index(piece))
            text = text[len(piece) :]
        rows.append(row)
    longest = max(map(len, rows))
    return {"ids": torch.tensor([r + [0] * (longest - len(r)) for r in rows])}


class Net(nn.Module):
    """Scores by the mean of the tokens' features, each weighted by its place. (N, L) -> (N, 2)."""

    def __init__(self, pooled: bool = True) -> None:
        super().__init__()
        self.embed, self.out, self.pooled = nn.Embedding(len(PIECES), 6, padding_idx=0), nn.Linear(6, 2), pooled

    def forward(self, ids: Tensor, scale: Tensor | None = None) -> Any:
        h = self.embed(ids) / (1 + torch.arange(ids.shape[1]))[:, None]
        scores = self.out(h.sum(1) if self.pooled else h)
        return {"scores": scores if scale is None else scores * scale[:, None], "loss": scores.square().mean()}


def mirrored(strings: list[str]) -> list[str]:
    return [s[::-1].translate(BASES) for s in strings]


@pytest.mark.parametrize("merge", ["mean", "sum", "max", lambda a, b: torch.logaddexp(a, b)])
def test_both_orientations_agree_and_are_the_merge(merge: Any) -> None:
    torch.manual_seed(0)
    net = Net().double()
    model = conjoined_strings(net, tokenize, merge=merge)
    assert tokenize(STRINGS)["ids"].shape != tokenize(mirrored(STRINGS))["ids"].shape
    ours, theirs = model(STRINGS), model(mirrored(STRINGS))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    a, b = net(**tokenize(STRINGS))["scores"], net(**tokenize(mirrored(STRINGS)))["scores"]
    assert float((a - b).abs().min()) > 1e-3
    by_name = {"mean": (a + b) / 2, "sum": a + b, "max": torch.maximum(a, b)}
    expected = by_name[merge] if isinstance(merge, str) else merge(a, b)
    torch.testing.assert_close(ours["scores"], expected, rtol=1e-12, atol=1e-12)


def test_further_arguments_go_with_their_string() -> None:
    net, scale = Net().double(), torch.tensor([1.0, 2.0, 3.0]).double()
    model = conjoined_strings(net, tokenize)
    plain = conjoined_strings(net, tokenize)(STRINGS)["scores"]
    torch.testing.assert_close(model(STRINGS, scale=scale)["scores"], plain * scale[:, None])
    model(STRINGS)["scores"].sum().backward()
    assert float(net.embed.weight.grad.abs().sum()) > 0


def test_entries_along_the_tokens_are_refused() -> None:
    with pytest.raises(BreaksSymmetryError, match="pool over the tokens"):
        conjoined_strings(Net(pooled=False), tokenize)(STRINGS)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: conjoined_strings(tokenize, tokenize), TypeError),  # type: ignore[arg-type]
        (lambda: conjoined_strings(Net(), None), TypeError),  # type: ignore[arg-type]
        (lambda: conjoined_strings(Net(), tokenize, merge="median"), ValueError),
        (lambda: conjoined_strings(Net(), tokenize)("ACGT"), TypeError),
        (lambda: conjoined_strings(Net(), tokenize)(["AXGT"]), ValueError),
    ],
)
def test_what_it_takes(call: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        call()


def test_a_vocabulary_of_pieces_names_the_way_by_strings() -> None:
    with pytest.raises(ValueError, match=r"as those of byte-pair encoding.*conjoined_strings\(model, tokenize\)"):
        Tokens(PIECES)


def test_k_mers_with_single_letters_for_the_rest_are_noted() -> None:
    vocab = [*(a + b for a in "ACGT" for b in "ACGT"), *"ACGT"]
    model = nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(40, 1))
    ids = torch.zeros(2, 10, dtype=torch.long)
    plan = plan_conversion(model, ids, inputs=Tokens(vocab), strategy="conjoined", verify=False)
    assert any("texts of 1 and 2 letters" in n and "multiples of 2" in n for n in plan.notes)
    plain = plan_conversion(model, ids, inputs=Tokens(vocab[:16]), strategy="conjoined", verify=False)
    assert not plain.notes
