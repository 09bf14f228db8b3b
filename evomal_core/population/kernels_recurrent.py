"""Compiled CPU kernels (Numba) of networks with an embedding, an LSTM and dense layers.

The cell of a letter, with gates a = table[letter] + h·Rᵀ in PyTorch's order i, f, g, o: c' = σ(f)·c + σ(i)·tanh(g)
and h' = σ(o)·tanh(c'). The forward pass keeps the derivatives of c' and h' by the gates and by c instead of the
gates, so that the pullback and the pushforward are a few products of whole vectors.

`table` holds what each symbol's embedding adds to the gates, for the symbols that a batch has. What a forward
pass keeps is (letters, rows, units), or four times as many units for the gates.
"""

from __future__ import annotations

import numpy as np

from evomal_core.population.kernels import (
    _add,
    _add_to_rows,
    _backward,
    _copy,
    _forward,
    _jit,
    _matrix,
    _tangent,
    _tanh_in_place,
)

WIDTH, UNITS, EMBEDDING, INPUT, RECURRENT, INPUT_BIAS, RECURRENT_BIAS, PADDING = range(8)
"""Entries of `shape`, which describes the part before the dense layers: sizes, places among the weights (−1 for
none), and the symbol whose embedding has no gradient."""


# ---- the cell of one row -----------------------------------------------------------------------------
# Loops over few vectors each: LLVM vectorises a loop only if it can check that no two vectors overlap.


@_jit
def _halve(x):
    half = x.dtype.type(0.5)
    for n in range(x.size):
        x[n] *= half


@_jit
def _multiply(out, a):
    for n in range(out.size):
        out[n] *= a[n]


@_jit
def _multiply_to(out, a, b):
    for n in range(out.size):
        out[n] = a[n] * b[n]


@_jit
def _add_product(out, a, b):
    for n in range(out.size):
        out[n] += a[n] * b[n]


@_jit
def _forget_gate(f, c, forget):
    half, quarter, one = f.dtype.type(0.5), f.dtype.type(0.25), f.dtype.type(1)
    for n in range(f.size):
        forget[n] = half + half * f[n]
        f[n] = c[n] * (quarter * (one - f[n] * f[n]))


@_jit
def _next_state(c, forget, i, g):
    half = c.dtype.type(0.5)
    for n in range(c.size):
        c[n] = forget[n] * c[n] + (half + half * i[n]) * g[n]


@_jit
def _input_gates(i, g):
    half, quarter, one = i.dtype.type(0.5), i.dtype.type(0.25), i.dtype.type(1)
    for n in range(i.size):
        gate = half + half * i[n]
        i[n] = g[n] * (quarter * (one - i[n] * i[n]))
        g[n] = gate * (one - g[n] * g[n])


@_jit
def _output_gate(o, state, output, h):
    half, quarter, one = o.dtype.type(0.5), o.dtype.type(0.25), o.dtype.type(1)
    for n in range(o.size):
        gate = half + half * o[n]
        h[n] = gate * state[n]
        output[n] = gate * (one - state[n] * state[n])
        o[n] = state[n] * (quarter * (one - o[n] * o[n]))


@_jit
def _cell(gates, letter, c, forget, output, h, state):
    """One row's cell: gates (4u,) become derivatives, c the next state; writes h, ∂c'/∂c and ∂h'/∂c'.

    Of i, f and o the gates hold the half, since σ(x) = ½ + ½·tanh(x/2).
    """
    u = c.size
    _add(gates, letter)
    _tanh_in_place(gates)
    i, f, g, o = gates[:u], gates[u : 2 * u], gates[2 * u : 3 * u], gates[3 * u :]
    _forget_gate(f, c, forget)
    _next_state(c, forget, i, g)
    _input_gates(i, g)
    _copy(c, state)
    _tanh_in_place(state)
    _output_gate(o, state, output, h)


@_jit
def _cell_back(slopes, forget, output, dh, dc, delta):
    """Turn the cotangents of h' and c' into those of the gates, and dc in place into that of c."""
    u = dc.size
    _add_product(dc, dh, output)
    for gate in range(3):
        _multiply_to(delta[gate * u : (gate + 1) * u], dc, slopes[gate * u : (gate + 1) * u])
    _multiply_to(delta[3 * u :], dh, slopes[3 * u :])
    _multiply(dc, forget)


@_jit
def _cell_along(slopes, forget, output, gates, dc, dh):
    """Turn the tangents of the gates and of c into those of c', in place, and of h'."""
    u = dc.size
    _multiply(dc, forget)
    for gate in range(3):
        _add_product(dc, gates[gate * u : (gate + 1) * u], slopes[gate * u : (gate + 1) * u])
    _multiply_to(dh, gates[3 * u :], slopes[3 * u :])
    _add_product(dh, dc, output)


# ---- the network -------------------------------------------------------------------------------------


@_jit
def _embedded(shape, theta, used):
    """The embeddings of the symbols `used`, one a row."""
    rows = np.empty((used.size, shape[WIDTH]), theta.dtype)
    for k in range(used.size):
        place = shape[EMBEDDING] + used[k] * shape[WIDTH]
        _copy(theta[place : place + shape[WIDTH]], rows[k])
    return rows


@_jit
def _halve_sigmoids(weights):
    """Halve the rows of i, f and o, exactly."""
    u = len(weights) // 4
    _halve(weights[: 2 * u].reshape(-1))
    _halve(weights[3 * u :].reshape(-1))


@_jit
def _add_biases(shape, weights, table):
    for place in (shape[INPUT_BIAS], shape[RECURRENT_BIAS]):
        if place >= 0:
            _add_to_rows(table, weights[place : place + table.shape[1]])


@_jit
def forward(shape, layers, theta, used, x, slopes, forget, output, h, hidden):
    """Predictions, which are the end of `hidden`, the dense layers' values as `kernels` has them.

    x (letters, rows) numbers the symbols within `used`. Writes what the other kernels need: the derivatives of a
    cell by its gates, `slopes`, of its state by the state before, `forget`, and of h by the state, `output`; and
    h, from the zeros before the first letter on.
    """
    letters, rows = x.shape
    u = shape[UNITS]
    table = np.dot(_embedded(shape, theta, used), _matrix(theta, shape[INPUT], 4 * u, shape[WIDTH]).T)
    _add_biases(shape, theta, table)
    for k in range(len(table)):
        _halve(table[k, : 2 * u])
        _halve(table[k, 3 * u :])
    recurrent = _matrix(theta, shape[RECURRENT], 4 * u, u).copy()
    _halve_sigmoids(recurrent)
    c, state = np.zeros((rows, u), theta.dtype), np.empty(u, theta.dtype)
    h[0] = 0
    slopes[0] = 0
    for t in range(letters):
        if t:
            np.dot(h[t], recurrent.T, slopes[t])
        for row in range(rows):
            _cell(slopes[t, row], table[x[t, row]], c[row], forget[t, row], output[t, row], h[t + 1, row], state)
    _forward(layers, theta, h[letters], hidden)


@_jit
def pullback(
    shape, layers, theta, used, x, slopes, forget, output, h, hidden, cotangent, delta, one, two, gradient
):
    """The gradient of the weights from the cotangent (rows, outputs) of the predictions; delta is as `slopes`."""
    letters, rows = x.shape
    u, dtype = shape[UNITS], theta.dtype
    gradient[:] = 0  # of the embeddings of symbols that the batch lacks
    _copy(cotangent.reshape(-1), one[: cotangent.size])
    first = _backward(layers, theta, np.ones(rows, dtype), hidden, one, two, gradient)
    dh, dc = np.empty((rows, u), dtype), np.zeros((rows, u), dtype)
    width = layers[0, 1]
    np.dot(_matrix(first, 0, rows, width), _matrix(theta, layers[0, 2], width, u), dh)
    recurrent = _matrix(theta, shape[RECURRENT], 4 * u, u)
    table = np.zeros((used.size, 4 * u), dtype)
    for t in range(letters - 1, -1, -1):
        for row in range(rows):
            _cell_back(slopes[t, row], forget[t, row], output[t, row], dh[row], dc[row], delta[t, row])
            _add(table[x[t, row]], delta[t, row])
        if t:
            np.dot(delta[t], recurrent, dh)
    if letters > 1:
        np.dot(
            delta[1:].reshape(-1, 4 * u).T, h[1:letters].reshape(-1, u),
            _matrix(gradient, shape[RECURRENT], 4 * u, u),
        )  # fmt: skip
    _table_back(shape, theta, used, table, gradient)


@_jit
def _table_back(shape, theta, used, table, gradient):
    """The gradient of embeddings, input weights and biases from the cotangent of `table`."""
    gates, width = table.shape[1], shape[WIDTH]
    for place in (shape[INPUT_BIAS], shape[RECURRENT_BIAS]):
        if place >= 0:
            for k in range(len(table)):
                _add(gradient[place : place + gates], table[k])
    np.dot(table.T, _embedded(shape, theta, used), _matrix(gradient, shape[INPUT], gates, width))
    rows = np.dot(table, _matrix(theta, shape[INPUT], gates, width))
    for k in range(used.size):
        if used[k] != shape[PADDING]:
            place = shape[EMBEDDING] + used[k] * width
            _copy(rows[k], gradient[place : place + width])


@_jit
def pushforward(shape, layers, theta, used, x, slopes, forget, output, h, hidden, direction, delta, one, two,
                three, change):  # fmt: skip
    """The change (rows, outputs) of the predictions along a direction of the weights."""
    letters, rows = x.shape
    u, dtype = shape[UNITS], theta.dtype
    inputs = _matrix(theta, shape[INPUT], 4 * u, shape[WIDTH])
    table = np.dot(_embedded(shape, direction, used), inputs.T)
    along = _matrix(direction, shape[INPUT], 4 * u, shape[WIDTH])
    _add(table.reshape(-1), np.dot(_embedded(shape, theta, used), along.T).reshape(-1))
    _add_biases(shape, direction, table)
    gates = delta
    np.dot(h[:letters].reshape(-1, u), _matrix(direction, shape[RECURRENT], 4 * u, u).T, gates.reshape(-1, 4 * u))
    recurrent = _matrix(theta, shape[RECURRENT], 4 * u, u).T
    more = np.empty((rows, 4 * u), dtype)
    dh, dc = np.empty((rows, u), dtype), np.zeros((rows, u), dtype)
    for t in range(letters):
        if t:
            np.dot(dh, recurrent, more)
        for row in range(rows):
            _add(gates[t, row], table[x[t, row]])
            if t:
                _add(gates[t, row], more[row])
            _cell_along(slopes[t, row], forget[t, row], output[t, row], gates[t, row], dc[row], dh[row])
    _copy(dh.reshape(-1), one[: dh.size])
    found = _tangent(layers, theta, rows, hidden, direction, True, one, two, three)
    _copy(found[: change.size], change.reshape(-1))
