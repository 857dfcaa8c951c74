"""flowstone push."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

__all__ = ["push"]

Switch = Parameter(negative=())


def push(
    run: Path,
    name: str,
    *,
    plots: Annotated[bool, Switch] = False,
    public: Annotated[bool, Switch] = False,
) -> None:
    """Send RUN to the Hugging Face hub as the model NAME, which only you can see.

    The density, its card, history.csv and metrics.json are sent, and what was sent is said; data and resume/ never are.
    Sign in before, by hf auth login or HF_TOKEN.

    Parameters
    ----------
    run
        A run folder.
    name
        NAMESPACE/NAME on the hub.
    plots
        Send the pictures and the report, too. They show rows of the data.
    public
        Let everybody see it.
    """
    from flowstone.runs import push as send

    pushed = send(run, name, plots=plots, public=public)
    for file, size in pushed.sent.items():
        print(f"sent {file} ({size:,} bytes)")
    print("flow.json holds the names of columns and levels, the range of each column and values with mass")
    if pushed.left:
        print(f"not sent: {', '.join(pushed.left)}")
    print(pushed.address)
