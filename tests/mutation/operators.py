"""The faults: what may be changed in a file, and the file with one change.

The set of operators is MutPy's (AOR, ASR, AOD, COD, COI, CRP, EHD, LCR, ROR, SDL, SIR, BCR), with what mutmut does
to arguments and assigned values (ARG, VAL), and three more: an expression replaced by one of its operands (OPD),
a function by its opposite (SWP), a block without its context manager (CTX).

Left alone are words (strings, docstrings, what an error says), annotations, imports, and what states an
invariant and does nothing else: ``assert``, ``zip(strict=True)``, the arguments of ``@dataclass``.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

BINARY: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.FloorDiv,), ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,), ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,), ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,), ast.BitXor: (ast.BitOr,), ast.MatMult: (ast.Mult,),
}  # fmt: skip

COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip

OPPOSITES = {
    "any": "all", "all": "any", "min": "max", "max": "min", "amin": "amax", "amax": "amin", "real": "imag",
    "imag": "real", "append": "extend", "zeros": "ones", "ones": "zeros", "zeros_like": "ones_like", "argmin": "argmax",
    "is_trivial": "is_length", "is_length": "is_trivial", "trivial": "regular", "regular": "trivial",
    "product": "total", "total": "product", "startswith": "endswith", "endswith": "startswith",
}  # fmt: skip
"""Functions and methods that take the same arguments."""

PASSING = {"reversed", "sorted", "abs", "bool", "walk"}
"""Functions of one argument whose result resembles it."""

ASSERTING = {"strict"}
"""Keywords of calls that only state an invariant."""


@dataclass(frozen=True)
class Mutant:
    """One change of a file.

    Attributes:
        file: path inside the package, such as ``rules/pool.py``.
        scope: qualified name of the function, the class or ``<module>`` that holds the change.
        operator: kind of the change.
        line: where it is.
        change: before and after, as source.
        number: which of the changes of the file it is.
        live: the change is inside a function's body; otherwise it takes effect when the module is imported.
        occurrence: which one of equal changes in a scope it is.
    """

    file: str
    scope: str
    operator: str
    line: int
    change: str
    number: int
    live: bool
    occurrence: int = 0

    @property
    def key(self) -> str:
        """Its name, which edits elsewhere in the file leave as it is."""
        again = f" #{self.occurrence + 1}" if self.occurrence else ""
        return f"{self.file}:{self.scope} {self.operator} {self.change}{again}"


@dataclass(frozen=True)
class Place:
    """Where a node hangs: `parent.field` or, in a list, `parent.field[index]`."""

    parent: ast.AST
    field: str
    index: int | None

    def put(self, new: ast.AST) -> None:
        """Hang another node there."""
        if self.index is None:
            setattr(self.parent, self.field, new)
        else:
            getattr(self.parent, self.field)[self.index] = new


def is_words(node: ast.AST) -> bool:
    """Whether a node is a text."""
    if isinstance(node, ast.BinOp):
        return is_words(node.left) or is_words(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def is_empty(node: ast.AST) -> bool:
    """Whether a node is None, or a literal that is as false as None."""
    if isinstance(node, (ast.Tuple, ast.List)):
        return not node.elts
    return (isinstance(node, ast.Constant) and not node.value) or is_words(node)


def changed(node: Any, **fields: Any) -> Any:
    """A copy of a node with other fields."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def without(items: list, at: int) -> list:
    """A list without one entry."""
    return items[:at] + items[at + 1 :]


def binary(node: ast.BinOp) -> Iterator[tuple[str, ast.AST]]:
    """Another operator; one of the operands."""
    for other in BINARY.get(type(node.op), ()):
        yield "AOR", changed(node, op=other())
    yield "OPD", node.left
    yield "OPD", node.right


def augmented(node: ast.AugAssign) -> Iterator[tuple[str, ast.AST]]:
    """Another operator; a plain assignment; nothing."""
    for other in BINARY.get(type(node.op), ()):
        yield "ASR", changed(node, op=other())
    yield "ASR", ast.Assign(targets=[node.target], value=node.value)
    yield "SDL", ast.Pass()


def unary(node: ast.UnaryOp) -> Iterator[tuple[str, ast.AST]]:
    """Without the operator."""
    yield ("COD" if isinstance(node.op, ast.Not) else "AOD"), node.operand


def compare(node: ast.Compare) -> Iterator[tuple[str, ast.AST]]:
    """Another comparison."""
    for i, op in enumerate(node.ops):
        for other in COMPARISONS[type(op)]:
            yield "ROR", changed(node, ops=[*node.ops[:i], other(), *node.ops[i + 1 :]])


def boolean(node: ast.BoolOp) -> Iterator[tuple[str, ast.AST]]:
    """``and`` for ``or``; one operand less."""
    yield "LCR", changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    for i in range(len(node.values)):
        rest = without(node.values, i)
        yield "OPD", rest[0] if len(rest) == 1 else changed(node, values=rest)


def condition(node: Any) -> Iterator[tuple[str, ast.AST]]:
    """The opposite condition."""
    yield "COI", changed(node, test=ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test))


def choice(node: ast.IfExp) -> Iterator[tuple[str, ast.AST]]:
    """The opposite condition; one of the values."""
    yield from condition(node)
    yield "OPD", node.body
    yield "OPD", node.orelse


def comprehension(node: ast.comprehension) -> Iterator[tuple[str, ast.AST]]:
    """Without a filter."""
    for i in range(len(node.ifs)):
        yield "OPD", changed(node, ifs=without(node.ifs, i))


def constant(node: ast.Constant) -> Iterator[tuple[str, ast.AST]]:
    """The opposite truth value; the next number, the one before."""
    if isinstance(node.value, bool):
        yield "CRP", changed(node, value=not node.value)
    elif isinstance(node.value, (int, float)):
        yield "CRP", changed(node, value=node.value + 1)
        yield "CRP", changed(node, value=node.value - 1 if isinstance(node.value, int) else node.value * 1000)


def subscript(node: ast.Slice) -> Iterator[tuple[str, ast.AST]]:
    """Without one of its bounds."""
    for name in ("lower", "upper", "step"):
        if getattr(node, name) is not None:
            yield "SIR", changed(node, **{name: None})


def call(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    """Without an argument, with None for it, with two exchanged; another function; the first argument itself."""
    for i, argument in enumerate(node.args):
        if is_words(argument) or isinstance(argument, ast.Starred):
            continue
        yield "ARG", changed(node, args=without(node.args, i))
        yield "ARG", changed(node, args=[*node.args[:i], ast.Constant(None), *node.args[i + 1 :]])
        if i and not is_words(node.args[i - 1]):
            swapped = [*node.args[: i - 1], argument, node.args[i - 1], *node.args[i + 1 :]]
            yield "ARG", changed(node, args=swapped)
    for i, keyword in enumerate(node.keywords):
        if not is_words(keyword.value) and keyword.arg not in ASSERTING:
            yield "ARG", changed(node, keywords=without(node.keywords, i))
    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
    if name in OPPOSITES:
        field = "id" if isinstance(node.func, ast.Name) else "attr"
        yield "SWP", changed(node, func=changed(node.func, **{field: OPPOSITES[name]}))
    if name in PASSING and len(node.args) == 1:
        yield "OPD", node.args[0]


def assign(node: Any) -> Iterator[tuple[str, ast.AST]]:
    """None for the value; nothing, where something is changed in place."""
    if node.value is not None and not is_empty(node.value):
        yield "VAL", changed(node, value=ast.copy_location(ast.Constant(None), node.value))
    if isinstance(node, ast.Assign) and all(isinstance(t, (ast.Attribute, ast.Subscript)) for t in node.targets):
        yield "SDL", ast.Pass()


def removed(node: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    """Nothing in its place."""
    yield "SDL", ast.Pass()


def expression(node: ast.Expr) -> Iterator[tuple[str, ast.AST]]:
    """Nothing in place of a call."""
    if isinstance(node.value, ast.Call):
        yield "SDL", ast.Pass()


def returned(node: ast.Return) -> Iterator[tuple[str, ast.AST]]:
    """None; for an early return without a value, going on."""
    if node.value is None:
        yield "SDL", ast.Pass()
    elif not is_empty(node.value):
        yield "VAL", changed(node, value=ast.copy_location(ast.Constant(None), node.value))


def handler(node: ast.ExceptHandler) -> Iterator[tuple[str, ast.AST]]:
    """The exception goes on."""
    yield "EHD", changed(node, body=[ast.copy_location(ast.Raise(), node.body[0])])


def block(node: ast.With) -> Iterator[tuple[str, ast.AST]]:
    """The body without the context manager."""
    if all(item.optional_vars is None for item in node.items):
        yield "CTX", ast.If(test=ast.Constant(True), body=node.body, orelse=[])


OPERATORS: dict[type, Callable[[Any], Iterator[tuple[str, ast.AST]]]] = {
    ast.BinOp: binary,
    ast.AugAssign: augmented,
    ast.UnaryOp: unary,
    ast.Compare: compare,
    ast.BoolOp: boolean,
    ast.If: condition,
    ast.While: condition,
    ast.IfExp: choice,
    ast.comprehension: comprehension,
    ast.Constant: constant,
    ast.Slice: subscript,
    ast.Call: call,
    ast.Assign: assign,
    ast.AnnAssign: assign,
    ast.Expr: expression,
    ast.Raise: removed,
    ast.Delete: removed,
    ast.Return: returned,
    ast.ExceptHandler: handler,
    ast.With: block,
    ast.Break: lambda node: iter([("BCR", ast.Continue())]),
    ast.Continue: lambda node: iter([("BCR", ast.Break())]),
}


def left_alone(node: ast.AST, field: str, value: ast.AST) -> bool:
    """Whether nothing below a field is changed: annotations, words, invariants."""
    if field in ("annotation", "returns") or isinstance(value, (ast.Assert, ast.Import, ast.ImportFrom)):
        return True
    if is_words(value) or (isinstance(value, ast.If) and "TYPE_CHECKING" in ast.unparse(value.test)):
        return True
    if isinstance(node, ast.Raise) or (isinstance(node, ast.keyword) and node.arg in ASSERTING):
        return True
    decorator = field == "decorator_list" and isinstance(node, ast.ClassDef)
    return decorator and "dataclass" in ast.unparse(value)


def nodes(tree: ast.Module) -> Iterator[tuple[ast.AST, Place, tuple[str, ...], bool]]:
    """The nodes that may change: each with its place, the names of its scopes, and whether it is in a function."""
    stack: list[tuple[ast.AST, tuple[str, ...], bool]] = [(tree, (), False)]
    while stack:
        parent, scope, live = stack.pop()
        for field, value in ast.iter_fields(parent):
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(node, ast.AST) or left_alone(parent, field, node):
                    continue
                inside = live or (isinstance(parent, FUNCTIONS) and field == "body")
                named = isinstance(node, (*FUNCTIONS, ast.ClassDef))
                yield node, Place(parent, field, index), scope, inside
                stack.append((node, (*scope, node.name) if named else scope, inside))  # type: ignore[attr-defined]


def header(node: ast.AST) -> str:
    """A node as one short line of source."""
    lines = ast.unparse(ast.fix_missing_locations(node)).splitlines() or [""]
    if isinstance(node, ast.comprehension):
        return ast.unparse(node).strip()
    return lines[0] if not isinstance(node, ast.With) else " ".join(line.strip() for line in lines[:2])


def candidates(tree: ast.Module) -> Iterator[tuple[ast.AST, Place, ast.AST, str, tuple[str, ...], bool]]:
    """Each change of a tree: the node, its place, what replaces it, the operator, the scope, in a function or not."""
    for node, place, scope, live in nodes(tree):
        for operator, new in OPERATORS.get(type(node), lambda _: iter(()))(node):
            if ast.dump(new) != ast.dump(node):
                yield node, place, new, operator, scope, live


def line_of(node: ast.AST, place: Place) -> int:
    """The line of a node, or of what holds it."""
    return int(getattr(node, "lineno", getattr(place.parent, "lineno", 1)))


def mutants(file: str, source: str) -> list[Mutant]:
    """Every change of a file."""
    found: list[Mutant] = []
    seen: dict[str, int] = {}
    for number, (node, place, new, operator, scope, live) in enumerate(candidates(ast.parse(source))):
        before, after = header(node), header(copy.deepcopy(new))
        if isinstance(node, ast.Constant):  # say where
            before, after = f"{before} in {header(place.parent)}", after
        line, named = line_of(node, place), ".".join(scope) or "<module>"
        mutant = Mutant(file, named, operator, line, f"{before} -> {after}", number, live)
        occurrence = seen.setdefault(mutant.key, 0)
        seen[mutant.key] += 1
        found.append(Mutant(file, named, operator, line, mutant.change, number, live, occurrence))
    return found


def mutated(source: str, mutant: Mutant) -> ast.Module:
    """The tree of a file with one change; every line keeps its number."""
    tree = ast.parse(source)
    for number, (node, place, new, *_) in enumerate(candidates(tree)):
        if number == mutant.number:
            place.put(new if hasattr(new, "lineno") else ast.copy_location(new, node))
            return ast.fix_missing_locations(tree)
    raise ValueError(f"{mutant.key} is no change of the file as it is now")
