"""The installed command: an interrupt while Python still imports is an interrupt too."""

import signal
import sys


def main() -> None:
    """Run `mirsearch`."""
    try:
        from engine.cli.streams import replace_closed

        replace_closed()
        from engine.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        raise SystemExit(130) from None
    finally:  # what is done is done: an interrupt of the interpreter's last moments would hide the exit code
        signal.signal(signal.SIGINT, signal.SIG_IGN)
