"""The site: pages, pictures and notebook belong together; in a browser nothing is cut, and the search works.

The tests in a browser are slow. They need the extras ``docs`` and ``site`` and a Chromium, of playwright's own or of
the system; without these they are skipped.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_docs import matches

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CONFIGURATION = (ROOT / ".mkdocs.yml").read_text(encoding="utf-8")
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
WIDTHS = {"desktop": 1366, "phone": 390}
DRAWN = sorted(path.stem for path in (DOCS / "images").glob("*.svg") if path.stem not in ("logo", "favicon"))
SEARCHES = {
    "hugging face": "hugging-face",
    "deeplift": "bpnet-lite",
    "save": "saving",
    "install": "install",
    "lightning": "lightning",
    "enformer": "enformer-borzoi",
    "learning rate": "faq",
    "lstm": "weights",
    "checkpoint": "saving",
}

CUT = """() => {
    // What is wider than the box it is in, where that box neither shows it nor scrolls.
    const cut = [], edge = document.documentElement.clientWidth;
    const scrolls = e => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
    for (const e of document.querySelectorAll(".md-content *")) {
        const box = e.getBoundingClientRect(), style = getComputedStyle(e);
        if (!box.width || style.visibility === "hidden" || e.closest(".md-clipboard, .md-code__nav")) continue;
        let scroller = e.parentElement;
        while (scroller && !scrolls(scroller)) scroller = scroller.parentElement;
        if (box.right > edge + 1 && !scroller) cut.push(["beyond the page", e.tagName, e.textContent.slice(0, 60)]);
        const hides = style.overflowX === "hidden" || style.overflowX === "clip";
        if (hides && e.scrollWidth > e.clientWidth + 1) cut.push(["hidden", e.tagName, e.textContent.slice(0, 60)]);
    }
    return cut;
}"""

PICTURES = """() => [...document.querySelectorAll(".md-content img")].map(image => ({
    file: image.getAttribute("src").split("/").pop(), width: image.getBoundingClientRect().width,
    shown: image.complete && image.naturalWidth > 0 }))"""

FOUND = """() => [...document.querySelectorAll("*")].filter(e => e.shadowRoot)
    .flatMap(e => [...e.shadowRoot.querySelectorAll("a[href]")].map(a => a.href))"""


# --- quick: what belongs together -------------------------------------------------------------------


def script(path: Path) -> types.ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"^ +- .*: (\S+\.md)$", CONFIGURATION, re.MULTILINE)
    assert sorted(listed) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_every_picture_of_a_page_exists(page: str) -> None:
    for alternative, target in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", (DOCS / page).read_text(encoding="utf-8")):
        assert (DOCS / page).parent.joinpath(target).is_file(), target
        assert len(alternative) > 20, f"{target}: say what the picture shows"


def test_pictures_are_as_drawn() -> None:
    for name, drawn in script(DOCS / "images" / "pictures.py").drawn():
        committed = (DOCS / "images" / name).read_text(encoding="utf-8")
        assert drawn == committed, f"run `python docs/images/pictures.py` and commit {name}"


def test_the_notebook_is_the_page() -> None:
    committed = (DOCS / "tutorial.ipynb").read_text(encoding="utf-8")
    assert script(DOCS / "tutorial_notebook.py").notebook() == committed, "run `python docs/tutorial_notebook.py`"


def test_the_notebook_has_every_block_of_the_page() -> None:
    cells = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.strip("\n") for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
    shown = [output for cell in cells for output in cell.get("outputs", [])]
    assert sum("image/svg+xml" in output.get("data", {}) for output in shown) == 1
    assert sum(output["output_type"] == "stream" for output in shown) == len(
        re.findall(r"^```text", page, re.MULTILINE)
    )


def smallest_text(picture: Path) -> tuple[float, float]:
    """The size of a picture's smallest text, and the picture's width, both in its own units."""
    drawn = picture.read_text(encoding="utf-8")
    box = re.search(r'viewBox="0 0 ([\d.]+) ', drawn)
    assert box is not None
    sizes = re.findall(r'font-size="([\d.]+)"|font: *([\d.]+)px|font-size: *([\d.]+)', drawn)
    return min(float(next(filter(None, size))) for size in sizes), float(box[1])


@pytest.mark.parametrize("name", DRAWN)
def test_the_text_of_a_picture_is_readable_on_a_phone(name: str) -> None:
    size, width = smallest_text(DOCS / "images" / f"{name}.svg")
    assert size * min(1.0, 358 / width) > 11.9  # a page of 390 px has margins of 16 px


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel(tmp_path: Path) -> None:
    """The quick run executes the same code as a page (tests/test_docs.py)."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    held = nbformat.read(DOCS / "tutorial.ipynb", 4)
    nbformat.validate(held)

    def printed(cells: list[Any]) -> list[str]:
        streams = [[o.text for o in c.outputs if o.get("name") == "stdout"] for c in cells if c.cell_type == "code"]
        return ["".join(map("".join, texts)) for texts in streams if texts]  # a kernel may send one text in pieces

    expected = printed(held.cells)
    nbclient.NotebookClient(held, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert all(matches(*texts) for texts in zip(expected, printed(held.cells), strict=True))


# --- slow: in a browser -----------------------------------------------------------------------------


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The site, built strictly and served here."""
    pytest.importorskip("zensical")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("built")
    for name in ("docs", "rcps_convert"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("CHANGELOG.md", ".mkdocs.yml"):
        shutil.copy(ROOT / name, folder / name)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", ".mkdocs.yml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    handler = functools.partial(_Quiet, directory=str(folder / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium: that of the system, or playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api")
    own = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    sandbox = [] if os.name == "nt" or os.getuid() else ["--no-sandbox"]  # root has none
    with playwright.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=own, args=sandbox)
        except playwright.Error as error:
            pytest.skip(f"no Chromium here: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture
def window(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A window of the width that a test is parametrised with; it may ask no other host."""
    asked: list[str] = []
    view = browser.new_page(viewport={"width": getattr(request, "param", WIDTHS["desktop"]), "height": 800})
    view.on("request", lambda sent: asked.append(sent.url))
    yield view
    view.close()
    assert all(url.startswith((address, "data:", "blob:")) for url in asked), asked


def open_page(window: Any, address: str, page: str) -> None:
    path = page.removesuffix(".md").removesuffix("index")
    window.goto(f"{address}{path}/" if path else address, wait_until="networkidle")


@pytest.mark.slow
@pytest.mark.parametrize("window", WIDTHS.values(), ids=WIDTHS.keys(), indirect=True)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_in_a_browser(window: Any, address: str, page: str) -> None:
    open_page(window, address, page)
    wide, seen = window.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= seen, f"the page scrolls sideways: {wide} in {seen}"
    assert window.evaluate(CUT) == []
    for picture in window.evaluate(PICTURES):
        assert picture["shown"], picture
        assert picture["width"] >= 340, picture


@pytest.mark.slow
def test_what_is_cut_is_found(window: Any, address: str) -> None:
    open_page(window, address, "index.md")
    assert window.evaluate(CUT) == []
    window.evaluate(
        """document.querySelector(".md-content p").innerHTML = "<b style='white-space: pre'>" + "wide ".repeat(400)"""
    )
    assert [kind for kind, *_ in window.evaluate(CUT)] == ["beyond the page"]
    window.evaluate("""document.querySelector(".md-content p").style.overflowX = "hidden" """)
    assert ("hidden", "P") in [tuple(found[:2]) for found in window.evaluate(CUT)]


@pytest.mark.slow
@pytest.mark.parametrize("words", SEARCHES)
def test_the_search_finds_the_right_page_first(window: Any, address: str, words: str) -> None:
    open_page(window, address, "index.md")
    window.click(".md-search__button")
    window.wait_for_timeout(500)
    window.keyboard.type(words)
    window.wait_for_function(f"({FOUND})().length > 0", timeout=10_000)
    window.wait_for_timeout(500)
    first = window.evaluate(FOUND)[0]
    assert first.removeprefix(address).split("/")[0] == SEARCHES[words], first


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "named"), [("light", "default"), ("dark", "slate")])
def test_light_and_dark_follow_the_system(browser: Any, address: str, scheme: str, named: str) -> None:
    view = browser.new_page(color_scheme=scheme)
    view.goto(address, wait_until="networkidle")
    assert view.get_attribute("body", "data-md-color-scheme") == named
    view.close()
