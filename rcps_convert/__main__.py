"""``rcps-convert`` or ``python -m rcps_convert``: the demonstration, or the plan for a model of yours."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, get_args

import torch
from torch import Tensor, nn

from . import Tokens, __version__
from .convert import demonstration
from .convert.convert import plan_conversion
from .convert.plan import ConversionPlan
from .convert.saving import save
from .convert.settings import Init, Strategy

DESCRIPTION = """Make a PyTorch model on DNA exactly reverse-complement equivariant.

Without arguments: convert a bundled CNN and score a piece of the human genome on both strands.
With a model: make it by calling FACTORY(), then plan, convert and verify it. Exits with 1 if it cannot be converted."""

EXAMPLES = """examples:
  rcps-convert                                                    the demonstration
  rcps-convert net.py:Net --shape 4x1000                          a class in a file; one-hot ACGT of 1000 bp
  rcps-convert lab.models:basset --shape 4,600 --outputs "+-"     a function in a package; two stranded tracks
  rcps-convert net.py:Net --shape 4x2114 --shape 2x2114 --inputs ACGT --inputs "+-"      two inputs
  rcps-convert net.py:Bert --shape 512 --tokens vocab.txt         ids of the texts in a file, one a line
  rcps-convert net.py:Net --shape 4x1000 --checkpoint net.pt --init project --save tied.pt
  rcps-convert net.py:Net --shape 4x1000 --strategy conjoined --json"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        "rcps-convert",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "factory",
        nargs="?",
        metavar="MODEL",
        help="FILE:FACTORY or PACKAGE.MODULE:FACTORY, a model class or a function that returns a model",
    )
    p.add_argument(
        "--shape", action="append", metavar="4x1000", help="shape of an input without batch; repeat for several"
    )
    what = p.add_mutually_exclusive_group()
    what.add_argument(
        "--inputs", action="append", help='spec of an input: "ACGT", "+-", "invariant"; repeat for several'
    )
    what.add_argument(
        "--tokens",
        metavar="VOCAB",
        help='the input holds ids: the text of each id, as "ACGTN" or a file with one text a line or in JSON',
    )
    p.add_argument("--outputs", action="append", help='spec of an output, default "auto"; repeat for several')
    p.add_argument("--layout", default="auto", help='axes of the input with batch, such as "n l c"')
    p.add_argument(
        "--on-unsupported",
        default="error",
        choices=("error", "both_strands"),
        help="what to do with a submodule that cannot be inferred (default: list it as a problem)",
    )
    p.add_argument("--strategy", default="tied", choices=get_args(Strategy), help="how it is made exact")
    p.add_argument("--init", default="keep", choices=get_args(Init), help="where tied weights start")
    p.add_argument("--batch", type=int, default=2, help="batch size of the example (default 2)")
    p.add_argument("--checkpoint", metavar="FILE", help="state_dict to load into the model before it is converted")
    p.add_argument("--save", metavar="FILE", help="convert, and save the model as rcps_convert.save does")
    p.add_argument("--json", action="store_true", help="print the plan as JSON: plan.to_dict()")
    p.add_argument("--version", action="version", version=f"rcps_convert {__version__}")
    return p


def _stop(words: str) -> NoReturn:
    sys.exit(f"rcps-convert: {words}")


# --- what the arguments stand for ---------------------------------------------------------------


def load(target: str) -> nn.Module:
    """The model that FILE:FACTORY or PACKAGE.MODULE:FACTORY stands for.

    Raises:
        SystemExit: there is no such file, module or factory, or it returns no module.
    """
    place, _, name = target.rpartition(":")
    if Path(place).is_file():
        module = _from_file(place)
    elif place and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", place):
        module = _from_package(place)
    else:
        _stop(f"{target!r} is no FILE:FACTORY with an existing file, and no PACKAGE.MODULE:FACTORY")
    if not hasattr(module, name):
        _stop(f"{place} has no {name!r}")
    model = getattr(module, name)()
    if not isinstance(model, nn.Module):
        _stop(f"{name}() returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _from_file(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        _stop(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(Path(file).resolve().parent))
    spec.loader.exec_module(module)
    return module


def _from_package(name: str) -> ModuleType:
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as reason:
        if reason.name is None or not (name + ".").startswith(f"{reason.name}."):
            raise  # something that the module itself imports
        _stop(f"there is no module {reason.name!r}, and no file of this name")


def shape_of(text: str) -> tuple[int, ...]:
    """The numbers of a shape: ``4x1000``, ``4,1000`` or ``512``.

    Raises:
        SystemExit: it is none.
    """
    parts = re.split(r"\s*[x,\s]\s*", text.strip().strip("()[]"))
    if not all(part.isdecimal() and int(part) for part in parts):
        _stop(f"--shape {text!r} is no shape: write the sizes of an input without batch, such as 4x1000")
    return tuple(map(int, parts))


def vocabulary(given: str) -> Any:
    """The texts of the ids: letters, or those in a file.

    Raises:
        SystemExit: the file holds neither lines of text nor a list or mapping in JSON.
    """
    file = Path(given)
    if not file.is_file():
        return given.split(",") if "," in given else given
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".json":
        return [line.rstrip("\r\n") for line in text.splitlines() if line.strip()]
    found = json.loads(text)
    if isinstance(found, Mapping) and isinstance(found.get("model"), Mapping):  # a tokenizer.json
        found = found["model"].get("vocab")
    if not isinstance(found, (list, Mapping)):
        _stop(f"{given} holds no vocabulary: give a list of texts, or a mapping from text to id")
    return found


def load_checkpoint(model: nn.Module, file: str) -> None:
    """Load a state_dict, also one inside of a larger checkpoint.

    Raises:
        SystemExit: it cannot be read, or does not fit the model.
    """
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError) as reason:
        _stop(f"--checkpoint {file}: {str(reason).splitlines()[0]}")
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        _stop(f"--checkpoint {file} holds no state_dict")
    try:
        model.load_state_dict(found)
    except RuntimeError as reason:
        _stop(f"--checkpoint {file} does not fit: {reason}")


def _one_or_many(given: list[str] | None, default: str) -> Any:
    if not given:
        return default
    return given[0] if len(given) == 1 else tuple(given)


# --- running ------------------------------------------------------------------------------------


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
        parser().error("--shape is needed: the shape of an input without batch, such as 4x1000")
    shapes = [shape_of(s) for s in args.shape]
    model = load(args.factory)
    if args.checkpoint:
        load_checkpoint(model, args.checkpoint)
    try:
        plan = _planned(model, shapes, args)
        print(json.dumps(plan.to_dict(), indent=1) if args.json else plan)
        if args.save and not plan.problems:
            save(plan.apply(model), args.save)
            print(f"saved: {args.save}", file=sys.stderr)
    except (ValueError, TypeError) as error:
        print(f"rcps-convert: {error}")
        return 1
    return 1 if plan.problems else 0


def _planned(model: nn.Module, shapes: list[tuple[int, ...]], args: argparse.Namespace) -> ConversionPlan:
    dtype = torch.int64 if args.tokens else torch.float32
    example = tuple(torch.zeros(args.batch, *shape, dtype=dtype) for shape in shapes)
    return plan_conversion(
        model,
        example,
        inputs=Tokens(vocabulary(args.tokens)) if args.tokens else _one_or_many(args.inputs, "ACGT"),
        outputs=_one_or_many(args.outputs, "auto"),
        layout=args.layout,
        on_unsupported=args.on_unsupported,
        strategy=args.strategy,
        init=args.init,
    )


if __name__ == "__main__":
    sys.exit(main())
