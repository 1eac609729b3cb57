"""The report of an evaluation: one HTML page without external resources, for reading on a screen and on paper."""

import time
from html import escape
from importlib.resources import files
from string import Template

from metarec.evaluation import plots
from metarec.evaluation.metrics import LOWER_IS_BETTER
from metarec.evaluation.results import MEDIAN, ProtocolResult, Report
from metarec.evaluation.tables import FEW_USERS, Table, ablation_table, curve_table, headline, main_table
from metarec.version import __version__

READING = (
    ("support, query", "What a model is shown of a user (k interactions: “k shots”) and what it is then asked."),
    ("learner", "The meta-learned model under evaluation; its rows are tinted."),
    (
        "plain baselines",
        "Simple methods with tuned settings. A learner is worth its trouble only where it beats the best of them.",
    ),
    (
        "Delta",
        "How much better the learner is than the best plain baseline, in percent of the baseline; brackets: 95 % interval.",
    ),
    ("95 % intervals", "Bootstrap over users: what would vary had other users been drawn. Delta draws the same users for both."),
    ("mae, rmse", "Error of predicted ratings, in units of the rating: lower is better. Rows “_median” give the median grade."),
    ("auc", "How often a row that was liked is placed above one that was not: 1 is perfect, .5 is chance."),
    ("logloss", "How little the predicted probability of what happened was, as -log of it: lower is better."),
    ("ndcg@k, recall@k", "How good the first k places of a ranking are: 1 is perfect."),
    ("coverage@20", "Share of the catalogue that appears in anybody's list of 20."),
    (
        "calibration",
        "Whether an interval that should hold 80 % of the ratings does; the error is the mean distance from the diagonal.",
    ),
)

CURVE = "Each model is shown the first k interactions of a user and asked for the rest. The band is the learner's 95 % interval."
ABLATION = (
    "How much better the learner is with a group of features than without it; the bar is the 95 % interval over users. Right of "
    "the line the group helps."
)
CALIBRATION = "Is a model as sure as it should be? Below the diagonal its intervals are too narrow, above it too wide."


def render(report: Report) -> str:
    """The page."""
    parts = [
        f"<h1>metarec evaluation: {escape(report.learner)}</h1>",
        f'<p class="quiet">{_facts(report)}</p>',
        _cards(report),
        "".join(f"<p><b>Note.</b> {escape(line)}.</p>" for line in report.notes),
    ]
    curves = report.curves()
    for base, points in curves.items():
        parts.append(f"<h2>{escape(base)}: the first few interactions</h2>")
        parts.append(f"<p>{CURVE}</p>")
        for metric in headline(points[-1]):
            parts.append(f"<figure>{plots.curve(points, metric)}</figure>")
            parts.append(_table(curve_table(base, points, metric), points[-1]))
    parts += _comparison(report)
    calibrated = [p for p in report.protocols if p.calibration and (p.name == p.base or p is curves.get(p.base, [p])[-1])]
    calibrated = [p for p in calibrated if p.name == p.base or not _whole(report, p.base)]
    if calibrated:
        parts.append("<h2>Calibration</h2>")
        parts.append(
            "<p>Is a model as sure as it should be? Below the diagonal its intervals are too narrow, above it too wide.</p>"
        )
        for protocol in calibrated:
            parts.append(f"<h3>{escape(protocol.name)}</h3><figure>{plots.reliability(protocol)}</figure>")
            parts.append(_calibration(protocol))
    parts += _ablations(report)
    parts.append("<h2>How to read this</h2><dl>")
    parts.append("".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in READING) + "</dl>")
    parts.append("<h2>All figures</h2>")
    for protocol in report.protocols:
        parts.append(f"<h3>{escape(protocol.name)}</h3>{_table(main_table(protocol), protocol)}")
    page = Template(files("metarec.evaluation").joinpath("report.html").read_text())
    return page.substitute(title=f"metarec evaluation: {escape(report.learner)}", body="\n".join(parts))


def _facts(report: Report) -> str:
    facts = dict(report.facts)
    created = facts.get("created")
    shown = [
        f"checkpoint {facts.get('id', '?')}",
        f"recipe {facts.get('recipe', '?')}",
        f"data {facts.get('data', '?')}",
        "" if not isinstance(created, float) else f"trained {time.strftime('%Y-%m-%d %H:%M', time.gmtime(created))} UTC",
        f"seed {facts.get('seed', '?')}",
        f"metarec {__version__}",
    ]
    return escape(" · ".join(part for part in shown if part))


def _cards(report: Report) -> str:
    """Delta of the first headline metric of every protocol; points of a curve only where the whole support has no card."""
    cards = []
    for protocol in report.protocols:
        if protocol.name != protocol.base and _whole(report, protocol.base):
            continue
        metric = headline(protocol)[0]
        found = protocol.deltas.get(protocol.learner, {}).get(metric)
        if found is None:
            continue
        low, high = found.interval
        told = protocol.num_users >= FEW_USERS
        kind = "good" if told and low > 0 else "bad" if told and high < 0 else "open"
        detail = f"{metric}, {100 * low:+.1f} to {100 * high:+.1f}<br>against {escape(found.baseline)}"
        cards.append(
            f'<div class="card {kind}">{escape(protocol.name)}<b>{100 * found.value:+.1f} %</b>'
            f'<span class="quiet">{detail}</span></div>'
        )
    if not cards:
        return ""
    return (
        "<p>Delta, the learner against the best plain baseline. Green: better beyond chance; red: worse; grey: within chance.</p>"
        f'<div class="cards">{"".join(cards)}</div>'
    )


def _whole(report: Report, base: str) -> bool:
    """Whether a protocol was also run with the whole support of its episodes."""
    return any(protocol.name == base for protocol in report.protocols)


def _comparison(report: Report) -> list[str]:
    """Cold against warm: one bar chart for the protocols that share a metric."""
    curves = report.curves()
    parts = []
    for metric in dict.fromkeys(headline(protocol)[0] for protocol in report.protocols):
        mine = [p for p in report.protocols if headline(p)[0] == metric]
        # A curve is represented by the whole support, else by its two ends.
        ends = [
            p
            for p in mine
            if p.base not in curves
            or (p.name == p.base if _whole(report, p.base) else p in (curves[p.base][0], curves[p.base][-1]))
        ]
        if len({p.base for p in ends}) < 2:
            continue
        better = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
        parts.append(f"<h2>Cold against warm: {metric} ({better})</h2><figure>{plots.groups(ends, metric)}</figure>")
    return parts


def _ablations(report: Report) -> list[str]:
    """What each group of features contributes."""
    if not report.ablations:
        return []
    parts = ["<h2>What the features contribute</h2>", f"<p>{ABLATION}</p>"]
    for found in report.ablations:
        parts.append(f"<h3>{escape(found.protocol)}</h3><figure>{plots.contributions(found)}</figure>")
        parts.append(_table(ablation_table(found), None, mark=False))
    return parts


def _table(table: Table, protocol: ProtocolResult | None, *, mark: bool = True) -> str:
    columns = list(table.rows[0]) if table.rows else []
    best = {column: _best(table, column) if mark else None for column in columns}
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = []
    for row in table.rows:
        cells = []
        for column in columns:
            value = row.get(column)
            text = "-" if value is None else f"{value:.4f}" if isinstance(value, float) else escape(str(value))
            cells.append(f'<td class="best">{text}</td>' if value is not None and value == best[column] else f"<td>{text}</td>")
        mine = protocol is not None and str(row["model"]).removesuffix(MEDIAN) == protocol.learner
        body.append(f"<tr{' class=learner' if mine else ''}>{''.join(cells)}</tr>")
    note = f'<p class="quiet">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<p class="quiet">{escape(table.title)}</p><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>{note}"
    )


def _best(table: Table, column: str) -> float | None:
    values = [value for row in table.rows if isinstance(value := row.get(column), float)]
    if not values:
        return None
    metric = table.metric if column.startswith("k=") else column
    return min(values) if metric in LOWER_IS_BETTER else max(values)


def _calibration(protocol: ProtocolResult) -> str:
    """The reliability of every model as a table."""
    rows: list[dict[str, object]] = []
    for model, table in protocol.calibration.items():
        row: dict[str, object] = {"model": model, "calibration error": table.error}
        if table.kind == "intervals":
            row |= {f"{level:.0%}": value for level, value in zip(table.expected, table.observed, strict=True)}
        rows.append(row)
    return _table(Table(title="Share of labels inside the interval of each nominal level.", rows=rows), protocol, mark=False)
