"""The tutorial as a notebook: ``python docs/tutorial_notebook.py`` writes ``tutorial.ipynb`` from ``tutorial.md``.

What the cells print is taken from the page, whose code the tests run and compare. With ``--figure`` the page is run,
and ``images/tutorial.svg`` is drawn anew.
"""

import argparse
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:```text\n(?P<prints>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"^!\[[^]]*\]\((images/\S+\.svg)\)\n+", re.MULTILINE)
ALSO = "This page is also a notebook: [tutorial.ipynb](tutorial.ipynb)."


def _lines(text: str) -> list[str]:
    return text.strip("\n").splitlines(keepends=True)


def _outputs(prints: str | None, picture: str | None) -> Iterator[dict]:
    """What a cell shows below its code."""
    if prints:
        yield {"output_type": "stream", "name": "stdout", "text": prints.splitlines(keepends=True)}
    if picture:
        drawn = (DOCS / picture).read_text(encoding="utf-8").splitlines(keepends=True)
        yield {"output_type": "display_data", "metadata": {}, "data": {"image/svg+xml": drawn}}


def cells(page: str) -> Iterator[dict]:
    """Text and code of the page, in order; a picture goes to the code above it."""
    page = re.sub(r"<!--.*?-->\n*", "", page).replace(ALSO, "This notebook is also a page: [tutorial.md](tutorial.md).")
    end = 0
    for block in BLOCK.finditer(page):
        yield {"cell_type": "markdown", "metadata": {}, "source": _lines(page[end : block.start()])}
        picture = PICTURE.match(page[block.end() :].lstrip("\n"))
        outputs = list(_outputs(block["prints"], picture and picture[1]))
        end = block.end() if picture is None else page.index(picture[0], block.end()) + len(picture[0])
        yield {
            "cell_type": "code",
            "metadata": {},
            "execution_count": None,
            "source": _lines(block["code"]),
            "outputs": outputs,
        }
    yield {"cell_type": "markdown", "metadata": {}, "source": _lines(page[end:])}


def notebook() -> str:
    """The notebook, as the text of its file."""
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    made = [{"id": f"cell-{n}", **cell} for n, cell in enumerate(cells(page))]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return json.dumps({"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


def draw() -> None:
    """Run the page's code and keep the figure it saves."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "tutorial"
    os.environ["SOURCE_DATE_EPOCH"] = "0"
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        names: dict[str, object] = {}
        for block in BLOCK.finditer(page):
            exec(block["code"], names)
        drawn = Path("tutorial.svg").read_text(encoding="utf-8")
        os.chdir(before)
    drawn = re.sub(r"(\.\d\d)\d+", r"\1", re.sub(r"[ \t]+\n", "\n", drawn))  # hundredths of a point are enough
    (DOCS / "images" / "tutorial.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", action="store_true", help="run the page and draw its figure anew")
    if parser.parse_args().figure:
        draw()
    (DOCS / "tutorial.ipynb").write_text(notebook(), encoding="utf-8")
