"""Mutated rules are killed by the tests of their law: the tests of `test_rules`, run on rules made wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import test_rules
from tiers import some
from torch.utils import _pytree as pytree

from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.rules.pointwise import rule_of
from rcps_convert.rules.registry import RULES, Facts

Rule = Callable[..., Any]

IMPLIED = {"flip", "copy_into", "avg_pool"}
"""Rules whose demands, in their samples, are also made by the rules of other operators there."""

EXACT = [s for s in test_rules.SAMPLES if s.exact]


def wrong(action: Any) -> Any:
    """An action with its last axis of more than one entry rotated: entry i comes from where entry i - 1 came from."""
    if not isinstance(action, Action):
        return action
    dims = [d for d, t in enumerate(action.axes) if t.size > 1]
    if dims:
        at = dims[-1]
        term = ax.walk(action.axes[at])
        return action.with_axis(at, ax.trivial(term.size) if not ax.is_trivial(term) else ax.length(term.size))
    if action.value is not None:
        return Action(action.axes, ax.trivial(action.value.size))
    return Action((*action.axes[:-1], ax.product([action.axes[-1], ax.SIGN]))) if action.axes else action


def with_wrong_results(rule: Rule) -> Rule:
    """The rule, with the action of each result made wrong."""

    def mutant(node: Any, *args: Any, **kwargs: Any) -> Any:
        return pytree.tree_map(wrong, rule(node, *args, **kwargs), is_leaf=lambda x: isinstance(x, Action))

    return mutant


def forgetful(rule: Rule, forgotten: list[bool]) -> Rule:
    """The rule, without its demands that two axes agree; they are counted."""

    def forget(a: ax.Axis, b: ax.Axis) -> None:
        forgotten.append(ax.walk(a) != ax.walk(b))

    def mutant(node: Any, *args: Any, **kwargs: Any) -> Any:
        kept, ax.unify = ax.unify, forget
        try:
            return rule(node, *args, **kwargs)
        finally:
            ax.unify = kept

    return mutant


@contextmanager
def replaced(rule: Rule, mutant: Rule) -> Iterator[None]:
    """The registry with a mutant in place of a rule."""
    mutant.facts = getattr(rule, "facts", Facts())  # type: ignore[attr-defined]
    ops = [op for op, r in RULES.items() if r is rule]
    RULES.update(dict.fromkeys(ops, mutant))
    try:
        yield
    finally:
        RULES.update(dict.fromkeys(ops, rule))


def survives(rule: Rule, mutant: Rule) -> bool:
    """Whether every sample of a rule passes the test of its law with the mutant."""
    samples = [s for s in EXACT if rule_of(s.op) is rule]
    with replaced(rule, mutant):
        for sample in samples:
            try:
                test_rules.test_law(sample)
            except Exception:  # refused, or the law fails: either way the mutant is noticed
                return False
    return True


OURS = [r for op, r in RULES.items() if op.namespace == "aten"]
TESTED = [r for r in dict.fromkeys(OURS) if any(rule_of(s.op) is r for s in EXACT)]


@pytest.mark.parametrize("rule", some(TESTED, 25), ids=lambda r: r.__name__)
def test_a_rule_with_wrong_results_is_caught(rule: Rule) -> None:
    assert not survives(rule, with_wrong_results(rule))


@pytest.mark.parametrize("rule", some([r for r in TESTED if r.__name__ not in IMPLIED], 15), ids=lambda r: r.__name__)
def test_a_rule_that_forgets_its_demands_is_caught(rule: Rule) -> None:
    forgotten: list[bool] = []
    alive = survives(rule, forgetful(rule, forgotten))
    assert not alive or not any(forgotten)
