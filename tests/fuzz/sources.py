"""Kinds of input: layouts, alphabets, tokens, several inputs. Each makes the first hidden tensor (N, C, L)."""

from __future__ import annotations

from .grammar import START, Scene, Slot, kind

LENGTHS = (12, 16, 21, 24, 17, 20, 32, 11, 13, 15, 27, 30, 8, 64, 37, 9, 40)


def _length(s: Scene) -> None:
    s.length = s.dice.pick(*LENGTHS)


def _stem(s: Scene) -> str:
    """A first convolution, as most models have."""
    k = s.dice.pick(3, 5, 4, 1, 7)
    layer = s.layer(f"nn.Conv1d({{c}}, {s.width()}, {k}, padding={s.dice.pick(k // 2, 0)})")
    return layer


def _embed(s: Scene, x: str, channels: int) -> str:
    if s.dice.chance(15):
        return x
    layer = _stem(s)
    s.layers[-1] = s.layers[-1].format(c=channels)
    return s.let(f"{layer}({x})")


@kind(START, 40)
def onehot(s: Scene) -> str:
    """(N, 4, L)."""
    _length(s)
    s.inputs = [Slot("x", '"ACGT"', "t[:, [3, 2, 1, 0]].flip(-1)", "onehot", ("N", 4, "L"), "auto")]
    s.inputs[0].layout = "n c l" if s.dice.chance(10) else "auto"
    return _embed(s, "x", 4)


@kind(START)
def onehot_last(s: Scene) -> str:
    """(N, L, 4)."""
    _length(s)
    s.inputs = [Slot("x", '"ACGT"', "t[:, :, [3, 2, 1, 0]].flip(1)", "onehot", ("N", "L", 4), "auto")]
    s.inputs[0].layout = "n l c" if s.dice.chance(30) else "auto"
    return _embed(s, s.let(s.dice.pick("x.transpose(1, 2)", "x.permute(0, 2, 1)", "x.mT")), 4)


@kind(START)
def onehot_plane(s: Scene) -> str:
    """(N, 1, 4, L), or (N, 4, L, 1), or (N, 4, 1, L)."""
    _length(s)
    way = s.dice.below(4)
    if way == 3:
        s.inputs = [Slot("x", '"ACGT"', "t[:, [3, 2, 1, 0]].flip(2)", "onehot", ("N", 4, "L", 1), "n c l 1")]
        return _embed(s, s.let(s.dice.pick("x.squeeze(-1)", "x.view(x.shape[0], 4, -1)", "x.flatten(2)")), 4)
    if way == 2:
        s.inputs = [Slot("x", '"ACGT"', "t[:, [3, 2, 1, 0]].flip(3)", "onehot", ("N", 4, 1, "L"), "n c 1 l")]
        k = s.dice.pick(3, 5, 4)
        return s.let(f"{s.layer(f'nn.Conv2d(4, {s.width()}, (1, {k}))')}(x).squeeze(2)")
    s.inputs = [Slot("x", '"ACGT"', "t[:, :, [3, 2, 1, 0]].flip(3)", "onehot", ("N", 1, 4, "L"), "n 1 c l")]
    if way == 0:
        k = s.dice.pick(3, 5, 4)
        return s.let(f"{s.layer(f'nn.Conv2d(1, {s.width()}, (4, {k}))')}(x).squeeze(2)")
    s.maybe()  # a convolution over the bases
    out = s.width()
    return s.let(f"{s.layer(f'nn.Conv2d(1, {out}, (3, 5), padding=(1, 2))')}(x).flatten(1, 2)")


@kind(START)
def other_letters(s: Scene) -> str:
    """Another order, RNA, or N as a fifth letter."""
    _length(s)
    spec, table = s.dice.pick(
        ("ACGTN", [3, 2, 1, 0, 4]), ("AGCT", [3, 2, 1, 0]), ("ATCG", [1, 0, 3, 2]), ("ACGU", [3, 2, 1, 0])
    )
    s.inputs = [Slot("x", f'"{spec}"', f"t[:, {table}].flip(-1)", "onehot", ("N", len(spec), "L"))]
    return _embed(s, "x", len(spec))


@kind(START, 12)
def tokens(s: Scene) -> str:
    """Ids of bases, and of N; or with special tokens."""
    _length(s)
    vocab, table = s.dice.pick(
        ('"ACGTN"', [3, 2, 1, 0, 4]), ('"ACGT"', [3, 2, 1, 0]), ('["[PAD]", "A", "C", "G", "T"]', [0, 4, 3, 2, 1])
    )
    law = f"torch.tensor({table})[t].flip(-1)"
    s.inputs = [Slot("x", f"Tokens({vocab})", law, "ids", ("N", "L"))]
    c = s.width()
    if s.dice.chance(20):
        hot = s.let(f"F.one_hot(x, {len(table)}).to(torch.get_default_dtype()).mT")
        return s.let(f"{s.layer(f'nn.Conv1d({len(table)}, {c}, 3, padding=1)')}({hot})")
    pad = (
        s.dice.pick("", f", padding_idx={len(table) - 1}") if "PAD" not in vocab else s.dice.pick("", ", padding_idx=0")
    )
    h = s.let(f"{s.layer(f'nn.Embedding({len(table)}, {c}{pad})')}(x).mT")
    if s.dice.chance(20):
        s.never("one base is told from its complement") if len(table) == 4 else None
        h = s.let(f"{h} * (x != {0 if 'PAD' in vocab else len(table) - 1}).unsqueeze(1)")
    return h


@kind(START, 8)
def with_tracks(s: Scene) -> str:
    """DNA and control tracks of both strands."""
    onehot(s)
    del s.body[:], s.layers[:]
    s.inputs.append(Slot("ctl", '"+-"', "t[:, [1, 0]].flip(-1)", "tracks", ("N", 2, "L")))
    return _embed(s, s.let("torch.cat([x, ctl], 1)"), 6)


@kind(START, 6)
def with_vector(s: Scene) -> str:
    """DNA and a vector that does not change, such as a cell's embedding."""
    _length(s)
    s.inputs = [Slot("x", '"ACGT"', "t[:, [3, 2, 1, 0]].flip(-1)", "onehot", ("N", 4, "L"))]
    s.inputs.append(Slot("cell", '"invariant"', "t", "vector", ("N", 3)))
    c = s.width()
    h = s.let(f"{s.layer(f'nn.Conv1d(4, {c}, 3, padding=1)')}(x)")
    return s.let(f"{h} * {s.layer(f'nn.Linear(3, {c})')}(cell).unsqueeze(-1)")


@kind(START, 5)
def with_class(s: Scene) -> str:
    """DNA and the number of a class."""
    _length(s)
    s.inputs = [Slot("x", '"ACGT"', "t[:, [3, 2, 1, 0]].flip(-1)", "onehot", ("N", 4, "L"))]
    s.inputs.append(Slot("which", '"invariant"', "t", "class", ("N",)))
    c = s.width()
    h = s.let(f"{s.layer(f'nn.Conv1d(4, {c}, 3, padding=1)')}(x)")
    return s.let(f"{h} + {s.layer(f'nn.Embedding(3, {c})')}(which).unsqueeze(-1)")


@kind(START, 5)
def with_mask(s: Scene) -> str:
    """DNA and one number per position, such as a mask."""
    _length(s)
    s.inputs = [Slot("x", '"ACGT"', "t[:, [3, 2, 1, 0]].flip(-1)", "onehot", ("N", 4, "L"))]
    s.inputs.append(Slot("mask", 'Tracks(".", layout="n l")', "t.flip(-1)", "mask", ("N", "L")))
    c = s.width()
    h = s.let(f"{s.layer(f'nn.Conv1d(4, {c}, 3, padding=1)')}(x)")
    return s.let(s.dice.pick(f"{h} * mask.unsqueeze(1)", f"{h}.masked_fill(mask.unsqueeze(1) == 0, -1e9).softmax(-1)"))


@kind(START, 4)
def two_sequences(s: Scene) -> str:
    """Two sequences, such as an enhancer and a promoter, the second of another length."""
    _length(s)
    law = "t[:, [3, 2, 1, 0]].flip(-1)"
    s.inputs = [Slot("x", '"ACGT"', law, "onehot", ("N", 4, "L")), Slot("z", '"ACGT"', law, "onehot", ("N", 4, 14))]
    c, k = s.width(), s.dice.pick(1, 2, 3, 4)
    conv = s.layer(f"nn.Conv1d(4, {c}, 3, padding=1, stride={k})")
    return s.let(f"{conv}(x) * {conv}(z).relu().{s.dice.pick('mean', 'amax')}(-1, keepdim=True)")
