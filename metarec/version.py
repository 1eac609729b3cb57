"""The version, in a module of its own: where a folder `metarec` without code (the checkout, seen from beside it) stands before an
editable installation on the path, as in the workers of Ray, Python takes it for the package's root and finds submodules alone."""

__version__ = "0.1.0"
