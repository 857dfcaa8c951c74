"""RealNVP for images (Dinh et al. 2016)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from flowstone.bijections import (
    ActNorm,
    Affine,
    BatchNorm,
    Bijection,
    Chain,
    Coupling,
    Inverse,
    LogisticMixtureCDF,
    Partial,
    RQSpline,
    Squeeze,
    Univariate,
    checkerboard,
)
from flowstone.errors import SettingError
from flowstone.flow import Flow
from flowstone.nets import FullResolution, GatedConvNet, ResConvNet
from flowstone.recipes.images import image_flow
from flowstone.recipes.registry import recipe
from flowstone.validation import require_choice

__all__ = ["realnvp_image"]

PRESETS: dict[str, dict[str, Any]] = {
    "faithful": {
        "net": "residual",
        "masked": True,
        "flow_norm": "batch",
        "transform": "affine",
        "split_prior": False,
        "widening": True,
    },
    "modern": {
        "net": "gated",
        "masked": False,
        "flow_norm": "actnorm",
        "transform": "spline",
        "split_prior": True,
        "widening": False,
    },
}
NETS = ("residual", "gated")
FLOW_NORMS = ("batch", "actnorm", "none")
TRANSFORMS = ("affine", "spline", "mixture")
NOISES = ("uniform", "variational")


@recipe
def realnvp_image(
    event_shape: Sequence[int],
    *,
    context_features: int = 0,
    preset: str = "modern",
    scales: int = 2,
    couplings: int = 3,
    channels: int = 32,
    blocks: int = 2,
    alpha: float | str | None = 0.05,
    noise: str = "uniform",
    net: str | None = None,
    masked: bool | None = None,
    norm: str = "batch",
    weight_norm: bool = True,
    flow_norm: str | None = None,
    momentum: float = 0.005,
    transform: str | None = None,
    bins: int = 8,
    bound: float = 4.0,
    split_prior: bool | None = None,
    widening: bool | None = None,
    prior: str = "normal",
) -> Flow:
    """RealNVP on images ``(channels, height, width)`` of integers 0 … 255 (Dinh, Sohl-Dickstein, Bengio 2016).

    Each scale has ``couplings`` checkerboard couplings, as many channel couplings after a squeeze, and then one colour
    of a checkerboard leaves; the last scale has four checkerboard couplings. Sizes that cannot be halved ``scales``
    times are padded (``Pad``). Published results are 3.49 bits/dim on CIFAR-10 (alpha 0.05) and 1.06 on MNIST (1e-6).

    Args:
        preset: the values of options that are None below. ``"faithful"``: residual nets with batch and weight
            normalization that see the masked image, affine transforms with a tanh times a learned factor (which starts
            at 1, with a net whose output is 0; the paper's code starts the factor of checkerboard couplings at 0),
            batch normalization of the flow by running averages, wider nets at coarser scales. ``"modern"``: gated nets
            on half of the pixels alone, rational-quadratic splines, ActNorm, a learned split prior.
        scales, couplings: the number of scales, and of couplings of each kind in a scale.
        channels, blocks: of the nets.
        alpha: α of the logit; ``"none"`` or None: pixels in [0, 1] and no logit.
        noise: the noise of the dequantization: ``"uniform"``, or ``"variational"``, learned by a flow of four couplings
            that sees the image (Ho et al. 2019): a tighter bound, for more time; for even sizes alone.
        net: ``"residual"`` or ``"gated"``.
        masked: whether the nets of checkerboard couplings see the full image, half of it masked.
        norm, weight_norm: settings of residual nets (``ResConvNet``).
        flow_norm: normalization of the half that a coupling changed: ``"batch"`` (with ``momentum``), ``"actnorm"`` or
            ``"none"``.
        transform: ``"affine"``, ``"spline"`` (rational-quadratic, ``bins`` on ±``bound``) or ``"mixture"`` (of ``bins``
            logistics).
        split_prior: whether what leaves is first transformed by a coupling whose net sees what stays: a learned prior.
        widening: whether nets are twice as wide in channel couplings, and again from scale to scale.

    >>> import flowstone
    >>> flowstone.realnvp_image((1, 5, 5), channels=4, blocks=1, couplings=1).sample(2, seed=0).shape
    torch.Size([2, 1, 5, 5])
    """
    require_choice("preset", preset, PRESETS)
    given = {
        "net": net,
        "masked": masked,
        "flow_norm": flow_norm,
        "transform": transform,
        "split_prior": split_prior,
        "widening": widening,
    }
    chosen = PRESETS[preset] | {name: value for name, value in given.items() if value is not None}
    for name, known in (("net", NETS), ("flow_norm", FLOW_NORMS), ("transform", TRANSFORMS), ("noise", NOISES)):
        require_choice(name, noise if name == "noise" else chosen[name], known)
    style = _Style(context_features, blocks, norm, weight_norm, momentum, bins, bound, **chosen)

    def scale(index: int, width: int) -> Bijection:
        hidden = channels * 2**index if style.widening else channels
        # Splines and nets need numbers of size 1, and logits are larger.
        first = [ActNorm(width)] if index == 0 and style.flow_norm == "actnorm" else []
        if index + 1 == scales:
            return Chain(*first, checkerboard(style.alternating(4, width, hidden, board=True)))
        wide = 2 * hidden if style.widening else hidden
        links = [
            *first,
            checkerboard(style.alternating(couplings, width, hidden, board=True)),
            Chain(Squeeze(), style.alternating(couplings, width, wide, board=False), Inverse(Squeeze())),
            Squeeze(order="checkerboard"),
        ]
        if style.split_prior:
            links.append(style.coupling(width, hidden, swap=False, board=False, transform="affine"))
        return Chain(*links)

    return image_flow(
        event_shape,
        scales,
        scale,
        context_features=context_features,
        alpha=alpha,
        prior=prior,
        noise=style.noise(event_shape, channels) if noise == "variational" else None,
    )


@dataclass(frozen=True)
class _Style:
    """Makes couplings of a squeezed image by the settings of the recipe."""

    context_features: int
    blocks: int
    norm: str
    weight_norm: bool
    momentum: float
    bins: int
    bound: float
    net: str
    masked: bool
    flow_norm: str
    transform: str
    split_prior: bool
    widening: bool

    def alternating(self, count: int, width: int, hidden: int, *, board: bool) -> Chain:
        """``count`` couplings that change the halves alternately, each with its normalization."""
        links: list[Bijection] = []
        for index in range(count):
            swap = index % 2 == 0  # the first keeps the second half
            links.append(self.coupling(width, hidden, swap=swap, board=board, transform=self.transform))
            if self.flow_norm == "batch":
                links.append(Partial(4 * width, BatchNorm(2 * width, momentum=self.momentum), swap=swap))
            elif self.flow_norm == "actnorm":
                links.append(Partial(4 * width, ActNorm(2 * width), swap=swap))
        return Chain(*links)

    def noise(self, event_shape: Sequence[int], hidden: int) -> Bijection:
        """The flow of the noise of variational dequantization; its nets see squares of the image as channels."""
        image, *sides = event_shape
        if any(side % 2 for side in sides):
            raise SettingError(f"event_shape={tuple(event_shape)}: noise='variational' wants an even height and width")
        seen = 4 * (image + self.context_features)
        noisy = replace(self, context_features=seen, masked=False, flow_norm="none", transform="affine")
        return checkerboard(noisy.alternating(4, image, hidden, board=True))

    def coupling(self, width: int, hidden: int, *, swap: bool, board: bool, transform: str) -> Coupling:
        """A coupling of an image of ``width`` channels, which has four times as many after the squeeze."""
        univariate = self._univariate(transform, 2 * width)
        each = univariate.parameters_per_feature
        if board and self.masked:
            net: nn.Module = self._net(width + 1, width * each, hidden, normed_input=False)
            net = FullResolution(net, width, swap=swap, norm=self.norm if self.net == "residual" else "none")
        else:
            net = self._net(2 * width, 2 * width * each, hidden)
        return Coupling(4 * width, univariate, net, swap=swap)

    def _univariate(self, name: str, changed: int) -> Univariate:
        if name == "spline":
            return RQSpline(bins=self.bins, bound=self.bound)
        if name == "mixture":
            return LogisticMixtureCDF(components=self.bins)
        return Affine((changed, 1, 1))

    def _net(self, inputs: int, outputs: int, hidden: int, *, normed_input: bool = True) -> nn.Module:
        if self.net == "gated":
            return GatedConvNet(
                inputs, outputs, hidden=hidden, blocks=self.blocks, context_features=self.context_features
            )
        return ResConvNet(
            inputs,
            outputs,
            hidden=hidden,
            blocks=self.blocks,
            context_features=self.context_features,
            norm=self.norm,
            weight_norm=self.weight_norm,
            normed_input=normed_input,
        )
