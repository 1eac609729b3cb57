import grpc
import pytest

from metarec import errors
from metarec.errors import ConfigError, DataError, InvalidInputError, MetarecError, NotFoundError, UnavailableError
from services.runtime.errors import DETAILS_KEY, describe, from_rpc_error, is_ours


class Failed(grpc.RpcError):
    """A failed call as a client sees it."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: object = ()) -> None:
        super().__init__()
        self._parts = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> object:
        return self._parts[2]


def every_error() -> list[type[MetarecError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MetarecError)]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_comes_back_as_itself(kind: type[MetarecError]) -> None:
    error = kind("checkpoint 'c-1' is wrong")
    error.metadata = {"checkpoint": "c-1"}
    back = from_rpc_error(Failed(*describe(error)))
    assert type(back) is kind
    assert (back.message, back.metadata, back.code, back.reason) == (error.message, error.metadata, kind.code, kind.reason)


def test_the_field_travels_and_leads_the_message() -> None:
    code, message, metadata = describe(InvalidInputError("must be 1 to 200, not 0", field="num_items"))
    back = from_rpc_error(Failed(code, message, metadata))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(back, InvalidInputError)
    assert (back.field, back.message) == ("num_items", "num_items: must be 1 to 200, not 0")


def test_a_field_that_the_message_names_is_not_repeated() -> None:
    assert describe(ConfigError("METAREC_PORT must be a number", field="METAREC_PORT"))[1] == "METAREC_PORT must be a number"
    assert describe(DataError("is no number", file="f.csv", column="age", row=3))[1].startswith(
        "file 'f.csv', column 'age', row 3"
    )


def test_errors_from_elsewhere_are_read_by_their_code() -> None:
    assert type(from_rpc_error(Failed(grpc.StatusCode.UNAVAILABLE, "connection refused"))) is UnavailableError
    assert type(from_rpc_error(Failed(grpc.StatusCode.NOT_FOUND, "no application"))) is NotFoundError
    unknown = from_rpc_error(Failed(grpc.StatusCode.UNIMPLEMENTED, "no such method"))
    assert (type(unknown), unknown.message) == (MetarecError, "UNIMPLEMENTED: no such method")
    assert not is_ours(Failed(grpc.StatusCode.UNAVAILABLE, "connection refused"))


def test_error_info_of_another_domain_is_not_ours() -> None:
    from google.protobuf.any_pb2 import Any
    from google.rpc import error_details_pb2, status_pb2

    packed = Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason="NO_CHECKPOINT", domain="elsewhere.example"))
    status = status_pb2.Status(code=9, details=[packed])
    error = Failed(grpc.StatusCode.FAILED_PRECONDITION, "no", ((DETAILS_KEY, status.SerializeToString()),))
    assert not is_ours(error)
    assert type(from_rpc_error(error)) is errors.FailedPreconditionError
