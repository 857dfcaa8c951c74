"""What the scripts that fill docs/results.md and RESULTS.md share: their sections, and what the machine is."""

import os
import platform
from pathlib import Path

import torch

__all__ = ["PAGE", "SPEED", "data_folder", "machine", "write_section"]

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
SPEED = Path(__file__).parent / "RESULTS.md"


def write_section(name: str, text: str, page: Path = PAGE) -> None:
    """Put ``text`` where the page says ``name``, and leave the rest of it as it is."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = page.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page} has no section {name!r}")
    page.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}")


def machine() -> str:
    """Kind and versions, no names."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    return f"{os.cpu_count()} cores of {model}, CPU, torch {torch.__version__.split('+')[0]}"


def data_folder(given: Path | None) -> Path:
    """``--data-dir``, else FLOWSTONE_DATA, else the folder beside the project."""
    return given or Path(os.environ.get("FLOWSTONE_DATA", PAGE.parents[2] / "shared" / "data"))
