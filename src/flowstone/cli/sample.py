"""flowstone sample."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flowstone.cli.flags import with_flags
from flowstone.cli.values import (
    Device,
    FiniteCheck,
    Out,
    device_of,
    given_label,
    given_of,
    given_values,
    model_of,
    precision_of,
    require_apart,
)
from flowstone.errors import SettingError
from flowstone.train.settings import Settings
from flowstone.validation import require_seed

if TYPE_CHECKING:
    from torch import Tensor

    from flowstone.density import Density
    from flowstone.runs import Run
    from flowstone.table_model import TableModel

__all__ = ["sample"]

ROWS_AT_ONCE = 1 << 17  # written to a file


@with_flags(Settings, "precision")
def sample(
    run: Path,
    *,
    n: Annotated[int, Parameter(name=("-n", "--n"))],
    out: Out,
    temperature: float = 1.0,
    seed: int = 0,
    given: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    given_table: str | None = None,
    gaps: Annotated[bool, Parameter(negative=())] = False,
    device: Device = "auto",
    precision: str = Settings.precision,
) -> None:
    """Draw N new rows from the density of RUN.

    Where a value is NaN or infinite the file is written all the same, and the exit status is 1.

    Parameters
    ----------
    run
        A run folder.
    n
        How many rows or images to draw.
    out
        The file to write: .csv, .parquet, .npz, or .png for a picture; - writes .csv to standard output. For images:
        .npz, as uint8 (n, height, width, channels), or .png.
    temperature
        A factor by which the latent is multiplied; below 1 samples stay nearer to the mode, with 1 they are those of
        the model itself.
    seed
        The same seed gives the same rows.
    given
        Values of columns, as column=value, or column=a,b for one of several values. For a conditional density: a
        value for each column of the context; for images, label=NAME.
    given_table
        A table of values of columns: N rows are drawn for each of its rows. Values that are missing in it are drawn,
        too.
    gaps
        Let samples have gaps, too, in columns that had some.
    device
        Where to compute.
    """
    from flowstone.data.tables import STDOUT, check_writable
    from flowstone.runs import Run

    require_seed("seed", seed)
    if n < 1:
        raise SettingError(f"-n {n}: at least one sample is needed")
    folder = Run(run)
    if given_table is not None:
        require_apart(out, given_table)
    check_writable(out, (".csv", ".parquet") if folder.of_mixed_columns else tuple(_WRITERS))
    if folder.of_mixed_columns:
        model = model_of(folder, device)
        with precision_of(precision, model.density):
            _sample_table(
                folder, model, out, n, given or [], given_table, temperature=temperature, gaps=gaps, seed=seed
            )
        return
    if given_table is not None or gaps:
        flag = "--gaps" if given_table is None else "--given-table"
        raise SettingError(f"{flag} is for densities of mixed columns (--flow mixed); {run} is none")
    finite, density = FiniteCheck(), folder.density(device_of(device))
    how: dict[str, Any] = {"n": n, "temperature": temperature, "seed": seed}
    with precision_of(precision, density):
        if folder.of_images:
            _sample_images(folder, density, out, how, given or [], finite)
        else:
            columns, context_columns = folder.columns()
            values = given_of(given or [], context_columns)
            how["context"] = _context(context_columns, values, density)
            write = _write_table if out == STDOUT else _WRITERS[out.suffix.lower()]
            write(out, density, how, columns, values, finite, folder.kinds)
    finite.require(out, "a value")


def _sample_table(
    folder: "Run",
    model: "TableModel",
    out: Out,
    n: int,
    given: list[str],
    given_table: str | None,
    *,
    seed: int,
    **how: Any,
) -> None:
    from flowstone.data.tables import write_chunks

    if given_table is None:
        write_chunks(out, model.stream(n, given_values(given, model.columns), seed=seed, **how))
    elif given:
        raise SettingError("--given and --given-table say the same thing twice: give one of them")
    else:
        write_chunks(out, model.stream_given(folder.read(given_table), n, seed=seed, **how))


def _context(columns: list[str], values: dict[str, float], density: "Density") -> "Tensor | None":
    """One row of context of the values that were given."""
    import torch

    if set(values) != set(columns):
        wanted = " ".join(f"{name}=VALUE" for name in columns)
        raise SettingError(f"this flow is conditional: --given {wanted}" if wanted else "this flow takes no --given")
    if not columns:
        return None
    return torch.tensor([[values[name] for name in columns]], dtype=torch.float64, device=density.device)


def _sample_images(
    folder: "Run", density: "Density", out: Path, how: dict[str, Any], words: list[str], finite: FiniteCheck
) -> None:
    import numpy as np

    from flowstone.data import context_of
    from flowstone.data.tables import check_writable, write_arrays
    from flowstone.plot import save_mosaic

    check_writable(out, (".npz", ".png"))
    data, values = folder.record["data"], given_label(words)
    if bool(values) != bool(data["context"]):
        wanted = f"this flow is conditional: --given label=NAME, of {', '.join(data['classes'])}"
        raise SettingError("this flow takes no --given" if values else wanted)
    context = context_of([values["label"]], data["classes"]).to(density.device) if values else None
    x = finite(density.sample(context=context, **how).reshape(-1, *density.event_shape).cpu())
    if out.suffix.lower() == ".png":
        save_mosaic(x, out)
    else:
        pixels = x.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        write_arrays(out, x=pixels, **{f"given_{name}": np.array(value) for name, value in values.items()})


def _write_table(out: Path, density, how, columns, values, finite, kinds) -> None:
    """Write the samples as they come, so that they need not fit into memory, numbers on the grid, within the bounds and
    in the type of their column; constant columns are put back.
    """
    import numpy as np
    import pyarrow as pa

    from flowstone.data.tables import write_chunks
    from flowstone.data.tables.kinds import Boolean, Constant, Datetime, Numbers

    modelled = {kind.column: kind for kind in kinds.modelled} if kinds else {}

    def decoded(name: str, values: np.ndarray) -> Any:
        kind = modelled.get(name)
        if isinstance(kind, Numbers) and not isinstance(kind, Datetime):
            return kind.decode(values.astype(np.float64) - kind.origin)
        return kind.decode(values) if isinstance(kind, Boolean) else values

    def table(x: "Tensor") -> pa.Table:
        arrays = {name: decoded(name, x[:, index].numpy()) for index, name in enumerate(columns)}
        arrays |= {name: np.full(len(x), value) for name, value in values.items()}
        constants = [kind for kind in kinds.kinds if isinstance(kind, Constant)] if kinds else []
        arrays |= {kind.column: kind.repeat(len(x)) for kind in constants if kind.column not in arrays}
        in_order = [kind.column for kind in kinds.kinds if kind.column in arrays] if constants else list(arrays)
        return pa.table({name: arrays[name] for name in in_order})

    write_chunks(out, (table(finite(chunk)) for chunk in _larger(density.stream(**how))))


def _larger(chunks: "Iterable[Tensor]") -> "Iterator[Tensor]":
    """The same rows in chunks of at least ``ROWS_AT_ONCE``."""
    import torch

    held = []
    for chunk in chunks:
        held.append(chunk)
        if sum(map(len, held)) >= ROWS_AT_ONCE:
            yield torch.cat(held).cpu()
            held.clear()
    if held:
        yield torch.cat(held).cpu()


def _write_npz(out: Path, density, how, columns, values, finite, _) -> None:
    import numpy as np

    from flowstone.data.tables import write_arrays

    x = finite(density.sample(**how).flatten(0, -2).cpu()).numpy()
    write_arrays(out, x=x, columns=np.array(columns), **{f"given_{k}": np.array(v) for k, v in values.items()})


def _write_png(out: Path, density, how, columns, _, finite, __) -> None:
    from flowstone.plot import sample_figure, save_figure

    x = finite(density.sample(**how).flatten(0, -2).cpu())
    save_figure(sample_figure(x[x.isfinite().all(1)], columns), out)


_WRITERS = {".csv": _write_table, ".parquet": _write_table, ".npz": _write_npz, ".png": _write_png}
