"""flowstone export."""

import sys
from pathlib import Path

from flowstone.errors import SettingError

__all__ = ["export"]


def export(run: Path, *, out: Path, part: str = "log_prob") -> None:
    """Write the density of RUN as an ONNX file, and compare the file with it where onnxruntime is installed.

    Parameters
    ----------
    run
        A run folder.
    out
        The file to write, .onnx.
    part
        log_prob: from rows to their log-likelihoods; sample: from draws of the prior to rows.
    """
    if out.suffix != ".onnx":
        raise SettingError(f"--out {out}: the name of an ONNX file ends in .onnx")
    from flowstone.export import export_onnx, require_onnx_form
    from flowstone.runs import Run

    density = Run(run).density()
    require_onnx_form(density, part)
    print("exporting, which takes seconds to minutes", file=sys.stderr)
    written = export_onnx(density, out, part=part)
    for name, (shape, kind) in written.inputs.items():
        print(f"input {name}: ({', '.join(map(str, shape))}), {kind}")
    print(f"output: {written.output}")
    if written.difference is None:
        print("not compared with the density: onnxruntime is not installed")
    else:
        print(f"onnxruntime differs from the density by at most {written.difference:.2g}")
