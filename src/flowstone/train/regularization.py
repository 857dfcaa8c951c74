"""Regularization against overfitting: dropout, weight decay, a penalty on scales."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from flowstone.bijections import Affine
from flowstone.execution.flat import group_by_dtype_and_device, trainable_parameters
from flowstone.train.settings import Settings

__all__ = ["dropout_rate", "groups_by_decay"]


@contextmanager
def dropout_rate(module: nn.Module, rate: float) -> Iterator[None]:
    """A context in which every dropout layer has this rate."""
    before = [(layer, layer.p) for layer in module.modules() if isinstance(layer, nn.Dropout)]
    for layer, _ in before:
        layer.p = rate
    try:
        yield
    finally:
        for layer, own in before:
            layer.p = own


def groups_by_decay(module: nn.Module, settings: Settings) -> list[tuple[list[Tensor], float]]:
    r"""Trainable parameters in groups of one dtype and device, each with the factor of its decay.

    A penalty $\lambda \sum v^2$ has the gradient $2 \lambda v$: a decay of $2 \lambda$ for those parameters alone.
    """
    penalized, parameters = {id(scale) for scale in _scales(module)}, trainable_parameters(module)
    decays = {False: settings.weight_decay, True: settings.weight_decay or 2 * settings.scale_penalty}
    return [
        (group, decay)
        for is_scale, decay in decays.items()
        for group in group_by_dtype_and_device(p for p in parameters if (id(p) in penalized) == is_scale)
    ]


def _scales(module: nn.Module) -> Iterator[Tensor]:
    """The learned factors of log-scales, and the magnitudes of weight-normalized layers."""
    for layer in module.modules():
        if isinstance(layer, Affine) and layer.factor is not None:
            yield layer.factor
        if hasattr(layer, "parametrizations"):
            yield from (part for name, part in layer.named_parameters() if name.endswith("original0"))
