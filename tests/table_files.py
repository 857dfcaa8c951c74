"""Small tables as people export them, in many dialects, with what a reader should understand."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

__all__ = ["DIALECTS", "ROWS", "TextFile"]

ROWS = 40


@dataclass(frozen=True)
class TextFile:
    """A file's name and bytes, and its right reading: names of columns, values of the first row, number of rows."""

    name: str
    content: bytes
    columns: tuple[str, ...]
    first: tuple[object, ...]
    rows: int = ROWS
    types: str = ""  # of each column: i integer, f float, s string, d date, t timestamp, h time of day, b boolean
    options: dict = field(default_factory=dict)


_draw = random.Random(7)
NUMBERS = [
    (round(_draw.gauss(170, 10), 2), round(_draw.gauss(70, 9), 1), _draw.randrange(1200, 9000)) for _ in range(ROWS)
]
WORDS = ["red", "green", "blue"]
DAYS = [f"2021-{1 + i // 28:02d}-{1 + i % 28:02d}" for i in range(ROWS)]
HEADER = ("height", "weight", "steps")
FIRST = NUMBERS[0]


def _text(separator=",", header: Iterable[str] = HEADER, rows: Any = NUMBERS, show: Any = str, end="\n") -> str:
    lines = ([separator.join(header)] if header else []) + [separator.join(map(show, row)) for row in rows]
    return end.join(lines) + end


def _comma(value) -> str:
    return str(value).replace(".", ",")


def _grouped(mark: str, point: str = "."):
    def show(value) -> str:
        return f"{value:,}".replace(",", "\0").replace(".", point).replace("\0", mark)

    return show


def _quoted(text: str) -> str:
    return f'"{text}"'


def _file(name, text, columns=HEADER, first=FIRST, encoding="utf-8", **rest) -> TextFile:
    rest.setdefault("types", "ffi" if tuple(columns) == HEADER and first == FIRST else "")
    return TextFile(
        name, text if isinstance(text, bytes) else text.encode(encoding), tuple(columns), tuple(first), **rest
    )


def _aligned() -> str:
    lines = [HEADER, *NUMBERS]
    return "\n".join(" ".join(f"{value!s:>12}" for value in line) for line in lines) + "\n"


UNNAMED = ("x1", "x2", "x3")
THOUSANDS = [(a, 1000 * b) for a, b, _ in NUMBERS]
MIXED = [(n[0], WORDS[i % 3], DAYS[i]) for i, n in enumerate(NUMBERS)]
NOTES = [(n[0], f'a, "b"; {i}\nc', n[2]) for i, n in enumerate(NUMBERS)]
NOTES_TEXT = "height,note,steps\n" + "".join(f'{a},"{b.replace(chr(34), chr(34) * 2)}",{c}\n' for a, b, c in NOTES)
BIG = [(n[0], 1234567.5 + i) for i, n in enumerate(NUMBERS)]
GAPS = [
    "NA",
    "N/A",
    "?",
    "-",
    ".",
    "None",
    "null",
    "NaN",
    "nan",
    "",
    "NULL",
    "n/a",
    "#N/A",
    "--",
    "\\N",
    "n.a.",
    "(null)",
    "#NUM!",
]
MOMENTS = [datetime(2021, 1, 14, 13, 5, 9) + timedelta(days=i, hours=11 * i, minutes=7 * i) for i in range(ROWS)]
PAIRS = list(zip(MOMENTS, NUMBERS, strict=True))


def _with_gap(mark: str, separator: str = ",", show: Any = str) -> str:
    rows = [(a, mark if i % 10 == 3 else b, c) for i, (a, b, c) in enumerate(NUMBERS)]
    return _text(separator, rows=rows, show=show)


DIALECTS = [
    _file("plain.csv", _text()),
    _file("semicolon.csv", _text(";")),
    _file("tab.tsv", _text("\t")),
    _file("tab.txt", _text("\t")),
    _file("pipe.txt", _text("|")),
    _file("space.txt", _text(" ")),
    _file("aligned.txt", _aligned()),
    _file("aligned_spaces.csv", _text(",   ")),
    _file("separator_said.csv", "sep=;\n" + _text(";")),
    _file("separator_said_no_header.csv", "sep=;\n" + _text(";", header=()), UNNAMED, FIRST, types="ffi"),
    _file("colon.csv", _text(":")),
    _file("tilde.txt", _text("~")),
    _file(
        "shift_jis.csv",
        "名前,年齢\n" + "山田太郎,30\n" * ROWS,
        ("名前", "年齢"),
        ("山田太郎", 30),
        encoding="shift_jis",
        types="si",
    ),
    _file(
        "cyrillic.csv",
        "имя,возраст\n" + "Иван,30\n" * ROWS,
        ("имя", "возраст"),
        ("Иван", 30),
        encoding="cp1251",
        types="si",
    ),
    _file(
        "row_names.txt",
        "height weight steps\n" + "".join(f"r{i} {a} {b} {c}\n" for i, (a, b, c) in enumerate(NUMBERS)),
        ("column_1", *HEADER),
        ("r0", *FIRST),
        types="sffi",
    ),
    _file(
        "two_lines.csv",
        "note,steps\n" + "".join(f'"one\ntwo, {i}",{n[2]}\n' for i, n in enumerate(NUMBERS)),
        ("note", "steps"),
        ("one\ntwo, 0", FIRST[2]),
        types="si",
    ),
    _file(
        "years.csv",
        "place,1990,1991,1992\n" + "".join(f"p{i},{a},{b},{c}\n" for i, (a, b, c) in enumerate(NUMBERS)),
        ("place", "1990", "1991", "1992"),
        ("p0", *FIRST),
        types="sffi",
    ),
    _file("counted_names.csv", _text(header=("0", "1", "2")), ("0", "1", "2"), FIRST, types="ffi"),
    _file("blank_rows_at_end.csv", _text() + ",,\n,,\n"),
    _file("no_header.csv", _text(header=()), UNNAMED, FIRST, types="ffi"),
    _file("no_header_words.csv", _text(header=(), rows=MIXED), UNNAMED, MIXED[0], types="fsd"),
    _file("words.csv", _text(header=("h", "colour", "day"), rows=MIXED), ("h", "colour", "day"), MIXED[0], types="fsd"),
    _file(
        "words_only.csv",
        "colour,size\n" + "".join(f"{WORDS[i % 3]},{'SML'[i % 3]}\n" for i in range(ROWS)),
        ("colour", "size"),
        ("red", "S"),
        types="ss",
    ),
    _file("crlf.csv", _text(end="\r\n")),
    _file("cr.csv", _text(end="\r")),
    _file("bom.csv", _text(), encoding="utf-8-sig"),
    _file("bom_no_header.csv", _text(header=()), UNNAMED, encoding="utf-8-sig", types="ffi"),
    _file("utf16.csv", _text(), encoding="utf-16"),
    _file("utf16_tab.txt", _text("\t"), encoding="utf-16"),
    _file("utf16le_no_bom.csv", _text(), encoding="utf-16-le"),
    _file("utf16be_no_bom.csv", _text(), encoding="utf-16-be"),
    _file(
        "cp1252.csv",
        _text(header=("größe", "weight", "café")),
        ("größe", "weight", "café"),
        encoding="cp1252",
        types="ffi",
    ),
    _file(
        "cp1252_late.csv",
        _text(header=("h", "wort"), rows=[(n[0], "grün" if i > 30 else "rot") for i, n in enumerate(NUMBERS)]),
        ("h", "wort"),
        (FIRST[0], "rot"),
        encoding="cp1252",
        types="fs",
    ),
    _file("decimal_comma.csv", _text(";", show=_comma)),
    _file("decimal_comma.tsv", _text("\t", show=_comma)),
    _file("decimal_comma_quoted.csv", _text(",", show=lambda v: _quoted(_comma(v)))),
    _file("thousands_comma.csv", _text(show=lambda v: _quoted(f"{v:,}"))),
    _file("thousands_point.csv", _text(";", show=_grouped(".", ","))),
    _file(
        "thousands_point_float.csv",
        _text(";", header=("a", "b"), rows=BIG, show=_grouped(".", ",")),
        ("a", "b"),
        BIG[0],
        types="ff",
    ),
    _file("thousands_space.csv", _text(";", show=_grouped(" ", ","))),
    _file("thousands_nbsp.csv", _text(";", show=_grouped("\u202f", ","))),
    _file("thousands_nbsp_1252.csv", _text(";", show=_grouped("\xa0", ",")), encoding="cp1252"),
    _file("thousands_apostrophe.csv", _text(";", show=_grouped("'"))),
    _file(
        "percent.csv",
        _text(header=("share", "weight"), rows=[(f"{a}%", b) for a, b, _ in NUMBERS]),
        ("share", "weight"),
        FIRST[:2],
        types="ff",
    ),
    _file(
        "percent_space_comma.csv",
        _text(";", header=("share", "weight"), rows=[(f"{_comma(a)} %", _comma(b)) for a, b, _ in NUMBERS]),
        ("share", "weight"),
        FIRST[:2],
        types="ff",
    ),
    _file(
        "dollars.csv",
        _text(header=("price", "weight"), rows=[(f"${a}", b) for a, b, _ in NUMBERS]),
        ("price", "weight"),
        FIRST[:2],
        types="ff",
    ),
    _file(
        "dollars_thousands.csv",
        _text(header=("price", "w"), rows=[(f'"$1,{c % 1000:03d}.50"', b) for _, b, c in NUMBERS]),
        ("price", "w"),
        (1000.5 + FIRST[2] % 1000, FIRST[1]),
        types="ff",
    ),
    _file(
        "euros_after.csv",
        _text(";", header=("price", "w"), rows=[(f"{_comma(a)} €", _comma(b)) for a, b, _ in NUMBERS]),
        ("price", "w"),
        FIRST[:2],
        types="ff",
    ),
    _file(
        "euros_1252.csv",
        _text(";", header=("price", "w"), rows=[(f"{_comma(a)} €", _comma(b)) for a, b, _ in NUMBERS]),
        ("price", "w"),
        FIRST[:2],
        encoding="cp1252",
        types="ff",
    ),
    _file(
        "pounds.csv",
        _text(header=("price", "w"), rows=[(f"£{a}", b) for a, b, _ in NUMBERS]),
        ("price", "w"),
        FIRST[:2],
        types="ff",
    ),
    _file(
        "codes_currency.csv",
        _text(header=("price", "w"), rows=[(f"EUR {a}", b) for a, b, _ in NUMBERS]),
        ("price", "w"),
        FIRST[:2],
        types="ff",
    ),
    _file("comments.csv", "# exported 2024\n# by me, and others\n" + _text()),
    _file("comment_percent.txt", "% made by a program\n%\n" + _text(" ")),
    _file("comment_header.txt", "# height weight steps\n" + _text(" ", header=())),
    _file(
        "comment_within.csv", "\n".join([*_text().splitlines()[:20], "# a pause", *_text().splitlines()[20:]]) + "\n"
    ),
    _file("comment_commas.csv", "# a, b, c\n" + _text()),
    _file("preamble.csv", "Report of the station\nmade on 2024-05-01\n\n" + _text()),
    _file("preamble_commas.csv", "Station,North,,\nDate,2024-05-01\n\n" + _text()),
    _file("trailing.csv", "height,weight,steps,\n" + "".join(f"{a},{b},{c},\n" for a, b, c in NUMBERS)),
    _file("trailing_rows.csv", "height,weight,steps\n" + "".join(f"{a},{b},{c},\n" for a, b, c in NUMBERS)),
    _file(
        "trailing_semicolon.csv",
        "height;weight;steps;\n" + "".join(f"{_comma(a)};{_comma(b)};{c};\n" for a, b, c in NUMBERS),
    ),
    _file("quoted_header.csv", _text(header=map(_quoted, HEADER))),
    _file("quoted_all.csv", _text(header=map(_quoted, HEADER), show=lambda v: _quoted(str(v)))),
    _file("quoted_separators.csv", NOTES_TEXT, ("height", "note", "steps"), NOTES[0], types="fsi"),
    _file(
        "quoted_names.csv",
        'bill length (mm),"bill,depth",masse=g\n' + _text(header=()),
        ("bill length (mm)", "bill,depth", "masse=g"),
        types="ffi",
    ),
    _file(
        "quoted_semicolons.csv",
        "place,height\n" + "".join(f'"Paris; {i}; x; y",{n[0]}\n' for i, n in enumerate(NUMBERS)),
        ("place", "height"),
        ("Paris; 0; x; y", FIRST[0]),
        types="sf",
    ),
    _file(
        "single_quotes.csv",
        "place,height\n" + "".join(f"'Paris, {i}',{n[0]}\n" for i, n in enumerate(NUMBERS)),
        ("place", "height"),
        ("Paris, 0", FIRST[0]),
        types="sf",
    ),
    _file(
        "commas_in_text.csv",
        "place;height\n" + "".join(f"Paris, France, {i};{n[0]}\n" for i, n in enumerate(NUMBERS)),
        ("place", "height"),
        ("Paris, France, 0", FIRST[0]),
        types="sf",
    ),
    _file(
        "empty_name.csv",
        "," + ",".join(HEADER) + "\n" + "".join(f"{i},{a},{b},{c}\n" for i, (a, b, c) in enumerate(NUMBERS)),
        ("column_1", *HEADER),
        (0, *FIRST),
        types="iffi",
    ),
    _file("blank_lines.csv", "\n\n" + "\n\n".join(_text().splitlines()) + "\n\n\n"),
    _file("one_column.csv", "height\n" + "".join(f"{n[0]}\n" for n in NUMBERS), ("height",), FIRST[:1], types="f"),
    _file("one_column_no_header.txt", "".join(f"{n[0]}\n" for n in NUMBERS), ("x1",), FIRST[:1], types="f"),
    _file("units.csv", "height,weight,steps\n(cm),(kg),(1/d)\n" + _text(header=())),
    _file("units_plain.csv", "height,weight,steps\ncm,kg,n\n" + _text(header=())),
    _file(
        "exponents.csv",
        _text(rows=[(f"{a:.4e}", b, c) for a, b, c in NUMBERS]),
        HEADER,
        (float(f"{FIRST[0]:.4e}"), *FIRST[1:]),
        types="ffi",
    ),
    _file("plus_signs.csv", _text(rows=[(f"+{a}", b, c) for a, b, c in NUMBERS])),
    _file(
        "unicode_minus.csv",
        _text(rows=[(f"−{a}", b, c) for a, b, c in NUMBERS]),
        HEADER,
        (-FIRST[0], *FIRST[1:]),
        types="ffi",
    ),
    _file(
        "brackets_negative.csv", _text(rows=[(f"({a})" if i % 2 else a, b, c) for i, (a, b, c) in enumerate(NUMBERS)])
    ),
    _file(
        "dates_us.csv",
        _text(header=("day", "w"), rows=[(f"{1 + i // 28}/{1 + i % 28}/2021", n[1]) for i, n in enumerate(NUMBERS)]),
        ("day", "w"),
        ("2021-01-01", FIRST[1]),
        types="df",
    ),
    _file(
        "dates_de.csv",
        _text(
            ";",
            header=("tag", "w"),
            rows=[(f"{1 + i % 28:02d}.{1 + i // 28:02d}.2021", _comma(n[1])) for i, n in enumerate(NUMBERS)],
        ),
        ("tag", "w"),
        ("2021-01-01", FIRST[1]),
        types="df",
    ),
    _file(
        "times.csv",
        _text(
            header=("at", "w"),
            rows=[(f"{d} 12:30:{i:02d}", n[1]) for i, (d, n) in enumerate(zip(DAYS, NUMBERS, strict=True))],
        ),
        ("at", "w"),
        ("2021-01-01 12:30:00", FIRST[1]),
        types="tf",
    ),
    _file(
        "times_zone.csv",
        _text(
            header=("at", "w"),
            rows=[(f"{d}T12:30:{i:02d}Z", n[1]) for i, (d, n) in enumerate(zip(DAYS, NUMBERS, strict=True))],
        ),
        ("at", "w"),
        ("2021-01-01 12:30:00+00:00", FIRST[1]),
        types="tf",
    ),
    _file(
        "booleans.csv",
        _text(header=("yes", "w"), rows=[(str(bool(i % 2)), n[1]) for i, n in enumerate(NUMBERS)]),
        ("yes", "w"),
        (False, FIRST[1]),
        types="bf",
    ),
    _file(
        "zip_codes.csv",
        _text(header=("zip", "w"), rows=[(f"0{c}", n) for _, n, c in NUMBERS]),
        ("zip", "w"),
        (f"0{FIRST[2]}", FIRST[1]),
        types="sf",
    ),
    *(_file(f"gap_{i}.csv", _with_gap(mark)) for i, mark in enumerate(GAPS)),
    _file(
        "lakhs.csv",
        _text(header=("price", "w"), rows=[(f'"1,{c % 90 + 10},{c % 900 + 100}"', b) for _, b, c in NUMBERS]),
        ("price", "w"),
        (100000 + 1000 * (FIRST[2] % 90 + 10) + FIRST[2] % 900 + 100, FIRST[1]),
        types="if",
    ),
    _file(
        "minus_behind.csv",
        _text(header=("a", "b"), rows=[(f"{a}-" if i % 2 == 0 else a, b) for i, (a, b, _) in enumerate(NUMBERS)]),
        ("a", "b"),
        (-FIRST[0], FIRST[1]),
        types="ff",
    ),
    *(
        _file(
            f"money_{i}.csv",
            _text(";", header=("price", "w"), rows=[(form.format(_comma(a)), _comma(b)) for a, b, _ in NUMBERS]),
            ("price", "w"),
            FIRST[:2],
            types="ff",
        )
        for i, form in enumerate(["{} kr.", "CA$ {}", "฿{}", "{} Ft", "{} лв.", "{} TL", "ZAR {}", "{} ‰"])
    ),
    _file(
        "whole_francs.csv",
        _text(";", header=("price", "w"), rows=[(f"CHF 1'{c % 900 + 100}.-", b) for _, b, c in NUMBERS]),
        ("price", "w"),
        (1000 + FIRST[2] % 900 + 100, FIRST[1]),
        types="if",
    ),
    _file(
        "fortran.txt",
        "".join(f"  {a / 1000:.6f}D+03  {b / 100:.5f}D+02\n" for a, b, _ in NUMBERS),
        ("x1", "x2"),
        FIRST[:2],
        types="ff",
    ),
    _file(
        "exponents_decimal_comma.csv",
        _text(";", header=("a", "b"), rows=[(_comma(f"{a / 1e8:.3e}"), c) for a, _, c in NUMBERS]),
        ("a", "b"),
        (float(f"{FIRST[0] / 1e8:.3e}"), FIRST[2]),
        types="fi",
    ),
    _file(
        "commas_of_thousands_semicolon.csv",
        _text(
            ";",
            header=("a", "b"),
            rows=[
                (f"{c},{c % 900 + 100},000", f"1,{c % 900 + 100}")
                for _, _, c in [(0, 0, n[2] % 9 + 1) for n in NUMBERS]
            ],
        ),
        ("a", "b"),
        (1000 * (1000 * (FIRST[2] % 9 + 1) + FIRST[2] % 9 + 101), 1000 + FIRST[2] % 9 + 101),
        types="ii",
    ),
    _file(
        "fractions_no_header.csv",
        "".join(f"{c % 7 + 1}/8,{c % 5} of 5\n" for _, _, c in NUMBERS),
        ("x1", "x2"),
        (f"{FIRST[2] % 7 + 1}/8", f"{FIRST[2] % 5} of 5"),
        types="ss",
    ),
    _file("names_of_some.csv", "height,,\n" + _text(header=()), ("height", "column_2", "column_3"), FIRST, types="ffi"),
    _file("utf32.csv", _text(), encoding="utf-32"),
    *(
        _file(
            f"moment_{i}.csv",
            _text(
                ";",
                header=("at", "w"),
                rows=[(at.strftime(form), _comma(n[1])) for at, n in PAIRS],
            ),
            ("at", "w"),
            (said, FIRST[1]),
            types=f"{kind}f",
        )
        for i, (form, said, kind) in enumerate(
            [
                ("%m/%d/%Y %I:%M %p", "2021-01-14 13:05:00", "t"),
                ("%d.%m.%Y %I:%M:%S%p", "2021-01-14 13:05:09", "t"),
                ("%Y-%m-%d %H:%M:%S UTC", "2021-01-14 13:05:09+00:00", "t"),
                ("%Y%m%dT%H%M%S", "2021-01-14 13:05:09", "t"),
                ("%d %B %Y", "2021-01-14", "d"),
                ("%B %d, %Y", "2021-01-14", "d"),
                ("%Y.%m.%d", "2021-01-14", "d"),
                ("%I:%M %p", "13:05:00", "h"),
            ]
        )
    ),
    _file("gap_decimal_comma.csv", _with_gap("-", ";", _comma)),
    _file("gap_own.csv", _with_gap("gone"), options={"na": ["gone"]}),
]
