"""The README documents every verb and every option, and nothing that does not exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from engine.cli.app import app

README = (Path(__file__).parents[2] / "README.md").read_text()
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def section(verb: str) -> str:
    match = re.search(rf"^### {verb}\n(.*?)(?=^##)", README, re.DOTALL | re.MULTILINE)
    assert match, f"README has no section on {verb}"
    return match[1]


def options_of(verb: str) -> set[str]:
    """The options of a verb, and of those that may follow it."""
    commands = [COMMANDS[verb], *getattr(COMMANDS[verb], "commands", {}).values()]
    parameters = [parameter for command in commands for parameter in command.params]
    return {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_option_of_a_verb_is_in_its_section(verb: str) -> None:
    text = section(verb)
    options = {name for name in options_of(verb) if name.startswith("-")} - {"--help", "-h", "--json"}
    assert not {name for name in options if not re.search(rf"(?<![\w-]){name}(?![\w-])", text)}


@pytest.mark.parametrize("verb", COMMANDS)
def test_no_option_is_documented_that_does_not_exist(verb: str) -> None:
    tables = "\n".join(line for line in section(verb).splitlines() if line.startswith("|"))
    assert set(re.findall(r"`(--?[a-z][a-z-]*)`", tables)) <= options_of(verb)


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_has_an_example_that_begins_with_the_verb(verb: str) -> None:
    assert f"mirsearch {verb}" in (COMMANDS[verb].help or "")
    for name, command in getattr(COMMANDS[verb], "commands", {}).items():
        assert f"mirsearch {verb} {name}" in (command.help or "")


def test_every_verb_has_a_section_and_every_section_a_verb() -> None:
    reference = README.split("## Reference", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"^### (\w+)", reference, re.MULTILINE)) == set(COMMANDS)
