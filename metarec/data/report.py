"""What import found: counts per file, and every kind of row or value that was dropped, changed or added, and why."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metarec.data.columns import UNDECODABLE, Column, Mask, union
from metarec.data.reading import Malformed
from metarec.errors import DataError

Action = Literal["row dropped", "last row kept", "set to missing", "imputed", "converted", "row added", "left out"]
"""`imputed`: the value stays missing in the table and the feature encoder replaces it, with an indicator beside it."""

Badness = Literal["fine", "value", "structure"]
"""Whether a finding counts as bad: a wrong value, or a row that cannot even be read (wrong number of columns, undecodable)."""

ENCODINGS = "often latin-1, gb18030, shift_jis or euc-kr"
"""What text that is no UTF-8 most often is."""

MAX_BAD = 0.01
"""Share of rows with a bad value that are dropped before a file is refused."""


@dataclass(kw_only=True)
class Finding:
    """One kind of problem in one column of one table; `row` and `value` are of its first occurrence."""

    table: str
    column: str
    problem: str
    action: Action
    badness: Badness
    rows: int
    row: int | None
    value: str | None

    def to_dict(self, read: int) -> dict[str, object]:
        """For JSON and tables; `read` is the number of rows of the file."""
        return {
            "table": self.table,
            "column": self.column,
            "problem": self.problem,
            "action": self.action,
            "rows": self.rows,
            "share": self.rows / read if read else 0.0,
            "bad": self.badness != "fine",
            "first_row": self.row,
            "first_value": self.value,
        }


@dataclass(kw_only=True)
class TableReport:
    """Counts and findings of one input file. `max_bad` None means MAX_BAD for bad values and 0 for unreadable rows.

    `unwanted` rows were read and passed over; they say nothing about how bad the others are.
    """

    table: str
    file: str
    max_bad: float | None
    read: int = 0
    unwanted: int = 0
    kept: int = 0
    bad: dict[Badness, int] = field(default_factory=lambda: {"value": 0, "structure": 0})
    findings: dict[tuple[str, str, Action], Finding] = field(default_factory=dict)

    def add(
        self,
        column: str,
        problem: str,
        action: Action,
        *,
        rows: int,
        row: int | None = None,
        value: object = None,
        badness: Badness = "fine",
    ) -> None:
        """Count `rows` more occurrences."""
        if rows == 0:
            return
        key = (column, problem, action)
        if key in self.findings:
            self.findings[key].rows += rows
            return
        self.findings[key] = Finding(
            table=self.table,
            column=column,
            problem=problem,
            action=action,
            badness=badness,
            rows=rows,
            row=row,
            value=None if value is None else shown(value),
        )

    def add_mask(
        self,
        column: str,
        problem: str,
        action: Action,
        mask_N: Mask,
        row_N: NDArray[np.int64],
        raw: pa.Array | None = None,
        badness: Badness = "fine",
    ) -> None:
        """Count the rows under a mask; `raw` is the column as it was read, to quote the first of them."""
        count = int(mask_N.sum())
        if count:
            first = int(np.argmax(mask_N))
            value = None if raw is None else raw[first].as_py()
            self.add(column, problem, action, rows=count, row=int(row_N[first]), value=value, badness=badness)

    def converted(self, column: str, raw: pa.Array, convert: Callable[[pa.Array], Column]) -> Column:
        """What `convert` makes of a column. DataError, with file and column, where the column's type forbids it."""
        try:
            return convert(raw)
        except DataError as error:
            raise DataError(error.message, file=self.file, column=column) from None

    def judge(
        self,
        found: Mapping[str, Column],
        raw: Mapping[str, pa.Array],
        row_N: NDArray[np.int64],
        *,
        ids: Mapping[str, str],
        optional: Collection[str] = (),
        absence: Action = "imputed",
    ) -> Mask:
        """Report what converting the columns of N rows met, and tell which rows can be used.

        `ids` maps the columns that need a value to what its absence is called. A wrong value costs the row, in an `optional`
        column only the value. `absence` is what happens where an optional column has none.
        """
        unreadable, wrong, lost = (np.zeros(len(row_N), bool) for _ in range(3))
        for name, column in found.items():
            action: Action = "set to missing" if name in optional else "row dropped"
            masks = dict(column.problems)
            absent = column.values.is_null().to_numpy(zero_copy_only=False) & ~union(masks, len(row_N))
            if name in ids:
                masks[ids[name]] = absent
            elif name in optional:
                self.add_mask(name, "value is missing", absence, absent, row_N)
            for problem, mask in masks.items():
                badness: Badness = "structure" if problem == UNDECODABLE else "value"
                self.add_mask(name, problem, action, mask, row_N, None if problem == ids.get(name) else raw[name], badness)
                unreadable |= mask if badness == "structure" else False
                wrong |= mask
                lost |= mask if name not in optional else False
            for note, mask in column.notes.items():
                self.add_mask(name, note, "converted", mask, row_N, raw[name])
        self.bad["structure"] += int(unreadable.sum())
        self.bad["value"] += int((wrong & ~unreadable).sum())
        return ~lost

    def add_malformed(self, rows: tuple[Malformed, ...]) -> None:
        """Count rows with the wrong number of columns."""
        for bad in rows:
            problem = f"row has {'more' if bad.actual > bad.expected else 'fewer'} than {bad.expected} columns"
            self.add("", problem, "row dropped", rows=1, row=bad.row, value=bad.text, badness="structure")
        self.read += len(rows)
        self.bad["structure"] += len(rows)
        if rows and self._tolerance("structure") == 0:
            self.check()

    def check(self) -> None:
        """DataError naming the first bad row when more rows are bad than tolerated."""
        for badness in ("structure", "value"):
            share = self.bad[badness] / max(self.read - self.unwanted, 1)
            if share > self._tolerance(badness):
                raise self._refusal(badness, share)

    def _tolerance(self, badness: Badness) -> float:
        if self.max_bad is not None:
            return self.max_bad
        return MAX_BAD if badness == "value" else 0.0

    def _refusal(self, badness: Badness, share: float) -> DataError:
        found = sorted((f for f in self.findings.values() if f.badness == badness), key=lambda f: (f.row is None, f.row))
        first = found[0]
        value = "" if first.value is None else f", got '{first.value}'"
        message = f"{first.problem}{value}"
        bad, allowed = self.bad[badness], self._tolerance(badness)
        wanted = self.read - self.unwanted
        if wanted > 1 and (bad > 1 or allowed > 0):
            message += f"; {bad:,} of {wanted:,} rows are bad ({share:.2%})"
        if len(found) > 1:
            message += ", among them " + ", ".join(f"{f.rows:,} × {f.column or 'row'}: {f.problem}" for f in found[1:4])
        remedy = f"decode it with --encoding ({ENCODINGS})" if "UTF-8" in first.problem else "correct the file"
        message += f"; {remedy}, or raise --max-bad (now {allowed:g}), the share of bad rows that is dropped instead"
        return DataError(message, file=self.file, column=first.column, row=first.row)

    def to_dict(self) -> dict[str, object]:
        """Counts for JSON and tables."""
        return {
            "table": self.table,
            "file": self.file,
            "read": self.read,
            "kept": self.kept,
            "bad": self.bad["value"] + self.bad["structure"],
        }


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """All tables of one import, in the order they were read."""

    tables: tuple[TableReport, ...]

    def findings(self) -> list[dict[str, object]]:
        """Every finding, per table the most frequent first."""
        return [
            finding.to_dict(table.read)
            for table in self.tables
            for finding in sorted(table.findings.values(), key=lambda finding: -finding.rows)
        ]

    def to_dict(self, **facts: object) -> dict[str, object]:
        """What import.json holds."""
        return {**facts, "tables": [table.to_dict() for table in self.tables], "findings": self.findings()}


def shown(value: object) -> str:
    """A value as it may stand in a message: one short line."""
    text = value.decode("utf-8", errors="backslashreplace") if isinstance(value, bytes) else str(value)
    text = " ".join(text.split()) if isinstance(value, Mapping) else text.replace("\n", "\\n").replace("\r", "\\r")
    return text if len(text) <= 60 else text[:57] + "..."
