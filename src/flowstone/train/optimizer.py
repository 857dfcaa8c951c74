"""Adam and its relatives over whole arrays."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamax import adamax
from torch.optim.adamw import adamw

__all__ = ["Optimizer"]

KINDS = {  # what each is computed by, and keeps of an array
    "adam": (adam, ("exp_avg", "exp_avg_sq")),
    "adamw": (adamw, ("exp_avg", "exp_avg_sq")),
    "adamax": (adamax, ("exp_avg", "exp_inf")),
}
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
FUSED = ("cpu", "cuda")


class Optimizer:
    """Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019) or Adamax, by torch's functions of these names.

    Its classes do the same, but load all of torch's compiler with their first parameter, which takes a second.

    Attributes:
        moments: by name, one like each array; ``steps``: how many each has behind it.

    >>> import torch
    >>> array = torch.ones(3)
    >>> array.grad = torch.tensor([1.0, 2.0, -3.0])
    >>> Optimizer("adam", [array]).step(0.5)
    >>> array
    tensor([0.5000, 0.5000, 1.5000])
    """

    def __init__(self, name: str, arrays: Sequence[Tensor], decays: Sequence[float] | None = None) -> None:
        self.name = name
        self.function, moments = KINDS[name]
        self.arrays = arrays
        self.decays = decays or [0.0] * len(arrays)
        self.moments = {moment: [torch.zeros_like(array.detach()) for array in arrays] for moment in moments}
        places = [array.device if self._fuses(array) else "cpu" for array in arrays]
        self.steps = [torch.zeros((), dtype=torch.float32, device=place) for place in places]

    def _fuses(self, array: Tensor) -> bool:
        return self.name != "adamax" and array.device.type in FUSED

    @torch.no_grad()
    def step(self, rate: float, found_inf: Tensor | None = None) -> None:
        """Move each array against its gradient; where ``found_inf`` is 1 a fused one stays (adamax has no such)."""
        settings: dict[str, Any] = {"lr": rate, "beta1": BETA1, "beta2": BETA2, "eps": EPS}
        if self.name == "adamax":
            settings |= {"foreach": True}
        else:
            settings |= {"amsgrad": False, "maximize": False, "max_exp_avg_sqs": []}
        for array, decay, step, *moments in zip(
            self.arrays, self.decays, self.steps, *self.moments.values(), strict=True
        ):
            fused = {"fused": True, "found_inf": found_inf} if self._fuses(array) else {}
            lists = [[array], [array.grad], *([moment] for moment in moments)]
            self.function(*lists, state_steps=[step], weight_decay=decay, **settings, **fused)
