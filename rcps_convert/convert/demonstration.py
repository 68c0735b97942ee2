"""The demonstration behind ``python -m rcps_convert``: a small CNN and a short stretch of the human genome."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from .bake import bake
from .convert import plan_conversion

HBB_PROMOTER = (
    "CCTAAGCCAGTGCCAGAAGAGCCAAGGACAGGTACGGCTGTCATCACTTAGACCTCACCCTGTGGAGCCACACCCTAGGGTTGGCCAATCTACTCCCAGG"
    "AGCAGGGAGGGCAGGAGCCAGGGCTGGGCATAAAAGTCAGGGCAGAGCCATCTATTGCTTACATTTGCTTCTGACACAACTGTGTTCACTAGCAACCTCA"
)
"""200 bp around the start of human HBB (beta-globin), GenBank U01317."""


class TinyBasset(nn.Module):
    """A CNN in the style of Basset: three convolutions with batch norm and pooling, two linear layers.

    Input: one-hot DNA (N, 4, 200). Output: logits (N, 1).
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for c_in, kernel, pool in ((4, 19, 4), (channels, 11, 5), (channels, 7, 2)):
            conv = nn.Conv1d(c_in, channels, kernel, padding=kernel // 2)
            blocks += [conv, nn.BatchNorm1d(channels), nn.ReLU(), nn.MaxPool1d(pool)]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * 5, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, 1)."""
        return self.head(self.features(x))


def one_hot(sequence: str) -> Tensor:
    """One-hot DNA, shape (1, 4, L), base order ACGT."""
    ids = torch.tensor(["ACGT".index(c) for c in sequence])
    return nn.functional.one_hot(ids, 4).T[None].float()


def run() -> None:
    """Convert the bundled CNN, score a sequence and its reverse complement before and after."""
    torch.manual_seed(0)
    model = TinyBasset().eval()
    x = one_hot(HBB_PROMOTER)
    mirrored = x.flip(1, 2)

    plan = plan_conversion(model, x)
    print(plan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted = plan.apply(model)
    print("\nhuman HBB promoter, 200 bp     forward strand  reverse complement  difference")
    for name, m in (("plain model", model), ("converted", converted), ("converted, baked", bake(converted))):
        with torch.no_grad():
            a, b = m(x).item(), m(mirrored).item()
        print(f"  {name:<28} {a:>14.6f}  {b:>18.6f}  {abs(a - b):>10.1e}")
