"""Optimizers of a training: Adam and its relatives over whole arrays, or one that a factory makes."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamax import adamax
from torch.optim.adamw import adamw

from flowstone.errors import CheckpointError, SettingError
from flowstone.train.settings import OptimizerFactory
from flowstone.train.weights import Weights, copy_into

__all__ = ["FactoryOptimizer", "Optimizer", "make_optimizer"]

KINDS: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {  # torch's function, and the moments that it keeps
    "adam": (adam, ("exp_avg", "exp_avg_sq")),
    "adamw": (adamw, ("exp_avg", "exp_avg_sq")),
    "adamax": (adamax, ("exp_avg", "exp_inf")),
}
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
FUSED = ("cpu", "cuda")
Tensors = dict[str, list[Tensor]]


def make_optimizer(
    choice: str | OptimizerFactory, weights: Weights, decays: Sequence[float]
) -> "Optimizer | FactoryOptimizer":
    """The optimizer of that name, or what the factory makes for the parameters of these weights."""
    if isinstance(choice, str):
        return Optimizer(choice, weights.arrays, decays)
    return FactoryOptimizer(choice, weights, decays)


class Optimizer:
    """Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019) or Adamax, by torch's functions of these names.

    Torch's classes compute the same, but load all of its compiler with their first parameter, which takes a second.

    Attributes:
        moments: by name, a tensor for each array; ``steps``: how many steps each array has taken.
        skips_nonfinite: whether a step can be left out on the device, without waiting for the loss.

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
        devices = [array.device if self._is_fused(array) else "cpu" for array in arrays]
        self.steps = [torch.zeros((), dtype=torch.float32, device=device) for device in devices]
        self.skips_nonfinite = name != "adamax"

    def _is_fused(self, array: Tensor) -> bool:
        return self.name != "adamax" and array.device.type in FUSED

    @torch.no_grad()
    def step(self, rate: float, found_inf: Tensor | None = None) -> None:
        """Move each array against its gradient; if ``found_inf`` is 1 nothing changes, except with adamax."""
        settings: dict[str, Any] = {"lr": rate, "beta1": BETA1, "beta2": BETA2, "eps": EPS}
        if self.name == "adamax":
            settings |= {"foreach": True}
        else:
            settings |= {"amsgrad": False, "maximize": False, "max_exp_avg_sqs": []}
        for array, decay, step, *moments in zip(
            self.arrays, self.decays, self.steps, *self.moments.values(), strict=True
        ):
            fused = {"fused": True, "found_inf": found_inf} if self._is_fused(array) else {}
            lists = [[array], [array.grad], *([moment] for moment in moments)]
            self.function(*lists, state_steps=[step], weight_decay=decay, **settings, **fused)

    def reset(self) -> None:
        """Forget all steps."""
        for tensor in (*self.steps, *(moment for moments in self.moments.values() for moment in moments)):
            tensor.zero_()

    def state(self, weights: Weights) -> tuple[Tensors, dict[str, Any]]:
        """The state that a resumed training needs: tensors, and a record for JSON."""
        return self._tensors(weights), {"name": self.name}

    def restore(self, weights: Weights, tensors: Mapping[str, list[Tensor]], record: Mapping[str, Any]) -> None:
        """Continue from a state; those of older versions say no name."""
        before = record.get("class") or record.get("name", self.name)
        if before != self.name:
            raise CheckpointError(f"of another optimizer: {before} instead of {self.name}")
        for name, into in self._tensors(weights).items():
            copy_into(into, tensors[name])

    def _tensors(self, weights: Weights) -> Tensors:
        return {"step": self.steps, **{name: weights.views(moments) for name, moments in self.moments.items()}}


class FactoryOptimizer:
    """A ``torch.optim.Optimizer`` that a factory makes of the list of parameters, each with a shape of its own.

    Raises:
        SettingError: the factory makes something else, or an optimizer that needs a closure.
    """

    skips_nonfinite = False

    def __init__(self, factory: OptimizerFactory, weights: Weights, decays: Sequence[float]) -> None:
        parameters = [parameter for flat in weights.flats for parameter in flat.parameters]
        self.optimizer = optimizer = factory(parameters)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise SettingError(
                f"optimizer: the factory returned a {type(optimizer).__name__}, not a torch.optim.Optimizer"
            )
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise SettingError(f"optimizer: {type(optimizer).__name__} evaluates the loss itself, which fit does")
        self.arrays, self.decays = weights.arrays, decays

    def step(self, rate: float, found_inf: Tensor | None = None) -> None:
        """Move each parameter against its gradient."""
        for array, decay in zip(self.arrays, self.decays, strict=True):
            if decay and array.grad is not None:
                array.grad.add_(array.detach(), alpha=decay)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    def reset(self) -> None:
        """Forget all steps."""
        self.optimizer.state.clear()

    def state(self, weights: Weights) -> tuple[Tensors, dict[str, Any]]:
        """Tensors of ``state_dict``, and the rest of it as a record; if that cannot be written, the reason."""
        state = self.optimizer.state_dict()
        values = {f"{i}/{key}": value for i, entry in state["state"].items() for key, value in entry.items()}
        tensors = {f"optimizer/{name}": [value] for name, value in values.items() if isinstance(value, Tensor)}
        groups = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
        record = {
            "class": type(self.optimizer).__name__,
            "groups": groups,
            "values": {name: value for name, value in values.items() if not isinstance(value, Tensor)},
            "more": {key: value for key, value in state.items() if key not in ("state", "param_groups")},
        }
        try:
            json.dumps(record)
        except (TypeError, ValueError) as error:
            return {}, {"class": record["class"], "lost": str(error)}
        return tensors, record

    def restore(self, weights: Weights, tensors: Mapping[str, list[Tensor]], record: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            CheckpointError: it is of another optimizer, or could not be written.
        """
        name = type(self.optimizer).__name__
        before = record.get("class") or record.get("name", "a named one")
        if before != name:
            raise CheckpointError(f"of another optimizer: {before} instead of {name}")
        if "lost" in record:
            raise CheckpointError(f"the state of {name} could not be written: {record['lost']}")
        saved = {key.partition("/")[2]: value[0] for key, value in tensors.items() if key.startswith("optimizer/")}
        state: dict[int, dict[str, Any]] = {}
        for key, value in (saved | record["values"]).items():
            index, _, entry = key.partition("/")
            state.setdefault(int(index), {})[entry] = value
        now = self.optimizer.state_dict()["param_groups"]
        groups = [group | _with_tuples(group, old) for group, old in zip(now, record["groups"], strict=True)]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups, **record["more"]})
        self._keep_precision(state)

    def _keep_precision(self, state: Mapping[int, Mapping[str, Any]]) -> None:
        """Give back their precision to the tensors that ``load_state_dict`` converted to that of the parameters."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for index, entry in state.items():
            own = self.optimizer.state[parameters[index]]
            for key, value in entry.items():
                if isinstance(value, Tensor) and own[key].dtype != value.dtype:
                    own[key] = value.to(own[key].device)


def _with_tuples(group: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Values from JSON, which has lists in place of the tuples of ``group``."""
    return {key: tuple(value) if isinstance(group.get(key), tuple) else value for key, value in saved.items()}
