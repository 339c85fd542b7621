"""What the log says of slow and overdue requests, and how many there were."""

from __future__ import annotations

from paste_wspbus.requests.scoreboard import Phase
from paste_wspbus.requests.stacks import innermost, text_of, trimmed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.requests.scoreboard import Entry
    from paste_wspbus.requests.stacks import Frame


class Counts:
    """The numbers of slow and of overdue requests since the site has started."""

    def __init__(self) -> None:
        self.slow = self.overdue = 0

    def describe(self) -> dict[str, int]:
        """Return what `status` shows."""
        return {'slow_requests': self.slow, 'overdue_requests': self.overdue}


def named(entry: Entry, now: float) -> str:
    """Return how a log line names a request: its method, path, age and id."""
    method, path, id = (
        ascii(one)[1:-1] for one in (entry.method, entry.path, entry.id)
    )
    age = max(now - entry.since, 0.0)
    is_closing = entry.phase is Phase.CLOSING
    does = 'has been closing its response' if is_closing else 'has run'
    return f'{method} {path} {does} for {age:.1f} s (request {id})'


def described(
    entry: Entry, now: float, stack: list[Frame] | None, more: str = ''
) -> str:
    """Return what the log says of a request: a line, and the stack of its thread.

    :param stack: the innermost frame first; None if it is not known.
    :param more: is put at the end of the line.
    """
    what = named(entry, now)
    if not stack:
        return f'{what}; where it is cannot be seen{more}'
    frames = text_of(trimmed(stack))
    return f'{what}, at {innermost(stack)}{more}. The innermost call first:\n{frames}'
