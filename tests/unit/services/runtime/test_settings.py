from pathlib import Path

import pytest

from metarec.errors import ConfigError
from services.runtime.settings import DEFAULT_PORTS, ENVIRONMENT, Settings


def test_every_service_has_defaults_that_work_on_one_machine() -> None:
    for service, port in DEFAULT_PORTS.items():
        settings = Settings.from_environment(service, {})
        assert (settings.host, settings.port) == ("127.0.0.1", port)
        assert settings.features == settings.registry / "features"
        if service != "gateway":
            assert getattr(settings, f"{service}_address", f"127.0.0.1:{port}") == f"127.0.0.1:{port}"


def test_values_come_from_the_environment_and_empty_ones_count_as_unset() -> None:
    settings = Settings.from_environment(
        "recall",
        {
            "METAREC_HOST": "0.0.0.0",
            "METAREC_PORT": "7",
            "METAREC_REGISTRY": "/r",
            "METAREC_STATE": "/s",
            "METAREC_DATA": "",
            "METAREC_DRAIN_SECONDS": "1.5",
            "METAREC_ONLINE_STORE": "redis://redis:6379",
            "METAREC_LOG_LEVEL": "debug",
            "METAREC_RANKING_ADDRESS": "ranking:50054",
            "PATH": "/bin",
        },
    )
    assert (settings.host, settings.port, settings.state) == ("0.0.0.0", 7, Path("/s"))
    assert (settings.registry, settings.features, settings.data) == (Path("/r"), Path("/r/features"), None)
    assert (settings.drain_seconds, settings.online_store, settings.log_level) == (1.5, "redis://redis:6379", "DEBUG")
    assert settings.ranking_address == "ranking:50054"


def test_an_unknown_name_is_refused_and_the_known_ones_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'METAREC_REGISTERY'; known: .*METAREC_REGISTRY"):
        Settings.from_environment("recall", {"METAREC_REGISTERY": "/r"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("METAREC_PORT", "http"),
        ("METAREC_PORT", "70000"),
        ("METAREC_DRAIN_SECONDS", "-1"),
        ("METAREC_DRAIN_SECONDS", "nan"),
        ("METAREC_LAUNCHER", "slurm"),
        ("METAREC_LOG_LEVEL", "loud"),
        ("METAREC_ONLINE_STORE", "mysql://x"),
        ("METAREC_ONLINE_STORE", "redis://:a/b@h:6379/0"),
        ("METAREC_RECALL_ADDRESS", "recall"),
        ("METAREC_MAX_CONCURRENT_REQUESTS", "0"),
        ("METAREC_DIVERSITY", "1.5"),
        ("METAREC_EXPLORATION", "-0.1"),
        ("METAREC_EXPLORATION", "nan"),
        ("METAREC_EXPLORATION_POLICY", "greedy"),
        ("METAREC_EXPLORATION_COLD_SHOTS", "-1"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        Settings.from_environment("gateway", {name: value})
    assert caught.value.field == name


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(ConfigError, match="METAREC_TLS_KEY"):
        Settings.from_environment("gateway", {"METAREC_TLS_CERT": "/c"})


def test_every_setting_is_documented() -> None:
    # `metarec_gateway_*` and `metarec_cache` belong to the command line; every other name sets a field of the same name.
    fields = set(Settings.__dataclass_fields__)
    names = {name.removeprefix("METAREC_").lower() for name in ENVIRONMENT} - {"gateway_address", "gateway_ca", "cache"}
    assert names == fields - {"service"}
