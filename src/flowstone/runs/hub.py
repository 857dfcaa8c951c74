"""Sharing of run folders by the Hugging Face hub: what is sent, and what is taken."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowstone.errors import CheckpointError, DataError, FlowstoneError, OutputError, SettingError
from flowstone.files import atomic_folder, read_bytes, read_json, require_regular, write_atomically
from flowstone.runs.checkpoint import RECORD, WEIGHTS, load, read_record, save
from flowstone.runs.folder import METRICS, Run
from flowstone.runs.model_card import CARD, model_card
from flowstone.train.history import History

__all__ = ["Pushed", "pull", "push"]

HISTORY, REPORT = "history.csv", "report.html"
FILES = (RECORD, WEIGHTS, HISTORY, METRICS, CARD)
PICTURE = re.compile(r"plots/[\w-]+\.png")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
KEPT_IN_RECORD = ("columns", "context_columns", "data", "training", "estimator")  # parts that are sent


@dataclass(frozen=True)
class Pushed:
    """What was sent.

    Attributes:
        address: of the model on the hub.
        sent: the files, with their sizes in bytes.
        left: files of the folder that were not sent.
    """

    address: str
    sent: Mapping[str, int]
    left: tuple[str, ...]


def push(folder: Path | str, name: str, *, plots: bool = False, public: bool = False) -> Pushed:
    """Send a run folder to the hub, as a model that only you can see unless it is ``public``.

    Sent are the density, its card, ``history.csv`` and ``metrics.json``; never the data, ``resume/`` or any other file.
    The description that is sent lacks the folders of this machine and the digest of the data. It holds what the density
    needs: the names of columns and levels, the range of each column and values with mass. The account is that of the
    hub's client: ``hf auth login``, or the environment variable HF_TOKEN.

    Args:
        folder: a run folder, or one that ``flowstone.save`` wrote.
        name: ``namespace/name`` on the hub; what was pushed there before is replaced.
        plots: send the pictures and the report, too, which show rows of the data.
        public: let everybody see it.

    Raises:
        CheckpointError: the folder is damaged or holds no density, or a link in it leads out of it.
        SettingError: the name cannot be one, nobody is signed in, or a model of this name is public already.
        DataError: the hub cannot be reached, or refuses.
    """
    folder = Path(folder)
    _require_name(name)
    library, record = _library(), read_record(folder)
    with tempfile.TemporaryDirectory() as place:
        staging = Path(place)
        _stage(folder, staging, record, name, plots=plots)
        with _plain_errors(library, name):
            api = library.HfApi()
            address = str(api.create_repo(name, repo_type="model", private=not public, exist_ok=True))
            if not public and not api.model_info(name).private:
                raise SettingError(f"{name} is public already; to send it there", remedy={"public": True})
            api.upload_folder(
                repo_id=name, repo_type="model", folder_path=str(staging), commit_message="A density by Flowstone"
            )
        sent = {path.relative_to(staging).as_posix(): path.stat().st_size for path in _files(staging)}
    there = (path.relative_to(folder).as_posix() for path in _files(folder))
    return Pushed(address, sent, tuple(path for path in there if path not in sent))


def _stage(folder: Path, staging: Path, record: Mapping[str, Any], name: str, *, plots: bool) -> None:
    """Put what is sent into an empty folder."""
    public = {key: record[key] for key in KEPT_IN_RECORD if key in record}
    if "data" in public:
        data = {key: value for key, value in public["data"].items() if key not in ("sha256", "data_dir")}
        public["data"] = data | ({"source": Path(data["source"]).name} if data.get("source") else {})
    save(load(folder), staging, extra=public)
    metrics = Run(folder).metrics()
    if (folder / HISTORY).exists():
        History.load(folder / HISTORY)
    pictures = [f"plots/{path.name}" for path in sorted((folder / "plots").glob("*.png"))]
    for file in (HISTORY, METRICS, CARD, *((REPORT, *pictures) if plots else ())):
        if (folder / file).exists():
            _require_own(folder, folder / file)
            (staging / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / file, staging / file)
    card = staging / CARD
    text = read_bytes(card) if card.exists() else model_card(record, metrics).encode()
    write_atomically(card, text.replace(b"NAMESPACE/NAME", name.encode()))


def _require_own(folder: Path, path: Path) -> None:
    """Refuse to send what a link, such as one in a foreign run folder, names elsewhere on this machine."""
    require_regular(path)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"{path}: is not sent (it is a link out of its folder)")


def pull(name: str, folder: Path | str, *, revision: str | None = None, plots: bool = False) -> Run:
    """Fetch a density from the hub into a new run folder, which is made once all is there and its digests are right.

    Fetched are ``flow.json``, ``flow.safetensors``, ``history.csv``, ``metrics.json`` and ``README.md``, of which none
    is run as code; whatever else is there stays there.

    Args:
        name: ``namespace/name`` on the hub.
        folder: the run folder to make.
        revision: a branch, a tag or a commit; None takes the newest.
        plots: fetch the pictures and the report, too. A report is a page, whose scripts a browser runs: open it only
            where you trust who wrote it.

    Raises:
        OutputError: the folder exists or cannot be written.
        SettingError: the name cannot be one, or nobody is signed in.
        DataError: there is no such model, it holds no density of Flowstone, or the hub cannot be reached.
        CheckpointError: what was fetched is damaged, foreign or of a newer format.
    """
    folder = Path(folder)
    _require_name(name)
    library = _library()
    if os.path.lexists(folder):
        raise OutputError(f"{folder} exists: choose another folder")
    with atomic_folder(folder) as staging, _plain_errors(library, name, revision):
        info = library.HfApi().model_info(name, revision=revision)
        there = {each.rfilename for each in info.siblings or ()}
        for needed in (RECORD, WEIGHTS):
            if needed not in there:
                raise DataError(f"{name}: it holds no density of Flowstone: there is no {needed}")
        wanted = [file for file in sorted(there) if file in FILES or (plots and _is_shown(file))]
        for file in wanted:
            library.hf_hub_download(name, file, revision=info.sha, local_dir=staging)
        shutil.rmtree(staging / ".cache", ignore_errors=True)
        _require_sound(staging, name)
    return Run(folder)


def _is_shown(file: str) -> bool:
    return file == REPORT or PICTURE.fullmatch(file) is not None


def _require_sound(folder: Path, name: str) -> None:
    """Read all that was fetched; an error names the model and not the folder, which is soon gone."""
    try:
        load(folder)
        if (folder / HISTORY).exists():
            History.load(folder / HISTORY)
        if (folder / METRICS).exists() and not isinstance(read_json(folder / METRICS), dict):
            raise CheckpointError(f"{folder / METRICS}: not metrics that Flowstone wrote")
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(f"{folder}{os.sep}", f"{name}: ")) from error


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _require_name(name: str) -> None:
    if not NAME.fullmatch(name) or ".." in name or "--" in name or len(name) > 96:
        raise SettingError(f"{name!r} is no name on the hub: it is NAMESPACE/NAME, of letters, digits, -, _ and .")


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise SettingError(
            "sharing needs huggingface_hub, which is not installed: pip install 'flowstone[hub]'"
        ) from error
    return huggingface_hub


@contextmanager
def _plain_errors(library: Any, name: str, revision: str | None = None) -> Iterator[None]:
    """Errors of the hub's client, of the hub and of the network, in one line each."""
    errors = library.errors
    try:
        yield
    except FlowstoneError:
        raise
    except errors.LocalTokenNotFoundError as error:
        raise SettingError("nobody is signed in at the hub: run hf auth login, or set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise DataError(f"{name}: there is no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(f"{name}: no such model is on the hub, or you may not see it: hf auth login") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status == 401:
            raise SettingError("nobody is signed in at the hub: run hf auth login, or set HF_TOKEN") from error
        if status == 403:
            raise SettingError(f"{name}: your account may not do that") from error
        raise DataError(f"{name}: the hub refuses ({' '.join(str(error).split())[:200]})") from error
    except Exception as error:  # the client lets through whatever its network layer and the disk raise
        if isinstance(error, OSError) and error.errno in DISK:
            raise OutputError(f"cannot write what {name} holds: {error.strerror}") from error
        raise DataError(f"{name}: the hub was not reached ({type(error).__name__}): is there a network?") from error
