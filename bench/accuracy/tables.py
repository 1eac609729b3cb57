"""Markdown tables and cells of several seeds."""

from collections.abc import Sequence

import numpy as np

NOT_RUN = "not run"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; the first column names the rows."""
    return [
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def spread(values: Sequence[float], digits: int = 4, *, of: int = 0) -> str:
    """Mean ± sample deviation, without the latter where all values are equal or there is one; "not run" without any.

    `of` seeds were wanted: with fewer, their number stands beside the mean.
    """
    if not len(values):
        return NOT_RUN
    mean = f"{np.mean(values):.{digits}f}"
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 and np.ptp(values) > 0 else ""
    seeds = f" ({len(values)} of {of} seeds)" if 0 < len(values) < of else ""
    return mean + deviation + seeds
