"""The page that Prometheus reads: in its text format, or in that of OpenMetrics."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from paste_wspbus.metrics.families import Sums

#: What is said where prometheus_client is missing.
MISSING = "needs prometheus_client: pip install 'paste_wspbus[metrics]'"


class Page(NamedTuple):
    """A response: its status, its Content-Type, its body."""

    status: int
    content_type: str
    body: bytes


def is_installed() -> bool:
    """Whether prometheus_client is installed; this does not import it."""
    return find_spec('prometheus_client') is not None


def metrics_page(
    sums: Sums, status: Mapping[str, Any], folder: str | None = None, accept: str = ''
) -> Page:
    """Return the page with all metrics.

    :param sums: what the site has counted.
    :param status: the status of the site; {} if it is not known.
    :param folder: the folder of the site's own metrics; None if it has none.
    :param accept: the header Accept of the request.
    """
    if not is_installed():
        text = f'/metrics {MISSING}\n'
        return Page(501, 'text/plain; charset=utf-8', text.encode())
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    from paste_wspbus.metrics.families import BusCollector

    registry = CollectorRegistry()
    registry.register(BusCollector(sums, status))
    if folder is not None:
        from paste_wspbus.metrics.site import SiteCollector

        registry.register(SiteCollector(folder))
    try:
        encode, content_type = choose_encoder(accept)
    except Exception:  # the header is nonsense
        encode, content_type = choose_encoder('')
    try:
        body = encode(registry)
    except UnicodeEncodeError:  # a label has bytes that are not UTF-8 (PEP 383)
        body = encode(_Escaped(registry))
    return Page(200, content_type, body)


class _Escaped:
    """The metrics of a registry; texts show as \\udcff what UTF-8 cannot have."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        for metric in self._registry.collect():
            metric.documentation = _escaped(metric.documentation)
            metric.samples = [
                one._replace(
                    labels={key: _escaped(text) for key, text in one.labels.items()}
                )
                for one in metric.samples
            ]
            yield metric


def _escaped(text: str) -> str:
    return text.encode('utf-8', 'backslashreplace').decode()
