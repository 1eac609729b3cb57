"""The recall service: owns the catalogue and the index (DESIGN 6). From all items to a few hundred candidates."""

import asyncio
import bisect
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import grpc
import torch

from metarec.errors import InvalidInputError, MetarecError, NotFoundError
from metarec.types import Item
from metarec.v1 import gateway_pb2, recall_pb2, recall_pb2_grpc, types_pb2
from services.recall.finder import Finder
from services.recall.previews import preview
from services.recall.shelf import ItemShelf
from services.runtime import convert
from services.runtime.features import LazyStore
from services.runtime.live import LiveCheckpoint
from services.runtime.rule_messages import report_message
from services.runtime.rules import RuleBook
from services.runtime.schema import LiveSchema
from services.runtime.settings import Settings

logger = logging.getLogger(__name__)

DEFAULT_CANDIDATES = 500
MAX_CANDIDATES = 2000
MAX_EXCLUDED = 10_000
MAX_BATCH = 1000
THREADS = 4

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Recall(recall_pb2_grpc.RecallServiceServicer):
    """Every method hands its work to a thread, so that the event loop stays free."""

    names = ("metarec.v1.RecallService",)

    def __init__(self, settings: Settings) -> None:
        self._settings, self._book = settings, RuleBook(settings.rules)
        self._pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="recall")
        self._opened = ExitStack()
        self._listed: tuple[int, int, str, list[str]] = (-1, -1, "", [])

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with `server`."""
        recall_pb2_grpc.add_RecallServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Read the items, load the live checkpoint, build the index."""
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        torch.set_num_threads(1)
        settings = self._settings
        self._shelf = ItemShelf(settings.state / "items.db")
        self._opened.callback(self._shelf.close)
        self._store = LazyStore(settings.features, settings.online_store)
        self._opened.callback(self._store.close)
        self._store.warm_up()
        self._finder = Finder(self._shelf, self._store, self._book)
        self._live = LiveCheckpoint(settings.registry, on_load=self._finder.on_load, on_swap=self._finder.on_swap)
        self._opened.callback(self._live.close)
        self._finder.attach(self._live)
        self._schema = LiveSchema(self._live, self._store, settings.data)
        try:
            self._finder.repair()
        except MetarecError as error:
            logger.warning("upserted items could not be written to the feature store again: %s", error.message)

    async def close(self) -> None:
        """Finish what is running and close the files."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._pool.shutdown()
        self._opened.close()

    async def RetrieveCandidates(
        self, request: recall_pb2.RetrieveCandidatesRequest, context: grpc.aio.ServicerContext
    ) -> recall_pb2.RetrieveCandidatesResponse:
        """Retrieve candidates for a user."""
        return await self._run(self._retrieve, request)

    async def UpsertItems(
        self, request: gateway_pb2.UpsertItemsRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.UpsertItemsResponse:
        """Add items or replace their content; retrievable when it returns."""
        return await self._run(self._upsert, request)

    async def GetItem(self, request: recall_pb2.GetItemRequest, context: grpc.aio.ServicerContext) -> types_pb2.Item:
        """Return one item."""
        return await self._run(self._get, request)

    async def ListItems(
        self, request: recall_pb2.ListItemsRequest, context: grpc.aio.ServicerContext
    ) -> recall_pb2.ListItemsResponse:
        """List the catalogue by item id."""
        return await self._run(self._list, request)

    async def PreviewItems(
        self, request: recall_pb2.PreviewItemsRequest, context: grpc.aio.ServicerContext
    ) -> recall_pb2.PreviewItemsResponse:
        """Tell what to expect of items from their content alone."""
        return await self._run(self._preview, request)

    async def _run(self, work: Callable[[RequestT], ResponseT], request: RequestT) -> ResponseT:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, request)

    def _retrieve(self, request: recall_pb2.RetrieveCandidatesRequest) -> recall_pb2.RetrieveCandidatesResponse:
        user_id = convert.check_id(request.user_id, "user_id")
        if not 0 <= request.num_candidates <= MAX_CANDIDATES:
            raise InvalidInputError(
                f"must be 1 to {MAX_CANDIDATES}, or 0 for {DEFAULT_CANDIDATES}, not {request.num_candidates}",
                field="num_candidates",
            )
        convert.check_count(len(request.exclude_item_ids), "exclude_item_ids", least=0, most=MAX_EXCLUDED)
        profile = None
        if request.HasField("user"):
            if request.user.user_id and request.user.user_id != user_id:
                raise InvalidInputError(f"is '{request.user.user_id}', but user_id is '{user_id}'", field="user.user_id")
            profile = convert.user_features(request.user.features, self._schema.required(), "user.features")
        found = self._finder.retrieve(
            user_id,
            request.num_candidates or DEFAULT_CANDIDATES,
            profile=profile,
            exclude=request.exclude_item_ids,
            include_seen=request.include_seen,
            scenario=request.scenario,
            target_weights=request.target_weights,
        )
        return recall_pb2.RetrieveCandidatesResponse(
            candidates=[convert.candidate_message(candidate) for candidate in found.candidates],
            checkpoint=found.checkpoint,
            shots=found.shots,
            degradations=[
                types_pb2.Degradation(stage=entry.stage, reason=entry.reason, fallback=entry.fallback) for entry in found.degraded
            ],
            rules=[report_message(report) for report in found.rules],
            rules_version=found.rules_version,
        )

    def _upsert(self, request: gateway_pb2.UpsertItemsRequest) -> gateway_pb2.UpsertItemsResponse:
        convert.check_count(len(request.items), "items", most=MAX_BATCH)
        items = convert.items(request.items, self._schema.required())
        return gateway_pb2.UpsertItemsResponse(items=[convert.item_message(item) for item in self._finder.upsert(items)])

    def _get(self, request: recall_pb2.GetItemRequest) -> types_pb2.Item:
        item_id = convert.check_id(request.item_id, "item_id")
        (item,) = self._contents([item_id])
        if item is None:
            raise NotFoundError(f"item '{item_id}' is unknown", metadata={"item_id": item_id})
        return convert.item_message(item)

    def _preview(self, request: recall_pb2.PreviewItemsRequest) -> recall_pb2.PreviewItemsResponse:
        return preview(self._finder, request)

    def _list(self, request: recall_pb2.ListItemsRequest) -> recall_pb2.ListItemsResponse:
        size, ids = convert.page_size(request.page_size), self._ids()
        start = bisect.bisect_right(ids, request.page_token) if request.page_token else 0
        page = ids[start : start + size]
        items = [item or Item(item_id=item_id, features={}) for item_id, item in zip(page, self._contents(page), strict=True)]
        return recall_pb2.ListItemsResponse(
            items=[convert.item_message(item) for item in items],
            next_page_token=page[-1] if start + size < len(ids) else "",
            total_size=len(ids),
        )

    def _ids(self) -> list[str]:
        """Every item id in order; sorted again when there are others."""
        serving, own = self._finder.serving, self._shelf.items
        known = () if serving is None else serving.engine.catalogue.ids
        checkpoint = "" if serving is None else serving.engine.checkpoint
        sizes = (len(known), len(own), checkpoint)
        if self._listed[:3] != sizes:
            self._listed = (*sizes, sorted({*known, *own}))
        return self._listed[3]

    def _contents(self, item_ids: Sequence[str]) -> list[Item | None]:
        """Each item: as upserted here, else from the feature store, else without features when the checkpoint knows it."""
        own = {item_id: item for item_id in item_ids if (item := self._shelf.get(item_id)) is not None}
        rest = [item_id for item_id in item_ids if item_id not in own]
        stored = self._store.read_items(rest) if rest and self._store.schema is not None else {}
        serving = self._finder.serving
        return [
            own.get(item_id)
            or stored.get(item_id)
            or (Item(item_id=item_id, features={}) if serving is not None and item_id in serving.engine.catalogue else None)
            for item_id in item_ids
        ]


async def build(settings: Settings) -> Recall:
    """The recall service of these settings."""
    return Recall(settings)
