"""The typed client of the services, for threads (`Client`) and for asyncio (`AsyncClient`).

    from metarec.client import Client
    from metarec.types import Interaction

    with Client() as client:
        client.record_interactions([Interaction(user_id="u1", item_id="i7", label=5, event_id="click-123")])
        for item in client.recommend("u1", num_items=5).items:
            print(item.item_id, item.score)

Addresses come from METAREC_GATEWAY_ADDRESS (127.0.0.1:50051) and its siblings, or from `ClientSettings`.
"""

from metarec.client.channel import ClientSettings
from metarec.client.client import AsyncClient, Client
from metarec.client.results import (
    AdaptedScenario,
    AdaptedTask,
    AudienceSegment,
    Checkpoint,
    Degradation,
    Diversity,
    Explanation,
    InferredField,
    InferredProfile,
    ItemPreview,
    LikelyValue,
    Page,
    Prediction,
    Recommendations,
    RecommendedItem,
    Recorded,
    RuleEffect,
    RuleReport,
    TrainingJob,
)

__all__ = [
    "AdaptedScenario",
    "AdaptedTask",
    "AsyncClient",
    "AudienceSegment",
    "Checkpoint",
    "Client",
    "ClientSettings",
    "Degradation",
    "Diversity",
    "Explanation",
    "InferredField",
    "InferredProfile",
    "ItemPreview",
    "LikelyValue",
    "Page",
    "Prediction",
    "RecommendedItem",
    "Recommendations",
    "Recorded",
    "RuleEffect",
    "RuleReport",
    "TrainingJob",
]
