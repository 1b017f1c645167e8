"""What a job starts as its Python where forks are to be had (see `forks.py`): it asks for one, and ends as that does.

Run as a script that imports next to nothing it takes a hundredth of a second. Where nobody answers, Python starts anew.
"""

import _signal  # type: ignore[import-not-found]  # `signal` makes its numbers enumerations, which is half of what this script would take
import _socket
import os
import sys

PLACE = "WORKFLOW_FORKS"  # the variable that names the folder of the socket
SOCKET = "socket"
NUMBER = 4  # bytes of a file's number, and of a message's length
Wish = tuple[list[str], dict[str, str], str]  # the arguments of a Python, its environment and its folder


def ask(place: str, wish: Wish, files: tuple[int, int, int]) -> int | None:
    """How what was asked for ended: its exit status, or the signal that killed it as a negative number.

    Args:
        place: the folder of the socket.
        wish: what to run.
        files: open ones, which become its input, output and errors.

    Returns:
        None where nothing was begun.
    """
    line = _socket.socket(_socket.AF_UNIX)
    try:
        line.connect(f"{place}/{SOCKET}")
        text = packed(wish)
        numbers = b"".join(number.to_bytes(NUMBER, sys.byteorder) for number in files)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)]
        line.sendmsg([len(text).to_bytes(NUMBER, sys.byteorder)], rights)
        line.sendall(text)
        if not line.recv(1):
            return None
    except OSError:
        return None
    told = line.recv(16)
    return int(told) if told else -_signal.SIGKILL  # what forked it was killed, and the fork with it


def packed(wish: Wish) -> bytes:
    """A wish as it is sent: its parts with a zero between them, which none of them can hold."""
    arguments, environment, folder = wish
    parts = [folder, str(len(arguments)), *arguments, *(f"{name}={value}" for name, value in environment.items())]
    return b"\0".join(map(os.fsencode, parts))


def unpacked(text: bytes) -> Wish:
    """The wish that was sent."""
    folder, count, *parts = os.fsdecode(text).split("\0")
    environment = {name: value for name, _, value in (part.partition("=") for part in parts[int(count) :])}
    return parts[: int(count)], environment, folder


def main() -> None:
    """End as the fork does, or become the Python that was asked for."""
    arguments, place = sys.argv[1:], os.environ.get(PLACE)
    status = ask(place, (arguments, dict(os.environ), os.getcwd()), (0, 1, 2)) if place else None
    if status is None:
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606  # there is no shell to it
    if status < 0:
        if -status not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(-status, _signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # the fork is interrupted with it, and says so
    main()
