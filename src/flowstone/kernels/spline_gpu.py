"""The rational-quadratic spline in one pass over its parameters, on GPUs, in float32: Triton compiles it.

The steps are those of ``RQSpline``, for a block of elements at a time: their bins lie side by side as a second axis, so
that softmax, running sums and the choice of a bin are reductions along it. Parameters are stored as for the CPU
(``spline_cpu``): of element e the p-th is at ``(e // inner) * P * inner + p * inner + e % inner``.
"""

# Triton's type annotations do not cover its indexing, and not every machine has Triton.
# pyright: reportMissingImports=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["run"]

NUMBERS = 1024  # bins of all elements of one program


@triton.jit
def softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def shares(raw, at, valid, BINS: tl.constexpr, WIDE: tl.constexpr):
    """The softmax of an element's raw widths or heights, 0 beyond the last bin."""
    bins = tl.arange(0, WIDE)[None, :] < BINS
    x = tl.load(raw + at, mask=valid, other=0.0).to(tl.float32)
    power = tl.where(bins, tl.exp(x - tl.max(tl.where(bins, x, -float("inf")), 1)[:, None]), 0.0)
    return power / tl.sum(power, 1)[:, None]


@triton.jit
def pick(values, here):
    """The value of the bin that holds the element, in each row."""
    return tl.sum(tl.where(here, values, 0.0), 1)


@triton.jit
def locate(
    raw, e, mask, inner, inside, bound, min_size, min_slope, zero_slope,
    ALONG_Y: tl.constexpr, BINS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The bin that holds each element: its number, its shares, its lower corner, its size, its two raw slopes."""
    first = (e // inner) * (3 * BINS - 1) * inner + e % inner
    k = tl.arange(0, WIDE)[None, :]
    at, valid = first[:, None] + k * inner, mask[:, None] & (k < BINS)
    least, scale = 2 * bound * min_size, 2 * bound * (1 - BINS * min_size)
    x_shares = shares(raw, at, valid, BINS, WIDE)
    y_shares = shares(raw, at + BINS * inner, valid, BINS, WIDE)
    widths, heights = least + scale * x_shares, least + scale * y_shares
    rights, tops = tl.cumsum(widths, 1) - bound, tl.cumsum(heights, 1) - bound
    edges = tops if ALONG_Y else rights
    index = tl.sum(((inside[:, None] >= edges) & (k < BINS - 1)).to(tl.int32), 1)
    here, is_last = k == index[:, None], index == BINS - 1
    left, bottom = pick(rights - widths, here), pick(tops - heights, here)
    width = tl.where(is_last, bound - left, pick(widths, here))
    height = tl.where(is_last, bound - bottom, pick(heights, here))
    slopes = raw + first + 2 * BINS * inner + index * inner
    raw_start = tl.load(slopes - inner, mask=mask & (index > 0), other=0.0).to(tl.float32) + zero_slope
    raw_end = tl.load(slopes, mask=mask & (index < BINS - 1), other=0.0).to(tl.float32) + zero_slope
    start = tl.where(index == 0, 1.0, min_slope + softplus(raw_start))
    end = tl.where(is_last, 1.0, min_slope + softplus(raw_end))
    return first, index, x_shares, y_shares, left, bottom, width, height, raw_start, raw_end, start, end


@triton.jit
def place(inside, left, bottom, width, height, start, end, ALONG_Y: tl.constexpr):
    """Where in its bin, 0 … 1, an element is: from y by the stable root of a quadratic."""
    if ALONG_Y:
        mean = height / width
        rise = (inside - bottom) / height
        curve = rise * (start + end - 2 * mean)
        b, c = start - curve, -mean * rise
        discriminant = b * b - 4 * (mean - start + curve) * c
        xi = -2 * c / (b + tl.sqrt(tl.where(discriminant < 0, 0.0, discriminant)))
        xi = tl.where(xi < 0, 0.0, tl.where(xi > 1, 1.0, xi))  # NaN stays
    else:
        xi = (inside - left) / width
    return xi


@triton.jit
def segment(xi, mean, start, end):
    """The terms of the curve of one bin, and of its slope, at xi."""
    rest = 1 - xi
    bend = xi * rest
    turn = start + end - 2 * mean
    denominator = mean + turn * bend
    rise = (mean * xi * xi + start * bend) / denominator
    steepness = end * xi * xi + 2 * mean * bend + start * rest * rest
    return rest, bend, turn, denominator, rise, steepness


@triton.jit
def transform(
    value, raw, result, log_slope, n, inner, bound, min_size, min_slope, zero_slope,
    ALONG_Y: tl.constexpr, BINS: tl.constexpr, WIDE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Data → latent or, along y, back."""
    e = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    mask = e < n
    x = tl.load(value + e, mask=mask, other=0.0)
    inside = tl.where(x < -bound, -bound, tl.where(x > bound, bound, x))  # NaN stays
    _, _, _, _, left, bottom, width, height, _, _, start, end = locate(
        raw, e, mask, inner, inside, bound, min_size, min_slope, zero_slope, ALONG_Y, BINS, WIDE
    )
    mean = height / width
    xi = place(inside, left, bottom, width, height, start, end, ALONG_Y)
    _, _, _, denominator, rise, steepness = segment(xi, mean, start, end)
    ratio = mean / denominator
    slope = tl.log(ratio * ratio * steepness)
    moved = left + width * xi if ALONG_Y else bottom + height * rise
    tl.store(result + e, moved + (x - inside), mask=mask)
    tl.store(log_slope + e, -slope if ALONG_Y else slope, mask=mask)


@triton.jit
def by_raw(shares, k, index, corner, size, by_corner, by_size, bound, least, scale):
    """The gradient by what went into a softmax, from that by a bin's corner and size."""
    before = (corner + bound - index * least) / scale
    own = (size - least) / scale
    mean = by_corner * before + by_size * own
    by_share = tl.where(k == index[:, None], by_size[:, None], tl.where(k < index[:, None], by_corner[:, None], 0.0))
    return shares * scale * (by_share - mean[:, None])


@triton.jit
def backward(
    value, raw, g_z, g_log, g_x, g_raw, n, inner, bound, min_size, min_slope, zero_slope,
    ALONG_Y: tl.constexpr, BINS: tl.constexpr, WIDE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Gradients of data → latent by x and parameters, from those by z and log-slope, at x or, along y, at z."""
    e = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    mask = e < n
    x = tl.load(value + e, mask=mask, other=0.0)
    by_z = tl.load(g_z + e, mask=mask, other=0.0)
    by_log = tl.load(g_log + e, mask=mask, other=0.0)
    inside = tl.where(x < -bound, -bound, tl.where(x > bound, bound, x))
    first, index, x_shares, y_shares, left, bottom, width, height, raw_start, raw_end, start, end = locate(
        raw, e, mask, inner, inside, bound, min_size, min_slope, zero_slope, ALONG_Y, BINS, WIDE
    )
    mean = height / width
    xi = place(inside, left, bottom, width, height, start, end, ALONG_Y)
    rest, bend, turn, denominator, rise, steepness = segment(xi, mean, start, end)

    by_rise = by_z * height
    by_numerator = by_rise / denominator
    by_denominator = -(2 * by_log + by_rise * rise) / denominator
    by_steepness = by_log / steepness
    by_bend = by_numerator * start + by_denominator * turn + by_steepness * 2 * mean
    by_mean = 2 * by_log / mean + by_numerator * xi * xi + by_denominator * (1 - 2 * bend) + by_steepness * 2 * bend
    by_start = (by_numerator + by_denominator) * bend + by_steepness * rest * rest
    by_end = by_denominator * bend + by_steepness * xi * xi
    by_xi = (
        2 * xi * (by_numerator * mean + by_steepness * end) + by_bend * (rest - xi) - 2 * by_steepness * start * rest
    )
    by_inside = by_xi / width
    by_width = -by_inside * xi - by_mean * mean / width
    by_height = by_z * rise + by_mean / width
    tl.store(g_x + e, tl.where(x == inside, by_inside, by_z), mask=mask)

    # In the last bin width and height are what left and bottom leave: beyond the bound these gradients are exactly 0.
    is_last = index == BINS - 1
    by_left, by_bottom = -by_inside, by_z
    by_left, by_width = tl.where(is_last, by_left - by_width, by_left), tl.where(is_last, 0.0, by_width)
    by_bottom, by_height = tl.where(is_last, by_bottom - by_height, by_bottom), tl.where(is_last, 0.0, by_height)
    k = tl.arange(0, WIDE)[None, :]
    at, valid = first[:, None] + k * inner, mask[:, None] & (k < BINS)
    least, scale = 2 * bound * min_size, 2 * bound * (1 - BINS * min_size)
    by_widths = by_raw(x_shares, k, index, left, width, by_left, by_width, bound, least, scale)
    by_heights = by_raw(y_shares, k, index, bottom, height, by_bottom, by_height, bound, least, scale)
    by_end, by_start = by_end * sigmoid(raw_end), by_start * sigmoid(raw_start)
    by_slopes = tl.where(
        k == index[:, None], by_end[:, None], tl.where(k + 1 == index[:, None], by_start[:, None], 0.0)
    )
    tl.store(g_raw + at, by_widths, mask=valid)
    tl.store(g_raw + at + BINS * inner, by_heights, mask=valid)
    tl.store(g_raw + at + 2 * BINS * inner, by_slopes, mask=valid & (k < BINS - 1))


def run(
    name: str, spline: Any, values: tuple[Tensor, ...], stored: Tensor, inner: int, zero_slope: float, *, along_y: bool
) -> tuple[Tensor, Tensor]:
    """The same as ``spline_cpu.run``."""
    value, *more = values
    first = torch.empty_like(value)
    second = torch.empty_like(stored if name == "backward" else value)
    kernel = {"transform": transform, "backward": backward}[name]
    n, wide = value.numel(), triton.next_power_of_2(spline.bins)
    size = max(16, NUMBERS // wide)
    with torch.cuda.device_of(value):
        kernel[(triton.cdiv(n, size),)](
            value, stored, *more, first, second, n, inner, spline.bound, spline.min_size, spline.min_slope, zero_slope,
            ALONG_Y=along_y, BINS=spline.bins, WIDE=wide, SIZE=size,
        )  # fmt: skip
    return first, second
