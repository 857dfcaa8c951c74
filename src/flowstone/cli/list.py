"""flowstone list."""

import inspect
import json
from typing import Annotated

from cyclopts import Parameter

__all__ = ["list_"]


def list_(*, as_json: Annotated[bool, Parameter(name="--json", negative=())] = False) -> None:
    """List the recipes with their arguments, the toys with their entropies, and the image sets.

    Parameters
    ----------
    as_json
        Print as JSON.
    """
    from flowstone.data import IMAGE_SETS, TOYS
    from flowstone.recipes import DEFAULT, IMAGE_DEFAULT, MIXED_DEFAULT, all_recipes

    defaults = {DEFAULT: "of toys and numbers", MIXED_DEFAULT: "of mixed columns", IMAGE_DEFAULT: "of images"}
    recipes = {
        name: {
            "about": next(iter((inspect.getdoc(function) or "").splitlines()), ""),
            "default": name in defaults,
            "arguments": {
                parameter.name: parameter.default
                for parameter in inspect.signature(function).parameters.values()
                if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
            },
        }
        for name, function in all_recipes().items()
    }
    toys = {toy.name: {"about": toy.about, "entropy": toy.entropy} for toy in TOYS.values()}
    images = {known.name: {"about": known.about, "looks_for": known.forms} for known in IMAGE_SETS.values()}
    if as_json:
        print(json.dumps({"recipes": recipes, "toys": toys, "images": images}, indent=2))
        return
    print("recipes (--flow NAME, --set key=value …)")
    for name, recipe in recipes.items():
        default = f" (default {defaults[name]})" if name in defaults else ""
        print(f"  {name}{default}: {recipe['about']}")
        print("      " + "  ".join(f"{key}={_plain(value)}" for key, value in recipe["arguments"].items()))
    print("\ntoys")
    for name, toy in toys.items():
        print(f"  {name:<13} {toy['about']}; entropy {toy['entropy']:.4f} nats")
    print("\nimage sets, in the data folder (--data-dir, FLOWSTONE_DATA)")
    for name, known in images.items():
        print(f"  {name:<13} {known['about']}")


def _plain(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
