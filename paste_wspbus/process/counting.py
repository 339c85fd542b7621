"""How a site with an ops listener counts its requests: the metrics show the numbers."""

from __future__ import annotations

from paste_wspbus.metrics.page import is_installed
from paste_wspbus.ops.snapshot import Numbers
from paste_wspbus.requests.metered import METER, Meter, meter_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus import Bus


def count_requests(bus: Bus) -> None:
    """Count the requests of a site, if somebody could read the numbers."""
    if is_installed():
        meter_of(bus)


def numbers_of(bus: Bus | None) -> Numbers | None:
    """Return the numbers of a site of one process; None if nothing is counted, or not yet."""
    meter = None if bus is None else bus.plugins.get(METER)
    return Numbers(meter.read_all) if isinstance(meter, Meter) else None
