"""The recommendation on figures that are made up: who wins, what is noise, and what the sentences say."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from metarec.evaluation.advice import Floor, Outcome, Trained, advise, compare, is_noise
from metarec.evaluation.advice_reasons import command, reasons, table_rows

USERS = 200
BASE = 0.8 + 0.1 * np.random.default_rng(3).standard_normal(USERS)
NOISE = 0.05 * np.random.default_rng(4).standard_normal(USERS)
METRICS = ("mae", "ndcg@5")


def trained(
    shift: float = 0.0, *, rung: int = 2, epochs: int = 24, noise: float = 0.0, adapt_ms: float = 1.0, state: float = 1000.0
) -> Trained:
    """A training whose users have errors BASE + shift, and `noise` of their own."""
    value_T = BASE + shift + noise * (NOISE - NOISE.mean())
    return Trained(
        rung=rung,
        epochs=epochs,
        planned=24,
        metrics={"mae": float(value_T.mean()), "ndcg@5": 0.7},
        value_T=tuple(value_T.tolist()),
        seconds=1.0,
        adapt_ms=adapt_ms,
        score_ms=0.1,
        state_bytes=state,
    )


def outcome(name: str, *trainings: Trained, settings: Mapping[str, str] | None = None) -> Outcome:
    return Outcome(name=name, recipe=name.split()[0], settings=settings or {}, trainings=trainings)


def floor(shift: float) -> Floor:
    plain = trained(shift)
    worse = trained(shift + 0.1)
    return Floor(metrics={"bias": plain.metrics, "mean": worse.metrics}, value_T={"bias": plain.value_T, "mean": worse.value_T})


def chosen(*outcomes: Outcome, baseline: float = 0.1) -> str:
    advice = advise(outcomes, floor(baseline), "mae", target="explicit")
    assert advice is not None
    return advice.chosen.outcome.name


def test_the_best_beyond_noise_is_recommended() -> None:
    assert chosen(outcome("maml", trained()), outcome("alpaca", trained(-0.02))) == "alpaca"


def test_without_a_training_that_ended_there_is_no_advice() -> None:
    assert advise([outcome("maml")], floor(0.1), "mae", target="explicit") is None


def test_within_noise_the_recipe_as_it_is_wins_over_changed_settings() -> None:
    changed = outcome("alpaca dim=16", trained(-0.001, noise=1.0), settings={"model.embedding_dim": "16"})
    assert is_noise(compare(changed.trainings[0], trained(), "mae"))
    assert chosen(changed, outcome("alpaca", trained())) == "alpaca"


def test_a_recipe_as_it_is_does_not_win_over_changed_settings_of_another_learner() -> None:
    changed = outcome("alpaca dim=16", trained(-0.001, noise=1.0), settings={"model.embedding_dim": "16"})
    assert chosen(changed, outcome("maml", trained())) == "alpaca dim=16"


def test_within_noise_adaptation_that_is_twice_as_fast_wins() -> None:
    best = outcome("maml", trained(-0.001, noise=1.0, adapt_ms=2.0))
    assert chosen(best, outcome("alpaca", trained(adapt_ms=0.9))) == "alpaca"
    assert chosen(best, outcome("alpaca", trained(adapt_ms=1.5))) == "maml"


def test_differences_beyond_noise_but_too_small_to_mind_are_none() -> None:
    def thrice(shift: float) -> Trained:
        return Trained.mean([trained(shift)] * 3)

    assert is_noise(compare(thrice(0.0), thrice(0.0003), "mae"))
    assert not is_noise(compare(thrice(0.0), thrice(0.001), "mae"))


def test_what_another_seed_would_move_is_noise_between_single_trainings() -> None:
    # 1.96 * .25 % * sqrt(2) of .8 are .0055.
    assert is_noise(compare(trained(), trained(0.005), "mae"))
    assert not is_noise(compare(trained(), trained(0.006), "mae"))


def test_higher_is_better_where_the_metric_says_so() -> None:
    low, high = (
        outcome(name, Trained(**{**vars(trained(shift)), "metrics": {"auc": 0.8 + shift}}))
        for name, shift in (("low", 0.0), ("high", 0.02))
    )
    empty = Floor(metrics={}, value_T={})
    advice = advise([low, high], empty, "auc", target="explicit")
    assert advice is not None
    assert advice.chosen.outcome.name == "high"
    assert advice.floor is None


def test_a_candidate_that_was_left_behind_is_compared_in_its_rung_and_never_tied() -> None:
    winner = outcome("alpaca", trained(0.05, rung=1, epochs=8), trained(0.0, rung=2))
    left = outcome("maml", trained(0.06, rung=1, epochs=8))
    advice = advise([winner, left], floor(0.1), "mae", target="explicit")
    assert advice is not None
    other = advice.others["maml"]
    assert other.left == 1
    assert other.gain.value == pytest.approx(0.01 / (BASE.mean() + 0.06))
    assert advice.tied == []
    rows = {str(row["learner"]): row for row in table_rows(advice, [winner, left], floor(0.1), METRICS, 2)}
    assert str(rows["maml"]["verdict"]).startswith("left in rung 1, 1.2 % [")
    assert str(rows["maml"]["verdict"]).endswith("worse")
    assert (rows["maml"]["rung"], rows["alpaca"]["rung"]) == ("1 of 2", "2 of 2")


def test_a_candidate_that_is_better_trained_briefly_is_recommended_so() -> None:
    one = outcome("maml", trained(-0.03, rung=1, epochs=8), trained(0.0, rung=2))
    advice = advise([one, outcome("joint", trained(0.01))], floor(0.1), "mae", target="explicit")
    assert advice is not None
    assert advice.chosen.trained.epochs == 8
    assert command(advice, "d")[-2:] == ["--set", "explicit.epochs=8"]
    assert any("better trained for 8 epochs than for 24" in said for said in told(advice))


def test_what_the_budget_made_short_is_trained_in_full() -> None:
    advice = advise(
        [outcome("alpaca", trained(epochs=8)), outcome("joint", trained(0.1, epochs=8))], floor(0.1), "mae", target="explicit"
    )
    assert advice is not None
    assert "--set" not in command(advice, "d")
    assert any("8 of its 24 epochs, which is what the budget allowed" in said for said in told(advice))


def told(advice: object, sampled: float = 1.0) -> list[str]:
    from metarec.evaluation.advice import Advice

    assert isinstance(advice, Advice)
    return reasons(advice, users=f"{USERS} users", shots=(0, 5), sampled=sampled)


@pytest.mark.parametrize(
    ("baseline", "noise", "said"),
    [
        (0.1, 0.0, "It beats the best plain baseline, bias, by +11."),
        (0.0, 1.0, "It does NOT beat the best plain baseline, bias, beyond noise, and NO other learner does"),
        (-0.1, 0.0, "NO learner beats the plain baselines here: alpaca is worse than the best of them, bias: -14."),
    ],
)
def test_the_floor_is_told_plainly(baseline: float, noise: float, said: str) -> None:
    advice = advise([outcome("alpaca", trained(noise=noise))], floor(baseline), "mae", target="explicit")
    assert any(sentence.startswith(said) for sentence in told(advice)), told(advice)


def test_figures_that_decide_nothing_are_told_beside_the_baselines() -> None:
    advice = advise([outcome("alpaca", trained())], floor(0.0), "mae", target="explicit")
    assert "Beside that: ndcg@5 0.7000 (the baseline's 0.7000)." in told(advice)


def test_a_tied_candidate_that_is_above_the_floor_is_named() -> None:
    # Between the two is noise, yet only the other is above the baseline beyond it.
    one, two = outcome("alpaca", trained(-0.003, noise=1.0)), outcome("alpaca x", trained(-0.006), settings={"x": "1"})
    advice = advise([one, two], floor(0.0), "mae", target="explicit")
    assert advice is not None
    assert advice.chosen.outcome.name == "alpaca"
    assert advice.above_floor == ("alpaca x",)
    assert not any("NO other learner" in said for said in told(advice))
    assert any("Beyond noise better than that baseline: alpaca x" in said for said in told(advice))


def test_smaller_states_and_samples_are_told() -> None:
    best = outcome("maml", trained(-0.001, noise=1.0, state=9000.0))
    small = outcome("anil x", trained(state=900.0), settings={"x": "1"})
    advice = advise([best, small], floor(0.1), "mae", target="explicit")
    assert any("Half that state or less within noise: anil x" in said for said in told(advice))
    assert any(said.startswith("Trials saw 12 % of the interactions") for said in told(advice, sampled=0.12))


def test_the_command_repeats_recipe_and_settings() -> None:
    one = outcome("alpaca dim=16", trained(-0.1), settings={"model.embedding_dim": "16"})
    advice = advise([one], floor(0.1), "mae", target="explicit")
    assert advice is not None
    words = ["metarec", "train", "--data", "some data", "--out", "registry", "--recipe", "alpaca"]
    assert command(advice, "some data") == [*words, "--set", "explicit.model.embedding_dim=16"]


def test_the_table_holds_everyone_with_a_reason() -> None:
    outcomes = [
        outcome("alpaca", trained()),
        Outcome(name="maml", recipe="maml", refused="not tried: too dear"),
        Outcome(name="anil", recipe="anil", failed="failed: diverged"),
        Outcome(name="joint", recipe="joint", out_of_time=True),
    ]
    rows = table_rows(advise(outcomes, floor(0.1), "mae", target="explicit"), outcomes, floor(0.1), METRICS, 2)
    verdicts = {row["learner"]: row["verdict"] for row in rows}
    assert verdicts == {
        "alpaca": "recommended",
        "maml": "not tried: too dear",
        "anil": "failed: diverged",
        "joint": "out of time before its first training ended",
        "plain: bias": "the floor: best plain baseline",
        "plain: mean": "",
    }
    assert len({tuple(row) for row in rows}) == 1


def test_trainings_with_several_seeds_are_averaged() -> None:
    one, two = trained(0.0), trained(0.02)
    mean = Trained.mean([one, two])
    assert mean.metrics["mae"] == pytest.approx(BASE.mean() + 0.01)
    np.testing.assert_allclose(mean.value_T, BASE + 0.01)
    assert mean.seeds == 2
    assert mean.seed_sd == pytest.approx(0.02 / np.sqrt(2))
    assert Trained.mean([one]) == one
    advice = advise([outcome("alpaca", mean)], floor(0.1), "mae", target="explicit")
    assert "2 trainings (deviation 0.0141)" in told(advice)[0]


def test_what_seeds_move_widens_the_interval_where_there_are_several() -> None:
    def several(shift: float, spread: float) -> Trained:
        return Trained.mean([trained(shift + step * spread) for step in (-1, 0, 1)])

    steady, wavering = (compare(several(0.0, spread), several(0.002, spread), "mae") for spread in (0.0001, 0.01))
    assert steady.value == pytest.approx(wavering.value)
    assert not is_noise(steady)
    assert is_noise(wavering)
    # By hand: deviation .01 each, three trainings each, t of four degrees of freedom.
    assert wavering.interval[1] - wavering.value == pytest.approx(2.776 * 0.01 * np.sqrt(2 / 3) / (BASE.mean() + 0.002), rel=1e-3)


def test_a_baseline_that_finds_nothing_is_no_ruler_and_no_crash() -> None:
    def several(value: float) -> Trained:
        one = Trained(**{**vars(trained()), "metrics": {"ndcg@20": value}, "value_T": (value,) * USERS})
        return Trained.mean([one, one])

    nothing = Floor(metrics={"popularity": {"ndcg@20": 0.0}}, value_T={"popularity": (0.0,) * USERS})
    advice = advise([outcome("alpaca", several(0.1)), outcome("maml", several(0.0))], nothing, "ndcg@20", target="implicit")
    assert advice is not None
    assert advice.chosen.outcome.name == "alpaca"
    assert advice.floor is not None
    assert np.isnan(advice.floor.interval).all()


def test_a_single_training_says_that_it_is_one() -> None:
    advice = advise([outcome("alpaca", trained()), outcome("maml", trained(0.1))], floor(0.1), "mae", target="explicit")
    assert any(said.startswith("Everyone was trained once") for said in told(advice))


def test_users_without_a_figure_are_left_out_of_comparisons() -> None:
    def gap(values: Sequence[float]) -> tuple[float, ...]:
        return (float("nan"), *values[1:])

    one, two = (Trained(**{**vars(part), "value_T": gap(part.value_T)}) for part in (trained(), trained(0.1)))
    assert compare(one, two, "mae").value == pytest.approx(0.1 / (BASE[1:].mean() + 0.1))


def test_changed_settings_whose_recipe_was_not_tried_are_said_to_be_uncompared_with_it() -> None:
    changed = outcome("alpaca dim=16", trained(-0.1), settings={"model.embedding_dim": "16"})
    said = "alpaca as it is came to no end"
    advice = advise([changed, outcome("maml", trained()), outcome("alpaca")], floor(0.1), "mae", target="explicit")
    assert any(said in sentence for sentence in told(advice))
    advice = advise([changed, outcome("alpaca", trained())], floor(0.1), "mae", target="explicit")
    assert not any(said in sentence for sentence in told(advice))


def test_a_better_figure_of_its_own_shorter_training_is_told_and_not_called_its_own() -> None:
    long, short = trained(noise=1.0), trained(-0.001, rung=1, epochs=3)
    advice = advise([outcome("alpaca", short, long), outcome("maml", trained(0.1))], floor(0.1), "mae", target="explicit")
    assert advice is not None
    assert advice.chosen.trained == long
    said = told(advice)
    assert f"The best figure is its own after 3 epochs ({short.metrics['mae']:.4f}), but the difference is within noise." in said
    assert not any("It has the best figure" in sentence for sentence in said)
