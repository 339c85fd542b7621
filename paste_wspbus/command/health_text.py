"""What `status` prints of health checks: those that fail."""

from __future__ import annotations

from paste_wspbus.control.status import number, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The number of checks that are shown.
SHOWN = 5


def failing(answer: dict[str, Any]) -> list[str]:
    """Return a sentence for each health check that fails, of SHOWN checks at most."""
    health = answer.get('health')
    rows = (
        [one for one in health if isinstance(one, dict)]
        if isinstance(health, list)
        else []
    )
    lines = [_sentence(row) for row in rows if row.get('ok') is False]
    more = len(lines) - SHOWN
    return lines[:SHOWN] + ([f'{more} more health checks fail.'] if more > 0 else [])


def _sentence(row: dict[str, Any]) -> str:
    process, said, age = (
        text(row.get('process')),
        text(row.get('text')),
        number(row, 'age'),
    )
    where = '' if process == 'site' else f' in {process}'
    when = '' if age is None else f' ({age:.0f} s ago)'
    return f'The health check {text(row.get("name"))} fails{where}{when}{said and f": {said}"}'
