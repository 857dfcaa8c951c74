"""Conditioners: ordinary networks that know nothing of flows."""

from flowstone.nets.any_order import AnyOrderNet
from flowstone.nets.conv import ConvNet
from flowstone.nets.gated import GatedConvNet
from flowstone.nets.made import MADE
from flowstone.nets.mlp import MLP, Parallel
from flowstone.nets.ordered import OrderedNet
from flowstone.nets.resconv import FullResolution, ResConvNet
from flowstone.nets.resnet import ResNet

__all__ = [
    "MADE",
    "MLP",
    "AnyOrderNet",
    "ConvNet",
    "FullResolution",
    "GatedConvNet",
    "OrderedNet",
    "Parallel",
    "ResConvNet",
    "ResNet",
]
