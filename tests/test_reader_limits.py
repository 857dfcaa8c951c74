"""Files that are small and take everything, that never end, or that name other files: each is refused in one line."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import re
import signal
import struct
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import clevercsv
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone.data import limits, open_source, read_table
from flowstone.data.cifar import cifar_set
from flowstone.data.guards import require_file_or_folder
from flowstone.data.hub import hub_set
from flowstone.data.idx import read_idx
from flowstone.data.npy import read_npy
from flowstone.data.tables import kinds_of
from flowstone.data.tables.dialect import sniff
from flowstone.data.tables.values import decimal_mark, looks_typed
from flowstone.errors import DataError, SettingError
from flowstone.validation import require_seed
from image_data import make_celeba, make_cifar, make_folder, pixels, write_hub

CSV = b"a,b\n" + b"1,2\n" * 50_000

T = TypeVar("T")


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(limits, "UNPACKED", 1 << 16)
    monkeypatch.setattr(limits, "RATIO", 2)


@contextmanager
def not_forever():
    """An error instead of a test that never ends, should a reader wait for a pipe."""

    def stop(*_: object) -> None:
        raise TimeoutError("the reader waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def one_line(path: Path | str, **options) -> str:
    with pytest.raises(DataError) as caught:
        open_source(str(path), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def data_or_one_line(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except DataError as error:
        if "\n" in str(error):
            raise AssertionError("an error of several lines") from error
        return None


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.csv", content)
    return stream.getvalue()


PACK = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
    "zip": zipped,
}


@pytest.mark.parametrize("form", PACK)
def test_a_file_that_unpacks_to_far_more_is_refused(tmp_path, small_limits, form):
    path = tmp_path / f"t.csv.{form}"
    path.write_bytes(PACK[form](CSV))
    assert "unpacks to more than" in one_line(path)


@pytest.mark.parametrize("form", PACK)
def test_a_file_within_the_limit_is_read_whole(tmp_path, form):
    path = tmp_path / f"t.csv.{form}"
    path.write_bytes(PACK[form](CSV[:4004]))
    assert len(read_table(path)) == 1000


def test_a_zip_that_declares_less_than_it_holds_is_no_way_around(tmp_path, small_limits):
    content = bytearray(zipped(CSV))
    declared = struct.pack("<I", len(CSV))
    assert content.count(declared) == 2  # in the member's header and in the directory
    path = tmp_path / "t.csv.zip"
    path.write_bytes(bytes(content).replace(declared, struct.pack("<I", 1000)))
    assert str(path) in one_line(path)


# --- pipes and devices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["t.csv", "t.csv.gz", "t.parquet", "t.npy", "t.npz", "t.jsonl", "t.xlsx", "t.png", "t"]
)
def test_a_named_pipe_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with not_forever():
        assert "a named pipe: only files and folders are read" in one_line(tmp_path / name)


def test_pipes_within_sets_are_refused(tmp_path):
    write_hub(tmp_path / "faces32", [(image, 0) for image in pixels(4, 8, 8, 3)], "train", 2)
    shard = tmp_path / "faces32" / "train-00000-of-00002.parquet"
    shard.unlink()
    os.mkfifo(shard)
    make_celeba(tmp_path)
    picture = tmp_path / "celeba" / "img_align_celeba" / "000001.jpg"
    picture.unlink()
    os.mkfifo(picture)
    with not_forever():
        assert "a named pipe" in one_line("faces32", data_dir=tmp_path)
        assert "1 of 40 images cannot be read, first 000001.jpg" in one_line("celeba", data_dir=tmp_path)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused_by_any_name(tmp_path, target):
    (tmp_path / "t.csv").symlink_to(target)
    assert "t.csv: a device" in one_line(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 300 + ".csv", "a\0b.csv"])
def test_a_name_that_no_file_can_have_is_refused(name):
    message = one_line(name)
    assert "cannot be read (" in message
    assert len(message) < 300


def test_a_ring_of_links_is_refused(tmp_path):
    (tmp_path / "t.csv").symlink_to(tmp_path / "t.csv")
    with pytest.raises(DataError, match="cannot be read"):
        require_file_or_folder(tmp_path / "t.csv")


# --- arrays -----------------------------------------------------------------------------------------------------------


def npy(header: str, body: bytes = b"", length: int | None = None) -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) if length is None else length) + text + body


def header(shape: str, descr: str = "'<f8'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(header("(1099511627776, 8)"), b"\0" * 64), "tells of 70368744177664 bytes; there are at most"),
        (npy(header("(10**9,)"), b"\0" * 64), "its header is damaged"),
        (npy(header("(-1, 2)")), "its header is damaged"),
        (npy(header("(1,)", "'|O'")), "holds Python objects"),
        (npy(header("(1,)", "[('a', 'O')]")), "holds Python objects"),
        (npy("(" * 9000), "its header is damaged"),
        (npy("x", length=60_000), "its header has 60000 characters"),
        (b"\x93NUMPY\x01", "first bytes are not"),
    ],
)
def test_npy_headers_that_lie(tmp_path, content, message):
    path = tmp_path / "t.npy"
    path.write_bytes(content)
    assert message in one_line(path)


@given(st.data())
def test_any_change_of_an_npy_ends_in_an_array_or_one_line(data):
    stream = io.BytesIO()
    np.save(stream, np.arange(12.0).reshape(4, 3))
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 140))] = data.draw(st.integers(0, 255))
    array = data_or_one_line(lambda: read_npy(io.BytesIO(content), len(content)))
    assert array is None or array.nbytes <= len(content)


def test_only_the_members_that_are_wanted_are_unpacked(tmp_path, small_limits):
    bomb = np.zeros((1 << 22,), np.uint8)
    np.savez_compressed(tmp_path / "t.npz", x=pixels(40, 4, 4), unread=bomb)
    assert len(open_source(str(tmp_path / "t.npz")).test) == 4
    np.savez_compressed(tmp_path / "b.npz", x=bomb.reshape(-1, 64, 64))
    assert "there are at most 65536" in one_line(tmp_path / "b.npz") or "bytes" in one_line(tmp_path / "b.npz")


@given(st.data())
def test_any_change_of_an_npz_ends_in_images_or_one_line(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("npz")
    np.savez_compressed(folder / "t.npz", x=np.ones((40, 4, 4), np.uint8), y=np.arange(40) % 3)
    content = bytearray((folder / "t.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / "t.npz").write_bytes(content)
    data_or_one_line(lambda: open_source(str(folder / "t.npz")))


def test_an_encrypted_npz_is_named(tmp_path):
    np.savez(tmp_path / "t.npz", x=pixels(40, 4, 4))
    content = bytearray((tmp_path / "t.npz").read_bytes())
    content[6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "t.npz").write_bytes(content)
    assert "is encrypted" in one_line(tmp_path / "t.npz")


def test_labels_without_end_are_refused(tmp_path):
    np.savez(tmp_path / "t.npz", x=pixels(40, 4, 4), y=np.full(40, 2**40))
    assert "label 1099511627776" in one_line(tmp_path / "t.npz")
    np.savez(tmp_path / "t.npz", x=pixels(40, 4, 4), y=np.arange(40) + limits.CLASSES)
    assert "can be the context" in one_line(tmp_path / "t.npz", context=["label"])
    assert len(open_source(str(tmp_path / "t.npz")).test) == 4


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_an_idx_that_declares_terabytes_is_refused(tmp_path, ending):
    content = struct.pack(">IIII", 0x803, 2**31, 2**10, 2**10) + b"\0" * 100
    path = tmp_path / f"t{ending}"
    path.write_bytes(gzip.compress(content) if ending else content)
    with pytest.raises(DataError, match="cut off: 116 bytes of the 2251799813685264"):
        read_idx(path, 3)


# --- archives and pickles ---------------------------------------------------------------------------------------------


def write_batch(tmp_path: Path, content: bytes) -> Path:
    make_cifar(tmp_path, "pickled")
    (tmp_path / "cifar10" / "cifar-10-batches-py" / "data_batch_2").write_bytes(content)
    return tmp_path / "cifar10"


def nested(depth: int) -> bytes:
    """A pickle whose only key holds one tuple two to the power of ``depth`` times: with 80, its hash never ends."""
    return b"\x80\x02})" + b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(depth)) + b"K\x01s."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02]r\xff\xff\xff\x7f.", "numbers a value 2147483647"),  # a place in the memo takes memory
        (nested(4), "one container twice"),
        (pickle.dumps({b"data": 1, b"labels": [[1] * 10] * 10}, protocol=2), "one container twice"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": "12"}, protocol=2), "no list of whole numb"),
        (b"\x80\x02" + b"(" * 100_000, "not a batch of CIFAR-10"),
    ],
    ids=["memo", "hash", "shared", "labels", "marks"],
)
def test_pickles_that_take_all_memory_or_time_are_refused(tmp_path, content, message):
    folder = write_batch(tmp_path, content)
    with pytest.raises(DataError, match=f"data_batch_2: .*{message}"):
        cifar_set(folder)


def test_the_pickle_with_a_key_that_is_hard_to_hash_is_one():
    ((key, value),) = pickle.loads(nested(4)).items()
    assert value == 1
    assert str(key).count("()") == 16


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_no_file_is_refused(tmp_path, kind):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(DataError, match="no regular file"):
        cifar_set(folder)


def test_a_tar_that_unpacks_to_far_more_is_refused(tmp_path, small_limits):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("unread")
        member.size = 1 << 22
        archive.addfile(member, io.BytesIO(bytes(1 << 22)))
    with pytest.raises(DataError, match="unpacks to more than"):
        cifar_set(folder)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "..", "sub/a.jpg", "..\\a.jpg", "C:a.jpg"])
def test_the_list_of_celeba_names_files_in_its_folder_alone(tmp_path, name):
    make_celeba(tmp_path)
    (tmp_path / "celeba" / "secret.jpg").write_bytes(b"x")
    with (tmp_path / "celeba" / "list_eval_partition.txt").open("a") as file:
        file.write(f"{name} 0\n")
    assert "line 41 names" in one_line("celeba", data_dir=tmp_path)


def test_a_shard_of_very_many_is_missing_at_once(tmp_path):
    write_hub(tmp_path, [(image, 0) for image in pixels(4, 8, 8, 3)], "train", 1)
    (tmp_path / "train-00000-of-00001.parquet").rename(tmp_path / "train-00000-of-99999999999.parquet")
    with not_forever(), pytest.raises(DataError, match="shard 1 of 99999999999 is missing"):
        hub_set(tmp_path)


def test_an_image_in_a_format_that_runs_programs_is_none(tmp_path):
    make_folder(tmp_path / "images", pixels(30, 8, 8, 3))
    (tmp_path / "images" / "0000.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    assert "first 0000.png (not an image)" in one_line(tmp_path / "images")


def test_a_name_that_is_no_text_is_shown_as_one(tmp_path):
    make_folder(tmp_path / "images", pixels(30, 8, 8, 3))
    (tmp_path / "images" / "0000.png").rename(tmp_path / "images" / "\udcff.png")
    (tmp_path / "images" / "\udcff.png").write_bytes(b"x")
    one_line(tmp_path / "images").encode()


# --- tables -----------------------------------------------------------------------------------------------------------


def test_parquet_that_holds_one_text_for_all_rows_is_not_decoded(tmp_path, small_limits):
    table = pa.table({"s": ["x" * 10_000] * 3000, "a": np.arange(3000.0)})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", compression="zstd")
    assert (tmp_path / "t.parquet").stat().st_size < 100_000
    assert "texts take more than" in one_line(tmp_path / "t.parquet")
    nested_texts = pa.table({"s": pa.array([[text] for text in table.column("s").to_pylist()]), "a": table.column("a")})
    pyarrow.parquet.write_table(nested_texts, tmp_path / "n.parquet", compression="zstd")
    assert "more than" in one_line(tmp_path / "n.parquet")


def test_parquet_with_repeated_texts_within_the_limit_reads_the_same(tmp_path, monkeypatch):
    table = pa.table({"s": ["red", "green", None] * 30, "t": [["a"], [], None] * 30, "x": np.arange(90.0)})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").arrow.equals(table)
    monkeypatch.setattr("flowstone.data.tables.parquet._longest_texts", lambda *_: {"s": 9, "t.list.element": 9})
    assert read_table(tmp_path / "t.parquet").arrow.equals(table)


@pytest.mark.parametrize("form", ["parquet", "feather"])
def test_rows_out_of_all_proportion_are_refused(tmp_path, small_limits, form):
    table = pa.table({"a": np.zeros(1_000_000)})
    path = tmp_path / f"t.{form}"
    write = pyarrow.parquet.write_table if form == "parquet" else pyarrow.feather.write_feather
    write(table, path, compression="zstd")
    assert "far more memory than the file" in one_line(path)


def test_texts_that_are_no_utf8_are_refused(tmp_path):
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 1)), pa.py_buffer(b"\xff")]
    )
    pyarrow.parquet.write_table(pa.table({"s": broken}), tmp_path / "t.parquet")
    assert "t.parquet: column 's' is damaged: " in one_line(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    "text", ['{"a":' * 5000 + "1" + "}" * 5000, '{"a":' + "[" * 5000, '[{"a":\n' + '{"b":\n' * 5000]
)
def test_deeply_nested_json_is_refused(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    assert "nested deeper than 64" in one_line(tmp_path / "t.json")


def test_brackets_in_texts_are_no_nesting(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a": "' + "[{" * 5000 + '\\"[", "b": 1}\n{"a": "x", "b": 2}\n')
    assert read_table(tmp_path / "t.jsonl").columns == ["a", "b"]


@pytest.mark.parametrize("word", ["a", "a.", "1.", "ab-"])
def test_long_words_are_cut_before_their_separator_is_sought(monkeypatch, word):
    """CleverCSV takes minutes for a line of 30,000 characters that is one word."""
    seen, detect = [], clevercsv.Detector.detect

    def watched(self, text, **options):
        seen.append(text)
        return detect(self, text, **options)

    monkeypatch.setattr(clevercsv.Detector, "detect", watched)
    dialect = sniff(f"x;{word * 300};y\n" + "1;2;3\n" * 20)
    assert dialect.separator == ";"
    assert dialect.names == ("x", word * 300, "y")
    assert seen
    assert not any(re.search(r"[\w.-]{101}", text) for text in seen)


def test_too_many_columns_are_refused(tmp_path, monkeypatch):
    for module in ("dialect", "read", "parquet"):
        monkeypatch.setattr(f"flowstone.data.tables.{module}.COLUMNS", 20)
    wide = {f"x{i}": [1.0, 2.0] for i in range(21)}
    (tmp_path / "t.csv").write_text("\n".join([",".join("1" * 21)] * 2))
    pyarrow.parquet.write_table(pa.table(wide), tmp_path / "t.parquet")
    assert "21 columns or more; at most 20 are read" in one_line(tmp_path / "t.csv")  # its first lines alone are read
    assert "21 columns; at most 20 are read" in one_line(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="21 columns"):
        read_table(wide)


def test_names_that_come_many_times_are_made_different_and_said_once(tmp_path):
    (tmp_path / "t.csv").write_text("\n".join([",".join(["v"] * 3000), *[",".join(["1.5"] * 3000)] * 3]))
    with not_forever(), pytest.warns(UserWarning, match="occurs more than once|come") as said:
        table = read_table(tmp_path / "t.csv")
    assert len(set(table.columns)) == 3000
    assert len(said) < 10


@pytest.mark.parametrize("cell", ["1" * 200_000, "1" + " " * 200_000 + "x", "1," * 100_000 + "x"])
def test_very_long_cells_are_words(cell):
    with not_forever():
        assert not looks_typed(cell)
        assert decimal_mark([cell]) == (None, None)


def test_a_worksheet_of_one_far_cell_is_refused(tmp_path):
    pytest.importorskip("python_calamine")
    cells = '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    with zipfile.ZipFile(tmp_path / "t.xlsx", "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", f"<worksheet><sheetData>{cells}</sheetData></worksheet>")
    assert "1048576 rows of 16384 columns" in one_line(tmp_path / "t.xlsx")


SPREADSHEET = "application/vnd.oasis.opendocument.spreadsheet"


def write_ods(path: Path, *rows: str) -> None:
    name = "urn:oasis:names:tc:opendocument:xmlns"
    spaces = " ".join(f'xmlns:{each}="{name}:{each}:1.0"' for each in ("office", "table", "text", "manifest"))
    inside = "".join(rows).replace("number-", "table:number-").replace("<row", "<table:table-row")
    inside = inside.replace("</row", "</table:table-row").replace("<cell", "<table:table-cell")
    entry = f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{SPREADSHEET}"/>'
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", SPREADSHEET)
        archive.writestr("META-INF/manifest.xml", f"<manifest:manifest {spaces}>{entry}</manifest:manifest>")
        archive.writestr(
            "content.xml",
            f'<office:document-content {spaces}><office:body><office:spreadsheet><table:table table:name="s">{inside}'
            "</table:table></office:spreadsheet></office:body></office:document-content>",
        )


ONE = 'office:value-type="float" office:value="1.5"/>'


def test_an_ods_whose_cells_are_repeated_without_end_is_refused(tmp_path):
    pytest.importorskip("python_calamine")
    write_ods(
        tmp_path / "t.ods", f'<row number-rows-repeated="100000"><cell number-columns-repeated="99" {ONE}</row>' * 9
    )
    assert "rows of 99 columns; at most 50000000" in one_line(tmp_path / "t.ods")


def test_an_ods_that_is_filled_with_empty_cells_to_its_edges_is_read(tmp_path):
    pytest.importorskip("python_calamine")
    row = f'<row><cell {ONE}<cell {ONE}<cell number-columns-repeated="16382"/></row>'
    rest = '<row number-rows-repeated="1048536"><cell number-columns-repeated="16384"/></row>'
    write_ods(tmp_path / "t.ods", row * 40, rest)
    assert len(read_table(tmp_path / "t.ods")) in (39, 40)


@pytest.mark.filterwarnings("ignore:.*is far from all dates")
@pytest.mark.parametrize("kind", [pa.duration("ms"), pa.timestamp("s"), pa.date32(), pa.time64("ns")])
def test_times_that_python_does_not_hold_are_named(tmp_path, kind):
    most = 2 ** (31 if kind == pa.date32() else 63) - 1
    column = pa.array([most - i for i in range(40)], pa.int32() if kind == pa.date32() else pa.int64()).cast(kind)
    pyarrow.feather.write_feather(pa.table({"a": column, "b": np.sin(np.arange(40.0))}), tmp_path / "t.feather")
    choices: list[dict[str, Any]] = [{}, {"columns": ["a"]}, {"mixed": False, "kinds": {"a": "continuous"}}]
    for options in choices:
        data_or_one_line(lambda options=options: open_source(str(tmp_path / "t.feather"), **options))


def test_integers_further_apart_than_64_bits_do_not_wrap():
    ends = [-(2**63), 2**63 - 1] * 20
    columns = kinds_of(read_table({"a": pa.array(ends), "b": np.arange(40.0)}), {"a": "continuous"})
    encoded = columns.encode(read_table({"a": pa.array(ends), "b": np.arange(40.0)}))
    assert encoded[1, 0] - encoded[0, 0] == 2.0**64
    assert columns.decode(encoded).column("a").to_pylist()[0] == ends[0]


@pytest.mark.parametrize(
    "values",
    [
        [-(2**63), 0],
        [-(2**63), 2**63 - 2, 2**63 - 1],
        [-1, 2**63 - 1],
        [0, 2**53 + 1, 2**63 - 1],
        [2**62, 2**63 - 2, 2**63 - 1],
        [0, 2**64 - 2, 2**64 - 1],
    ],
)
@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.uint64(), pa.timestamp("s"), pa.timestamp("ns"), pa.date64(), pa.duration("ms")], ids=str
)
@pytest.mark.filterwarnings("ignore:.*is far from all dates")
def test_columns_of_the_largest_numbers_are_described_and_decoded(kind, values):
    least, most = (0, 2**64 - 1) if kind == pa.uint64() else (-(2**63), 2**63 - 1)
    values = [min(max(value, least), most) for value in values]
    column = pa.array(values * 20, pa.uint64() if kind == pa.uint64() else pa.int64()).cast(kind)

    def work(kinds: dict[str, str]) -> int:
        table = read_table({"a": column})
        columns = kinds_of(table, kinds)
        described = [each.describe() for each in columns.kinds]
        if columns.names:
            assert len(columns.decode(columns.encode(table))) == len(column)
        return len(described)

    for kinds in ({}, {"a": "continuous"}):
        assert data_or_one_line(lambda kinds=kinds: work(kinds)) in (1, None)


@pytest.mark.parametrize("step", ["1e-300", "1e-7", "0", "-1", "inf", "nan", "x"])
def test_a_grid_has_a_step_that_numbers_can_be_multiples_of(step):
    with pytest.raises(SettingError, match="expected one step"):
        kinds_of(read_table({"a": [1.0, 2.0, 3.5] * 20}), {"a": f"gridded({step})"})


@pytest.mark.parametrize("seed", [2**63, 2**64, -1, 1.0, True])
def test_seeds_that_no_generator_takes_are_refused(seed):
    with pytest.raises(SettingError, match="seed="):
        require_seed("seed", seed)


def test_the_largest_seed_is_taken():
    assert len(open_source("moons", seed=2**63 - 1, points=40).validation) > 0
