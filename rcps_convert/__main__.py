"""``python -m rcps_convert``: the demonstration, or the plan for a model of yours."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import __version__
from .convert import demonstration
from .convert.convert import plan_conversion

DESCRIPTION = """Make a PyTorch model on DNA exactly reverse-complement equivariant.

Without arguments: convert a bundled CNN and score a piece of the human genome on both strands.
With FILE:FACTORY: import FILE, call FACTORY() for a model, then plan, convert and verify it."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        "rcps_convert", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "factory", nargs="?", metavar="FILE:FACTORY", help="a model class or a function that returns a model"
    )
    p.add_argument(
        "--shape", action="append", metavar="4,1000", help="shape of an input without batch; repeat for several"
    )
    p.add_argument("--inputs", action="append", help='spec of an input: "ACGT", "+-", "invariant"; repeat for several')
    p.add_argument("--outputs", action="append", help='spec of an output, default "auto"; repeat for several')
    p.add_argument("--layout", default="auto", help='axes of the input with batch, such as "n l c"')
    p.add_argument(
        "--on-unsupported",
        default="error",
        choices=("error", "both_strands"),
        help="what to do with a submodule that cannot be inferred (default: list it as a problem)",
    )
    p.add_argument("--strategy", default="tied", choices=("tied", "conjoined", "mixed"), help="how it is made exact")
    p.add_argument("--batch", type=int, default=2, help="batch size of the example (default 2)")
    p.add_argument("--version", action="version", version=f"rcps_convert {__version__}")
    return p


def load(target: str) -> nn.Module:
    """The model a FILE:FACTORY stands for.

    Raises:
        SystemExit: there is no such file or factory, or it returns no module.
    """
    file, _, name = target.rpartition(":")
    if not file or not Path(file).is_file():
        sys.exit(f"rcps_convert: {target!r} is no FILE:FACTORY with an existing file")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(Path(file).resolve().parent))
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        sys.exit(f"rcps_convert: {file} has no {name!r}")
    model = getattr(module, name)()
    if not isinstance(model, nn.Module):
        sys.exit(f"rcps_convert: {name}() returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _one_or_many(given: list[str] | None, default: str) -> Any:
    if not given:
        return default
    return given[0] if len(given) == 1 else tuple(given)


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns: the exit status: 0, or 1 when the model cannot be converted.
    """
    args = parser().parse_args(argv)
    if not args.factory:
        demonstration.run()
        return 0
    if not args.shape:
        parser().error("--shape is needed: the shape of an input without batch, such as 4,1000")
    model = load(args.factory)
    example = tuple(torch.zeros(args.batch, *map(int, s.split(","))) for s in args.shape)
    try:
        plan = plan_conversion(
            model,
            example,
            inputs=_one_or_many(args.inputs, "ACGT"),
            outputs=_one_or_many(args.outputs, "auto"),
            layout=args.layout,
            on_unsupported=args.on_unsupported,
            strategy=args.strategy,
        )
    except ValueError as error:
        print(f"rcps_convert: {error}")
        return 1
    print(plan)
    return 1 if plan.problems else 0


if __name__ == "__main__":
    sys.exit(main())
