"""The part of the demo that talks to the running services: a new user, a taste, the reasons, a new film, the latencies."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from demo_catalogue import LIKED, YEAR_FIELD, Catalogue, Film, genre_counts, side_by_side
from demo_steps import Demo, StepError
from rich.table import Table

from metarec.client.client import Client
from metarec.errors import MetarecError
from metarec.types import Interaction, Item

LIST_SIZE = 10
RATED = (1, 3, 5)
USER = "a-new-user"
RESIDUAL_LIMIT = 1e-4
VISIBLE_LIMIT_SECONDS = 30.0
WARM_UP_CALLS, TIMED_CALLS = 50, 300
DEGRADED_SECONDS = 20.0


def cold_start(demo: Demo, client: Client, films: Catalogue) -> list[Film]:
    """A user nobody has seen, without profile or history, asks."""
    answer = client.recommend(USER, num_items=LIST_SIZE)
    if answer.shots or answer.degraded:
        raise StepError(f"a new user got an answer from {answer.shots} interactions, degradations {answer.degradations}")
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
        answer = client.recommend(USER, num_items=LIST_SIZE)
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


def new_film(demo: Demo, client: Client, films: Catalogue) -> float:
    """A film that nobody has rated, upserted while the services run. Returns the seconds until our user is recommended it."""
    film = Film(item_id="a-new-film", title="The Mouse Who Could Sing", genres=("Animation", "Children's", "Musical"))
    features = {"movie_title": film.title, "class": film.genres, YEAR_FIELD: 1998.0}
    demo.say(f"A film opens that nobody has rated: [bold]{film.title}[/] ({', '.join(film.genres)}).")
    started = time.monotonic()
    client.upsert_items([Item(item_id=film.item_id, features=features)])
    films.add(film)
    while True:
        answer = client.recommend(USER, num_items=LIST_SIZE)
        listed = [item.item_id for item in answer.items]
        seconds = time.monotonic() - started
        if film.item_id in listed:
            break
        if seconds > VISIBLE_LIMIT_SECONDS:
            raise StepError(f"the new film is not among the {LIST_SIZE} recommended to a fitting user after {seconds:.0f} s")
        time.sleep(0.05)
    demo.say(f"{seconds:.3f} s later it is number {listed.index(film.item_id) + 1} of {LIST_SIZE} for '{USER}'.")
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
            more()
    for part in answer.degradations:
        demo.say(f"recall is killed; {len(answer.items)} items come all the same: {part.stage} {part.reason}, {part.fallback}")
    with _in_time(3 * DEGRADED_SECONDS, "recall did not come back") as more:
        while client.recommend(USER, num_items=LIST_SIZE).degraded:
            more()
    seconds = time.monotonic() - started
    demo.say(f"{seconds:.1f} s after the kill the answers are whole again.")
    return seconds


def described(films: Sequence[Film]) -> list[dict[str, object]]:
    """A list for summary.json."""
    return [asdict(film) for film in films]


def _timed(call: Callable[[int], object], n: int) -> float:
    started = time.perf_counter()
    call(n)
    return 1000 * (time.perf_counter() - started)


@contextmanager
def _in_time(seconds: float, otherwise: str) -> Iterator[Callable[[], None]]:
    deadline = time.monotonic() + seconds

    def more() -> None:
        if time.monotonic() > deadline:
            raise StepError(otherwise)
        time.sleep(0.05)

    try:
        yield more
    except MetarecError as error:
        raise StepError(f"{otherwise}: {error.message}") from error
