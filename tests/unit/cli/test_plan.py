import socket
from pathlib import Path

import pytest

from metarec.cli.plan import Plan, choose_ports
from metarec.cli.ports import free_ports
from metarec.errors import FailedPreconditionError, InvalidInputError
from services.runtime.settings import DEFAULT_PORTS, Settings

NONE = dict.fromkeys(DEFAULT_PORTS)


def a_plan(tmp_path: Path, **changes: object) -> Plan:
    values: dict[str, object] = {"registry": tmp_path / "registry", "state": tmp_path / "state", "data": None}
    values |= {"online_store": "sqlite", "host": "127.0.0.1", "ports": DEFAULT_PORTS}
    return Plan(**{**values, **changes})


@pytest.mark.parametrize("service", DEFAULT_PORTS)
def test_every_service_reads_its_settings_from_the_environment_it_gets(tmp_path: Path, service: str):
    plan = a_plan(tmp_path, data=tmp_path / "data", ports={name: 9000 + k for k, name in enumerate(DEFAULT_PORTS)})
    settings = Settings.from_environment(service, plan.environment(service, {}))
    assert settings.port == plan.ports[service]
    assert settings.state == tmp_path / "state" / service
    assert (settings.registry, settings.features) == (tmp_path / "registry", tmp_path / "registry" / "features")
    assert settings.data == tmp_path / "data"
    assert settings.recall_address == "127.0.0.1:9001"
    assert settings.training_address == "127.0.0.1:9004"


def test_settings_of_the_users_shell_do_not_reach_services_unless_they_mean_something_there(tmp_path: Path):
    shell = {"PATH": "/bin", "METAREC_PROT": "1", "METAREC_PORT": "7", "METAREC_DATA": "old", "METAREC_LOG_LEVEL": "DEBUG"}
    environment = a_plan(tmp_path).environment("recall", shell)
    assert environment["PATH"] == "/bin"
    assert environment["METAREC_LOG_LEVEL"] == "DEBUG"
    assert environment["METAREC_PORT"] == "50052"
    assert "METAREC_PROT" not in environment
    assert "METAREC_DATA" not in environment


def test_files_of_the_shell_are_named_absolutely_and_impressions_have_a_place(tmp_path: Path):
    environment = a_plan(tmp_path).environment("ranking", {"METAREC_RULES": "rules.yaml"})
    assert environment["METAREC_RULES"] == str(Path("rules.yaml").absolute())
    assert environment["METAREC_IMPRESSIONS"] == str(tmp_path / "state" / "gateway" / "impressions.jsonl")
    assert a_plan(tmp_path).environment("ranking", {"METAREC_RULES": ""})["METAREC_RULES"] == ""


def test_only_the_gateway_listens_on_the_host(tmp_path: Path):
    plan = a_plan(tmp_path, host="0.0.0.0")
    assert plan.environment("gateway", {})["METAREC_HOST"] == "0.0.0.0"
    assert plan.environment("ranking", {})["METAREC_HOST"] == "127.0.0.1"
    assert plan.addresses["gateway"] == "127.0.0.1:50051"
    assert a_plan(tmp_path, host="::1").addresses["gateway"] == "[::1]:50051"


def test_ports_are_named_or_follow_from_the_base():
    base = free_ports("127.0.0.1", 1)[0]
    (other,) = free_ports("127.0.0.1", 1)
    base = base if base + 4 < 65536 else base - 4
    ports = choose_ports("127.0.0.1", base, {**NONE, "recall": other})
    assert ports == {"gateway": base, "recall": other, "adaptation": base + 2, "ranking": base + 3, "training": base + 4}


def test_base_0_means_five_different_free_ports():
    ports = choose_ports("127.0.0.1", 0, NONE)
    assert len(set(ports.values())) == 5
    assert 0 not in ports.values()


def test_a_port_in_use_is_refused_with_the_process_that_has_it():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            FailedPreconditionError, match=rf"port {port} \(ranking\) is in use by process \d+ \(.*python.*--port-base"
        ):
            choose_ports("127.0.0.1", 0, {**NONE, "ranking": port})


def test_one_port_for_two_services_is_refused():
    (port,) = free_ports("127.0.0.1", 1)
    with pytest.raises(InvalidInputError, match=f"port {port} is given to two services"):
        choose_ports("127.0.0.1", 0, {**NONE, "ranking": port, "recall": port})


def test_a_host_that_is_not_this_machine_is_refused():
    with pytest.raises(InvalidInputError, match=r"cannot listen on '192\.0\.2\.1'"):
        choose_ports("192.0.2.1", 0, NONE)
