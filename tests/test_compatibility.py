"""The page on compatibility says what the tools do: every cell is the result of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from compatibility import ROWS, STRATEGIES, Row
from compatibility.page import PAGE, cells, page


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    yield
    torch.compiler.reset()


def runs() -> Iterator[object]:
    for row in ROWS:
        for strategy in STRATEGIES:
            alike = strategy == "conjoined" or ("torch.export" in row.name and strategy != "tied")
            marks = [pytest.mark.slow] if row.slow or row.needs or alike else []
            yield pytest.param(row, strategy, marks=marks, id=f"{row.name}-{strategy}".replace("`", ""))


@pytest.mark.parametrize(("row", "strategy"), [*runs()])
@pytest.mark.filterwarnings("ignore")
def test_a_tool_does_what_the_page_says(row: Row, strategy: str) -> None:
    if not row.can_run():
        pytest.skip(f"needs {', '.join(row.needs)}")
    assert row.cell(strategy) == cells(PAGE.read_text(encoding="utf-8"))[row.name, strategy]


def test_the_page_is_complete() -> None:
    text = PAGE.read_text(encoding="utf-8")
    known = cells(text)
    assert text == page(known)
    assert set(known) == {(row.name, strategy) for row in ROWS for strategy in STRATEGIES}
    assert not [key for key, cell in known.items() if cell == "?"]
    assert len({row.name for row in ROWS}) == len(ROWS)
