"""What each column of a table is taken for, and what it costs in bits."""

from markupsafe import Markup

from flowstone.report.markup import join, number, paragraph, table
from flowstone.report.subject import Subject

__all__ = ["columns"]


def columns(subject: Subject) -> Markup | None:
    """The kinds of a table's columns, and of a density of mixed columns the bits of each."""
    kinds = subject.run.kinds
    parts = []
    if kinds is not None:
        head = ("column", "kind", "range or levels", "treatment", "different values", "gaps")
        lines = []
        for kind in kinds.kinds:
            said = kind.describe()
            gaps = f"{kind.missing / kind.rows:.1%}" if kind.missing else ""
            lines.append((kind.column, kind.name, said.range, said.treatment, str(kind.distinct or ""), gaps))
        parts.append(table("What the columns are taken for", head, lines, texts=4))
    bits, alone = (subject.metrics.get(name) for name in ("bits_per_column", "independent_bits_per_column"))
    if bits:
        head = ("column", "given those before it", "alone")
        lines = [
            (name, number(value, ".3f"), number(alone[name], ".3f") if alone else "") for name, value in bits.items()
        ]
        parts.append(table("Bits of each value of the test rows", head, lines))
        parts.append(
            paragraph("The less a value costs beside its cost alone, the more the columns before it say about it.")
        )
    return join(parts) if parts else None
