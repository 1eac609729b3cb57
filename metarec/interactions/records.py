"""What the interaction log gives out, and how rows become it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from metarec.errors import InvalidInputError
from metarec.types import Features, FeatureValue, Interaction

MAX_ID_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class UserRecord:
    """A user as logged.

    `support` is ordered oldest first and holds the newest interactions, one per item; `seen` the older items, newest first.
    `profile` is None unless one was upserted. `dirty` says that the online store may not have this `revision` yet, `checkpoint`
    whose weights it has.
    """

    user_id: str
    revision: int = 0
    support: tuple[Interaction, ...] = ()
    seen: tuple[str, ...] = ()
    profile: Features | None = None
    dirty: bool = False
    checkpoint: str = ""


@dataclass(frozen=True, kw_only=True)
class Appended:
    """What a call recorded; `support_sizes` has every user of the call, with the size of their support set now."""

    recorded: int
    duplicates: int
    support_sizes: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of interactions, newest first; `next_token` is empty on the last."""

    interactions: tuple[Interaction, ...]
    next_token: str


def check(interaction: Interaction, where: str) -> None:
    """InvalidInputError, naming the field below `where`, unless ids have 1 to 256 bytes and label and time are finite."""
    for name in ("event_id", "user_id", "item_id"):
        size = len(getattr(interaction, name).encode())
        if not 1 <= size <= MAX_ID_BYTES:
            raise InvalidInputError(f"{name} has {size} bytes, must have 1 to {MAX_ID_BYTES}", field=f"{where}.{name}")
    for name in ("label", "timestamp"):
        value = getattr(interaction, name)
        if not math.isfinite(value):
            raise InvalidInputError(f"{name} must be a finite number, not {value}", field=f"{where}.{name}")
    for name, value in interaction.labels.items():
        if not math.isfinite(value):
            raise InvalidInputError(f"label '{name}' must be a finite number, not {value}", field=f"{where}.labels.{name}")


def write_labels(labels: Mapping[str, float]) -> str | None:
    """Labels of further targets as JSON, None without any; `read_labels` is the way back."""
    return json.dumps(dict(labels), ensure_ascii=False) if labels else None


def read_labels(text: str | None) -> dict[str, float]:
    """What `write_labels` was given."""
    return {} if text is None else json.loads(text)


def write_profile(features: Features) -> str:
    """Features as JSON; `read_profile` is the way back."""
    return json.dumps(dict(features), ensure_ascii=False)


def read_profile(text: str) -> dict[str, FeatureValue]:
    """What `write_profile` was given."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()}


def page_token(time: float, seq: int) -> str:
    """The place in a user's history after an event."""
    return f"{time!r}:{seq}"


def read_token(token: str) -> tuple[float, int]:
    """Time and sequence number in a token; after everything for an empty one. InvalidInputError for another's token."""
    if not token:
        return float("inf"), 2**63 - 1
    time, _, seq = token.partition(":")
    try:
        return float(time), int(seq)
    except ValueError:
        raise InvalidInputError(
            "page_token is not one that this service gave out; start again without it", field="page_token"
        ) from None
