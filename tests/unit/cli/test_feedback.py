"""`metarec feedback` of more interactions than one call takes."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metarec.cli import feedback as module
from metarec.client.results import Recorded
from metarec.errors import UnavailableError
from metarec.types import Interaction


class Client:
    """Records until it has had so many calls."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def record_interactions(self, interactions: Sequence[Interaction], *, timeout: float | None) -> Recorded:
        self.calls -= 1
        if self.calls < 0:
            raise UnavailableError("the service is away")
        return Recorded(
            num_recorded=len(interactions),
            num_duplicates=0,
            shots={interactions[-1].user_id: len(interactions)},
            checkpoint="c-1",
            event_ids=tuple(entry.event_id for entry in interactions),
            unknown_item_ids=("i0", interactions[-1].item_id),
        )


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Result]:
    """Records five interactions, two to a call, with a service that answers so many calls."""
    events = [{"user_id": f"u{k}", "item_id": f"i{k}", "label": 1, "event_id": f"e{k}"} for k in range(5)]
    (tmp_path / "events.json").write_text(json.dumps(events))
    monkeypatch.setattr(module, "BATCH", 2)

    def run(calls: int) -> Result:
        @contextmanager
        def connect(**_: object) -> Iterator[Client]:
            yield Client(calls)

        monkeypatch.setattr(module, "connect", connect)
        return CliRunner().invoke(module.feedback, ["--file", str(tmp_path / "events.json"), "--json"])

    return run


def test_answers_of_several_calls_are_added_up(record: Callable[[int], Result]) -> None:
    found = json.loads(record(3).stdout)
    assert (found["num_recorded"], found["shots"]) == (5, {"u1": 2, "u3": 2, "u4": 1})
    assert found["event_ids"] == ["e0", "e1", "e2", "e3", "e4"]
    assert found["unknown_item_ids"] == ["i0", "i1", "i3", "i4"]


@pytest.mark.parametrize(
    ("calls", "said"), [(0, "0 are recorded, and of those up to 2"), (2, "4 are recorded, and of those up to 5")]
)
def test_a_call_that_fails_leaves_no_doubt_about_those_before_it(record: Callable[[int], Result], calls: int, said: str) -> None:
    result = record(calls)
    assert isinstance(result.exception, UnavailableError)
    assert f"of 5 interactions, {said} perhaps some" in result.stderr
    assert "records none twice that has an event_id" in result.stderr
