"""contracts/README.md, from which alone somebody builds a publisher and a consumer, says what is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import contracts
from contracts.events import REASON_MEANINGS, CloseCode, Outcome
from contracts.reading import read_message

FOLDER = Path(contracts.__file__).parent
TEXT = (FOLDER / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The code of one language that is shown."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_commands_shown_are_taken() -> None:
    """Who copies an example from the README has a command that the worker takes."""
    taken = [read_message(block.encode()).command for block in blocks("json")]
    assert taken == ["unlink.v1", "cancel.v1", "retry.v1", "unlink.v1"]


def test_the_command_in_the_request_shown_is_taken() -> None:
    """So it is with the one that curl sends."""
    (request,) = re.findall(r"<<'EOF'\n(.*?)\nEOF", blocks("sh")[0], flags=re.DOTALL)
    assert read_message(json.loads(request)["payload"].encode()).command == "unlink.v1"


def test_the_consumer_shown_is_the_one_that_is_tested() -> None:
    """The program in the README is the recipe, to the letter."""
    recipe = (FOLDER / "recipes" / "close_ticket.py").read_text()
    assert blocks("python")[0].strip() == recipe.rpartition('"""\n')[2].strip()


def test_every_outcome_reason_and_close_code_is_explained() -> None:
    """Nobody gets an event that the README does not know."""
    assert all(f"| `{outcome}.*` | `{outcome.event_type}` |" in TEXT for outcome in Outcome)
    assert all(f"| `{code}` | {meaning} |" in TEXT for code, meaning in REASON_MEANINGS.items())
    assert all(f"| `{code}` | " in TEXT for code in CloseCode)


def test_every_recipe_is_listed_and_every_listed_one_is_there() -> None:
    """No recipe is lost, and no reader looks for one in vain."""
    listed = set(re.findall(r"`([\w.-]+)`", TEXT.partition("## Recipes")[2].partition("\n## ")[0]))
    there = {path.name for path in (FOLDER / "recipes").iterdir() if path.is_file()}
    assert there <= listed
