"""docs/api.md says what the code does: reasons, limits and deadlines of the page are those of the code."""

import re
from pathlib import Path

from metarec import errors
from metarec.client.policy import deadlines
from metarec.errors import MetarecError
from services.gateway import validation
from services.runtime.convert import MAX_ID_BYTES
from services.runtime.interceptors import DEFAULT_DEADLINE_SECONDS
from services.runtime.server import MAX_MESSAGE_BYTES
from services.runtime.settings import DEFAULT_PORTS, ENVIRONMENT, Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()


def row(start: str) -> str:
    return next(line for line in PAGE.splitlines() if line.startswith(f"| {start}"))


def test_every_reason_stands_in_the_error_table_with_its_code() -> None:
    tree = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MetarecError)]
    table = dict.fromkeys(re.findall(r"^\| ([A-Z_]+) \| ([A-Z_, ]+) \|", PAGE, re.MULTILINE))
    documented = {(code, reason) for code, reasons in table for reason in reasons.split(", ")}
    assert documented == {(kind.code, kind.reason) for kind in tree}


def test_limits_are_those_of_the_code() -> None:
    assert f"1 to {MAX_ID_BYTES} bytes" in row("ids of")
    assert f"1 to {validation.MAX_ITEMS}; 0 means {validation.DEFAULT_ITEMS}" in row("`num_items`")
    assert str(validation.MAX_EXCLUDED) in row("`exclude_item_ids`")
    assert f"1 to {validation.MAX_BATCH}" in row("interactions, items or users")
    assert f"{MAX_MESSAGE_BYTES // 2**20} MiB" in row("one message")
    assert f"({Settings(service='gateway').max_concurrent_requests})" in row("requests at once")


def test_deadlines_are_those_of_the_policy() -> None:
    assert f"| {deadlines()['metarec.v1.GatewayService/Recommend']:g} s |" in row("Recommend, Explain")
    assert f"| {deadlines()['metarec.v1.TrainingService/ListCheckpoints']:g} s |" in row("jobs and checkpoints")
    assert f"| {deadlines()['metarec.v1.GatewayService/RecordInteractions']:g} s |" in row("RecordInteractions")
    assert f"| {deadlines()['metarec.v1.GatewayService/DeleteUser']:g} s |" in row("DeleteUser")
    assert f"gets {DEFAULT_DEADLINE_SECONDS:g} s from the server" in PAGE


def test_ports_and_settings_are_those_of_the_code() -> None:
    for service, port in DEFAULT_PORTS.items():
        assert f"| {port} |" in row(f"`{service.capitalize()}Service`")
    assert set(re.findall(r"METAREC_[A-Z_]+[A-Z]", PAGE)) <= set(ENVIRONMENT)
