"""The runtime of ONNX for browsers, onnxruntime-web, packed as one script that needs no server."""

import base64
import gzip
from pathlib import Path

from flowstone.errors import SettingError

__all__ = ["packed_runtime", "runtime_folder"]

PACKAGE = Path("node_modules") / "onnxruntime-web"  # where npm puts it
SCRIPT, MODULE, PROGRAM = "ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"


def runtime_folder(folder: Path | None = None) -> Path:
    """The folder with the files of onnxruntime-web.

    Args:
        folder: the unpacked package, or its folder ``dist``; None looks where npm installs it in the working directory.

    Raises:
        SettingError: a file is missing; the message says how to get it. Nothing is downloaded.
    """
    base = PACKAGE if folder is None else folder
    for place in (base / "dist", base):
        if all((place / name).is_file() for name in (SCRIPT, MODULE, PROGRAM)):
            return place
    raise SettingError(
        f"{base} does not hold onnxruntime-web, which runs the model in the page: `npm install onnxruntime-web` here, "
        "or name the folder of the package",
        remedy={"runtime": "FOLDER"},
    )


def packed_runtime(folder: Path) -> str:
    """A script that defines ``ort``, and ``flowstoneRuntime`` with its module and its program in base64.

    A page that is opened from disk may request no file, so all is inside the script; the program is compressed.
    """
    script = (folder / SCRIPT).read_text(encoding="utf-8")
    script = "\n".join(line for line in script.splitlines() if not line.startswith("//# sourceMappingURL"))
    module = base64.b64encode((folder / MODULE).read_bytes()).decode("ascii")
    program = base64.b64encode(gzip.compress((folder / PROGRAM).read_bytes(), 6, mtime=0)).decode("ascii")
    return f'{script}\nwindow.flowstoneRuntime = {{\n  module: "{module}",\n  program: "{program}",\n}};\n'
