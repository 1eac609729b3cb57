"""What rows of the online store say, as the library has it: users, contents, statistics."""

from dataclasses import dataclass

from metarec.features.sources import REVISION, Stats
from metarec.features.wire import Row
from metarec.types import Features, FeatureValue


@dataclass(frozen=True, kw_only=True)
class OnlineUser:
    """What serving knows about a user; every part is None (or empty) when there is none.

    `adaptation` is the fast-weights blob written last, of `checkpoint`, from `shots` interactions, with its `revision`.
    """

    features: Features | None = None
    stats: Stats | None = None
    adaptation: bytes | None = None
    shots: int = 0
    checkpoint: str = ""
    revision: int = 0

    @classmethod
    def of(cls, profile: Row, stats: Row, adapted: Row) -> "OnlineUser | None":
        """The user of these rows, one of each view; None when all of them are empty."""
        state = adapted.get("state")
        user = cls(
            features=content(profile),
            stats=statistics(stats),
            adaptation=state if isinstance(state, bytes) else None,
            shots=whole(adapted.get("shots")),
            checkpoint=str(adapted.get("checkpoint") or ""),
            revision=whole(adapted.get("revision")),
        )
        return None if user.features is None and user.stats is None and user.adaptation is None else user


def content(row: Row) -> dict[str, FeatureValue] | None:
    """The fields of a profile or an item; None for a row that holds none."""
    if row.get(REVISION) is None:
        return None
    return {name: value for name, value in row.items() if name != REVISION and not isinstance(value, bytes)}


def statistics(row: Row) -> Stats | None:
    """The statistics in a row; None for a row that holds none."""
    if row.get("count") is None:
        return None
    mean_label, last = row.get("mean_label"), row.get("last_timestamp")
    return Stats(
        count=whole(row["count"]),
        mean_label=mean_label if isinstance(mean_label, float) else None,
        last_timestamp=last if isinstance(last, float) else None,
    )


def whole(value: object) -> int:
    """A whole number; 0 where nothing is stored."""
    return value if isinstance(value, int) else 0
