"""Models that are equivariant as they are: a plan says what their outputs are, and bases are no positions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiers import some
from torch import Tensor, nn

from rcps_convert import (
    ConversionError,
    NeedsChoiceError,
    apply_recipe,
    convert_model,
    extend,
    plan_conversion,
    recipe,
)


class Weightless(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.conv = what, nn.Conv1d(4, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "any base":
            return x.relu().amax(-1).relu() > 0
        if self.what == "composition":
            return x.mean(-1)
        if self.what == "strands":
            return torch.cat([self.conv(x).relu().mean(-1), self.conv(x.flip(1, 2)).relu().mean(-1)], 1)
        return x[:, 1:3].sum(1) if self.what == "profile" else x[:, 1:3].mean((1, 2))


@pytest.mark.parametrize("what", some(["strands", "any base", "composition"], 1))
def test_bases_and_strands_are_not_taken_for_positions(what: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(NeedsChoiceError, match="is axis 1 a length"):
        convert_model(Weightless(what), torch.zeros(2, 4, 40))


@pytest.mark.parametrize(
    ("what", "words"), [("profile", "unstranded profile (auto), shape (2, 40)"), ("content", "invariant (auto)")]
)
def test_a_plan_says_what_the_outputs_of_an_equivariant_model_are(what: str, words: str) -> None:
    plan = plan_conversion(Weightless(what), torch.zeros(2, 4, 40))
    assert plan.symmetric
    assert words in plan.outputs[0]
    assert plan.outputs[0] in str(plan)
    assert plan.inputs[0] in str(plan)


def test_a_plan_says_what_the_user_said_of_the_outputs_of_an_equivariant_model() -> None:
    torch.manual_seed(0)
    plan = plan_conversion(Weightless("strands"), torch.zeros(2, 4, 40), outputs="+-")
    assert plan.symmetric
    assert plan.outputs == ["0: tracks +-, shape (2, 2), (batch of 2, 1 pair)"]


class BothStrands(nn.Module):
    """Reads both strands itself, and does something else where activations are large. (N, 4, L) -> (N, 3)."""

    def __init__(self, switch: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.switch, self.conv = switch, nn.Conv1d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.switch(self.conv(x) + self.conv(x.flip(1, 2)).flip(2)).square().mean(-1)


SWITCHED: list[Callable[[Tensor], Tensor]] = [
    lambda h: torch.where(h.abs().sum() > 1e4, h.cumsum(-1), h),
    lambda h: h + nn.functional.softshrink(h, 50.0).cumsum(-1),
    lambda h: h.clamp(-1e3, 1e3) + (h - h.clamp(-1e3, 1e3)).roll(1, -1),
    lambda h: h.cumsum(-1) if torch.is_grad_enabled() else h,
    lambda h: h.cumsum(-1) if h.requires_grad else h,
]


@pytest.mark.parametrize("switch", some(SWITCHED, 2))
def test_a_model_is_not_as_it_should_be_that_breaks_the_law_for_large_activations_or_while_gradients_are_recorded(
    switch: Callable[[Tensor], Tensor],
) -> None:
    assert plan_conversion(BothStrands(lambda h: h), torch.zeros(2, 4, 24), outputs="invariant").symmetric
    assert plan_conversion(BothStrands(switch), torch.zeros(2, 4, 24), outputs="invariant").problems


# --- its calls are checked ------------------------------------------------------------------------


class Even(nn.Module):
    """A model that needs no ties, as long as it is not told to sum."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.summed, self.scale = nn.Linear(2, 1), False, torch.ones(1)

    def forward(self, x: Tensor, running: bool = False) -> Tensor:
        h = torch.stack([x[:, 0] + x[:, 3], x[:, 1] + x[:, 2]], 1) * self.scale
        return self.out((h.cumsum(-1) if self.summed or running else h).mean(-1))


@pytest.mark.parametrize("way", some([copy.deepcopy, lambda m: apply_recipe(Even(), recipe(m)), lambda m: m], 2))
def test_settings_constants_and_arguments_are_watched_where_nothing_was_tied(way: Any) -> None:
    with pytest.warns(UserWarning, match="equivariant already"):
        model = way(convert_model(Even(), torch.zeros(2, 4, 21)))
    x = torch.zeros(2, 4, 21)
    with pytest.raises(ConversionError, match="argument running is given as it was not"):
        model(x, running=True)
    for name, value in (("summed", True), ("scale", torch.arange(21.0))):
        before = getattr(model, name)
        setattr(model, name, value)
        with pytest.raises(ConversionError, match=f"^{name} is not what it was"):
            model(x)
        setattr(model, name, before)
        model(x)


def test_what_is_put_into_such_a_model_is_refused_until_it_is_extended() -> None:
    with pytest.warns(UserWarning, match="equivariant already"):
        model: Any = convert_model(Even(), torch.zeros(2, 4, 21))
    model.out = nn.Linear(2, 3)
    with pytest.raises(ConversionError, match="no longer what was converted"):
        model(torch.zeros(2, 4, 21))
    with pytest.warns(UserWarning, match="equivariant already"):
        extended = extend(model, torch.zeros(2, 4, 21))
    assert extended(torch.zeros(2, 4, 21)).shape == (2, 3)
