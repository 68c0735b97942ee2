"""What holds for the project as a whole: import direction, sizes, versions, the top level, the README."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from rcps_convert._version import __version__

import rcps_convert

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rcps_convert"

LAYERS = (
    "_version",
    "errors",
    "axis",
    "action",
    "modules",
    "specs",
    "augment",
    "layers",
    "geometry",
    "hooks",
    "opaque",
    "study",
    "mapped",
    "lengths",
    "trace",
    "scalars",
    "registry",
    "rules",
    "constants",
    "mirror",
    "cuts",
    "site",
    "outputs",
    "law",
    "stretch",
    "infer",
    "anchors",
    "readout",
    "tie",
    "norm",
    "boundary",
    "conjoined",
    "mixed",
    "verify",
    "regions",
    "bake",
    "plan",
    "follow",
    "stacking",
    "crossing",
    "strands",
    "convert",
    "decorators",
    "demo",
    "__main__",
)
"""The package's modules; each may import from those before it."""

FOLDERS = {"axis": ("terms", "solve"), "geometry": ("readings", "functions", "table", "frames")}
"""Modules of a layer that is a folder; each may import from those before it."""

RULES_MAY_IMPORT = {"errors", "axis", "action", "registry", "rules.common"}
"""What a module of rules may import: a rule knows the algebra, not the graph."""

TOP_LEVEL = {"pyproject.toml", "rcps_convert", "tests", "docs", "README.md", "LICENSE", "CHANGELOG.md"}

MAX_FILE = 600
MAX_FUNCTION = 50

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path, package: Path = PACKAGE) -> str:
    """The dotted name inside the package: ``tie``, ``rules.conv``; ``""`` is the package itself."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: module_name(path) or "__init__")


# --- imports ----------------------------------------------------------------------------------------


def own_imports(tree: ast.AST, package: tuple[str, ...], modules: set[str]) -> Iterator[str]:
    """Modules of the package that a file imports, as dotted names inside it; ``""`` is the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                head, _, rest = alias.name.partition(".")
                if head == "rcps_convert":
                    yield rest
        elif isinstance(node, ast.ImportFrom):
            named = node.module.split(".") if node.module else []
            if node.level:
                base = [*package[: len(package) - node.level + 1], *named]
            elif named[0] == "rcps_convert":
                base = named[1:]
            else:
                continue
            for alias in node.names:
                longer = ".".join([*base, alias.name])
                yield longer if longer in modules else ".".join(base)


def direction_fault(module: str, imported: str) -> str | None:
    """Why a module may not import another, or None where it may."""
    layer, below = module.partition(".")[0], imported.partition(".")[0]
    if not module or module == imported:
        return None
    if layer not in LAYERS:
        return f"{module} is in no layer: add it to LAYERS, where it belongs"
    if not imported:
        return f"{module} imports the package: import the module that has the name"
    if below not in LAYERS:
        return f"{module} imports {imported}, which is in no layer"
    if layer == below == module:
        return None  # a folder gathers its modules
    if layer == below and layer in FOLDERS:
        first, then = (name.partition(".")[2] for name in (imported, module))
        order = FOLDERS[layer]
        return None if order.index(first) < order.index(then) else f"{module} imports {imported}"
    if layer == "rules":
        return None if imported in RULES_MAY_IMPORT else f"{module} imports {imported}, rules may not"
    if LAYERS.index(below) >= LAYERS.index(layer):
        return f"{module} imports {imported}, which is a later layer"
    return None


def direction_faults(path: Path) -> list[str]:
    """Every import of a file that goes the wrong way."""
    module = module_name(path)
    package = tuple(path.relative_to(PACKAGE).parent.parts)
    if module and module.partition(".")[0] not in LAYERS:
        return [f"{module} is in no layer: add it to LAYERS, where it belongs"]
    imported = own_imports(ast.parse(path.read_text()), package, {module_name(p) for p in FILES} - {""})
    return [fault for name in imported if (fault := direction_fault(module, name))]


@EVERY_FILE
def test_imports_go_one_way(path: Path) -> None:
    assert direction_faults(path) == []


@pytest.mark.parametrize(
    ("module", "source", "imported"),
    [
        ("axis", "from . import action as a", ["action"]),
        ("axis", "from .errors import ConversionError", ["errors"]),
        ("axis", "from . import convert_model", [""]),
        ("axis", "import rcps_convert.plan", ["plan"]),
        ("axis", "def f():\n    from rcps_convert.trace import trace", ["trace"]),
        ("axis", "import torch\nfrom torch import nn", []),
        ("rules.conv", "from ..trace import Node", ["trace"]),
        ("rules.conv", "from .common import slide", ["rules.common"]),
        ("rules", "from . import conv, linear", ["rules.conv", "rules.linear"]),
    ],
)
def test_imports_are_found(module: str, source: str, imported: list[str]) -> None:
    package = ("rules",) if module.startswith("rules") else ()
    modules = {"rules.conv", "rules.linear", "rules.common", *LAYERS}
    assert list(own_imports(ast.parse(source), package, modules)) == imported


@pytest.mark.parametrize(
    ("module", "imported", "allowed"),
    [
        ("", "convert", True),
        ("tie", "axis", True),
        ("axis", "tie", False),
        ("tie", "", False),
        ("tie", "novelty", False),
        ("novelty", "axis", False),
        ("infer", "rules.pointwise", True),
        ("rules.conv", "rules.common", True),
        ("rules.conv", "rules.pool", False),
        ("rules.conv", "trace", False),
        ("registry", "rules.conv", False),
        ("rules", "rules.conv", True),
        ("axis", "axis.solve", True),
        ("axis.solve", "axis.terms", True),
        ("axis.terms", "axis.solve", False),
    ],
)
def test_a_wrong_direction_is_a_fault(module: str, imported: str, allowed: bool) -> None:
    assert (direction_fault(module, imported) is None) == allowed


@EVERY_FILE
def test_only_runtime_dependencies_are_imported(path: Path) -> None:
    heads: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            heads |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            heads.add(str(node.module).partition(".")[0])
    assert heads - set(sys.stdlib_module_names) <= {"torch", "einops", "rcps_convert"}


# --- sizes ------------------------------------------------------------------------------------------


@EVERY_FILE
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_FILE


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function after its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return int(body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@EVERY_FILE
def test_functions_are_short(path: Path) -> None:
    functions = [
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert {f.name: body_lines(f) for f in functions if body_lines(f) > MAX_FUNCTION} == {}


def test_the_docstring_is_no_part_of_the_body() -> None:
    (function,) = ast.parse('def f(x):\n    """One.\n\n    Two.\n    """\n    y = x\n    return y\n').body
    assert isinstance(function, ast.FunctionDef)
    assert body_lines(function) == 2


# --- the project ------------------------------------------------------------------------------------


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_versions_agree() -> None:
    settings = project()
    assert "version" in settings["project"]["dynamic"]
    assert ROOT / settings["tool"]["hatch"]["version"]["path"] == PACKAGE / "_version.py"
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == __version__
    assert rcps_convert.__version__ == __version__


def test_the_installed_version_agrees() -> None:
    try:
        installed = importlib.metadata.version("rcps-convert")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed")
    assert installed == __version__


def test_runtime_dependencies_are_torch_and_einops() -> None:
    names = {re.split(r"[<>=!~ ]", d)[0] for d in project()["project"]["dependencies"]}
    assert names == {"torch", "einops"}


def test_the_package_says_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_public_names_exist_and_are_documented() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    documented = set(re.findall(r"^::: rcps_convert\.(?!layers\.)(?:\w+\.)?(\w+)$", page, re.MULTILINE))
    held = vars(rcps_convert).items()
    public = {name for name, value in held if not name.startswith("_") and not isinstance(value, types.ModuleType)}
    assert documented == public
    layers = vars(rcps_convert.layers).items()
    kinds = {
        name for name, value in layers if getattr(value, "__module__", "") == "rcps_convert.layers" and name[0] != "_"
    }
    assert set(re.findall(r"^::: rcps_convert\.layers\.(\w+)$", page, re.MULTILINE)) == kinds
    assert [name for name in public if not getattr(rcps_convert, name).__doc__] == []


def listed_files() -> list[str]:
    """What is at the top level, without what git ignores."""
    git = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        answer = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return [p.name for p in ROOT.iterdir() if not fnmatch(p.name, "*.egg-info")]
    return answer.splitlines()


def test_the_top_level_is_tidy() -> None:
    top = {name.partition("/")[0] for name in listed_files()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_local_hooks_run_the_commands_of_ci() -> None:
    hooks = re.findall(r"^\s+entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    ci = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert hooks
    assert [hook for hook in hooks if hook not in ci] == []


# --- the README -------------------------------------------------------------------------------------


def test_readme_opens_with_the_pitch_and_an_example() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()[:40]
    fences = [i for i, line in enumerate(lines) if line.startswith("```python")]
    assert fences, "no python example in the first 40 lines"
    start = fences[0]
    end = lines.index("```", start)
    pitch, example = " ".join(lines[:start]).lower(), "\n".join(lines[start + 1 : end])
    assert re.search(r"reverse[- ]complement", pitch)
    assert "convert_model(" in example
    ast.parse(example)


def test_readme_says_how_to_see_it_and_how_to_test_it() -> None:
    readme = (ROOT / "README.md").read_text()
    demonstration, test = re.findall(r"^```bash\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)[:2]
    assert "python -m rcps_convert" in demonstration
    assert re.search(r"pip install torch==\S+.*pip install -e .*pytest", test, re.DOTALL)
