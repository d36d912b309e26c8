"""`python -m engine.cli`: the command where it is not installed."""

from engine.cli.main import main

main()
