"""The adaptation service: the write path (DESIGN 1). Interactions in, fast weights out; acknowledged means visible."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import grpc
import torch

from metarec.errors import NotFoundError
from metarec.interactions.log import InteractionLog
from metarec.v1 import adaptation_pb2, adaptation_pb2_grpc, gateway_pb2
from services.adaptation.backfill import Backfill
from services.adaptation.item_shifts import ItemShifts
from services.adaptation.only_writer import only_writer
from services.adaptation.profiles import ProfileInference
from services.adaptation.publisher import Published, Publisher
from services.adaptation.scenario_shifts import ScenarioShifts
from services.adaptation.scenario_tasks import ScenarioTasks
from services.adaptation.tasks import SCENARIO_KINDS, Tasks
from services.runtime import convert
from services.runtime.features import LazyStore
from services.runtime.live import LiveCheckpoint
from services.runtime.schema import LiveSchema
from services.runtime.settings import Settings

MAX_BATCH = 1000
THREADS = 8
"""Requests worked on at once: they wait for the disk more than they compute."""

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Adaptation(adaptation_pb2_grpc.AdaptationServiceServicer):
    """Every method hands its work to a thread, so that the event loop stays free."""

    names = ("metarec.v1.AdaptationService",)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="adaptation")
        self._opened = ExitStack()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with `server`."""
        adaptation_pb2_grpc.add_AdaptationServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Open the log and the live checkpoint, repair what a crash left, import a small history."""
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        torch.set_num_threads(1)
        settings = self._settings
        self._opened.enter_context(only_writer(settings.state))
        self._log = InteractionLog(settings.state / "interactions.db")
        self._opened.callback(self._log.close)
        self._store = LazyStore(settings.features, settings.online_store)
        self._opened.callback(self._store.close)
        self._store.warm_up()
        self._live = LiveCheckpoint(settings.registry, on_swap=lambda engine: self._store.reopen())
        self._opened.callback(self._live.close)
        self._schema = LiveSchema(self._live, self._store, settings.data)
        self._publisher = Publisher(self._log, self._store, self._live)
        self._tasks = Tasks(self._log, self._store, self._live, self._publisher)
        self._scenario_tasks = ScenarioTasks(self._log, self._live, self._publisher, self._tasks)
        self._profiles = ProfileInference(self._live, self._tasks)
        self._scenarios = ScenarioShifts(self._log, self._store, self._live, self._publisher)
        self._backfill = Backfill(
            self._log, self._store, self._live, self._publisher, settings.data, on_news=self._scenarios.learn
        )
        self._opened.callback(self._backfill.close)
        self._backfill.start()
        self._shifts = ItemShifts(self._log, self._store, self._live, self._publisher)
        self._opened.callback(self._shifts.close)
        self._shifts.start()
        self._opened.callback(self._scenarios.close)
        self._scenarios.start()

    async def close(self) -> None:
        """Finish what is running and close the files."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._pool.shutdown()
        self._opened.close()

    async def RecordInteractions(
        self, request: gateway_pb2.RecordInteractionsRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.RecordInteractionsResponse:
        """Record interactions; durable and visible when it returns."""
        return await self._run(self._record, request)

    async def AdaptTask(
        self, request: adaptation_pb2.AdaptTaskRequest, context: grpc.aio.ServicerContext
    ) -> adaptation_pb2.AdaptTaskResponse:
        """Adapt to one task and predict."""
        tasks = self._scenario_tasks if request.kind in SCENARIO_KINDS else self._tasks
        return await self._run(tasks.adapt, request)

    async def UpsertUsers(
        self, request: gateway_pb2.UpsertUsersRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.UpsertUsersResponse:
        """Add users or replace their profiles."""
        return await self._run(self._upsert_users, request)

    async def DeleteUser(
        self, request: gateway_pb2.DeleteUserRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.DeleteUserResponse:
        """Forget a user."""
        return await self._run(self._delete_user, request)

    async def ListInteractions(
        self, request: adaptation_pb2.ListInteractionsRequest, context: grpc.aio.ServicerContext
    ) -> adaptation_pb2.ListInteractionsResponse:
        """List a user's interactions, newest first."""
        return await self._run(self._list, request)

    async def InferProfile(
        self, request: gateway_pb2.InferProfileRequest, context: grpc.aio.ServicerContext
    ) -> gateway_pb2.InferProfileResponse:
        """Complete a user's profile; nothing is stored."""
        return await self._run(self._profiles.infer, request)

    async def _run(self, work: Callable[[RequestT], ResponseT], request: RequestT) -> ResponseT:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, request)

    def _record(self, request: gateway_pb2.RecordInteractionsRequest) -> gateway_pb2.RecordInteractionsResponse:
        convert.check_count(len(request.interactions), "interactions", most=MAX_BATCH)
        found = convert.interactions(request.interactions, self._schema.current, time.time())
        appended = self._log.append(found)
        # Users of duplicates too: the first attempt may have failed between log and store.
        users = list(appended.support_sizes)
        items = list(dict.fromkeys(entry.item_id for entry in found))
        published = self._publish(users, items)
        self._shifts.learn(items)
        self._learn_scenarios(any(entry.scenario for entry in found))
        engine = self._live.current
        # A user missing there was deleted by somebody else in the meantime.
        return gateway_pb2.RecordInteractionsResponse(
            num_recorded=appended.recorded,
            num_duplicates=appended.duplicates,
            users=[
                gateway_pb2.AdaptedUser(user_id=user, shots=published[user].shots if user in published else 0) for user in users
            ],
            checkpoint=next((entry.checkpoint for entry in published.values()), ""),
            unknown_item_ids=[] if engine is None else [item_id for item_id in items if item_id not in engine.catalogue],
        )

    def _publish(self, user_ids: Sequence[str], item_ids: Sequence[str] = ()) -> Mapping[str, Published]:
        with self._repaired():
            return self._publisher.publish(user_ids, item_ids)

    @contextmanager
    def _repaired(self) -> Iterator[None]:
        """The log has it, whatever happens to the online store now: the caller is told, and it is tried again without them."""
        try:
            yield
        except Exception:
            self._backfill.wake()
            raise

    def _learn_scenarios(self, named: bool = False) -> None:
        """Users have changed who may be in scenarios: those that are known, or one that is named."""
        engine = self._live.current
        if named or (engine is not None and engine.view.scenarios):
            self._scenarios.learn()

    def _upsert_users(self, request: gateway_pb2.UpsertUsersRequest) -> gateway_pb2.UpsertUsersResponse:
        convert.check_count(len(request.users), "users", most=MAX_BATCH)
        users = convert.users(request.users, self._schema.required())
        self._log.upsert_users(users)
        self._publish([user.user_id for user in users])
        self._learn_scenarios()
        return gateway_pb2.UpsertUsersResponse(num_upserted=len(users))

    def _delete_user(self, request: gateway_pb2.DeleteUserRequest) -> gateway_pb2.DeleteUserResponse:
        user_id = convert.check_id(request.user_id, "user_id")
        with self._publisher.locked([user_id]):
            stored = self._store.schema is not None
            online = stored and self._store.read_user(user_id) is not None
            record = self._log.user(user_id)
            events = self._log.delete_user(user_id, known=online)
            if events is None and not request.allow_missing:
                raise NotFoundError(f"user '{user_id}' is unknown", metadata={"user_id": user_id})
            # The labels are gone from the log already: items forget them even if the store cannot be written now.
            if events is not None and record is not None:
                self._shifts.learn(entry.item_id for entry in record.support)
                self._learn_scenarios(any(entry.scenario for entry in record.support))
            if events is not None:
                if stored:
                    with self._repaired():
                        self._store.delete_user(user_id)
                self._log.confirm_deletion(user_id)
        return gateway_pb2.DeleteUserResponse(num_interactions_deleted=events or 0)

    def _list(self, request: adaptation_pb2.ListInteractionsRequest) -> adaptation_pb2.ListInteractionsResponse:
        user_id = convert.check_id(request.user_id, "user_id")
        page = self._log.page(user_id, convert.page_size(request.page_size), request.page_token)
        return adaptation_pb2.ListInteractionsResponse(
            interactions=[convert.interaction_message(entry) for entry in page.interactions], next_page_token=page.next_token
        )


async def build(settings: Settings) -> Adaptation:
    """The adaptation service of these settings."""
    return Adaptation(settings)
