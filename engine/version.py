"""The version of the engine, as installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("mirsearch")
except PackageNotFoundError:  # run from a source tree that nobody installed
    VERSION = "0+source"
