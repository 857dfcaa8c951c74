"""The lowest versions that pyproject.toml declares, as constraints for pip: make lowest.

    python tests/lowest.py > FILE

They are those of what Flowstone runs with, and of the frames that it reads. The tools of the tests keep the versions in
constraints.txt.
"""

# ruff: noqa: T201 (a script prints)

import re
import tomllib
from pathlib import Path

__all__ = ["constraints", "lowest"]

ROOT = Path(__file__).parents[1]
EXTRAS = ("evaluation", "sklearn", "fast", "excel")
FRAMES = ("pandas", "polars")
TOOLS = ("hypothesis", "pytest", "sybil")


def lowest(requirement: str) -> str:
    """The constraint to the lowest version of one requirement.

    >>> lowest("numpy>=1.26"), lowest("ray[data]>=2.40; sys_platform == 'linux'")
    ('numpy==1.26', 'ray==2.40')
    """
    parts = re.fullmatch(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)(?:\s*;.*)?", requirement)
    if parts is None:
        raise ValueError(f"{requirement!r} declares no lowest version alone: write name>=version")
    return f"{parts[1]}=={parts[2]}"


def constraints() -> list[str]:
    """One line for each package, sorted."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras, tools = project["optional-dependencies"], (ROOT / "constraints.txt").read_text().splitlines()
    run_with = [*project["dependencies"], *(each for extra in EXTRAS for each in extras[extra])]
    low = [lowest(each) for each in (*run_with, *(each for each in extras["dev"] if each.startswith(FRAMES)))]
    return sorted({*low, *(line for line in tools if line.startswith(tuple(f"{tool}==" for tool in TOOLS)))})


if __name__ == "__main__":
    print("\n".join(constraints()))
