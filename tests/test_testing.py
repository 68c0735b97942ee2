"""`rcps_convert.testing`: what users call in tests of their own."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor, nn

import rcps_convert
from rcps_convert import NeedsChoiceError, Tokens, convert_model
from rcps_convert.testing import assert_equivariant

DNA = torch.zeros(2, 4, 30)


class Two(nn.Module):
    """A profile, and a score."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.profile, self.score = nn.Conv1d(4, 8, 5, padding=2), nn.Conv1d(8, 2, 1), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.conv(x).relu()
        return {"profile": self.profile(h), "score": self.score(h.mean(-1))}


def test_a_converted_model_passes_and_a_plain_one_fails() -> None:
    wanted = {"profile": "+-", "score": "invariant"}
    model = convert_model(Two(), DNA, outputs=wanted)
    assert_equivariant(model, DNA, outputs=wanted)
    assert_equivariant(model, torch.zeros(1, 4, 41), outputs=wanted)
    with pytest.raises(AssertionError, match=r"(?s)Two is NOT equivariant: error .*output 0"):
        assert_equivariant(Two(), DNA, outputs=wanted)
    with pytest.raises(AssertionError, match="NOT equivariant"):
        assert_equivariant(model, DNA, outputs={"profile": "..", "score": "invariant"})


def test_an_output_that_is_always_the_same_fails() -> None:
    model = convert_model(Two(), DNA)
    nn.init.zeros_(model.score.weight)  # type: ignore[union-attr,arg-type]
    with pytest.raises(AssertionError, match="Two: output 1 is the same for every sequence"):
        assert_equivariant(model, DNA)


def test_ids_and_settings_are_taken_as_elsewhere() -> None:
    reader = nn.Sequential(nn.Embedding(5, 8), nn.Flatten(), nn.Linear(80, 1))
    ids, spec = torch.zeros(2, 10, dtype=torch.int64), Tokens("ACGTN")
    assert_equivariant(convert_model(reader, ids, inputs=spec), ids, inputs=spec)
    with pytest.raises(NeedsChoiceError):
        assert_equivariant(Two(), torch.zeros(2, 4, 4))


def test_it_is_importable_by_its_own_name() -> None:
    assert importlib.import_module("rcps_convert.testing") is rcps_convert.testing
    assert rcps_convert.testing.assert_equivariant is assert_equivariant
