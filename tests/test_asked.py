"""Constructs that published models ask for: exact at other lengths too, or refused with the true reason."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from lawful import assert_exact
from models import asked
from models.family import Family
from torch import nn

from rcps_convert import ConversionError, convert_model, plan_conversion

TOLERANCE = 1e-10


def converted(family: Family) -> nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_model(family.make(), family.example, **family.how)


LONGER = [f for f in asked.ZOO if f.name not in asked.ONE_LENGTH]


@pytest.mark.parametrize("family", LONGER, ids=[f.name for f in LONGER])
def test_exact_at_other_lengths(family: Family) -> None:
    model = converted(family)
    assert_exact(model, family.example, **family.how, lengths=(17, 30), tolerance=TOLERANCE)


def refused(model: nn.Module, example: Any, **how: Any) -> str:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ConversionError) as caught:
        convert_model(model, example, **how)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return str(caught.value)


# --- positions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [asked.SinusoidsCut, asked.SinusoidsFirst])
def test_a_cut_table_of_positions_names_its_buffer(make: Any) -> None:
    words = refused(make(), (2, 4, 24))
    assert "what forward reads of the buffer pe is not invariant" in words
    assert "symmetrise_buffers=True" in words


def test_an_averaged_table_still_tells_positions_apart() -> None:
    model = converted(next(f for f in asked.ZOO if f.name == "SinusoidsCut"))
    table = model.pe[0]
    assert torch.equal(table, table.flip(0).roll(6, 1))
    assert len({tuple(row.tolist()) for row in table}) == len(table)
    assert list(plan_conversion(asked.SinusoidsCut(), (2, 4, 24), symmetrise_buffers=True, verify=False).averaged) == [
        "pe"
    ]


def test_rotary_tables_of_a_float32_buffer_are_exact() -> None:
    plan = plan_conversion(asked.EsmLike(), asked.ZOO[0].example, inputs=asked.IDS)
    assert not plan.problems
    assert not any("rounding" in note for note in plan.notes)
    assert len(plan.tested) == 2
