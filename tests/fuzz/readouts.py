"""Kinds of read-out (N, C, L) -> (N, C), of step on vectors, and of output."""

from __future__ import annotations

from .grammar import HEADS, READ, TAIL, Scene, Slot, kind
from .steps import act

INVARIANT, SIGN = "t", "-t"


@kind(READ, 30)
def mean_read(s: Scene) -> str:
    return s.let(f"{s.x}.mean(-1)")


@kind(READ, 40)
def reduce_read(s: Scene) -> str:
    x = s.x
    return s.let(
        s.dice.pick(
            f"{x}.amax(-1)",
            f"{x}.sum(2)",
            f"{x}.max(-1).values",
            f"{x}.logsumexp(-1)",
            f"F.adaptive_max_pool1d({x}, 1).squeeze(-1)",
            f"torch.cat([{x}.mean(-1), {x}.amax(-1)], 1)",
            f"{x}.median(-1).values",
            f"{x}.std(-1)",
            f"{x}.var(-1)",
            f"{x}.norm(dim=-1)",
            f"{x}.prod(-1)",
            f"{x}.topk(2, -1).values.mean(-1)",
            f"{x}.sort(-1).values[..., -1]",
            f"{x}.quantile(.5, dim=-1)",
            f"F.avg_pool1d({x}, {x}.shape[-1]).squeeze(-1)",
            f"{x}.mean(-1) + {x}.amin(-1)",
            f"({x} * {x}.softmax(-1)).sum(-1)",
            f"torch.einsum('bcl->bc', {x})",
            f"F.max_pool1d({x}, {x}.size(-1)).flatten(1)",
            f"{x}.amax((-1,)).relu()",
            f"({x} > .1).sum(-1).to({x}.dtype)",
            f"({x} > 0).any(-1).to({x}.dtype)",
        )
    )


@kind(READ, 25)
def flatten_read(s: Scene) -> str:
    """The length is fixed behind it."""
    x, c, n = s.x, s.c, s.n
    flat = s.dice.pick(
        f"{x}.flatten(1)",
        f"{x}.reshape({x}.shape[0], -1)",
        f"{x}.mT.flatten(1)",
        f"{x}.contiguous().view({x}.size(0), {c * n})",
    )
    return s.let(f"{s.layer(f'nn.Linear({c * n}, {s.width()})')}({flat})")


@kind(READ, 10)
def attention_read(s: Scene) -> str:
    x, c = s.x, s.c
    if s.dice.chance(50):
        w = s.layer(f"nn.Conv1d({c}, {s.dice.pick(1, c)}, 1)")
        return s.let(f"({w}({x}).softmax(-1) * {x}).sum(-1)")
    q = s.layer(f"nn.Parameter(torch.randn({c}))")
    return s.let(f"torch.einsum('bcl,bl->bc', {x}, torch.einsum('bcl,c->bl', {x}, {q}).softmax(-1))")


@kind(READ, 8)
def state_read(s: Scene) -> str:
    """The final state of a recurrence."""
    m = s.layer(f"nn.GRU({s.c}, {s.dice.pick(4, 3)}, batch_first=True, bidirectional=True)")
    h = s.let(f"{m}({s.x}.mT)[1]")
    text, fate = s.dice.pick(
        (f"torch.cat([{h}[0], {h}[1]], -1)", "yes"),
        (f"{h}.sum(0)", "yes"),
        (f"{h}.transpose(0, 1).flatten(1)", "yes"),
        (f"{h}[0]", "never"),
        (f"{m}({s.x}.mT)[0][:, -1]", "never"),
    )
    s.never(text) if fate == "never" else None
    return s.let(text)


@kind(READ, 4)
def position_read(s: Scene) -> str:
    x, n = s.x, s.n
    text, fate = s.dice.pick(
        (f"{x}[:, :, {n // 2}]", "yes" if n % 2 else "never"),
        (f"{x}[:, :, -1]", "never"),
        (f"{x}[:, :, 0]", "never"),
        (f"{x}[..., 0] + {x}[..., -1]", "maybe"),
        (f"{x}.argmax(-1).to({x}.dtype)", "never"),
        (f"{x}[:, :, {x}.shape[-1] // 2]", "yes" if n % 2 else "never"),
    )
    s.maybe() if fate == "maybe" else s.never(text) if fate == "never" else None
    return s.let(text)


@kind(TAIL, 30)
def linear(s: Scene) -> str:
    h = s.let(f"{s.layer(f'nn.Linear({s.c}, {s.width()}, bias={s.dice.pick(True, False)})')}({s.x})")
    return s.let(act(s, h).replace("softmax(-1)", "softmax(1)")) if s.dice.chance(60) else h


@kind(TAIL, 12)
def vector_norm(s: Scene) -> str:
    text = s.dice.pick(
        f"nn.BatchNorm1d({s.c})",
        f"nn.LayerNorm({s.c})",
        "nn.Dropout(.5)",
        f"nn.GroupNorm(1, {s.c})",
        f"nn.RMSNorm({s.c})",
        f"nn.BatchNorm1d({s.c}, track_running_stats=False)",
    )
    if s.c == 1 and ("LayerNorm" in text or "GroupNorm" in text):  # one number minus itself: rounding is all it gives
        return s.x
    return s.let(f"{s.layer(text)}({s.x})")


@kind(TAIL, 12)
def vector_step(s: Scene) -> str:
    d, x, c = s.dice, s.x, s.c
    text = str(
        d.pick(
            f"{x} + {s.layer(f'nn.Linear({c}, {c})')}({x}).relu()",
            f"{x}.softmax(-1)",
            f"{x}.log1p()",
            f"torch.cat([{x}, {x} ** 2], 1)",
            f"{x}.sort(-1).values",
            f"F.glu(torch.cat([{x}, {x}], 1))",
            f"{x}.unsqueeze(1).squeeze(1)",
            f"{x} * torch.arange({c})",
            f"{x}[:, ::2]",
            f"{x}.flip(1)",
            f"{x} / {x}.sum(1, keepdim=True).clamp(min=.1)",
            f"{s.layer(f'nn.Bilinear({c}, {c}, 3)')}({x}, {x})",
            f"{x}.cumsum(1)",
            f"F.normalize({x}, dim=-1)",
            f"({x}.unsqueeze(2) * {x}.unsqueeze(1)).flatten(1)",
        )
    )
    s.maybe() if "arange" in text else None  # entries that something else pairs are told apart
    return s.let(text)


def _slot(spec: str, law: str, what: str, batch: bool = True) -> Slot:
    return Slot("", spec, law, what, batch=batch)


def _auto(s: Scene, words: str = '"invariant"') -> str:
    return s.dice.pick('"auto"', '"auto"', words)


@kind(HEADS, 30)
def plain_head(s: Scene) -> tuple[str, Slot]:
    """Logits."""
    h = s.let(f"{s.layer(f'nn.Linear({s.c}, {s.dice.pick(1, 2, 3, 4)})')}({s.x})")
    return s.let(
        s.dice.pick(
            h,
            f"{h}.sigmoid()",
            f"{h}.softmax(-1)",
            f"{h}.squeeze(-1)",
            f"{h}[:, 0]",
            f"{h}.unsqueeze(1)",
            f"F.softplus({h})",
            f"{h}.log_softmax(1)",
            f"{h}.reshape(-1)",
            f"{h} * 1e9",
        )
    ), _slot(_auto(s), INVARIANT, "invariant", "reshape" not in s.body[-1])


@kind(HEADS, 10)
def vector_head(s: Scene) -> tuple[str, Slot]:
    """The hidden vector as it is."""
    return s.let(s.dice.pick(s.x, f"{s.x}.sum(1)", f"{s.x}.mean(1, keepdim=True)")), _slot(
        _auto(s), INVARIANT, "invariant"
    )


@kind(HEADS, 20)
def profile_head(s: Scene) -> tuple[str, Slot]:
    """One or more unstranded tracks."""
    x, c, _ = s.hidden[-1]
    t, k = s.dice.pick(1, 2, 3), s.dice.pick(1, 3, 4)
    h = s.let(f"{s.layer(f'nn.Conv1d({c}, {t}, {k}, padding={s.dice.pick(k // 2, 0)})')}({x})")
    stated = f'Tracks("{"." * t}", layout="n c l")'
    s.maybe() if s.written else None
    is_open = s.written or k == 4  # a padding may make two of a single position, which need not be mirrored
    spec = s.dice.pick(stated if is_open else '"auto"', stated)
    if s.dice.chance(25):
        return s.let(f"{h}.mT"), _slot(spec.replace("n c l", "n l c"), "t.flip(1)", "profile")
    if t == 1 and s.dice.chance(50):
        return s.let(f"{h}.squeeze(1)"), _slot(spec.replace("n c l", "n l"), "t.flip(-1)", "profile")
    return s.let(
        s.dice.pick(h, f"{h}.softmax(-1)", f"{h}.sigmoid()", f"{h}.log_softmax(-1)", f"F.softplus({h})", f"{h} * 1e9")
    ), _slot(spec, "t.flip(-1)", "profile")


@kind(HEADS, 6)
def hidden_head(s: Scene) -> tuple[str, Slot]:
    """The last hidden tensor as it is, with channels that the output pins."""
    x, c, _ = s.hidden[-1]
    spec = f'Tracks("{"." * c}", layout="n c l")' if s.written else '"auto"'
    return s.let(s.dice.pick(x, f"{x} * 1e3", f"{x}.abs()")), _slot(spec, "t.flip(-1)", "profile")


@kind(HEADS, 15)
def stranded_head(s: Scene) -> tuple[str, Slot]:
    """A profile of both strands, or with an unstranded track."""
    x, c, _ = s.hidden[-1]
    signs, table = s.dice.pick(
        ("+-", [1, 0]), ("+-.", [1, 0, 2]), ("+-+-", [1, 0, 3, 2]), (".+-", [0, 2, 1]), ("++--", [2, 3, 0, 1])
    )
    if signs == "++--":  # the k-th plus pairs with a minus that follows; which one the words do not say
        signs, table = "+-+-", [1, 0, 3, 2]
    s.maybe() if s.written else None
    h = s.let(f"{s.layer(f'nn.Conv1d({c}, {len(signs)}, 3, padding=1)')}({x})")
    if s.dice.chance(30):
        return s.let(f"{h}.mT"), _slot(f'Tracks("{signs}", layout="n l c")', f"t[:, :, {table}].flip(1)", "tracks")
    spec = s.dice.pick(f'Tracks("{signs}", layout="n c l")', f'"{signs}"')
    return s.let(s.dice.pick(h, f"F.softplus({h})", f"{h}.softmax(-1)", f"{h}.relu()")), _slot(
        spec, f"t[:, {table}].flip(-1)", "tracks"
    )


@kind(HEADS, 10)
def counts_head(s: Scene) -> tuple[str, Slot]:
    """Counts of both strands."""
    x = s.dice.pick(s.x, s.x, f"{s.hidden[-1][0]}.mean(-1)")
    c = s.hidden[-1][1] if x != s.x else s.c
    h = s.let(f"{s.layer(f'nn.Linear({c}, 2)')}({x})")
    return s.let(s.dice.pick(h, f"{h}.exp()", f"{h}.relu()")), _slot('"+-"', "t[:, [1, 0]]", "tracks")


@kind(HEADS, 10)
def antisymmetric_head(s: Scene) -> tuple[str, Slot]:
    """A score that changes its sign."""
    h = s.let(f"{s.layer(f'nn.Linear({s.c}, {s.dice.pick(1, 2)}, bias={s.dice.pick(False, True)})')}({s.x})")
    text = s.dice.pick(h, f"{h}.tanh()", f"{h} * 2", f"{h} / 2", f"{h}.sigmoid()", f"{h}.squeeze(-1)")
    s.never(text) if "sigmoid" in text else None
    return s.let(text), _slot('"antisymmetric"', SIGN, "antisymmetric")


@kind(HEADS, 6)
def difference_head(s: Scene) -> tuple[str, Slot]:
    """The difference of two strands' counts."""
    h = s.let(f"{s.layer(f'nn.Linear({s.c}, 2)')}({s.x})")
    return s.let(f"{h}[:, :1] - {h}[:, 1:]"), _slot('"antisymmetric"', SIGN, "antisymmetric")


@kind(HEADS, 6)
def dense_profile_head(s: Scene) -> tuple[str, Slot]:
    """Positions that come out of a dense layer."""
    n = s.dice.pick(6, 5)
    h = s.let(f"{s.layer(f'nn.Linear({s.c}, {2 * n})')}({s.x}).view(-1, 2, {n})")
    spec, law = s.dice.pick(
        ('"+-"', "t[:, [1, 0]].flip(-1)"),
        ('Tracks("..", layout="n c l")', "t.flip(-1)"),
        ('Tracks("+-", layout="n c l")', "t[:, [1, 0]].flip(-1)"),
        ('"auto"', INVARIANT),
    )
    return h, _slot(spec, law, "dense profile")


@kind(HEADS, 6)
def sequence_head(s: Scene) -> tuple[str, Slot]:
    """Bases at each position."""
    x, c, _ = s.hidden[-1]
    s.maybe() if s.written else None
    h = s.let(f"{s.layer(f'nn.Conv1d({c}, 4, 3, padding=1)')}({x})")
    return s.let(s.dice.pick(h, f"{h}.softmax(1)", f"{h}.log_softmax(1)")), _slot(
        '"ACGT"', "t[:, [3, 2, 1, 0]].flip(-1)", "bases"
    )


@kind(HEADS, 8)
def discrete_head(s: Scene) -> tuple[str, Slot]:
    """Truth values and numbers of classes."""
    d, x = s.dice, s.x
    y, _, _ = s.hidden[-1]
    text, law, fate = d.pick(
        (f"{x} > 0", INVARIANT, "yes"),
        (f"({x} > 0).long()", INVARIANT, "yes"),
        (f"{x}.argmax(1)", INVARIANT, "maybe"),
        (f"({y}.sum(1) > 0)", "t.flip(-1)", "yes"),
        (f"{y}.argmax(-1)", INVARIANT, "never"),
        (f"{y}.argmax(1)", "t.flip(-1)", "maybe"),
        (f"{y}.topk(1, -1).indices", INVARIANT, "never"),
        (f"{x}.round().int()", INVARIANT, "yes"),
        (f"({x} > 0).all(1)", INVARIANT, "yes"),
    )
    if s.written and "flip" in law:  # positions that a dense layer wrote need not be mirrored
        text, law, fate = f"{x} > 0", INVARIANT, "yes"
    s.maybe() if fate == "maybe" else s.never(text) if fate == "never" else None
    return s.let(text), _slot('"auto"', law, "discrete")


@kind(HEADS, 6)
def odd_head(s: Scene) -> tuple[str, Slot]:
    """Complex numbers, scalars, huge values for what is missing, maps of contacts."""
    d, x = s.dice, s.x
    y, c, _ = s.hidden[-1]
    text, law, fate, batch = d.pick(
        (f"torch.complex({x}, {x}.tanh())", INVARIANT, "maybe", True),
        (f"{x}.mean()", INVARIANT, "never", False),
        (f"torch.where({x} < 0, -1e9, {x})", INVARIANT, "yes", True),
        (f"torch.where(({y}.sum(1) < 0), -1e9, {y}.mean(1))", "t.flip(-1)", "yes", True),
        (f"({y}.mT @ {y})", "t.flip(1, 2)", "yes", True),
        # all of a map of bases, flattened, is a profile read from the other end
        (
            f"{y}.flatten(1)" if c != 4 else f"{y}[:, :3].flatten(1)",
            INVARIANT if c > 1 else "t.flip(-1)",
            "maybe",
            True,
        ),
        (f"torch.cat([{x} * 1e9, {x}], 1)", INVARIANT, "yes", True),
        (f"{y}.mean(1, keepdim=True) * torch.ones(2, 1)", "t.flip(-1)", "yes", True),
        (f"{x}.var(0)", INVARIANT, "never", False),
        (f"{x} * 0 + 1", INVARIANT, "yes", True),
        (f"{y}.sort(-1).values", INVARIANT, "maybe", True),
        (f"torch.fft.rfft({y}).abs()", INVARIANT, "maybe", True),
        (f"{y}[..., :1]", INVARIANT, "never", True),
    )
    if s.written and "flip" in law:  # as above
        text, law, fate = f"torch.where({x} < 0, -1e9, {x})", INVARIANT, "yes"
    s.maybe() if fate == "maybe" else s.never(text) if fate == "never" else None
    return s.let(text), _slot('"auto"', law, "odd", batch)
