"""metarec: a personalised recommender that learns to learn.

The package root imports nothing, so that `import metarec` stays instant; import the part you need,
for example `from metarec.client import Client`.
"""

__version__ = "0.1.0"
