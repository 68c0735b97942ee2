"""Half products in Triton: the kernels, which need Triton when they are imported.

Channels are read through a table or as two halves; a channel without a partner is its own: then its sum is twice
the channel, its difference is zero, and the weight of the second one is taken as zero. Positions of all samples are
numbered through, so that short sequences leave no tile half empty.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _place(table, i, count, live, TABLED: tl.constexpr):
    """Channels of a pair: the first and the second of it."""
    if TABLED:
        return tl.load(table + i, mask=live, other=0), tl.load(table + count + i, mask=live, other=0)
    else:
        return i, i + count


@triton.jit
def _rows(table, i, count, live, step, TABLED: tl.constexpr):
    """Where the channels of a pair start: the first and the second of it."""
    first, second = _place(table, i, count, live, TABLED)
    return first * step, second * step


@triton.jit
def _pair(X, rows, base, at, keep):
    """The two channels of pairs at some positions, in float32: (pairs, positions)."""
    a = tl.load(X + rows[0][:, None] + base[None, :] + at[:, None], mask=keep, other=0.0)
    b = tl.load(X + rows[1][:, None] + base[None, :] + at[:, None], mask=keep, other=0.0)
    return a.to(tl.float32), b.to(tl.float32)


@triton.jit
def _to(x, like: tl.constexpr):
    return x if like == tl.float32 else x.to(like)


@triton.jit
def _steps(units, taps, BLOCK: tl.constexpr, FLAT: tl.constexpr):
    """Number of blocks of pairs and mirrored taps: of both together where FLAT, else each block is of one tap."""
    return tl.cdiv((taps // 2) * units, BLOCK) if FLAT else (taps // 2) * tl.cdiv(units, BLOCK)


@triton.jit
def _block(step, units, taps, BLOCK: tl.constexpr, FLAT: tl.constexpr):
    """Taps and pairs of a block, and which of them there are. Taps are a number where the block is of one tap."""
    if FLAT:
        kk = step * BLOCK + tl.arange(0, BLOCK)
        t = kk // units
        return t, kk - t * units, kk < (taps // 2) * units
    else:
        blocks = tl.cdiv(units, BLOCK)
        t = step // blocks
        i = (step - t * blocks) * BLOCK + tl.arange(0, BLOCK)
        return t, i, i < units


@triton.jit
def _read(X, rows, base, q, shift, xl, inside, live, length, FLAT: tl.constexpr, WHOLE: tl.constexpr):
    """Channels of pairs, shifted along the positions: (pairs, positions) of the first ones and the second ones."""
    if FLAT:
        p = q[None, :] + shift[:, None]
        return _pair(X, rows, base, shift * xl, inside[:, None] & live[None, :] & (p >= 0) & (p < length))
    else:
        p = q + shift
        keep = live & (p >= 0) & (p < length)
        if WHOLE:
            return _pair(X, rows, base + shift * xl, rows[0] * 0, keep[None, :])
        else:
            return _pair(X, rows, base + shift * xl, rows[0] * 0, inside[:, None] & keep[None, :])


@triton.jit
def _middle(
    plus, minus, X, W, READS, xc, xl, base, q, shift, live, makes, o, length, units, out_units,
    TABLED_IN: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """What the tap in the middle adds to half sums and half differences of the results."""
    like: tl.constexpr = X.dtype.element_ty
    for k in range(0, units, BK):
        i = k + tl.arange(0, BK)
        inside = i < units
        rows = _rows(READS, i, units, inside, xc, TABLED_IN)
        a, b = _read(X, rows, base, q, shift, xl, inside, live, length, False, WHOLE)
        w = W + (o * units)[:, None] + i[None, :]
        known = makes[:, None] if WHOLE else makes[:, None] & inside[None, :]
        w1 = tl.load(w, mask=known, other=0.0)
        w2 = tl.load(w + out_units * units, mask=known, other=0.0)
        plus = tl.dot(w1, _to(a + b, like), plus, input_precision=PRECISION)
        minus = tl.dot(w2, _to(a - b, like), minus, input_precision=PRECISION)
    return plus, minus


@triton.jit(do_not_specialize=["made", "length", "total", "taps", "dilation", "before"])
def half_forward(
    X, W, BIAS, Y, READS, MAKES,
    xn, xc, xl, yn, yc, yl, made, length, total, units, out_units, taps, dilation, before,
    TABLED_IN: tl.constexpr, TABLED_OUT: tl.constexpr, BIASED: tl.constexpr, PAIRED: tl.constexpr,
    MIDDLE: tl.constexpr, FLAT: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BL: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """A tied convolution of stride 1, or a tied linear layer: a tile of pairs of results at some positions.

    W is what `half_weights` makes: four matrices (out_units, taps // 2 * units) for mirrored taps, two of
    (out_units, units) for the one in the middle. WHOLE: BK divides the number of units.
    """
    like: tl.constexpr = X.dtype.element_ty
    pid, tiles = tl.program_id(0), tl.cdiv(out_units, BM)
    o = (pid % tiles) * BM + tl.arange(0, BM)
    at = (pid // tiles) * BL + tl.arange(0, BL)
    n = at // made
    q = at - n * made - before
    base = n * xn + q * xl
    if xl == 1:  # lets the threads of a warp read positions side by side; nothing is known of their alignment
        base = tl.max_contiguous(base, BL)
    live, makes = at < total, o < out_units
    depth = (taps // 2) * units
    size = out_units * depth
    plus = tl.zeros((BM, BL), tl.float32)
    minus = tl.zeros((BM, BL), tl.float32)
    if PAIRED:
        for step in range(0, _steps(units, taps, BK, FLAT)):
            t, i, inside = _block(step, units, taps, BK, FLAT)
            rows = _rows(READS, i, units, inside, xc, TABLED_IN)
            a1, b1 = _read(X, rows, base, q, t * dilation, xl, inside, live, length, FLAT, WHOLE)
            a2, b2 = _read(X, rows, base, q, (taps - 1 - t) * dilation, xl, inside, live, length, FLAT, WHOLE)
            w = W + (o * depth)[:, None] + (t * units + i)[None, :]
            known = makes[:, None] if WHOLE and not FLAT else makes[:, None] & inside[None, :]
            s1, e1, s2, e2 = a1 + b1, a1 - b1, a2 + b2, a2 - b2
            w1 = tl.load(w, mask=known, other=0.0)
            w2 = tl.load(w + size, mask=known, other=0.0)
            w3 = tl.load(w + 2 * size, mask=known, other=0.0)
            w4 = tl.load(w + 3 * size, mask=known, other=0.0)
            plus = tl.dot(w1, _to(s1 + s2, like), plus, input_precision=PRECISION)
            plus = tl.dot(w2, _to(e1 - e2, like), plus, input_precision=PRECISION)
            minus = tl.dot(w3, _to(e1 + e2, like), minus, input_precision=PRECISION)
            minus = tl.dot(w4, _to(s1 - s2, like), minus, input_precision=PRECISION)
    if MIDDLE:
        shift = (taps // 2) * dilation
        plus, minus = _middle(
            plus, minus, X, W + 4 * size, READS, xc, xl, base, q, shift, live, makes, o, length, units, out_units,
            TABLED_IN, WHOLE, PRECISION, BK,
        )  # fmt: skip
    rows = _place(MAKES, o, out_units, makes, TABLED_OUT)
    if BIASED:
        plus += tl.load(BIAS + rows[0], mask=makes, other=0.0).to(tl.float32)[:, None]
    to = n * yn + (q + before) * yl
    if yl == 1:
        to = tl.max_contiguous(to, BL)
    y = Y + to[None, :]
    kept = makes[:, None] & live[None, :]
    tl.store(y + (rows[0] * yc)[:, None], (plus + minus).to(like), mask=kept)
    tl.store(y + (rows[1] * yc)[:, None], (plus - minus).to(like), mask=kept)


@triton.jit(do_not_specialize=["wo", "wi", "wt", "pairs", "out_pairs", "taps"])
def half_weights(
    W, TO, READS, MAKES, wo, wi, wt, units, out_units, pairs, out_pairs, taps,
    TABLED_IN: tl.constexpr, TABLED_OUT: tl.constexpr, TURNED: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """The weight as `half_forward` reads it, of the kept rows of the whole one, whose taps are reversed if TURNED."""
    depth, last = (taps // 2) * units, taps - 1
    kk = tl.program_id(0) * B + tl.arange(0, B)
    o = tl.program_id(1)
    whole = (taps // 2 + taps % 2) * units
    t, inside = kk // units, kk < whole
    i = kk - t * units
    first, second = _place(READS, i, units, inside, TABLED_IN)
    row, _ = _place(MAKES, o, out_units, True, TABLED_OUT)
    left, right = (last - t, t) if TURNED else (t, last - t)
    w = W + row * wo
    swaps = inside & (i < pairs)
    a1 = tl.load(w + first * wi + left * wt, mask=inside, other=0.0).to(tl.float32)
    a2 = tl.load(w + first * wi + right * wt, mask=inside, other=0.0).to(tl.float32)
    b1 = tl.load(w + second * wi + left * wt, mask=swaps, other=0.0).to(tl.float32)
    b2 = tl.load(w + second * wi + right * wt, mask=swaps, other=0.0).to(tl.float32)
    differs = tl.where(o < out_pairs, 0.25, 0.0)
    mirrored, size, to = kk < depth, out_units * depth, TO + o * depth + kk
    like: tl.constexpr = TO.dtype.element_ty
    tl.store(to, ((a1 + a2 + (b1 + b2)) * 0.25).to(like), mask=mirrored)
    tl.store(to + size, ((a1 - a2 - (b1 - b2)) * 0.25).to(like), mask=mirrored)
    tl.store(to + 2 * size, ((a1 + a2 - (b1 + b2)) * differs).to(like), mask=mirrored)
    tl.store(to + 3 * size, ((a1 - a2 + (b1 - b2)) * differs).to(like), mask=mirrored)
    middle, to = inside & (kk >= depth), TO + 4 * size + o * units + kk - depth
    tl.store(to, ((a1 + b1) * 0.5).to(like), mask=middle)
    tl.store(to + out_units * units, ((a1 - b1) * 2 * differs).to(like), mask=middle)


@triton.jit(do_not_specialize=["made", "length", "total", "taps", "dilation", "before", "share"])
def half_gradient(
    X, G, TO, READS, MAKES,
    xn, xc, xl, gn, gc, gl, made, length, total, units, out_units, taps, dilation, before, share,
    TABLED_IN: tl.constexpr, TABLED_OUT: tl.constexpr, MIDDLE: tl.constexpr, FLAT: tl.constexpr,
    WHOLE: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """The gradient of what `half_weights` makes, summed over a share of the positions.

    TO is (shares, 4, out_units, taps // 2 * units) for mirrored taps, (shares, 2, out_units, units) where MIDDLE.
    WHOLE: BN divides the number of units.
    """
    like: tl.constexpr = X.dtype.element_ty
    pid, tiles = tl.program_id(0), tl.cdiv(out_units, BM)
    o = (pid % tiles) * BM + tl.arange(0, BM)
    makes = o < out_units
    if MIDDLE:
        t, depth = taps // 2, units
        i = (pid // tiles) * BN + tl.arange(0, BN)
        inside, place = i < units, i
    else:
        t, i, inside = _block(pid // tiles, units, taps, BN, FLAT)
        depth, place = (taps // 2) * units, t * units + i
    rows = _rows(READS, i, units, inside, xc, TABLED_IN)
    out = _rows(MAKES, o, out_units, makes, gc, TABLED_OUT)
    d1, d2 = t * dilation, (taps - 1 - t) * dilation
    zero = tl.zeros((BM, BN), tl.float32)
    es, om, ed, op = zero, zero, zero, zero
    start = tl.program_id(1) * share
    for p in range(start, min(start + share, total), BL):
        at = p + tl.arange(0, BL)
        n = at // made
        q = at - n * made - before
        live = at < total
        top = n * gn + (q + before) * gl
        if gl == 1:
            top = tl.max_contiguous(top, BL)
        g1, g2 = _pair(G, out, top, o * 0, makes[:, None] & live[None, :])
        u, v = _to(g1 + g2, like), _to(g1 - g2, like)
        base = n * xn + q * xl
        if xl == 1:
            base = tl.max_contiguous(base, BL)
        a1, b1 = _read(X, rows, base, q, d1, xl, inside, live, length, FLAT, WHOLE)
        if MIDDLE:
            es = tl.dot(u, tl.trans(_to(a1 + b1, like)), es, input_precision=PRECISION)
            ed = tl.dot(v, tl.trans(_to(a1 - b1, like)), ed, input_precision=PRECISION)
        else:
            a2, b2 = _read(X, rows, base, q, d2, xl, inside, live, length, FLAT, WHOLE)
            s1, e1, s2, e2 = a1 + b1, a1 - b1, a2 + b2, a2 - b2
            es = tl.dot(u, tl.trans(_to(s1 + s2, like)), es, input_precision=PRECISION)
            om = tl.dot(u, tl.trans(_to(e1 - e2, like)), om, input_precision=PRECISION)
            ed = tl.dot(v, tl.trans(_to(e1 + e2, like)), ed, input_precision=PRECISION)
            op = tl.dot(v, tl.trans(_to(s1 - s2, like)), op, input_precision=PRECISION)
    size = out_units * depth
    known = makes[:, None] & inside[None, :]
    to = TO + tl.program_id(1) * size * (2 if MIDDLE else 4) + (o * depth)[:, None] + place[None, :]
    tl.store(to, es, mask=known)
    tl.store(to + (size if MIDDLE else 2 * size), ed, mask=known)
    if not MIDDLE:
        tl.store(to + size, om, mask=known)
        tl.store(to + 3 * size, op, mask=known)


@triton.jit(do_not_specialize=["units", "out_units", "pairs", "out_pairs", "taps", "shares", "middle_shares"])
def half_fold(
    PAIRS, CENTRE, TO, READS, MAKES, wo, wi, wt, units, out_units, pairs, out_pairs, taps, shares, middle_shares,
    TABLED_IN: tl.constexpr, TABLED_OUT: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """The gradient of the whole weight from what `half_gradient` made of all shares; the kept rows of it."""
    depth = (taps // 2) * units
    kk = tl.program_id(0) * B + tl.arange(0, B)
    o = tl.program_id(1)
    t, inside = kk // units, kk < depth + (taps % 2) * units
    i = kk - t * units
    first, second = _place(READS, i, units, inside, TABLED_IN)
    row, _ = _place(MAKES, o, out_units, True, TABLED_OUT)
    mirrored, middle = kk < depth, inside & (kk >= depth)
    zero = tl.zeros((B,), tl.float32)
    es, om, ed, op = zero, zero, zero, zero
    size = out_units * depth
    for s in range(0, shares):
        at = PAIRS + s * 4 * size + o * depth + kk
        es += tl.load(at, mask=mirrored, other=0.0)
        om += tl.load(at + size, mask=mirrored, other=0.0)
        ed += tl.load(at + 2 * size, mask=mirrored, other=0.0)
        op += tl.load(at + 3 * size, mask=mirrored, other=0.0)
    for s in range(0, middle_shares):
        at = CENTRE + s * 2 * out_units * units + o * units + kk - depth
        es += 2 * tl.load(at, mask=middle, other=0.0)
        ed += 2 * tl.load(at + out_units * units, mask=middle, other=0.0)
    scale = tl.where(o < out_pairs, 0.25, 0.125)  # a result without a partner was read twice
    to, swaps = TO + row * wo, i < pairs
    like: tl.constexpr = TO.dtype.element_ty
    left, right = to + t * wt, to + (taps - 1 - t) * wt
    tl.store(left + first * wi, ((es + om + ed + op) * scale).to(like), mask=inside)
    tl.store(left + second * wi, ((es - om - ed + op) * scale).to(like), mask=inside & swaps)
    tl.store(right + first * wi, ((es - om + ed - op) * scale).to(like), mask=mirrored)
    tl.store(right + second * wi, ((es + om - ed - op) * scale).to(like), mask=mirrored & swaps)
