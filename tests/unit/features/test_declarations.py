import subprocess
import sys

ASK = """
import typeguard
from metarec.features.declarations import _unchecked

before = typeguard.typechecked
with _unchecked():
    from feast import Entity
assert typeguard.typechecked is before
print("TypeCheckMemo" in Entity.__init__.__code__.co_names)
"""


AS_IT_COMES = "from feast import Entity\nprint('TypeCheckMemo' in Entity.__init__.__code__.co_names)"


def said(code: str) -> str:
    """In a process of its own: in this one Feast may have been imported already."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_feast_is_imported_without_checks_of_types_in_its_classes() -> None:
    assert said(ASK) == "False\n"
    assert said(AS_IT_COMES) == "True\n"
