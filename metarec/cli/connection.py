"""What the commands that call services share: where the services are, how long to wait, and how to connect."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from metarec.client import Client

Command = TypeVar("Command", bound=Callable[..., Any] | click.Command)


def address_option(service: str) -> Callable[[Command], Command]:
    """`--gateway HOST:PORT`, or the same for another service."""
    from services.runtime.settings import DEFAULT_PORTS

    name = f"METAREC_{service.upper()}_ADDRESS"
    text = f"Address of the {service} service.  [env: {name}; default: 127.0.0.1:{DEFAULT_PORTS[service]}]"
    return click.option(f"--{service}", metavar="HOST:PORT", help=text)


timeout_option = click.option("--timeout", type=float, metavar="SECONDS", help="Deadline of each call.  [default: the policy's]")


@contextmanager
def connect(**addresses: str | None) -> Iterator["Client"]:
    """A client with the environment's settings; addresses given on the command line (`gateway=...`) come first."""
    from metarec.client import Client, ClientSettings

    given: dict[str, Any] = {f"{service}_address": address for service, address in addresses.items() if address}
    with Client(replace(ClientSettings.from_environment(), **given)) as client:
        yield client
