"""Parameters as one array."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from flowstone.errors import SettingError

__all__ = ["Flat", "alike", "trainable"]


def trainable(flow: nn.Module) -> list[Tensor]:
    """The parameters that training moves."""
    parameters: list[Tensor] = [parameter for parameter in flow.parameters() if parameter.requires_grad]
    if not parameters:
        raise SettingError("this flow has no parameters to train, or all are held fixed")
    return parameters


def alike(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """Groups each of which can be a ``Flat``: of one precision, on one device."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for parameter in parameters:
        groups.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    return list(groups.values())


class Flat(AbstractContextManager):
    """A context in which ``alike`` parameters lie side by side in ``array``, their gradients in its gradient.

    Clipping, the optimizer and averages then take one operation each instead of one for each parameter, which in small
    nets is as long as a layer's arithmetic. Gradients keep their memory: thrown away in each step and made anew between
    larger arrays that come and go, they would break it up. Afterwards each parameter has memory of its own again.

    >>> import torch
    >>> from torch import nn
    >>> layer = nn.Linear(3, 2)
    >>> with Flat(list(layer.parameters())) as flat:
    ...     layer(torch.ones(1, 3)).sum().backward()
    ...     flat.array.grad
    tensor([1., 1., 1., 1., 1., 1., 1., 1.])
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.array = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
        self.array.grad = self.gradient = torch.empty_like(self.array)
        self.values, self.gradients = self.parts(self.array.data), self.parts(self.gradient)
        self.places = [gradient.data_ptr() for gradient in self.gradients]
        self.zero_grad()

    def __exit__(self, *_: object) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.data, parameter.grad = value.clone(), None

    def parts(self, array: Tensor) -> list[Tensor]:
        """An array like this one as views of the parameters' shapes."""
        parts = array.split([parameter.numel() for parameter in self.parameters])
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]

    def zero_grad(self) -> None:
        """Of all parameters, whose values are the array's, too, where somebody has put others in their place."""
        if [gradient.data_ptr() for gradient in self.gradients] != self.places:  # ``Module.to`` changes what it finds
            self.gradients = self.parts(self.gradient)
        for parameter, value, gradient in zip(self.parameters, self.values, self.gradients, strict=True):
            if parameter.data_ptr() != value.data_ptr():
                parameter.data = value
            parameter.grad = gradient
        self.gradient.zero_()

    def take_in(self) -> None:
        """Before a step: what the backward pass or a net itself has put elsewhere, values or gradients."""
        for parameter, value, gradient in zip(self.parameters, self.values, self.gradients, strict=True):
            if parameter.data_ptr() != value.data_ptr():
                value.copy_(parameter.data)
                parameter.data = value
            if parameter.grad is not gradient and parameter.grad is not None:
                gradient.copy_(parameter.grad)
                parameter.grad = gradient
