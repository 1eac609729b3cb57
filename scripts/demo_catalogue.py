"""The films of MovieLens-100K by title, and how the demo prints lists of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from metarec.data.dataset import Dataset

TITLE_FIELD, GENRES_FIELD, YEAR_FIELD = "movie_title", "class", "release_year"
TASTE = frozenset({"Animation", "Children's"})
"""What the new user of the demo likes, as genres."""
LIKED = (
    "Cinderella",
    "Sword in the Stone, The",
    "Alice in Wonderland",
    "101 Dalmatians",
    "James and the Giant Peach",
)
"""Films of that taste, none of them among the most popular, in the order the user rates them."""
MARK = "●"
COLUMN = 29
"""Width of a list in characters."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """One item as people know it."""

    item_id: str
    title: str
    genres: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether it is of the taste."""
        return bool(TASTE & set(self.genres))


NEW_FILMS = (
    Film(item_id="new-1", title="The Mouse Who Could Sing", genres=("Animation", "Children's", "Musical")),
    Film(item_id="new-2", title="Midnight at the Morgue", genres=("Horror", "Thriller")),
)
"""Two films that are not in the dataset; the first is of the taste."""


class Catalogue:
    """All films; new ones may be added."""

    def __init__(self, data: Path) -> None:
        dataset = Dataset.open(data)
        titles = dataset.titles()
        rows = zip(dataset.item_ids, dataset.items[GENRES_FIELD], strict=True)
        self.films = {str(item): Film(item_id=str(item), title=titles[str(item)], genres=_genres(value)) for item, value in rows}
        self.user_ids = [str(user) for user in dataset.user_ids]

    def by_title(self, title: str) -> Film:
        """The film of this title."""
        return next(film for film in self.films.values() if film.title == title)

    def add(self, film: Film) -> None:
        """A film that was not in the dataset."""
        self.films[film.item_id] = film

    def listed(self, item_ids: Sequence[str]) -> list[Film]:
        """The films of a list, in its order."""
        return [self.films[item_id] for item_id in item_ids]


def side_by_side(console: Console, lists: Mapping[str, Sequence[Film]]) -> None:
    """Several lists as columns; films of the taste are marked."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in lists:
        table.add_column(heading, width=COLUMN, no_wrap=True)
    for row in zip(*lists.values(), strict=True):
        table.add_row(*[f"{MARK if film.fits else ' '} {film.title}" for film in row])
        table.add_row(*[f"[dim]  {_short(film.genres)}[/]" for film in row])
    console.print(table)


def genre_counts(lists: Mapping[str, Sequence[Film]]) -> dict[str, str]:
    """The three most frequent genres of each list, as text."""
    counted = {heading: Counter(genre for film in films for genre in film.genres) for heading, films in lists.items()}
    return {
        heading: ", ".join(f"{genre} {number}" for genre, number in counts.most_common(3)) for heading, counts in counted.items()
    }


def _short(genres: Sequence[str]) -> str:
    """As many genres as fit into a column."""
    text = ", ".join(genres)
    return text if len(text) <= COLUMN - 2 or len(genres) == 1 else _short(genres[:-1])


def _genres(value: object) -> tuple[str, ...]:
    return tuple(str(genre) for genre in value) if value is not None else ()  # type: ignore[attr-defined]  # an array of strings
