"""The parts of scripts/demo*.py that need no services; the same walk on small data is tests/e2e."""

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console

from metarec.client.results import Explanation
from metarec.errors import UnavailableError
from metarec.types import Contribution

SCRIPTS = Path(__file__).parents[3] / "scripts"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Imports a module of scripts/ as the demo does."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


@pytest.fixture
def steps(load) -> ModuleType:
    return load("demo_steps")


@pytest.fixture
def demo(steps: ModuleType, tmp_path: Path):
    with (tmp_path / "printed").open("w") as file:
        yield steps.Demo(folder=tmp_path, console=Console(file=file, width=160), num_steps=2)


def printed(demo) -> str:
    demo.console.file.flush()
    return (demo.folder / "printed").read_text()


def test_steps_are_numbered_and_timed(demo):
    for title in ("first", "second"):
        with demo.doing(title):
            demo.say("something")
    assert list(demo.seconds) == ["first", "second"]
    assert "[2/2] second" in printed(demo)


def test_a_command_that_fails_is_named_with_its_log_and_last_error(demo, steps: ModuleType):
    message = r"metarec features exited with status 1\. error: no feature store at"
    with pytest.raises(steps.StepError, match=message) as raised, demo.doing("look"):
        demo.metarec("get", ["features", "get", "--store", demo.folder / "nowhere", "--user", "1"])
    assert raised.value.log == demo.folder / "logs" / "01-get.log"
    assert "no feature store at" in raised.value.log.read_text()


@pytest.mark.parametrize("kind", ["step", "call", "ctrl-c"])
def test_a_demo_that_fails_says_in_which_step_and_exits_with_that(
    kind: str, load, steps: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    script = load("demo")
    errors = {"step": steps.StepError("no", Path("a.log")), "call": UnavailableError("down"), "ctrl-c": KeyboardInterrupt()}

    def run(demo):
        with demo.doing("Break"):
            raise errors[kind]

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    assert script.main() == (130 if kind == "ctrl-c" else 1)
    said = capsys.readouterr().err
    assert "step 1 (Break)" in said
    assert {"step": "its log is a.log", "call": "logs are in", "ctrl-c": "goes on from there"}[kind] in said
    assert not (tmp_path / "demo" / "summary.json").exists()


def test_a_result_is_used_again_only_with_the_same_inputs(steps: ModuleType, tmp_path: Path):
    path = tmp_path / "stamp.json"
    assert steps.Stamp(path, {"data": "a", "cuts": ("x",)}).value() is None
    steps.Stamp(path, {"data": "a", "cuts": ("x",)}).store({"checkpoint": "c-1"})
    assert steps.Stamp(path, {"data": "a", "cuts": ("x",)}).value() == {"checkpoint": "c-1"}
    assert steps.Stamp(path, {"data": "b", "cuts": ("x",)}).value() is None
    path.write_text("{")
    assert steps.Stamp(path, {"data": "a", "cuts": ("x",)}).value() is None


def test_the_code_counts_as_an_input(steps: ModuleType):
    assert steps.code_hash("meta") == steps.code_hash("meta")
    assert steps.code_hash("meta") != steps.code_hash("meta", "models")


def test_an_explanation_that_does_not_add_up_fails_the_demo(demo, load, steps: ModuleType):
    story, catalogue = load("demo_story"), load("demo_catalogue")
    film = catalogue.Film(item_id="1", title="A film", genres=())
    films = SimpleNamespace(films={"1": film})
    part = Contribution(kind="item", value=0.5)
    client = SimpleNamespace(
        explain=lambda user, item: Explanation(item_id=item, score=0.5002, contributions=(part,), checkpoint="c", shots=0)
    )
    with pytest.raises(steps.StepError, match=r"more than 0\.0001 apart"):
        story.why(demo, client, films, film)


def test_the_evaluation_is_shown_with_the_learner_first_and_the_best_in_bold(demo, load):
    evaluation = load("demo_evaluation")
    figure = {"sd": 0.0, "episodes": 3}
    models = {name: {"ndcg@20": {"mean": mean, **figure}} for name, mean in (("popularity", 0.4), ("alpaca", 0.5))}
    delta = {"baseline": "popularity", "value": 0.25, "interval": [0.1, 0.3]}
    deltas = {"temporal@1": {"alpaca": {"ndcg@20": delta, "coverage": {}}}}
    kept = evaluation.figures({"protocols": {"temporal@1": models}, "deltas": deltas, "learner": "alpaca", "notes": []})
    assert kept["delta"] == {"temporal@1": {"metric": "ndcg@20", **delta}}
    evaluation.show(demo, kept)
    rows = [line for line in printed(demo).splitlines() if "0.4" in line or "0.5" in line]
    assert "alpaca (the learner)" in rows[0]
    assert "popularity" in rows[1]
