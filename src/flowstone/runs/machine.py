"""The machine and the versions of a training, as its figures record them."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

__all__ = ["machine"]

PACKAGES = ("flowstone", "torch", "numpy")


def machine(device: torch.device | str = "cpu") -> dict[str, str]:
    """The kind of processor and system, and versions, by name; nothing that tells one machine from another of its kind.

    >>> {"processor", "python", "torch"} <= machine().keys()
    True
    """
    found = {"processor": f"{os.cpu_count()} cores of {_processor()}", "device": _device(torch.device(device))}
    found |= {"system": f"{platform.system()} {platform.machine()}", "python": platform.python_version()}
    return found | {name: _version(name) for name in PACKAGES}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
