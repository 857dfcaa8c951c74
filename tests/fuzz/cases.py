"""A case: a command with its flags, and the files that it names, drawn from a seed and the number of the case."""

import os
import shutil
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pyarrow as pa

from fuzz.damage import damaged
from fuzz.tables import FORMATS, plain_table, wild_table, written

__all__ = ["RUNS", "SETS", "Case", "draw"]

SETS = (
    "mnist",
    "cifar-pickled",
    "cifar-binary",
    "cifar-tar",
    "cifar-hub",
    "celeba",
    "faces32",
    "folder",
    "classes",
    "npz",
)
RUNS = ("numbers", "conditional", "mixed", "images", "toy")


@dataclass
class Case:
    """What is typed, and what is on standard input."""

    words: list[str]
    stdin: bytes = b""
    out: Path | None = None


def draw(seed: int, number: int, base: Path, folder: Path) -> Case:
    """Make the files of a case in a folder, and its command; ``base`` holds valid sets and run folders."""
    random = Random(f"{seed} {number}")
    command = random.choices(tuple(COMMANDS), [weight for weight, _ in COMMANDS.values()])[0]
    return COMMANDS[command][1](Draw(random, base, folder))


class Draw:
    """The random choices of one case."""

    def __init__(self, random: Random, base: Path, folder: Path) -> None:
        self.random, self.base, self.folder, self.stdin = random, base, folder, b""
        self.kind = ""  # of the run folder that is used

    def table(self) -> str:
        """A table in any format: good, strange or damaged; or something else where a table is expected."""
        random = self.random
        if random.random() < 0.1:
            return self.odd_path()
        rows = random.choice((0, 1, 5, 25, 40, 40, 40, 60, 60, 60))
        table = self._fitting(rows) if random.random() < 0.5 else wild_table(random, rows)
        form = random.choice(tuple(FORMATS))
        inside = (lambda content: damaged(random, content)) if random.random() < 0.3 else (lambda content: content)
        content = written(random, table, form, inside)
        if content is None:
            form, content = ".csv", b"a,b,c\n" + b"1,2,3\n2,3,1\n" * 15
        if random.random() < 0.25:
            content = damaged(random, content)
        if random.random() < 0.1:
            form = random.choice(tuple(FORMATS))
        if random.random() < 0.07:
            self.stdin = content
            return "-"
        where = self.folder / random.choice(("t", "t", "t", "ü t", "t*", "a\nb", "-t"))
        path = where.with_name(where.name + form)
        path.write_bytes(content)
        return str(path)

    def _fitting(self, rows: int) -> pa.Table:
        """A table with the columns of the run folder."""
        table = plain_table(self.random, rows)
        if self.kind == "mixed":
            words = [self.random.choice(("red", "green", "blue", None)) for _ in range(rows)]
            gap = [None if self.random.random() < 0.1 else value for value in table.column("b").to_pylist()]
            table = table.set_column(1, "b", pa.array(gap, pa.float64()))
            return table.append_column("g", pa.array(words, pa.string()))
        return table.rename_columns(["x1", "x2", "c"]) if self.kind == "toy" else table

    def odd_path(self) -> str:
        """What is no file with a table."""
        random, path = self.random, self.folder / "odd.csv"
        made: dict[str, Callable[[], object]] = {
            "pipe": lambda: os.mkfifo(path),
            "pipe.npz": lambda: os.mkfifo(path := self.folder / "odd.npz"),
            "socket": lambda: socket.socket(socket.AF_UNIX).bind(str(path)),
            "folder": path.mkdir,
            "loop": lambda: path.symlink_to(path),
            "zero": lambda: path.symlink_to("/dev/zero"),
            "broken": lambda: path.symlink_to("nowhere"),
        }
        name = random.choice((*made, *ODD))
        if name not in made:
            return name
        try:
            made[name]()
        except OSError:  # a path that is too long for a socket
            return "no.csv"
        return str(self.folder / "odd.npz") if name == "pipe.npz" else str(path)

    def images(self) -> tuple[str, list[str]]:
        """A set or a folder of images, perhaps damaged; and the flags that are needed."""
        random, name = self.random, self.random.choice(SETS)
        place = self.folder / "data"
        shutil.copytree(self.base / name, place)
        files = sorted(path for path in place.rglob("*") if path.is_file())
        for path in random.sample(files, min(len(files), random.choice((0, 1, 1, 3)))):
            self._spoil(path)
        if name in ("folder", "classes"):
            return str(place), []
        if name == "npz":
            return str(place / "x.npz"), []
        return name.split("-")[0].replace("cifar", "cifar10"), ["--data-dir", str(place)]

    def _spoil(self, path: Path) -> None:
        random, content = self.random, path.read_bytes()
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
        how = random.random()
        if how < 0.8:
            path.write_bytes(damaged(random, content))
            return
        path.unlink()
        if how < 0.85:
            os.mkfifo(path)
        elif how < 0.9:
            path.mkdir()
        elif how < 0.95:
            path.with_name(
                random.choice(("\udcfe.png", "train-00000-of-99999999999.parquet", "x" * 200 + ".png"))
            ).write_bytes(content)

    def source(self) -> tuple[str, list[str]]:
        """Whatever can be trained on."""
        kind = self.random.random()
        if kind < 0.1:
            return self.random.choice(("moons", "circles", "checkerboard", "moon", "MOONS")), []
        return self.images() if kind < 0.3 else (self.table(), [])

    def run(self, *kinds: str) -> str:
        """A copy of a run folder; now and then something else."""
        if self.random.random() < 0.05:
            return self.random.choice(("", ".", "no", "/dev/null", self.odd_path(), "x" * 5000))
        self.kind = self.random.choice(kinds or RUNS)
        shutil.copytree(self.base / self.kind, self.folder / "run")
        return str(self.folder / "run")

    def out(self, *endings: str) -> tuple[str, Path | None]:
        """Where to write: mostly a new file, or one that is there, or no possible one."""
        how = self.random.random()
        path = self.folder / f"out{self.random.choice(endings)}"
        if how < 0.1:
            return self.random.choice(
                ("", "-", ".", "no/out.csv", "/dev/full", "out.xyz", "x" * 300 + ".csv", "/proc/out.csv")
            ), None
        if how < 0.25:
            path.write_text("before")
        elif how < 0.3:
            path.mkdir()
        return str(path), path

    def flags(self, **known: tuple[str, ...]) -> list[str]:
        """Some of the flags, mostly with values that they can have."""
        random, words = self.random, []
        for _ in range(random.choice((0, 0, 0, 1, 1, 2, 3))):
            name = random.choice(tuple(known))
            words.append(f"--{name}")
            values = known[name] if random.random() < 0.88 else JUNK
            if values and random.random() < 0.97:
                words.append(random.choice(values))
        if random.random() < 0.04:
            words.append(random.choice(("--bogus", "--", "-h", "--help", "extra", "--seed", "--json=x", "=", "--out")))
        return words


ODD = (
    "", ".", "/dev/null", "/dev/full", "*.csv", "[", "x" * 5000, "no.csv", "no/such.csv", "https://example.org/t.csv",
    "a\0b.csv", "moon", "mnist", "\udcff.csv", "-x", "/proc/self/mem",
)  # fmt: skip
HUB_NAMES = (
    "a/b",
    "a",
    "",
    "a/b/c",
    "../x/y",
    "ü/b",
    "a/" + "x" * 300,
    "/etc/passwd",
    "https://example.org/a",
    "a b/c",
)
SEEDS = ("0", "1", str(2**63 - 1), str(2**63), str(2**64), "-1")
JUNK = (
    "",
    "x",
    "0",
    "-1",
    "1.5",
    "nan",
    "inf",
    "1e30",
    str(2**63),
    str(2**64),
    "a,b",
    "ü",
    "a=b",
    "=",
    "\udcff",
    "[1]",
    "None",
    ",",
    "'",
    '"',
)
COLUMNS = ("a", "a,b", "b,c", "a,a", "x0", "c,b,a", '"a"', "zz")
KINDS = (
    "a=continuous",
    "b=categorical",
    "a=bounded(0,1)",
    "a=bounded(1,0)",
    "a=circular(0,360)",
    "c=datetime",
    "a=gridded(0)",
    "a=ordinal(1,2)",
    "b=text",
    "a=positive",
    "a=identifier",
    "a=nope",
    "a=bounded(nan,inf)",
    "a=gridded(1e-300)",
    "b=boolean",
)
READING = {
    "na": ("0", "x", "nan", "1,2"),
    "encoding": ("utf-8", "cp1252", "utf-16", "rot13", "zlib", "nope", "idna"),
    "skip-bad": (),
}
DEVICE = {"device": ("cpu", "cpu", "cuda", "meta", "mps", "cpu:7"), "precision": ("fp32", "bf16", "fp8")}

TRAINING = {
    "flow": ("auto", "realnvp", "mixed", "nice", "spline", "glow", "maf", "realnvp_image", "nope"),
    "set": (
        "couplings=1", "layers=1", "hidden=2,2", "prior=logistic", "hidden=", "hidden=0", "couplings=-1", "x=1",
        "dropout=2", "features=3", "hidden=[[1]]", "couplings=True", "prior=nope",
    ),
    "context": ("a", "b,c", "label", "zz"), "columns": COLUMNS, "exclude": COLUMNS, "kinds": KINDS, "seed": SEEDS,
    "points": ("20", "100", "19"), "size": ("4", "8x4", "0", "1x", "9999999"), "gray": (), "flip": (), "resume": (),
    "lr": ("1e-3", "1", "1e9"), "clip": ("1", "0"), "ema": ("0", "0.5", "1"), "warmup": ("0", "0.5"),
    "dropout": ("0", "0.5"), "epochs": ("1", "0"), "minutes": ("0.001", "0"), "patience": ("1",),
    "optimizer": ("adam", "adamw", "adamax", "sgd"), "schedule": ("constant", "cosine"),
    "memory": ("recompute", "keep"), "drop-missing": (), "no-dequantize": (), "batch-size": ("1", "7", "512"),
    "validate-every": ("1", "2"), "weight-decay": ("0.1",), "scale-penalty": ("0.1",), "no-report": (), "live": (),
    "log-every": ("1", "0"), "no-direct": (),
}  # fmt: skip


def _train(draw: Draw) -> Case:
    source, needed = draw.source()
    out, path = draw.out("")
    words = ["train", source, *needed, "--out", out, "--steps", "2", "--quiet"]
    if draw.random.random() < 0.4:
        words += ["--flow", "realnvp", "--set", "hidden=4", "couplings=1"]
    if draw.random.random() < 0.9:
        words.append("--no-plots")
    words += draw.flags(**TRAINING, **READING, **DEVICE)
    return Case(words, draw.stdin, path)


def _columns(draw: Draw) -> Case:
    words = ["columns", draw.table(), *draw.flags(json=(), kinds=KINDS, exclude=COLUMNS, **READING)]
    return Case(words, draw.stdin)


def _data(draw: Draw, chance: float) -> list[str]:
    if draw.random.random() > chance:
        return []
    if draw.random.random() < (0.9 if draw.kind == "images" else 0.05):
        source, needed = draw.images()
        return [source, *needed]
    return [draw.table()]


def _evaluate(draw: Draw) -> Case:
    run = draw.run()
    words = ["evaluate", run, *_data(draw, 0.85)]
    words += draw.flags(json=(), **{"bound-samples": ("1", "2", "0"), "drop-missing": ()}, **READING, **DEVICE)
    return Case(words, draw.stdin)


def _check(draw: Draw) -> Case:
    run = draw.run()
    return Case(["check", run, *_data(draw, 0.8), *draw.flags(json=(), **{"drop-missing": ()})], draw.stdin)


def _score(draw: Draw) -> Case:
    run, (out, path) = draw.run(), draw.out(".csv", ".parquet")
    words = ["score", run, *_data(draw, 0.97), "--out", out]
    words += draw.flags(**{"per-column": (), "anomaly": (), "drop-missing": ()}, **READING, **DEVICE)
    return Case(words, draw.stdin, path)


def _impute(draw: Draw) -> Case:
    run, (out, path) = draw.run("mixed", "mixed", "mixed", "numbers"), draw.out(".csv", ".parquet")
    words = ["impute", run, draw.table(), "--out", out]
    words += draw.flags(how=("draw", "likely", "nope"), draws=("1", "2", "0"), seed=SEEDS, **READING, **DEVICE)
    return Case(words, draw.stdin, path)


def _sample(draw: Draw) -> Case:
    run, (out, path) = draw.run(), draw.out(".csv", ".parquet", ".npz", ".png")
    words = ["sample", run, "-n", draw.random.choice(("1", "3", "50", "0", "-1", "1e3", "x")), "--out", out]
    given = ("a=1", "b=x", "c=nan", "label=3", "label=x", "zz=1", "a=1e999", "a", "g=red", "g=red,blue", "c=1", "c=")
    words += draw.flags(given=given, temperature=("1", "0", "-1", "1e300"), seed=SEEDS, gaps=(), **DEVICE)
    if draw.random.random() < 0.15:
        words += ["--given-table", draw.table()]
    return Case(words, draw.stdin, path)


def _plot(draw: Draw) -> Case:
    run = draw.run("numbers", "mixed", "toy")
    return Case(["plot", run, *draw.flags(animate=("gif", "mp4", "png"), seed=SEEDS, device=DEVICE["device"])])


def _report(draw: Draw) -> Case:
    run = draw.run("numbers", "conditional", "mixed", "images", "toy")
    return Case(["report", run, *draw.flags(**{"data-dir": ("no", ".", "")}, seed=SEEDS, device=DEVICE["device"])])


def _playground(draw: Draw) -> Case:
    run, (out, path) = draw.run(), draw.out("")
    return Case(["playground", run, "--out", out, *draw.flags(runtime=("no", ".", "/dev/null"), seed=SEEDS)], out=path)


def _export(draw: Draw) -> Case:
    run, (out, path) = draw.run("numbers", "toy", "mixed"), draw.out(".onnx", ".onnx", ".csv")
    return Case(["export", run, "--out", out, *draw.flags(part=("log_prob", "sample", "x"))], out=path)


def _push(draw: Draw) -> Case:
    return Case(["push", draw.run(), draw.random.choice(HUB_NAMES), *draw.flags(plots=(), public=())])


def _pull(draw: Draw) -> Case:
    out, path = draw.out("")
    words = ["pull", draw.random.choice(HUB_NAMES), "--out", out, *draw.flags(revision=("main", "", "x y"), plots=())]
    return Case(words, out=path)


def _list(draw: Draw) -> Case:
    return Case(["list", *draw.flags(json=())])


def _words(draw: Draw) -> Case:
    pool = (*COMMANDS, *JUNK, "--help", "--version", "-h", "--out", "--", "-n", "TRAIN", "--seed", "moons")
    return Case([draw.random.choice(pool) for _ in range(draw.random.randint(0, 4))])


COMMANDS: dict[str, tuple[int, Callable[[Draw], Case]]] = {
    "train": (26, _train),
    "columns": (26, _columns),
    "evaluate": (10, _evaluate),
    "sample": (10, _sample),
    "impute": (8, _impute),
    "score": (12, _score),
    "check": (4, _check),
    "plot": (2, _plot),
    "report": (2, _report),
    "playground": (2, _playground),
    "export": (2, _export),
    "push": (2, _push),
    "pull": (2, _pull),
    "list": (1, _list),
    "words": (2, _words),
}
