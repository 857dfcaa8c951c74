"""The lowest versions that pyproject.toml declares, as constraints for pip: make lowest.

    python tests/lowest.py > constraints-lowest.txt

Those of what Flowstone runs with: its dependencies and the extras in ``EXTRAS``. Tools of the tests keep the versions in
constraints.txt.
"""

# ruff: noqa: T201 (a script prints)

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["EXTRAS", "TOOLS", "constraints", "lowest"]

ROOT = Path(__file__).parents[1]
EXTRAS = ("evaluation", "sklearn", "fast", "excel")
TOOLS = ("hypothesis", "polars", "pytest", "pytest-xdist", "sybil")


def lowest(requirement: str) -> str:
    """The constraint of one requirement.

    >>> lowest("numpy>=1.26")
    'numpy==1.26'
    """
    wanted = Requirement(requirement)
    bounds = [each.version for each in wanted.specifier if each.operator == ">="]
    if len(bounds) != 1:
        raise ValueError(f"{requirement!r} has no lowest version: write it as name>=version")
    return f"{wanted.name}=={bounds[0]}"


def constraints() -> list[str]:
    """One line for each dependency, of those in ``EXTRAS`` and of the tools of the tests; sorted."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras, tested = project["optional-dependencies"], (ROOT / "constraints.txt").read_text().splitlines()
    required = [*project["dependencies"], *(each for extra in EXTRAS for each in extras[extra])]
    low = {lowest(each) for each in (*required, *(each for each in extras["dev"] if each.startswith("polars")))}
    tools = {line for line in tested if line.partition("==")[0] in TOOLS and not line.startswith("polars")}
    return sorted(low | tools)


if __name__ == "__main__":
    print("\n".join(constraints()))
