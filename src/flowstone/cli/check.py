"""flowstone check."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flowstone.cli.flags import select, with_flags
from flowstone.data.request import DataRequest
from flowstone.files import to_json

__all__ = ["check"]


@with_flags(DataRequest, "drop_missing")
def check(
    run: Path,
    data: str | None = None,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    **options: Any,
) -> None:
    """Check whether the flow of RUN inverts and its log-dets are correct, layer by layer; errors come first.

    Parameters
    ----------
    run
        A run folder.
    data
        A table or images to check it on; without it, the run's own validation rows.
    as_json
        Print the figures as JSON.
    """
    from flowstone.evaluation.check import check as judge
    from flowstone.evaluation.check import require_flow
    from flowstone.runs import Run

    folder = Run(run)
    density = require_flow(folder.density())
    if data is None:
        rows = folder.dataset().validation
    elif folder.of_images:
        rows = folder.images(data).rows
    else:
        rows = folder.rows(data, **select(DataRequest, options))[0]
    diagnosis = judge(density, rows.x, rows.context)
    print(to_json(diagnosis.as_dict()) if as_json else diagnosis)
