"""The part of the demo that talks to the running services: a new user, a taste, the reasons, a new film, the latencies."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from demo_catalogue import (
    GENRES_FIELD,
    LIKED,
    NEW_FILMS,
    TITLE_FIELD,
    YEAR_FIELD,
    Catalogue,
    Film,
    genre_counts,
    side_by_side,
)
from demo_steps import Demo, StepError
from rich.table import Table

from metarec.client.client import Client
from metarec.client.results import Recommendations
from metarec.errors import MetarecError
from metarec.types import Interaction, Item

LIST_SIZE = 10
RATED = (1, 3, 5)
USER = "a-new-user"
RESIDUAL_LIMIT = 1e-4
VISIBLE_LIMIT_SECONDS = 30.0
WARM_UP_CALLS, TIMED_CALLS = 50, 300
DEGRADED_SECONDS, WHOLE_SECONDS = 20.0, 60.0


def cold_start(demo: Demo, client: Client, films: Catalogue) -> list[Film]:
    """A user nobody has seen, without profile or history, asks."""
    answer = whole(client)
    if answer.shots:
        raise StepError(f"a new user got an answer from {answer.shots} interactions")
    cold = films.listed([item.item_id for item in answer.items])
    demo.say(f"Nothing is known of '{USER}', so the meta-learned prior answers (checkpoint {answer.checkpoint}, 0 shots).")
    side_by_side(demo.console, {"no ratings": cold})
    return cold


def turn(demo: Demo, client: Client, films: Catalogue, cold: Sequence[Film]) -> list[Film]:
    """The user rates five films of one taste; the list follows at once."""
    lists = {"no ratings": list(cold)}
    done = 0
    for number in RATED:
        for title in LIKED[done:number]:
            demo.say(f"'{USER}' gives 5 stars to [bold]{title}[/]")
            client.record_interactions([Interaction(user_id=USER, item_id=films.by_title(title).item_id, label=5.0)])
        done = number
        answer = whole(client)
        if answer.shots != number:
            raise StepError(f"after {number} ratings the answer is from {answer.shots}: acknowledged, but not visible")
        lists[f"after {number}"] = films.listed([item.item_id for item in answer.items])
    demo.console.print()
    side_by_side(demo.console, lists)
    demo.console.print()
    fitting = {heading: sum(film.fits for film in listed) for heading, listed in lists.items()}
    for heading, counts in genre_counts(lists).items():
        demo.say(f"{heading:<11} {fitting[heading]:>2} of {LIST_SIZE} for children (●); {counts}")
    adapted = list(lists.values())[-1]
    if fitting[f"after {RATED[-1]}"] <= fitting["no ratings"]:
        raise StepError(f"the list did not turn: {fitting}")
    return adapted


def why(demo: Demo, client: Client, films: Catalogue, film: Film) -> float:
    """The first film of the list, explained; the terms must add up to its score. Returns how far they do not."""
    found = client.explain(USER, film.item_id)
    demo.say(f"[bold]{film.title}[/] leads the list with a score of {found.score:.4f}. Term by term:")
    names = {
        "global": "everybody, every film",
        "item": "what all users make of this film",
        "profile": "the profile (there is none)",
    }
    table = Table(box=None, padding=(0, 2, 0, 6), show_header=False)
    table.add_column(justify="right")
    table.add_column()
    for part in found.contributions:
        name = f"you gave {part.label:g} to {films.films[part.item_id].title}" if part.kind == "support" else names[part.kind]
        table.add_row(f"{part.value:+.4f}", name)
    total = sum(part.value for part in found.contributions)
    table.add_row(f"{total:.4f}", f"[bold]sum[/]; it differs from the score by {found.residual:.1e}")
    demo.console.print(table)
    if not found.residual <= RESIDUAL_LIMIT:
        raise StepError(f"the terms add up to {total:.6f}, the score is {found.score:.6f}: more than {RESIDUAL_LIMIT:g} apart")
    return found.residual


def new_films(demo: Demo, client: Client, films: Catalogue) -> float:
    """Two films that nobody has rated, upserted while the services run: one of our user's taste, one not. Returns the seconds
    from the upsert until our user is recommended the one that fits."""
    for film in NEW_FILMS:
        demo.say(f"A film opens that nobody has rated: [bold]{film.title}[/] ({', '.join(film.genres)}).")
    items = [
        Item(item_id=film.item_id, features={TITLE_FIELD: film.title, GENRES_FIELD: film.genres, YEAR_FIELD: 1998.0})
        for film in NEW_FILMS
    ]
    fitting, other = NEW_FILMS
    started = time.monotonic()
    client.upsert_items(items)
    for film in NEW_FILMS:
        films.add(film)
    with _in_time(VISIBLE_LIMIT_SECONDS, f"'{fitting.title}' is not recommended to a user whom it fits") as more:
        while fitting.item_id not in (listed := [item.item_id for item in whole(client).items]):
            more(f"the list is {listed}")
    seconds = time.monotonic() - started
    if other.item_id in listed:
        raise StepError(f"'{other.title}' is recommended to a user whom it does not fit")
    place = listed.index(fitting.item_id) + 1
    demo.say(f"{seconds:.3f} s after the upsert '{USER}' is recommended {fitting.title}, at place {place} of {LIST_SIZE};")
    demo.say(f"{other.title} is not in the list. (One place in ten is kept for the emerging item that suits the user best.)")
    return seconds


def latencies(demo: Demo, client: Client, films: Catalogue) -> dict[str, dict[str, float]]:
    """Milliseconds per call over the whole way (client, gateway, stages), one call after another, after a warm-up."""
    users, items = films.user_ids, list(films.films)
    calls: dict[str, Callable[[int], object]] = {
        "Recommend": lambda n: client.recommend(users[n % len(users)], num_items=LIST_SIZE),
        "RecordInteractions": lambda n: client.record_interactions(
            [Interaction(user_id=f"visitor-{n % 20}", item_id=items[7 * n % len(items)], label=4.0)]
        ),
        "Explain": lambda n: client.explain(users[n % len(users)], items[n % len(items)]),
    }
    table = Table(box=None, padding=(0, 2, 0, 6), header_style="bold")
    for heading in ("call", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="left" if heading == "call" else "right")
    found = {}
    for name, call in calls.items():
        for n in range(WARM_UP_CALLS):
            call(n)
        taken = sorted(_timed(call, n) for n in range(WARM_UP_CALLS, WARM_UP_CALLS + TIMED_CALLS))
        found[name] = {"p50": taken[len(taken) // 2], "p99": taken[int(0.99 * (len(taken) - 1))]}
        table.add_row(name, f"{found[name]['p50']:.1f}", f"{found[name]['p99']:.1f}")
    demo.console.print(table)
    demo.say(f"[dim]{TIMED_CALLS} calls each, one at a time, through client, gateway and stages[/]")
    return found


def outage(demo: Demo, client: Client, kill: Callable[[str], None]) -> float:
    """`kill -9` of recall: answers go on, degraded and saying so; the supervisor brings it back. Returns the seconds of it."""
    kill("recall")
    started = time.monotonic()
    with _in_time(DEGRADED_SECONDS, "no degraded answer came after recall was killed") as more:
        while not (answer := client.recommend(USER, num_items=LIST_SIZE)).degraded:
            more("it is not degraded")
    for part in answer.degradations:
        demo.say(f"recall is killed; {len(answer.items)} items come all the same: {part.stage} {part.reason}, {part.fallback}")
    whole(client)
    seconds = time.monotonic() - started
    demo.say(f"{seconds:.1f} s after the kill the answers are whole again.")
    return seconds


def whole(client: Client) -> Recommendations:
    """The list of our user, from every stage: right after a start on a busy machine, the first answers may be degraded."""
    with _in_time(WHOLE_SECONDS, "answers stay degraded") as more:
        while (answer := client.recommend(USER, num_items=LIST_SIZE)).degraded:
            more(", ".join(f"{part.stage} {part.reason}" for part in answer.degradations))
    return answer


def described(films: Sequence[Film]) -> list[dict[str, object]]:
    """A list for summary.json."""
    return [asdict(film) for film in films]


def _timed(call: Callable[[int], object], n: int) -> float:
    started = time.perf_counter()
    call(n)
    return 1000 * (time.perf_counter() - started)


@contextmanager
def _in_time(seconds: float, otherwise: str) -> Iterator[Callable[[str], None]]:
    deadline = time.monotonic() + seconds

    def more(now: str) -> None:
        if time.monotonic() > deadline:
            raise StepError(f"{otherwise}: {now}")
        time.sleep(0.05)

    try:
        yield more
    except MetarecError as error:
        raise StepError(f"{otherwise}: {error.message}") from error
