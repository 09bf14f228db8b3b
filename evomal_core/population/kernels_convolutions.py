"""Compiled CPU kernels (Numba) between the matrix products of a convolutional network and its derivatives.

Arrays are (channels, height, width, rows), rows innermost, so that every loop over the rows of a batch is one over
whole vectors. Functions named `…_back` take a cotangent, `…_push` a tangent.

All kernels are in this one file, because Numba's cache on disk misses changes in imported ones. Sums may be
reordered and products fused; infinities and NaN keep their meaning, so that divergence shows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

DIRECT_WIDTHS = (3, 5)
"""Widths of kernels that `correlate` and `correlate_weights` take."""

TILE = 16
"""Rows that are transposed at a time."""


def _compiled(function: Any, fastmath: set[str]) -> Any:
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    compile_: Any = njit
    try:
        return compile_(function, cache=True, **options)
    except RuntimeError:  # "cannot cache function: no locator available"
        return compile_(function, **options)


def _jit(function: Any) -> Any:
    """Compile without the GIL; keep the code on disk unless no folder for it can be written."""
    return _compiled(function, {"contract"})


def _sums(function: Any) -> Any:
    """Compile as `_jit` does, with sums that may be reordered."""
    return _compiled(function, {"contract", "reassoc"})


# ---- convolutions of few input channels, without unfolding: stride 1, h is (inputs, height, width·rows) ------


@_jit
def _row5(o0, o1, s, rows, a, b):
    """Two filters' rows of outputs from one row of inputs and a row of five weights each."""
    size = o0.size
    s0, s1, s2 = s[:size], s[rows : rows + size], s[2 * rows : 2 * rows + size]
    s3, s4 = s[3 * rows : 3 * rows + size], s[4 * rows : 4 * rows + size]
    a0, a1, a2, a3, a4 = a[0], a[1], a[2], a[3], a[4]
    b0, b1, b2, b3, b4 = b[0], b[1], b[2], b[3], b[4]
    for n in range(size):
        x0, x1, x2, x3, x4 = s0[n], s1[n], s2[n], s3[n], s4[n]
        o0[n] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3 + a4 * x4
        o1[n] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3 + b4 * x4


@_jit
def _row3(o0, o1, s, rows, a, b):
    size = o0.size
    s0, s1, s2 = s[:size], s[rows : rows + size], s[2 * rows : 2 * rows + size]
    a0, a1, a2 = a[0], a[1], a[2]
    b0, b1, b2 = b[0], b[1], b[2]
    for n in range(size):
        x0, x1, x2 = s0[n], s1[n], s2[n]
        o0[n] += a0 * x0 + a1 * x1 + a2 * x2
        o1[n] += b0 * x0 + b1 * x1 + b2 * x2


@_jit
def correlate(h, w, bias, rows, add, out):
    """out (outputs, y, x·rows) = the convolution of h with w (outputs, inputs, ky, kx), plus the bias.

    The number of outputs is even, kx is 3 or 5. With `add`, the convolution is added to `out`, the bias is not.
    """
    for y in range(out.shape[1]):
        for f in range(0, out.shape[0], 2):
            o0, o1 = out[f, y], out[f + 1, y]
            if not add:
                o0[:] = bias[f]
                o1[:] = bias[f + 1]
            for c in range(h.shape[0]):
                for k in range(w.shape[2]):
                    if w.shape[3] == 5:
                        _row5(o0, o1, h[c, y + k], rows, w[f, c, k], w[f + 1, c, k])
                    else:
                        _row3(o0, o1, h[c, y + k], rows, w[f, c, k], w[f + 1, c, k])


@_sums
def _dots5(d0, d1, s, rows, a, b):
    size = d0.size
    s0, s1, s2 = s[:size], s[rows : rows + size], s[2 * rows : 2 * rows + size]
    s3, s4 = s[3 * rows : 3 * rows + size], s[4 * rows : 4 * rows + size]
    zero = d0.dtype.type(0)
    a0 = a1 = a2 = a3 = a4 = b0 = b1 = b2 = b3 = b4 = zero
    for n in range(size):
        p, q = d0[n], d1[n]
        x0, x1, x2, x3, x4 = s0[n], s1[n], s2[n], s3[n], s4[n]
        a0 += p * x0
        a1 += p * x1
        a2 += p * x2
        a3 += p * x3
        a4 += p * x4
        b0 += q * x0
        b1 += q * x1
        b2 += q * x2
        b3 += q * x3
        b4 += q * x4
    a[0] += a0
    a[1] += a1
    a[2] += a2
    a[3] += a3
    a[4] += a4
    b[0] += b0
    b[1] += b1
    b[2] += b2
    b[3] += b3
    b[4] += b4


@_sums
def _dots3(d0, d1, s, rows, a, b):
    size = d0.size
    s0, s1, s2 = s[:size], s[rows : rows + size], s[2 * rows : 2 * rows + size]
    a0 = a1 = a2 = b0 = b1 = b2 = d0.dtype.type(0)
    for n in range(size):
        p, q = d0[n], d1[n]
        x0, x1, x2 = s0[n], s1[n], s2[n]
        a0 += p * x0
        a1 += p * x1
        a2 += p * x2
        b0 += q * x0
        b1 += q * x1
        b2 += q * x2
    a[0] += a0
    a[1] += a1
    a[2] += a2
    b[0] += b0
    b[1] += b1
    b[2] += b2


@_jit
def correlate_weights(h, d, rows, gradient):
    """Add to `gradient` (outputs, inputs, ky, kx) that of `correlate` from cotangents d (outputs, y, x·rows)."""
    for y in range(d.shape[1]):
        for f in range(0, d.shape[0], 2):
            for c in range(h.shape[0]):
                for k in range(gradient.shape[2]):
                    if gradient.shape[3] == 5:
                        _dots5(d[f, y], d[f + 1, y], h[c, y + k], rows, gradient[f, c, k], gradient[f + 1, c, k])
                    else:
                        _dots3(d[f, y], d[f + 1, y], h[c, y + k], rows, gradient[f, c, k], gradient[f + 1, c, k])


# ---- convolutions of any kind, by unfolding ----------------------------------------------------------


@_jit
def _copy(source, target):
    for n in range(target.size):
        target[n] = source[n]


@_jit
def _add(total, change):
    for n in range(total.size):
        total[n] += change[n]


@_jit
def unfold(h, stride_y, stride_x, out):
    """Patches of h (C, H, W, rows): out (C, ky, kx, y, x, rows)."""
    for c in range(h.shape[0]):
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                for y in range(out.shape[3]):
                    source, target = h[c, y * stride_y + i], out[c, i, j, y]
                    if stride_x == 1:
                        _copy(source[j : j + out.shape[4]].reshape(-1), target.reshape(-1))
                    else:
                        for x in range(out.shape[4]):
                            _copy(source[j + x * stride_x], target[x])


@_jit
def fold(patches, stride_y, stride_x, out):
    """The transpose of `unfold`: patches (C, ky, kx, y, x, rows) added up in out (C, H, W, rows)."""
    for c in range(out.shape[0]):
        out[c] = 0
        for i in range(patches.shape[1]):
            for y in range(patches.shape[3]):
                target = out[c, y * stride_y + i]
                for j in range(patches.shape[2]):
                    source = patches[c, i, j, y]
                    if stride_x == 1:
                        _add(target[j : j + patches.shape[4]].reshape(-1), source.reshape(-1))
                    else:
                        for x in range(patches.shape[4]):
                            _add(target[j + x * stride_x], source[x])


@_jit
def pad(h, top, left, out):
    """Copy h (C, H, W, rows) into the middle of a larger array, whose border stays as it is."""
    for c in range(h.shape[0]):
        for y in range(h.shape[1]):
            _copy(h[c, y].reshape(-1), out[c, y + top, left : left + h.shape[2]].reshape(-1))


@_jit
def crop(h, top, left, out):
    """The middle of h, of the shape of `out`."""
    for c in range(out.shape[0]):
        for y in range(out.shape[1]):
            _copy(h[c, y + top, left : left + out.shape[2]].reshape(-1), out[c, y].reshape(-1))


@_sums
def _sum(x):
    total = x.dtype.type(0)
    for n in range(x.size):
        total += x[n]
    return total


@_sums
def _dot(x, y):
    total = x.dtype.type(0)
    for n in range(x.size):
        total += x[n] * y[n]
    return total


@_jit
def sums(d, total):
    """Add the sums of the rows of a matrix to `total`."""
    for c in range(d.shape[0]):
        total[c] += _sum(d[c])


@_jit
def _shift(x, change):
    for n in range(x.size):
        x[n] += change


@_jit
def add_bias(z, bias):
    """Add a number to each row of a matrix."""
    for c in range(z.shape[0]):
        _shift(z[c], bias[c])


# ---- activations -------------------------------------------------------------------------------------


_TANH_ABOVE = tuple(map(np.float32, (
    -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
    1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03,
)))  # fmt: skip
_TANH_BELOW = tuple(
    map(np.float32, (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03))
)
"""Coefficients of Eigen's `generic_fast_tanh_float`, highest power of x² first."""


def _tanh(x: Any) -> Any:
    """tanh x; in float32 as a quotient of polynomials, within 3e-7."""


@overload(_tanh, jit_options={"nogil": True, "fastmath": {"contract"}})
def _tanh_for(x: Any) -> Any:
    if x != types.float32:

        def tanh64(x: Any) -> Any:
            return math.tanh(x)

        return tanh64

    largest = np.float32(7.90531110763549805)  # beyond it, tanh is 1 in float32
    a0, a1, a2, a3, a4, a5, a6 = _TANH_ABOVE
    b0, b1, b2, b3 = _TANH_BELOW

    def tanh32(x: Any) -> Any:
        v = min(max(x, -largest), largest)
        q = v * v
        p = a0 * q + a1
        p = p * q + a2
        p = p * q + a3
        p = p * q + a4
        p = p * q + a5
        p = p * q + a6
        r = b0 * q + b1
        r = r * q + b2
        r = r * q + b3
        t = v * p / r
        return t if x == x else x

    return tanh32


@_jit
def tanh(x):
    """Apply tanh to a vector in place."""
    for n in range(x.size):
        x[n] = _tanh(x[n])


@_jit
def tanh_through(change, output):
    """Multiply a tangent or cotangent by the slope of tanh, which its output tells."""
    one = change.dtype.type(1)
    for n in range(change.size):
        change[n] *= one - output[n] * output[n]


@_jit
def relu(x):
    """Apply ReLU to a vector in place; NaN is kept."""
    zero = x.dtype.type(0)
    for n in range(x.size):
        x[n] = zero if x[n] < zero else x[n]


@_jit
def relu_through(change, output):
    """Multiply a tangent or cotangent by the slope of ReLU, which its output tells."""
    zero = change.dtype.type(0)
    for n in range(change.size):
        change[n] = change[n] if output[n] > zero else zero


# ---- 2×2 pooling: an odd last row or column is left out ----------------------------------------------


@_jit
def _mean4(a, b, c, d, out):
    quarter = out.dtype.type(0.25)
    for n in range(out.size):
        out[n] = quarter * ((a[n] + b[n]) + (c[n] + d[n]))


@_jit
def average(h, out):
    """Means of h (C, H, W, rows) over squares of 2×2."""
    for c in range(out.shape[0]):
        for y in range(out.shape[1]):
            upper, lower = h[c, 2 * y], h[c, 2 * y + 1]
            for x in range(out.shape[2]):
                _mean4(upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1], out[c, y, x])


@_jit
def average_back(d, out):
    """The transpose of `average`."""
    quarter = d.dtype.type(0.25)
    if out.shape[1] % 2 or out.shape[2] % 2:
        out[:] = 0
    for c in range(d.shape[0]):
        for y in range(2 * d.shape[1]):
            for x in range(2 * d.shape[2]):
                source, target = d[c, y // 2, x // 2], out[c, y, x]
                for n in range(target.size):
                    target[n] = quarter * source[n]


@_jit
def tanh_average(z, out):
    """z = tanh z in place, and its `average`."""
    for c in range(z.shape[0]):
        for y in range(out.shape[1]):
            upper, lower = z[c, 2 * y], z[c, 2 * y + 1]
            tanh(upper.reshape(-1))
            tanh(lower.reshape(-1))
            for x in range(out.shape[2]):
                _mean4(upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1], out[c, y, x])


@_jit
def _tanh_slope(d, t, out):
    quarter, one = d.dtype.type(0.25), d.dtype.type(1)
    for n in range(d.size):
        out[n] = quarter * d[n] * (one - t[n] * t[n])


@_jit
def tanh_average_back(d, t, out):
    """Cotangents before tanh from those after the `average`; t is what tanh gave."""
    if out.shape[1] % 2 or out.shape[2] % 2:
        out[:] = 0
    for c in range(d.shape[0]):
        for y in range(2 * d.shape[1]):
            for x in range(2 * d.shape[2]):
                _tanh_slope(d[c, y // 2, x // 2], t[c, y, x], out[c, y, x])


@_jit
def _tanh_mean(z, t, out):
    quarter, one = z.dtype.type(0.25), z.dtype.type(1)
    for n in range(z.size):
        out[n] += quarter * z[n] * (one - t[n] * t[n])


@_jit
def tanh_average_push(z, t, out):
    """Tangents after the `average` from those before tanh, z."""
    out[:] = 0
    for c in range(out.shape[0]):
        for y in range(2 * out.shape[1]):
            for x in range(2 * out.shape[2]):
                _tanh_mean(z[c, y, x], t[c, y, x], out[c, y // 2, x // 2])


@_jit
def _maximum4(a, b, c, d, floor, at, out):
    for n in range(out.size):
        va, vb, vc, vd = a[n], b[n], c[n], d[n]
        better = (vb > va) | (vb != vb)  # NaN wins, as in PyTorch
        k = np.int32(1) if better else np.int32(0)
        m = vb if better else va
        better = (vc > m) | (vc != vc)
        k = np.int32(2) if better else k
        m = vc if better else m
        better = (vd > m) | (vd != vd)
        k = np.int32(3) if better else k
        m = vd if better else m
        out[n] = floor if m < floor else m
        at[n] = k if m > floor else np.int32(4)


@_jit
def maximum(z, floor, at, out):
    """The larger of `floor` and the largest of each square of 2×2; `at` says which of 0 to 3, or 4 for `floor`."""
    for c in range(out.shape[0]):
        for y in range(out.shape[1]):
            upper, lower = z[c, 2 * y], z[c, 2 * y + 1]
            for x in range(out.shape[2]):
                _maximum4(upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1], floor, at[c, y, x],
                          out[c, y, x])  # fmt: skip


@_jit
def _where(d, at, place, out):
    zero = d.dtype.type(0)
    for n in range(d.size):
        out[n] = d[n] if at[n] == place else zero


@_jit
def maximum_back(d, at, out):
    """The transpose of `maximum_push`."""
    if out.shape[1] % 2 or out.shape[2] % 2:
        out[:] = 0
    for c in range(d.shape[0]):
        for y in range(2 * d.shape[1]):
            for x in range(2 * d.shape[2]):
                _where(d[c, y // 2, x // 2], at[c, y // 2, x // 2], np.int32(2 * (y % 2) + x % 2), out[c, y, x])


@_jit
def _chosen(a, b, c, d, at, out):
    zero = out.dtype.type(0)
    for n in range(out.size):
        va, vb, vc, vd, k = a[n], b[n], c[n], d[n], at[n]
        v = va if k == 0 else zero
        v = vb if k == 1 else v
        v = vc if k == 2 else v
        out[n] = vd if k == 3 else v


@_jit
def maximum_push(t, at, out):
    """The tangents of what `maximum` chose."""
    for c in range(out.shape[0]):
        for y in range(out.shape[1]):
            upper, lower = t[c, 2 * y], t[c, 2 * y + 1]
            for x in range(out.shape[2]):
                _chosen(upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1], at[c, y, x], out[c, y, x])


# ---- batch norm, a block of rows at a time: h, hat and d are (C, positions·rows) ----------------------


@_sums
def _square_sum(x, mean):
    total = x.dtype.type(0)
    for n in range(x.size):
        change = x[n] - mean
        total += change * change
    return total


@_jit
def square_sums(h, mean, total):
    """Add each channel's Σ(h − mean)² to `total`."""
    for c in range(h.shape[0]):
        total[c] += _square_sum(h[c], mean[c])


@_jit
def _affine(x, shift, scale, out):
    for n in range(x.size):
        out[n] = (x[n] - shift) * scale


@_jit
def _scaled(x, scale, shift, out):
    for n in range(x.size):
        out[n] = x[n] * scale + shift


@_jit
def normalise(h, mean, scale, w, b, hat, out):
    """hat = (h − mean)·scale, out = hat·w + b."""
    for c in range(h.shape[0]):
        _affine(h[c], mean[c], scale[c], hat[c])
        _scaled(hat[c], w[c], b[c], out[c])


@_jit
def correlations(d, hat, by_weight, by_bias):
    """Add each channel's Σ d·hat and Σ d."""
    for c in range(d.shape[0]):
        by_weight[c] += _dot(d[c], hat[c])
        by_bias[c] += _sum(d[c])


@_jit
def _combine(x, hat, a, b, c, out):
    for n in range(x.size):
        out[n] = a * x[n] + b * hat[n] + c


@_jit
def combine(x, hat, a, b, c, out):
    """out = a·x + b·hat + c in each channel."""
    for n in range(x.shape[0]):
        _combine(x[n], hat[n], a[n], b[n], c[n], out[n])


# ---- the table of the rows' Jacobian -----------------------------------------------------------------


@_jit
def to_rows(d, first, out):
    """d (outputs, positions, rows) → out[row, first + output, position]."""
    outputs, positions, rows = d.shape
    for f in range(outputs):
        for start in range(0, rows, TILE):
            stop = min(start + TILE, rows)
            for p in range(positions):
                for row in range(start, stop):
                    out[row, first + f, p] = d[f, p, row]


@_jit
def row_patches(h, stride_y, stride_x, out):
    """Patches of h (C, H, W, rows), each row's apart: out (rows, y, x, C, ky, kx)."""
    for start in range(0, h.shape[3], TILE):
        stop = min(start + TILE, h.shape[3])
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                for c in range(h.shape[0]):
                    for i in range(out.shape[4]):
                        for j in range(out.shape[5]):
                            source = h[c, y * stride_y + i, x * stride_x + j]
                            for row in range(start, stop):
                                out[row, y, x, c, i, j] = source[row]


@_jit
def _multiply_add(x, y, out):
    for n in range(out.size):
        out[n] += x[n] * y[n]


@_jit
def weigh(factors, d, out):
    """out (outputs, rows) = Σ over c of factors (C, rows) · d (C, outputs, rows)."""
    out[:] = 0
    for c in range(d.shape[0]):
        for o in range(out.shape[0]):
            _multiply_add(factors[c], d[c, o], out[o])


@_jit
def weigh_back(z, d, out):
    """Add Σ over outputs of z (outputs, rows) · d (C, outputs, rows) to out (C, rows)."""
    for c in range(d.shape[0]):
        for o in range(z.shape[0]):
            _multiply_add(z[o], d[c, o], out[c])


# ---- batches -----------------------------------------------------------------------------------------


@_jit
def rows_last(x, out):
    """x (blocks, rows, features) → out (blocks, features, rows)."""
    blocks, rows, features = x.shape
    for k in range(blocks):
        for start in range(0, features, TILE):
            stop = min(start + TILE, features)
            for row in range(rows):
                for f in range(start, stop):
                    out[k, f, row] = x[k, row, f]
