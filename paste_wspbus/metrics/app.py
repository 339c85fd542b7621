"""The application ``egg:paste_wspbus#metrics``: the page of Prometheus inside the site."""

from __future__ import annotations

import os

from paste_wspbus.errors import WSPBusError
from paste_wspbus.handoff import get_bus
from paste_wspbus.metrics.page import MISSING, is_installed, metrics_page
from paste_wspbus.metrics.site import VARIABLE
from paste_wspbus.requests.metered import meter_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from paste_wspbus.bus import Bus


def make_app(global_conf: Mapping[str, Any]) -> MetricsApp:
    """Make the application, and have the requests of the site counted.

    Its entry point is in the group paste.app_factory.

    :raises WSPBusError: if prometheus_client is not installed.
    """
    if not is_installed():
        raise WSPBusError(f'egg:paste_wspbus#metrics {MISSING}')
    return MetricsApp(get_bus(global_conf))


class MetricsApp:
    """Answers with the metrics of the bus, of all workers together; and those of the site.

    The site's own are those of the folder $PROMETHEUS_MULTIPROC_DIR, if there is one.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus, self.meter = bus, meter_of(bus)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        folder = os.environ.get(VARIABLE) or None
        accept = environ.get('HTTP_ACCEPT', '')
        page = metrics_page(self.meter.read_all(), self._status(), folder, accept)
        headers = [
            ('Content-Type', page.content_type),
            ('Content-Length', str(len(page.body))),
            ('Cache-Control', 'no-store'),
        ]
        start_response('200 OK', headers)
        return [] if environ.get('REQUEST_METHOD') == 'HEAD' else [page.body]

    def _status(self) -> dict[str, Any]:
        """Return what is known of a site of one process; {} if it has several."""
        if self.meter.ledger.is_shared:
            return {}
        requests: Any = self.bus.plugins.get('requests', ())
        server: Any = self.bus.plugins.get('server')
        status: dict[str, Any] = {'in_flight': len(requests)}
        if hasattr(server, 'load'):
            load = server.load()
            status |= {'server_threads': load.threads, 'busy': load.busy}
            status['queued'] = load.queued
        return status
