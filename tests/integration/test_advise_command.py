"""`metarec advise` as people run it, on the tests' Ray cluster with two small candidates."""

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from metarec.cli.main import cli
from metarec.errors import FailedPreconditionError, InterruptedRunError, UnavailableError
from metarec.training.candidates import Candidate, Eligibility
from metarec.training.trial import Report

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

SMALL = {"epochs": "3", "batch_size": "16", "model.embedding_dim": "4"}
CANDIDATES = tuple(Candidate(recipe=name, target="explicit", settings=SMALL) for name in ("alpaca", "joint"))


@pytest.fixture
def two_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Eligibility(candidates=CANDIDATES, refused={"maml": "the test leaves it out"})
    monkeypatch.setattr("metarec.cli.advise_run.eligible", lambda findings, target: found)
    # The cluster runs already.
    monkeypatch.setattr("metarec.cli.advise_run.START_SECONDS", 0.0)


@pytest.fixture(scope="module")
def data(tiny_dataset: "Dataset", tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_dataset.save(tmp_path_factory.mktemp("data") / "tiny").path)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["advise", *arguments])


@pytest.mark.ray
@pytest.mark.usefixtures("two_candidates")
def test_ctrl_c_keeps_what_has_ended_and_the_same_command_goes_on_to_a_recommendation(
    ray_cluster: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metarec.cli.advise_display import AdviseDisplay

    heard: list[Report] = []
    show = AdviseDisplay._report

    def interrupt(self: AdviseDisplay, report: Report, metric: str) -> None:
        show(self, report, metric)
        heard.append(report)
        if sum(one.done for one in heard) == 1 and report.done:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(AdviseDisplay, "_report", interrupt)
    command = ["--data", data, "--out", str(tmp_path / "out"), "--workers", "1", "--budget", "40m"]
    first = invoke(*command)
    assert first.exit_code == 130, first.output
    assert "s] stopping" in first.stderr
    assert "the same command goes on from what has ended" in first.stderr
    (ended,) = [report for report in heard if report.done]

    heard.clear()
    heard.append(ended)
    plot, result = tmp_path / "plots" / "p.png", tmp_path / "a.json"
    second = invoke(*command, "--plot", str(plot), "--json", str(result))
    assert second.exit_code == 0, second.output
    again = {(report.trial, report.rung) for report in heard[1:]}
    assert (ended.trial, ended.rung) not in again
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert [path.name[:7] for path in (tmp_path / "out").iterdir()] == ["trials-"]

    said = json.loads(result.read_text())
    assert said["question"] == "ratings"
    assert said["metrics"] == ["mae", "ndcg@5"]
    by_name = {one["name"]: one for one in said["candidates"]}
    assert set(by_name) == {one.name for one in CANDIDATES}
    assert said["not_eligible"] == {"maml": "the test leaves it out"}
    assert "not eligible: the test leaves it out" in second.stdout
    for one in CANDIDATES:
        (trained,) = by_name[one.name]["trainings"]
        assert (trained["epochs"], trained["planned"], trained["seeds"]) == (3, 3, 3)
        assert len(trained["value_T"]) == said["users"]
        assert trained["adapt_ms"] > 0
    recommendation = said["recommendation"]
    assert recommendation["learner"] in second.stdout
    assert recommendation["command"][:4] == ["metarec", "train", "--data", data]
    assert "the floor: best plain baseline" in second.stdout
    assert "time is left: finalists with another seed (2)" in second.stderr


@pytest.mark.ray
@pytest.mark.usefixtures("two_candidates")
def test_when_the_budget_ends_in_the_middle_what_ended_is_told(
    ray_cluster: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metarec.training.halving import Halving

    # Time is up for whatever would begin after the first training.
    begin = Halving.next

    def first_only(self: Halving) -> object:
        training = begin(self)
        self.until = 0.0
        return training

    monkeypatch.setattr(Halving, "next", first_only)
    result = invoke("--data", data, "--workers", "1", "--budget", "4m", "--json", "-")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    trained = {one["name"]: len(one["trainings"]) for one in said["candidates"]}
    assert sorted(trained.values()) == [0, 1]


@pytest.mark.ray
@pytest.mark.usefixtures("two_candidates")
def test_trials_that_end_unheard_leave_no_word_on_standard_output_and_no_file(
    ray_cluster: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metarec.training.halving import Halving
    from metarec.training.tuning import Trials

    fit = Trials._fit

    # Time is up for trials, though not for who asks what is next.
    def late(self: Trials, halving: Halving, heads: object) -> None:
        halving.until, halving.clock = 1.0, lambda: 0.0
        fit(self, halving, heads)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(Trials, "_fit", late)
    out = tmp_path / "out"
    plot = str(tmp_path / "p.svg")
    result = invoke("--data", data, "--workers", "1", "--budget", "4m", "--json", "-", "--out", str(out), "--plot", plot)
    assert result.exit_code == 0, result.output
    recommended = json.loads(result.stdout)["recommendation"]
    assert (recommended["recipe"], recommended["tried"]) == ("alpaca", False)
    assert "No trial ended within the budget of 240 s" in recommended["reasons"][0]
    assert [path.name[:7] for path in out.iterdir()] == ["trials-"]


@pytest.mark.usefixtures("two_candidates")
def test_a_cluster_that_cannot_be_used_leaves_no_file(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unusable(workers: int) -> None:
        raise UnavailableError("a local ray cluster cannot be used")

    monkeypatch.setattr("metarec.training.tuning.cluster", unusable)
    result = invoke("--data", data, "--out", str(tmp_path / "out"), "--budget", "4m")
    assert isinstance(result.exception, UnavailableError)
    assert [path.name[:7] for path in (tmp_path / "out").iterdir()] == ["trials-"]


@pytest.mark.parametrize("option", ["--out", "--json", "--plot"])
def test_what_cannot_be_written_is_told_before_any_work(data: str, tmp_path: Path, option: str) -> None:
    file = tmp_path / "file.png"
    file.touch()
    result = invoke("--data", data, option, str(file / "below.png"))
    assert result.exit_code == 2
    assert f"{option} cannot be written" in result.stderr
    wrong = file if option == "--out" else tmp_path / "folder.png"
    (tmp_path / "folder.png").mkdir()
    assert invoke("--data", data, option, str(wrong)).exit_code == 2


@pytest.mark.usefixtures("two_candidates")
def test_a_budget_without_room_for_a_trial_gets_the_default_untried_and_what_it_would_take(data: str, tmp_path: Path) -> None:
    plot, out = tmp_path / "p.svg", tmp_path / "out"
    command = ["--data", data, "--budget", "1s", "--plot", str(plot), "--out", str(out)]
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert "the budget leaves no time for any trial" in result.stderr
    assert "starting Ray" not in result.stderr
    assert f"recommended: {CANDIDATES[0].name} (the default, untried)" in result.stdout
    assert "To compare the learners, give a --budget of about" in result.stdout
    assert f"metarec train --data {data} --out registry --recipe alpaca --set explicit.epochs=3" in result.stdout
    assert plot.exists()
    assert not list(out.iterdir())


@pytest.mark.ray
@pytest.mark.usefixtures("two_candidates")
def test_trials_that_all_fail_get_no_recommendation(ray_cluster: str, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from metarec.training.halving import Halving

    def broken(self: Halving, trial: str, report: Report | None) -> None:
        self._running.discard(trial)
        self.ended[self._rung][trial] = Report(trial=trial, rung=self._rung, failed="its weights are no numbers")

    monkeypatch.setattr(Halving, "end", broken)
    result = invoke("--data", data, "--workers", "1", "--budget", "4m")
    assert result.exit_code == 1, result.output
    assert "failed: its weights are no numbers" in result.stdout
    assert "no trial came to its end; the table says why" in result.stderr


def test_too_little_data_is_told(tiny_dataset: "Dataset", tmp_path: Path) -> None:
    events = tiny_dataset.interactions
    few = tiny_dataset.with_interactions(events.select(events.user_N < 25)).save(tmp_path / "few")
    result = invoke("--data", str(few.path))
    assert isinstance(result.exception, FailedPreconditionError)
    assert "comparing learners needs 40 of them" in str(result.exception)


@pytest.mark.parametrize("budget", ["0", "soon", "5 minutes", "-3m"])
def test_a_budget_that_is_no_time_is_wrong_usage(data: str, budget: str) -> None:
    result = invoke("--data", data, "--budget", budget)
    assert result.exit_code == 2
    assert "write 90s, 5m or 1h" in result.stderr


def test_a_plot_of_unknown_kind_is_wrong_usage_before_any_work(data: str) -> None:
    result = invoke("--data", data, "--plot", "p.bmp")
    assert result.exit_code == 2
    assert "--plot writes .png, .svg or .pdf" in result.stderr


def test_an_interrupt_without_a_directory_says_what_would_have_kept_it(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        raise InterruptedRunError("stopped")

    monkeypatch.setattr("metarec.cli.advise_run.run_advice", stop)
    result = invoke("--data", data)
    assert result.exit_code == 130
    assert "with --out DIR could go on" in result.stderr
