"""The metrics of the bus: a table of their names, and where each gets its numbers."""

from __future__ import annotations

from typing import NamedTuple

from paste_wspbus.requests.ledger import BUCKETS, START

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from paste_wspbus.requests.ledger import Series

    #: What `requests.ledger` returns: the cells of each series.
    Sums = Mapping[Series, list[int]]

    #: Values of labels, and a number.
    Samples = Iterable[tuple[tuple[str, ...], float]]


class Family(NamedTuple):
    """One metric: its name without 'wspbus_', type, labels and help, and its numbers.

    ``sample`` is called with a status, as `wspserve site.ini status --json` prints it.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    sample: Any = None


def _number(key: str) -> Any:
    def sample(status: Mapping[str, Any]) -> Samples:
        value = status.get(key)
        return () if value is None else [((), float(value))]

    return sample


def _restarts(status: Mapping[str, Any]) -> Samples:
    for reason, count in (status.get('replaced') or {}).items():
        yield (reason,), count


def _memory(status: Mapping[str, Any]) -> Samples:
    for worker in status.get('workers') or [status]:
        if worker.get('rss') is not None:
            yield (worker.get('name') or 'site',), worker['rss']


def _of_cluster(*keys: str) -> Any:
    """Return a function for a value in ``cluster`` of a status; a site may have none."""

    def sample(status: Mapping[str, Any]) -> Samples:
        value: Any = status.get('cluster')
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return () if value is None else [((), float(value))]

    return sample


def _leader(status: Mapping[str, Any]) -> Samples:
    cluster = status.get('cluster') or {}
    return [((), float(cluster['holds']))] if cluster.get('plugins') else ()


def _roll_gone_wrong(status: Mapping[str, Any]) -> Samples:
    roll = (status.get('cluster') or {}).get('roll')
    if not roll:
        return ()
    return [((), float(roll['state'] != 'rolls' and bool(roll['text'])))]


#: What comes from the ledger.
REQUESTS = Family(
    'requests',
    'counter',
    'Requests that were answered.',
    ('method', 'status', 'route'),
)
DURATION = Family(
    'request_duration_seconds',
    'histogram',
    'Time from the beginning of a request until its response was complete.',
    ('method', 'route'),
)
STARTS = Family(
    'start_duration_seconds',
    'histogram',
    'Time that a component has taken to start, in all processes.',
    ('component',),
)

#: What comes from the status of the site.
STATUS = (
    Family(
        'requests_in_flight',
        'gauge',
        'Requests that the site has received and not finished.',
        sample=_number('in_flight'),
    ),
    Family(
        'requests_queued',
        'gauge',
        'Requests and connections that wait for a thread.',
        sample=_number('queued'),
    ),
    Family(
        'threads',
        'gauge',
        'Threads of the servers.',
        sample=_number('server_threads'),
    ),
    Family(
        'threads_busy',
        'gauge',
        'Threads of the servers that handle a request.',
        sample=_number('busy'),
    ),
    Family(
        'slow_requests',
        'counter',
        'Requests that were slow (slow_request).',
        sample=_number('slow_requests'),
    ),
    Family(
        'overdue_requests',
        'counter',
        'Requests that were past their deadline (request_deadline).',
        sample=_number('overdue_requests'),
    ),
    Family(
        'generation',
        'gauge',
        'The generation that serves: a graceful restart begins the next one.',
        sample=_number('generation'),
    ),
    Family(
        'workers',
        'gauge',
        'Workers that are ready.',
        sample=_number('serving'),
    ),
    Family(
        'workers_wanted',
        'gauge',
        'Workers that there should be.',
        sample=_number('wanted'),
    ),
    Family(
        'restarts',
        'counter',
        'Processes that were started in the place of another one.',
        ('reason',),
        _restarts,
    ),
    Family(
        'resident_memory_bytes',
        'gauge',
        'Memory that a process uses (its resident set).',
        ('process',),
        _memory,
    ),
    Family(
        'cluster_members',
        'gauge',
        'Machines of the cluster that have reported within the ttl.',
        sample=_of_cluster('members'),
    ),
    Family(
        'cluster_leader',
        'gauge',
        'Whether this machine has the lease of its cluster plugins: 1 or 0.',
        sample=_leader,
    ),
    Family(
        'cluster_last_word_seconds',
        'gauge',
        'Time since the engine of the cluster has answered this machine.',
        sample=_of_cluster('last_word'),
    ),
    Family(
        'cluster_round_trip_seconds',
        'gauge',
        'Time that a command to the engine of the cluster takes.',
        sample=_of_cluster('round_trip'),
    ),
    Family(
        'cluster_roll_failed',
        'gauge',
        'Whether the last roll over all machines has failed or died: 1 or 0.',
        sample=_roll_gone_wrong,
    ),
    Family(
        'cluster_messages_dropped',
        'counter',
        'Messages of this machine that the other machines do not get.',
        sample=_of_cluster('messages', 'dropped'),
    ),
)

#: All metrics of the bus.
FAMILIES = (REQUESTS, DURATION, STARTS, *STATUS)

#: The limits of the buckets, as Prometheus writes them.
_LIMITS = (*(str(float(limit)) for limit in BUCKETS), '+Inf')


class BusCollector:
    """Collects the metrics of the bus for prometheus_client.

    :param sums: what the site has counted.
    :param status: the status of the site; {} if it is not known.
    """

    def __init__(self, sums: Sums, status: Mapping[str, Any]) -> None:
        self.sums, self.status = sums, status

    def collect(self) -> Iterator[Any]:
        """Yield the metrics, without those that have no value yet."""
        from prometheus_client import core

        kinds = {
            'counter': core.CounterMetricFamily,
            'gauge': core.GaugeMetricFamily,
        }
        yield self._requests(core)
        histograms = self._histograms()
        for family in (DURATION, STARTS):
            metric = core.HistogramMetricFamily(
                f'wspbus_{family.name}', family.help, labels=family.labels
            )
            for labels, cells in histograms[family].items():
                *buckets, nanoseconds = cells
                metric.add_metric(labels, _cumulated(buckets), nanoseconds / 1e9)
            yield metric
        for family in STATUS:
            samples = list(family.sample(self.status))
            metric = kinds[family.kind](
                f'wspbus_{family.name}', family.help, labels=family.labels
            )
            for labels, number in samples:
                metric.add_metric(labels, number)
            if samples:
                yield metric

    def _requests(self, core: Any) -> Any:
        metric = core.CounterMetricFamily(
            f'wspbus_{REQUESTS.name}', REQUESTS.help, labels=REQUESTS.labels
        )
        for series, cells in self.sums.items():
            if series.status != START:
                metric.add_metric(series, sum(cells[:-1]))
        return metric

    def _histograms(self) -> dict[Family, dict[tuple[str, ...], list[int]]]:
        """Add the requests of all statuses: a histogram has many lines."""
        found: dict[Family, dict[tuple[str, ...], list[int]]] = {
            DURATION: {},
            STARTS: {},
        }
        for series, cells in self.sums.items():
            if series.status == START:
                found[STARTS][(series.route,)] = cells
                continue
            labels = series.method, series.route
            before = found[DURATION].get(labels)
            if before is not None:
                cells = [one + more for one, more in zip(before, cells, strict=True)]
            found[DURATION][labels] = cells
        return found


def _cumulated(buckets: list[int]) -> list[tuple[str, float]]:
    total = 0
    found: list[tuple[str, float]] = []
    for limit, number in zip(_LIMITS, buckets, strict=True):
        total += number
        found.append((limit, total))
    return found
