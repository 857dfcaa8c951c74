"""The lock of a run folder: one training writes it at a time."""

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from flowstone.errors import CheckpointError, OutputError
from flowstone.files import make_folder, read_bytes, require_inside, write_atomically

__all__ = ["HOLDER", "LOCK", "RunLock"]

LOCK, HOLDER = ".lock", ".holder"


class RunLock:
    """The system's lock on ``RUN/resume/.lock``, which ends with its process, however that ends.

    ``RUN/resume/.holder`` says who has it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inner = folder / "resume"
        self._lock = FileLock(self._inner / LOCK, thread_local=False)

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            OutputError: another process has it, or the folder cannot be written, or a link leads out of it.
        """
        make_folder(self._inner)
        for path in self.folder.rglob("*"):
            if path.is_dir() or path.name == LOCK:
                require_inside(path)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(f"{self.folder}: another training writes it{self._holder()}") from None
        except OSError as error:
            raise OutputError(f"cannot write {self.folder}: {error.strerror or error}") from error
        write_atomically(self._inner / HOLDER, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._lock.is_locked:
            (self._inner / HOLDER).unlink(missing_ok=True)
            self._lock.release()

    def _holder(self) -> str:
        try:
            return f": {read_bytes(self._inner / HOLDER)[:100].decode(errors='backslashreplace')}"
        except CheckpointError:
            return ""
