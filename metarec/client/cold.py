"""Completed profiles and previews of items out of protobuf messages."""

from metarec.client.results import AudienceSegment, InferredField, InferredProfile, ItemPreview, LikelyValue
from metarec.v1 import gateway_pb2, recall_pb2


def get_profile(response: gateway_pb2.InferProfileResponse) -> InferredProfile:
    """The result of InferProfile."""
    return InferredProfile(
        fields=tuple(
            InferredField(
                name=field.name,
                observed=field.observed,
                exclusive=field.exclusive,
                values=tuple(
                    LikelyValue(
                        value=likely.value,
                        probability=likely.probability,
                        lower=likely.lower if likely.HasField("lower") else None,
                        upper=likely.upper if likely.HasField("upper") else None,
                    )
                    for likely in field.values
                ),
            )
            for field in response.fields
        ),
        shots=response.shots,
        checkpoint=response.checkpoint,
        unknown_ids=tuple(response.unknown_ids),
    )


def get_previews(response: recall_pb2.PreviewItemsResponse) -> tuple[ItemPreview, ...]:
    """The result of PreviewItems."""
    return tuple(
        ItemPreview(
            item_id=found.item_id,
            labels=found.labels,
            mean=found.mean,
            stddev=found.stddev,
            audience=tuple(
                AudienceSegment(
                    field=part.field,
                    value=part.value,
                    num_users=part.num_users,
                    mean=part.mean,
                    lift=part.lift,
                    lift_stddev=part.lift_stddev,
                )
                for part in found.audience
            ),
            neighbours=tuple((near.item_id, near.similarity) for near in found.neighbours),
            vectors={vector.target: (tuple(vector.values), vector.offset) for vector in found.vectors},
            checkpoint=response.checkpoint,
        )
        for found in response.previews
    )
