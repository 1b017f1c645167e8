"""Faults: whatever is brought comes out right, or is refused in one message that names what and where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from workflow.lib.errors import UserError


def refused(call: Callable[[], object], *words: str, inside: Path | None = None) -> str:
    """The message with which a call ends: a UserError that names some words, after which nothing has changed.

    Args:
        call: what is refused.
        words: what its message has to name.
        inside: a folder in which no file may come, go or change.
    """
    before = _state(inside)
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "Traceback" not in message
    assert len(message) < 2000, "a message is not a listing"
    for word in words:
        assert word in message, message
    assert _state(inside) == before
    return message


def taken_or_refused(call: Callable[[], object], *words: str) -> None:
    """Whatever a call is given: it returns, or ends with a UserError that names some words."""
    message = None
    try:
        call()
    except UserError as error:
        message = str(error)
    assert message is None or (message and all(word in message for word in words))


def _state(folder: Path | None) -> dict[str, int]:
    paths = sorted(folder.rglob("*")) if folder else []
    return {str(path): path.stat().st_size for path in paths if path.is_file()}
