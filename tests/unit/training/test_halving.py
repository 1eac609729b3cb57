"""Successive halving driven by hand: a clock that the test moves, and reports that it makes up."""

from dataclasses import dataclass

from metarec.training.halving import Halving, Training
from metarec.training.trial import Cost, Report
from metarec.training.tuning_plan import Plan

NAMES = tuple("abcdefghi")


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def halving(
    clock: Clock, *, until: float = 1e9, lower: bool = True, known: dict[int, dict[str, Report]] | None = None
) -> Halving:
    return Halving(
        plan=Plan(shares=(1 / 9, 1 / 3, 1.0), admitted=NAMES, left_out={}, seconds=0.0),
        costs={name: Cost(start=0.0, epoch=1.0, epochs=27) for name in NAMES},
        slots=1,
        metric="mae",
        lower_is_better=lower,
        until=until,
        clock=clock,
        known=known or {},
    )


def done(training: Training, value: float) -> Report:
    return Report(
        trial=training.trial,
        rung=training.rung,
        epoch=training.epochs,
        epochs=training.epochs,
        metrics={"mae": value},
        value_T=(value,),
    )


def play(search: Halving, value: dict[str, float], clock: Clock, *, factor: float = 1.0) -> list[Training]:
    """Train everything in order; a training takes its epochs times `factor` seconds."""
    trained = []
    while (training := search.next()) is not None:
        trained.append(training)
        clock.now += factor * training.epochs
        search.end(training.trial, done(training, value[training.trial]))
    return trained


VALUES = {name: 1.0 + k for k, name in enumerate(NAMES)}


def test_the_best_third_goes_on_to_three_times_as_many_epochs() -> None:
    clock = Clock()
    search = halving(clock)
    trained = play(search, VALUES, clock)
    assert search.over
    by_rung = {rung: {t.trial for t in trained if t.rung == rung} for rung in (1, 2, 3)}
    assert by_rung == {1: set(NAMES), 2: {"a", "b", "c"}, 3: {"a", "b"}}
    assert {t.epochs for t in trained if t.rung == 1} == {3}
    assert {t.epochs for t in trained if t.rung == 2} == {9}
    assert {t.epochs for t in trained if t.rung == 3} == {27}


def test_the_default_recipe_is_trained_first_and_then_the_dearest() -> None:
    clock = Clock()
    search = halving(clock)
    search.first = "c"
    search.costs = {name: Cost(start=0.0, epoch=1.0 + k, epochs=27) for k, name in enumerate(NAMES)}
    order = [training.trial for training in play(search, VALUES, clock) if training.rung == 1]
    assert order == ["c", *(name for name in reversed(NAMES) if name != "c")]


def test_where_more_is_better_the_highest_go_on() -> None:
    clock = Clock()
    trained = play(halving(clock, lower=False), VALUES, clock)
    assert {t.trial for t in trained if t.rung == 3} == {"h", "i"}


def test_the_recipe_of_the_best_candidate_goes_on_as_it_is_whatever_its_place() -> None:
    clock = Clock()
    search = halving(clock)
    search.unchanged = {"a": "g", "b": "h"}
    trained = play(search, VALUES, clock)
    assert {t.trial for t in trained if t.rung == 2} == {"a", "b", "g"}
    assert {t.trial for t in trained if t.rung == 3} == {"a", "g"}


def test_a_rung_is_judged_only_when_all_of_it_has_ended() -> None:
    search = halving(Clock())
    given = [search.next() for _ in NAMES]
    assert search.next() is None
    assert not search.over
    for training in given[:-1]:
        assert training is not None
        search.end(training.trial, done(training, VALUES[training.trial]))
        assert search.next() is None
    assert given[-1] is not None
    search.end(given[-1].trial, done(given[-1], 0.0))
    following = search.next()
    assert following is not None
    assert following.rung == 2


def test_one_that_failed_or_said_nothing_is_left_behind() -> None:
    search = halving(Clock())
    while (training := search.next()) is not None and training.rung == 1:
        failed = Report(trial="a", rung=1, failed="diverged")
        report = {"a": failed, "b": None}.get(training.trial, done(training, VALUES[training.trial]))
        search.end(training.trial, report)
    assert search.ranking(1) == list("cdefghi")
    assert search.ended[1]["a"].failed == "diverged"
    assert "b" not in search.ended[1]


def test_why_a_training_broke_off_is_kept_unless_it_had_come_to_its_end() -> None:
    search = halving(Clock())
    one, two = search.next(), search.next()
    assert one is not None
    assert two is not None
    search.end(one.trial, None)
    said = search.fail(one, "out of memory")
    assert said is not None
    assert (said.trial, said.rung, said.failed) == (one.trial, 1, "out of memory")
    search.end(two.trial, done(two, 1.0))
    assert search.fail(two, "died on leaving") is None
    assert search.ranking(1) == [two.trial]


def test_when_time_is_up_nothing_new_begins() -> None:
    clock = Clock()
    search = halving(clock, until=10.0)
    trained = play(search, VALUES, clock)
    assert search.over
    assert search.out_of_time
    assert len(trained) == 4


def test_fewer_go_on_when_the_first_rung_took_longer_than_thought() -> None:
    # As thought, a rung of nine trainings of 3 epochs takes 1.4 * 27 s; it takes ten times as long, and 2 of 3 cannot go on.
    clock = Clock()
    search = halving(clock, until=10 * 27 + 10 * 9 + 20)
    trained = play(search, VALUES, clock, factor=10.0)
    assert [t.trial for t in trained if t.rung == 2] == ["a"]
    assert search.out_of_time


def test_what_is_known_is_not_trained_again() -> None:
    clock = Clock()
    first = halving(clock)
    play(first, VALUES, clock)
    known = {1: first.ended[1], 2: {"a": first.ended[2]["a"]}}
    trained = play(halving(clock, known=known), VALUES, clock)
    assert {(t.rung, t.trial) for t in trained if not t.repeat} == {(2, "b"), (2, "c"), (3, "a"), (3, "b")}


def test_what_is_left_of_the_time_goes_into_further_seeds_of_the_finalists() -> None:
    clock = Clock()
    trained = play(halving(clock), VALUES, clock)
    assert [(t.trial, t.epochs, t.repeat) for t in trained if t.repeat] == [
        ("a", 27, 1),
        ("b", 27, 1),
        ("a", 27, 2),
        ("b", 27, 2),
    ]


def test_a_further_seed_is_for_all_finalists_or_none() -> None:
    clock = Clock()
    # Rungs take 27, 27 and 54 seconds; then there is time for one training more, but not for two.
    search = halving(clock, until=27 + 27 + 54 + 1.4 * 27 + 1)
    trained = play(search, VALUES, clock)
    assert [t.repeat for t in trained if t.rung >= 3] == [0, 0]
    assert not search.out_of_time
