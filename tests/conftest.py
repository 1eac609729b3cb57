"""Fixtures that every test folder shares."""

import logging
import os
from collections.abc import Iterator

import pytest

# Set before anything imports ray: token auth is the rule everywhere (DESIGN 7), and tests send no usage reports.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """A local Ray cluster with two CPUs, shared by the session; gives its address. Mark tests that use it with `ray`."""
    import ray

    context = ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR
    )
    try:
        yield str(context.address_info["address"])
    finally:
        ray.shutdown()
