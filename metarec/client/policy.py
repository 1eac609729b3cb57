"""Deadlines and retries: the service config shipped beside the protos, as data. gRPC itself does the retrying."""

import json
from functools import lru_cache
from importlib import resources
from typing import Any


@lru_cache(maxsize=1)
def deadlines() -> dict[str, float]:
    """Default deadline in seconds by full method name, `metarec.v1.GatewayService/Recommend`."""
    return {
        f"{name['service']}/{name['method']}": float(entry["timeout"].removesuffix("s"))
        for entry in _config()["methodConfig"]
        for name in entry["name"]
    }


@lru_cache(maxsize=1)
def service_config() -> str:
    """The retry policy for a channel. Without the deadlines: in a channel they would cap those that callers choose."""
    config = _config()
    for entry in config["methodConfig"]:
        del entry["timeout"]
    return json.dumps(config)


def _config() -> Any:
    return json.loads(resources.files("metarec.v1").joinpath("service_config.json").read_text())
