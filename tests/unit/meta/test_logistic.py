"""Logistic regression on top of base rates, against scikit-learn; penalties that follow the data; temperatures."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from metarec.meta.logistic import PENALTIES, fit_logistic, tuned_in_turn, tuned_logistic
from metarec.meta.profiles import best_temperature, probabilities


def data(rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(rows, 4)), rng.normal(size=(4, 3))


@pytest.mark.parametrize("exclusive", [True, False])
def test_weights_are_those_of_scikit_learn(exclusive: bool) -> None:
    x_NF, true_FC = data()
    rng = np.random.default_rng(4)
    noisy_NC = x_NF @ true_FC + rng.logistic(size=(len(x_NF), 3))
    label_N = noisy_NC.argmax(1)
    y_NC = np.eye(3)[label_N] if exclusive else (noisy_NC > 0).astype(float)
    found_FC = fit_logistic(x_NF, y_NC, np.zeros((1, 3)), 0.1, exclusive=exclusive)
    make = lambda: LogisticRegression(C=1 / (0.1 * len(x_NF)), fit_intercept=False, tol=1e-8, max_iter=1000)  # noqa: E731  # one line says it best
    if exclusive:
        expected_FC = make().fit(x_NF, label_N).coef_.T
    else:
        expected_FC = np.stack([make().fit(x_NF, y_NC[:, k]).coef_[0] for k in range(3)], 1)
    assert found_FC == pytest.approx(expected_FC, abs=2e-3)


def test_noise_gets_a_strong_penalty_and_parts_explain_what_is_left() -> None:
    x_NF, true_FC = data(2000)
    rng = np.random.default_rng(5)
    aside_N = np.arange(len(x_NF)) % 4 == 0
    noise_NC = np.eye(3)[rng.integers(0, 3, 80)]
    base_NC = np.zeros_like(noise_NC)
    chosen_FC = tuned_logistic(x_NF[:80], noise_NC, base_NC, aside_N[:80], exclusive=True)
    weak_FC = fit_logistic(x_NF[:80], noise_NC, base_NC, PENALTIES[-1], exclusive=True)
    assert np.linalg.norm(chosen_FC) < 0.5 * np.linalg.norm(weak_FC)
    y_NC = np.eye(3)[(x_NF @ (4 * true_FC) + rng.gumbel(size=(len(x_NF), 3))).argmax(1)]
    both_FC = tuned_in_turn([x_NF[:, :2], x_NF[:, 2:]], y_NC, np.zeros(3), aside_N, exclusive=True)
    right = ((x_NF @ both_FC).argmax(1) == y_NC.argmax(1)).mean()
    first = ((x_NF[:, :2] @ both_FC[:2]).argmax(1) == y_NC.argmax(1)).mean()
    assert right > 0.8 > first


def test_a_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(6)
    share_C, evidence_NC = np.array([0.5, 0.3, 0.2]), rng.normal(size=(4000, 3))
    p_NC = probabilities(share_C, evidence_NC, 1.0, exclusive=True)
    y_NC = np.eye(3)[(p_NC.cumsum(1) > rng.random((4000, 1))).argmax(1)]
    assert best_temperature(share_C, 3 * evidence_NC, y_NC, exclusive=True) == pytest.approx(3.0, rel=0.1)
    assert best_temperature(share_C, evidence_NC[:0], y_NC[:0], exclusive=True) == pytest.approx(1.0, rel=1e-3)
