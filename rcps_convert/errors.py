"""What a conversion can refuse, and how it says so.

Every refusal answers five questions: *what* was refused, *where* (module path, source line, graph
node), *got* (the shapes and actions met there), *why* it cannot be done, and what to *do* instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Where:
    """A place in the user's model.

    Attributes:
        path: dotted module path as in ``model.named_modules()``; ``""`` is the model itself.
        source: ``"file.py:line"`` of the user's own code, or None when unknown.
        node: name of the node in the traced graph, or None.
    """

    path: str = ""
    source: str | None = None
    node: str | None = None

    def __str__(self) -> str:
        text = self.path or "(the model itself)"
        if self.source:
            text += f" ({self.source})"
        return text + (f", node {self.node}" if self.node else "")


class ConversionError(ValueError):
    """A conversion was refused; the model is as it was.

    Args:
        what: one line, what was refused.
        where: the place in the model, if there is one.
        got: the shapes and actions met there.
        why: the reason.
        do: what the user can do instead.
    """

    def __init__(
        self,
        what: str,
        *,
        where: Where | None = None,
        got: str | None = None,
        why: str | None = None,
        do: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.why, self.do = what, where, got, why, do
        self._gathered: tuple[ConversionError, ...] = ()
        super().__init__(what)

    @property
    def problems(self) -> tuple[ConversionError, ...]:
        """Every problem found, in graph order."""
        return self._gathered or (self,)

    def describe(self) -> str:
        """This problem alone, as lines ``what / where / got / why / do``."""
        rows = [("where", self.where), ("got", self.got), ("why", self.why), ("do", self.do)]
        return "\n".join([self.what] + [f"  {name:<6} {text}" for name, text in rows if text])

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.describe()
        return "\n".join([f"{len(self.problems)} problems, the first: {self.what}", *messages(self.problems)])

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.__dict__.copy()))


def messages(problems: Sequence[ConversionError]) -> list[str]:
    """Problems as numbered texts; those that differ by numbers only, as of layers or positions, are told once."""
    kinds: dict[tuple[object, ...], list[ConversionError]] = {}
    for p in problems:
        source = p.where.source if p.where else None
        kinds.setdefault((type(p), source, *(_without_numbers(t) for t in (p.what, p.why, p.do))), []).append(p)
    texts = []
    for i, (first, *others) in enumerate(kinds.values(), 1):
        texts.append(f"{i}. {type(first).__name__}: {first.describe()}")
        places = list(dict.fromkeys(str(p.where.path or p.where.node) for p in others if p.where))
        if others:
            named = f": {', '.join(places[:3])}{', ...' if len(places) > 3 else ''}" if places else ""
            texts.append(f"  and    {len(others)} more of this kind{named}")
    return texts


def _without_numbers(text: str | None) -> str:
    return re.sub(r"\d+", "#", text or "")


def _rebuild(cls: type[ConversionError], state: dict[str, object]) -> ConversionError:
    error = cls(str(state["what"]))
    error.__dict__.update(state)
    return error


class NoRuleError(ConversionError):
    """Not yet: an operator or a way of using one that no rule covers."""


class BreaksSymmetryError(ConversionError):
    """Never, as the model is: no choice of weights makes this operation equivariant."""


class NeedsChoiceError(ConversionError):
    """Ambiguous: two readings fit, and only the user can say which one is meant."""


class TraceError(ConversionError):
    """``torch.export`` could not trace the model."""


class VerificationError(ConversionError):
    """The converted model did not pass the numerical check of the law it was built for."""


def gather(problems: Sequence[ConversionError]) -> ConversionError:
    """One error that reports all problems, of the class of the first.

    Args:
        problems: at least one problem, in the order to report.
    """
    if len(problems) == 1:
        return problems[0]
    first = problems[0]
    error = type(first)(first.what, where=first.where, got=first.got, why=first.why, do=first.do)
    error._gathered = tuple(problems)
    return error


def first_line(reason: Exception) -> str:
    """Another library's exception in one line: its class and the first line of its message."""
    return f"{type(reason).__name__}: {(str(reason).strip().splitlines() or ['no message'])[0]}"


def refuse_scripting(what: str) -> ConversionError:
    """What ``torch.jit.script`` of a model is told that holds something of this package.

    Args:
        what: it holds.
    """
    return ConversionError(
        f"torch.jit.script of a model with {what}",
        why="it is Python that jit.script cannot compile",
        do="use torch.export or torch.compile; or torch.jit.trace where one length is enough",
    )


def refuse_symbols(what: str) -> ConversionError:
    """What ``torch.fx.symbolic_trace`` of a model is told that holds something of this package.

    Args:
        what: it holds.
    """
    return ConversionError(
        f"torch.fx.symbolic_trace of a model with {what}",
        why="it follows the forward of the class alone, so what is around it would be lost",
        do="use torch.export, which follows all of it",
    )


class Refusal(Exception):  # noqa: N818 - a short fact for inference, never shown to users as it is
    """A fact a rule states about one node; inference adds the place and raises it as a problem.

    Args:
        kind: the class of problem to report.
        what, why, do, got: as in `ConversionError`; `got` defaults to the operands' actions.
    """

    def __init__(
        self,
        kind: type[ConversionError],
        what: str,
        *,
        why: str,
        do: str,
        got: str | None = None,
    ) -> None:
        self.kind, self.what, self.why, self.do, self.got = kind, what, why, do, got
        super().__init__(what)

    def at(self, where: Where, got: str | None = None) -> ConversionError:
        """The problem this fact is, at a place in the model."""
        return self.kind(self.what, where=where, got=self.got or got, why=self.why, do=self.do)
