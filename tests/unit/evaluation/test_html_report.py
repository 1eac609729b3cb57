"""The report is one page that needs nothing else and holds what people look for."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from metarec.evaluation.calibration import Calibration
from metarec.evaluation.html_report import render
from metarec.evaluation.results import ProtocolResult, Report
from metarec.evaluation.tables import curve_table, headline, main_table, order

CALIBRATION = Calibration(kind="intervals", expected=(0.5, 0.9), observed=(0.45, 0.88), count=(9, 9), error=0.035)


def protocol(name: str, base: str, shots: int | None, *, better: float = 0.2) -> ProtocolResult:
    random = np.random.default_rng(len(name))
    plain_T = random.uniform(0.6, 1.0, 30)
    models = {"alpaca": plain_T - better, "bias": plain_T, "popularity <&>": plain_T + 0.1}
    return ProtocolResult(
        name=name,
        base=base,
        shots=shots,
        learner="alpaca",
        joint="",
        seed_T=np.zeros(30),
        user_T=np.arange(30),
        values={model: {"mae": value_T, "ndcg@5": 1 - value_T / 2} for model, value_T in models.items()},
        calibration={"alpaca": CALIBRATION},
    )


@pytest.fixture(scope="module")
def report() -> Report:
    return Report(
        learner="alpaca",
        facts={"id": "c-1-abc", "recipe": "alpaca", "data": "data/x", "created": 1_700_000_000.0, "seed": 0},
        protocols=[
            protocol("users@0", "users", 0, better=-0.2),
            protocol("users@5", "users", 5),
            protocol("warm", "warm", None, better=0.0),
        ],
        notes=["3 items are not in the dataset: they have no content"],
    )


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


def test_intervals_over_a_handful_of_users_are_no_verdict() -> None:
    many = protocol("warm", "warm", None, better=0.2)
    for count, word in ((1, "over 1 user: they say nothing"), (3, "over 3 users: they say little")):
        few = replace(many, user_T=np.arange(30) % count)
        assert word in main_table(few).note
        assert word in curve_table("warm", [few, few], "mae").note
        report = Report(learner="alpaca", facts={"id": "c", "created": 0.0}, protocols=[few])
        assert 'class="card open"' in render(report)
    assert "Intervals" not in main_table(many).note


def test_labels_of_hundreds_are_shown_with_linear_gains_and_a_word_about_it() -> None:
    graded = protocol("users@5", "users", 5)
    values = {model: {**by, "ndcg_linear@5": by["ndcg@5"]} for model, by in graded.values.items()}
    steep = replace(graded, values=values, steep=True)
    for table in (main_table(steep), curve_table("users", [steep, steep], "ndcg_linear@5")):
        assert "linear gain" in table.note
    assert {"ndcg_linear@5"} == {column for row in main_table(steep).rows for column in row if "ndcg" in column}
    assert "ndcg_linear@5 +" in main_table(steep).note
    assert "linear" not in main_table(graded).note


def test_of_clicks_auc_and_log_loss_lead_and_the_error_stands_behind() -> None:
    def clicks(name: str, shots: int, auc: float = 0.7) -> ProtocolResult:
        graded = protocol(name, "users", shots)
        more = {"auc": np.full(30, auc), "logloss": np.full(30, 0.6)}
        return replace(graded, values={model: {**by, **more} for model, by in graded.values.items()}, binary=True)

    points = [clicks("users@0", 0), clicks("users@5", 5)]
    assert headline(points[0]) == ("auc", "logloss")
    assert list(main_table(points[0]).rows[0])[:5] == ["model", "auc", "95 % of auc", "logloss", "mae"]
    assert main_table(points[0]).note.startswith("Delta: auc ")
    page = render(Report(learner="alpaca", facts={"id": "c", "created": 0.0}, protocols=points))
    assert re.findall(r"users: (\S+) after k shots", page) == ["auc", "logloss"]
    assert headline(clicks("users@0", 0, auc=np.nan)) == ("logloss", "ndcg@5")  # all labels are alike
    assert headline(protocol("users@0", "users", 0)) == ("mae", "ndcg@5")
    ranker = replace(points[0], values={"alpaca": {"auc": np.full(30, 0.7), "ndcg@5": np.full(30, 0.5)}})
    assert headline(ranker) == ("auc", "ndcg@5")


def test_the_page_loads_nothing_from_anywhere(page: str) -> None:
    attributes = re.findall(r'(?:src|href|srcset|action|data)\s*=\s*["\']?([^"\'\s>]+)', page)
    assert all(value.startswith(("#", "data:")) for value in attributes)
    assert "<script" not in page
    assert "<link" not in page
    assert "@import" not in page
    assert not re.findall(r"url\((?!#)", page)


def test_the_page_is_well_formed_and_escapes_names(page: str) -> None:
    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert "popularity &lt;&amp;&gt;" in page
    assert "popularity <&>" not in page


def test_the_page_has_curve_comparison_calibration_and_explanations(page: str) -> None:
    for heading in ("the first few interactions", "Cold against warm", "Calibration", "All figures", "How to read this"):
        assert heading in page
    assert page.count("<svg") >= 4
    assert "3 items are not in the dataset" in page
    assert "c-1-abc" in page


def test_cards_say_whether_the_learner_is_better_beyond_chance(page: str) -> None:
    kinds = re.findall(r'class="card (\w+)">([^<]+)<', page)
    assert kinds == [("bad", "users@0"), ("good", "users@5"), ("open", "warm")]


def test_the_best_of_each_column_is_marked(page: str, report: Report) -> None:
    best = min(report.protocols[1].mean(model, "mae") for model in report.protocols[1].values)
    assert f'<td class="best">{best:.4f}</td>' in page


def test_the_same_report_gives_the_same_page(report: Report, page: str) -> None:
    assert render(report) == page


def test_tables_put_the_learner_first_and_baselines_from_best_to_worst(report: Report) -> None:
    assert order(report.protocols[0]) == ["alpaca", "bias", "popularity <&>"]
    rows = curve_table("users", report.protocols[:2], "mae").rows
    assert list(rows[0]) == ["model", "k=0", "k=5"]
    assert "Delta: mae" in main_table(report.protocols[1]).note


def test_json_has_the_shape_of_p6(report: Report) -> None:
    protocols = report.to_dict()["protocols"]
    assert isinstance(protocols, dict)
    assert set(protocols) == {"users@0", "users@5", "warm"}
    assert set(protocols["warm"]["alpaca"]["mae"]) == {"mean", "sd", "episodes"}
    assert protocols["warm"]["alpaca"]["mae"]["episodes"] == 30
