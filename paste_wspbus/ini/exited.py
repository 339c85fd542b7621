"""What is said of a part of the site that calls sys.exit() at its start."""

from __future__ import annotations

from paste_wspbus.bus import exit_code_of
from paste_wspbus.errors import WSPBusError
from paste_wspbus.exits import FAILED
from paste_wspbus.ini.config import StartFailed
from paste_wspbus.ini.factories import at_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.ini.config import Site


def failure_of(site: Site, left: SystemExit) -> StartFailed | None:
    """Return the error if a component called sys.exit at its start; None if none did."""
    calls = [call for call in site.bus.timeline if call.channel == 'start']
    code = exit_code_of(left)
    if not calls or site.bus.was_started:
        return None
    name = calls[-1].name
    why = left.code if isinstance(left.code, str) else f'exit code {code}'
    error = WSPBusError(f'{name} exited instead of starting: {why}{at_place(left)}')
    failed = StartFailed(site.place_of(name), name, error)
    failed.exit_code = code or FAILED
    return failed
