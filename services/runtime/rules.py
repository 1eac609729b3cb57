"""The rules file of a service, read again when it changes.

A service does not start with a file that it cannot read. One that becomes unreadable later, or that asks for fields which the
live schema does not have, leaves the rules before it in force; until it is mended, the log says so once and every answer does.
"""

import logging
import threading
from pathlib import Path

from metarec.data.schema import Schema
from metarec.errors import ConfigError
from metarec.ranking.rule_file import read_rules
from metarec.ranking.rules import RuleSet
from metarec.v1 import types_pb2

logger = logging.getLogger(__name__)

UNDECIDED = "items whose content cannot be read count as forbidden by every filter that asks for it"

Stamp = tuple[int, int, int]


class RuleBook:
    """The rules in the file at `path` (None: no rules). ConfigError when it cannot be kept now. Thread-safe."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._lock = path, threading.Lock()
        self._rules = RuleSet() if path is None else read_rules(path)
        self._seen: tuple[Stamp | None, Schema | None] | None = None
        self._problem = ""

    def current(self, schema: Schema | None) -> RuleSet:
        """The rules now, checked against the live schema where there is one. Never raises."""
        if self._path is None:
            return self._rules
        try:
            stat = self._path.stat()
            stamp: Stamp | None = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        except OSError:
            stamp = None
        seen = self._seen
        if seen is None or seen[0] != stamp or seen[1] is not schema:
            with self._lock:
                self._read(self._path, schema)
                self._seen = (stamp, schema)
        return self._rules

    def degradation(self) -> types_pb2.Degradation | None:
        """What to say in an answer while the file cannot be kept; None while it can."""
        if not self._problem:
            return None
        kept = f"the rules that were read before, version {self._rules.version}" if self._rules else "no rules"
        return types_pb2.Degradation(stage="rules", reason=ConfigError.reason, fallback=kept)

    def _read(self, path: Path, schema: Schema | None) -> None:
        try:
            rules = read_rules(path)
            if schema is not None:
                rules.check(schema)
        except ConfigError as error:
            if error.message != self._problem:
                logger.warning("%s; version '%s' of the rules stays in force", error.message, self._rules.version)
            self._problem = error.message
            return
        if self._problem or rules.version != self._rules.version:
            logger.info("%d rules of '%s', version '%s', are in force", len(rules.rules), path, rules.version)
        self._rules, self._problem = rules, ""
