"""What a schema says of one column: the field of a user or an item, or a label. Others import both from schema.py."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from metarec.errors import SchemaError

FieldKind = Literal["categorical", "multi_categorical", "numeric", "text", "vector"]
TextEncoder = Literal["sentences"]
LabelKind = Literal["rating", "binary"]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One feature of users or items.

    `separator` splits a multi-categorical or vector value that comes as one string; `dim` is the length of a vector. A vector may
    also come as several numeric `columns`, one for each entry; `name` is then no column of the file. `encoder` chooses how a text
    is encoded: None by its words, `sentences` by a sentence model, which has to be installed (metarec.features.sentences).
    """

    name: str
    kind: FieldKind
    separator: str | None = None
    dim: int | None = None
    columns: tuple[str, ...] = ()
    encoder: TextEncoder | None = None

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise SchemaError(f"a field needs a name, got {self.name!r}", field="name")
        if self.kind not in get_args(FieldKind):
            raise SchemaError(
                f"field '{self.name}' has kind '{self.kind}'; known: {', '.join(get_args(FieldKind))}", field=self.name
            )
        if self.separator is not None and self.kind not in ("multi_categorical", "vector"):
            raise SchemaError(f"field '{self.name}' of kind '{self.kind}' takes no separator", field=self.name)
        if self.separator is not None and (not isinstance(self.separator, str) or not self.separator):
            raise SchemaError(f"separator of field '{self.name}' must be a non-empty string", field=self.name)
        self._check_columns()
        if self.kind == "vector" and (not isinstance(self.dim, int) or isinstance(self.dim, bool) or self.dim < 1):
            raise SchemaError(f"vector field '{self.name}' needs dim, a whole number of at least 1", field=self.name)
        if self.kind != "vector" and self.dim is not None:
            raise SchemaError(f"field '{self.name}' of kind '{self.kind}' takes no dim", field=self.name)
        if self.encoder is not None and (self.kind != "text" or self.encoder not in get_args(TextEncoder)):
            raise SchemaError(
                f"field '{self.name}' has encoder {self.encoder!r}; only texts take one: {', '.join(get_args(TextEncoder))}",
                field=self.name,
            )

    def _check_columns(self) -> None:
        given: object = self.columns
        if not isinstance(given, list | tuple) or not all(isinstance(column, str) and column for column in given):
            raise SchemaError(f"columns of field '{self.name}' must be a list of column names, got {given!r}", field=self.name)
        object.__setattr__(self, "columns", tuple(given))
        if not given:
            return
        if self.kind != "vector" or self.separator is not None:
            raise SchemaError(f"field '{self.name}' takes no columns: only a vector without a separator does", field=self.name)
        if len(set(given)) < len(given):
            raise SchemaError(f"columns of field '{self.name}' must differ: {', '.join(given)}", field=self.name)
        if self.dim is not None and self.dim != len(given):
            raise SchemaError(f"field '{self.name}' has {len(given)} columns but dim {self.dim}; leave dim out", field=self.name)
        object.__setattr__(self, "dim", len(given))

    @property
    def sources(self) -> tuple[str, ...]:
        """The columns of a file that hold the field."""
        return self.columns or (self.name,)


@dataclass(frozen=True, kw_only=True)
class Label:
    """The column that learners predict: a rating within [minimum, maximum], or binary (0 or 1)."""

    column: str
    kind: LabelKind
    minimum: float = 0.0
    maximum: float = 1.0

    def __post_init__(self) -> None:
        if not self.column or not isinstance(self.column, str):
            raise SchemaError("label needs a column", field="label.column")
        if self.kind not in get_args(LabelKind):
            raise SchemaError(f"label has kind '{self.kind}'; known: {', '.join(get_args(LabelKind))}", field="label.kind")
        for name in ("minimum", "maximum"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise SchemaError(f"label {name} must be a number, got {value!r}", field=f"label.{name}")
            # Written 1 or 1.0, it is the same schema and must have the same hash.
            object.__setattr__(self, name, int(value) if value == int(value) else float(value))
        if self.kind == "binary" and (self.minimum, self.maximum) != (0, 1):
            raise SchemaError("a binary label runs from 0 to 1; leave minimum and maximum out", field="label.minimum")
        if not self.minimum < self.maximum:
            raise SchemaError(f"label minimum {self.minimum:g} must be below maximum {self.maximum:g}", field="label.minimum")
