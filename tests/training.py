"""Small flows and short trainings for the tests of fit."""

from typing import Any

import torch

import flowstone

__all__ = ["QUICK", "same", "small", "weights"]

QUICK: dict[str, Any] = {"progress": False, "batch_size": 64, "validate_every": 10}


def small(**kwargs) -> flowstone.Flow:
    torch.manual_seed(1)
    return flowstone.spline(2, couplings=2, hidden=(16,), **kwargs)


def weights(flow: flowstone.Flow) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in flow.state_dict().items()}


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
