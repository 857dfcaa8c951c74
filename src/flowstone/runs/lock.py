"""The lock of a run folder: one training writes it at a time."""

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from flowstone.errors import OutputError
from flowstone.files import make_folder, write_atomically

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
            OutputError: another process has it, or the folder cannot be written.
        """
        make_folder(self._inner)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(f"{self.folder}: another training writes it{self._holder()}") from None
        except OSError as error:
            raise OutputError(f"cannot write {self.folder}: {error.strerror or error}") from error
        write_atomically(self._inner / HOLDER, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def release(self) -> None:
        """Give it back, if it is held."""
        if self._lock.is_locked:
            (self._inner / HOLDER).unlink(missing_ok=True)
            self._lock.release()

    def _holder(self) -> str:
        try:
            return f": {(self._inner / HOLDER).read_text()}"
        except OSError:
            return ""
