import pytest

from metarec.training.trial import Cost
from metarec.training.tuning_plan import MARGIN, SMALLEST_SHARE, affordable, epochs_of, estimate, plan, rungs, survivors


def cost(epoch: float, epochs: int = 27, start: float = 0.0) -> Cost:
    return Cost(start=start, epoch=epoch, epochs=epochs)


CHEAP = {f"c{k}": cost(1.0) for k in range(9)}


def test_with_time_everyone_is_in_and_the_last_rung_is_a_training_in_full() -> None:
    found = plan(CHEAP, slots=1, seconds=1e6)
    assert found is not None
    assert found.shares == pytest.approx((1 / 9, 1 / 3, 1))
    assert set(found.admitted) == set(CHEAP)
    assert found.left_out == {}


def test_a_plan_fits_into_its_seconds() -> None:
    for seconds in (20.0, 60.0, 150.0, 400.0):
        found = plan(CHEAP | {"dear": cost(50.0)}, slots=2, seconds=seconds)
        assert found is not None
        assert found.seconds <= seconds


def test_with_less_time_trainings_are_shorter_then_the_dearest_is_left_out_with_its_estimate() -> None:
    costs = {**CHEAP, "dear": cost(100.0)}
    everyone = estimate(costs, rungs(SMALLEST_SHARE, len(costs)), 1)
    found = plan(costs, slots=1, seconds=everyone / 2)
    assert found is not None
    assert "dear" not in found.admitted
    assert found.left_out == {"dear": pytest.approx(2700)}


def test_the_default_is_left_out_last_of_all_however_dear() -> None:
    costs = {**CHEAP, "default": cost(8.0), "dearer": cost(9.0)}
    everyone = estimate(costs, rungs(SMALLEST_SHARE, len(costs)), 1)
    found = plan(costs, slots=1, seconds=0.9 * everyone, default="default")
    assert found is not None
    assert "default" in found.admitted
    assert "dearer" in found.left_out
    assert len(found.admitted) > 1
    part = 27 * 8.0 * 0.3 * MARGIN
    alone = plan(costs, slots=1, seconds=part, default="default")
    assert alone is not None
    assert "default" in alone.admitted


def test_where_a_quarter_of_the_default_does_not_fit_several_others_are_tried() -> None:
    found = plan({**CHEAP, "default": cost(100.0)}, slots=1, seconds=130.0, default="default")
    assert found is not None
    assert "default" not in found.admitted
    assert len(found.admitted) > 1
    assert found.left_out["default"] == pytest.approx(2700)


def test_where_nothing_else_fits_the_default_is_trained_as_briefly_as_must_be() -> None:
    found = plan({"cheap": cost(4.0), "default": cost(5.0)}, slots=1, seconds=10.0, default="default")
    assert found is not None
    assert found.admitted == ("default",)


def test_a_single_candidate_is_trained_as_briefly_as_must_be() -> None:
    found = plan({"one": cost(1.0, epochs=100)}, slots=1, seconds=2 * MARGIN)
    assert found is not None
    assert [epochs_of(100, share) for share in found.shares] in ([1], [2])


def test_no_plan_where_not_even_one_epoch_fits() -> None:
    assert plan({"one": cost(10.0)}, slots=4, seconds=5.0) is None
    assert plan({}, slots=1, seconds=100.0) is None


def test_few_candidates_have_no_rungs_to_be_left_behind_in() -> None:
    assert rungs(1.0, 2) == (1.0,)
    assert rungs(1.0, 3) == pytest.approx((1 / 3, 1.0))
    assert rungs(1.0, 12) == pytest.approx((1 / 9, 1 / 3, 1.0))


@pytest.mark.parametrize(("count", "left"), [(1, 1), (2, 2), (3, 2), (6, 2), (7, 3), (12, 4)])
def test_a_third_survives_and_two_at_least(count: int, left: int) -> None:
    assert survivors(count) == left


def test_places_side_by_side_halve_the_time_of_equal_trainings_and_not_that_of_one() -> None:
    costs = [cost(1.0)] * 4
    assert affordable(costs, 1.0, slots=2, seconds=MARGIN * 27 * 2) == 4
    assert affordable(costs, 1.0, slots=1, seconds=MARGIN * 27 * 2) == 2
    assert affordable(costs, 1.0, slots=8, seconds=MARGIN * 26) == 0
