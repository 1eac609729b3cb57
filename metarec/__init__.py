"""metarec: a personalised recommender that learns to learn.

The package root imports nothing else, so that `import metarec` stays instant; import the part you need,
for example `from metarec.client import Client`.
"""

from metarec.version import __version__ as __version__
