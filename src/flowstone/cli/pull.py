"""flowstone pull."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

__all__ = ["pull"]


def pull(
    name: str,
    *,
    out: Path,
    revision: str | None = None,
    plots: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Fetch the model NAME from the Hugging Face hub into a new run folder, and verify its digests.

    Parameters
    ----------
    name
        NAMESPACE/NAME on the hub.
    out
        The run folder to make.
    revision
        A branch, a tag or a commit. Default: the newest.
    plots
        Fetch the pictures and the report, too. A report is a page with scripts: open it only if you trust its author.
    """
    from flowstone.runs import pull as fetch

    run = fetch(name, out, revision=revision, plots=plots)
    for path in sorted(path for path in run.folder.rglob("*") if path.is_file()):
        print(path)
