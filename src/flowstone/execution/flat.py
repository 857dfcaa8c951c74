"""Parameters side by side in one array."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from flowstone.density import Density
from flowstone.errors import SettingError
from flowstone.validation import require_instance

__all__ = ["FlatParameters", "group_by_dtype_and_device", "require_density", "trainable_parameters"]


def trainable_parameters(module: nn.Module) -> list[Tensor]:
    """The parameters that training changes.

    Raises:
        SettingError: there are none.
    """
    parameters: list[Tensor] = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise SettingError("this density has no parameters to train, or all are held fixed")
    return parameters


def require_density(what: str, density: Any) -> None:
    """Require a density, which may be one that ``torch.compile`` has wrapped, and refuse parameters of which each
    process holds a part, for an array cannot be made of them.

    Args:
        what: the beginning of the message, such as "fit trains a density".

    Raises:
        SettingError: it is no density, as one within ``DistributedDataParallel``; or a parameter is a DTensor, as
            ``torch.distributed.fsdp.fully_shard`` makes them.
    """
    if not isinstance(getattr(density, "_orig_mod", density), Density):
        inside = "; give it the .module inside" if isinstance(getattr(density, "module", None), Density) else ""
        require_instance(f"{what}{inside}", density, Density)
    for name, parameter in density.named_parameters():
        if hasattr(parameter, "full_tensor"):
            raise SettingError(
                f"{name} is sharded (a {type(parameter).__name__}), and whole parameters are needed: "
                f"docs/many-processes.md shows how sharded ones are trained and saved"
            )


def group_by_dtype_and_device(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """The parameters in groups of one dtype and device, each of which fits into one array."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for parameter in parameters:
        groups.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    return list(groups.values())


class FlatParameters(AbstractContextManager):
    """A context in which parameters of one dtype and device are views of one ``array``, and their gradients of its
    gradient.

    Clipping, the optimizer and averages then take one operation each instead of one for each parameter; in small nets
    such an operation takes as long as a layer's arithmetic. The gradients keep their place in memory from step to step,
    which prevents fragmentation. When the context ends each parameter has memory of its own again.

    Attributes:
        array: all parameters, ``(number of numbers,)``.
        gradient: their gradients, of the same shape; it is ``array.grad``.

    >>> import torch
    >>> from torch import nn
    >>> layer = nn.Linear(3, 2)
    >>> with FlatParameters(list(layer.parameters())) as flat:
    ...     layer(torch.ones(1, 3)).sum().backward()
    ...     flat.array.grad
    tensor([1., 1., 1., 1., 1., 1., 1., 1.])
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.array = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
        self.array.grad = self.gradient = torch.empty_like(self.array)
        self._values, self._gradients = self.views(self.array.data), self.views(self.gradient)
        self._value_places, self._gradient_places = _places(self._values), _places(self._gradients)
        self.zero_grad()

    def __exit__(self, *_: object) -> None:
        for parameter, value in zip(self.parameters, self._values, strict=True):
            parameter.data, parameter.grad = value.clone(), None

    def views(self, array: Tensor) -> list[Tensor]:
        """An array of this size as views with the parameters' shapes."""
        parts = array.split([parameter.numel() for parameter in self.parameters])
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]

    def zero_grad(self) -> None:
        """Set all gradients to 0, and make values and gradients of the parameters views of the arrays again where
        something has replaced them (``Module.to`` does).
        """
        if _places(self._gradients) != self._gradient_places:
            self._gradients = self.views(self.gradient)
        if _places(self.parameters) != self._value_places:
            for parameter, value in zip(self.parameters, self._values, strict=True):
                parameter.data = value
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            if parameter.grad is not gradient:
                parameter.grad = gradient
        self.gradient.zero_()

    def sync_gradients(self) -> None:
        """Copy into the arrays what the backward pass or a net has put elsewhere: gradients, or values that a net sets
        itself. Called between the backward pass and the optimizer's step.
        """
        for parameter, value, gradient in zip(self.parameters, self._values, self._gradients, strict=True):
            if parameter.data_ptr() != value.data_ptr():
                value.copy_(parameter.data)
                parameter.data = value
            if parameter.grad is not gradient and parameter.grad is not None:
                gradient.copy_(parameter.grad)
                parameter.grad = gradient


def _places(tensors: Sequence[Tensor]) -> list[int]:
    """Where each tensor begins in memory."""
    return list(map(Tensor.data_ptr, tensors))
