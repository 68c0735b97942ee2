"""What holds for the project as a whole: import direction, sizes, versions, the top level, the README."""

import ast
import functools
import graphlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch

import rcps_convert
from rcps_convert import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rcps_convert"

ORDER = (
    "errors",
    "_torch",
    "algebra",
    "geometry",
    "graph",
    "tie",
    "measure",
    "rules",
    "infer",
    "strands",
    "convert",
)
"""The folders of the package and the module below them; each may import from those before it."""

ENDS = {"layers": {"algebra"}, "__main__": {"", "convert"}, "testing": {"algebra", "graph", "measure"}}
"""Modules that nothing in the package imports, and what they may import."""

RULES_MAY_IMPORT = ("errors", "_torch", "algebra", "rules.common", "rules.registry")
"""What a family of rules may import: a rule knows the algebra, not the graph."""

MOST_ENTRIES = 15
"""Entries of the package's top level that a reader may meet; ``py.typed`` is no code."""

TOP_LEVEL = {"pyproject.toml", "rcps_convert", "tests", "docs", "README.md", "LICENSE", "CHANGELOG.md"}

MAX_FILE = 600
MAX_FUNCTION = 50

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path, package: Path = PACKAGE) -> str:
    """The dotted name inside the package: ``tie``, ``rules.conv``; ``""`` is the package itself."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def by_file(faults: Callable[[Path], Any]) -> dict[str, Any]:
    """What is wrong with the files of the package, by name: a test for each of them would cost more than the looking.

    Args:
        faults: of a file; empty where nothing is wrong.
    """
    return {module_name(path) or "__init__": found for path in FILES if (found := faults(path))}


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
    ours, theirs = module.partition(".")[0], imported.partition(".")[0]
    if not module or ours == theirs:
        return None  # the package gathers its public names; files of one folder are looked at together
    if ours in ENDS:
        return None if theirs in ENDS[ours] else f"{module} imports {imported}"
    if ours not in ORDER:
        return f"{module} is in no folder of ORDER"
    if not imported:
        return f"{module} imports the package: import the module that has the name"
    if theirs not in ORDER:
        return f"{module} imports {imported}, which is in no folder of ORDER"
    if ORDER.index(theirs) >= ORDER.index(ours):
        return f"{module} imports {imported}, whose folder comes later"
    return None


MODULES = {module_name(p) for p in FILES} - {""}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    """Every node of a file's code; the walk takes longer than what the tests ask."""
    return [*ast.walk(tree_of(path))]


@functools.cache
def parsed(path: Path) -> tuple[list[str], set[str], dict[str, int]]:
    """Of a file what it imports of the package, the first words of its other imports, the lengths of its functions."""
    package, tree = tuple(path.relative_to(PACKAGE).parent.parts), tree_of(path)
    own = list(own_imports(tree, package, MODULES))
    functions = [n for n in nodes_of(path) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {f"{f.name}, line {f.lineno}": body_lines(f) for f in functions}
    return own, other_imports(tree), lengths


def imports_of(path: Path) -> list[str]:
    """Modules of the package that a file imports, as dotted names inside it."""
    return parsed(path)[0]


def test_imports_go_one_way() -> None:
    def faults(path: Path) -> list[str]:
        return [fault for name in imports_of(path) if (fault := direction_fault(module_name(path), name))]

    assert by_file(faults) == {}


@pytest.mark.parametrize("folder", [f for f in ORDER if (PACKAGE / f).is_dir()])
def test_the_files_of_a_folder_import_one_way(folder: str) -> None:
    files = [p for p in FILES if PACKAGE / folder in p.parents and p.name != "__init__.py"]
    graph = {module_name(p): {i for i in imports_of(p) if i.startswith(f"{folder}.")} for p in files}
    assert list(graphlib.TopologicalSorter(graph).static_order())  # a cycle raises, and names itself


FAMILIES = [p for p in FILES if p.parent.name == "rules" and p.stem not in ("__init__", "registry", "node", "pins")]


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_a_family_of_rules_knows_the_algebra_only(path: Path) -> None:
    assert [i for i in imports_of(path) if not i.startswith(RULES_MAY_IMPORT)] == []


def test_measuring_shares_only_the_algebra_with_inference() -> None:
    found = {i for p in FILES if p.parent.name == "measure" for i in imports_of(p)}
    assert [i for i in found if i.startswith(("infer", "rules"))] == []


@pytest.mark.parametrize(
    ("module", "source", "imported"),
    [
        ("algebra", "from . import action as a", ["algebra.action"]),
        ("algebra", "from ..errors import ConversionError", ["errors"]),
        ("algebra", "from .. import convert_model", [""]),
        ("algebra", "import rcps_convert.convert.plan", ["convert.plan"]),
        ("algebra", "def f():\n    from rcps_convert.graph.trace import Trace", ["graph.trace"]),
        ("algebra", "import torch\nfrom torch import nn", []),
        ("rules", "from . import conv, linear", ["rules.conv", "rules.linear"]),
    ],
)
def test_imports_are_found(module: str, source: str, imported: list[str]) -> None:
    modules = {module_name(p) for p in FILES} - {""}
    assert list(own_imports(ast.parse(source), (module,), modules)) == imported


@pytest.mark.parametrize(
    ("module", "imported", "allowed"),
    [
        ("", "convert.convert", True),
        ("tie.ties", "algebra.axis", True),
        ("algebra.axis", "tie.ties", False),
        ("tie.ties", "", False),
        ("tie.ties", "novelty", False),
        ("novelty", "algebra.axis", False),
        ("infer.walk", "rules.pointwise", True),
        ("measure.verify", "infer.walk", False),
        ("measure.verify", "rules.conv", False),
        ("rules.registry", "infer.walk", False),
        ("layers", "algebra.specs", True),
        ("layers", "convert.convert", False),
        ("convert.convert", "layers", False),
    ],
)
def test_a_wrong_direction_is_a_fault(module: str, imported: str, allowed: bool) -> None:
    assert (direction_fault(module, imported) is None) == allowed


# --- the house --------------------------------------------------------------------------------------


def test_the_listing_is_short() -> None:
    entries = [p.name for p in PACKAGE.iterdir() if p.name not in ("__pycache__", "py.typed")]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


@pytest.mark.parametrize("folder", [module_name(p) for p in FILES if p.name == "__init__.py" and p.parent != PACKAGE])
def test_a_folder_says_its_job_in_one_sentence(folder: str) -> None:
    said = (
        ast.get_docstring(ast.parse((PACKAGE / folder.replace(".", "/") / "__init__.py").read_text())) or ""
    ).partition("\n\n")[0]
    assert re.fullmatch(r"[A-Z][^.]*(?:``[^`]*``[^.]*)*\.", said), said


def test_a_name_means_one_class() -> None:
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in nodes_of(path):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module_name(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_how_it_works_lists_every_file() -> None:
    spec = importlib.util.spec_from_file_location("package_listing", ROOT / "docs" / "package_listing.py")
    assert spec is not None
    assert spec.loader is not None
    listing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(listing)
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    assert listing.page(text) == text, "run python docs/package_listing.py"
    assert tuple(folder for folder in ORDER if (PACKAGE / folder).is_dir()) == listing.ORDER


ORDINARY_WORDS = {
    "mean", "sum", "max", "input", "to", "all", "any", "size", "stack", "view", "where", "index", "copy", "fill",
    "add", "alias", "sort", "detach", "range", "select", "split", "numel", "dim", "dropout", "outer", "inner",
    "special", "data", "len", "trace", "out", "mode", "complex", "real", "set", "resize", "unique", "norm",
    "dist", "round", "list", "output", "eye", "pin", "not", "cat", "dot", "var", "std", "item", "sign", "full",
    "zero", "one", "layout", "scalar", "slice", "rand", "div", "mul", "sub", "neg", "abs", "is_pinned", "name",
    "device", "dense", "sparse", "values", "crop", "dict", "tuple", "linear", "signbit", "repeat", "roll",
    "flip", "gather", "take", "put", "cross", "str", "int", "Int", "Float", "Bool", "keys", "ceil", "randn", "normal",
    "format", "join", "stride", "empty", "replace", "lower", "upper", "strip", "startswith", "append", "reverse",
    "insert", "pop", "random", "is_inference", "is_leaf", "requires_grad", "get_device",
    "storage_offset", "output_nr", "is_neg", "is_conj", "retains_grad",
}  # fmt: skip
"""Names of operators that are words of other things too."""


def test_no_operator_is_named_outside_of_the_rules() -> None:
    """What is known of an operator is declared where its rule is; the functions of geometry are not operators."""
    every = {name.removeprefix("aten::").split(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    operators = {name for name in every if not name.startswith("_") and "::" not in name} - ORDINARY_WORDS
    operators |= {f"{name}_" for name in operators}
    found = []
    for path in FILES:
        if path.parent.name in ("rules", "geometry"):
            continue
        for node in nodes_of(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in operators:
                found.append(f"{module_name(path)}:{node.lineno}: {node.value}")
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "aten":
                found.append(f"{module_name(path)}:{node.lineno}: aten.{node.attr}")
    assert found == []


PRIVATE = re.compile(
    r"torch\.(?:\w+\.)*_[a-zA-Z]|import _[a-zA-Z](?!orch)|nn_module_stack|stack_trace|call_spec|input_specs|"
    r"\._(?:forward_(?:pre_)?hooks|parameters|buffers|modules|version|schema|opname|overloadname|opoverload)|"
    r"\._(?:getframe|tracer_cls|conv_forward|output_padding|init_flat_weights|non_persistent)"
)
"""What the code of the package must not say outside of its one folder."""


def test_what_is_private_in_torch_stands_in_one_folder() -> None:
    def faults(path: Path) -> list[str]:
        lines = [] if path.is_relative_to(PACKAGE / "_torch") else path.read_text().splitlines()
        return [f"{i}: {line.strip()}" for i, line in enumerate(lines, 1) if PRIVATE.search(line)]

    assert by_file(faults) == {}


def test_every_private_item_has_a_test() -> None:
    from rcps_convert import _torch

    tested = (ROOT / "tests" / "test_private.py").read_text()
    inner = {"pytree", "OPERATORS", "PADS", "SETUP", "WRAPPERS"}  # tested through the functions that use them
    assert [name for name in _torch.__all__ if f"_torch.{name}" not in tested and name not in inner] == []


@pytest.mark.parametrize(
    "line", ["torch._C.x()", "torch.utils._pytree", "import _pytree", "m._forward_hooks", "op._schema"]
)
def test_private_names_are_seen(line: str) -> None:
    assert PRIVATE.search(line)


# --- dependencies -----------------------------------------------------------------------------------


def other_imports(tree: ast.Module) -> set[str]:
    """The first words of what a file imports by name, but for checkers of types."""
    heads: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                heads |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                heads.add(str(node.module).partition(".")[0])
    return heads


def test_only_runtime_dependencies_are_imported() -> None:
    def faults(path: Path) -> set[str]:
        optional = {"triton"} if path.name == "kernels.py" else set()  # imported where it is there only
        return parsed(path)[1] - set(sys.stdlib_module_names) - {"torch", "einops", "rcps_convert"} - optional

    assert by_file(faults) == {}


# --- sizes ------------------------------------------------------------------------------------------


def test_files_are_short() -> None:
    assert by_file(lambda path: max(0, len(path.read_text().splitlines()) - MAX_FILE)) == {}


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function after its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return int(body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_short() -> None:
    assert by_file(lambda path: {n: lines for n, lines in parsed(path)[2].items() if lines > MAX_FUNCTION}) == {}


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
    assert ROOT / settings["tool"]["hatch"]["version"]["path"] == PACKAGE / "__init__.py"
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == __version__


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


HEAVY = (
    "torch.export",
    "torch._export",
    "torch._dynamo",
    "torch._inductor",
    "torch.fx.experimental",
    "sympy",
    "einops",
)
"""What takes long to import, and is not needed before a model is converted."""


FRESH = """import sys, torch
before = set(sys.modules)
import rcps_convert
print(*set(sys.modules) - before)
print(rcps_convert.errors.__name__, hasattr(rcps_convert, 'nothing'))
from rcps_convert import *
print(*set(sys.modules) - before)"""
"""What is asked of a process that has imported nothing of the package yet."""


@functools.cache
def fresh() -> list[list[str]]:
    """The lines that it prints: one process answers several tests, as it takes long to import torch."""
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, timeout=200, check=True)
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("line", "own"), [(0, 0), (2, 100)], ids=["import rcps_convert", "import *"])
def test_importing_the_package_loads_nothing_heavy(line: int, own: int) -> None:
    loaded = fresh()[line]
    assert "rcps_convert" in loaded
    assert [n for n in loaded for heavy in HEAVY if n == heavy or n.startswith(f"{heavy}.")] == []
    mine = [n for n in loaded if n.startswith("rcps_convert.")]
    assert len(mine) > own if own else not mine


def test_the_public_names_are_imported_from_where_editors_see_them() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {a.name: f".{n.module or ''}" for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    table = {name: home for home, names in rcps_convert._HOMES.items() for name in names.split()}
    assert seen == table
    assert sorted(seen) == sorted(rcps_convert.__all__)
    for name, home in table.items():
        assert getattr(rcps_convert, name) is not None, home


def test_modules_of_the_package_are_attributes_of_it() -> None:
    assert fresh()[1] == ["rcps_convert.errors", "False"]


def test_public_names_exist_and_are_documented() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    documented = set(re.findall(r"^::: rcps_convert\.(?!layers\.|testing\.)(?:\w+\.)*(\w+)$", page, re.MULTILINE))
    public = set(rcps_convert.__all__) - {"layers", "testing"}
    assert documented == public
    assert sorted([*rcps_convert.__all__, "__version__"]) == sorted(dir(rcps_convert))
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
    assert "plan_conversion(" in example
    assert "plan.apply(" in example
    ast.parse(example)


def test_readme_says_how_to_see_it_and_how_to_test_it() -> None:
    readme = (ROOT / "README.md").read_text()
    demonstration, test = re.findall(r"^```bash\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)[:2]
    assert "python -m rcps_convert" in demonstration
    assert re.search(r"pip install torch==\S+.*pip install -e .*pytest", test, re.DOTALL)
