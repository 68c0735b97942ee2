"""The text of a plan: five lines of summary, then each part of it, what is alike said once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..algebra.printed import Section, alike, listed, pattern, together
from ..errors import messages
from ..tie.input_forms import by_sizes
from ..tie.length_guard import LengthRule

ConversionPlan = Any
"""`plan.ConversionPlan`, which imports this module."""

MOST_NAMED = 6
"""Settings that are named, at most."""

HEADER = ("module", "parameter", "shape", "under reverse complement", "stored")


def numbers(plan: ConversionPlan) -> str:
    """How many parameters there are before and after, and how far the outputs move."""
    share = 100 * plan.after / max(1, plan.before)
    moved = "" if plan.moved is None else f"; outputs move by {plan.moved:.2g} x their largest value"
    return f"{plan.before:,} -> {plan.after:,} ({share:.0f} %){moved}"


def lengths(plan: ConversionPlan) -> str:
    """At which lengths the model is exact, and what was verified of it."""
    if plan.guards:
        return "; ".join(dict.fromkeys(map(guarded, plan.guards)))
    if plan.checked:
        return f"verified at lengths {', '.join(map(str, sorted(plan.checked)))} too; what holds at others is inferred"
    return "the example's; what holds at others is inferred"


def guarded(rule: LengthRule) -> str:
    """At which lengths a call is not refused."""
    if rule.fixed:
        return (
            f"exact at length {rule.start} only ({rule.argument}): a call at another length is refused, as {rule.why}"
        )
    near = ", ".join(str(n) for n in sorted({*rule.nearest(rule.start), rule.start}))
    return f"exact at lengths that divide, such as {near} ({rule.argument}); a call at another length is refused"


def inserted(plan: ConversionPlan) -> str:
    """What was put into the model beside ties."""
    found = []
    if plan.symmetrisers:
        found.append(f"symmetriser{_s(plan.symmetrisers)} at {', '.join(s.path for s in plan.symmetrisers)}")
    now, elsewhere = ([c for c in plan.calls if c.aligned == aligned] for aligned in (False, True))
    if now:
        found.append(f"{len(now)} re-anchored call{_s(now)}")
    if elsewhere:
        found.append(f"{len(elsewhere)} call{_s(elsewhere)} re-anchored at other lengths")
    if plan.averaged:
        found.append(f"{len(plan.averaged)} averaged buffer{_s(plan.averaged)}")
    return "; ".join(found) or "nothing: input and output symmetrisation are in the weights"


def warned(warnings: Sequence[str]) -> str:
    """How many warnings there are, or the only one."""
    return "none" if not warnings else warnings[0] if len(warnings) == 1 else f"{len(warnings)}, listed below"


def _s(found: Iterable[object]) -> str:
    return "s" if len(list(found)) > 1 else ""


# --- sections -----------------------------------------------------------------------------------


def tensors(plan: ConversionPlan) -> Section:
    """What the inputs and outputs are."""
    rows = [("input", line) for line in plan.inputs] + [("output", line) for line in plan.outputs]
    return Section("inputs and outputs", lines=[f"  {kind.ljust(6)}  {line}" for kind, line in rows])


def problems(plan: ConversionPlan) -> Section:
    """What stands in the way."""
    lines = [f"Cannot be converted, {len(plan.problems)} problem(s):"]
    lines += messages(plan.problems)
    return Section("problems", lines=lines)


def parameters(plan: ConversionPlan) -> Section:
    """A table of the parameters by module; modules that are alike have one entry."""
    held: dict[str, list[tuple[str, ...]]] = {}
    for row in plan.parameters:
        names, *words = row.words()
        path, _, leaf = row.names[0].rpartition(".")
        others = names.partition(" = ")[2]
        held.setdefault(path, []).append((f"{leaf} = {others}" if others else leaf, *words))
    groups: dict[tuple[str, tuple[tuple[str, ...], ...]], list[str]] = {}
    for path, rows in held.items():
        groups.setdefault((pattern(path), tuple(rows)), []).append(path)
    table = []
    for (_, alike_rows), paths in groups.items():
        label = together(paths) or "(itself)"
        table += [(label if i == 0 else "", *cells) for i, cells in enumerate(alike_rows)]
    return Section("parameters", HEADER, table)


def attached(plan: ConversionPlan) -> Section:
    """What the converted model carries beside the ties of its weights."""
    lines = []
    for folds, how in ((True, "a view, no copy"), (False, "run on both strands in train mode")):
        paths = [n.path or "(itself)" for n in plan.norms if n.folds == folds]
        lines += [f"norm statistics pooled over strands ({how}): {listed(paths)}"] if paths else []
    lines += _alike_but_for_the_path(plan.states, [s.path or "(itself)" for s in plan.states])
    lines += [str(row) for row in plan.symmetrisers]
    lines += _alike_but_for_the_path(plan.declared, [d.path for d in plan.declared])
    lines += dict.fromkeys(f"tested {t}" for t in plan.tested)
    lines += [f"buffer {name}: averaged with its mirror image, {action}" for name, action in plan.averaged.items()]
    lines += plan.start.words() if plan.start is not None else []
    lines += dict.fromkeys(str(call) for call in plan.calls)
    if plan.unused:
        lines.append(f"unused, not tied: {', '.join(plan.unused)}; a call that reads one is refused")
    if plan.situations:
        lines.append(f"measured too, as forward asks for it: {', '.join(dict.fromkeys(plan.situations))}")
    if by_sizes(plan.forms):
        lines.append("forward may go by sizes: each call with new ones is looked at first, on a copy")
    lines.append(watched(plan))
    return Section("norms, read-outs, re-anchored calls", lines=lines)


def watched(plan: ConversionPlan) -> str:
    """What is looked at when the converted model is called."""
    more = f" and {len(plan.watched) - MOST_NAMED} more" if len(plan.watched) > MOST_NAMED else ""
    settings = f"settings ({listed(plan.watched[:MOST_NAMED])}{more})" if plan.watched else "settings"
    arguments = [] if plan.arguments is None else ["arguments"]
    kinds = ", ".join(["hooks", "functions", "constants", *arguments, settings])
    return f"watched at each call: {kinds}; a change is measured on both strands, and refused if they disagree"


def _alike_but_for_the_path(rows: Iterable[object], paths: Iterable[str]) -> list[str]:
    """Lines of rows, those that differ in the numbers of their paths only put together."""
    texts = [(path, str(row).replace(path, "{}", 1)) for row, path in zip(rows, paths, strict=True)]
    return [text.replace("{}", path, 1) for path, text in alike(texts)]


def remarks(plan: ConversionPlan, warnings: Sequence[str]) -> Section:
    """Warnings, if there are several, and notes."""
    several = warnings if len(warnings) > 1 else []
    return Section("warnings and notes", lines=[f"warning: {w}" for w in several] + [f"note: {n}" for n in plan.notes])
