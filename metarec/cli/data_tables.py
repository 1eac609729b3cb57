"""How `metarec data` prints imports and datasets for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metarec.cli.output import cell, note, print_json, print_table

if TYPE_CHECKING:
    from metarec.data.importing import Imported


def print_import(imported: "Imported", as_json: bool) -> None:
    """What an import made and found."""
    if as_json:
        print_json(imported.to_dict())
        return
    print_report([table.to_dict() for table in imported.report.tables], imported.report.findings())
    note(
        f"'{imported.path}' holds {imported.users:,} users, {imported.items:,} items and {imported.interactions:,} interactions "
        f"(fingerprint {imported.fingerprint})"
    )


def print_report(tables: Sequence[dict[str, object]], findings: Sequence[dict[str, object]]) -> None:
    """Counts of the files and what was dropped or changed."""
    print_table(tables, columns=["table", "file", "read", "kept", "bad"], title="Files")
    if not findings:
        print("Nothing was dropped or changed.")
        return
    rows = [{**finding, "share": f"{finding['share']:.2%}", "bad": "yes" if finding["bad"] else ""} for finding in findings]
    names = ["table", "column", "problem", "action", "rows", "share", "bad", "first_row", "first_value"]
    print_table(rows, columns=names, title="What was dropped or changed")


def overview(summary: dict[str, Any]) -> list[dict[str, object]]:
    """The figures of a dataset that are not per field."""
    rows = [(name, summary[name]) for name in ("users", "items", "interactions", "fingerprint")]
    rows.append(("density", f"{summary['density']:.2%}"))
    for side in ("user", "item"):
        per = summary[f"interactions_per_{side}"]
        spread = f"{per['minimum']} to {per['maximum']}, median {per['median']:g}, mean {per['mean']:.1f}"
        rows.append((f"interactions per {side}", f"{spread}; {per['without']:,} without" if per else "-"))
    label, time, graph = summary["label"], summary["time"], summary["graph"]
    rows.append(
        (f"label '{label['column']}'", f"{label['kind']}, mean {cell(label['mean'])}, deviation {cell(label['deviation'])}")
    )
    for target in summary["targets"]:
        figures = f"{target['kind']}, mean {cell(target['mean'])}, deviation {cell(target['deviation'])}"
        rows.append((f"target '{target['column']}'", f"{figures}; {target['missing']:,} without"))
    rows.append(("time", f"{time['first']} to {time['last']} ({time['days']:.0f} days)" if time else "none"))
    if graph:
        rows.append(
            (
                "knowledge graph",
                f"{graph['triples']:,} triples, {graph['relations']} relations, {graph['entities']:,} entities, "
                f"{graph['linked_items']:,} items linked",
            )
        )
    return [{"": name, "value": value} for name, value in rows]
