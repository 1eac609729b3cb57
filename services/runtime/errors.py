"""Errors on the wire: a MetarecError as a gRPC status with google.rpc.ErrorInfo and BadRequest, and back.

The one table from library errors to codes is the error tree itself (metarec/errors.py). A status without our ErrorInfo comes from
elsewhere (the transport, a proxy, Ray Serve) and is read by its code alone.
"""

from collections.abc import Iterator, Sequence

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2

from metarec import errors
from metarec.errors import InvalidInputError, MetarecError

DOMAIN = "metarec"
DETAILS_KEY = "grpc-status-details-bin"

# Trailing metadata of more than 8 KiB is refused by clients. The message is in it three times, once with each byte as three.
MAX_MESSAGE_BYTES, MAX_VALUE_BYTES = 1024, 256

Metadata = tuple[tuple[str, str | bytes], ...]


def describe(error: MetarecError) -> tuple[grpc.StatusCode, str, Metadata]:
    """Code, message and trailing metadata of `error`."""
    code = grpc.StatusCode[error.code]
    field = _short(error.field, MAX_VALUE_BYTES) if isinstance(error, InvalidInputError) else ""
    said = _short(error.message, MAX_MESSAGE_BYTES)
    message = f"{field}: {said}" if field and field not in said else said
    facts = {key: _short(value, MAX_VALUE_BYTES) for key, value in error.metadata.items()}
    details = [_packed(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts))]
    if field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=said)
        details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    status = status_pb2.Status(code=code.value[0], message=message, details=details)
    return code, message, ((DETAILS_KEY, status.SerializeToString()),)


def set_error(context: grpc.ServicerContext, error: MetarecError) -> None:
    """Make `error` the outcome of a call whose handler then returns an empty response: for Ray Serve, which loses the trailing
    metadata of a handler that raises."""
    code, message, metadata = describe(error)
    context.set_code(code)
    context.set_details(message)
    # Ray Serve adds its own to it, which takes a list.
    context.set_trailing_metadata(list(metadata))


def from_rpc_error(error: grpc.RpcError) -> MetarecError:
    """The MetarecError that `error` (of grpc or grpc.aio) carries; the closest one by code when it carries none."""
    code, message = error.code(), error.details() or error.code().name
    info, field = _details(error)
    if info is not None:
        kind = _BY_REASON.get(info.reason) or _BY_CODE.get(code.name, MetarecError)
        metadata = dict(info.metadata)
    else:
        kind = _BY_CODE.get(code.name, MetarecError)
        metadata = {}
        if code.name not in _BY_CODE:
            message = f"{code.name}: {message}"
    found = kind(message)
    found.metadata = metadata
    if isinstance(found, InvalidInputError):
        found.field = field
    return found


def is_ours(error: grpc.RpcError) -> bool:
    """Whether a metarec service raised `error` on purpose, rather than the transport, a proxy or Ray Serve."""
    return _details(error)[0] is not None


def _details(error: grpc.RpcError) -> tuple[error_details_pb2.ErrorInfo | None, str]:
    """ErrorInfo of our domain and the first field violation, where there are any."""
    info: error_details_pb2.ErrorInfo | None = None
    field = ""
    for detail in _status_details(error.trailing_metadata() or ()):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            candidate = error_details_pb2.ErrorInfo()
            detail.Unpack(candidate)
            info = candidate if candidate.domain == DOMAIN else info
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            request = error_details_pb2.BadRequest()
            detail.Unpack(request)
            field = next((violation.field for violation in request.field_violations), "")
    return info, field


def _status_details(metadata: Sequence[tuple[str, str | bytes]]) -> Sequence[Any]:
    for key, value in metadata:
        if key == DETAILS_KEY and isinstance(value, bytes):
            status = status_pb2.Status()
            status.ParseFromString(value)
            return list(status.details)
    return ()


def _short(text: str, limit: int) -> str:
    """`text`, cut to `limit` bytes of UTF-8."""
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= limit else encoded[: limit - 3].decode(errors="ignore") + "..."


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def _tree(root: type[MetarecError]) -> Iterator[type[MetarecError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)


_BY_REASON: dict[str, type[MetarecError]] = {kind.reason: kind for kind in _tree(MetarecError)}
# Reversed, so that a parent takes the place of its children, whose code is the same.
_BY_CODE: dict[str, type[MetarecError]] = {kind.code: kind for kind in reversed(list(_tree(MetarecError)))}
