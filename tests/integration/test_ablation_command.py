"""`metarec evaluate --ablate` as people run it: on items hidden from training, and on a file of episodes."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metarec.cli.main import main
from metarec.data.dataset import Dataset


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, words)])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """New users, each of whom loves one genre: ratings follow `i<k>`'s genre k % 4."""
    random = np.random.default_rng(3)
    rows = []
    for user in range(12):
        for place, item in enumerate(random.permutation(60)[:20]):
            rating = 5 if item % 4 == user % 4 else 1
            rows.append(("new", f"stranger{user}", f"i{item}", rating, "query" if place >= 8 else "support"))
    path = tmp_path_factory.mktemp("episodes") / "episodes.csv"
    pd.DataFrame(rows, columns=["protocol", "user_id", "item_id", "rating", "role"]).to_csv(path, index=False)
    return path


def test_blanking_on_a_file_shows_every_field_in_table_json_and_page(
    tiny_registry: Path, tiny_dataset: Dataset, episodes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(
        "--checkpoint", tiny_registry, "--data", tiny_dataset.path, "--episodes", episodes, "--ablate", "blank",
        "--json", tmp_path / "a.json", "--report", tmp_path / "a.html",
    )  # fmt: skip
    assert code == 0
    said = capsys.readouterr()
    assert "new: 12 episodes without a group of features (values blanked at prediction)" in " ".join(said.out.split())
    assert "note: groups were left out by blanking" in said.err
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["protocols"] == {}
    new = found["ablation"]["new"]
    assert new["mode"] == "blank"
    assert set(new["groups"]) == {
        "content", "profile", "text", "categories", "numbers",
        "items.title", "items.genres", "items.year", "users.gender", "users.age",
    }  # fmt: skip
    effect = new["groups"]["items.genres"]["mae"]
    assert effect["gain"] == pytest.approx(effect["without"] - new["metrics"]["mae"])
    assert effect["interval"][0] <= effect["gain"] <= effect["interval"][1]
    page = (tmp_path / "a.html").read_text()
    assert "What the features contribute" in page
    assert "items.genres" in page
    assert "<svg" in page


def test_training_anew_asks_for_items_that_were_hidden(
    tiny_registry: Path, tiny_dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(
        "--checkpoint", tiny_registry, "--data", tiny_dataset.path, "--ablate", "retrain", "--group", "content",
        "--ablate-seeds", 2, "--json", "-",
    )  # fmt: skip
    assert code == 0
    hidden = json.loads(capsys.readouterr().out)["ablation"]["hidden_items"]
    assert hidden["seeds"] == [0, 1]
    content = hidden["groups"]["content"]
    assert content["ndcg@5"]["gain"] > 0, "genres are all there is to know about an item that nobody has rated"
    assert content["mae"]["interval"][0] > 0
    assert content["mae"]["seed_sd"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--group", "text"), "--group and --ablate-seeds say more about --ablate"),
        (("--ablate", "blank", "--shots", "1"), "takes none of --protocol, --shots"),
        (("--ablate", "blank", "--group", "smell"), "no feature group 'smell'; it has content, profile, text"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tiny_registry: Path, tiny_dataset: Dataset, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--checkpoint", tiny_registry, "--data", tiny_dataset.path, *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_one_checkpoint_is_one_training(
    tiny_registry: Path, tiny_dataset: Dataset, episodes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--checkpoint", tiny_registry, "--data", tiny_dataset.path, "--episodes", episodes)
    assert run(*words, "--ablate", "blank", "--ablate-seeds", 2) == 2
    assert "several seeds need '--ablate retrain'" in " ".join(capsys.readouterr().err.split())
