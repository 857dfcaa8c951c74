"""What coupling and autoregressive layers share: a univariate transform whose parameters a net provides."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from flowstone.bijections.base import Bijection
from flowstone.bijections.univariate import Univariate
from flowstone.errors import ShapeError
from flowstone.validation import require_instance

__all__ = ["Conditioned"]


class Conditioned(Bijection):
    r"""A layer that transforms features one by one, with parameters $\theta$ that a conditioner net computes.

    Args:
        features: number of features D (for images: channels).
        transformed: how many of them the transform changes.
        transform: the univariate transform τ.
        net: the conditioner, ``(input, context) -> (batch, transformed * transform.parameters_per_feature, …)``, the
            parameters of one feature next to each other.

    Raises:
        ShapeError: the transform, or what the net returns, is for another number of features.
    """

    keeps_autocast = True

    def __init__(self, features: int, transformed: int, transform: Univariate, net: nn.Module) -> None:
        super().__init__(features)
        require_instance(f"{type(self).__name__} takes a univariate transform", transform, Univariate)
        if transform.features is not None and transform.features != transformed:
            raise ShapeError(
                f"{type(self).__name__} of {features} features transforms {transformed} of them; "
                f"its {type(transform).__name__} is for {transform.features}"
            )
        self.transformed = transformed
        self.transform = transform
        self.net = net

    @abstractmethod
    def split(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The part of x that the net sees, and the part that the transform changes."""

    def conditioner_parameters(self, seen: Tensor, context: Tensor | None = None) -> Tensor:
        """The transform's parameters, ``(batch, transformed, …, parameters_per_feature)``, given what the net sees.

        They have the precision of ``seen``; under autocast that of the net, if the transform reads it (``reads_bf16``).
        """
        output = self.net(seen, context)
        each = self.transform.parameters_per_feature
        if output.shape[1] != self.transformed * each:
            raise ShapeError(
                f"{type(self).__name__}: its net returns {output.shape[1]} numbers a row; {self.transformed} features "
                f"with {each} parameters each take {self.transformed * each}"
            )
        if not self.transform.reads_bf16:
            output = output.to(seen.dtype)
        parameters = torch.unflatten(output, 1, (self.transformed, each))
        return parameters if parameters.ndim == 3 else parameters.movedim(2, -1)

    def saturation(self, x: Tensor, context: Tensor | None = None) -> float | None:
        """How near the transform is to its bound at these x (``Univariate.saturation``)."""
        seen, changing = self.split(x)
        return self.transform.saturation(changing, self.conditioner_parameters(seen, context))
