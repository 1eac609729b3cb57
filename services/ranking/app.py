"""The Ray Serve application: `services.ranking.app:build` is what `python -m services.ranking` and the RayService of
k8s/base/ranking.yaml run.

Every method is asynchronous and only queues its request; a batch of requests is answered at once by a thread of its own, so that
the event loop stays free to accept, cancel and refuse. Nothing may raise out of a method: Serve drops the trailing metadata, and
with it the ErrorInfo, of a handler that raises.
"""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import ray
from grpc_health.v1 import health_pb2
from ray import serve
from ray.serve.grpc_util import RayServegRPCContext

from metarec.adaptation.engine import Engine
from metarec.errors import MetarecError, NotFoundError
from metarec.v1 import gateway_pb2, ranking_pb2
from services.ranking.batching import Batcher
from services.ranking.fate import end_with_parent
from services.ranking.listening import narrow
from services.ranking.lists import ListSettings
from services.ranking.ranker import Ranker
from services.ranking.wire import Answer, Request, explain_request, explain_response, rank_request, rank_response
from services.runtime.errors import set_error
from services.runtime.features import LazyStore
from services.runtime.live import LiveCheckpoint
from services.runtime.request import REQUEST_ID_KEY, request_id
from services.runtime.rules import RuleBook
from services.runtime.settings import Settings

logger = logging.getLogger(__name__)
calls = logging.getLogger("metarec.rpc")

APPLICATION = "ranking"
"""Name of the application. The gateway sends it as metadata `application`, by which Serve's proxies route."""
SERVICE = "metarec.v1.RankingService"
MAX_BATCH = 32
MAX_ONGOING = 2 * MAX_BATCH
"""One batch is being answered while the next one gathers."""

MessageT = TypeVar("MessageT")
ResponseT = TypeVar("ResponseT")


@serve.deployment(
    name="ranking",
    # The new replica is there before the old one goes.
    max_surge_percent=100,
    health_check_period_s=2,
    health_check_timeout_s=10,
    graceful_shutdown_wait_loop_s=0.1,
    logging_config={"enable_access_log": False},
)
class Ranking:
    """One replica: the engine of the live checkpoint, swapped when another is promoted, and the feature store."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        settings = Settings.from_environment("ranking", {**os.environ, **environment})
        logging.basicConfig(
            level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.__stderr__, force=True
        )
        end_with_parent()
        narrow(host=settings.host, node=ray.util.get_node_ip_address())
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ranking")
        self._live = LiveCheckpoint(settings.registry)
        self._store = LazyStore(settings.features, settings.online_store)
        self._thread.submit(self._store.warm_up).result()
        # In the thread that reads it, so that no read finds it closed.
        self._live.listen(self._reopen)
        ranker = Ranker(self._live, self._store, RuleBook(settings.rules), ListSettings.of(settings))
        self._answer = Batcher(ranker.answer, self._thread, MAX_BATCH)

    async def RankCandidates(
        self, request: ranking_pb2.RankCandidatesRequest, grpc_context: RayServegRPCContext
    ) -> ranking_pb2.RankCandidatesResponse:
        """Scores and orders candidates."""
        engine = self._live.current
        schema = None if engine is None else engine.prior.schema
        return await self._call(
            "RankCandidates",
            request,
            grpc_context,
            lambda message, identity: rank_request(message, schema, identity),
            rank_response,
            ranking_pb2.RankCandidatesResponse,
        )

    async def ExplainScore(
        self, request: ranking_pb2.ExplainScoreRequest, grpc_context: RayServegRPCContext
    ) -> gateway_pb2.ExplainResponse:
        """Explains one score."""
        return await self._call(
            "ExplainScore", request, grpc_context, explain_request, explain_response, gateway_pb2.ExplainResponse
        )

    async def Check(
        self, request: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> health_pb2.HealthCheckResponse:
        """grpc.health.v1: a replica that answers serves, with or without a checkpoint."""
        if request.service not in ("", SERVICE):
            set_error(grpc_context, NotFoundError(f"no service '{request.service}' is served here"))
            return health_pb2.HealthCheckResponse()
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def _call(
        self,
        method: str,
        message: MessageT,
        context: RayServegRPCContext,
        read: Callable[[MessageT, str], Request],
        write: Callable[[Answer], ResponseT],
        empty: Callable[[], ResponseT],
    ) -> ResponseT:
        """One call: its answer, or its error in `context`; and one line in the log."""
        started, code = time.monotonic(), "OK"
        identity = request_id(dict(context.invocation_metadata()).get(REQUEST_ID_KEY))
        try:
            answer = await self._answer(read(message, identity))
            if isinstance(answer, MetarecError):
                raise answer
            return write(answer)
        except MetarecError as error:
            code = error.code
            set_error(context, error)
            return empty()
        except asyncio.CancelledError:
            # The deadline has passed or the caller has gone: nobody reads an answer.
            code = "CANCELLED"
            raise
        except Exception:
            code = "INTERNAL"
            logger.exception("%s failed, request_id=%s", method, identity)
            set_error(context, MetarecError(f"the ranking service failed; its log has request id '{identity}'"))
            return empty()
        finally:
            milliseconds = 1000 * (time.monotonic() - started)
            calls.info("method=/%s/%s code=%s ms=%.2f request_id=%s", SERVICE, method, code, milliseconds, identity)

    def _reopen(self, engine: Engine) -> None:
        """Another checkpoint may have come with other features."""
        self._thread.submit(self._store.reopen)

    def __del__(self) -> None:
        self._thread.shutdown(wait=False)
        self._live.close()
        self._store.close()


def build(args: Mapping[str, str]) -> serve.Application:
    """The application. `args` are METAREC_ settings that come before those of the environment."""
    settings = Settings.from_environment("ranking", {**os.environ, **args})
    ongoing = min(MAX_ONGOING, settings.max_concurrent_requests)
    deployment: serve.Deployment = Ranking
    return deployment.options(
        max_ongoing_requests=ongoing,
        # Beyond them a request is refused at once with RESOURCE_EXHAUSTED.
        max_queued_requests=max(settings.max_concurrent_requests - ongoing, 1),
        graceful_shutdown_timeout_s=settings.drain_seconds,
    ).bind(dict(args))
