import pytest

from services.ranking.listening import narrowed


@pytest.mark.parametrize(
    ("asked", "host", "node", "expected"),
    [
        ("[::]:50054", "127.0.0.1", "127.0.0.1", "127.0.0.1:50054"),
        ("[::]:50054", "0.0.0.0", "10.0.0.7", "0.0.0.0:50054"),
        ("[::]:50054", "::1", "127.0.0.1", "[::1]:50054"),
        ("[::]:0", "0.0.0.0", "10.0.0.7", "10.0.0.7:0"),
        ("10.0.0.7:9000", "127.0.0.1", "127.0.0.1", "10.0.0.7:9000"),
    ],
)
def test_servers_on_every_interface_are_narrowed(asked: str, host: str, node: str, expected: str) -> None:
    assert narrowed(asked, host=host, node=node) == expected
