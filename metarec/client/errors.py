"""Errors of calls, as metarec errors: what the service said, or what to do when it could not be reached."""

import grpc

from metarec.errors import DeadlineExceededError, MetarecError, UnavailableError
from services.runtime.errors import from_rpc_error, is_ours


def client_error(error: grpc.RpcError, *, service: str, address: str, timeout: float) -> MetarecError:
    """The MetarecError of a failed call to `service`. Errors that the transport made say which address failed, and what to do."""
    code = error.code()
    if not is_ours(error):
        metadata = {"service": service, "address": address}
        if code == grpc.StatusCode.UNAVAILABLE:
            # The transport tells the whole story of its attempts; the last part says why.
            why = (error.details() or "no reason given").rpartition(": ")[2].rstrip("]")
            return UnavailableError(
                f"the {service} service at {address} cannot be reached ({why}); "
                f"start the services with 'metarec up', or set METAREC_{service.upper()}_ADDRESS",
                metadata=metadata,
            )
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceededError(
                f"the {service} service at {address} gave no answer within {timeout:g} seconds", metadata=metadata
            )
        if code == grpc.StatusCode.CANCELLED:
            # Nobody here cancels: it is what a server that stops does to calls which come in that moment.
            return UnavailableError(f"the {service} service at {address} is stopping; retry", metadata=metadata)
    return from_rpc_error(error)
