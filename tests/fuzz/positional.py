"""Kinds of step that mix positions: attention, recurrence, tables of positions, transforms, branches."""

from __future__ import annotations

from .grammar import STEPS, Scene, kind


def _heads(s: Scene) -> int:
    return s.divisor()


@kind(STEPS, 25)
def attention(s: Scene) -> str:
    """Written by hand or fused, with biases by distance."""
    d, c = s.dice, s.c
    g = _heads(s)
    x = s.let(f"{s.x}.mT")
    q, k, v = s.fresh(), s.fresh(), s.fresh()
    if d.chance(50):
        qkv = s.layer(f"nn.Linear({c}, {3 * c})")
        parts = d.pick("chunk(3, -1)", f"split({c}, -1)", f"unflatten(-1, (3, {c})).unbind(-2)")
        s.do(f"{q}, {k}, {v} = {qkv}({x}).{parts}")
    else:
        for name in (q, k, v):
            s.do(f"{name} = {s.layer(f'nn.Linear({c}, {c}, bias={d.pick(True, False)})')}({x})")
    for name in (q, k, v):
        s.do(f"{name} = {name}.unflatten(-1, ({g}, -1)).transpose(1, 2)")
    if d.chance(40):
        h = s.let(f"F.scaled_dot_product_attention({q}, {k}, {v}{_causal(s)})")
    else:
        a = s.let(f"{q} @ {k}.mT * {(c // g) ** -0.5:.4f}")
        i = f"torch.arange({a}.shape[-1])"
        text, fate = d.pick(
            ("{a}", "yes"),
            ("{a} - ({i}[:, None] - {i}).abs()", "yes"),
            ("{a}.masked_fill(({i}[:, None] - {i}).abs() > 3, -1e9)", "yes"),
            ("{a}.masked_fill({i}[:, None] < {i}, float('-inf'))", "never"),
            ("{a} + ({i}[:, None] - {i}) * .1", "never"),
            ("{a}.tril()", "never"),
            ("{a} + {p}(({i}[:, None] - {i}).abs().clamp(max=5)).squeeze(-1)", "yes"),
            ("{a} + {p}(({i}[:, None] - {i}).clamp(-2, 2) + 2).squeeze(-1)", "maybe"),
            ("{a} + torch.randn(1).item() * 0", "maybe"),
        )
        p = s.layer("nn.Embedding(6, 1)") if "{p}" in text else ""
        s.maybe() if fate == "maybe" else s.never(text) if fate == "never" else None
        h = s.let(f"{text.format(a=a, i=i, p=p)}.softmax(-1) @ {v}")
    h = s.let(f"{h}.transpose(1, 2).flatten(2)")
    return s.let(f"{s.layer(f'nn.Linear({c}, {c})')}({h}).mT + {s.x}")


def _causal(s: Scene) -> str:
    if s.dice.chance(15):
        s.never("causal")
        return ", is_causal=True"
    return ""


@kind(STEPS, 10)
def torch_attention(s: Scene) -> str:
    """The layers of torch; batch_first is forgotten now and then."""
    d, c = s.dice, s.c
    g = _heads(s)
    first = d.pick("True", "True", "False")
    if first == "False":
        s.never("attention over the samples")
    if d.chance(60):
        m = s.layer(f"nn.MultiheadAttention({c}, {g}, batch_first={first})")
        x = s.let(f"{s.x}.mT")
        return s.let(f"{m}({x}, {x}, {x}{d.pick('', ', need_weights=False')})[0].mT")
    sizes = f"{c}, {g}, {d.pick(6, 8, 5)}, dropout=0., batch_first={first}"
    more = f"norm_first={d.pick(True, False)}, activation={d.pick('relu', 'gelu')!r}"
    m = s.layer(f"nn.TransformerEncoderLayer({sizes}, {more})")
    if d.chance(30):
        m = s.layer(f"nn.TransformerEncoder({m}, 2)")
    return s.let(f"{m}({s.x}.mT).mT")


@kind(STEPS, 15)
def recurrent(s: Scene) -> str:
    d, c = s.dice, s.c
    hidden, both = d.pick(4, 3, 5), d.pick("True", "True", "True", "False")
    first = d.pick("True", "True", "True", "False")
    if both == "False":
        s.never("one direction")
    name, count = d.pick("LSTM", "GRU", "RNN"), d.pick(1, 1, 2)
    more = f"batch_first={first}, bidirectional={both}, num_layers={count}"
    m = s.layer(f"nn.{name}({c}, {hidden}, {more})")
    if first == "False" and d.chance(60):
        return s.let(f"{m}({s.x}.permute(2, 0, 1))[0].permute(1, 2, 0)")
    if first == "False":
        s.never("recurrence over the samples")
    return s.let(f"{m}({s.x}.mT)[0].mT")


@kind(STEPS, 20)
def positions(s: Scene) -> str:
    """Tables of positions: learned, made from arange, registered, exactly as long as the example or longer."""
    d, c, n, x = s.dice, s.c, s.n, s.x
    i = f"torch.arange({x}.shape[-1])"
    size = d.pick(n, n, n + 20)
    rows = [
        (
            f"{x} + {{p}}[:, :, :{x}.shape[-1]]",
            f"nn.Parameter(torch.randn(1, {c}, {size}))",
            "yes" if size == n else "never",
        ),
        (f"{x} + {{p}}[:, :, :{x}.shape[-1]]", f"nn.Parameter(torch.randn(1, {c}, {n}))", "yes"),
        (f"{x} + {{p}}({i}).mT", f"nn.Embedding({size}, {c})", "yes" if size == n else "never"),
        (f"{x} + {{p}}", f"nn.Parameter(torch.randn({c}, {n}))", "yes"),
        (f"{x} + torch.sin({i} * .3)", "", "never"),
        (f"{x} * torch.hann_window({x}.shape[-1], periodic={d.pick(False, True)})", "", "maybe"),
        (f"{x} * ({i} - ({x}.shape[-1] - 1) / 2).abs()", "", "yes"),
        (
            f"{x} + {{p}}(({i} - ({x}.shape[-1] - 1) / 2).abs().floor().long().clamp(max=4)).mT",
            f"nn.Embedding(5, {c})",
            "yes",
        ),
        (f"{x} * ((({i}.float() / ({x}.shape[-1] - 1) - .5).abs() * 10).floor())", "", "yes"),
        (f"{x} + torch.linspace(-1, 1, {x}.shape[-1]).abs()", "", "yes"),
        (f"{x} + torch.linspace(-1, 1, {x}.shape[-1]) ** 2", "", "yes"),
        (f"{x} * torch.linspace(0, 1, {x}.shape[-1])", "", "never"),
        (f"{x} * torch.hann_window({n}, periodic=False)[:{x}.shape[-1]]", "", "yes"),
        (f"{x} + torch.minimum({i}, {i}.flip(0))", "", "yes"),
        (f"{x} + {{p}}(torch.minimum({i}, {i}.flip(0)).clamp(max=3)).mT", f"nn.Embedding(4, {c})", "yes"),
        (f"{x}.masked_fill({i} >= {n}, 0.)", "", "maybe"),
        (f"{x} * ({i} % 2 == 0)", "", "maybe"),
        (f"torch.cat([{x}, ({i} / {x}.shape[-1]).expand({x}.shape[0], 1, -1)], 1)", "", "never"),
        (f"{x} / {x}.shape[-1]", "", "yes"),
        (f"torch.cat([{{p}}.expand({x}.shape[0], -1, -1), {x}], -1)", f"nn.Parameter(torch.randn(1, {c}, 1))", "never"),
    ]
    text, table, fate = d.pick(*rows)
    s.maybe() if fate == "maybe" else s.never(text) if fate == "never" else None
    return s.let(text.replace("{p}", s.layer(table) if table else ""))


@kind(STEPS, 10)
def transforms(s: Scene) -> str:
    """Fourier transforms, complex numbers: nothing is promised."""
    s.maybe()
    d, x = s.dice, s.x
    s.written = True
    return s.let(
        d.pick(
            f"torch.fft.rfft({x}).abs()",
            f"torch.fft.irfft(torch.fft.rfft({x}) * .5, n={x}.shape[-1])",
            f"torch.fft.fft({x}).real",
            f"torch.fft.fft({x}).abs()",
            f"torch.fft.rfft({x}, dim=1).abs()",
            f"torch.complex({x}, {x}.relu()).abs()",
            f"(({x} + 1j * {x}.tanh()) ** 2).real",
            f"torch.polar({x}.abs(), {x}).imag",
            f"torch.fft.fft2({x}).abs()",
            f"torch.view_as_real(torch.complex({x}, {x}.relu())).sum(-1)",
            f"torch.fft.irfft(torch.fft.rfft({x}).abs(), n={x}.shape[-1])",
        )
    )


@kind(STEPS, 12)
def pairs(s: Scene) -> str:
    """Maps of pairs of positions, reduced again."""
    d, x, c = s.dice, s.x, s.c
    m = s.let(
        d.pick(
            f"{x}.unsqueeze(-1) + {x}.unsqueeze(-2)",
            f"{x}.unsqueeze(-1) * {x}.unsqueeze(-2)",
            f"torch.cat(torch.broadcast_tensors({x}.unsqueeze(-1), {x}.unsqueeze(-2)), 1)",
            f"({x}.mT @ {x}).unsqueeze(1)",
            f"torch.cdist({x}.mT, {x}.mT).unsqueeze(1)",
            f"torch.einsum('bcl,bcm->blm', {x}, {x}).unsqueeze(1)",
        )
    )
    if d.chance(50):
        width = 2 * c if "cat" in s.body[-1] else 1 if "unsqueeze(1)" in s.body[-1] else c
        m = s.let(f"{s.layer(f'nn.Conv2d({width}, {s.width()}, 3, padding=1)')}({m}).relu()")
    return s.let(
        d.pick(
            f"{m}.mean(-1)",
            f"{m}.amax(-2)",
            f"{m}.diagonal(dim1=-2, dim2=-1)",
            f"{m}.softmax(-1).sum(-2)",
            f"{m}.triu(1).sum(-1) + {m}.tril(-1).sum(-1)",
            f"F.max_pool2d({m}, 2).mean(-1)",
            f"({m} + {m}.mT).amax(-1)",
        )
    )


@kind(STEPS, 12)
def branches(s: Scene) -> str:
    """Branches on shapes, on the mode, on an attribute."""
    d, x, c = s.dice, s.x, s.c
    f = s.layer(f"nn.Conv1d({c}, {c}, 3, padding=1)")
    h = s.let(x)
    test = d.pick(
        f"{x}.shape[-1] >= {s.n + 5}",
        f"{x}.shape[-1] >= 400",
        f"{x}.shape[0] == 1",
        "self.training",
        f"{x}.shape[-1] % 4",
        f"{x}.shape[-1] < {s.n}",
        "not self.training",
        f"{x}.dtype == torch.float64",
        f"{x}.requires_grad",
        f"{x}.shape[0] > 3",
        "torch.is_grad_enabled()",
    )
    then = d.pick(
        f"{f}({x}).relu()",
        f"F.pad({x}, (0, 3))[..., :-3] + {f}({x})",
        f"{x}.cumsum(-1)",
        f"{x} * 2",
        f"F.pad({x}, (0, 4 - {x}.shape[-1] % 4))",
    )
    one_sided = "cumsum" in then or "(0, 4 - " in then
    if one_sided and ("shape[0]" in test or "dtype" in test):  # taken when the law is checked, not when it is traced
        s.never(f"if {test}: {then}")
    s.maybe()
    s.do(f"if {test}:", f"    {h} = {then}")
    return h


@kind(STEPS, 8)
def ranks(s: Scene) -> str:
    """Maxima as ids: they are looked up, or compared."""
    s.maybe()
    d, x, c = s.dice, s.x, s.c
    e = s.layer(f"nn.Embedding({c}, {s.width()})")
    return s.let(
        d.pick(
            f"{e}({x}.argmax(1)).mT",
            f"F.one_hot({x}.argmax(1), {c}).to({x}.dtype).mT * {x}",
            f"{x} * ({x} == {x}.amax(1, keepdim=True))",
            f"{x} * ({x} >= {x}.amax(-1, keepdim=True))",
            f"{x}.gather(1, {x}.argmax(1, keepdim=True)).expand_as({x})",
            f"{e}({x}.max(1).indices).mT",
            f"{x}.take_along_dim({x}.argmax(-1, keepdim=True), -1).expand_as({x})",
            f"{e}(({x}.abs().sum(1) * 10).long() % {c}).mT",
            f"{x}.median(1, keepdim=True).values + {x}",
            f"{x}.kthvalue(1, -1, keepdim=True).values + {x}",
        )
    )


@kind(STEPS, 6)
def loops(s: Scene) -> str:
    """A scan over positions, written in Python."""
    d, x = s.dice, s.x
    out, state = s.fresh(), s.fresh()
    s.do(f"{out}, {state} = [], {x}[..., 0]")
    if d.chance(70):
        s.never("a scan")
        s.do(
            f"for i in range({x}.shape[-1]):", f"    {state} = .5 * {state} + {x}[..., i]", f"    {out}.append({state})"
        )
    else:
        s.maybe()
        s.do(f"for i in range({x}.shape[-1]):", f"    {out}.append({x}[..., i].tanh())")
    return s.let(f"torch.stack({out}, -1)")


@kind(STEPS, 8)
def with_input(s: Scene) -> str:
    """The input joins again, where it has the same length."""
    d, x = s.dice, s.x
    slot = s.inputs[0]
    if slot.kind != "onehot" or slot.shape != ("N", 4, "L"):
        return s.let(f"{x} + 0")
    text = str(
        d.pick(
            f"torch.cat([{x}, x], 1)",
            f"{x} * x.sum(1, keepdim=True)",
            f"{x} * (x.sum(1, keepdim=True) > 0)",
            f"{x} * x[:, 1:3].sum(1, keepdim=True)",
            f"{x} * x[:, :1]",
            f"{x} + x.mean((1, 2), keepdim=True)",
            f"{x} * (x * torch.tensor([1., 2., 2., 1.])[:, None]).sum(1, keepdim=True)",
            f"{x} * (x * torch.tensor([1., 2., 3., 4.])[:, None]).sum(1, keepdim=True)",
        )
    )
    s.never(text) if ":1]" in text or "3., 4." in text else None  # one base is told from its complement
    return s.let(text)


@kind(STEPS, 6)
def samples(s: Scene) -> str:
    """Samples see each other."""
    d, x = s.dice, s.x
    text = d.pick(
        f"{x} - {x}.mean(0)",
        f"{x} - {x}.mean(0, keepdim=True)",
        f"{x}.flip(0)",
        f"{x} + {x}.mean()",
        f"{x} / {x}.std()",
        f"{x}.cumsum(0)",
        f"{x}.softmax(0)",
        f"{x} - {x}.amax((0, 2), keepdim=True)",
        f"{x} - {x}.mean((0, 2), keepdim=True)",
    )
    s.never(text)
    return s.let(text)
