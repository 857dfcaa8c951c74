"""Scoring of a large table in parts: each is kept when it is finished, and the output is made of all of them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from flowstone.bars import counting_bar
from flowstone.data.tables import ChunkedTable, Unseen, warn_unseen, write_chunks
from flowstone.errors import DataError, FlowstoneError, OutputError
from flowstone.files import only_writer
from flowstone.streaming.parts import Parts, parts_folder
from flowstone.streaming.scorer import Scorer

__all__ = ["score_to_file"]


def score_to_file(
    scorer: Scorer,
    table: ChunkedTable,
    out: Path,
    *,
    settings: Mapping[str, Any],
    say: Callable[[str], None] = lambda _: None,
    progress: bool = False,
    watch: Callable[[pa.Table], object] = lambda _: None,
) -> None:
    """Write a table with its scores to ``out``; a part of its rows is in memory at a time.

    The scores that are finished are kept in the folder ``<out>.parts`` until all is written. A call with the same
    table, run and settings goes on where another one was broken off; parts of others are deleted.

    Args:
        settings: by name, what the scores depend on beside table and run.
        say: is given a sentence about parts that were there.
        progress: a bar in rows, if stderr is a terminal.
        watch: is given the scores of each part, in order, when they are written.

    Raises:
        DataError: a row cannot be scored, or the table changes meanwhile; the parts are deleted.
        OutputError: something cannot be written, or another process scores to ``out``; the parts stay.
    """
    scorer.require_names_free(table.head)
    record = _record(scorer, table, settings)
    with only_writer(parts_folder(out)):
        parts = Parts(out, record)
        if parts.said:
            say(parts.said)
        try:
            _fill(parts, scorer, table, progress=progress)
            if _record(scorer, table, settings) != record:
                changed = f"{table.head.path} or {scorer.run.folder} has changed while rows were scored"
                raise DataError(f"{changed}: score anew")
            with counting_bar(f"writing {out.name}", table.rows, enabled=progress, rate="rows") as advance:
                write_chunks(out, _scored_chunks(parts, scorer, table, watch, advance))
        except OutputError:
            raise
        except FlowstoneError:
            parts.remove()
            raise
        parts.remove()


def _fill(parts: Parts, scorer: Scorer, table: ChunkedTable, *, progress: bool) -> None:
    """Score the rows behind those that are finished; levels in them that were not learned are warned of at the end."""
    done = min(parts.count * scorer.part_rows, table.rows)
    unseen: list[Unseen] = []
    try:
        with counting_bar("scoring", table.rows, enabled=progress, rate="rows") as advance:
            advance(done)
            for chunk in table.chunks(scorer.part_rows, done):
                parts.add(scorer.score(chunk, unseen=unseen)[1])
                advance(len(chunk))
    finally:
        warn_unseen(unseen)


def _scored_chunks(
    parts: Parts,
    scorer: Scorer,
    table: ChunkedTable,
    watch: Callable[[pa.Table], object],
    advance: Callable[[int], None],
) -> Iterator[pa.Table]:
    for chunk, scores in zip(table.chunks(scorer.part_rows), parts, strict=True):
        watch(scores)
        yield scorer.append_scores(scorer.keep(chunk), scores)
        advance(len(chunk))


def _record(scorer: Scorer, table: ChunkedTable, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the parts of a scoring depend on."""
    files = [(str(path.resolve()), (about := path.stat()).st_size, about.st_mtime_ns) for path in table.paths]
    return {
        "table": {"files": files, "rows": table.rows},
        "run": scorer.run.digest,
        "setting": {**settings, "columns": scorer.added, "drop_missing": scorer.drop_missing, "rows": scorer.part_rows},
    }
