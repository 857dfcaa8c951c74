"""flowstone check."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowstone.files import to_json

__all__ = ["check"]


def check(
    run: Path,
    data: str | None = None,
    *,
    drop_missing: Annotated[bool, Parameter(negative=())] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Whether the flow of RUN inverts and its log-dets are true, layer by layer; what is wrong comes first.

    Parameters
    ----------
    run
        A run folder.
    data
        A table or images to look at; without it, the run's own validation rows.
    drop_missing
        Leave out rows of DATA with a missing, NaN or infinite value.
    as_json
        Print the figures as JSON.
    """
    from flowstone.runs import Run

    folder = Run(run)
    flow = folder.flow()
    if data is None:
        rows = folder.dataset().validation
    elif folder.of_images:
        rows = folder.images(data).rows
    else:
        rows = folder.rows(data, drop_missing=drop_missing)[0]
    diagnosis = flow.check(rows.x, rows.context)
    print(to_json(diagnosis.as_dict()) if as_json else diagnosis)
