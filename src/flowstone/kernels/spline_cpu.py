"""The rational-quadratic spline in one pass over its parameters, on CPU, in float32: numba compiles it.

The steps are those of ``RQSpline``; only the order in memory differs. A block of elements at a time lies in ``a``, one
row for each quantity below and then one for each parameter, so that every loop over a row becomes vector instructions
and nothing leaves the cache. Rows and constants are plain numbers, which the compiler treats as constants.

The parameters of an element are ``inner`` numbers apart, those of the next element follow: ``(outer, P, inner)`` is an
image's order (inner: its pixels) and a table's (inner = 1).
"""

import ctypes
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core.cgutils import voidptr_t
from numba.extending import intrinsic as _intrinsic
from torch import Tensor

from flowstone.kernels.threads import run_on_threads

__all__ = ["kernel", "run"]

# Unsigned: a signed index is compared with 0 at every access, which prevents vector instructions.
u64 = np.uint64
ONE_ROW, BLOCK = u64(1), u64(256)
(X, INSIDE, AT, LEFT, WIDTH, BOTTOM, HEIGHT, START, END, EDGE_X, EDGE_Y, RAW_START, RAW_END, G_Z, G_LOG, TOP, TOTAL) = (
    u64(row) * BLOCK for row in range(17)
)
FIRST = TOTAL + BLOCK  # the parameters' first row

f32, i32 = np.float32, np.int32
ZERO, ONE, TWO, FOUR, NAN = f32(0), f32(1), f32(2), f32(4), f32(np.nan)
# NaN must stay NaN; and a check for division by zero, as Python makes it, would prevent vector instructions.
MODE: dict[str, Any] = {"fastmath": {"contract", "nsz"}, "error_model": "numpy"}
PART: dict[str, Any] = MODE | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # only kernels call it
compiled = njit(**PART)

# exp and log, exact to the last bit or two, after Cephes (Moshier 1989): those of libm are not vectorised.
LOG2_E, LN2_HIGH, LN2_LOW = f32(1.44269504), f32(0.693359375), f32(-2.12194440e-4)
E1, E2, E3 = f32(1.9875691500e-4), f32(1.3981999507e-3), f32(8.3334519073e-3)
E4, E5, E6 = f32(4.1665795894e-2), f32(1.6666665459e-1), f32(5.0000001201e-1)
L1, L2, L3 = f32(7.0376836292e-2), f32(-1.1514610310e-1), f32(1.1676998740e-1)
L4, L5, L6 = f32(-1.2420140846e-1), f32(1.4249322787e-1), f32(-1.6668057665e-1)
L7, L8, L9 = f32(2.0000714765e-1), f32(-2.4999993993e-1), f32(3.3333331174e-1)
LOWEST, HIGHEST, HALF = f32(-87), f32(88), f32(0.5)
ROOT_HALF = i32(0x3F3504F3)


@compiled
def exp(x):
    x = LOWEST if x < LOWEST else x
    x = HIGHEST if x > HIGHEST else x
    exponent = np.rint(x * LOG2_E)
    r = x - exponent * LN2_HIGH - exponent * LN2_LOW
    p = ((((E1 * r + E2) * r + E3) * r + E4) * r + E5) * r + E6
    power = i32((i32(exponent) + i32(127)) << i32(23)).view(np.float32)
    return (p * (r * r) + r + ONE) * power


@compiled
def log(x):
    bits = f32(x).view(np.int32)
    exponent = i32(bits - ROOT_HALF) >> i32(23)
    r = i32(bits - i32(exponent << i32(23))).view(np.float32) - ONE
    p = ((((((((L1 * r + L2) * r + L3) * r + L4) * r + L5) * r + L6) * r + L7) * r + L8) * r + L9) * r
    square = r * r
    value = r + (p * square + f32(exponent) * LN2_LOW - HALF * square) + f32(exponent) * LN2_HIGH
    return value if x > ZERO else NAN


@compiled
def softplus(x):
    t = exp(-abs(x))
    u = ONE + t
    return log(u) + (t - (u - ONE)) / u + (x if x > ZERO else ZERO)


@compiled
def sigmoid(x):
    return ONE / (ONE + exp(-x))


@compiled
def widened(bits):
    """The float32 whose upper half these bits are: a bfloat16."""
    return i32(i32(bits) << i32(16)).view(np.float32)


@compiled
def rounded(number):
    """The nearest number that a bfloat16 can hold, ties to even."""
    bits = f32(number).view(np.int32)
    up = i32(bits + i32(0x7FFF) + ((bits >> i32(16)) & i32(1)))
    return i32(up if number == number else i32(0x7FC00000)).view(np.float32)


@compiled
def upper(number):
    """The upper half of a float32's bits: the bfloat16 that it is, once rounded."""
    return np.int16(f32(number).view(np.int32) >> i32(16))


@compiled
def read(full, low, a, begin, size, count, inner):
    """Copy the parameters of elements ``begin`` … ``begin + size`` into rows: from ``full`` (float32), or from ``low``
    (bfloat16) if that is not empty.
    """
    e = u64(0)
    while e < size:
        outer, at = divmod(begin + e, inner)
        run = min(inner - at, size - e)
        if inner == ONE_ROW:  # a table: one pass over all rows, whose parameters lie one after the other
            run = size
        stride, step = (count, ONE_ROW) if inner == ONE_ROW else (ONE_ROW, inner)
        source = outer * count * inner + at
        if low.size:
            for k in range(count):
                for j in range(run):
                    a[FIRST + k * BLOCK + e + j] = widened(low[source + k * step + j * stride])
        else:
            for k in range(count):
                for j in range(run):
                    a[FIRST + k * BLOCK + e + j] = full[source + k * step + j * stride]
        e += run


@compiled
def write(full, low, a, begin, size, count, inner):
    """Write the rows back into the arrays."""
    e = u64(0)
    while e < size:
        outer, at = divmod(begin + e, inner)
        run = min(inner - at, size - e)
        if inner == ONE_ROW:
            run = size
        stride, step = (count, ONE_ROW) if inner == ONE_ROW else (ONE_ROW, inner)
        target = outer * count * inner + at
        if low.size:
            for k in range(count):  # a loop of its own, in vector instructions; the order of a table would prevent them
                for j in range(run):
                    a[FIRST + k * BLOCK + e + j] = rounded(a[FIRST + k * BLOCK + e + j])
            for k in range(count):
                for j in range(run):
                    low[target + k * step + j * stride] = upper(a[FIRST + k * BLOCK + e + j])
        else:
            for k in range(count):
                for j in range(run):
                    full[target + k * step + j * stride] = a[FIRST + k * BLOCK + e + j]
        e += run


@compiled
def softmax(a, first, bins):
    """The softmax of ``bins`` rows, in place."""
    for e in range(BLOCK):
        a[TOP + e] = a[first + e]
        a[TOTAL + e] = ZERO
    for k in range(ONE_ROW, bins):
        for e in range(BLOCK):
            value, top = a[first + k * BLOCK + e], a[TOP + e]
            a[TOP + e] = value if value > top else top
    for k in range(bins):
        for e in range(BLOCK):
            value = exp(a[first + k * BLOCK + e] - a[TOP + e])
            a[first + k * BLOCK + e] = value
            a[TOTAL + e] += value
    for e in range(BLOCK):
        a[TOTAL + e] = ONE / a[TOTAL + e]
    for k in range(bins):
        for e in range(BLOCK):
            a[first + k * BLOCK + e] *= a[TOTAL + e]


@compiled
def locate(a, bins, bound, min_size, min_slope, zero_slope, along_y):
    """The bin that holds each element: its lower corner, its size, its two end slopes.

    ``along_y`` chooses the edges among which it is searched: those of y, else those of x.
    """
    heights, slopes = FIRST + bins * BLOCK, FIRST + bins * BLOCK + bins * BLOCK
    softmax(a, FIRST, bins)
    softmax(a, heights, bins)
    least, scale = TWO * bound * min_size, TWO * bound * (ONE - f32(bins) * min_size)
    for e in range(BLOCK):
        value = a[X + e]
        value = -bound if value < -bound else value
        a[INSIDE + e] = bound if value > bound else value
        a[AT + e] = ZERO
        a[EDGE_X + e] = -bound
        a[EDGE_Y + e] = -bound
        a[LEFT + e] = -bound
        a[BOTTOM + e] = -bound
        a[WIDTH + e] = least + scale * a[FIRST + e]
        a[HEIGHT + e] = least + scale * a[heights + e]
        a[RAW_START + e] = ZERO
        a[RAW_END + e] = a[slopes + e]
    for k in range(ONE_ROW, bins):
        row = k * BLOCK
        for e in range(BLOCK):
            x = a[EDGE_X + e] + (least + scale * a[FIRST + row - BLOCK + e])
            y = a[EDGE_Y + e] + (least + scale * a[heights + row - BLOCK + e])
            a[EDGE_X + e] = x
            a[EDGE_Y + e] = y
            here = a[INSIDE + e] >= (y if along_y else x)
            # Both sides are read before one is chosen: a choice of values is a vector instruction, a choice of what to
            # read is a branch.
            at, left, bottom, width, height = a[AT + e], a[LEFT + e], a[BOTTOM + e], a[WIDTH + e], a[HEIGHT + e]
            next_width = least + scale * a[FIRST + row + e]
            next_height = least + scale * a[heights + row + e]
            a[AT + e] = f32(k) if here else at
            a[LEFT + e] = x if here else left
            a[BOTTOM + e] = y if here else bottom
            a[WIDTH + e] = next_width if here else width
            a[HEIGHT + e] = next_height if here else height
        before = slopes + row - BLOCK
        after = before if k == bins - ONE_ROW else slopes + row  # the last bin's end slope is 1, whatever is read
        for e in range(BLOCK):
            here = a[AT + e] == f32(k)
            start, end = a[RAW_START + e], a[RAW_END + e]
            next_start, next_end = a[before + e], a[after + e]
            a[RAW_START + e] = next_start if here else start
            a[RAW_END + e] = next_end if here else end
    for e in range(BLOCK):
        start = min_slope + softplus(a[RAW_START + e] + zero_slope)
        end = min_slope + softplus(a[RAW_END + e] + zero_slope)
        left, bottom, width, height = a[LEFT + e], a[BOTTOM + e], a[WIDTH + e], a[HEIGHT + e]
        is_last = a[AT + e] == f32(bins - ONE_ROW)
        a[START + e] = ONE if a[AT + e] == ZERO else start
        a[END + e] = ONE if is_last else end
        a[WIDTH + e] = bound - left if is_last else width
        a[HEIGHT + e] = bound - bottom if is_last else height


@compiled
def solve(rise, mean, start, end):
    """Where in its bin, 0 … 1, the curve has risen that far: the stable root of a quadratic."""
    curve = rise * (start + end - TWO * mean)
    b = start - curve
    c = -mean * rise
    discriminant = b * b - FOUR * (mean - start + curve) * c
    discriminant = ZERO if discriminant < ZERO else discriminant
    xi = -TWO * c / (b + np.sqrt(discriminant))
    xi = ZERO if xi < ZERO else xi
    return ONE if xi > ONE else xi


@compiled
def place(a, e, mean, along_y):
    """Where in its bin, 0 … 1, element e is."""
    if along_y:
        return solve((a[INSIDE + e] - a[BOTTOM + e]) / a[HEIGHT + e], mean, a[START + e], a[END + e])
    return (a[INSIDE + e] - a[LEFT + e]) / a[WIDTH + e]


class Call(ctypes.Structure):
    """The argument of a kernel: addresses of arrays, and numbers. Its threads take block after block from ``next``."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("next", "total", "inner", "bins", "along_y", "is_bf16")),
        *((name, ctypes.c_uint64) for name in ("value", "parameters", "g_z", "g_log", "first", "second")),
        *((name, ctypes.c_float) for name in ("bound", "min_size", "min_slope", "zero_slope")),
    ]


CALL = np.dtype(Call)
intrinsic: Any = _intrinsic  # such functions are called with other arguments than they are defined with


@intrinsic
def pointer(_context, address):
    """An integer as a pointer to that address."""

    def generate(_context, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], voidptr_t)

    return types.voidptr(address), generate


@intrinsic
def fetch_add(_context, _address, _step):
    """Add a step to the uint64 at an address, atomically, and return its value before: no two threads get the same."""

    def generate(_context, builder, _signature, arguments):
        place = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "monotonic")

    return types.uint64(types.voidptr, types.uint64), generate


@compiled
def float_array(call, address) -> Any:
    """The array of float32 at an address, one number for each element."""
    return carray(pointer(address), (call.total,), np.float32)


@compiled
def parameter_arrays(call, address) -> Any:
    """Parameters, or their gradients, at an address: ``(float32, empty)`` or, of bfloat16, ``(empty, its bits)``."""
    size: Any = call.total * (u64(3) * call.bins - ONE_ROW)
    low: Any = size if call.is_bf16 else u64(0)
    return carray(pointer(address), (size - low,), np.float32), carray(pointer(address), (low,), np.int16)


def transform(call_address):
    """Data → latent or, ``along_y``, back: results and log-slopes."""
    call = carray(call_address, 1, CALL)[0]
    bins, bound, along_y = call.bins, call.bound, call.along_y != 0
    value, result, log_slope = (
        float_array(call, call.value),
        float_array(call, call.first),
        float_array(call, call.second),
    )
    full, low = parameter_arrays(call, call.parameters)
    count = u64(3) * bins - ONE_ROW
    a = np.zeros(FIRST + count * BLOCK, np.float32)
    first = fetch_add(call_address, BLOCK)
    while first < call.total:
        size = min(BLOCK, call.total - first)
        read(full, low, a, first, size, count, call.inner)
        for e in range(size):
            a[X + e] = value[first + e]
        locate(a, bins, bound, call.min_size, call.min_slope, call.zero_slope, along_y)
        for e in range(BLOCK):
            start, end, width, height = a[START + e], a[END + e], a[WIDTH + e], a[HEIGHT + e]
            mean = height / width
            xi = place(a, e, mean, along_y)
            rest = ONE - xi
            bend = xi * rest
            denominator = mean + (start + end - TWO * mean) * bend
            rise = (mean * xi * xi + start * bend) / denominator
            steepness = end * xi * xi + TWO * mean * bend + start * rest * rest
            ratio = mean / denominator
            slope = log(ratio * ratio * steepness)
            moved = a[LEFT + e] + width * xi if along_y else a[BOTTOM + e] + height * rise
            a[G_Z + e] = moved + (a[X + e] - a[INSIDE + e])
            a[G_LOG + e] = -slope if along_y else slope
        for e in range(size):
            result[first + e] = a[G_Z + e]
            log_slope[first + e] = a[G_LOG + e]
        first = fetch_add(call_address, BLOCK)


def backward(call_address):
    """Gradients of data → latent by x and parameters, from those by z and log-slope; what is needed is computed again,
    from x or, ``along_y``, from z.
    """
    call = carray(call_address, 1, CALL)[0]
    bins, bound, along_y = call.bins, call.bound, call.along_y != 0
    value, g_z, g_log = float_array(call, call.value), float_array(call, call.g_z), float_array(call, call.g_log)
    g_x = float_array(call, call.first)
    (full, low), (g_full, g_low) = parameter_arrays(call, call.parameters), parameter_arrays(call, call.second)
    count = u64(3) * bins - ONE_ROW
    a = np.zeros(FIRST + count * BLOCK, np.float32)
    heights, slopes = FIRST + bins * BLOCK, FIRST + bins * BLOCK + bins * BLOCK
    min_size, zero_slope = call.min_size, call.zero_slope
    scale = TWO * bound * (ONE - f32(bins) * min_size)
    first = fetch_add(call_address, BLOCK)
    while first < call.total:
        size = min(BLOCK, call.total - first)
        read(full, low, a, first, size, count, call.inner)
        for e in range(size):
            a[X + e] = value[first + e]
            a[G_Z + e] = g_z[first + e]
            a[G_LOG + e] = g_log[first + e]
        locate(a, bins, bound, call.min_size, call.min_slope, call.zero_slope, along_y)
        for e in range(BLOCK):
            start, end = a[START + e], a[END + e]
            width, height = a[WIDTH + e], a[HEIGHT + e]
            mean = height / width
            xi = place(a, e, mean, along_y)
            rest = ONE - xi
            bend = xi * rest
            turn = start + end - TWO * mean
            denominator = mean + turn * bend
            rise = (mean * xi * xi + start * bend) / denominator
            steepness = end * xi * xi + TWO * mean * bend + start * rest * rest

            by_rise = a[G_Z + e] * height
            by_numerator = by_rise / denominator
            by_denominator = -(TWO * a[G_LOG + e] + by_rise * rise) / denominator
            by_steepness = a[G_LOG + e] / steepness
            by_bend = by_numerator * start + by_denominator * turn + by_steepness * TWO * mean
            by_mean = (
                TWO * a[G_LOG + e] / mean
                + by_numerator * xi * xi
                + by_denominator * (ONE - TWO * bend)
                + by_steepness * TWO * bend
            )
            by_start = (by_numerator + by_denominator) * bend + by_steepness * rest * rest
            by_end = by_denominator * bend + by_steepness * xi * xi
            by_xi = (
                TWO * xi * (by_numerator * mean + by_steepness * end)
                + by_bend * (rest - xi)
                - TWO * by_steepness * start * rest
            )
            by_inside = by_xi / width
            # Gradients by left and bottom, and by width and height, from which ``shares`` continues. In the last bin
            # width and height are what left and bottom leave: beyond the bound these gradients are exactly 0.
            by_bottom = a[G_Z + e]
            by_width = -by_inside * xi - by_mean * mean / width
            by_height = by_bottom * rise + by_mean / width
            is_last = a[AT + e] == f32(bins - ONE_ROW)
            a[TOP + e] = -by_inside - by_width if is_last else -by_inside
            a[TOTAL + e] = ZERO if is_last else by_width
            a[EDGE_X + e] = by_bottom - by_height if is_last else by_bottom
            a[EDGE_Y + e] = ZERO if is_last else by_height
            a[START + e] = by_start * sigmoid(a[RAW_START + e] + zero_slope)
            a[END + e] = by_end * sigmoid(a[RAW_END + e] + zero_slope)
            by_z = a[G_Z + e]
            a[X + e] = by_inside if a[X + e] == a[INSIDE + e] else by_z
        shares(a, FIRST, bins, LEFT, WIDTH, TOP, TOTAL, bound, min_size, scale)
        shares(a, heights, bins, BOTTOM, HEIGHT, EDGE_X, EDGE_Y, bound, min_size, scale)
        for k in range(bins - ONE_ROW):
            row = slopes + k * BLOCK
            for e in range(BLOCK):
                at, by_start, by_end = a[AT + e], a[START + e], a[END + e]
                by_start = by_start if at == f32(k + ONE_ROW) else ZERO
                a[row + e] = by_end if at == f32(k) else by_start
        write(g_full, g_low, a, first, size, count, call.inner)
        for e in range(size):
            g_x[first + e] = a[X + e]
        first = fetch_add(call_address, BLOCK)


@compiled
def shares(a, first, bins, corner, size, by_corner, by_size, bound, min_size, scale):
    """Rows of softmax shares become gradients by what went into the softmax."""
    for e in range(BLOCK):
        before = (a[corner + e] + bound - a[AT + e] * TWO * bound * min_size) / scale
        own = (a[size + e] - TWO * bound * min_size) / scale
        a[INSIDE + e] = a[by_corner + e] * before + a[by_size + e] * own
    for k in range(bins):
        row = first + k * BLOCK
        for e in range(BLOCK):
            at, before, own = a[AT + e], a[by_corner + e], a[by_size + e]
            by_share = before if at > f32(k) else ZERO
            by_share = own if at == f32(k) else by_share
            a[row + e] *= scale * (by_share - a[INSIDE + e])


@cache
def kernel(name: str) -> Any:
    """A kernel that C can call, compiled when it is first used, or read from the cache of an earlier run."""
    return cfunc(types.void(types.voidptr), cache=True, **MODE)({"transform": transform, "backward": backward}[name])


def run(
    name: str, spline: Any, values: tuple[Tensor, ...], stored: Tensor, inner: int, zero_slope: float, *, along_y: bool
) -> tuple[Tensor, Tensor]:
    """``transform`` or ``backward`` of contiguous values whose parameters are stored ``inner`` apart; their results."""
    value, *gradients = values
    first = torch.empty_like(value)
    second = torch.empty_like(stored if gradients else value)
    call = Call(
        0, value.numel(), inner, spline.bins, along_y, stored.dtype == torch.bfloat16,
        value.data_ptr(), stored.data_ptr(), *(g.data_ptr() for g in gradients or (value, value)),
        first.data_ptr(), second.data_ptr(), spline.bound, spline.min_size, spline.min_slope, zero_slope,
    )  # fmt: skip
    run_on_threads(kernel(name).ctypes, call)
    return first, second
