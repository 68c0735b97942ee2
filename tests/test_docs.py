"""The code in README.md, in docs/ and in docstrings runs and prints what it says.

All ```python blocks of a page run in order, in one namespace and an empty folder. A page that registers an operator
or a rule, or that changes a setting of the process, runs in a copy of the process.
What stands around a block says what is expected:

- ``<!-- not run -->`` before it: it is skipped.
- ``<!-- raises: ErrorName -->`` before it: it must raise that error.
- a ```text block after it: what it prints, with the error it raises as a last line ``ErrorName: message``.

``<!-- needs: module -->`` anywhere on a page skips the page where that module is not installed.

In a text block, a line ``...`` stands for any lines, ``...`` within a line for any text, and a number below 1e-6
in scientific notation for any other such number, or zero; one that is followed by "in float32" may be up to 1e-3.
"""

import contextlib
import doctest
import importlib
import importlib.util
import io
import itertools
import linecache
import os
import re
import subprocess
import sys
import textwrap
import traceback
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiers import but

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<language>\w*)")
COMMENT = re.compile(r"^\s*<!--\s*(?:(?P<skip>not run)|raises:\s*(?P<raises>\w+))\s*-->\s*$")
NEEDS = re.compile(r"^<!-- needs: (\w+) -->$", re.MULTILINE)
LASTING = re.compile(r"^\s*@?(?:rule\(|torch\.library\.|torch\.set_(?!default_dtype))", re.MULTILINE)
"""What a page does to the whole process."""

LONG = (
    *("trained", "tutorial", "bpnet", "strategies"),
    *("refusals", "inputs-outputs", "weights", "half-products", "geometry", "attention", "migrating-from-rcps-pytorch"),
    *("after-conversion", "saving"),
)
"""Pages that train networks or convert many: their code runs in the slow run."""

SINGLE = r"\d(?:\.\d+)?e-(?:0[4-9]|[1-9]\d+) in float32"
SINGLE_OR_ZERO = rf"(?:{SINGLE}|0(?:\.0*)?(?:e[-+]?0+)? in float32)"
TINY = r"[-+]?\d(?:\.\d+)?e-(?:0[7-9]|[1-9]\d+)(?!\d)"
TINY_OR_ZERO = rf"(?:{TINY}|[-+]?0(?:\.0*)?(?:e[-+]?0+)?(?![\d.e]))"


# --- reading a page ---------------------------------------------------------------------------------


@dataclass
class Block:
    """A fenced block.

    Attributes:
        language: the first word after the fence.
        line: number of its first line inside the fence, from 1.
        text: what it holds, dedented.
        above: the last line before it that is not blank.
        follows: whether only blank lines part it from the block before.
    """

    language: str
    line: int
    text: str
    above: str
    follows: bool


@dataclass
class Example:
    """A python block and what is expected of it."""

    line: int
    code: str
    skip: bool
    raises: str | None
    prints: str | None


def read_blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order.

    Raises:
        ValueError: a fence is not closed.
    """
    lines = enumerate(page.splitlines(), 1)
    above, fenced_above = "", False
    for number, line in lines:
        opening = FENCE.match(line)
        if opening is None:
            if line.strip():
                above, fenced_above = line, False
            continue
        inside: list[str] = []
        for _, held in lines:
            if held.strip() == opening["marks"]:
                break
            inside.append(held)
        else:
            raise ValueError(f"the fence of line {number} is not closed")
        yield Block(opening["language"], number + 1, textwrap.dedent("\n".join(inside)), above, fenced_above)
        above, fenced_above = line, True


def read_examples(page: str) -> list[Example]:
    """The python blocks of a page with what is expected of them."""
    blocks = list(read_blocks(page))
    examples = []
    for block, after in itertools.zip_longest(blocks, blocks[1:]):
        if block.language not in ("python", "py"):
            continue
        comment = COMMENT.match(block.above)
        prints = after.text if after is not None and after.follows and after.language == "text" else None
        skip, raises = (bool(comment["skip"]), comment["raises"]) if comment else (False, None)
        examples.append(Example(block.line, block.text, skip, raises, prints))
    return examples


# --- comparing what is printed ----------------------------------------------------------------------


def _pattern(line: str) -> str:
    """A regular expression for what a line of a text block stands for."""

    def numbers(part: str) -> str:
        return TINY_OR_ZERO.join(re.escape(text) for text in re.split(TINY, part))

    gaps = [SINGLE_OR_ZERO.join(map(numbers, re.split(SINGLE, part))) for part in line.split("...")]
    return ".*".join(gaps)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def matches(expected: str, printed: str) -> bool:
    """Whether printed text is what a text block says."""
    lines = _lines(printed)
    reached = {0}  # how many printed lines the expected ones so far may account for
    for line in _lines(expected):
        if line.strip() == "...":
            reached = set(range(min(reached), len(lines) + 1))
        else:
            reached = {i + 1 for i in reached if i < len(lines) and re.fullmatch(_pattern(line), lines[i])}
        if not reached:
            return False
    return len(lines) in reached


# --- running a page ---------------------------------------------------------------------------------


def run_example(example: Example, number: int, module: types.ModuleType) -> str | None:
    """Run a block in a module's namespace; what is wrong with it, or None."""
    file = f"example_{number}.py"
    Path(file).write_text(example.code + "\n")
    linecache.checkcache(file)
    raised: BaseException | None = None
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            exec(compile(example.code, os.path.abspath(file), "exec"), vars(module))
        except (Exception, SystemExit) as error:
            raised = error
    printed = output.getvalue()
    kind = type(raised).__name__ if raised is not None else None
    if kind != example.raises:
        trace = "".join(traceback.format_exception(raised)) if raised is not None else ""
        return f"raised {kind}, expected {example.raises}\n{trace}{printed}"
    if raised is not None:
        printed += f"{kind}: {raised}\n"
    if example.prints is not None and not matches(example.prints, printed):
        return f"expected\n{textwrap.indent(example.prints, '    ')}\nprinted\n{textwrap.indent(printed, '    ')}"
    return None


def run_page(page: Path) -> int:
    """Run a page's blocks here, up to the first that fails; the exit status."""
    module = types.ModuleType("example")
    sys.modules["example"] = module
    for number, example in enumerate(read_examples(page.read_text(encoding="utf-8")), 1):
        fault = None if example.skip else run_example(example, number, module)
        if fault is not None:
            print(f"{page.name}, the block at line {example.line}: {fault}")
            return 1
    return 0


def pages() -> list[Path]:
    """README.md and the pages of docs/ that hold python blocks."""
    every = [p for p in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if p.exists()]
    return [p for p in every if read_examples(p.read_text(encoding="utf-8"))]


def execute(page: Path, folder: Path) -> subprocess.CompletedProcess:
    """Run a page in an interpreter of its own, in a folder."""
    command = [sys.executable, str(Path(__file__).resolve()), str(page)]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


def forked(page: Path, folder: Path) -> subprocess.CompletedProcess:
    """Run a page in a copy of this process, which has imported torch already."""
    out = folder / "printed.txt"
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            with out.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                status = run_page(page)
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return subprocess.CompletedProcess([str(page)], status, out.read_text(), "")


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to run pages in; modules, warnings, random numbers and the dtype are afterwards as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "example", types.ModuleType("example"))
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.seed()
        warnings.resetwarnings()
        yield tmp_path
    torch.set_default_dtype(dtype)


@pytest.mark.parametrize(
    "page", but(pages(), lambda page: page.stem in LONG), ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_the_code_of_a_page_runs(page: Path, apart: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page.read_text(encoding="utf-8")
    for module in NEEDS.findall(text):
        pytest.importorskip(module)
    if LASTING.search(text):
        forks = hasattr(os, "fork") and not torch.cuda.is_available()  # no gradients in a fork of a process with a GPU
        done = (forked if forks else execute)(page, apart)
        status, printed = done.returncode, f"{done.stdout}\n{done.stderr}"
    else:
        status, printed = run_page(page), capsys.readouterr().out
    if status:
        pytest.fail(printed, pytrace=False)


WITH_EXAMPLES = [path for path in sorted((ROOT / "rcps_convert").rglob("*.py")) if ">>>" in path.read_text()]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_in_docstrings_run(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__main__":
        pytest.skip("a command, not to be imported")
    if parts[-1] == "kernels":
        pytest.importorskip("triton")
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).failed == 0


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="the page lists the operators of torch 2.13")
def test_the_page_of_operators_is_the_registry_s() -> None:
    file = ROOT / "docs" / "supported_operators.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    committed = (ROOT / "docs" / "supported-operators.md").read_text(encoding="utf-8")
    assert generator.page() == committed, "rules changed: run `python docs/supported_operators.py` and commit the page"


# --- the reader, the comparison and the runner themselves -------------------------------------------


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("a\nb", "a  \nb\n\n"),
        ("a\n...\nd", "a\nb\nc\nd"),
        ("a\n...\nd", "a\nd"),
        ("...", ""),
        ("...\nb\n...", "a\nb\nb\nc"),
        ("took ... s", "took 1.25 s"),
        ("error 1.2e-15 (float64)", "error 9.9e-07 (float64)"),
        ("error 1.2e-15 (float64)", "error 0.0e+00 (float64)"),
        ("error 1.2e-15", "error 0"),
        ("1.2e-15; 5.5e-07 in float32", "0.0e+00; 4.9e-06 in float32"),
        ("5.5e-07 in float32", "0.0e+00 in float32"),
        ("lr 1e-03", "lr 1e-03"),
        ("(a+b) [x]", "(a+b) [x]"),
        ("", ""),
    ],
)
def test_matching_text(expected: str, printed: str) -> None:
    assert matches(expected, printed)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("a", "b"),
        ("a", "a\nb"),
        ("a\nb", "a"),
        ("", "a"),
        ("a\n...\nd", "a\nb"),
        ("took ... s", "took 1.25 ms\nand s"),
        ("error 1.2e-15", "error 1.2e-06"),
        ("5.5e-07 in float32", "5.5e-03 in float32"),
        ("5.5e-07 in float32", "5.5e-07 in float64"),
        ("error 1.2e-15", "error 3.1e-01"),
        ("error 1.2e-15", "error 0.5"),
        ("error 1.2e-15", "error inf"),
        ("lr 1e-03", "lr 2e-03"),
        ("a.c", "abc"),
    ],
)
def test_text_that_does_not_match(expected: str, printed: str) -> None:
    assert not matches(expected, printed)


PAGE = """
# A page

```python
x = 1e-12
print("error", x)
```

```text
error 3e-15
```

<!-- not run -->
```python
undefined
```

<!-- raises: KeyError -->

```python
print(x)
{}["a"]
```
```text
...
KeyError: 'a'
```

Some text, and a block in a list:

1. first

    ```python
    class Named:
        pass

    print(Named.__module__)
    ```

not about the block above:

```text
anything
```
"""


def test_a_page_is_read() -> None:
    first, skipped, raising, listed = read_examples(PAGE)
    assert (first.line, first.skip, first.raises, first.prints) == (5, False, None, "error 3e-15")
    assert (skipped.skip, skipped.prints) == (True, None)
    assert (raising.skip, raising.raises, raising.prints) == (False, "KeyError", "...\nKeyError: 'a'")
    assert listed.code.startswith("class Named:\n    pass")
    assert listed.prints is None


def test_an_open_fence_is_an_error() -> None:
    with pytest.raises(ValueError, match="line 1 is not closed"):
        read_examples("```python\nx = 1\n")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "", None),
        ("x = 1e-12", "x = 1e-2", "line 5: expected"),
        ("x = 1e-12", "x = y", "NameError"),
        ("raises: KeyError", "raises: ValueError", "raised KeyError, expected ValueError"),
        ('{}["a"]', '{"a": 1}["a"]', "raised None, expected KeyError"),
        ("<!-- not run -->", "", "name 'undefined' is not defined"),
    ],
)
def test_a_page_is_run(apart: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, fault: str | None) -> None:
    page = apart / "page.md"
    page.write_text(PAGE.replace(old, new) if old else PAGE)
    status, printed = run_page(page), capsys.readouterr().out
    assert (status == 0) == (fault is None), printed
    assert (fault or "") in printed


@pytest.mark.slow
def test_a_page_is_run_in_an_interpreter_of_its_own(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("<!-- not run -->", ""))
    done = execute(page, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "name 'undefined' is not defined" in done.stdout


if __name__ == "__main__":
    sys.exit(run_page(Path(sys.argv[1])))
