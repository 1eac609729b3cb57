"""What to recommend when recall is down: the popular items that the live checkpoint's manifest lists. Read without torch."""

import asyncio
import logging
from pathlib import Path

from metarec.errors import MetarecError
from metarec.training.registry import LIVE, Registry

logger = logging.getLogger(__name__)


class Popular:
    """The live checkpoint's popular items, read again when the registry's live.json has changed."""

    def __init__(self, registry: Path) -> None:
        self._registry = Registry(registry)
        self._items: tuple[str, ...] = ()
        self._seen: tuple[int, int] | None = None

    async def items(self) -> tuple[str, ...]:
        """Item ids, most popular first; the last ones known when the registry cannot be read, empty when none were ever known."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> tuple[str, ...]:
        try:
            stat = (self._registry.path / LIVE).stat()
            if self._seen != (stat.st_mtime_ns, stat.st_ino):
                self._items = self._registry.get("live").popular
                self._seen = (stat.st_mtime_ns, stat.st_ino)
        except FileNotFoundError:
            pass  # nothing is live yet, or the registry has gone
        except (OSError, MetarecError) as error:
            logger.warning("popular items of the live checkpoint cannot be read: %s", error)
        return self._items
