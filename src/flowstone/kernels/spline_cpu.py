"""The rational-quadratic spline in one pass over its parameters, on CPU, in float32: numba compiles it.

What is computed is ``RQSpline``'s, step by step; only the order in memory is another one. A block of elements at a time
lies in ``a``, one row for each quantity below and then one for each parameter, so that every loop over a row becomes
vector instructions and nothing leaves the cache. Rows and constants are plain numbers, which the compiler needs.

The parameters of an element are ``inner`` numbers apart, those of the next element follow: ``(outer, P, inner)`` is an
image's order (inner: its pixels) and a table's (inner = 1).
"""

import numpy as np
from numba import njit, types
from numba.extending import overload

# Unsigned, or every index would be asked whether it is negative, which costs the vector instructions.
u64 = np.uint64
ONE_ROW, BLOCK = u64(1), u64(256)
(X, INSIDE, AT, LEFT, WIDTH, BOTTOM, HEIGHT, START, END, EDGE_X, EDGE_Y, RAW_START, RAW_END, G_Z, G_LOG, TOP, TOTAL) = (
    u64(row) * BLOCK for row in range(17)
)
FIRST = u64(17 * 256)  # the parameters' first row

f32, i32 = np.float32, np.int32
ZERO, ONE, TWO, FOUR, NAN = f32(0), f32(1), f32(2), f32(4), f32(np.nan)
# NaN must stay NaN; and a division that Python would refuse must not cost the vector instructions.
compiled = njit(fastmath={"contract", "nsz"}, error_model="numpy", nogil=True, cache=True)

# exp and log to the last bit or two, after Cephes (Moshier 1989): what libm offers is not vectorised.
LOG2_E, LN2_HIGH, LN2_LOW = f32(1.44269504), f32(0.693359375), f32(-2.12194440e-4)
E1, E2, E3 = f32(1.9875691500e-4), f32(1.3981999507e-3), f32(8.3334519073e-3)
E4, E5, E6 = f32(4.1665795894e-2), f32(1.6666665459e-1), f32(5.0000001201e-1)
L1, L2, L3 = f32(7.0376836292e-2), f32(-1.1514610310e-1), f32(1.1676998740e-1)
L4, L5, L6 = f32(-1.2420140846e-1), f32(1.4249322787e-1), f32(-1.6668057665e-1)
L7, L8, L9 = f32(2.0000714765e-1), f32(-2.4999993993e-1), f32(3.3333331174e-1)
LOWEST, HIGHEST, HALF = f32(-87), f32(88), f32(0.5)
ROOT_HALF = i32(0x3F3504F3)


def widened(number):
    """A float32; of an int16, the one whose upper half these bits are: a bfloat16."""


def narrowed(number, like):
    """What is stored of a float32 in an array ``like``."""


@overload(widened)
def _widened(number):
    if isinstance(number, types.Float):
        return lambda number: number
    return lambda number: i32(i32(number) << i32(16)).view(np.float32)


@overload(narrowed)
def _narrowed(number, like):  # noqa: ARG001
    if isinstance(like.dtype, types.Float):
        return lambda number, like: number  # noqa: ARG005
    return _to_bfloat16


def _to_bfloat16(number, like):  # noqa: ARG001
    bits = f32(number).view(np.int32)
    up = i32(bits + i32(0x7FFF) + ((bits >> i32(16)) & i32(1))) >> i32(16)  # to the nearest, ties to even
    return np.int16(up if number == number else i32(0x7FC0))


@compiled
def exp(x):
    x = LOWEST if x < LOWEST else x
    x = HIGHEST if x > HIGHEST else x
    whole = np.rint(x * LOG2_E)
    r = x - whole * LN2_HIGH - whole * LN2_LOW
    p = ((((E1 * r + E2) * r + E3) * r + E4) * r + E5) * r + E6
    power = i32((i32(whole) + i32(127)) << i32(23)).view(np.float32)
    return (p * (r * r) + r + ONE) * power


@compiled
def log(x):
    bits = f32(x).view(np.int32)
    whole = i32(bits - ROOT_HALF) >> i32(23)
    r = i32(bits - i32(whole << i32(23))).view(np.float32) - ONE
    p = ((((((((L1 * r + L2) * r + L3) * r + L4) * r + L5) * r + L6) * r + L7) * r + L8) * r + L9) * r
    square = r * r
    value = r + (p * square + f32(whole) * LN2_LOW - HALF * square) + f32(whole) * LN2_HIGH
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
def read(parameters, a, begin, size, count, inner):
    """The parameters of elements ``begin`` … ``begin + size`` into rows."""
    if inner == 1:
        for e in range(size):
            for k in range(count):
                a[FIRST + k * BLOCK + e] = widened(parameters[(begin + e) * count + k])
        return
    e = u64(0)
    while e < size:
        outer, at = divmod(begin + e, inner)
        run = min(inner - at, size - e)
        for k in range(count):
            source = (outer * count + k) * inner + at
            for j in range(run):
                a[FIRST + k * BLOCK + e + j] = widened(parameters[source + j])
        e += run


@compiled
def write(parameters, a, begin, size, count, inner):
    """The rows back to their places."""
    if inner == 1:
        for e in range(size):
            for k in range(count):
                parameters[(begin + e) * count + k] = narrowed(a[FIRST + k * BLOCK + e], parameters)
        return
    e = u64(0)
    while e < size:
        outer, at = divmod(begin + e, inner)
        run = min(inner - at, size - e)
        for k in range(count):
            source = (outer * count + k) * inner + at
            for j in range(run):
                parameters[source + j] = narrowed(a[FIRST + k * BLOCK + e + j], parameters)
        e += run


@compiled
def softmax(a, first, bins):
    """Of ``bins`` rows, in place."""
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

    ``along_y``: which edges it is looked for among, those of y or of x.
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
        after = before if k == bins - ONE_ROW else slopes + row  # the last one's end slope is 1, whatever is read
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
def forward(x, parameters, z, log_slope, begin, stop, inner, bins, bound, min_size, min_slope, zero_slope):
    """Elements ``begin`` … ``stop``, data → latent."""
    count = u64(3) * bins - ONE_ROW
    a = np.zeros(FIRST + count * BLOCK, np.float32)
    for first in range(begin, stop, BLOCK):
        size = min(BLOCK, stop - first)
        read(parameters, a, first, size, count, inner)
        for e in range(size):
            a[X + e] = x[first + e]
        locate(a, bins, bound, min_size, min_slope, zero_slope, False)
        for e in range(BLOCK):
            start, end = a[START + e], a[END + e]
            xi = (a[INSIDE + e] - a[LEFT + e]) / a[WIDTH + e]
            mean = a[HEIGHT + e] / a[WIDTH + e]
            rest = ONE - xi
            bend = xi * rest
            denominator = mean + (start + end - TWO * mean) * bend
            rise = (mean * xi * xi + start * bend) / denominator
            steepness = end * xi * xi + TWO * mean * bend + start * rest * rest
            ratio = mean / denominator
            a[G_Z + e] = a[BOTTOM + e] + a[HEIGHT + e] * rise + (a[X + e] - a[INSIDE + e])
            a[G_LOG + e] = log(ratio * ratio * steepness)
        for e in range(size):
            z[first + e] = a[G_Z + e]
            log_slope[first + e] = a[G_LOG + e]


@compiled
def inverse(z, parameters, x, log_slope, begin, stop, inner, bins, bound, min_size, min_slope, zero_slope):
    """Elements ``begin`` … ``stop``, latent → data."""
    count = u64(3) * bins - ONE_ROW
    a = np.zeros(FIRST + count * BLOCK, np.float32)
    for first in range(begin, stop, BLOCK):
        size = min(BLOCK, stop - first)
        read(parameters, a, first, size, count, inner)
        for e in range(size):
            a[X + e] = z[first + e]
        locate(a, bins, bound, min_size, min_slope, zero_slope, True)
        for e in range(BLOCK):
            start, end = a[START + e], a[END + e]
            mean = a[HEIGHT + e] / a[WIDTH + e]
            rise = (a[INSIDE + e] - a[BOTTOM + e]) / a[HEIGHT + e]
            curve = rise * (start + end - TWO * mean)
            b = start - curve
            c = -mean * rise
            discriminant = b * b - FOUR * (mean - start + curve) * c
            discriminant = ZERO if discriminant < ZERO else discriminant
            xi = -TWO * c / (b + np.sqrt(discriminant))
            xi = ZERO if xi < ZERO else xi
            xi = ONE if xi > ONE else xi
            rest = ONE - xi
            bend = xi * rest
            steepness = end * xi * xi + TWO * mean * bend + start * rest * rest
            ratio = mean / (mean + (start + end - TWO * mean) * bend)
            a[G_Z + e] = a[LEFT + e] + a[WIDTH + e] * xi + (a[X + e] - a[INSIDE + e])
            a[G_LOG + e] = -log(ratio * ratio * steepness)
        for e in range(size):
            x[first + e] = a[G_Z + e]
            log_slope[first + e] = a[G_LOG + e]


@compiled
def backward(
    x, parameters, g_z, g_log, g_x, g_parameters, begin, stop, inner, bins, bound, min_size, min_slope, zero_slope
):
    """Gradients of ``forward`` by x and parameters, from those by z and log-slope; what is needed is computed again."""
    count = u64(3) * bins - ONE_ROW
    a = np.zeros(FIRST + count * BLOCK, np.float32)
    heights, slopes = FIRST + bins * BLOCK, FIRST + bins * BLOCK + bins * BLOCK
    scale = TWO * bound * (ONE - f32(bins) * min_size)
    for first in range(begin, stop, BLOCK):
        size = min(BLOCK, stop - first)
        read(parameters, a, first, size, count, inner)
        for e in range(size):
            a[X + e] = x[first + e]
            a[G_Z + e] = g_z[first + e]
            a[G_LOG + e] = g_log[first + e]
        locate(a, bins, bound, min_size, min_slope, zero_slope, False)
        for e in range(BLOCK):
            start, end = a[START + e], a[END + e]
            width, height = a[WIDTH + e], a[HEIGHT + e]
            xi = (a[INSIDE + e] - a[LEFT + e]) / width
            mean = height / width
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
            # By left and bottom, and by width and height: what the softmax's own gradient wants of its shares.
            a[TOP + e] = -by_inside
            a[TOTAL + e] = -by_inside * xi - by_mean * mean / width
            a[EDGE_X + e] = a[G_Z + e]
            a[EDGE_Y + e] = a[G_Z + e] * rise + by_mean / width
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
        write(g_parameters, a, first, size, count, inner)
        for e in range(size):
            g_x[first + e] = a[X + e]


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
