"""What was shown, with its propensities: one JSON line per answer, for off-policy evaluation.

Appended only. A line names the user by a hash, so that deleting a user need not rewrite the file: whoever has the interactions
computes the same hash with `user_key` to join rewards. A retried request has the id of the first attempt and counts once.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from metarec.errors import DataError

logger = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One place of a list, from the top: the item, its score, and the probability with which it was shown there."""

    item_id: str
    score: float
    propensity: float
    explored: bool = False
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Impression:
    """One answer. `time` is in seconds since the epoch, `user` as `user_key` gives it, `degraded` whether a stage was down."""

    request_id: str
    time: float
    user: str
    items: tuple[Shown, ...]
    scenario: str = ""
    checkpoint: str = ""
    rules_version: str = ""
    degraded: bool = False

    def to_line(self) -> str:
        """As a line of the log, its end included."""
        return json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":"), ensure_ascii=False) + "\n"

    @staticmethod
    def from_line(line: str) -> "Impression":
        """The impression in a line. ValueError for anything else."""
        try:
            values = json.loads(line)
            if values.pop("format") != FORMAT:
                raise ValueError(f"not of format {FORMAT}")
            return Impression(**{**values, "items": tuple(Shown(**item) for item in values["items"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no impression: {error}") from error


def user_key(user_id: str) -> str:
    """Sixteen hex digits that stand for a user."""
    return hashlib.blake2b(user_id.encode(), digest_size=8, person=b"impressions").hexdigest()


def read_impressions(path: Path) -> Iterator[Impression]:
    """The impressions of a log in their order, each request once. DataError when it cannot be read.

    Lines that a crash cut off are left out, with a warning of how many.
    """
    seen: set[str] = set()
    broken = 0
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip():
                    continue
                try:
                    found = Impression.from_line(line)
                except ValueError:
                    broken += 1
                    continue
                if found.request_id not in seen:
                    seen.add(found.request_id)
                    yield found
    except OSError as error:
        raise DataError(f"impressions cannot be read: {error}", file=str(path)) from error
    if broken:
        logger.warning("%d lines of '%s' are no impressions and were left out", broken, path)
