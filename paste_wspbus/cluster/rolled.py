"""What the lease of a roll says of it: how it goes, or how it has ended."""

from __future__ import annotations

import json

from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from paste_wspbus.cluster.engine import Answer, Record

#: The number of characters of each of its texts.
MOST_OF_TEXT = 1000

#: Seconds beyond the ttl after which a roll that orders nothing is looked at.
MARGIN = 0.25

#: How a roll ends that has not failed.
OVER = 'all machines have restarted'


def read_note(text: str) -> dict[str, str]:
    """Read what the lease of a roll says: all values are texts that can be printed.

    ``who`` rolls, such as 'web1 (for alice)'. ``turn``, ``done``, ``failed`` and ``rest`` are
    names of machines. ``line`` says how it has ended; '' if it has not.

    :returns: {} if it is none: another version may have written it.
    """
    try:
        said = json.loads(text)
        keys = 'who', 'turn', 'done', 'failed', 'rest', 'line'
        return {key: printable(str(said[key])[:MOST_OF_TEXT]) for key in keys}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


def seen_of(record: Record | None, is_current: bool = False) -> dict[str, Any] | None:
    """Return what the record of the lease says of the last roll.

    :param is_current: whether its holder may still have the lease.
    :returns: what `read_note` returns, ``state`` ('rolls', 'died' or 'ended'), ``age``, the
        seconds since its last word, and ``begun``, whether the machine in its turn had begun
        to replace its processes; None if there was no roll.
    """
    said = read_note(record.note) if record is not None else {}
    if record is None or not said:
        return None
    has_ended = said['line'] or not record.holder
    state = 'ended' if has_ended else 'rolls' if is_current else 'died'
    # An id is the name and a random number; of two machines of one name, the turn has the id.
    names = record.entered, record.entered.rpartition('-')[0]
    begun = bool(said['turn']) and said['turn'] in names
    return {
        **said,
        'state': state,
        'age': round(max(record.age, 0.0), 3),
        'begun': begun,
    }


def left_by(record: Record | None) -> str:
    """Return the note of a roll that has not ended well, for the roll after it; or ''."""
    said = read_note(record.note) if record is not None else {}
    if not said or said['line'] == OVER:
        return ''
    return json.dumps({**said, 'line': said['line'] or 'it has died'})


def sentences(roll: Mapping[str, Any] | None) -> str:
    """Say how a roll goes, or how it has ended; '' if all machines have restarted."""
    if roll is None or roll['line'] == OVER:
        return ''
    state, turn, failed = roll['state'], roll['turn'], roll['failed']
    age = f'{roll["age"]:.0f} s'
    said = [
        {
            'rolls': f'{roll["who"]} rolls',
            'died': f'{roll["who"]} rolled, and has not reported for {age}: that roll has '
            'died',
            'ended': f'The last roll, by {roll["who"]}, has ended: '
            + (roll['line'] or 'it is not known how'),
        }[state]
    ]
    did = 'begun to replace its processes' if roll['begun'] else 'replaced no process'
    names = {
        'In its turn': turn + f', which had {did}' * bool(turn and state != 'rolls'),
        'Failed': failed,
        'Restarted': roll['done'],
        'Not restarted': roll['rest'],
    }
    said += [f'{word}: {these}' for word, these in names.items() if these]
    if state != 'rolls' and (turn or failed):
        go_on = f'see what {turn} does' if turn else f'mend {failed}'
        said.append(
            f'To continue, {go_on}, and then: graceful --cluster --from {turn or failed}'
        )
    return '. '.join(said) + '.'


def has_gone_wrong(roll: Mapping[str, Any] | None) -> bool:
    """Whether a roll has died, or has ended before all machines have restarted."""
    return roll is not None and roll['state'] != 'rolls' and roll['line'] != OVER


class Watch:
    """Sees how a roll goes, and that it has died, by its orders to any machine.

    Who rolls sends an order each second. Without one for a ttl, the roll has ended or died,
    and its lease says which. While nobody rolls, nothing is asked for this.

    :param ttl: seconds.
    :param tell: is called with what `seen_of` returns.
    """

    def __init__(
        self, ttl: float, tell: Callable[[dict[str, Any] | None], object]
    ) -> None:
        self._ttl, self._tell = ttl, tell
        #: When the last order came, and when to look; whether somebody rolls, as far as is
        #: known, and whether that was told.
        self._heard_at = self._due = 0.0
        self._goes_on = self._has_told = False

    def hear(self, now: float) -> None:
        """Note that an order has come; any thread may call this."""
        self._heard_at = now
        if not self._goes_on:
            self._goes_on, self._due = True, now

    def follow(self, now: float, look: Callable[[], Answer]) -> None:
        """Look at the roll if it is time: at its first order, and a ttl after its last one.

        :param look: looks at the lease of rolls.
        :raises EngineAway: if the engine does not answer; then it is looked at again.
        """
        if not self._goes_on or now < self._due:
            return
        self._due = self._heard_at + self._ttl + MARGIN
        if self._has_told and now < self._due:
            return
        answer = look()
        roll = seen_of(answer.record, answer.leader is not None)
        self._goes_on = self._has_told = roll is not None and roll['state'] == 'rolls'
        self._due = now + self._ttl + MARGIN
        self._tell(roll)
