"""The results of health checks of all processes: how old they are, and what they decide."""

from __future__ import annotations

import time
from typing import NamedTuple

from paste_wspbus.ini.masking import masked_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from paste_wspbus.bus import Bus

#: Seconds by which a result may come later than its check is due. A process that hangs
#: reports none: then its last result does not count any more.
LATE = 3.0

#: Seconds between two results of a check that is read anew whenever it may have changed.
NEVER = 1e9


#: The number of characters of a text that are shown at most.
MAX_TEXT = 500


class Checked(NamedTuple):
    """The checks of one process, as `bus.health.Check.describe` describes them.

    ``serves`` says whether it serves requests, so that its checks count for readiness.
    """

    process: str
    serves: bool
    checks: list[dict[str, Any]]


def checks_of(bus: Bus) -> list[dict[str, Any]]:
    """Return the health checks of this process, as `bus.health.Check.describe`.

    If nothing ends overdue requests, because there is no supervisor, the check 'overdue'
    fails as long as there are some.
    """
    checks = getattr(bus, 'checks', None)
    found: list[dict[str, Any]] = [] if checks is None else checks.describe()
    requests: Any = bus.plugins.get('requests')
    overdue = requests.past_deadline() if hasattr(requests, 'past_deadline') else []
    if overdue:
        verb = '1 request is' if len(overdue) == 1 else f'{len(overdue)} requests are'
        age = time.monotonic() - overdue[0].since
        text = f'{verb} past the deadline, and the oldest has run for {age:.1f} s'
        found.append(failing('overdue', f'{text}: the log says where'))
    return found


def masked(checks: list[dict[str, Any]], secrets: list[str]) -> list[dict[str, Any]]:
    """Return checks with texts as they may be shown.

    :param secrets: what no text may show: see `ini.masking.secrets_of`.
    """
    return [
        {**one, 'text': masked_text(one['text'], secrets)[:MAX_TEXT]} for one in checks
    ]


def failing(name: str, text: str) -> dict[str, Any]:
    """Return a check that fails now, as `bus.health.Check.describe`; it decides nothing."""
    more = {'at': time.monotonic(), 'took': None, 'every': NEVER, 'timeout': 0.0}
    return {'name': name, 'group': 'health', 'ok': False, 'text': text, **more}


def rows(processes: Iterable[Checked]) -> list[dict[str, Any]]:
    """Return one row for each check of each process.

    :returns: ``name``, ``group``, ``process``, ``ok`` (None before its first result),
        ``text``, ``age`` and ``took`` in seconds (None before the first result).
    """
    now = time.monotonic()
    return [
        _row(checked.process, check, now)
        for checked in processes
        for check in checked.checks
    ]


def _row(process: str, check: dict[str, Any], now: float) -> dict[str, Any]:
    at, ok, text = check['at'], check['ok'], check['text']
    age = None if at is None else max(round(now - at, 3), 0.0)
    if age is not None and age > check['every'] * 1.1 + check['timeout'] + LATE:
        ok, text = False, f'it has given no result for {age:.0f} s'
    return {
        'name': check['name'],
        'group': check['group'],
        'process': process,
        'ok': ok,
        'text': text,
        'age': age,
        'took': check['took'],
    }


def why_not_ready(processes: Iterable[Checked]) -> str:
    """Return which checks of the group 'ready' fail; '' if the site can take requests.

    One worker whose checks do not fail is enough. A check without a result does not fail.
    """
    failed: set[str] = set()
    for checked in processes:
        if not checked.serves:
            continue
        own = {
            row['name']
            for row in rows([checked])
            if row['group'] == 'ready' and row['ok'] is False
        }
        if not own:
            return ''
        failed |= own
    return ', '.join(sorted(failed))


def summary(rows: Iterable[dict[str, Any]], with_texts: bool) -> dict[str, Any]:
    """Return what /health shows: whether all is well, and one entry for each name.

    :param with_texts: whether it shows the rows of each process, with their texts.
    """
    checks: dict[str, dict[str, Any]] = {}
    for row in rows:
        one = checks.setdefault(row['name'], {'ok': None, 'age': None, 'processes': []})
        one['processes'].append({key: row[key] for key in row if key != 'name'})
    for one in checks.values():
        results = [row['ok'] for row in one['processes'] if row['ok'] is not None]
        ages = [row['age'] for row in one['processes'] if row['age'] is not None]
        one['ok'], one['age'] = (
            all(results) if results else None,
            max(ages, default=None),
        )
        if not with_texts:
            del one['processes']
    is_well = all(one['ok'] is not False for one in checks.values())
    return {'healthy': is_well, 'checks': checks}
