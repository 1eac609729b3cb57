import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarec.data.repeats import Buckets
from metarec.data.report import TableReport
from metarec.data.schema import Label, Schema

SCHEMA = Schema(user_id="u", item_id="i", label=Label(column="r", kind="rating", minimum=1, maximum=5), timestamp="t")

EVENT = st.tuples(
    st.integers(0, 2), st.integers(0, 2), st.sampled_from([0.0, 1.5]), st.integers(0, 1), st.sampled_from([1.0, 2.0])
)


@given(events=st.lists(EVENT, min_size=1, max_size=60), cut=st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_of_equal_events_the_last_stands_and_the_rest_is_counted(tmp_path_factory, events, cut):
    report = TableReport(table="interactions", file="f", max_bad=None)
    user, item, time, scenario, label = (np.array(column) for column in zip(*events, strict=True))
    columns = {"user": user, "item": item, "timestamp": time, "scenario": scenario, "label": label}
    columns["row"] = np.arange(1, len(events) + 1)
    folder = tmp_path_factory.mktemp("buckets")
    with Buckets(folder) as buckets:
        for part in (slice(0, cut), slice(cut, None)):
            buckets.add({name: column[part] for name, column in columns.items()})
        replaced = buckets.repeated(report, SCHEMA, lambda done, note: None)
    assert not list(folder.iterdir())
    last = {event[:4]: k for k, event in enumerate(events)}
    expected = [last[event[:4]] != k for k, event in enumerate(events)]
    assert replaced.tolist() == expected
    equal = sum(last[event[:4]] != k and events[last[event[:4]]] == event for k, event in enumerate(events))
    counts = {finding.problem: finding.rows for finding in report.findings.values()}
    assert counts.get("row repeats another", 0) == equal
    assert counts.get("same user, item and time again with another label", 0) == sum(expected) - equal


def test_buckets_are_deleted_when_reading_fails(tmp_path):
    def fail() -> None:
        with Buckets(tmp_path):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())
