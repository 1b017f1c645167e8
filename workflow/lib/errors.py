"""Errors that are the user's to mend: one message that says what, where, what was expected."""

from __future__ import annotations

import difflib
import reprlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in a setting, a file or the machine; shown as its message alone, never as a traceback."""


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """End the program with one message where a user has something to mend; for where nobody else would catch it."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {from_os_error(error)}")


def unknown(what: str, found: object, allowed: Iterable[str], more: str = "") -> str:
    """Say that a name is unknown, which names there are, the nearest one, and, in a sentence of its own, more.

    >>> unknown("paper", "npt", ["ntp", "icl"])
    "unknown paper 'npt'; there are: icl, ntp. Did you mean 'ntp'?"
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(str(found), names, n=1)
    rest = " ".join(filter(None, [f"Did you mean {near[0]!r}?" if near else "", more]))
    return f"unknown {what} {found!r}; there are: {', '.join(names) or 'none'}" + (f". {rest}" if rest else "")


def shortened(found: object, most: int = 80) -> str:
    """What was found, for a message: as Python writes it, and no more than `most` characters of it.

    >>> shortened([1, 2]), shortened("a" * 50, most=10)
    ('[1, 2]', "'aa...aaa'")
    """
    teller = reprlib.Repr()
    teller.maxstring = teller.maxother = teller.maxlong = most
    teller.maxlist = teller.maxtuple = 10
    try:
        told = teller.repr(found)
    except (ValueError, RecursionError):  # a number of thousands of digits
        told = f"a very large {type(found).__name__}"
    return told if len(told) <= most else f"{told[: most - 3]}..."


def from_os_error(error: OSError) -> UserError:
    """Name the file, the reason and the mend of a failed file operation (disk full, read-only, missing)."""
    import errno

    mends = {
        errno.ENOSPC: "Free some space and run again; nothing half-written was left behind.",
        errno.EDQUOT: "Your quota is used up: free some space and run again.",
        errno.EROFS: "The file system is read-only: choose another place with --directory.",
        errno.EACCES: "Check its permissions, or choose another place with --directory.",
        errno.EPERM: "Check its permissions, or choose another place with --directory.",
        errno.ENOENT: "Check the path.",
    }
    reason = error.strerror or str(error)
    place = error.filename if error.filename is not None else "a file"
    return UserError(f"{place}: {reason}. {mends.get(error.errno or 0, '')}".rstrip())
