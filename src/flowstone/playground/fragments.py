"""Sections of HTML that are complete in themselves: their style, their data and their script travel with them."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["asset", "floats", "section"]

ASSETS = Path(__file__).parent / "assets"


def asset(name: str) -> str:
    """The text of a file in ``assets/``."""
    return (ASSETS / name).read_text(encoding="utf-8")


def floats(values: Tensor) -> str:
    """Numbers as little-endian float32 in base64, which ``floatsOf`` in ``shared.js`` reads."""
    return base64.b64encode(np.asarray(values.detach().cpu().numpy(), dtype="<f4").tobytes()).decode("ascii")


def section(name: str, data: Mapping[str, Any], *, scripts: Sequence[str] = ()) -> str:
    """The section whose parts are ``name.css``, ``name.html`` and ``name.js``, with data for its script.

    Every class begins with ``flowstone-``, the script leaves no global name, and nothing is requested. Colours are CSS
    variables; a page that sets ``data-theme`` to light or dark on an element around it decides, else the system does.

    Args:
        scripts: further files of functions that ``name.js`` calls.
    """
    script = "".join(asset(each) for each in ("shared.js", *scripts, f"{name}.js"))
    content = json.dumps(data, allow_nan=False).replace("<", "\\u003c")  # no text of a user can end the script
    return (
        f'<div class="flowstone-part flowstone-{name}">\n'
        f"<style>\n{asset('shared.css')}{asset(f'{name}.css')}</style>\n"
        f"{asset(f'{name}.html')}"
        f'<script type="application/json" class="flowstone-data">{content}</script>\n'
        f"<script>\n(function () {{\n{script}}})();\n</script>\n"
        "</div>\n"
    )
