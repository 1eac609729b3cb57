"""`metarec evaluate` as people run it: files of any split, scores that strangers can check, time order, reports, and refusals."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metarec.cli import evaluate_protocols
from metarec.cli.main import main
from metarec.data.dataset import Dataset
from metarec.data.schema import Label
from metarec.training.checkpoint import save_checkpoint
from metarec.training.loop import fit
from metarec.training.manifest import Manifest
from metarec.training.recipes import get_recipe

BASELINES = {"support_mean", "item_mean", "bias", "bias_als", "content_ridge", "item_content_ridge"}
TOPN = {"popularity", "recent_popularity", "popularity_by_age", "popularity_by_gender", "ials", "item_knn", "ease"}


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, words)])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two protocols and two seeds; some users and items are unknown, some episodes have no support."""
    random = np.random.default_rng(7)
    rows = []
    for protocol in ("one", "two"):
        for seed in (0, 1):
            for user in ("u1", "u5", "nobody", "u9"):
                items = [*(f"i{k}" for k in random.permutation(60)[:12]), "unheard-of"]
                for place, item in enumerate(random.permutation(items)):
                    role = "query" if place >= 6 or user == "u9" else "support"
                    rows.append((protocol, seed, user, item, int(random.integers(1, 6)), role))
    path = tmp_path_factory.mktemp("episodes") / "episodes.csv"
    pd.DataFrame(rows, columns=["protocol", "seed", "user_id", "item_id", "rating", "role"]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def outcome(
    tiny_registry: Path, tiny_dataset: Dataset, episodes: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, dict[str, dict[str, dict[str, float]]]], pd.DataFrame, Path]:
    out = tmp_path_factory.mktemp("out")
    code = run(
        "--checkpoint", tiny_registry, "--data", tiny_dataset.path, "--episodes", episodes,
        "--json", out / "o.json", "--scores", out / "s.parquet", "--report", out / "r.html",
    )  # fmt: skip
    assert code == 0
    return json.loads((out / "o.json").read_text())["protocols"], pd.read_parquet(out / "s.parquet"), out / "r.html"


def test_every_model_stands_in_every_protocol_in_the_shape_of_p6(
    outcome: tuple[dict[str, dict[str, dict[str, dict[str, float]]]], pd.DataFrame, Path],
) -> None:
    protocols, _, _ = outcome
    assert set(protocols) == {"one", "two"}
    for models in protocols.values():
        assert set(models) == {name + ending for name in BASELINES | {"alpaca"} for ending in ("", "_median")}
        for metrics in models.values():
            wanted = {f"{name}@{k}" for name in ("ndcg", "ndcg_linear", "precision", "recall", "mrr") for k in (1, 3, 5, 10)}
            assert {"mae", "rmse", "mse", "auc", "logloss"} | wanted == set(metrics)
            assert all(set(figure) == {"mean", "sd", "episodes"} for figure in metrics.values())
            assert metrics["mae"]["episodes"] == 8


def test_a_stranger_gets_the_same_metrics_from_the_scores(
    outcome: tuple[dict[str, dict[str, dict[str, dict[str, float]]]], pd.DataFrame, Path],
) -> None:
    """Plain loops that share no code with metarec."""
    protocols, scores, _ = outcome

    def ndcg(group: pd.DataFrame) -> float:
        gains = 2.0 ** group.sort_values("score", ascending=False, kind="stable").rating.to_numpy() - 1
        discounts = 1 / np.log2(np.arange(len(gains)) + 2)
        return float((gains * discounts)[:5].sum() / (np.sort(gains)[::-1] * discounts)[:5].sum())

    def logloss(group: pd.DataFrame) -> float:
        hit = (group.rating >= 4).to_numpy()
        return float(-np.log(np.where(hit, group.probability, 1 - group.probability)).mean())

    for (protocol, model), part in scores.groupby(["protocol", "model"], observed=True):
        found: dict[str, list[list[float]]] = {"mae": [], "rmse": [], "ndcg@5": [], "logloss": []}
        for _, of_seed in part.groupby("seed", observed=True):
            groups = [group for _, group in of_seed.groupby("episode_id", observed=True)]
            found["mae"].append([float((g.estimate - g.rating).abs().mean()) for g in groups])
            found["rmse"].append([float(((g.estimate - g.rating) ** 2).mean() ** 0.5) for g in groups])
            found["ndcg@5"].append([ndcg(g) for g in groups])
            found["logloss"].append([logloss(g) for g in groups])
        for metric, by_seed in found.items():
            means = [np.mean(values) for values in by_seed]
            assert protocols[protocol][model][metric]["mean"] == pytest.approx(np.mean(means), abs=1e-9), (model, metric)
            assert protocols[protocol][model][metric]["sd"] == pytest.approx(np.std(means, ddof=1), abs=1e-9)


def test_scores_hold_every_query_row_once_per_model_with_its_label(
    outcome: tuple[dict[str, dict[str, dict[str, dict[str, float]]]], pd.DataFrame, Path], episodes: Path
) -> None:
    asked = pd.read_csv(episodes, dtype={"seed": str}).query("role == 'query'")
    keys = ["protocol", "seed", "user_id", "item_id", "rating"]
    expected = sorted(asked[keys].astype({"rating": float}).itertuples(index=False, name=None))
    for _, part in outcome[1].groupby("model", observed=True):
        assert sorted(part[keys].itertuples(index=False, name=None)) == expected


def test_the_report_is_one_page(outcome: tuple[object, pd.DataFrame, Path]) -> None:
    page = outcome[2].read_text()
    assert page.startswith("<!doctype html>")
    assert "<svg" in page


def test_the_learner_beats_the_plain_baselines_where_taste_follows_the_genre(
    tiny_registry: Path, tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Users nobody has seen, who love one genre each: planted truth that a learner must find from ten ratings."""
    random = np.random.default_rng(1)
    rows = []
    for user in range(40):
        for place, item in enumerate(random.permutation(60)[:22]):
            rating = 5 if item % 4 == user % 4 else 2
            rows.append((f"fresh{user}", f"i{item}", rating, "support" if place < 10 else "query"))
    pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "role"]).to_parquet(tmp_path / "e.parquet")
    words = ("--checkpoint", tiny_registry, "--data", tiny_dataset.path, "--episodes", tmp_path / "e.parquet", "--json", "-")
    assert run(*words, "--shots", "0,10") == 0
    written = json.loads(capsys.readouterr().out)
    full, none = (written["protocols"][name]["alpaca"]["mae"]["mean"] for name in ("episodes@10", "episodes@0"))
    assert full < none
    assert full < written["protocols"]["episodes@10"]["bias"]["mae"]["mean"]
    assert run(*words, "--shots", "10") == 0
    single = json.loads(capsys.readouterr().out)
    assert set(single["protocols"]) == {"episodes"}
    assert single["protocols"]["episodes"]["alpaca"]["mae"]["mean"] == pytest.approx(full)


def test_without_episodes_the_learner_is_trained_anew_at_every_cut_and_held_out_users_follow(
    tiny_registry: Path, tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(
        "--checkpoint", tiny_registry, "--data", tiny_dataset.path, "--shots", "0,3",
        "--cuts", "0.7", "--json", tmp_path / "o.json", "--scores", tmp_path / "s.parquet",
    )  # fmt: skip
    assert code == 0
    shown = capsys.readouterr()
    assert "P5/cold: ndcg@20 after k shots" in shown.out
    assert "training recipe 'alpaca' anew at each of 1 cuts" in shown.err
    written = json.loads((tmp_path / "o.json").read_text())
    assert {"P5/cold@0", "P5/cold@3", "held_out@0", "held_out@3"} <= set(written["protocols"])
    assert set(written["protocols"]["P5/cold@3"]) == TOPN | {"alpaca"}
    assert written["deltas"]["P5/cold@3"]["alpaca"]["ndcg@20"]["baseline"] in TOPN
    assert written["calibration"]["held_out@3"]["alpaca"]["kind"] == "intervals"
    scores = pd.read_parquet(tmp_path / "s.parquet")
    lists = scores[(scores.protocol == "P5/cold@3") & (scores.model == "item_knn")]
    recall = lists.groupby("episode_id", observed=True).apply(
        lambda g: g.rating.sum() / min(20, g.targets.iloc[0]), include_groups=False
    )
    assert written["protocols"]["P5/cold@3"]["item_knn"]["recall@20"]["mean"] == pytest.approx(recall.mean())


def test_data_without_times_is_evaluated_on_held_out_users_and_refused_in_time_order(
    tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from metarec.training.loop import fit
    from metarec.training.manifest import Manifest
    from metarec.training.recipes import get_recipe
    from metarec.training.registry import Registry

    events = tiny_dataset.interactions
    still = replace(tiny_dataset, schema=replace(tiny_dataset.schema, timestamp=None))
    still = still.with_interactions(replace(events, timestamp_N=np.zeros(len(events)))).save(tmp_path / "data")
    recipe = get_recipe("alpaca").override({"epochs": "1", "model.embedding_dim": "4", "validation_fraction": "0.2"})
    manifest = Manifest(recipe=recipe, seed=0, data_fingerprint=still.fingerprint, created=0.0)
    Registry(tmp_path / "registry").publish(fit(still, recipe, seed=0), manifest)
    words = ("--checkpoint", tmp_path / "registry", "--data", still.path)
    assert run(*words, "--shots", "1,3", "--json", "-") == 0
    written = json.loads(capsys.readouterr().out)
    assert set(written["protocols"]) == {"held_out@1", "held_out@3", "held_out_lists@1", "held_out_lists@3"}
    assert any("no timestamps" in line for line in written["notes"])
    assert any("what training chose on the held-out users" in line for line in written["notes"])
    assert {"ials", "popularity", "alpaca"} <= set(written["protocols"]["held_out_lists@1"])
    assert run(*words, "--protocol", "temporal") == 1
    assert "temporal protocols need timestamps and the dataset has none" in capsys.readouterr().err


def test_episodes_of_items_start_from_content_and_learn_from_their_first_raters(
    tiny_registry: Path, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    """Items of one genre that are told to be another: the first raters give them away."""
    random = np.random.default_rng(3)
    rows = []
    for item in ("i0", "i4", "i9", "i13"):
        loving = 1 + int(item[1:]) % 4
        users = [f"u{k}" for k in random.permutation(80)[:50]]
        for place, user in enumerate(users):
            liked = int(user[1:]) % 4 == loving % 4
            rows.append((item, user, 5 if liked else 2, "support" if place < 30 else "query"))
    rows.append(("i0", "stranger", 3, "query"))
    path = tmp_path / "items.parquet"
    pd.DataFrame(rows, columns=["item_id", "user_id", "rating", "role"]).to_parquet(path)
    code = run(
        "--checkpoint", tiny_registry, "--data", tiny_dataset.path, "--episodes", path, "--kind", "item", "--shots", "0,5,30",
        "--json", tmp_path / "o.json", "--scores", tmp_path / "s.parquet",
    )  # fmt: skip
    assert code == 0
    outcome = json.loads((tmp_path / "o.json").read_text())
    curve = [outcome["protocols"][f"episodes@{k}"]["alpaca"]["mae"]["mean"] for k in (0, 5, 30)]
    assert curve[0] > curve[1] > curve[2]
    assert "affinity" in outcome["protocols"]["episodes@5"]
    assert any("1 users are not in the dataset" in note for note in outcome["notes"])
    scores = pd.read_parquet(tmp_path / "s.parquet")
    assert set(scores.item_id) == {"i0", "i4", "i9", "i13"}
    assert "stranger" in set(scores.user_id)


def test_held_out_users_who_cannot_be_asked_cost_no_lists_in_time_order(
    tiny_registry: Path, tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They have 14 interactions each: ten shots leave four."""
    asked: list[object] = []
    monkeypatch.setattr(evaluate_protocols, "_temporal", lambda *words: asked.append(words) or [])
    command = ("--checkpoint", tiny_registry, "--data", tiny_dataset.path)
    assert run(*command) == 0
    said = capsys.readouterr().err
    assert "note: not evaluated on held-out users: no held-out user has 15 interactions" in said
    assert "note: P5/cold is left out: after no cut" in said
    assert len(asked) == 1
    # Asked for by name it is an error, and one that comes before anything is trained.
    assert run(*command, "--protocol", "temporal", "--protocol", "held-out") == 1
    assert "error: no held-out user has 15 interactions" in capsys.readouterr().err
    assert len(asked) == 1


def test_cuts_that_leave_nothing_to_train_on_cost_no_held_out_users(
    tiny_registry: Path, tiny_dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("--checkpoint", tiny_registry, "--data", tiny_dataset.path, "--shots", "0,3", "--cuts", "0.0001")
    assert run(*command) == 0
    said = capsys.readouterr()
    assert "note: not evaluated in time order (P5): at the cut at 0% head" in said.err
    assert "held_out: mae after k shots" in said.out
    assert run(*command, "--protocol", "temporal") == 1
    assert "error: at the cut at 0% head" in capsys.readouterr().err


@pytest.mark.parametrize("times", [True, False])
def test_where_all_labels_are_alike_only_lists_are_judged(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], times: bool
) -> None:
    """Any order of given items is the best one then: figures of it would be 1, whoever ranks."""
    events = tiny_dataset.interactions
    same = replace(events, label_N=np.ones_like(events.label_N), timestamp_N=events.timestamp_N * times)
    schema = replace(tiny_dataset.schema, label=Label(column="bought", kind="binary"))
    dataset = replace(tiny_dataset, schema=schema, interactions=same).save(tmp_path / "data")
    recipe = get_recipe("alpaca").override({"epochs": "1", "batch_size": "16", "model.embedding_dim": "4"})
    manifest = Manifest(recipe=recipe, seed=0, data_fingerprint=dataset.fingerprint, created=1.0)
    save_checkpoint(fit(dataset, recipe, seed=0), tmp_path / "c", manifest)
    monkeypatch.setattr(evaluate_protocols, "_temporal", lambda *_: [])
    command = ("--checkpoint", tmp_path / "c", "--data", dataset.path)
    assert run(*command, "--shots", "0,3", "--json", tmp_path / "o.json") == 0
    outcome = json.loads((tmp_path / "o.json").read_text())
    assert set(outcome["protocols"]) == (set() if times else {"held_out_lists@0", "held_out_lists@3"})
    assert any("all labels that are asked for are alike" in note for note in outcome["notes"])
    capsys.readouterr()
    assert run(*command, "--ablate", "blank") == 1
    assert "error: all labels of the dataset are alike" in capsys.readouterr().err
    rows = [("u1", f"i{item}", 1, "query") for item in range(6)]
    path = tmp_path / "same.csv"
    pd.DataFrame(rows, columns=["user_id", "item_id", "bought", "role"]).to_csv(path, index=False)
    assert run(*command, "--episodes", path) == 0
    assert "note: all labels that are asked for are alike: auc, ndcg and the like say nothing here" in capsys.readouterr().err


def test_bad_files_and_wrong_use_end_with_2_and_one_line(
    tiny_registry: Path, tiny_dataset: Dataset, episodes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--checkpoint", tiny_registry, "--data", tiny_dataset.path)
    bad = tmp_path / "bad.csv"
    pd.read_csv(episodes).assign(rating=9).to_csv(bad, index=False)
    scores = tmp_path / "s.parquet"
    assert run(*words, "--episodes", bad, "--scores", scores) == 2
    assert f"error: file '{bad}', column 'rating', row 1: label is above the schema's maximum 5" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [bad]  # no half of a score file
    assert run(*words, "--shots", "x") == 2
    assert run(*words, "--episodes", episodes, "--cuts", "0.5") == 2
    for cuts in ("0.9,0.5", "1.5", "0", "nan"):
        assert run(*words, "--cuts", cuts) == 2
    assert run(*words, "--kind", "item") == 2
    for option in (["--episodes", episodes], ["--protocol", "temporal"], ["--ablate", "blank"], ["--profiles"]):
        assert run(*words, "--alone", *option) == 2
    assert run("--checkpoint", tmp_path / "none", "--data", tiny_dataset.path) == 1
    assert "neither a checkpoint nor a registry" in capsys.readouterr().err


def test_data_of_another_schema_is_refused(
    tiny_registry: Path, tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(tiny_dataset, schema=replace(tiny_dataset.schema, item_title=None)).save(tmp_path / "data")
    assert run("--checkpoint", tiny_registry, "--data", other.path) == 1
    assert "was trained with schema" in capsys.readouterr().err


def test_help_shows_an_example_at_once() -> None:
    help_text = subprocess.run(
        [sys.executable, "-c", "from metarec.cli.main import main; main(['evaluate', '--help'])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "Example: metarec evaluate --checkpoint registry" in help_text


def test_scenarios_of_the_dataset_with_and_without_what_others_do_there(
    tiny_dataset: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events = tiny_dataset.interactions
    where_N = np.arange(len(events)) % 2
    label_N = np.where(where_N == 1, np.maximum(1.0, events.label_N - 1.5), events.label_N).astype(np.float32)
    told = replace(events, label_N=label_N, scenario_N=where_N.astype(np.int16), scenarios=("web", "app"))
    changed = replace(tiny_dataset, schema=replace(tiny_dataset.schema, scenario="where"), interactions=told)
    dataset = changed.save(tmp_path / "data")
    recipe = get_recipe("alpaca").override(
        {"epochs": "3", "batch_size": "16", "model.embedding_dim": "4", "validation_fraction": "0.3"}
    )
    manifest = Manifest(recipe=recipe, seed=0, data_fingerprint=dataset.fingerprint, created=1.0)
    save_checkpoint(fit(dataset, recipe, seed=0), tmp_path / "c", manifest)
    command = ("--checkpoint", tmp_path / "c", "--data", dataset.path, "--kind", "scenario")
    assert run(*command, "--leave-out", "--shots", "0", "--json", tmp_path / "o.json") == 0
    printed = capfd.readouterr().out
    assert "users alone" in printed
    assert "trained from scratch" in printed
    figures = json.loads((tmp_path / "o.json").read_text())
    assert set(figures["scenarios"]) == {"web", "app"}
    assert {(row["scenario"], row["model"]) for row in figures["known"]} == {
        (scenario, model) for scenario in ("web", "app") for model in ("users alone", "within the scenario")
    }
    assert {row["size"] for row in figures["left_out"]} > {0, 100}
    assert run("--checkpoint", tmp_path / "c", "--data", dataset.path, "--leave-out") == 2
    assert run(*command, "--episodes", "x.csv") == 2
    assert "--kind scenario takes only" in capfd.readouterr().err
