"""Damage run folders, and see that each is refused in one line or gives the same numbers: make damage.

    PYTHONPATH=tests python -m damage --count 1000 --seed 0

Bytes are flipped, zeroed, put in, cut off and exchanged; files are exchanged between runs and replaced by pipes and
links; weights are cast, turned round and spoiled with NaN; numbers of the record become absurd or of another type, deep
or long, also with a digest computed anew, as an adversary would. Reading may take at most 4 GiB and 20 seconds.
"""

# ruff: noqa: T201 (a script prints)

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import flowstone
from cases import disturb
from flowstone.errors import CheckpointError
from flowstone.files import read_tensors, tensors_to_bytes
from flowstone.recipes import build
from flowstone.runs.checkpoint import write_record
from flowstone.train.state import load_state

__all__ = ["Damage"]

MEMORY, SECONDS = 4 << 30, 20
RUNS: dict[str, dict[str, Any]] = {
    "realnvp": {"features": 3, "hidden": [8]},
    "spline": {"features": 3, "couplings": 2, "hidden": [8]},
    "maf": {"features": 3, "hidden": [8]},
    "mixed": {"features": 3, "width": 8},
    "gaussian_mixture": {"features": 3, "components": 2},
}
ABSURD = (None, -1, 0, 10**8, 10**30, 1e308, "x", [], {}, True, [[[[]]]], "9" * 5000)
FILES = ("flow.json", "flow.safetensors", "state/state.safetensors")


class Damage:
    """Sound run folders, and what is done to copies of them.

    Args:
        base: a folder for them.
        rng: where the choices come from.
    """

    def __init__(self, base: Path, rng: random.Random) -> None:
        self.base, self.rng = base, rng
        self.x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        self.wanted: dict[str, Any] = {}
        for name, arguments in RUNS.items():
            torch.manual_seed(0)
            density, folder = build(name, arguments), base / name
            flowstone.fit(density, self.x.repeat(20, 1) + 0.1 * torch.randn(80, 3), steps=2, progress=False,
                          resume=folder / "state", batch_size=16)  # fmt: skip
            disturb(density, 0.1)
            flowstone.save(density, folder, extra={"columns": ["a", "b", "c"]})
            self.wanted[name] = self._numbers(folder)
        self.kinds: list[Callable[[Path], None]] = [
            self.flip, self.flip, self.zero, self.put_in, self.cut, self.exchange_bytes, self.exchange_files, self.cast,
            self.turn, self.spoil, self.absurd, self.forged, self.nested, self.replaced,
        ]  # fmt: skip

    def once(self) -> tuple[str, str]:
        """The kind of one damage, and what came of it: ``refused``, ``same``, or what was wrong."""
        name, kind = self.rng.choice(list(RUNS)), self.rng.choice(self.kinds)
        folder = self.base / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.base / name, folder)
        kind(folder)
        signal.alarm(SECONDS)
        try:
            outcome = "same" if self._numbers(folder) == self.wanted[name] else "other numbers"
        except CheckpointError as error:
            outcome = "refused" if "\n" not in str(error) else f"several lines: {error}"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        return kind.__name__, outcome

    def _numbers(self, folder: Path) -> Any:
        state = load_state(folder / "state")
        assert state is not None
        tensors = [tensor.tolist() for group in state.tensors.values() for tensor in group]
        return flowstone.load(folder).log_prob(self.x).tolist(), state.step, state.history, tensors

    def _file(self, folder: Path) -> Path:
        return folder / self.rng.choice(FILES)

    def _change(self, folder: Path, change: Callable[[bytearray, int], None]) -> None:
        path = self._file(folder)
        content = bytearray(path.read_bytes())
        change(content, self.rng.randrange(len(content)))
        path.write_bytes(bytes(content))

    def flip(self, folder: Path) -> None:
        def change(content: bytearray, at: int) -> None:
            content[at] ^= 1 << self.rng.randrange(8)

        self._change(folder, change)

    def zero(self, folder: Path) -> None:
        def change(content: bytearray, at: int) -> None:
            content[at : at + 8] = bytes(len(content[at : at + 8]))

        self._change(folder, change)

    def put_in(self, folder: Path) -> None:
        def change(content: bytearray, at: int) -> None:
            content[at:at] = self.rng.randbytes(self.rng.randrange(1, 9))

        self._change(folder, change)

    def cut(self, folder: Path) -> None:
        def change(content: bytearray, at: int) -> None:
            del content[at:]

        self._change(folder, change)

    def exchange_bytes(self, folder: Path) -> None:
        def change(content: bytearray, at: int) -> None:
            other = self.rng.randrange(len(content))
            content[at], content[other] = content[other], content[at]

        self._change(folder, change)

    def exchange_files(self, folder: Path) -> None:
        file = self.rng.choice(FILES[:2])
        (folder / file).write_bytes((self.base / self.rng.choice(list(RUNS)) / file).read_bytes())

    def _rewrite(self, folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        path = self._file(folder).with_suffix(".safetensors")
        tensors, metadata = read_tensors(path)
        name = self.rng.choice(sorted(tensors))
        path.write_bytes(tensors_to_bytes(tensors | {name: change(tensors[name])}, metadata))

    def cast(self, folder: Path) -> None:
        self._rewrite(folder, lambda t: t.to(self.rng.choice([torch.float64, torch.float16, torch.int64])))

    def turn(self, folder: Path) -> None:
        self._rewrite(folder, lambda t: t.flip(0) if t.ndim else t + 1)

    def spoil(self, folder: Path) -> None:
        self._rewrite(folder, lambda t: torch.full_like(t, torch.nan) if t.is_floating_point() else t + 1)

    def _absurd_record(self, folder: Path) -> dict[str, Any]:
        record = json.loads((folder / "flow.json").read_text())
        inside = record if self.rng.random() < 0.5 else record["arguments"]
        inside[self.rng.choice(sorted(inside))] = self.rng.choice(ABSURD)
        return record

    def absurd(self, folder: Path) -> None:
        (folder / "flow.json").write_text(json.dumps(self._absurd_record(folder)))

    def forged(self, folder: Path) -> None:
        write_record(folder, self._absurd_record(folder))

    def nested(self, folder: Path) -> None:
        depth = self.rng.choice([100, 10_000, 1_000_000])
        (folder / "flow.json").write_text('{"arguments":' + '{"a":' * depth + "1" + "}" * depth + "}")

    def replaced(self, folder: Path) -> None:
        path = self._file(folder)
        path.unlink()
        if self.rng.random() < 0.5:
            os.mkfifo(path)
        else:
            path.symlink_to(self.rng.choice(["/dev/zero", "/dev/stdin", "/etc/passwd", "nowhere"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as base:
        damage = Damage(Path(base), random.Random(options.seed))
        for _ in range(options.count):
            counts[damage.once()] += 1
    outcomes: Counter[str] = Counter()
    for (kind, outcome), count in sorted(counts.items()):
        print(f"{kind}: {outcome}: {count}")
        outcomes[outcome if outcome in ("refused", "same") else "wrong"] += count
    print(f"{options.count} damaged folders: {outcomes['refused']} refused, {outcomes['same']} with the same numbers, "
          f"{outcomes['wrong']} otherwise")  # fmt: skip
    sys.exit(outcomes["wrong"] > 0)


if __name__ == "__main__":
    main()
