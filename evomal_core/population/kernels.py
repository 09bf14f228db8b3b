"""Compiled CPU kernels (Numba): fused meta-step and fitness training of small perceptrons; rejection protocol.

One candidate on one task at a time stays in the processor's cache from the loss's slope to its
meta-gradient, as `batched` and `program` compute it with whole tensors. No sum crosses candidates, so a
result depends neither on the company of a candidate nor on the number of threads.

The kernels of recurrent and convolutional networks, in files of their own, import some of these; Numba's cache on
disk misses changes in imported functions, so after a change here theirs has to be deleted. Kernels release the GIL
and run in threads of their own: Numba's `prange` would reset PyTorch's threads. Of fast-math there is only the
contraction of a·b + c and, in sums, any order: the rest would hide divergence. Without Numba everything works
through PyTorch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

from evomal_core.primitives import EPSILON, SOFTPLUS_THRESHOLD  # after an edit of these delete __pycache__

OPERATIONS = (
    "f", "y", "1", "-1", "add", "sub", "mul", "div", "min", "max", "square", "abs", "sqrt", "log", "sign", "tanh",
    "clamped_sqrt", "clamped_log",
)  # fmt: skip
"""Codes of the nodes, in order."""
F, Y, ONE, MINUS, ADD, SUB, MUL, DIV, MIN, MAX, SQUARE, ABS, SQRT, LOG, SIGN, TANH, SQRT_CLAMPED, LOG_CLAMPED = (
    range(18)
)
KINDS = ("regression", "binary", "multiclass")
REGRESSION, BINARY, MULTICLASS = range(3)
NONE, RELU, TANH_LAYER = range(3)


def _jit(function: Any, *fast: str) -> Any:
    """Compile without the GIL; keep the code on disk unless no folder for it can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", *fast}}
    compile_: Any = njit
    try:
        return compile_(function, cache=True, **options)
    except RuntimeError:  # "cannot cache function: no locator available"
        return compile_(function, **options)


def _summing(function: Any) -> Any:
    """Compile a sum, whose terms may be added in any order."""
    return _jit(function, "reassoc")


# ---- logarithm and tanh of whole rows, as polynomials that vectorise ---------------------------------


def _bits_for(typing_context: Any, x: Any) -> Any:
    """The bits of a float as an integer, or of an integer as a float."""
    swap: dict[Any, Any] = {types.float32: types.int32, types.float64: types.int64}
    target = (swap | {integer: real for real, integer in swap.items()})[x]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return target(x), generate


_bits: Any = intrinsic(_bits_for)


def _log_row(x: Any, out: Any) -> None:
    """out = ln x for x > 0, infinite or NaN: x = 2^k·m, ln m by the series of atanh."""


@overload(_log_row, jit_options={"nogil": True})
def _log_row_for(x: Any, out: Any) -> Any:
    if x.dtype == types.float32:

        def log32(x: Any, out: Any) -> None:
            for n in range(x.size):
                bits = np.int32(_bits(x[n]) + np.int32(0x3F800000 - 0x3F3504F3))
                k = np.float32((bits >> np.int32(23)) - np.int32(127))
                m = _bits(np.int32((bits & np.int32(0x007FFFFF)) + np.int32(0x3F3504F3)))
                h = m - np.float32(1)
                s = h / (np.float32(2) + h)
                z = s * s
                r = np.float32(0.24279078841)
                r = r * z + np.float32(0.28498786688)
                r = r * z + np.float32(0.40000972152)
                r = (r * z + np.float32(0.66666662693)) * z
                half = np.float32(0.5) * h * h
                low = s * (half + r) + k * np.float32(9.0580006145e-06)
                value = low - half + h + k * np.float32(6.9313812256e-01)
                out[n] = value if x[n] < np.float32(np.inf) else x[n]

        return log32

    def log64(x: Any, out: Any) -> None:
        for n in range(x.size):
            bits = _bits(x[n]) + np.int64(0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
            k = np.float64((bits >> np.int64(52)) - np.int64(1023))
            m = _bits(np.int64((bits & np.int64(0x000FFFFFFFFFFFFF)) + np.int64(0x3FE6A09E667F3BCD)))
            h = m - 1.0
            s = h / (2.0 + h)
            z = s * s
            r = 1.479819860511658591e-01
            r = r * z + 1.531383769920937332e-01
            r = r * z + 1.818357216161805012e-01
            r = r * z + 2.222219843214978396e-01
            r = r * z + 2.857142874366239149e-01
            r = r * z + 3.999999999940941908e-01
            r = (r * z + 6.666666666666735130e-01) * z
            half = 0.5 * h * h
            value = s * (half + r) + k * 1.90821492927058770002e-10 - half + h + k * 6.93147180369123816490e-01
            out[n] = value if x[n] < np.inf else x[n]

    return log64


def _tanh(x: Any) -> Any:
    """tanh x, by functions that LLVM vectorises."""


@overload(_tanh, jit_options={"nogil": True, "fastmath": {"contract"}})
def _tanh_for(x: Any) -> Any:
    if x == types.float32:

        def tanh32(x: Any) -> Any:
            """Eigen's rational function where |x| < 7.9, exact to 3e-7; ±1 beyond."""
            top = np.float32(7.90531110763549805)
            v = -top if x < -top else x  # NaN is kept
            v = top if v > top else v
            q = v * v
            a = np.float32(-2.76076847742355e-16)
            a = a * q + np.float32(2.00018790482477e-13)
            a = a * q + np.float32(-8.60467152213735e-11)
            a = a * q + np.float32(5.12229709037114e-08)
            a = a * q + np.float32(1.48572235717979e-05)
            a = a * q + np.float32(6.37261928875436e-04)
            a = (a * q + np.float32(4.89352455891786e-03)) * v
            b = np.float32(1.19825839466702e-06)
            b = b * q + np.float32(1.18534705686654e-04)
            b = b * q + np.float32(2.26843463243900e-03)
            b = b * q + np.float32(4.89352518554385e-03)
            t = a / b
            t = np.float32(1) if v == top else t
            return np.float32(-1) if v == -top else t

        return tanh32

    def tanh64(x: Any) -> Any:
        """e / (e + 2) with e = exp(2|x|) − 1, 2|x| = k·ln 2 + r and a polynomial in r."""
        a = min(2.0 * abs(x), 80.0)
        whole = np.int64(a * 1.4426950408889634 + 0.5)
        k = np.float64(whole)
        r = a - k * 6.93147180369123816490e-01 - k * 1.90821492927058770002e-10
        p = 1 / 6227020800
        p = p * r + 1 / 479001600
        p = p * r + 1 / 39916800
        p = p * r + 1 / 3628800
        p = p * r + 1 / 362880
        p = p * r + 1 / 40320
        p = p * r + 1 / 5040
        p = p * r + 1 / 720
        p = p * r + 1 / 120
        p = p * r + 1 / 24
        p = p * r + 1 / 6
        p = p * r + 0.5
        p = p * r * r + r
        power = _bits(np.int64((whole + np.int64(1023)) << np.int64(52)))
        e = power * p + (power - 1.0)
        t = e / (e + 2.0)
        t = -t if x < 0.0 else t
        return t if x == x else x

    return tanh64


@_jit
def _tanh_row(x, out):
    for n in range(x.size):
        out[n] = _tanh(x[n])


@_jit
def _tanh_in_place(x):
    """Compute `_tanh_row(x, x)`, which LLVM would not vectorise because its arrays overlap."""
    for n in range(x.size):
        x[n] = _tanh(x[n])


# ---- expressions -------------------------------------------------------------------------------------
# A tree is three integer rows: operation codes in prefix order, first and second children's positions.
# The weight of node i > 0 is w[i − 1]. Work arrays are (nodes, N): one row per node.


@_jit
def _expression_slope(tree, w, softplus, f, y, value, arg_a, arg_b, slope_a, slope_b, after, g):
    """g = dM/df elementwise; the work arrays keep what `_expression_mixed` needs."""
    zero, half, one = f.dtype.type(0), f.dtype.type(0.5), f.dtype.type(1)
    two, eps = f.dtype.type(2), f.dtype.type(EPSILON)
    for i in range(tree.shape[1] - 1, -1, -1):
        op = tree[0, i]
        v, a, b, sa, sb = value[i], arg_a[i], arg_b[i], slope_a[i], slope_b[i]
        if op >= ADD:
            c = tree[1, i]
            wa, va = w[c - 1], value[c]
            for n in range(f.size):
                a[n] = wa * va[n]
            if op < SQUARE:
                c = tree[2, i]
                wb, vb = w[c - 1], value[c]
                for n in range(f.size):
                    b[n] = wb * vb[n]
        if op == F:
            _copy(f, v)
        elif op == Y:
            _copy(y, v)
        elif op == ONE:
            v[:] = one
        elif op == MINUS:
            v[:] = -one
        elif op == ADD:
            for n in range(f.size):
                v[n], sa[n], sb[n] = a[n] + b[n], one, one
        elif op == SUB:
            for n in range(f.size):
                v[n], sa[n], sb[n] = a[n] - b[n], one, -one
        elif op == MUL:
            for n in range(f.size):
                v[n], sa[n], sb[n] = a[n] * b[n], b[n], a[n]
        elif op == DIV:
            for n in range(f.size):
                r = one / math.sqrt(one + b[n] * b[n])
                v[n], sa[n] = a[n] * r, r
                sb[n] = -v[n] * (b[n] * r) * r
        elif op in (MIN, MAX):
            for n in range(f.size):
                above = (half if a[n] > b[n] else zero) + (half if a[n] >= b[n] else zero)
                below = (half if a[n] < b[n] else zero) + (half if a[n] <= b[n] else zero)
                first = below if op == MIN else above
                v[n] = a[n] if first > zero or a[n] != a[n] else b[n]  # NaN in either is kept
                sa[n], sb[n] = first, above if op == MIN else below
        elif op == SQUARE:
            for n in range(f.size):
                v[n], sa[n] = a[n] * a[n], two * a[n]
        elif op == ABS:
            for n in range(f.size):
                v[n], sa[n] = abs(a[n]), (one if a[n] > zero else zero) - (one if a[n] < zero else zero)
        elif op == SQRT:
            for n in range(f.size):
                v[n] = math.sqrt(abs(a[n]) + eps)
                sa[n] = ((half if a[n] > zero else zero) - (half if a[n] < zero else zero)) / v[n]
        elif op == LOG:
            for n in range(f.size):
                b[n] = abs(a[n]) + eps
                sa[n] = ((one if a[n] > zero else zero) - (one if a[n] < zero else zero)) / b[n]
            _log_row(b, v)
        elif op == SQRT_CLAMPED:
            for n in range(f.size):
                below = abs(a[n]) < eps
                v[n] = math.sqrt(eps if below else abs(a[n]))
                sa[n] = (
                    zero if below else ((half if a[n] > zero else zero) - (half if a[n] < zero else zero)) / v[n]
                )
        elif op == LOG_CLAMPED:
            for n in range(f.size):
                below = abs(a[n]) < eps
                b[n] = eps if below else abs(a[n])
                sa[n] = zero if below else ((one if a[n] > zero else zero) - (one if a[n] < zero else zero)) / b[n]
            _log_row(b, v)
        elif op == SIGN:
            for n in range(f.size):
                v[n], sa[n] = (one if a[n] > zero else zero) - (one if a[n] < zero else zero), zero
        else:
            _tanh_row(a, v)
            for n in range(f.size):
                sa[n] = one - v[n] * v[n]
    root = after[0]
    root[:] = one
    if softplus:
        for n in range(f.size):
            root[n] = one if value[0, n] > SOFTPLUS_THRESHOLD else one / (one + math.exp(-value[0, n]))
    g[:] = 0
    for i in range(tree.shape[1]):
        here = after[i]
        if tree[0, i] == F:
            for n in range(f.size):
                g[n] += here[n]
        if tree[0, i] >= ADD:
            _scaled_product(after[tree[1, i]], w[tree[1, i] - 1], slope_a[i], here)
            if tree[0, i] < SQUARE:
                _scaled_product(after[tree[2, i]], w[tree[2, i] - 1], slope_b[i], here)


@_jit
def _step(after, before, gradient, rate, decay):
    for n in range(after.size):
        after[n] = before[n] - rate * (gradient[n] + decay * before[n])


@_jit
def _scaled_product(out, weight, a, b):
    for n in range(out.size):
        out[n] = weight * (a[n] * b[n])


@_jit
def _expression_mixed(
    tree, w, softplus, u, value, arg_a, arg_b, slope_a, slope_b, after, tangent, adjoint, by_phi
):
    """by_phi += ∂/∂w Σ_n g_n·u_n: a tangent sweep along df = u, then a reverse sweep over both."""
    zero = u.dtype.type(0)
    two, three, one = u.dtype.type(2), u.dtype.type(3), u.dtype.type(1)
    for i in range(tree.shape[1] - 1, -1, -1):
        op, t = tree[0, i], tangent[i]
        if op == F:
            _copy(u, t)
        elif op < ADD:
            t[:] = zero
        else:
            _scaled_product(t, w[tree[1, i] - 1], slope_a[i], tangent[tree[1, i]])
            if op < SQUARE:
                wb, tb, sb = w[tree[2, i] - 1], tangent[tree[2, i]], slope_b[i]
                for n in range(u.size):
                    t[n] += sb[n] * (wb * tb[n])
    adjoint[0, :] = zero
    if softplus:
        for n in range(u.size):
            s = after[0, n]
            adjoint[0, n] = zero if value[0, n] > SOFTPLUS_THRESHOLD else s * (one - s) * tangent[0, n]
    for i in range(tree.shape[1]):
        op = tree[0, i]
        if op < ADD:
            continue
        ca = tree[1, i]
        wa, ta, va, adj_a = w[ca - 1], tangent[ca], value[ca], adjoint[ca]
        v, a, b, sa, sb, here, up = value[i], arg_a[i], arg_b[i], slope_a[i], slope_b[i], adjoint[i], after[i]
        if op < SQUARE:
            cb = tree[2, i]
            wb, tb, vb, adj_b = w[cb - 1], tangent[cb], value[cb], adjoint[cb]
            if op == DIV:
                for n in range(u.size):
                    r = sa[n]
                    cube = r * r * r
                    mixed, br = -b[n] * cube, b[n] * r
                    da, db = wa * ta[n], wb * tb[n]
                    adj_a[n] = sa[n] * here[n] + mixed * db * up[n]
                    adj_b[n] = sb[n] * here[n] + (mixed * da + a[n] * cube * (three * br * br - one) * db) * up[n]
            elif op == MUL:
                for n in range(u.size):
                    adj_a[n] = sa[n] * here[n] + wb * tb[n] * up[n]
                    adj_b[n] = sb[n] * here[n] + wa * ta[n] * up[n]
            else:
                for n in range(u.size):
                    adj_a[n] = sa[n] * here[n]
                    adj_b[n] = sb[n] * here[n]
            by_phi[cb - 1] += _weight_term(adj_b, vb, sb, up, tb)
            for n in range(u.size):
                adj_b[n] *= wb
        elif op == SQUARE:
            for n in range(u.size):
                adj_a[n] = sa[n] * here[n] + two * wa * ta[n] * up[n]
        elif op in (SQRT, SQRT_CLAMPED):
            for n in range(u.size):
                adj_a[n] = sa[n] * here[n] - sa[n] * sa[n] / v[n] * wa * ta[n] * up[n]
        elif op in (LOG, LOG_CLAMPED):
            for n in range(u.size):
                adj_a[n] = sa[n] * here[n] - sa[n] * sa[n] * wa * ta[n] * up[n]
        elif op == TANH:
            for n in range(u.size):
                adj_a[n] = sa[n] * here[n] - two * v[n] * sa[n] * wa * ta[n] * up[n]
        else:
            for n in range(u.size):
                adj_a[n] = sa[n] * here[n]
        by_phi[ca - 1] += _weight_term(adj_a, va, sa, up, ta)
        for n in range(u.size):
            adj_a[n] *= wa


@_summing
def _weight_term(before, value, slope, up, tangent):
    """Σ_n before·value + slope·up·tangent."""
    total = before.dtype.type(0)
    for n in range(before.size):
        total += before[n] * value[n] + slope[n] * up[n] * tangent[n]
    return total


# ---- perceptrons -------------------------------------------------------------------------------------
# `layers` has a row (inputs, outputs, place of W, place of b or −1, activation) per layer; a network is
# one flat vector. Activations of all layers, the input among them, are one flat vector too.


@_jit
def _matrix(flat, start, rows, columns):
    return flat[start : start + rows * columns].reshape(rows, columns)


# Loops over single vectors are functions of their own: inside longer ones LLVM would not vectorise them.


@_jit
def _copy(source, target):
    """Fill target from source; `target[:] = source` takes seconds to compile."""
    for n in range(target.size):
        target[n] = source[n]


@_jit
def _largest(values):
    largest = values[0]
    for n in range(1, values.size):
        largest = max(largest, values[n])
    return largest


@_jit
def _add(total, change):
    for n in range(total.size):
        total[n] += change[n]


@_jit
def _multiply(product, factor):
    for n in range(factor.size):
        product[n] *= factor[n]


@_jit
def _scale(product, vector, factor):
    for n in range(product.size):
        product[n] = vector[n] * factor


@_jit
def _add_to_rows(matrix, row):
    for i in range(matrix.shape[0]):
        _add(matrix[i], row)


@_jit
def _outer(column, row, product):
    """Outer product; `np.dot` is slow where only one term is summed."""
    for i in range(column.shape[0]):
        _scale(product[i], row, column[i])


@_jit
def _shift(values, by):
    for n in range(values.size):
        values[n] += by


@_jit
def _add_and_relu(values, bias):
    zero = values.dtype.type(0)
    for n in range(values.size):
        v = values[n] + bias[n]
        values[n] = zero if v < zero else v  # NaN is kept


@_jit
def _relu(values):
    zero = values.dtype.type(0)
    for n in range(values.size):
        values[n] = zero if values[n] < zero else values[n]  # NaN is kept


@_jit
def _through_relu(change, output):
    zero = change.dtype.type(0)
    for n in range(change.size):
        change[n] = change[n] if output[n] > zero else zero


@_jit
def _through_tanh(change, output):
    one = change.dtype.type(1)
    for n in range(change.size):
        change[n] *= one - output[n] * output[n]


@_jit
def _through(activation, change, output):
    """A tangent or cotangent times the slope of an activation, which its output tells; in place."""
    if activation == RELU:
        _through_relu(change, output)
    elif activation == TANH_LAYER:
        _through_tanh(change, output)


@_jit
def _forward(layers, theta, x, hidden):
    """Each layer's output behind another in `hidden`, the input first."""
    batch = x.shape[0]
    _copy(x.reshape(-1), hidden[: x.size])
    start = 0
    for layer in range(layers.shape[0]):
        inputs, outputs, place, bias, activation = layers[layer]
        before = _matrix(hidden, start, batch, inputs)
        start += batch * inputs
        z = _matrix(hidden, start, batch, outputs)
        flat = hidden[start : start + batch * outputs]
        if inputs == 1:
            _outer(before.reshape(-1), theta[place : place + outputs], z)
        elif outputs == 1:
            np.dot(before, theta[place : place + inputs], flat)
        else:
            np.dot(before, _matrix(theta, place, outputs, inputs).T, z)
        if bias >= 0 and outputs == 1:
            _shift(flat, theta[bias])
        elif bias >= 0 and activation == RELU:
            for row in range(batch):
                _add_and_relu(z[row], theta[bias : bias + outputs])
            continue
        elif bias >= 0:
            _add_to_rows(z, theta[bias : bias + outputs])
        if activation == RELU:
            _relu(flat)
        elif activation == TANH_LAYER:
            _tanh_in_place(flat)


@_jit
def _backward(layers, theta, ones, hidden, delta, other, gradient):
    """The gradient of the weights from `delta`, the cotangent of the outputs, which is overwritten.

    Returns whichever of `delta` and `other` holds the cotangent of the first layer, before its activation.
    """
    batch, end = ones.size, hidden.size
    _through(layers[-1, 4], delta[: batch * layers[-1, 1]], hidden[end - batch * layers[-1, 1] :])
    for layer in range(layers.shape[0] - 1, -1, -1):
        inputs, outputs, place, bias, _ = layers[layer]
        end -= batch * outputs
        before = hidden[end - batch * inputs : end]
        _outer_gradient(batch, before, delta, gradient[place : place + inputs * outputs], inputs, outputs)
        if bias >= 0:
            np.dot(ones, _matrix(delta, 0, batch, outputs), gradient[bias : bias + outputs])
        if layer:
            back = other[: batch * inputs]
            if outputs == 1:
                _outer(delta[:batch], theta[place : place + inputs], _matrix(other, 0, batch, inputs))
            else:
                d = _matrix(delta, 0, batch, outputs)
                np.dot(d, _matrix(theta, place, outputs, inputs), _matrix(other, 0, batch, inputs))
            _through(layers[layer - 1, 4], back, before)
        delta, other = other, delta
    return other


@_jit
def _outer_gradient(batch, before, delta, found, inputs, outputs):
    """found = deltaᵀ·before for a layer's inputs and cotangents; with one of either, as a vector's product."""
    if inputs == 1:
        np.dot(before, _matrix(delta, 0, batch, outputs), found)
    elif outputs == 1:
        np.dot(delta[:batch], before.reshape(batch, inputs), found)
    else:
        np.dot(_matrix(delta, 0, batch, outputs).T, before.reshape(batch, inputs), found.reshape(outputs, inputs))


@_jit
def _jacobian(layers, theta, batch, hidden, rows, delta, other):
    """Derivative of one output by each layer's inputs to its activation, one behind another in `rows`."""
    end, place_of = hidden.size, rows.size
    delta[:batch] = 1
    for layer in range(layers.shape[0] - 1, -1, -1):
        inputs, outputs, place, _, activation = layers[layer]
        end -= batch * outputs
        place_of -= batch * outputs
        _through(activation, delta[: batch * outputs], hidden[end : end + batch * outputs])
        _copy(delta, rows[place_of : place_of + batch * outputs])
        if layer:
            d = _matrix(delta, 0, batch, outputs)
            np.dot(d, _matrix(theta, place, outputs, inputs), _matrix(other, 0, batch, inputs))
            delta, other = other, delta


@_jit
def _scaled_backward(layers, batch, hidden, jacobian, delta, work, gradient):
    """Backward pass at the initial weights, where the rows of one output's Jacobian need only be scaled.

    Of a layer's two factors, inputs and Jacobian, the narrower one is scaled.
    """
    start, row_start = 0, 0
    for layer in range(layers.shape[0]):
        inputs, outputs, place, bias, _ = layers[layer]
        before = _matrix(hidden, start, batch, inputs)
        rows = _matrix(jacobian, row_start, batch, outputs)
        start += batch * inputs
        row_start += batch * outputs
        found = gradient[place : place + inputs * outputs]
        if inputs < outputs:
            _scale_rows(_matrix(work, 0, batch, inputs), before, delta)
            cotangents = jacobian[row_start - batch * outputs :]
            _outer_gradient(batch, work[: batch * inputs], cotangents, found, inputs, outputs)
        else:
            _scale_rows(_matrix(work, 0, batch, outputs), rows, delta)
            _outer_gradient(batch, hidden[start - batch * inputs : start], work, found, inputs, outputs)
        if bias >= 0:
            np.dot(delta[:batch], rows, gradient[bias : bias + outputs])


@_jit
def _scale_rows(product, matrix, factors):
    for row in range(matrix.shape[0]):
        _scale(product[row], matrix[row], factors[row])


@_jit
def _dots(found, a, b, rows, width):
    """found = the products of the rows of a and b, in running sums so that they vectorise."""
    for row in range(rows):
        found[row] = _dot(a[row * width : (row + 1) * width], b[row * width : (row + 1) * width])


@_summing
def _dot(a, b):
    total = a.dtype.type(0)
    for n in range(a.size):
        total += a[n] * b[n]
    return total


@_jit
def _scaled_tangent(layers, batch, hidden, jacobian, direction, ones, work, part, change):
    """Tangent pass from one output's Jacobian: the change of the output of each row."""
    change[:batch] = 0
    start, row_start = 0, 0
    for layer in range(layers.shape[0]):
        inputs, outputs, place, bias, _ = layers[layer]
        before = _matrix(hidden, start, batch, inputs)
        rows = _matrix(jacobian, row_start, batch, outputs)
        weights = _matrix(direction, place, outputs, inputs)
        if inputs == 1:
            np.dot(rows, direction[place : place + outputs], part[:batch])
            _multiply(part[:batch], before.reshape(-1))
        elif outputs == 1:
            np.dot(before, direction[place : place + inputs], part[:batch])
            _multiply(part[:batch], rows.reshape(-1))
        elif inputs <= outputs:
            np.dot(rows, weights, _matrix(work, 0, batch, inputs))
            _dots(part, work, hidden[start : start + batch * inputs], batch, inputs)
        else:
            np.dot(before, weights.T, _matrix(work, 0, batch, outputs))
            _dots(part, work, jacobian[row_start : row_start + batch * outputs], batch, outputs)
        _add(change[:batch], part)
        if bias >= 0:
            np.dot(rows, direction[bias : bias + outputs], part[:batch])
            _add(change[:batch], part)
        start += batch * inputs
        row_start += batch * outputs


@_jit
def _tangent(layers, theta, batch, hidden, direction, moved, tangent, other, product):
    """The change of the outputs along `direction`, in whichever of `tangent` and `other` is returned.

    Where `moved`, `tangent` holds the change of the input; otherwise the input stays as it is.
    """
    start = 0
    for layer in range(layers.shape[0]):
        inputs, outputs, place, bias, activation = layers[layer]
        t = _matrix(other, 0, batch, outputs)
        np.dot(_matrix(hidden, start, batch, inputs), _matrix(direction, place, outputs, inputs).T, t)
        if layer or moved:
            p = _matrix(product, 0, batch, outputs)
            np.dot(_matrix(tangent, 0, batch, inputs), _matrix(theta, place, outputs, inputs).T, p)
            _add(other[: batch * outputs], product)
        if bias >= 0:
            _add_to_rows(t, direction[bias : bias + outputs])
        start += batch * inputs
        _through(activation, other[: batch * outputs], hidden[start : start + batch * outputs])
        tangent, other = other, tangent
    return tangent


# ---- links and losses of a batch ---------------------------------------------------------------------


@_jit
def _link(kind, logits, f):
    """f = logits, their sigmoid, or their softmax; both (batch, outputs)."""
    zero, one = logits.dtype.type(0), logits.dtype.type(1)
    for row in range(logits.shape[0]):
        if kind == REGRESSION:
            _copy(logits[row], f[row])
            continue
        if kind == BINARY:
            for column in range(logits.shape[1]):
                f[row, column] = one / (one + math.exp(-logits[row, column]))
            continue
        top = _largest(logits[row])
        total = zero
        for column in range(logits.shape[1]):
            f[row, column] = math.exp(logits[row, column] - top)
            total += f[row, column]
        for column in range(logits.shape[1]):
            f[row, column] /= total


@_jit
def _through_link(kind, f, change, scale, out):
    """out = scale · (Jacobian of the link) · change."""
    zero, one = f.dtype.type(0), f.dtype.type(1)
    for row in range(f.shape[0]):
        mean = zero
        if kind == MULTICLASS:
            for column in range(f.shape[1]):
                mean += f[row, column] * change[row, column]
        for column in range(f.shape[1]):
            p = f[row, column]
            factor = one if kind == REGRESSION else (p * (one - p) if kind == BINARY else p)
            out[row, column] = scale * factor * (change[row, column] - mean)


@_jit
def task_loss(kind, logits, y, weights, cotangent):
    """The task loss of a batch with these weights of the classes, and its gradient with respect to the logits."""
    batch, outputs = logits.shape
    zero, one = logits.dtype.type(0), logits.dtype.type(1)
    total = zero
    if kind == MULTICLASS:
        _link(kind, logits, cotangent)
    for row in range(batch):
        top, spread, weight = zero, zero, one
        if kind == MULTICLASS:
            weight = weights[np.argmax(y[row])]
            top = _largest(logits[row])
            for column in range(outputs):
                spread += math.exp(logits[row, column] - top)
            spread = math.log(spread)
        for column in range(outputs):
            z, label = logits[row, column], y[row, column]
            if kind == REGRESSION:
                total += (z - label) * (z - label)
                cotangent[row, column] = (z - label) * 2 / batch
            elif kind == BINARY:
                # the logarithm of 1 + exp(−|z|), and −z where z is negative
                weight = weights[0] + (weights[1] - weights[0]) * label
                total += weight * ((one - label) * z + math.log1p(math.exp(-abs(z))) + max(-z, zero))
                cotangent[row, column] = weight * (one / (one + math.exp(-z)) - label) / batch
            else:
                if label > 0:
                    total += weight * (top + spread - z)
                cotangent[row, column] = weight * (cotangent[row, column] - label) / batch
    return total / batch


# ---- entry points ------------------------------------------------------------------------------------


@_jit
def _sizes(layers, batch):
    """Room for all outputs, for those without the input, and for the widest layer of a batch."""
    rows, widest = 0, batch * layers[0, 0]
    for layer in range(layers.shape[0]):
        rows += batch * layers[layer, 1]
        widest = max(widest, batch * layers[layer, 1])
    return batch * layers[0, 0] + rows, rows, widest


@_jit
def forward(layers, theta, x, hidden, jacobian):
    """Forward pass at the initial weights, for all tasks: theta (T, W), x (T, B, inputs).

    Writes hidden values and, for a network of one output, its Jacobian.
    """
    batch = x.shape[1]
    one, two = np.empty(_sizes(layers, batch)[2], theta.dtype), np.empty(_sizes(layers, batch)[2], theta.dtype)
    for task in range(theta.shape[0]):
        _forward(layers, theta[task], x[task], hidden[task])
        if layers[-1, 1] == 1:
            _jacobian(layers, theta[task], batch, hidden[task], jacobian[task], one, two)


@_jit
def meta_steps(kind, softplus, trees, lengths, phi, layers, theta0, f0, y, hidden, jacobian, x_task, y_task,
               class_weights, rates, chosen, values, gradients):  # fmt: skip
    """One meta-step of the `chosen` candidates on all tasks.

    f0 and y are (T, B, C), hidden and jacobian what `forward` left; class_weights (T, classes) are those of the
    task loss; rates holds the learning rate of the first step and the weight decay. Writes values (P,) and
    gradients (P, E), summed over tasks.
    """
    tasks, batch, outputs = f0.shape
    rows, dtype = x_task.shape[1], theta0.dtype
    work = np.empty((8, trees.shape[2], batch * outputs), dtype)
    g, u = np.empty((batch, outputs), dtype), np.empty((batch, outputs), dtype)
    room, _, widest = _sizes(layers, rows)
    widest = max(widest, _sizes(layers, batch)[2])
    hidden1, ones = np.empty(room, dtype), np.ones(widest, dtype)
    one, two, three = np.empty(widest, dtype), np.empty(widest, dtype), np.empty(widest, dtype)
    theta, gradient = np.empty_like(theta0[0]), np.empty_like(theta0[0])
    rate, decay = dtype.type(rates[0]), dtype.type(rates[1])
    scale = dtype.type(1 / batch)
    for p in chosen:
        tree, w = trees[p][:, : lengths[p]], phi[p]
        values[p] = 0
        gradients[p] = 0
        for t in range(tasks):
            f, labels = f0[t].reshape(-1), y[t].reshape(-1)
            _expression_slope(tree, w, softplus, f, labels, work[0], work[1], work[2], work[3], work[4], work[5],
                              g.reshape(-1))  # fmt: skip
            delta = one[: batch * outputs].reshape(batch, outputs)
            _through_link(kind, f0[t], g, scale, delta)
            start = theta0[t]
            if outputs == 1:
                _scaled_backward(layers, batch, hidden[t], jacobian[t], one, two, gradient)
            else:
                _backward(layers, start, ones[:batch], hidden[t], one, two, gradient)
            _step(theta, start, gradient, rate, decay)
            _forward(layers, theta, x_task[t], hidden1)
            logits = hidden1[hidden1.size - rows * outputs :].reshape(rows, outputs)
            values[p] += task_loss(
                kind, logits, y_task[t], class_weights[t], one[: rows * outputs].reshape(rows, outputs)
            )
            _backward(layers, theta, ones[:rows], hidden1, one, two, gradient)
            if outputs == 1:
                change = three
                _scaled_tangent(layers, batch, hidden[t], jacobian[t], gradient, ones, one, two, change)
            else:
                change = _tangent(layers, start, batch, hidden[t], gradient, False, one, two, three)
            _through_link(kind, f0[t], change[: batch * outputs].reshape(batch, outputs), -rate * scale, u)
            _expression_mixed(tree, w, softplus, u.reshape(-1), work[0], work[1], work[2], work[3], work[4],
                              work[5], work[6], work[7], gradients[p])  # fmt: skip


@_jit
def train(kind, softplus, trees, lengths, phi, layers, x, y, orders, adam, settings, rates, done, moving, chosen,
          theta, memory):  # fmt: skip
    """Steps of the `chosen` candidates on all tasks, in place: theta is (P, T, W).

    x is (T, rows, inputs), y (T, rows, C); orders (T, steps, B) numbers the rows of each batch. rates (steps,) are
    learning rates; the first step has the number `done`; adam, settings and memory are those of `descend`.
    """
    tasks, steps, batch = orders.shape
    outputs, dtype = y.shape[2], theta.dtype
    work = np.empty((6, trees.shape[2], batch * outputs), dtype)
    g, f = np.empty((batch, outputs), dtype), np.empty((batch, outputs), dtype)
    room, _, widest = _sizes(layers, batch)
    hidden, ones = np.empty(room, dtype), np.ones(batch, dtype)
    one, two = np.empty(widest, dtype), np.empty(widest, dtype)
    gradient = np.empty_like(theta[0, 0])
    inputs, labels = np.empty((batch, x.shape[2]), dtype), np.empty((batch, outputs), dtype)
    scale = dtype.type(1 / batch)
    for p in chosen:
        if not moving[p]:
            continue
        tree, w = trees[p][:, : lengths[p]], phi[p]
        for t in range(tasks):
            weights = theta[p, t]
            for step in range(steps):
                if step == 0 or batch < x.shape[1]:
                    for row in range(batch):
                        number = orders[t, step, row] if batch < x.shape[1] else row  # the whole data as it is
                        _copy(x[t, number], inputs[row])
                        _copy(y[t, number], labels[row])
                _forward(layers, weights, inputs, hidden)
                _link(kind, hidden[hidden.size - batch * outputs :].reshape(batch, outputs), f)
                _expression_slope(tree, w, softplus, f.reshape(-1), labels.reshape(-1), work[0], work[1], work[2],
                                  work[3], work[4], work[5], g.reshape(-1))  # fmt: skip
                _through_link(kind, f, g, scale, one[: batch * outputs].reshape(batch, outputs))
                _backward(layers, weights, ones, hidden, one, two, gradient)
                descend(weights, memory[p, t], gradient, adam, settings, rates[step], done + step)


@_jit
def ahead(after, before, gradient, rate, decay):
    """after = before − rate·(gradient + decay·before)."""
    _step(after, before, gradient, before.dtype.type(rate), before.dtype.type(decay))


@_jit
def descend(weights, memory, gradient, adam, settings, rate, step):
    """The step of this number, from 0 on, of Adam or else SGD, in place; the gradient is used up.

    See `optimisers.KernelSteps` for settings and memory.
    """
    dtype = weights.dtype.type
    if adam:
        coupled, decoupled = settings[3], settings[4]
        if coupled != 0:
            for n in range(weights.size):
                gradient[n] += dtype(coupled) * weights[n]
        if decoupled != 0:
            for n in range(weights.size):
                weights[n] *= dtype(1 - rate * decoupled)
        _adam(weights, gradient, memory[0], memory[1], rate, settings[0], settings[1], settings[2], step + 1)
    else:
        momentum, decay, nesterov = dtype(settings[0]), dtype(settings[1]), settings[2] != 0
        _sgd(weights, memory[0], gradient, dtype(rate), momentum, decay, nesterov, step == 0)


@_jit
def _sgd(weights, speed, gradient, rate, momentum, decay, nesterov, first):
    """A step of `torch.optim.SGD`, whose velocity is set where `first`."""
    if momentum == 0:
        _descend_plainly(weights, gradient, rate, decay)
    elif first:
        for n in range(weights.size):
            speed[n] = gradient[n] + decay * weights[n]
        _descend_plainly(weights, speed, rate * (weights.dtype.type(1) + momentum) if nesterov else rate, rate * 0)
    elif nesterov:
        for n in range(weights.size):
            slope = gradient[n] + decay * weights[n]
            speed[n] = momentum * speed[n] + slope
            weights[n] -= rate * (slope + momentum * speed[n])
    else:
        for n in range(weights.size):
            speed[n] = momentum * speed[n] + (gradient[n] + decay * weights[n])
            weights[n] -= rate * speed[n]


@_jit
def _descend_plainly(weights, gradient, rate, decay):
    keep = weights.dtype.type(1) - rate * decay
    for n in range(weights.size):
        weights[n] = keep * weights[n] - rate * gradient[n]


@_jit
def slopes(kind, softplus, trees, lengths, phi, logits, y, chosen, found):
    """Cotangents of the logits from the losses of the `chosen` candidates, N of them.

    logits (N or 1, B, C) and y (B, C) → found (N, B, C), the Jacobian of the link times dM/df, over B.
    """
    dtype = y.dtype
    work = np.empty((6, trees.shape[2], y.size), dtype)
    f, g, scale = np.empty_like(y), np.empty_like(y), dtype.type(1 / len(y))
    for i, p in enumerate(chosen):
        tree, w = trees[p][:, : lengths[p]], phi[p]
        _link(kind, logits[min(i, len(logits) - 1)], f)
        _expression_slope(tree, w, softplus, f.reshape(-1), y.reshape(-1), work[0], work[1], work[2], work[3],
                          work[4], work[5], g.reshape(-1))  # fmt: skip
        _through_link(kind, f, g, scale, found[i])


@_jit
def mixed_products(kind, softplus, trees, lengths, phi, logits, y, change, rate, chosen, gradients):
    """Meta-gradients of one unrolled step from changes of the logits, for the `chosen` candidates, N of them.

    logits (1, B, C) at the initial weights, y (B, C), change (N, B, C) → gradients (P, E) at the rows `chosen`:
    −rate/B · ∂/∂phi ⟨dM/df, (Jacobian of the link)·change⟩.
    """
    dtype = y.dtype
    work = np.empty((8, trees.shape[2], y.size), dtype)
    f, g, u = np.empty_like(y), np.empty_like(y), np.empty_like(y)
    scale = dtype.type(-rate / len(y))
    _link(kind, logits[0], f)
    for i, p in enumerate(chosen):
        tree, w = trees[p][:, : lengths[p]], phi[p]
        _expression_slope(tree, w, softplus, f.reshape(-1), y.reshape(-1), work[0], work[1], work[2], work[3],
                          work[4], work[5], g.reshape(-1))  # fmt: skip
        _through_link(kind, f, change[i], scale, u)
        gradients[p] = 0
        _expression_mixed(tree, w, softplus, u.reshape(-1), work[0], work[1], work[2], work[3], work[4], work[5],
                          work[6], work[7], gradients[p])  # fmt: skip


@_jit
def minimise(kind, softplus, trees, lengths, phi, y, rate, steps, chosen, best):
    """Steps of Adam on the predictions of the `chosen` candidates, in place: best (P, B, C), y (B, C)."""
    dtype = best.dtype
    work = np.empty((6, trees.shape[2], y.size), dtype)
    f, g, slope = np.empty_like(y), np.empty_like(y), np.empty_like(y)
    mean, square = np.empty(y.size, dtype), np.empty(y.size, dtype)
    scale = dtype.type(1 / len(y))
    for p in chosen:
        tree, w = trees[p][:, : lengths[p]], phi[p]
        mean[:], square[:] = 0, 0
        for step in range(1, steps + 1):
            _link(kind, best[p], f)
            _expression_slope(tree, w, softplus, f.reshape(-1), y.reshape(-1), work[0], work[1], work[2], work[3],
                              work[4], work[5], g.reshape(-1))  # fmt: skip
            _through_link(kind, f, g, scale, slope)
            _adam(best[p].reshape(-1), slope.reshape(-1), mean, square, rate, 0.9, 0.999, 1e-8, step)


@_jit
def _adam(x, gradient, mean, square, rate, beta1, beta2, eps, step):
    """The step of this number, from 1 on, of `torch.optim.Adam` without weight decay, in place."""
    dtype = x.dtype.type
    one, mean_share, square_share, least = dtype(1), dtype(beta1), dtype(beta2), dtype(eps)
    size, root = dtype(rate / (1 - beta1**step)), dtype(math.sqrt(1 - beta2**step))
    for n in range(x.size):
        mean[n] = mean_share * mean[n] + (one - mean_share) * gradient[n]
        square[n] = square_share * square[n] + (one - square_share) * (gradient[n] * gradient[n])
        x[n] -= size * (mean[n] / (math.sqrt(square[n]) / root + least))


@_jit
def predict(layers, theta, x, chosen, found):
    """The outputs (P, T, rows, C) of the `chosen` candidates' networks."""
    rows, outputs = found.shape[2:]
    hidden = np.empty(_sizes(layers, rows)[0], theta.dtype)
    for p in chosen:
        for t in range(theta.shape[1]):
            _forward(layers, theta[p, t], x[t], hidden)
            _copy(hidden[hidden.size - rows * outputs :], found[p, t].reshape(-1))
