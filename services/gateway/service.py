"""The gateway: checks requests, forwards them to the stages, and degrades where the design allows it."""

import asyncio
import logging

import grpc

from metarec.v1 import gateway_pb2, gateway_pb2_grpc, ranking_pb2
from services.gateway import validation
from services.gateway.impressions import ImpressionLog
from services.gateway.popular import Popular
from services.gateway.recommend import Recommender
from services.gateway.stages import Stages
from services.runtime.convert import check_id
from services.runtime.rules import RuleBook
from services.runtime.settings import Settings

logger = logging.getLogger(__name__)


class Gateway(gateway_pb2_grpc.GatewayServiceServicer):
    """Answers GatewayService. Requests go on as they came: nothing is copied or converted on the way."""

    names = ("metarec.v1.GatewayService",)

    def __init__(
        self, stages: Stages, popular: Popular, rules: RuleBook | None = None, impressions: ImpressionLog | None = None
    ) -> None:
        self._stages, self._popular, self._recommender = stages, popular, Recommender(stages, popular, rules)
        self._impressions = impressions

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with `server`."""
        gateway_pb2_grpc.add_GatewayServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Begin to connect; ready whether the stages are up or not. The fallback is read now, while there is time."""
        self._stages.connect()
        await self._popular.items()

    async def close(self) -> None:
        """Close the channels, and the log of impressions after its last line."""
        await self._stages.close()
        if self._impressions is not None:
            await asyncio.to_thread(self._impressions.close)

    async def Recommend(
        self, request: gateway_pb2.RecommendRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.RecommendResponse:
        """Recommend items, degraded where a stage fails."""
        validation.check_recommend(request)
        response = await self._recommender.recommend(request)
        if self._impressions is not None:
            self._impressions.record(request, response)
        return response

    async def RecordInteractions(
        self, request: gateway_pb2.RecordInteractionsRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.RecordInteractionsResponse:
        """Record interactions; durable and visible when it returns."""
        validation.check_interactions(request)
        return await self._stages.adaptation.call(self._stages.adaptation_stub.RecordInteractions, request)

    async def Explain(
        self, request: gateway_pb2.ExplainRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.ExplainResponse:
        """Explain a score; there is no fallback, for nothing else knows the score."""
        validation.check_explain(request)
        message = ranking_pb2.ExplainScoreRequest(
            user_id=request.user_id,
            item_id=request.item_id,
            scenario=request.scenario,
            target_weights=request.target_weights,
        )
        return await self._stages.ranking.call(self._stages.ranking_stub.ExplainScore, message)

    async def UpsertItems(
        self, request: gateway_pb2.UpsertItemsRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.UpsertItemsResponse:
        """Add items or replace their content."""
        validation.check_items(request)
        return await self._stages.recall.call(self._stages.recall_stub.UpsertItems, request)

    async def UpsertUsers(
        self, request: gateway_pb2.UpsertUsersRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.UpsertUsersResponse:
        """Add users or replace their profiles."""
        validation.check_users(request)
        return await self._stages.adaptation.call(self._stages.adaptation_stub.UpsertUsers, request)

    async def DeleteUser(
        self, request: gateway_pb2.DeleteUserRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.DeleteUserResponse:
        """Forget a user."""
        check_id(request.user_id, "user_id")
        return await self._stages.adaptation.call(self._stages.adaptation_stub.DeleteUser, request)

    async def InferProfile(
        self, request: gateway_pb2.InferProfileRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.InferProfileResponse:
        """Complete a user's profile; there is no fallback, for nothing else knows the user's behaviour."""
        validation.check_profile(request)
        return await self._stages.adaptation.call(self._stages.adaptation_stub.InferProfile, request)


async def build(settings: Settings) -> Gateway:
    """The gateway of these settings."""
    rules = RuleBook(settings.rules)
    impressions = None if settings.impressions is None else ImpressionLog(settings.impressions)
    return Gateway(Stages(settings), Popular(settings.registry), rules, impressions)
