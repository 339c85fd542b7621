"""What the console shows of a snapshot: a few fields of each thing, and short lists."""

from __future__ import annotations

import os
import time

from paste_wspbus.ops import health
from paste_wspbus.ops.pages import why_not_ready
from paste_wspbus.unix.processes import memory_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.ops.snapshot import Snapshot

#: The numbers of workers, requests, checks and machines that the console shows at most.
MAX_WORKERS, MAX_REQUESTS, MAX_CHECKS, MAX_MACHINES = 100, 50, 50, 100

#: The number of machines that a status has at most.
ALL_MACHINES = 1000

_SITE = (
    *('ini', 'pid', 'age', 'urls', 'generation', 'served', 'in_flight'),
    *('server_threads', 'busy', 'queued', 'slow_requests', 'overdue_requests'),
    *('serving', 'wanted', 'crash_loop', 'recent_crashes', 'failure', 'calling'),
)

_WORKER = (
    *('name', 'pid', 'state', 'is_stopped', 'generation', 'age', 'served'),
    *('in_flight', 'server_threads', 'busy', 'queued', 'rss', 'restarts'),
)

_REQUEST = ('method', 'path', 'age', 'thread', 'worker')

_RELOAD = ('time', 'age', 'asked_by', 'outcome', 'took', 'generation', 'reason')

_CLUSTER = (
    *('name', 'machine', 'id', 'engine', 'answers', 'problem', 'last_word'),
    *(
        'round_trip',
        'members',
        'plugins',
        'holds',
        'fence',
        'waits',
        'rests',
        'leader',
        'leads_for',
    ),
)

_ROLL = 'state', 'text'

_MACHINE = (
    *('machine', 'id', 'age', 'is_silent', 'release', 'version', 'generation', 'state'),
    *('renewing', 'drained', 'serving', 'wanted', 'leads'),
)


def news_of(snapshot: Snapshot) -> dict[str, Any]:
    """Return one event: the state, and the last answer of the site.

    :returns: ``answered`` are the seconds since that answer; None if there was none.
    """
    told, state = snapshot.told.get('status'), snapshot.state
    status = told.value if told is not None and isinstance(told.value, dict) else {}
    # The status of a site of one process lists no processes: it is that of the process.
    workers = status.get('workers') or ([_only(status)] if status else [])
    reloads = status.get('reloads', [status.get('last_reload')])
    checks = health.summary(health.rows(snapshot.checked), with_texts=True)['checks']
    return {
        'time': time.time(),
        'state': state.name,
        'drained': state.drained,
        'renewing': state.renewing,
        'why': why_not_ready(snapshot),
        'waits': round(snapshot.waits_for, 1),
        'answered': None if told is None else told.age,
        'error': status.get('error'),
        'site': _some(status, _SITE),
        'workers': _rows(workers, _WORKER, MAX_WORKERS),
        'requests': _rows(status.get('requests'), _REQUEST, MAX_REQUESTS),
        'reloads': _rows(reloads, _RELOAD, MAX_REQUESTS),
        'checks': _checks(checks)[:MAX_CHECKS],
        'cluster': _cluster(status.get('cluster')),
    }


def _cluster(cluster: Any) -> dict[str, Any] | None:
    """Return what is shown of the cluster: the machines that are silent come first."""
    if not isinstance(cluster, dict):
        return None
    roll = cluster.get('roll')
    machines = _rows(cluster.get('machines'), _MACHINE, ALL_MACHINES)
    machines.sort(key=lambda one: one['is_silent'] is not True)
    return {
        **_some(cluster, _CLUSTER),
        'roll': _some(roll, _ROLL) if isinstance(roll, dict) else None,
        'machines': machines[:MAX_MACHINES],
        'more': max(len(machines) - MAX_MACHINES, 0) + (cluster.get('left_out') or 0),
    }


def _only(status: dict[str, Any]) -> dict[str, Any]:
    return {'name': 'site', 'rss': memory_of(os.getpid()), **status}


def _some(values: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: values.get(key) for key in keys}


def _rows(rows: Any, keys: tuple[str, ...], most: int) -> list[dict[str, Any]]:
    found = rows if isinstance(rows, list) else []
    return [_some(one, keys) for one in found if isinstance(one, dict)][:most]


def _checks(checks: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each name: those that fail first, each with the text of one process."""
    found = []
    for name, check in checks.items():
        of_processes = check['processes']
        failed = [one for one in of_processes if one['ok'] is False]
        shown = (failed or of_processes)[0]
        found.append(
            {
                'name': name,
                'ok': check['ok'],
                'age': check['age'],
                'group': shown['group'],
                'text': shown['text'],
                'process': shown['process'],
                'failed': len(failed),
                'processes': len(of_processes),
            }
        )
    return sorted(found, key=lambda one: (one['ok'] is not False, one['name']))
