"""Drafts a schema.yaml from data files, for a person to check: ids and label by name, kinds of fields by their values."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from metarec.data import values
from metarec.data.columns import union
from metarec.data.files import Files
from metarec.data.reading import Source, open_source
from metarec.data.schema import Field, Label, Schema
from metarec.data.words import spaceless_letters
from metarec.errors import DataError, SchemaError

SAMPLE_ROWS = 100_000
"""Rows of each file that are looked at."""

MAX_CODES = 25
MIN_ENTRIES = 3
"""As many numbered columns are taken for the entries of a vector."""

LETTERS_PER_WORD = 4
"""Of scripts without spaces between words, so that sentences are told from names there, too."""

STRAY_SHARE = 0.01
"""A column is one of numbers still when this share of its values is not."""

USER_NAMES = ("userid", "user", "uid", "customerid", "customer", "visitorid", "memberid", "personid", "accountid", "reviewerid")
ITEM_NAMES = (
    "itemid",
    "item",
    "iid",
    "movieid",
    "productid",
    "product",
    "asin",
    "articleid",
    "bookid",
    "isbn",
    "trackid",
    "contentid",
)
LABEL_NAMES = (
    "rating",
    "label",
    "score",
    "stars",
    "click",
    "clicked",
    "purchased",
    "bought",
    "liked",
    "overall",
    "target",
    "event",
)
TIME_NAMES = ("timestamp", "time", "datetime", "date", "unixtime", "unixreviewtime", "ts", "createdat", "eventtime")
SCENARIO_NAMES = ("scenario", "platform", "channel", "domain", "surface", "device", "placement")
TITLE_NAMES = ("title", "name", "itemname", "productname", "movietitle", "itemtitle", "booktitle")
SEPARATORS = ("|", ";", "；", ",", "、", "，", " ")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A schema field and why it is thought to be so."""

    field: Field
    reason: str


def draft_schema(files: Files, *, delimiter: str | None = None, encoding: str = "utf-8") -> str:
    """The text of a schema.yaml with comments. DataError where no column can be taken for user, item or label."""
    sources = {
        name: open_source(path, delimiter=delimiter, encoding=encoding)
        for name, path in files.paths().items()
        if name not in ("graph", "links")
    }
    events = sources["interactions"]
    user_id = _key(events, sources.get("users"), USER_NAMES, "user")
    item_id = _key(events, sources.get("items"), ITEM_NAMES, "item")
    sample = _sample(events)
    timestamp = _by_name(events, TIME_NAMES)
    scenario = _by_name(events, SCENARIO_NAMES)
    label, why = _label(events, sample, {user_id, item_id, timestamp, scenario})
    users = [draft for name in sources if name.startswith("users") for draft in _drafts(sources[name], user_id)]
    items = [draft for name in sources if name.startswith("items") for draft in _drafts(sources[name], item_id)]
    names = {_plain(draft.field.name): draft.field.name for draft in items}
    title = next((names[name] for name in TITLE_NAMES if name in names), None)
    if title is not None:
        items = [_as_text(draft) if draft.field.name == title else draft for draft in items]
    schema = Schema(
        user_id=user_id,
        item_id=item_id,
        label=label,
        timestamp=timestamp,
        scenario=scenario,
        users=tuple(draft.field for draft in users),
        items=tuple(draft.field for draft in items),
        item_title=title,
        graph=files.graph is not None,
    )
    unused = [name for name in events.named if name not in {user_id, item_id, label.column, timestamp, scenario}]
    return _commented(schema, why, users, items, unused)


def _key(events: Source, table: Source | None, names: Sequence[str], what: str) -> str:
    shared = [column for column in events.named if table is None or column in table.named]
    found = next((column for name in names for column in shared if _plain(column) == name), None)
    if found is None and table is not None and len(shared) == 1:
        found = shared[0]
    if found is not None:
        return found
    if table is None:
        hint = f"rename one of {', '.join(events.named)} to '{what}_id'"
    else:
        hint = f"it must have one name in both files; '{table.path}' has {', '.join(table.named)}"
    raise DataError(f"no column looks like the {what}'s id; {hint}", file=str(events.path))


def _by_name(source: Source, names: Sequence[str]) -> str | None:
    return next((column for name in names for column in source.named if _plain(column) == name), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _sample(source: Source) -> dict[str, pa.ChunkedArray]:
    parts, count = [], 0
    for chunk in source.chunks(source.named):
        parts.append(chunk.columns)
        count += len(chunk.row_N)
        if count >= SAMPLE_ROWS:
            break
    if count == 0:
        raise DataError("has no rows", file=str(source.path))
    return {name: pa.chunked_array([part[name] for part in parts]).slice(0, SAMPLE_ROWS) for name in source.named}


def _label(events: Source, sample: dict[str, pa.ChunkedArray], taken: set[str | None]) -> tuple[Label, str]:
    named = _by_name(events, LABEL_NAMES)
    numeric = {name: found for name in events.named if name not in taken and (found := _numbers(sample[name]))}
    column = named if named in numeric else next(iter(numeric), None)
    if column is None:
        return Label(
            column="label", kind="binary"
        ), "no such column found; import with --all-positive, or name the label's column"
    found = numeric[column]
    low, high = min(found), max(found)
    seen = f"values from {low:g} to {high:g} in the first {min(len(sample[column]), SAMPLE_ROWS):,} rows"
    if set(found) <= {0.0, 1.0}:
        return Label(column=column, kind="binary"), seen
    if low == high:
        return Label(column=column, kind="rating", minimum=min(low, 0.0), maximum=max(high, 1.0)), f"{seen}; set the range"
    return Label(column=column, kind="rating", minimum=low, maximum=high), f"{seen}; set the range that is possible"


def _numbers(column: pa.ChunkedArray) -> list[float] | None:
    """The distinct numbers of a column; None when more than a few values are something else."""
    try:
        found = values.numbers(column.combine_chunks())
    except DataError:
        return None
    numbers = found.values.drop_null()
    wrong = int(union(found.problems, len(column)).sum())
    return None if len(numbers) == 0 or wrong > STRAY_SHARE * len(numbers) else numbers.unique().to_pylist()


def _drafts(source: Source, key: str) -> list[Draft]:
    sample = _sample(source)
    drafts = [_draft(name, column.combine_chunks()) for name, column in sample.items() if name != key]
    return _numbered(drafts)


def _numbered(drafts: Sequence[Draft]) -> list[Draft]:
    """Numeric columns that are called by one name and a number, such as `image_1` to `image_64`, are the entries of a vector."""
    groups: dict[str, list[str]] = {}
    for draft in drafts:
        if draft.field.kind == "numeric" and (match := re.fullmatch(r"(.*?)[_.-]?\d+", draft.field.name)) and match[1]:
            groups.setdefault(match[1], []).append(draft.field.name)
    taken = {draft.field.name for draft in drafts}
    vectors = {name: columns for name, columns in groups.items() if len(columns) >= MIN_ENTRIES and name not in taken}
    group_of = {column: name for name, columns in vectors.items() for column in columns}
    found: list[Draft] = []
    for draft in drafts:
        name = group_of.get(draft.field.name)
        if name is None:
            found.append(draft)
        elif draft.field.name == groups[name][0]:
            columns = tuple(groups[name])
            field = Field(name=name, kind="vector", columns=columns)
            found.append(Draft(field=field, reason=f"{len(columns)} numbered columns of numbers"))
    return found


def _draft(name: str, column: pa.Array) -> Draft:
    if pa.types.is_nested(column.type):
        return _nested(name, column)
    found = values.categories(column)
    present = found.values.drop_null()
    rows, distinct = len(present), len(present.unique())
    gone = f", {1 - rows / len(column):.1%} missing" if rows < len(column) else ""
    if rows == 0:
        return Draft(field=Field(name=name, kind="categorical"), reason="no value seen; leave it out?")
    numeric = _numbers(pa.chunked_array([column]))
    if numeric is not None:
        # Few whole numbers that recur are more often codes than quantities.
        if distinct <= MAX_CODES and rows >= 5 * distinct and all(number.is_integer() for number in numeric):
            return Draft(
                field=Field(name=name, kind="categorical"), reason=f"{distinct} different codes{gone}; numeric if order matters"
            )
        return Draft(field=Field(name=name, kind="numeric"), reason=f"{min(numeric):g} to {max(numeric):g}{gone}")
    text = present.to_pylist()
    words = sum(value.count(" ") + 1 + spaceless_letters(value) // LETTERS_PER_WORD for value in text) / rows
    if (entries := _entries(text)) is not None:
        between, dim = entries
        return Draft(field=Field(name=name, kind="vector", dim=dim, separator=between), reason=f"{dim} numbers each{gone}")
    separator = _separator(text, distinct)
    if separator is not None:
        parts = len({part.strip() for value in text for part in value.split(separator)})
        return Draft(
            field=Field(name=name, kind="multi_categorical", separator=separator),
            reason=f"{parts} values such as '{text[0].split(separator)[0].strip()}'{gone}",
        )
    if words > 3 and distinct > rows / 2:
        return Draft(field=Field(name=name, kind="text"), reason=f"{words:.0f} words on average{gone}")
    return Draft(field=Field(name=name, kind="categorical"), reason=f"{distinct} values such as '{text[0][:30]}'{gone}")


def _nested(name: str, column: pa.Array) -> Draft:
    rows = [row for row in column.to_pylist() if row]
    if (
        not pa.types.is_list(column.type)
        and not pa.types.is_large_list(column.type)
        and not pa.types.is_fixed_size_list(column.type)
    ):
        raise SchemaError(
            f"column '{name}' holds {column.type}; a field is a value, a list of strings or a list of numbers", field=name
        )
    inner = column.type.value_type
    lengths = Counter(map(len, rows))
    if pa.types.is_floating(inner) or (pa.types.is_integer(inner) and len(lengths) == 1 and max(lengths) > 1):
        dim = lengths.most_common(1)[0][0] if rows else 1
        return Draft(field=Field(name=name, kind="vector", dim=dim), reason=f"lists of {dim} numbers")
    distinct = len({value for row in rows for value in row})
    return Draft(field=Field(name=name, kind="multi_categorical"), reason=f"lists, {distinct} values")


def _entries(text: Sequence[str]) -> tuple[str, int] | None:
    """Separator and length of values that are as many numbers each, not all of them whole (those may be codes)."""
    for separator in SEPARATORS:
        parts = [value.split(separator) for value in text]
        dim, count = Counter(map(len, parts)).most_common(1)[0]
        if dim < MIN_ENTRIES or len(text) - count > STRAY_SHARE * len(text):
            continue
        numbers = _numbers(pa.chunked_array([pa.array([entry for row in parts for entry in row], pa.string())]))
        if numbers is not None and not all(number.is_integer() for number in numbers):
            return separator, dim
    return None


def _separator(text: Sequence[str], distinct: int) -> str | None:
    """What cuts the values into short parts; a comma or a space does so in sentences too, so their parts must recur."""
    for separator in SEPARATORS:
        several = sum(separator in value for value in text)
        if several < 0.1 * len(text):
            continue
        parts = Counter(part.strip() for value in text for part in value.split(separator))
        short = max(map(len, parts)) <= 40
        recurring = sum(parts.values()) >= 3 * len(parts) and len(parts) < distinct
        if short and (separator in "|;；" or recurring):
            return separator
    return None


def _as_text(draft: Draft) -> Draft:
    return Draft(field=Field(name=draft.field.name, kind="text"), reason="the title to show people")


def _commented(schema: Schema, label_reason: str, users: Sequence[Draft], items: Sequence[Draft], unused: Sequence[str]) -> str:
    reasons = {"users": users, "items": items}
    lines = ["# Drafted by `metarec data import --infer`: check every line. Reference: docs/data.md."]
    if unused:
        lines.append(f"# Not used of the interactions: {', '.join(unused)}.")
    side, number = "", -1
    for line in schema.to_yaml().splitlines():
        if not line.startswith((" ", "-")):
            side, number = line.partition(":")[0], -1
        if line.startswith("- ") and side in reasons:
            number += 1
            lines.append(f"{line}  # {_comment(reasons[side][number].reason)}")
        elif line == "label:":
            lines.append(f"{line}  # {label_reason}")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    """Text of data as it may stand in a comment: one line, and only what YAML takes."""
    return "".join(character if character.isprintable() else " " for character in text)
