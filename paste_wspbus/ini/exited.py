"""The errors of a site that a part of it has ended during the start, by sys.exit() or the bus."""

from __future__ import annotations

from paste_wspbus.bus import exit_code_of
from paste_wspbus.errors import WSPBusError
from paste_wspbus.exits import FAILED
from paste_wspbus.ini.config import StartFailed
from paste_wspbus.ini.factories import at_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.ini.config import Site

#: The message if nothing else is known.
EARLY = 'The site stopped before it was started'


def failure_of(site: Site, exited: SystemExit) -> StartFailed | None:
    """Return the error if a component called sys.exit at its start; None if none did."""
    calls = [call for call in site.bus.timeline if call.channel == 'start']
    code = exit_code_of(exited)
    if not calls or site.bus.was_started:
        return None
    name = calls[-1].name
    why = exited.code if isinstance(exited.code, str) else f'exit code {code}'
    error = WSPBusError(f'{name} exited instead of starting: {why}{at_place(exited)}')
    failed = StartFailed(site.place_of(name), name, error)
    failed.exit_code = code or FAILED
    return failed


def gave_up(site: Site) -> WSPBusError | None:
    """Return the error if bus.stop() or bus.exit() ended the start; None if it did not."""
    calls = [call for call in site.bus.timeline if call.channel == 'start']
    if site.bus.was_started or site.bus.execv or not calls:
        return None
    failed = WSPBusError(EARLY)
    if not site.bus.exit_code:  # otherwise a failure in another place has ended it
        name = calls[-1].name
        why = f': {site.bus.stop_reason}' if site.bus.stop_reason else ''
        error = WSPBusError(f'the site was stopped while {name} was starting{why}')
        failed = StartFailed(site.place_of(name), name, error)
    failed.is_logged = True
    return failed
