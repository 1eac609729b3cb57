"""PreviewItems: what the live checkpoint expects of items from their content alone. Nothing of it is kept."""

from metarec.adaptation.preview import ItemPreview
from metarec.errors import InvalidInputError
from metarec.types import Item
from metarec.v1 import recall_pb2
from services.recall.finder import Finder
from services.runtime import convert

MAX_PREVIEWS = 100
MAX_NEIGHBOURS = 100
DEFAULT_NEIGHBOURS = 5


def preview(finder: Finder, request: recall_pb2.PreviewItemsRequest) -> recall_pb2.PreviewItemsResponse:
    """The response to a request. InvalidInputError names a wrong field; NoCheckpointError while none is live;
    FailedPreconditionError when the checkpoint knows nothing of profiles."""
    if finder.serving is None:
        raise finder.absent()
    engine = finder.serving.engine
    convert.check_count(len(request.items), "items", most=MAX_PREVIEWS)
    if not 0 <= request.num_neighbours <= MAX_NEIGHBOURS:
        raise InvalidInputError(
            f"must be 1 to {MAX_NEIGHBOURS}, or 0 for {DEFAULT_NEIGHBOURS}, not {request.num_neighbours}", field="num_neighbours"
        )
    items = []
    for place, message in enumerate(request.items):
        if message.item_id:
            convert.check_id(message.item_id, f"items[{place}].item_id")
        features = convert.item_features(message.features, engine.prior.schema, f"items[{place}].features")
        items.append(Item(item_id=message.item_id, features=features))
    previews = engine.preview_items(items, neighbours=request.num_neighbours or DEFAULT_NEIGHBOURS)
    return recall_pb2.PreviewItemsResponse(
        previews=[_message(item, found) for item, found in zip(items, previews, strict=True)], checkpoint=engine.checkpoint
    )


def _message(item: Item, found: ItemPreview) -> recall_pb2.ItemPreview:
    return recall_pb2.ItemPreview(
        item_id=item.item_id,
        labels=found.target == "explicit",
        mean=found.mean,
        stddev=found.stddev,
        audience=[
            recall_pb2.SegmentPreview(
                field=part.field,
                value=part.value,
                num_users=part.num_users,
                mean=part.mean,
                lift=part.lift,
                lift_stddev=part.lift_stddev,
            )
            for part in found.audience
        ],
        neighbours=[recall_pb2.ItemNeighbour(item_id=near.item_id, similarity=near.similarity) for near in found.neighbours],
        vectors=[
            recall_pb2.ItemVector(target=vector.target, values=vector.values, offset=vector.offset) for vector in found.vectors
        ],
    )
