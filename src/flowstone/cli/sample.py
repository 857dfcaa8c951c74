"""flowstone sample."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowstone.cli.values import Device, device_of, given_label, given_of, precision_of
from flowstone.errors import SettingError

__all__ = ["sample"]

PIECE = 1 << 17  # rows


def sample(
    run: Path,
    *,
    n: Annotated[int, Parameter(name=("-n", "--n"))],
    out: Path,
    temperature: float = 1.0,
    seed: int = 0,
    given: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    device: Device = "auto",
    precision: str = "fp32",
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
    precision
        fp32, or bf16 for the nets: quicker where the processor has it; `flowstone check` says what it costs.
    """
    import torch

    from flowstone.bijections import Standardize
    from flowstone.data.tables import check_writable
    from flowstone.runs import Run

    check_writable(out, tuple(_WRITERS))
    if n < 1:
        raise SettingError(f"-n {n}: at least one sample is needed")
    folder = Run(run)
    flow = folder.flow(device_of(device))
    if folder.of_images:
        with precision_of(precision, flow):
            _sample_images(folder, flow, n, out, temperature, seed, given or [])
        return
    if any(isinstance(module, Standardize) and module.coarse for module in flow.modules()):
        if precision != "fp32":
            raise SettingError(f"--precision {precision}: a column of this table has more digits than that keeps")
        flow = flow.double()
    columns, context_columns = folder.columns()
    values = given_of(given or [])
    if set(values) != set(context_columns):
        wanted = " ".join(f"{name}=VALUE" for name in context_columns)
        raise SettingError(f"this flow is conditional: --given {wanted}" if wanted else "this flow takes no --given")
    context = (
        torch.tensor([[values[name] for name in context_columns]], dtype=torch.float64) if context_columns else None
    )
    context = None if context is None else context.to(flow.device)
    how = {"n": n, "context": context, "temperature": temperature, "seed": seed}
    with precision_of(precision, flow):
        _WRITERS[out.suffix.lower()](out, flow, how, columns, values)


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


def _write_table(out: Path, flow, how, columns, values) -> None:
    """Each piece as it comes: more samples than memory holds."""
    import numpy as np
    import pyarrow as pa

    from flowstone.data.tables import write_pieces

    def table(x) -> pa.Table:
        arrays = {name: x[:, index].numpy() for index, name in enumerate(columns)}
        return pa.table(arrays | {name: np.full(len(x), value) for name, value in values.items()})

    write_pieces(out, map(table, _gathered(flow.stream(**how))))


def _gathered(parts):
    """Fewer and larger pieces: what a file is written in."""
    import torch

    held = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) >= PIECE:
            yield torch.cat(held).cpu()
            held.clear()
    if held:
        yield torch.cat(held).cpu()


def _write_npz(out: Path, flow, how, columns, values) -> None:
    import numpy as np

    from flowstone.data.tables import write_arrays

    x = flow.sample(**how).flatten(0, -2).cpu().numpy()
    write_arrays(out, x=x, columns=np.array(columns), **{f"given_{k}": np.array(v) for k, v in values.items()})


def _write_png(out: Path, flow, how, columns, _) -> None:
    from flowstone.plot import sample_figure, save_figure

    save_figure(sample_figure(flow.sample(**how).flatten(0, -2).cpu(), columns), out)


_WRITERS = {".csv": _write_table, ".parquet": _write_table, ".npz": _write_npz, ".png": _write_png}
