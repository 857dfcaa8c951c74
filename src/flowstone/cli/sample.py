"""flowstone sample."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowstone.cli.values import Device, device_of, given_label, given_of
from flowstone.errors import SettingError

__all__ = ["sample"]


def sample(
    run: Path,
    *,
    n: Annotated[int, Parameter(name=("-n", "--n"))],
    out: Path,
    temperature: float = 1.0,
    seed: int = 0,
    given: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    device: Device = "auto",
) -> None:
    """Draw N new rows from the flow of RUN.

    Parameters
    ----------
    run
        A run folder.
    n
        How many rows.
    out
        Where to: .csv, .parquet, .npz, or .png for a picture of them. Images: .npz, as uint8 (n, height, width,
        channels), or .png.
    temperature
        Factor on the latent; below 1 stays nearer to the mode, 1 samples the model itself.
    seed
        The same seed gives the same rows.
    given
        For a conditional flow: the context, as column=value; of images, label=NAME.
    device
        Where to compute.
    """
    import torch

    from flowstone.bijections import Standardize
    from flowstone.data.tables import check_writable
    from flowstone.run import Run

    check_writable(out, tuple(_WRITERS))
    if n < 1:
        raise SettingError(f"-n {n}: at least one sample is needed")
    folder = Run(run)
    flow = folder.flow(device_of(device))
    if folder.of_images:
        _sample_images(folder, flow, n, out, temperature, seed, given or [])
        return
    if any(isinstance(module, Standardize) and module.coarse for module in flow.modules()):
        flow = flow.double()
    columns, context_columns = folder.columns()
    values = given_of(given or [])
    if set(values) != set(context_columns):
        wanted = " ".join(f"{name}=VALUE" for name in context_columns)
        raise SettingError(f"this flow is conditional: --given {wanted}" if wanted else "this flow takes no --given")
    context = (
        torch.tensor([[values[name] for name in context_columns]], dtype=torch.float64) if context_columns else None
    )
    x = flow.sample(n, None if context is None else context.to(flow.device), temperature=temperature, seed=seed)
    x = x.flatten(0, -2).cpu()
    _WRITERS[out.suffix.lower()](out, x, columns, values)


def _sample_images(folder, flow, n: int, out: Path, temperature: float, seed: int, words: list[str]) -> None:
    import numpy as np

    from flowstone.data import context_of
    from flowstone.data.tables import check_writable, write_arrays
    from flowstone.plot import save_mosaic

    check_writable(out, (".npz", ".png"))
    data, values = folder.record["data"], given_label(words)
    if bool(values) != bool(data["context"]):
        wanted = f"this flow is conditional: --given label=NAME, of {', '.join(data['classes'])}"
        raise SettingError("this flow takes no --given" if values else wanted)
    context = context_of([values["label"]], data["classes"]).to(flow.device) if values else None
    x = flow.sample(n, context, temperature=temperature, seed=seed).reshape(n, *flow.event_shape).cpu()
    if out.suffix.lower() == ".png":
        save_mosaic(x, out)
    else:
        pixels = x.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        write_arrays(out, x=pixels, **{f"given_{name}": np.array(value) for name, value in values.items()})


def _write_table(out: Path, x, columns, values) -> None:
    import numpy as np
    import pyarrow as pa

    from flowstone.data.tables import write_table

    arrays = {name: x[:, index].numpy() for index, name in enumerate(columns)}
    write_table(out, pa.table(arrays | {name: np.full(len(x), value) for name, value in values.items()}))


def _write_npz(out: Path, x, columns, values) -> None:
    import numpy as np

    from flowstone.data.tables import write_arrays

    write_arrays(out, x=x.numpy(), columns=np.array(columns), **{f"given_{k}": np.array(v) for k, v in values.items()})


def _write_png(out: Path, x, columns, _) -> None:
    from flowstone.plot import sample_figure, save_figure

    save_figure(sample_figure(x, columns), out)


_WRITERS = {".csv": _write_table, ".parquet": _write_table, ".npz": _write_npz, ".png": _write_png}
