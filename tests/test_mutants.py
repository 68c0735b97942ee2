"""The mutation tests themselves: what is changed, what is drawn, and that the laws notice a change in each folder."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import test_axis
import test_edge_functions
import test_measured_parts
import test_norm
import test_rules
import test_tie
import test_verify
import torch
from mutation import campaign
from mutation.draw import FOLDERS, PACKAGE, all_mutants, draw
from mutation.live import alive
from mutation.operators import Mutant, mutants, mutated
from mutation.session import Children
from tiers import chosen, some

aten = torch.ops.aten

ROOT = Path(__file__).resolve().parents[1]


# --- changes ----------------------------------------------------------------------------------------

SOURCE = '''
def f(x, n: int = 3):
    """Twice n."""
    assert n > 0, "n > 0"
    if not x and n >= 1:
        x.append(n - 1)
        raise ValueError(f"no {n + 1}")
    return [y for y in x[1:] if any(y)]
'''


def changes(source: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for m in mutants("f.py", source):
        found.setdefault(m.operator, set()).add(m.change)
    return found


def test_the_changes_of_a_small_function() -> None:
    assert changes(SOURCE) == {
        "CRP": {
            "3 in x, n: int=3 -> 4", "3 in x, n: int=3 -> 2", "1 in n >= 1 -> 2", "1 in n >= 1 -> 0",
            "1 in n - 1 -> 2", "1 in n - 1 -> 0", "1 in 1: -> 2", "1 in 1: -> 0",
        },
        "COI": {"if not x and n >= 1: -> if not (not x and n >= 1):"},
        "LCR": {"not x and n >= 1 -> not x or n >= 1"},
        "OPD": {
            "not x and n >= 1 -> n >= 1", "not x and n >= 1 -> not x", "n - 1 -> n", "n - 1 -> 1",
            "for y in x[1:] if any(y) -> for y in x[1:]",
        },
        "COD": {"not x -> x"},
        "ROR": {"n >= 1 -> n > 1", "n >= 1 -> n < 1"},
        "AOR": {"n - 1 -> n + 1"},
        "ARG": {"x.append(n - 1) -> x.append()", "x.append(n - 1) -> x.append(None)", "any(y) -> any()",
                "any(y) -> any(None)"},
        "SDL": {"x.append(n - 1) -> pass", "raise ValueError(f'no {n + 1}') -> pass"},
        "SWP": {"x.append(n - 1) -> x.extend(n - 1)", "any(y) -> all(y)"},
        "VAL": {"return [y for y in x[1:] if any(y)] -> return None"},
        "SIR": {"1: -> :"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "operator", "change"),
    [
        ("while True:\n    break", "BCR", "break -> continue"),
        ("x += 1", "ASR", "x += 1 -> x -= 1"),
        ("x += 1", "ASR", "x += 1 -> x = 1"),
        ("x = -y", "AOD", "-y -> y"),
        ("x = y if z else 0", "COI", "y if z else 0 -> y if not z else 0"),
        ("with a:\n    f()", "CTX", "with a: f() -> if True:"),
        ("try:\n    f()\nexcept E:\n    pass", "EHD", "except E: -> except E:"),
        ("x[0] = y", "SDL", "x[0] = y -> pass"),
        ("f(a, b)", "ARG", "f(a, b) -> f(b, a)"),
        ("f(k=a)", "ARG", "f(k=a) -> f()"),
    ],
)
def test_kinds_of_change(source: str, operator: str, change: str) -> None:
    assert change in changes(source)[operator]


@pytest.mark.parametrize(
    "source",
    [
     '"""1 + 1"""', "from __future__ import annotations", "x: int", "assert x > 0", 'x = "a"', 'f(f"{x + 1}")', 
     "x = None", "if TYPE_CHECKING:\n    x = 1", "@dataclass(frozen=True)\nclass A:\n    y: int",
    ],
)  # fmt: skip
def test_what_is_left_alone(source: str) -> None:
    assert [m for m in mutants("f.py", source) if m.operator not in ("SDL", "ARG")] == []


@functools.cache
def in_file(file: str) -> dict[str, Mutant]:
    """Every mutant of a file by its name."""
    there = (PACKAGE / file).exists()
    return {m.key: m for m in mutants(file, (PACKAGE / file).read_text())} if there else {}


@pytest.mark.parametrize("folder", chosen(FOLDERS, lambda folder: folder == "tie"))
def test_every_mutant_has_a_name_of_its_own_and_keeps_the_lines(folder: str) -> None:
    found = all_mutants(folder)
    assert len({m.key for m in found}) == len(found) > 1000
    for m in found[:: len(found) // 8]:
        source = (PACKAGE / m.file).read_text()
        tree = mutated(source, m)
        compile(tree, m.file, "exec")
        assert ast.dump(tree) != ast.dump(ast.parse(source)), m.key


# --- the draw ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_draw_is_balanced_and_has_many_functions_and_kinds() -> None:
    found = draw(0, 300)
    assert set(Counter(m.file.split("/")[0] for m in found).values()) == {60}
    assert len({(m.file, m.scope) for m in found}) > 290
    assert len({m.operator for m in found}) >= 12
    assert draw(0, 100) == found[:100]
    assert len({*draw(1, 300)} & {*found}) < 60


@pytest.mark.parametrize("key", some(campaign.accepted(), 2))
def test_an_accepted_survivor_is_a_mutant_and_has_a_reason(key: str) -> None:
    assert key in in_file(key.partition(":")[0]), "the code has changed: judge it again"
    assert len(campaign.accepted()[key].split()) > 3


# --- the laws notice --------------------------------------------------------------------------------


def law_of(op: object) -> Callable[[], None]:
    """The law of every sample of an operator."""
    samples = [s for s in test_rules.SAMPLES if s.op is op]

    def judge() -> None:
        test_rules.traced.cache_clear()
        for sample in samples:
            test_rules.test_law(sample)

    return judge


def readings(name: str) -> None:
    """The law of one edge function."""
    test_edge_functions.test_the_other_reading_is_the_mirror_image_and_both_are_chosen_from(name)


ODD = "palindrome of odd kernel"

KNOWN: list[tuple[str, Callable[[], None]]] = [
    (
        "algebra/terms.py:length OPD role or Role('length', start=size) -> role",
        test_axis.test_roles_survive_products_and_binding,
    ),
    ("algebra/solve.py:unify COD not same(a, b) -> same(a, b)", lambda: test_axis.test_unify_again_still_works(100)),
    ("geometry/functions.py:Narrow.right CRP", lambda: readings("narrow")),
    (
        "geometry/functions.py:Padding.right CRP",
        lambda: readings("pad"),
    ),
    ("tie/ties.py:RCTie.project OPD", lambda: test_tie.test_projection_is_idempotent_and_onto_tied_weights(ODD)),
    ("tie/norms.py:fold CRP 2 in v.reshape(2, -1) -> 1", test_norm.test_fold_and_unfold_keep_the_parameter_objects),
    ("measure/law.py:Law.depends ARG", test_verify.test_outputs_that_ignore_the_sequence_do_not_pass),
    (
        "measure/report.py:EquivarianceReport.equivariant ROR",
        test_measured_parts.test_an_error_as_large_as_the_tolerance_is_within_it,
    ),
    ("rules/pieces.py:unbind SIR :at -> :", law_of(aten.unbind.int)),
    ("rules/pool.py:_fixed SWP ax.trivial(out) -> ax.regular(out)", law_of(aten.adaptive_avg_pool1d.default)),
]
"""Beginnings of the names of mutants that the tests are known to notice, each with one of them: two of each folder."""

QUICK = ("tie/norms",)


@pytest.mark.parametrize(
    ("key", "judge"), chosen(KNOWN, lambda case: case[0].startswith(QUICK)), ids=[key for key, _ in KNOWN]
)
def test_a_known_mutant_is_killed(key: str, judge: Callable[[], None]) -> None:
    mutant = next(m for name, m in in_file(key.partition(":")[0]).items() if name.startswith(key))
    judge()
    with alive(mutant), pytest.raises(BaseException):  # noqa: B017, PT011 - whatever the test raises
        judge()
    judge()


# --- children ---------------------------------------------------------------------------------------

NOTHING = Mutant("f.py", "f", "SDL", 1, "x -> pass", 0, live=True)


def hang() -> dict:
    while True:
        pass


@pytest.mark.parametrize(
    ("work", "outcome", "by"),
    [
        (lambda: {"outcome": "survived", "by": None}, "survived", "None"),
        (hang, "killed", "too slow"),
        (lambda: {}["gone"], "error", "KeyError"),
    ],
    ids=["returns", "hangs", "fails"],
)
def test_a_child_says_what_became_of_its_mutant(work: Callable[[], dict], outcome: str, by: str) -> None:
    results: list[dict] = []
    children = Children(1, lambda mutant, result: results.append(result))
    children.fork(NOTHING, work, 0)
    children.finish()
    assert [r["outcome"] for r in results] == [outcome]
    assert by in str(results[0]["by"])


SMALL = """
import sys
from tests.mutation import __main__, session
session.PARTS = {**dict.fromkeys(session.PARTS, ()), "algebra": ("test_terms_in_full.py",)}
sys.exit(__main__.main(["--mutants", "20", "--only", "algebra", "--out", sys.argv[1], "--coverage", sys.argv[2]]))
"""
"""A run with the tests of one file; its exit status is 1, as some mutants survive these."""


@pytest.mark.slow
def test_a_run_judges_what_is_left_and_prints_the_table(tmp_path: Path) -> None:
    out, notes = tmp_path / "results.jsonl", tmp_path / "coverage.jsonl"
    command = [sys.executable, "-c", SMALL, str(out), str(notes)]
    first, second = (subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False) for _ in range(2))
    results = campaign.latest(out)
    drawn = [m.key for m in draw(0, 20) if m.file.startswith("algebra")]
    assert sorted(results) == sorted(drawn)
    assert {line["outcome"] for line in results.values()} == {"killed", "survived"}
    assert len(out.read_text().splitlines()) == len(drawn), "the second run had nothing to do"
    assert first.returncode == second.returncode == 1, first.stderr
    assert second.stdout.splitlines()[-1].startswith("survived: algebra/")
    assert f"| all | {len(drawn)} |" in second.stdout
    assert all(json.loads(line)["passed"] for line in notes.read_text().splitlines())


def test_results_are_kept_and_the_last_one_counts(tmp_path: Path) -> None:
    lines = [{"mutant": "a", "outcome": "survived"}, {"mutant": "b", "outcome": "killed"}]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(n) + "\n" for n in [*lines, {"mutant": "a", "outcome": "killed"}]))
    assert {key: n["outcome"] for key, n in campaign.latest(path).items()} == {"a": "killed", "b": "killed"}
    assert campaign.latest(tmp_path / "none") == {}


@pytest.mark.slow
def test_the_table_counts_each_folder() -> None:
    drawn = draw(0, 10)
    text = campaign.table(
        drawn, {m.key: {"outcome": "killed"} for m in drawn[:9]} | {drawn[9].key: {"outcome": "survived"}}
    )
    assert "| algebra | 2 | 2 | 0 | 0 | 100.0% |" in text
    assert "| rules | 2 | 1 | 0 | 1 | 50.0% |" in text
    assert "| all | 10 | 9 | 0 | 1 | 90.0% |" in text
