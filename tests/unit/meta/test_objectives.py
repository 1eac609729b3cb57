import pytest
import torch

from metarec.meta.objectives import expected_label, row_loss, start_score, task_loss


def test_cross_entropy_is_that_of_the_probability() -> None:
    score, label = torch.tensor([[0.3, -2.0]]), torch.tensor([[1.0, 0.0]])
    share = expected_label("cross_entropy", score)
    expected = -(label * share.log() + (1 - label) * (1 - share).log())
    torch.testing.assert_close(row_loss("cross_entropy", score, label), expected)


def test_task_loss_counts_true_rows_only() -> None:
    score, label = torch.tensor([[1.0, 9.0], [5.0, 5.0]]), torch.zeros(2, 2)
    mask = torch.tensor([[True, False], [False, False]])
    assert task_loss("squared_error", score, label, mask).tolist() == [1.0, 0.0]


def test_the_starting_score_stands_for_the_mean_label() -> None:
    for mean in (0.2, 0.9):
        assert float(expected_label("cross_entropy", torch.tensor(start_score("cross_entropy", mean)))) == pytest.approx(mean)
    assert start_score("squared_error", 3.5) == 3.5
