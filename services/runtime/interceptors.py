"""What happens around every unary call: authorization, readiness, load shedding, request id, deadline, spelling, error mapping, a
log line.

Streams (health watches and reflection) are not ours: they are authorized, and pass untouched.
"""

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NoReturn, cast

import grpc

from metarec.errors import DeadlineExceededError, MetarecError, ResourceExhaustedError, UnavailableError
from services.runtime import request as requests
from services.runtime.errors import describe
from services.runtime.spelling import spell

logger = logging.getLogger("metarec.rpc")

HEALTH = "/grpc.health.v1.Health/"
DEFAULT_DEADLINE_SECONDS = 10.0
"""Deadline of a call that comes without one."""

Authorize = Callable[[Mapping[str, str | bytes]], None]
"""Looks at the metadata of a call and raises UnauthenticatedError to refuse it."""

Handler = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Wraps the unary methods of a server; `ready` opens them, `max_concurrent` bounds how many run at once.

    With `spells` the texts of requests are spelled as those of imported data.

    Health checks are answered always, count against no limit and are logged at DEBUG.
    """

    def __init__(
        self,
        service_name: str,
        *,
        max_concurrent: int,
        authorize: Authorize | None = None,
        default_deadline: float = DEFAULT_DEADLINE_SECONDS,
        spells: bool = True,
    ) -> None:
        self.service_name = service_name
        self.ready = False
        self.in_flight = 0
        self._max_concurrent, self._authorize, self._default_deadline = max_concurrent, authorize, default_deadline
        self._spells = spells
        self._wrapped: dict[str, grpc.RpcMethodHandler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """The handler of the method, wrapped; wrapped once per method, for handlers live as long as the server."""
        method: str = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            if handler.unary_unary is None:
                return self._authorized_stream(method, handler, dict(handler_call_details.invocation_metadata or ()))
            if not inspect.iscoroutinefunction(handler.unary_unary):
                # Ours are coroutines; what is left is the generated base, which answers UNIMPLEMENTED.
                return handler
            around = self._around(method, cast(Handler, handler.unary_unary))
            wrapped = grpc.unary_unary_rpc_method_handler(around, handler.request_deserializer, handler.response_serializer)
            self._wrapped[method] = wrapped
        return wrapped

    def _around(self, method: str, handler: Handler) -> Handler:
        health = method.startswith(HEALTH)
        level = logging.DEBUG if health else logging.INFO

        async def call(message: Any, context: grpc.aio.ServicerContext) -> Any:
            started = time.monotonic()
            left = context.time_remaining()
            metadata = dict(context.invocation_metadata() or ())
            identity = requests.request_id(getattr(message, "request_id", None), metadata.get(requests.REQUEST_ID_KEY))
            deadline = self._default_deadline if left is None else left
            requests.enter(requests.Request(identity, started + deadline))
            code = grpc.StatusCode.OK
            refusal: MetarecError | None = None
            counted = not health
            self.in_flight += counted
            try:
                if counted:
                    self._admit(metadata)
                    if self._spells:
                        spell(message)
                if left is not None:
                    return await handler(message, context)
                async with asyncio.timeout(deadline):
                    return await handler(message, context)
            except MetarecError as error:
                refusal = error
            except TimeoutError:
                refusal = DeadlineExceededError(f"no answer within {deadline:g} seconds; send a longer deadline")
            except grpc.aio.AbortError:
                code = grpc.StatusCode.UNKNOWN if context.code() is None else context.code()
                raise
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception:
                logger.exception("%s failed, request_id=%s", method, identity)
                refusal = MetarecError(f"the {self.service_name} service failed; its log has request id '{identity}'")
            finally:
                self.in_flight -= counted
                code = code if refusal is None else grpc.StatusCode[refusal.code]
                milliseconds = 1000 * (time.monotonic() - started)
                logger.log(level, "method=%s code=%s ms=%.2f request_id=%s", method, code.name, milliseconds, identity)
            return await _abort(context, refusal)

        return call

    def _authorized_stream(
        self, method: str, handler: grpc.RpcMethodHandler, metadata: Mapping[str, str | bytes]
    ) -> grpc.RpcMethodHandler:
        if self._authorize is None or method.startswith(HEALTH):
            return handler
        try:
            self._authorize(metadata)
        except MetarecError as error:
            refusal = error

            async def refuse(messages: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> None:
                await _abort(context, refusal)

            return grpc.stream_stream_rpc_method_handler(refuse)
        return handler

    def _admit(self, metadata: Mapping[str, str | bytes]) -> None:
        if self._authorize is not None:
            self._authorize(metadata)
        if not self.ready:
            raise UnavailableError(f"the {self.service_name} service is not ready yet; retry")
        if self.in_flight > self._max_concurrent:
            raise ResourceExhaustedError(
                f"the {self.service_name} service works on {self._max_concurrent} requests already; retry later",
                metadata={"limit": str(self._max_concurrent)},
            )


async def _abort(context: grpc.aio.ServicerContext, error: MetarecError) -> NoReturn:
    code, message, metadata = describe(error)
    await context.abort(code, message, metadata)
    raise AssertionError("abort raises")
