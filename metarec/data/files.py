"""The input files of an import, and which of them holds which field."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from metarec.data.reading import Source
from metarec.data.schema import Field
from metarec.errors import SchemaError

FileRole = Literal["users", "items", "interactions", "graph", "links"]


@dataclass(frozen=True, kw_only=True)
class Files:
    """The input. Without `users` or `items` the ids of that side come from the interactions; the schema then has no fields there.

    `more_users` and `more_items` are further files of fields for the same ids, such as a table of image embeddings. `names` says
    how reports call a file that is not called by its path, by its role.
    """

    interactions: Path
    users: Path | None = None
    items: Path | None = None
    graph: Path | None = None
    links: Path | None = None
    more_users: tuple[Path, ...] = ()
    more_items: tuple[Path, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def paths(self) -> dict[str, Path]:
        """The files that are given, by role; further ones of users and items are numbered from 2: `items 2`."""
        found: dict[str, Path] = {}
        for role in get_args(FileRole):
            path: Path | None = getattr(self, role)
            if path is not None:
                found[role] = path
            for number, more in enumerate(getattr(self, f"more_{role}", ()), 2):
                found[f"{role} {number}"] = more
        return found


def fields_by_file(sources: Mapping[str, Source], fields: tuple[Field, ...]) -> dict[str, tuple[Field, ...]]:
    """Which file holds each field; what no file has is left to the first, which then says what it has."""
    held: dict[str, list[Field]] = {role: [] for role in sources}
    for member in fields:
        having = [role for role, source in sources.items() if any(column in source.columns for column in member.sources)]
        if len(having) > 1:
            files = "' and '".join(str(sources[role].path) for role in having)
            raise SchemaError(f"field '{member.name}' is in '{files}'; rename its column in one of them", field=member.name)
        held[having[0] if having else next(iter(sources))].append(member)
    for role, source in list(sources.items())[1:]:
        if not held[role]:
            raise SchemaError(f"the schema names no column of '{source.path}'; leave the file out or add a field", field=role)
    return {role: tuple(members) for role, members in held.items()}
