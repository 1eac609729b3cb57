"""`metarec feedback`: records interactions; the next recommendations reflect them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metarec.cli.connection import address_option, connect, timeout_option
from metarec.cli.output import emit, json_option, note, progress
from metarec.cli.values import read_labels, read_records, read_time, read_weights
from metarec.errors import InvalidInputError, MetarecError
from metarec.types import Interaction

if TYPE_CHECKING:
    from metarec.client import Client
    from metarec.client.results import Recorded

BATCH = 1000
SHOWN = 10
"""Unknown items that are named."""
KEYS = ("event_id", "timestamp", "scenario", "labels")


@click.command(epilog="Example: metarec feedback 42 50=5 181=4\n\nExample: metarec feedback --file events.json")
@click.argument("user", required=False)
@click.argument("labels", nargs=-1, metavar="[ITEM=LABEL]...")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="TARGET=LABEL",
    help="Label of a further target of the schema, for a single ITEM=LABEL; repeat for more.",
)
@click.option("--scenario", default="", help="The scenario.  [default: the default scenario]")
@click.option("--time", "moment", help="When it happened (ISO 8601, UTC where it has no zone).  [default: now]")
@click.option(
    "--event-id", help="Identifier of the event, for a single one: recording it again has no effect.  [default: a new one]"
)
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path),
    help="JSON or YAML list of {user_id, item_id, label, labels, event_id, timestamp, scenario} in place of USER; - is standard "
    "input.",
)
@address_option("gateway")
@timeout_option
@json_option
def feedback(
    user: str | None,
    labels: tuple[str, ...],
    targets: tuple[str, ...],
    scenario: str,
    moment: str | None,
    event_id: str | None,
    path: Path | None,
    gateway: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Record that USER gave each ITEM a LABEL (a rating, or 1 for a click). When it returns, recommendations reflect it."""
    if path is not None:
        if user is not None or scenario or moment or event_id or targets:
            raise click.UsageError("--file says everything itself; leave USER and the other options out")
        interactions: Sequence[Interaction] = _from_file(path)
    else:
        if user is None or not labels:
            raise click.UsageError("give USER and at least one ITEM=LABEL, or --file")
        if event_id and len(labels) > 1:
            raise click.UsageError("--event-id goes with a single ITEM=LABEL")
        if targets and len(labels) > 1:
            raise click.UsageError("--target goes with a single ITEM=LABEL")
        at = read_time(moment, "time") if moment else 0.0
        interactions = [
            Interaction(
                user_id=user,
                item_id=item,
                label=label,
                timestamp=at,
                scenario=scenario,
                event_id=event_id or "",
                labels=read_weights(targets, "label"),
            )
            for item, label in read_labels(labels, "labels")
        ]
    with connect(gateway=gateway) as client, progress("recording", quiet=len(interactions) <= BATCH) as advance:
        result = _recorded(client, interactions, timeout, lambda done: advance(done, len(interactions)))
    unknown = result.unknown_item_ids
    value = {
        "num_recorded": result.num_recorded,
        "num_duplicates": result.num_duplicates,
        "shots": dict(result.shots),
        "checkpoint": result.checkpoint,
        "event_ids": list(result.event_ids),
        "unknown_item_ids": list(unknown),
    }
    rows = [{"user": user_id, "shots": count} for user_id, count in result.shots.items()]
    by = f"checkpoint {result.checkpoint}" if result.checkpoint else "no checkpoint is at work; users adapt once one is"
    title = f"recorded {result.num_recorded}, known already {result.num_duplicates} ({by})"
    emit(value, as_json=as_json, rows=rows, title=title)
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        note(
            f"nobody knows these items yet: {', '.join(unknown[:SHOWN])}{more}; what was said of them is kept and counts "
            "once their content arrives ('metarec items upsert') or a checkpoint knows them"
        )


def _recorded(
    client: "Client", interactions: Sequence[Interaction], timeout: float | None, advance: Callable[[int], None]
) -> "Recorded":
    """Record them, so many at a time, and add up the answers. Where one of several calls fails, say what is recorded already."""
    from metarec.client.results import Recorded

    answers: list[Recorded] = []
    for first in range(0, len(interactions), BATCH):
        try:
            answers.append(client.record_interactions(interactions[first : first + BATCH], timeout=timeout))
        except (MetarecError, KeyboardInterrupt):
            if len(interactions) > BATCH:
                last = min(first + BATCH, len(interactions))
                note(
                    f"of {len(interactions):,} interactions, {first:,} are recorded, and of those up to {last:,} perhaps some; "
                    "the same command again records none twice that has an event_id"
                )
            raise
        advance(min(first + BATCH, len(interactions)))
    return Recorded(
        num_recorded=sum(answer.num_recorded for answer in answers),
        num_duplicates=sum(answer.num_duplicates for answer in answers),
        shots={user: count for answer in answers for user, count in answer.shots.items()},
        checkpoint=answers[-1].checkpoint if answers else "",
        event_ids=tuple(event_id for answer in answers for event_id in answer.event_ids),
        unknown_item_ids=tuple(dict.fromkeys(item_id for answer in answers for item_id in answer.unknown_item_ids)),
    )


def _seconds(value: object) -> float:
    """Seconds since the epoch, or ISO 8601 text, which YAML reads as a time of its own."""
    try:
        return float(str(value))
    except ValueError:
        return read_time(str(value), "file")


def _labels(value: object) -> dict[str, float]:
    if value is not None and not isinstance(value, Mapping):
        raise InvalidInputError(f"labels must be a mapping of targets to numbers, not {value!r}", field="labels")
    labels = {}
    for name, label in (value or {}).items():
        # What is null is not known.
        if label is not None:
            try:
                labels[str(name)] = float(str(label))
            except ValueError:
                raise InvalidInputError(f"labels.{name} must be a number, not {label!r}", field="labels") from None
    return labels


def _from_file(path: Path) -> list[Interaction]:
    interactions = []
    for number, record in enumerate(read_records(path, needed=("user_id", "item_id", "label"), optional=KEYS), 1):
        try:
            interactions.append(
                Interaction(
                    user_id=str(record["user_id"]),
                    item_id=str(record["item_id"]),
                    label=float(str(record["label"])),
                    timestamp=_seconds(record.get("timestamp") or 0),
                    scenario=str(record.get("scenario") or ""),
                    event_id=str(record.get("event_id") or ""),
                    labels=_labels(record.get("labels")),
                )
            )
        except (ValueError, InvalidInputError) as error:
            raise InvalidInputError(f"file '{path}', record {number}: {error}", field="file") from error
    return interactions
