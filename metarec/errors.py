"""The errors metarec raises, as one tree.

    MetarecError                 INTERNAL
    ├── InvalidInputError        INVALID_ARGUMENT     a request, setting or value is wrong
    │   ├── ConfigError                               a setting or recipe is wrong
    │   ├── DataError                                 a data file is unusable (names file, column and row)
    │   └── SchemaError                               a schema file is wrong
    ├── NotFoundError            NOT_FOUND            a named thing does not exist
    ├── AlreadyExistsError       ALREADY_EXISTS       a thing to create exists
    ├── FailedPreconditionError  FAILED_PRECONDITION  the state of the system forbids it
    │   ├── SchemaMismatchError                       checkpoint and data have different schemas
    │   ├── GateNotPassedError                        a checkpoint is not better than the plain baselines
    │   ├── NoCheckpointError                         nothing has been promoted, or it cannot be loaded
    │   └── CorruptCheckpointError                    a checkpoint's files are damaged
    ├── UnauthenticatedError     UNAUTHENTICATED      the caller did not say who they are
    ├── ResourceExhaustedError   RESOURCE_EXHAUSTED   a limit is reached; retry later
    ├── DeadlineExceededError    DEADLINE_EXCEEDED    time ran out
    ├── UnavailableError         UNAVAILABLE          a dependency cannot be reached; retry
    └── InterruptedRunError      ABORTED              a run was stopped and can be resumed

`code` is the canonical gRPC status name, `reason` the ErrorInfo reason. Messages are lower-case, quote values and say
what to do. `metadata` holds the facts of the message for machines.
"""

from collections.abc import Mapping
from typing import ClassVar


class MetarecError(Exception):
    """Base of every error metarec raises on purpose."""

    code: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})


class InvalidInputError(MetarecError):
    """A value handed in is wrong; `field` names it in dotted form where there is one."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_INPUT"

    def __init__(self, message: str, *, field: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, metadata=metadata)
        self.field = field


class ConfigError(InvalidInputError):
    """A setting or a recipe is wrong."""

    reason = "INVALID_CONFIG"


class SchemaError(InvalidInputError):
    """A schema file is wrong."""

    reason = "INVALID_SCHEMA"


class DataError(InvalidInputError):
    """A data file cannot be used; says which file, column and row (1-based, the header not counted)."""

    reason = "INVALID_DATA"

    def __init__(self, message: str, *, file: str = "", column: str = "", row: int | None = None) -> None:
        where = ", ".join(
            part
            for part in (
                f"file '{file}'" if file else "",
                f"column '{column}'" if column else "",
                f"row {row}" if row is not None else "",
            )
            if part
        )
        metadata = {"file": file, "column": column, "row": "" if row is None else str(row)}
        super().__init__(f"{where}: {message}" if where else message, field=column, metadata=metadata)
        self.file, self.column, self.row = file, column, row


class NotFoundError(MetarecError):
    """A named thing does not exist."""

    code = "NOT_FOUND"
    reason = "NOT_FOUND"


class AlreadyExistsError(MetarecError):
    """A thing to create exists already."""

    code = "ALREADY_EXISTS"
    reason = "ALREADY_EXISTS"


class FailedPreconditionError(MetarecError):
    """The state of the system forbids the operation."""

    code = "FAILED_PRECONDITION"
    reason = "FAILED_PRECONDITION"


class SchemaMismatchError(FailedPreconditionError):
    """A checkpoint and the data or store at hand have different schemas."""

    reason = "SCHEMA_MISMATCH"


class GateNotPassedError(FailedPreconditionError):
    """A checkpoint is not better than the best plain baseline."""

    reason = "GATE_NOT_PASSED"


class NoCheckpointError(FailedPreconditionError):
    """No checkpoint is at work: none has been promoted, or the one that has cannot be loaded."""

    reason = "NO_CHECKPOINT"


class CorruptCheckpointError(FailedPreconditionError):
    """A checkpoint's files are missing or damaged."""

    reason = "CORRUPT_CHECKPOINT"


class UnauthenticatedError(MetarecError):
    """The caller sent no valid token."""

    code = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class ResourceExhaustedError(MetarecError):
    """A limit is reached; the caller may retry later."""

    code = "RESOURCE_EXHAUSTED"
    reason = "RESOURCE_EXHAUSTED"


class DeadlineExceededError(MetarecError):
    """Time ran out."""

    code = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class UnavailableError(MetarecError):
    """A dependency cannot be reached; the caller may retry."""

    code = "UNAVAILABLE"
    reason = "UNAVAILABLE"


class InterruptedRunError(MetarecError):
    """A run was stopped before its end and can be resumed."""

    code = "ABORTED"
    reason = "INTERRUPTED"
