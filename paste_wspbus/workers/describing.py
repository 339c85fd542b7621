"""What a supervisor answers about its site: its workers, their work, crashes and renewals."""

from __future__ import annotations

from paste_wspbus.ops.health import Checked, failing, rows
from paste_wspbus.role import WORKER
from paste_wspbus.wire.checks import NUMBERS
from paste_wspbus.workers.handle import MAX_REQUESTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from paste_wspbus.workers.supervisor import Supervisor


def describe(supervisor: Supervisor) -> dict[str, Any]:
    """Return what `status` shows of the generations, and all requests in flight."""
    gone = [worker for worker in supervisor.current.values() if worker.ended]
    children = sorted(
        [*supervisor.children.alive, *gone],
        key=lambda child: (child.role.kind != WORKER, child.role.number),
    )
    known = [(child.name, child.known_status or {}) for child in children]
    requests = [
        {**request, 'worker': name}
        for name, status in known
        for request in status.get('requests', ())
    ]
    requests.sort(key=lambda request: request['age'], reverse=True)
    renewal = supervisor.renewals.last
    return {
        'generation': supervisor.generation,
        'workers': [
            child.describe()
            | supervisor.crashes.describe(child.name)
            | supervisor.recycling.describe(child.name)
            | supervisor.liveness.describe(child.name)
            | supervisor.successors.describe(child.name)
            for child in children
        ],
        'health': rows(checked_of(supervisor)),
        'cluster': supervisor.cluster and supervisor.cluster.status.describe(),
        'serving': sum(not worker.is_stopped for worker in supervisor.serving()),
        'wanted': supervisor.count,
        'recent_crashes': supervisor.crashes.recent,
        'crash_loop': supervisor.crashes.loop or None,
        'soak': supervisor.soak.describe(),
        'replaced': {
            'crash': supervisor.crashes.replaced,
            **supervisor.successors.counts,
        },
        'last_reload': None if renewal is None else renewal.describe(),
        'reloads': [one.describe() for one in supervisor.renewals.past],
        'requests': requests[:MAX_REQUESTS],
        **supervisor.request_watch.counts.describe(),
        **{key: _total(status.get(key) for _, status in known) for key in NUMBERS},
        'calling': next(
            (one for _, told in known if (one := told.get('calling'))), None
        ),
        'is_crashed': all(worker.ended for worker in supervisor.current.values()),
        'failure': supervisor.renewals.failure,
    }


def checked_of(supervisor: Supervisor) -> list[Checked]:
    """Return the health checks of the processes that run the site, and of the supervisor.

    The supervisor has two: one of the cluster, and one that fails during a crash loop.
    """
    found = [
        Checked(one.name, one.role.kind == WORKER, one.health)
        for one in supervisor.current.values()
        if one.is_ready and one.health
    ]
    own = [] if supervisor.cluster is None else [supervisor.cluster.status.check()]
    if loop := supervisor.crashes.loop:
        own.append(failing('crashes', loop))
    return [*found, Checked('supervisor', False, own)] if own else found


def in_brief(supervisor: Supervisor) -> list[str]:
    """Return texts on the workers: those that do not serve, requests in flight, crashes."""
    told, parts = describe(supervisor), []
    serving, wanted = told['serving'], told['wanted']
    if serving != wanted:
        noun, verb = ('worker', 'serves') if wanted == 1 else ('workers', 'serve')
        parts.append(f'{serving} of {wanted} {noun} {verb}')
    if told['in_flight']:
        parts.append(f'requests in flight: {told["in_flight"]}')
    if told['crash_loop']:
        parts.append(told['crash_loop'])
    return parts


def _total(numbers: Iterable[int | None]) -> int | None:
    """Add the numbers that are known; return None if none is."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
