"""Kinds of step (N, C, L) -> (N, C', L'): convolutions, pools, norms, gates, layout changes, pieces."""

from __future__ import annotations

from .grammar import STEPS, Scene, kind

ACTS = (
    "F.relu({})",
    "F.gelu({})",
    "torch.tanh({})",
    "F.elu({})",
    "F.silu({})",
    "torch.sigmoid({})",
    "F.leaky_relu({}, .1)",
    "{}.exp()",
    "F.softplus({})",
    "F.hardtanh({})",
    "{}.abs()",
    "{} ** 2",
    "F.mish({})",
    "{}.sin()",
    "{}.clamp(min=-1)",
    "torch.exp(-{} ** 2)",
    "{}.relu().log1p()",
    "{}.square().sqrt()",
    "F.relu6({})",
    "{}.softmax(1)",
    "{}.softmax(-1)",
    "{}.log_softmax(1)",
    "{} / ({}.abs() + 1)",
    "F.hardswish({})",
    "{}.sign() * {}",
    "{}.erf()",
    "F.softsign({})",
    "F.tanhshrink({})",
    "F.hardshrink({})",
    "F.logsigmoid({})",
    "F.softmin({}, 1)",
    "F.normalize({}, dim=1)",
    "F.normalize({}, dim=-1)",
    "F.threshold({}, .1, 0.)",
    "F.selu({})",
    "F.celu({})",
    "{}.double().to({}.dtype)",
    "{}.nan_to_num()",
    "{}.round()",
    "torch.where({} > 0, {}, .1 * {})",
    "F.gelu({}, approximate='tanh')",
)


def act(s: Scene, x: str) -> str:
    text = s.dice.pick(*ACTS)
    return text.replace("{}", x)


@kind(STEPS, 40)
def activation(s: Scene) -> str:
    return s.let(act(s, s.x))


@kind(STEPS, 60)
def conv(s: Scene) -> str:
    """Strides, dilations, groups, even kernels, paddings of all kinds."""
    d = s.dice
    k, stride, dilation = d.pick(3, 5, 1, 4, 2, 6), d.pick(1, 1, 1, 2, 3, 4), d.pick(1, 1, 1, 2, 3)
    groups = s.divisor() if d.chance(25) else 1
    out = groups * d.pick(1, 2, 3) if groups > 1 else s.width()
    pad = d.pick(k // 2, 0, "'same'" if stride == 1 else 1, "'valid'", k - 1, dilation * (k - 1) // 2)
    extra = d.pick("", "", ", bias=False", ", padding_mode='circular'", ", padding_mode='reflect'")
    x = s.x
    if d.chance(15):
        left, right = d.pick((k - 1, 0), (0, k - 1), (1, 2), (2, 1))
        mode = d.pick("", ", value=.5", ", mode='replicate'")
        x, pad = s.let(f"F.pad({x}, ({left}, {right}){mode})"), 0
    text = f"nn.Conv1d({s.c}, {out}, {k}, stride={stride}, padding={pad}, dilation={dilation}, groups={groups}{extra})"
    if d.chance(8):
        text = f"nn.utils.parametrizations.weight_norm({text})"
    h = s.let(f"{s.layer(text)}({x})")
    return s.let(act(s, h)) if d.chance(60) else h


@kind(STEPS)
def conv2d(s: Scene) -> str:
    """Two dimensions, one of them of size 1, or the channels as a plane."""
    k = s.dice.pick(3, 4, 5)
    if s.dice.chance(50):
        layer = s.layer(f"nn.Conv2d({s.c}, {s.width()}, (1, {k}), padding=(0, {s.dice.pick(k // 2, 0)}))")
        return s.let(f"{layer}({s.x}.unsqueeze(2)).squeeze(2)")
    layer = s.layer(f"nn.Conv2d(1, {s.width()}, ({s.c}, {k}), stride=(1, {s.dice.pick(1, 2)}))")
    return s.let(f"{layer}({s.x}.unsqueeze(1)).squeeze(2)")


@kind(STEPS)
def functional_conv(s: Scene) -> str:
    """Weights that are bare parameters, computed or shared."""
    out, k = s.width(), s.dice.pick(3, 4, 5)
    w = s.layer(f"nn.Parameter(torch.randn({out}, {s.c}, {k}) * .3)")
    text = s.dice.pick(
        "{}",
        "{}.softmax(1)",
        "{}.abs()",
        "{} - {}.mean(-1, keepdim=True)",
        "F.normalize({}, dim=1)",
        f"{{}} * torch.hann_window({k}, periodic=False)",
    )
    return s.let(f"F.conv1d({s.x}, {text.replace('{}', w)}, padding={s.dice.pick(k // 2, 0)})")


@kind(STEPS)
def conv_transpose(s: Scene) -> str:
    d = s.dice
    k, stride = d.pick(4, 3, 2, 5), d.pick(2, 1, 3)
    groups = s.divisor() if d.chance(20) else 1
    out = groups * d.pick(1, 2, 3) if groups > 1 else s.width()
    more = f"padding={d.pick(1, 0)}, output_padding={d.pick(0, 1) if stride > 1 else 0}, groups={groups}"
    more += f", dilation={d.pick(1, 1, 2)}"
    return s.let(f"{s.layer(f'nn.ConvTranspose1d({s.c}, {out}, {k}, stride={stride}, {more})')}({s.x})")


@kind(STEPS, 30)
def pool(s: Scene) -> str:
    d = s.dice
    k, stride = d.pick(2, 3, 4, 5), d.pick(None, None, 1, 2, 3)
    pad, ceil = d.pick(0, 0, 1), d.pick(False, False, True)
    text = d.pick(
        f"F.max_pool1d({{}}, {k}, {stride}, padding={pad}, ceil_mode={ceil})",
        f"F.avg_pool1d({{}}, {k}, {stride}, padding={pad}, ceil_mode={ceil}, count_include_pad={d.pick(True, False)})",
        f"F.max_pool1d({{}}, {k}, {stride}, padding={pad}, dilation=2)",
        f"F.lp_pool1d({{}}.abs() + .1, 2, {k}, {stride}, ceil_mode={ceil})",
        f"F.adaptive_avg_pool1d({{}}, {d.pick(4, 3, 5, 1, 7)})",
        f"F.adaptive_max_pool1d({{}}, {d.pick(4, 3, 5, 1, 7)})",
        f"F.max_pool2d({{}}.unsqueeze(2), (1, {k})).squeeze(2)",
        f"{{}}.unfold(-1, {k}, {d.pick(k, 1, 2)}).{d.pick('amax(-1)', 'mean(-1)', 'sum(-1)')}",
    )
    return s.let(text.format(s.x))


@kind(STEPS, 5)
def unpool(s: Scene) -> str:
    """Maxima put back to their places."""
    s.maybe()
    k = s.dice.pick(2, 3)
    v, i = s.fresh(), s.fresh()
    s.do(f"{v}, {i} = F.max_pool1d({s.x}, {k}, return_indices=True)")
    return s.let(f"F.max_unpool1d({v}, {i}, {k}, output_size=({s.x}.shape[-1],))")


@kind(STEPS, 30)
def norm(s: Scene) -> str:
    d, c = s.dice, s.c
    if d.chance(70):
        text = d.pick(
            f"nn.BatchNorm1d({c})",
            f"nn.BatchNorm1d({c}, affine=False)",
            f"nn.GroupNorm({s.divisor()}, {c})",
            f"nn.InstanceNorm1d({c}, affine=True)",
            f"nn.BatchNorm1d({c}, track_running_stats=False)",
            f"nn.BatchNorm1d({c}, momentum=None)",
            f"nn.InstanceNorm1d({c}, affine=True, track_running_stats=True)",
            f"nn.InstanceNorm1d({c})",
            f"nn.GroupNorm(1, {c}, affine=False)",
            f"nn.LayerNorm([{c}, {s.n}])",
            "nn.LocalResponseNorm(3)",
            f"nn.LayerNorm({s.n})",
            f"nn.BatchNorm1d({c}, eps=1e-2, momentum=.5)",
        )
        if "LocalResponse" in text or f"LayerNorm({s.n})" in text:
            s.maybe()
        return s.let(f"{s.layer(text)}({s.x})")
    text = d.pick(
        f"nn.LayerNorm({c})",
        f"nn.RMSNorm({c})",
        f"nn.LayerNorm({c}, elementwise_affine=False)",
        f"nn.LayerNorm({c}, bias=False)",
    )
    return s.let(f"{s.layer(text)}({s.x}.mT).mT")


@kind(STEPS, 15)
def dense(s: Scene) -> str:
    """A linear layer at each position, in one of many spellings."""
    out = s.width()
    if s.dice.chance(50):
        return s.let(f"{s.layer(f'nn.Linear({s.c}, {out})')}({s.x}.transpose(1, 2)).transpose(1, 2)")
    w = s.layer(f"nn.Parameter(torch.randn({s.c}, {out}) * .3)")
    text = s.dice.pick(
        "torch.einsum('bcl,cd->bdl', {x}, {w})",
        "({x}.mT @ {w}).mT",
        "torch.tensordot({x}, {w}, dims=([1], [0])).mT",
        "({x}.unsqueeze(2) * {w}[:, :, None]).sum(1)",
        "torch.einsum('bcl,cd,cd->bdl', {x}, {w}, {w})",
    )
    return s.let(text.format(x=s.x, w=w))


@kind(STEPS)
def over_positions(s: Scene) -> str:
    """A linear layer over the positions: its length is fixed."""
    s.written = True
    m = s.dice.pick(s.n, 6, 5)
    return s.let(f"{s.layer(f'nn.Linear({s.n}, {m})')}({s.x})")


@kind(STEPS, 15)
def residual(s: Scene) -> str:
    k = s.dice.pick(3, 5, 4)
    layer = s.layer(f"nn.Conv1d({s.c}, {s.c}, {k}, padding='same')")
    x = s.x
    h = s.let(f"{layer}({act(s, x)})")
    return s.let(
        s.dice.pick(
            f"{x} + {h}",
            f"({x} + {h}) * .5",
            f"{x} - {h}",
            f"torch.cat([{x}, {h}], 1)",
            f"{x} * {h}",
            f"torch.maximum({x}, {h})",
            f"{layer}({h}) + {x}",
            f"torch.stack([{x}, {h}]).mean(0)",
            f"torch.lerp({x}, {h}, .3)",
        )
    )


@kind(STEPS, 12)
def skip(s: Scene) -> str:
    """Adds or joins an earlier tensor of the same length."""
    fits = [h for h in s.hidden[:-1] if h[2] == s.n]
    name, c, _ = fits[s.dice.below(len(fits))] if fits else s.hidden[-1]
    if c == s.c and s.dice.chance(50):
        return s.let(f"{s.x} + {name}")
    return s.let(f"torch.cat([{s.x}, {name}], dim=1)")


@kind(STEPS, 15)
def gate(s: Scene) -> str:
    c = s.width()
    h = s.let(f"{s.layer(f'nn.Conv1d({s.c}, {2 * c}, 3, padding=1)')}({s.x})")
    if s.dice.chance(40):
        return s.let(f"F.glu({h}, 1)")
    a, b = s.fresh(), s.fresh()
    s.do(
        f"{a}, {b} = "
        + s.dice.pick(
            f"{h}.chunk(2, 1)",
            f"{h}.split({c}, 1)",
            f"({h}[:, :{c}], {h}[:, {c}:])",
            f"({h}[:, ::2], {h}[:, 1::2])",
            f"torch.tensor_split({h}, 2, 1)",
            f"{h}.unflatten(1, (2, -1)).unbind(1)",
            f"{h}.unflatten(1, (-1, 2)).unbind(2)",
        )
    )
    return s.let(
        s.dice.pick(
            f"{a} * {b}.sigmoid()",
            f"{a}.tanh() * {b}.sigmoid()",
            f"{b}.relu() - {a}",
            f"torch.cat([{b}.relu(), {a}], 1)",
        )
    )


@kind(STEPS)
def squeeze_excite(s: Scene) -> str:
    mid = s.width()
    down, up = s.layer(f"nn.Linear({s.c}, {mid})"), s.layer(f"nn.Linear({mid}, {s.c})")
    pooled = s.dice.pick(f"{s.x}.mean(-1)", f"{s.x}.amax(-1)", f"F.adaptive_avg_pool1d({s.x}, 1).squeeze(-1)")
    w = s.let(f"{up}(F.relu({down}({pooled}))).sigmoid()")
    return s.let(
        s.dice.pick(
            f"{s.x} * {w}.unsqueeze(-1)", f"{s.x} * {w}[:, :, None] + {s.x}", f"{s.x} * {w}[..., None].expand_as({s.x})"
        )
    )


@kind(STEPS, 20)
def layout(s: Scene) -> str:
    """Views, flattenings and their inverses."""
    d, x = s.dice, s.x
    g = s.divisor()
    inner = d.pick("{}", "{} * .5", "{}.relu()", "{}.softmax(2)", "{} - {}.mean(2, keepdim=True)")
    there = s.let(f"{x}.{d.pick('unflatten', 'unflatten')}(1, {(g, s.c // g)})")
    mid = s.let(inner.replace("{}", there))
    back = d.pick(
        f"{mid}.flatten(1, 2)",
        f"{mid}.mean(1)",
        f"{mid}.amax(2)",
        f"{mid}.transpose(1, 2).flatten(1, 2)",
        f"{mid}.sum(2)",
        f"{mid}.reshape({mid}.shape[0], -1, {mid}.shape[-1])",
        f"{mid}.transpose(1, 2).reshape({x}.shape)",
        f"{mid}.view({x}.shape)",
        f"{mid}.flip(1).flatten(1, 2)",
    )
    return s.let(back)


@kind(STEPS, 12)
def windows(s: Scene) -> str:
    """Positions read as windows of a few."""
    d, x = s.dice, s.x
    # of a single window the positions in it are a profile
    k = d.pick(*[k for k in (2, 3, 4, 5, 6, 8) if s.n % k == 0 and s.n > k] or [1])
    h = s.let(
        d.pick(
            f"{x}.unflatten(-1, (-1, {k}))",
            f"{x}.view(*{x}.shape[:2], -1, {k})",
            f"{x}.reshape({x}.shape[0], {s.c}, -1, {k})",
            f"{x}.unflatten(-1, ({s.n // k}, {k}))",
        )
    )
    s.written = (
        s.written or f"(1, {k}))" in s.body[-1]
    )  # one window at every length: a padding makes no positions of it
    of_channels = [  # of one channel the positions in a window are a profile
        f"{h}.permute(0, 3, 1, 2).flatten(1, 2)",
        f"{h}.permute(0, 1, 3, 2).flatten(1, 2)",
        f"{h}.flatten(1, 2)",
    ]
    out = d.pick(
        f"{h}.amax(-1)",
        f"{h}.mean(-1)",
        f"{h}.transpose(1, 2).flatten(2).mT",
        *(of_channels if s.c > 1 else []),
        f"{h}.mean(2)",
        f"({h} - {h}.mean(-1, keepdim=True)).flatten(2)",
        f"{h}.softmax(-1).flatten(2)",
        f"{h}.softmax(2).flatten(2)",
        f"{h}.flatten(2)",
        f"({h} + {h}.flip(-1)).flatten(2)",
    )
    return s.let(out)


@kind(STEPS, 20)
def pieces(s: Scene) -> str:
    """Channels or positions taken apart and put together."""
    d, x, c, n = s.dice, s.x, s.c, s.n
    k = d.pick(1, 2, 3)
    text, fate = d.pick(
        (f"{x}[:, {k}:]", "yes"),
        (f"{x}[:, :{max(c - k, 1)}]", "yes"),
        (f"torch.cat([{x}[:, {k}:], {x}[:, :{k}]], 1)", "yes"),
        (f"{x}[..., {k}:-{k}]", "yes"),
        (f"{x}[..., {k}:]", "yes"),
        (f"{x}[..., :-{k}]", "yes"),
        (f"{x}[..., ::2]", "maybe"),
        (f"{x}.flip(-1)", "yes"),
        (f"{x}.flip(1)", "maybe"),
        (f"{x} + {x}.flip(-1)", "yes"),
        (f"{x}.roll(1, 1)", "maybe"),
        (f"{x}.roll({k}, -1)", "never"),
        (f"{x}.roll(1, -1) + {x}.roll(-1, -1)", "maybe"),
        (f"{x}.cumsum(-1)", "never"),
        (f"{x}.cumsum(1)", "maybe"),
        (f"{x}.cumsum(-1) + {x}.flip(-1).cumsum(-1).flip(-1)", "maybe"),
        (f"{x}.sort(-1).values", "yes"),
        (f"{x}.sort(1).values", "yes"),
        (f"{x}.topk({min(3, n)}, -1).values", "yes"),
        (f"{x}.diff(dim=-1)", "maybe"),
        (f"{x}.index_select(1, torch.arange({c}).flip(0))", "yes"),
        (f"{x}[:, [0, {c - 1}]]", "yes"),
        (f"{x}.gather(1, {x}.argsort(1))", "maybe"),
        (f"{x}.gather(-1, {x}.argsort(-1))", "maybe"),
        (f"{x}.masked_fill({x} < 0, -1.)", "yes"),
        (f"torch.where({x} > .1, {x}, 0.)", "yes"),
        (f"torch.where({x}.sum(1, keepdim=True) > 0, {x}, -1e9)", "yes"),
        (f"F.pad({x}, ({k}, {k}))", "yes"),
        (f"F.pad({x}, ({k}, 0))", "yes"),
        (f"F.pad({x}, (0, 0, {k}, 0))", "yes"),
        (f"F.pad({x}, (1, 1), mode='reflect')", "yes"),
        (f"F.interpolate({x}, scale_factor=2)", "yes"),
        (f"F.interpolate({x}, scale_factor=2, mode='linear', align_corners={d.pick(False, True)})", "yes"),
        (f"F.interpolate({x}, size={n + 3})", "yes"),
        (f"F.interpolate({x}, scale_factor=1.5, mode='linear')", "maybe"),
        (f"F.interpolate({x}, size={max(n // 2, 1)}, mode='{d.pick('nearest', 'linear', 'area')}')", "yes"),
        (f"{x}.repeat_interleave(2, -1)", "yes"),
        (f"{x}.repeat(1, 2, 1)", "yes"),
        (f"{x}.tile(1, 1, 2)", "maybe"),
        (f"torch.cat([{x}, {x}.flip(-1)], -1)", "maybe"),
        (f"{x}.chunk(2, -1)[0]", "never"),
        (f"sum({x}.chunk(2, -1))", "maybe"),
        (f"torch.cat({x}.chunk(2, -1)[::-1], -1)", "never"),
        (f"{x}.narrow(-1, 1, {max(n - 2, 1)})", "yes" if n > 2 else "never"),
        (f"{x} - {x}.mean(-1, keepdim=True)", "yes"),
        (f"({x} - {x}.mean(-1, keepdim=True)) / ({x}.std(-1, keepdim=True) + .1)", "yes"),
        (f"{x} / {x}.norm(dim=1, keepdim=True).clamp(min=.1)", "yes"),
        (f"{x}[:, :, {n // 2}:{n // 2 + 1}].expand_as({x}) + {x}", "maybe"),
        (f"{x} * torch.linspace(0, 1, {c})[:, None]", "maybe"),
        (f"F.channel_shuffle({x}, {s.divisor()})", "maybe"),
        (f"{x}.unsqueeze(-1).mean(-1)", "yes"),
        (f"torch.stack([{x}, {x}.relu()], 1).flatten(1, 2)", "yes"),
        (f"torch.stack([{x}, {x}.relu()], 2).flatten(1, 2)", "yes"),
        (f"torch.stack([{x}, {x}.relu()], -1).flatten(2)", "maybe"),
        (f"{x}.tril()", "never"),
        (f"{x}.cummax(-1).values", "never"),
        (f"{x}.unfold(-1, 3, 1).flatten(-2).view({x}.shape[0], {c}, -1)", "maybe"),
        (f"torch.trapezoid({x}.unsqueeze(1), dim=1) + {x}", "maybe"),
        (f"{x}.index_fill(-1, torch.tensor([0]), 0.)", "never"),
        (f"{x}.movedim(-1, 1).movedim(1, -1)", "yes"),
        (f"{x}.clone().detach()", "yes"),
        (f"{x}.renorm(2, 0, 1.)", "maybe"),
    )
    s.written = s.written or ("stack" in text and "-1).flatten" in text)  # positions, and what stays among them
    fate = "maybe" if fate == "yes" and s.pinned and ("[:, " in text or "(1, " in text) else fate
    s.maybe() if fate == "maybe" else s.never(text) if fate == "never" else None
    return s.let(text)


@kind(STEPS, 8)
def in_place(s: Scene) -> str:
    """Writes into a tensor."""
    h = s.let(f"{s.x}.clone()")
    text, fate = s.dice.pick(
        (f"{h} += 1", "yes"),
        (f"{h}[:, 0] = 0.", "maybe"),
        (f"{h}[..., 0] = 0.", "never"),
        (f"{h}[{h} < 0] = 0.", "maybe"),
        (f"{h}.mul_(2).relu_()", "yes"),
        (f"{h}[:, :, 1:-1] += 1", "maybe"),
        (f"{h}.clamp_(-1, 1)", "yes"),
        (f"{h}.masked_fill_({h} > 1, 1.)", "yes"),
    )
    s.maybe() if fate == "maybe" else s.never(text) if fate == "never" else None
    s.do(text)
    return h


@kind(STEPS, 8)
def shared(s: Scene) -> str:
    """One layer called several times, in a list or under a context."""
    layer = s.layer(f"nn.ModuleList([nn.Conv1d({s.c}, {s.c}, 3, padding=1) for _ in range(2)])")
    h = s.let(s.x)
    text = s.dice.pick(
        f"for f in {layer}: {h} = f({h}).relu()",
        f"for _ in range(2): {h} = {layer}[0]({h}).tanh()",
        f"for f in {layer}: {h} = {h} + torch.utils.checkpoint.checkpoint(f, {h}, use_reentrant=False)",
        f"with torch.no_grad(): {h} = {layer}[1]({h})",
        f"{h} = sum(f({h}) for f in {layer})",
    )
    s.do(text)
    return h


@kind(STEPS, 6)
def prelu(s: Scene) -> str:
    return s.let(f"{s.layer(f'nn.PReLU({s.dice.pick(1, s.c)})')}({s.x})")


@kind(STEPS, 6)
def dropout(s: Scene) -> str:
    return s.let(f"{s.layer(s.dice.pick('nn.Dropout(.3)', 'nn.Dropout1d(.2)', 'nn.AlphaDropout(.2)'))}({s.x})")


@kind(STEPS, 8)
def scale(s: Scene) -> str:
    """Parameters along channels, positions or both; huge factors."""
    d, x = s.dice, s.x
    p = s.layer(f"nn.Parameter(torch.randn({d.pick(f'{s.c}, 1', f'{s.n}', f'{s.c}, {s.n}', '1', '')}))")
    return s.let(
        d.pick(
            f"{x} * {p}",
            f"{x} + {p}",
            f"{x} * {p}.exp()",
            f"{x} * 1e9",
            f"torch.cat([{x} * 1e9, {x}], 1)",
            f"{x} * 1e-9",
            f"{x} + 1e6",
            f"torch.addcmul({x}, {x}, {p})",
            f"{x} ** 2 * {p} + {x}",
        )
    )
