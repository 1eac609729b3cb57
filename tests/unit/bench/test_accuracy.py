"""The run of the protocols: what is not run again and why it is, and tables that say what is missing."""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from metarec.errors import ConfigError, FailedPreconditionError, InterruptedRunError

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """The modules under test: bench/ is no package that is installed."""
    sys.path.insert(0, str(REPOSITORY))
    try:
        from bench.accuracy import __main__ as run
        from bench.accuracy import clicks, command, p1, page, state, tables

        yield SimpleNamespace(run=run, clicks=clicks, command=command, p1=p1, page=page, state=state, tables=tables)
    finally:
        sys.path.remove(str(REPOSITORY))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make_state(bench: SimpleNamespace, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch):
    """A state of this data and code below one folder."""

    def build(data: dict[str, str] | None = None, code: dict[str, str] | None = None, *, collect: bool = False):
        monkeypatch.setattr(bench.state, "code_fingerprints", lambda: code or {"metarec/a.py": "1"})
        monkeypatch.setattr(bench.state, "commit", lambda: "c0ffee")
        return bench.state.State(out=tmp_path, data=data or {"ratings": "1"}, collect=collect, say=said.append)

    return build


def test_a_finished_piece_is_not_run_again(make_state, said: list[str]):
    first = make_state().piece("seed-0", {"epochs": 2}, lambda: {"auc": 0.8})
    again = make_state().piece("seed-0", {"epochs": 2}, lambda: pytest.fail("it was there"))
    assert first is not None
    assert again == first
    assert again["result"] == {"auc": 0.8}
    assert said[-1] == "seed-0: there already"


@pytest.mark.parametrize(
    ("settings", "data", "code", "reason"),
    [
        ({"epochs": 3}, None, None, "the settings changed"),
        ({"epochs": 2}, {"ratings": "2"}, None, "the data changed: ratings"),
        ({"epochs": 2}, None, {"metarec/a.py": "2", "metarec/b.py": "1"}, "the code changed: metarec/a.py, metarec/b.py"),
    ],
)
def test_a_piece_is_run_again_when_it_would_be_another_and_the_reason_is_told(make_state, said, settings, data, code, reason):
    make_state().piece("seed-0", {"epochs": 2}, lambda: 1)
    found = make_state(data, code).piece("seed-0", settings, lambda: 2)
    assert found["result"] == 2
    assert said[-1] == f"seed-0: run again, {reason}"
    assert make_state(data, code).piece("seed-0", settings, lambda: 3)["result"] == 2


def test_a_piece_that_failed_is_not_there(make_state, tmp_path: Path):
    def fail() -> None:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        make_state().piece("seed-0", {}, fail)
    assert make_state().piece("seed-0", {}, lambda: 1)["result"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["seed-0.json"]


def test_collecting_takes_what_is_there_and_runs_nothing(make_state):
    make_state().piece("seed-0", {}, lambda: 1)
    later = make_state(code={"metarec/a.py": "2"}, collect=True)
    assert later.piece("seed-0", {}, lambda: pytest.fail("it runs nothing"))["result"] == 1
    assert later.piece("seed-1", {}, lambda: pytest.fail("it runs nothing")) is None


def test_imports_of_other_data_or_code_have_another_folder(make_state):
    digests = {make_state().digest, make_state({"ratings": "2"}).digest, make_state(code={"metarec/a.py": "2"}).digest}
    assert len(digests) == 3
    assert make_state().digest in digests


def test_fingerprints_follow_the_contents_of_the_files(bench: SimpleNamespace, tmp_path: Path):
    (tmp_path / "emerging").mkdir()
    for name in ("ratings.parquet", "emerging/test.parquet", "README.md"):
        (tmp_path / name).write_text(name)
    before = bench.state.fingerprints(tmp_path)
    assert set(before) == {"ratings.parquet", "emerging/test.parquet"}
    (tmp_path / "emerging" / "test.parquet").write_text("others")
    after = bench.state.fingerprints(tmp_path)
    assert before["ratings.parquet"] == after["ratings.parquet"]
    assert before["emerging/test.parquet"] != after["emerging/test.parquet"]


def test_the_code_is_all_that_figures_depend_on(bench: SimpleNamespace):
    found = bench.state.code_fingerprints()
    assert {"metarec/meta/implicit.py", "metarec/data/ml-100k.schema.yaml", "bench/accuracy/p5.py"} <= set(found)
    assert not [name for name in found if name.startswith(("tests/", "services/"))]


def test_cells_name_the_seeds_that_are_missing(bench: SimpleNamespace):
    spread = bench.tables.spread
    assert spread([0.5, 0.7], of=2) == "0.6000 ± 0.1414"
    assert spread([0.5], of=3) == "0.5000 (1 of 3 seeds)"
    assert spread([]) == "not run"


def test_a_table_of_clicks_says_which_seeds_and_domains_were_not_run(bench: SimpleNamespace, tmp_path: Path):
    found = {
        0: {"alpaca": {"young": {"auc": 0.8}, "old": {"auc": 0.7}}},
        1: {"alpaca": {"young": {"auc": 0.9}}},
    }
    result = {"seeds": [0, 1, 2]}
    bench.clicks.write_results(tmp_path, "p4", result, found, ["young", "old", "none"], title="P4", bars={})
    table = (tmp_path / "p4.md").read_text()
    assert "| alpaca | 0.8500 ± 0.0707 | 0.7000 (1 of 2 seeds) | not run |" in table
    assert "Not run: 2." in table
    written = json.loads((tmp_path / "p4.json").read_text())
    assert written["not_run"] == [2]
    assert written["models"]["alpaca"]["young"]["auc"]["mean"] == pytest.approx(0.85)
    assert not (tmp_path / "p4.svg").exists()  # a curve with holes is none


def test_figures_of_several_pieces_of_one_seed_are_one(bench: SimpleNamespace):
    merged = bench.clicks.merged([{"alpaca": {"young": {"auc": 0.8}}}, {"alpaca": {"old": {"auc": 0.7}}}])
    assert merged == {"alpaca": {"young": {"auc": 0.8}, "old": {"auc": 0.7}}}


def test_the_page_has_every_protocol_with_its_commit_and_names_what_is_missing(bench: SimpleNamespace, tmp_path: Path):
    out, docs = tmp_path / "out", tmp_path / "docs"
    (out / "p5").mkdir(parents=True)
    (out / "p5" / "p5.md").write_text("# P5: lists\n\n| | k = 0 |\n|---|---|\n| alpaca | .5 |\n")
    (out / "p5" / "p5.svg").write_text("<svg/>")
    made = {"seeds": [0], "not_run": [1], "commits": ["c0ffee"], "environments": ["python 3.11"], "seconds": 90.0}
    (out / "p5" / "p5.json").write_text(json.dumps(made))
    bench.page.write_page(out, docs / "results.md", docs / "results", {"MovieLens-100K": "whole"})
    page = (docs / "results.md").read_text()
    assert "## P5: lists" in page
    assert "![p5](results/p5.svg)" in page
    assert (docs / "results" / "p5.svg").read_text() == "<svg/>"
    assert "- MovieLens-100K: whole" in page
    assert "| p5 | c0ffee | 0 | 2 min | 1 |" in page
    assert "| p1 |  |  |  | all |" in page
    assert page.count("Not run.") == 5  # P1, P3 and the three tables of P4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "no directory at 'nowhere'"),
        (["--seeds", "first"], "'first' must be numbers"),
        (["--set", "epochs"], "'epochs' must have the form NAME=VALUE"),
    ],
)
def test_wrong_usage_of_a_protocol_is_told(bench, tmp_path: Path, capsys, monkeypatch, arguments, message) -> None:
    monkeypatch.setattr(bench.command.torch, "set_num_threads", lambda threads: None)
    parser = bench.command.protocol_parser("P5", "dataset", "0,1")
    given = bench.command.read(parser.parse_args(["--data", str(tmp_path), "--out", "o", "--set", "epochs=2", "--threads", "1"]))
    assert (given.seeds, given.settings) == ([0, 1], {"epochs": "2"})
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--data", str(tmp_path), "--out", "o", *arguments])
    assert message in capsys.readouterr().err


def test_a_run_without_data_is_wrong_usage(bench: SimpleNamespace, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.accuracy", "--out", str(tmp_path / "out"), "--only", "p1,p5"])
    with pytest.raises(SystemExit, match="2"):
        bench.run.main()
    assert "no data for p1, p5: give --ml-100k or --ml-1m" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ml-1m", "{}"], "has no ratings.parquet, episodes.parquet, emerging/train.parquet"),
        (["--ml-100k", "{}"], "has no dataset.json"),
        (["--ml-100k", "{}/data", "--seeds", "first"], "'first' must be numbers"),
        (["--ml-100k", "{}/data", "--set", "epochs"], "'epochs' must have the form NAME=VALUE"),
    ],
)
def test_wrong_usage_is_told_before_anything_runs(
    bench: SimpleNamespace, tmp_path: Path, capsys, monkeypatch, arguments, message
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").touch()
    given = [argument.format(tmp_path) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["bench.accuracy", "--out", str(tmp_path / "out"), *given])
    monkeypatch.setattr(bench.run, "run_protocol", lambda *_: pytest.fail("it runs"))
    with pytest.raises(SystemExit, match="2"):
        bench.run.main()
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_ctrl_c_as_it_was")
@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped; the same command goes on"),
        (InterruptedRunError("stopped after step 3"), 130, "stopped; the same command goes on"),
        (ConfigError("unknown setting 'x'"), 2, "error: unknown setting 'x'"),
        (FailedPreconditionError("no timestamps"), 1, "error: no timestamps"),
    ],
)
def test_how_a_protocol_ended_is_said_in_a_line(bench: SimpleNamespace, capsys, error, status, said) -> None:
    def command() -> None:
        raise error

    assert bench.command.ended(command) == status
    assert said in capsys.readouterr().err
    assert bench.command.ended(lambda: None) == 0


@pytest.mark.usefixtures("_ctrl_c_as_it_was")
def test_ctrl_c_again_does_not_change_how_a_stopped_run_ends(bench: SimpleNamespace) -> None:
    assert bench.command.ended(lambda: 1) == 1
    assert signal.getsignal(signal.SIGINT) != signal.SIG_IGN
    assert bench.command.ended(lambda: 130) == 130
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_stopped_protocol_ends_the_run_with_what_is_there(bench: SimpleNamespace, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "dataset.json").touch()
    ran = []
    monkeypatch.setattr(bench.run, "run_protocol", lambda name, *_: ran.append(name) or 130)
    monkeypatch.setattr(bench.run, "PROTOCOLS", {"p5": "ml_100k", "p4": "ml_100k"})
    monkeypatch.setattr(sys, "argv", ["bench.accuracy", "--out", str(tmp_path / "out"), "--ml-100k", str(tmp_path)])
    assert bench.run.main() == 130
    assert ran == ["p5"]


def test_the_plot_is_small_and_the_same_again(bench: SimpleNamespace, tmp_path: Path):
    from bench.accuracy.curves import save_curve

    for name in ("one", "two"):
        save_curve(
            tmp_path / f"{name}.svg",
            ["0", "1"],
            {"alpaca": [0.4, 0.5], "plain": [0.3, 0.4]},
            learner="alpaca",
            bar=None,
            label="x",
        )
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.svg").stat().st_size < 30_000


def test_learners_beside_the_flagship_are_asked_with_the_whole_support_too(
    bench: SimpleNamespace, tiny_dataset, tiny_registry, tmp_path: Path
):
    tiny_dataset.save(tmp_path / "data")
    user = str(tiny_dataset.user_ids[0])
    episodes = pd.DataFrame(
        {
            "protocol": "user_cold",
            "seed": 0,
            "user_id": user,
            "item_id": [str(item) for item in tiny_dataset.item_ids[:20]],
            "rating": [1.0 + k % 5 for k in range(20)],
            "role": ["support"] * 15 + ["query"] * 5,
        }
    )
    episodes.to_parquet(tmp_path / "episodes.parquet")
    found = bench.p1.asked(tmp_path, tmp_path / "data", tiny_registry)
    assert set(found["protocols"]) == {"user_cold", *(f"user_cold@{k}" for k in bench.p1.SHOTS)}
    maes = {protocol: models[found["learner"]]["mae"]["mean"] for protocol, models in found["protocols"].items()}
    assert maes["user_cold"] != maes["user_cold@0"]


def test_groups_of_places_are_not_joined() -> None:
    from bench.accuracy.curves import in_groups

    assert in_groups(["0", "1", "3"], [0.3, 0.2, 0.1]) == ([0.0, 1.0, 2.0], [0.3, 0.2, 0.1])
    at, drawn = in_groups(["a @0", "a @10", "b @0"], [0.1, 0.2, 0.3])
    assert at == [0.0, 1.0, 1.5, 2.0]
    assert [drawn[0], drawn[1], drawn[3]] == [0.1, 0.2, 0.3]
    assert math.isnan(drawn[2])  # nothing is drawn


class Interrupted:
    """A protocol's process: waiting for it is interrupted `times` times, then it takes `lasts` waits before it ends."""

    def __init__(self, times: int, lasts: int = 0) -> None:
        self.times, self.lasts, self.told = times, lasts, []

    def wait(self, timeout: float | None = None) -> int:
        if self.times:
            self.times -= 1
            raise KeyboardInterrupt
        if self.lasts and timeout is not None and "kill" not in self.told:
            self.lasts -= 1
            raise subprocess.TimeoutExpired("protocol", timeout)
        return -2

    def send_signal(self, number: int) -> None:
        self.told.append(number)

    def kill(self) -> None:
        self.told.append("kill")


@pytest.fixture
def _ctrl_c_as_it_was() -> Iterator[None]:
    # Not as the tests themselves were started: a shell's background jobs ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_as_it_was")
@pytest.mark.parametrize(
    ("process", "told"),
    [
        pytest.param(Interrupted(1), [], id="ends of it"),
        pytest.param(Interrupted(1, 1), [signal.SIGINT], id="was not told by the terminal"),
        pytest.param(Interrupted(2), [signal.SIGINT], id="a second one while it ends"),
        pytest.param(Interrupted(2, 1), [signal.SIGINT, "kill"], id="a second one, and it does not end"),
    ],
)
def test_a_protocol_that_dies_of_ctrl_c_counts_as_stopped(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: Interrupted, told: list[object]
) -> None:
    monkeypatch.setattr(bench.run.subprocess, "Popen", lambda *_, **__: process)
    given = SimpleNamespace(out=tmp_path, seeds="", set=[], threads=1, collect=False)
    assert bench.run.run_protocol("p5", tmp_path, given) == 130
    assert process.told == told
