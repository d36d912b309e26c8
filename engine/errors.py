"""Everything that can go wrong and that a user can act on.

EngineError                     caught once, in the command line: one line, exit code 1
├── InputError                  a file, value or option is not what it must be
├── StoreError                  a store is absent, unfinished, damaged or of another version
├── IndexUnusableError          an index is absent, damaged, stale or cannot run on this device
├── DeviceError                 the requested device cannot be used
├── DiskFullError               there is no room for what is to be written, or a file may not grow as large
└── DependencyError             a package is missing; the text holds the line that installs it

Each text says where, what is, what was expected, and what to do.
"""


class EngineError(Exception):
    """Base of all errors that the user can act on."""


class InputError(EngineError, ValueError):
    """A file, value or option is not what it must be."""


class StoreError(EngineError):
    """A store is absent, unfinished, damaged or of another version."""


class IndexUnusableError(EngineError):
    """An index is absent, damaged, stale, or cannot run on this device."""


class DeviceError(EngineError):
    """The requested device cannot be used."""


class DiskFullError(EngineError):
    """There is no room for what is to be written, or a file may not grow as large."""


class DependencyError(EngineError, ImportError):
    """A package is missing; the text holds the line that installs it."""
