"""The candidate sources, in the order in which they are asked, with the share of a list each one may fill first."""

from metarec.recall.contract import Source
from metarec.recall.sources.content import Content
from metarec.recall.sources.fresh import Fresh
from metarec.recall.sources.personal import Personal
from metarec.recall.sources.popular import Popular

SOURCES: tuple[tuple[Source, float], ...] = (
    (Personal(), 0.7),
    (Fresh(), 0.1),
    (Content(), 0.1),
    (Popular(), 0.1),
)
"""What one source leaves of its share is filled by the others, in this order."""
