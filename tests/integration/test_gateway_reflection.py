"""A client that knows nothing but the address: everything else comes from reflection."""

import asyncio
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from services.runtime.server import Server


def call_by_name(address: str, service_name: str, method_name: str, request: dict[str, Any]) -> dict[str, Any]:
    """What grpcurl does: descriptors by reflection, messages as JSON."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert service_name in database.get_services()
        method = DescriptorPool(database).FindServiceByName(service_name).methods_by_name[method_name]
        message = ParseDict(request, GetMessageClass(method.input_type)())
        call = channel.unary_unary(
            f"/{service_name}/{method_name}",
            request_serializer=type(message).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return MessageToDict(call(message, timeout=10), preserving_proto_field_name=True)


async def test_a_stranger_gets_recommendations_from_the_address_alone(gateway: Server) -> None:
    request = {"user_id": "u1", "num_items": 2, "user": {"features": {"age": {"number": 30}}}}
    answer = await asyncio.to_thread(call_by_name, f"127.0.0.1:{gateway.port}", "metarec.v1.GatewayService", "Recommend", request)
    assert answer["items"] == [
        {"item_id": "i3", "score": 10.0, "source": "CANDIDATE_SOURCE_FRESH", "rank_before": 1, "propensity": 1.0},
        {"item_id": "i2", "score": 9.0, "source": "CANDIDATE_SOURCE_PERSONAL", "rank_before": 2, "propensity": 1.0},
    ]
    assert answer["checkpoint"] == "c-ranking"
