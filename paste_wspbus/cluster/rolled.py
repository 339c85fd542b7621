"""What the lease of a roll says of it: how it goes, or how it has ended."""

from __future__ import annotations

import json

from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from paste_wspbus.cluster.engine import Record

#: The number of characters of each of its texts.
MOST_OF_TEXT = 1000

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
            'died': f'{roll["who"]} has rolled, and has said nothing for {age}: that roll has '
            'died',
            'ended': f'The last roll, by {roll["who"]}, has ended: {roll["line"]}',
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
            f'To go on, {go_on}, and then: graceful --cluster --from {turn or failed}'
        )
    return '. '.join(said) + '.'
