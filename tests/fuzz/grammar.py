"""Programs: a seed makes a list of drawn steps, and the list renders to the source text of a module.

A drawn step is the name of a kind and a few integers. A kind reads the integers with a `Dice`, so a program
with fewer steps, or with zeros in place of integers, is a program too: that is what the minimiser works on.
"""

from __future__ import annotations

import random
import re
import textwrap
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Drawn = list[Any]
"""The name of a kind and its integers."""

ORDERED = re.compile(r"sort\(-1\)|topk\(\d+, -1\)|take_along_dim\(.*, -1\)")
"""What leaves no positions on the last axis: it goes by the size of the numbers, or each is the same one."""

HEADER = """import dataclasses, math, torch
import torch.nn.functional as F
from typing import NamedTuple
from torch import nn
"""

MOST_ENTRIES = 40_000
"""Steps that make larger tensors are left out."""


class Dice:
    """Reads drawn integers one by one; zero stands for the first, simplest choice."""

    def __init__(self, values: list[int]) -> None:
        self.values, self.used = values, 0

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        self.used += 1
        return self.values[self.used - 1] % n if self.used <= len(self.values) else 0

    def pick(self, *options: Any) -> Any:
        """One of the options."""
        return options[self.below(len(options))]

    def chance(self, percent: int) -> bool:
        """True in so many of a hundred cases."""
        return self.below(100) >= 100 - percent


@dataclass
class Slot:
    """One input or output, as the library is told of it and as the oracle knows it.

    Attributes:
        name: of the argument, or the path of the output.
        spec: Python text of the spec.
        law: Python text of the mirror image of a value called ``t``.
        kind: inputs: how values are drawn; outputs: what it is.
        shape: inputs: sizes, with ``"L"`` for the length.
        layout: inputs: text for the library, or ``"auto"``.
        batch: whether the first axis is samples.
    """

    name: str
    spec: str
    law: str
    kind: str = ""
    shape: tuple[Any, ...] = ()
    layout: str = "auto"
    batch: bool = True


@dataclass
class Scene:
    """What is rendered so far.

    Attributes:
        layers, body: lines of the constructor and of forward.
        hidden: name and shape of each tensor (N, C, L) so far.
        vec: name and width of the tensor (N, C) after the read-out.
        fate: ``"yes"``, ``"maybe"`` or ``"never"``: whether the documentation says that it converts.
        written: a dense layer, a spectrum, or an order by size made the last axis: an output has to say whether it
            holds positions.
    """

    dice: Dice
    length: int
    inputs: list[Slot] = field(default_factory=list)
    outputs: list[Slot] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    hidden: list[tuple[str, int, int]] = field(default_factory=list)
    vec: tuple[str, int] = ("", 0)
    names: int = 0
    fate: str = "yes"
    written: bool = False
    reasons: list[str] = field(default_factory=list)

    @property
    def pinned(self) -> bool:
        """Nothing with weights has made the channels yet: they are bases, or tracks."""
        makers = ("Conv", "Linear", "Parameter", "Embedding", "LSTM", "GRU", "RNN", "Attention")
        return not any(maker in layer for layer in self.layers for maker in makers)

    @property
    def directed(self) -> bool:
        """The channels are those of a recurrence in two directions, which swap: nothing has mixed them since."""
        makers = ("Conv", "inear", "LSTM", "GRU", "RNN", "Attention", "Transformer")
        mixing = [layer for layer in self.layers if any(maker in layer for maker in makers)]
        return bool(mixing) and "bidirectional=True" in mixing[-1]

    @property
    def narrow(self) -> bool:
        """Some layer has one channel, which stays as it is: no pair is left behind it."""
        return any(c == 1 for _, c, _ in self.hidden) or self.vec[1] == 1

    @property
    def x(self) -> str:
        """Name of the tensor that a step reads."""
        return self.vec[0] or self.hidden[-1][0]

    @property
    def c(self) -> int:
        """Its channels."""
        return self.vec[1] or self.hidden[-1][1]

    @property
    def n(self) -> int:
        """Length of the last hidden tensor."""
        return self.hidden[-1][2]

    def width(self) -> int:
        """A number of channels."""
        return int(self.dice.pick(4, 6, 2, 3, 5, 8, 7, 12, 1))

    def layer(self, text: str) -> str:
        """Registers a layer; its name in forward."""
        self.names += 1
        self.layers.append(f"self.l{self.names} = {text}")
        return f"self.l{self.names}"

    def fresh(self) -> str:
        """A new variable name."""
        self.names += 1
        return f"h{self.names}"

    def let(self, text: str) -> str:
        """A new variable of forward with this value; its name."""
        name = self.fresh()
        self.body.append(f"{name} = {text}")
        self.written = self.written or ORDERED.search(text) is not None
        return name

    def do(self, *lines: str) -> None:
        """Adds lines to forward."""
        self.body.extend(lines)

    def maybe(self) -> None:
        """The documentation promises nothing about this step."""
        self.fate = "maybe" if self.fate == "yes" else self.fate

    def never(self, reason: str) -> None:
        """This step breaks the symmetry: should the model convert all the same, positions are no longer mirrored."""
        self.fate = "never"
        self.written = True
        self.reasons.append(reason)

    def divisor(self, of: int | None = None) -> int:
        """A drawn divisor of the channels."""
        of = of or self.c
        return int(self.dice.pick(*[k for k in range(1, of + 1) if of % k == 0]))

    def source(self, returned: str) -> str:
        """Text of the module that returns this expression."""
        lines = ["class Net(nn.Module):", "    def __init__(self):", "        super().__init__()"]
        lines += [textwrap.indent(line, " " * 8) for line in self.layers]
        lines += ["", f"    def forward(self, {', '.join(s.name for s in self.inputs)}):"]
        lines += [textwrap.indent(line, " " * 8) for line in self.body]
        return "\n".join([HEADER, *self.classes, *lines, f"        return {returned}", ""])


Kind = Callable[[Scene], Any]
START: dict[str, Kind] = {}
STEPS: dict[str, Kind] = {}
READ: dict[str, Kind] = {}
TAIL: dict[str, Kind] = {}
HEADS: dict[str, Kind] = {}
WEIGHTS: dict[str, int] = {}


def kind(table: dict[str, Kind], weight: int = 10) -> Callable[[Kind], Kind]:
    """Registers a kind of step; it is drawn as often as its weight says."""

    def register(f: Kind) -> Kind:
        table[f.__name__] = f
        WEIGHTS[f.__name__] = weight
        return f

    return register


@dataclass
class Program:
    """Drawn steps; `render` makes a `Case` of them."""

    start: Drawn
    steps: list[Drawn]
    read: Drawn
    tail: list[Drawn]
    heads: list[Drawn]
    ask: list[int]
    seed: int = 0


@dataclass
class Case:
    """A rendered program.

    Attributes:
        source: text that defines ``Net``.
        inputs, outputs: what they are.
        length: of the example.
        ask: keywords of `convert_model`, as Python text.
        fate: whether the documentation says that it converts.
    """

    source: str
    inputs: list[Slot]
    outputs: list[Slot]
    length: int
    ask: dict[str, str]
    fate: str
    reasons: list[str]
    packed: str


def draw(seed: int) -> Program:
    """The program of a seed."""
    rng = random.Random(seed)

    def integers(count: int = 8) -> list[int]:
        return [rng.randrange(2520 * 100) for _ in range(count)]

    def some(table: dict[str, Kind], count: int) -> list[Drawn]:
        names = rng.choices(list(table), [WEIGHTS[n] for n in table], k=count)
        return [[name, integers()] for name in names]

    return Program(
        start=some(START, 1)[0],
        steps=some(STEPS, rng.randint(1, 6)),
        read=some(READ, 1)[0],
        tail=some(TAIL, rng.randint(0, 2)),
        heads=some(HEADS, rng.choice([1, 1, 1, 2, 2, 3])),
        ask=integers(),
        seed=seed,
    )


def build(source: str, seed: int = 0) -> nn.Module:
    """The module of a source text; its initial weights are those of the seed."""
    scope: dict[str, Any] = {"__name__": "fuzzed"}
    exec(compile(source, "<fuzzed>", "exec"), scope)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return scope["Net"]()


def sizes(slot: Slot, batch: int, length: int) -> list[int]:
    """Sizes of an input for a batch and a length."""
    return [batch if s == "N" else length if s == "L" else s for s in slot.shape]


def blank(slot: Slot, batch: int, length: int) -> Tensor:
    """An input of zeros: all that an example needs to be."""
    return torch.zeros(sizes(slot, batch, length), dtype=torch.long if slot.kind in ("ids", "class") else None)


def attempt(scene: Scene, f: Kind, values: list[int], returned: Callable[[Scene, Any], str]) -> tuple[Scene, Any, Any]:
    """The scene with a step more, what the step returned, and the value of it for a batch of two.

    Raises:
        Exception: whatever the step's source raises; the scene given is as it was.
    """
    scene = deepcopy(scene)
    scene.dice = Dice(values)
    made = f(scene)
    module = build(scene.source(returned(scene, made)))
    with torch.no_grad():
        value = module(*[blank(s, 2, scene.length) + (0.25 if s.kind == "onehot" else 0) for s in scene.inputs])
    return scene, made, value


def _named(scene: Scene, made: Any) -> str:
    return str(made)


def _fits(value: Any, dims: int, length: bool) -> bool:
    return (
        isinstance(value, Tensor) and value.dim() == dims and value.shape[0] == 2 and 0 < value.numel() <= MOST_ENTRIES
    )


def render(program: Program) -> Case:
    """Source text, examples and specs of a program; steps that do not fit what came before are left out."""
    scene = Scene(Dice([]), 0)
    name, values = program.start
    scene.dice = Dice(values)
    first = START[name](scene)
    scene, _, value = attempt(scene, lambda s: first, values, _named)
    scene.hidden.append((first, value.shape[1], value.shape[2]))
    for name, values in program.steps:
        scene = _grow(scene, STEPS[name], values, 3)
    plain = scene
    scene = _grow(scene, READ[program.read[0]], program.read[1], 2)
    if not scene.vec[0]:
        scene = _grow(plain, READ["mean_read"], [], 2)
    for name, values in program.tail:
        scene = _grow(scene, TAIL[name], values, 2)
    return _finish(scene, program)


def _grow(scene: Scene, f: Kind, values: list[int], dims: int) -> Scene:
    try:
        grown, made, value = attempt(scene, f, values, _named)
    except Exception:
        return scene
    if not _fits(value, dims, dims == 3) or not value.is_floating_point():
        return scene
    if dims == 3:
        grown.hidden.append((made, value.shape[1], value.shape[2]))
    else:
        grown.vec = (made, value.shape[1])
    return grown


def _finish(scene: Scene, program: Program) -> Case:
    outputs, heads, directed = list[str](), set[str](), scene.directed
    for name, values in program.heads or [["plain_head", []]]:
        for head, draws in ((name, values), ("plain_head", [])):
            try:
                grown, made, value = attempt(scene, HEADS[head], draws, lambda s, m: str(m[0]))
            except Exception:
                continue
            if isinstance(value, Tensor) and 0 < value.numel() <= MOST_ENTRIES:
                scene = grown
                outputs.append(made[0])
                scene.outputs.append(made[1])
                heads.add(head)
                break
    dice = Dice(program.ask)
    packed, text = pack(scene, dice, outputs)
    ask = _ask(scene, dice, packed)
    if any(s.law == "-t" for s in scene.outputs) and (len(outputs) > 1 or scene.narrow):
        scene.maybe()  # other outputs may fix the channels whose swap such a score is made of
    if directed and heads & {"vector_head", "hidden_head", "discrete_head", "odd_head"}:
        scene.maybe()  # an output that is not said to swap cannot be such channels as they are
    both = any(way in ask.get("strategy", "") for way in ("conjoined", "mixed"))
    if both and any(s.kind == "discrete" or not s.batch for s in scene.outputs):
        scene.maybe()  # classes have no mean, and the strands are stacked on the first axis
    return Case(scene.source(text), scene.inputs, scene.outputs, scene.length, ask, scene.fate, scene.reasons, packed)


def pack(scene: Scene, dice: Dice, outputs: list[str]) -> tuple[str, str]:
    """How several outputs are returned, and the text of it; the slots are named by it."""
    way = dice.pick("tuple", "tuple", "dict", "dict", "list", "namedtuple", "dataclass", "nested")
    if len(outputs) == 1:
        way = dice.pick("single", "single", "single", "single", "single", "single", "dict", "dataclass", "tuple")
    keys = [f"o{i}" for i in range(len(outputs))]
    for key, slot in zip(keys, scene.outputs, strict=True):
        slot.name = key
    if way == "single":
        return way, outputs[0]
    if way == "dict":
        return way, "{" + ", ".join(f"{k!r}: {o}" for k, o in zip(keys, outputs, strict=True)) + "}"
    if way == "list":
        return way, f"[{', '.join(outputs)}]"
    if way == "nested":
        return way, "{'a': (" + ", ".join(outputs[:1]) + ",), 'b': [" + ", ".join(outputs[1:]) + "]}"
    if way == "tuple":
        return way, f"({', '.join(outputs)},)"
    fields = [f"    {k}: torch.Tensor" for k in keys]
    base = "class Out(NamedTuple):" if way == "namedtuple" else "@dataclasses.dataclass\nclass Out:"
    scene.classes.append("\n".join([base, *fields, "\n"]))
    return way, f"Out({', '.join(outputs)})"


def _ask(scene: Scene, dice: Dice, packed: str) -> dict[str, str]:
    """Keywords of `convert_model`."""
    ask: dict[str, str] = {}
    several = len(scene.inputs) > 1
    specs = [s.spec for s in scene.inputs]
    if several or specs[0] != '"ACGT"':
        ask["inputs"] = f"({', '.join(specs)})" if several else specs[0]
    layouts = [repr(s.layout) for s in scene.inputs]
    if any(s.layout != "auto" for s in scene.inputs):
        ask["layout"] = f"({', '.join(layouts)})" if several else layouts[0]
    wanted = [s.spec for s in scene.outputs]
    if any(w != '"auto"' for w in wanted):
        ask["outputs"] = _laid_out(packed, wanted)
    for key, value in dice.pick(
        {},
        {},
        {},
        {},
        {},
        {},
        {},
        {"init": '"project"'},
        {"on_unsupported": '"both_strands"'},
        {"on_unsupported": '"both_strands"'},
        {"on_unsupported": '"both_strands"'},
        {"strategy": '"conjoined"'},
        {"strategy": '"mixed"'},
        {"in_place": "True"},
        {"symmetrise_buffers": "True"},
    ).items():
        ask[key] = value
    return ask


def _laid_out(packed: str, wanted: list[str]) -> str:
    if packed == "single":
        return wanted[0]
    if packed in ("dict", "dataclass"):
        return "{" + ", ".join(f"'o{i}': {w}" for i, w in enumerate(wanted)) + "}"
    if packed == "nested":
        return "{'a': (" + wanted[0] + ",), 'b': [" + ", ".join(wanted[1:]) + "]}"
    if packed == "list":
        return f"[{', '.join(wanted)}]"
    return f"({', '.join(wanted)},)"
