"""Apache's mod_wsgi: a bus in each process that serves, for a .wsgi script of two lines.

    from paste_wspbus.hosts.mod_wsgi import application_from
    application = application_from('site.ini')

Facts about mod_wsgi are from its source, versions 4.9.4 and 6.1.1. docs/mod_wsgi.md.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from functools import partial
from time import monotonic, sleep

from paste_wspbus.deadlines import call_after
from paste_wspbus.errors import WSPBusError
from paste_wspbus.hosts import Host
from paste_wspbus.hosts.site import LOOK, HostedSite, compose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from paste_wspbus.middleware import WSGIApp

#: Seconds after which Apache kills a daemon process that it told to end, at its own
#: restart, graceful restart and stop (APR's pool of subprocesses): no setting changes it.
KILLED_AFTER = 3.0

#: Seconds of those that requests in flight have; the rest is for 'stop' listeners.
IN_FLIGHT = 1.5

#: Seconds that a request may take from where mod_wsgi accepts it to where the filter
#: counts it: the first needs no Python, and the second waits for its lock.
ON_ITS_WAY = 0.05

#: Seconds after which what a stop waits for is logged, as long as there is time to.
LATE = 2.0

#: Seconds that requests in flight of a site have whose script was touched in embedded
#: mode: requests for the new one wait meanwhile.
REPLACED = 10.0

#: The sites of this interpreter that are started, by script, .ini and application.
_sites: dict[object, HostedSite] = {}
_loading = threading.RLock()
_subscribed = False


class NotUnderModWSGI(WSPBusError):
    """`application_from` was called in a process that is not Apache's."""

    def __init__(self) -> None:
        super().__init__(
            'application_from() is for .wsgi scripts that mod_wsgi runs; '
            'wspserve serves the .ini itself'
        )


def this_host() -> Host | None:
    """What mod_wsgi promises in this process; None if it is not there."""
    # PyPI's mod_wsgi is a package of this name, too, whose command runs without Apache.
    mod_wsgi: Any = sys.modules.get('mod_wsgi')
    if not hasattr(mod_wsgi, 'process_group'):
        return None
    promises = ['start', 'stop', 'per-worker']
    if hasattr(mod_wsgi, 'subscribe_shutdown'):
        promises.append('drain')
    return Host('mod_wsgi', '.'.join(map(str, mod_wsgi.version)), promises)


def application_from(
    uri: str | os.PathLike[str],
    vars: Mapping[str, str] | None = None,
    app_name: str | None = None,
) -> WSGIApp:
    """Compose the site of an .ini, start its bus, and return the application.

    Where the same script calls it again in one process, as embedded mode does when the
    script was touched, the site that it made before is stopped first.

    :param uri: the path of an .ini; a relative one is beside the script.
    :param vars: what ``var=value`` sets on the command line.
    :param app_name: ``[app:NAME]`` instead of ``[app:main]``.
    :raises ConfigError: if the .ini is wrong; a site that the script made before goes on.
    :raises FactoryError: if a factory fails; likewise.
    :raises StartFailed: if a listener failed; what had started was stopped. mod_wsgi
        logs it, answers 500, and runs the script again for the next request.
    :raises NotUnderModWSGI: if this is not a process of Apache's.
    """
    host = this_host()
    if host is None:
        raise NotUnderModWSGI
    script = sys._getframe(1).f_globals.get('__file__', '')
    folder = os.path.dirname(os.path.abspath(script))
    key = script, os.fspath(uri), app_name
    with _loading:
        site = compose(uri, host, vars, app_name, relative_to=folder)
        replaced = _sites.pop(key, None)
        if replaced is not None:
            replaced.patience = REPLACED
            replaced.stop('script_reload')
        take(site, key)
        try:
            site.start()
        except BaseException:
            _sites.pop(key, None)
            raise
    return site.app  # type: ignore[no-any-return]


def take(site: HostedSite, key: object = None) -> None:
    """Have a site stopped by mod_wsgi's own events."""
    global _subscribed
    mod_wsgi: Any = sys.modules['mod_wsgi']
    daemon = bool(mod_wsgi.process_group)
    if daemon:
        site.leave = _end_process
        site.bus.subscribe('drain', partial(_finish_requests, site), priority=100)
    else:  # Apache's own processes answer their requests before they tell
        site.leave = _refuse_to_end
    _sites[key] = site
    if _subscribed:
        return
    _subscribed = True
    if hasattr(mod_wsgi, 'subscribe_shutdown'):
        mod_wsgi.subscribe_shutdown(_stopping)
    else:
        _warn(
            'this mod_wsgi tells nobody that its process ends (from 4.8 on it does): '
            "'stop' listeners run when the interpreter ends, 'drain' listeners with them"
        )
    if not daemon:
        _warn(
            "in embedded mode the site is Apache's child processes', which come and go as "
            'Apache sees fit, and cannot be ended by the bus; WSGIDaemonProcess gives it '
            'processes of its own'
        )


def _stopping(name: str, shutdown_reason: str = '', **more: object) -> None:
    """mod_wsgi's event: the process accepts no requests any more, and is to end.

    All is done before this returns: then mod_wsgi joins the threads that answer requests,
    and ends the interpreter, but not with WSGIDestroyInterpreter Off, and it takes no
    heed of other threads that a sub-interpreter has.
    """
    for site in list(_sites.values()):
        cancel = call_after(LATE, partial(_tell_late, site))
        try:
            site.stop(shutdown_reason)
        finally:
            cancel()


def _finish_requests(site: HostedSite) -> None:
    """Wait until no request is in flight, nor on its way from mod_wsgi to the filter."""
    requests = site.bus.plugins.get('requests')
    now = monotonic()
    until, quiet = now + IN_FLIGHT, now + ON_ITS_WAY
    while now < min(until, quiet):
        sleep(LOOK)
        now = monotonic()
        if requests:
            quiet = now + ON_ITS_WAY


def _tell_late(site: HostedSite) -> None:
    channel, name, _ = site.bus.calling or ('', 'the bus', 0)
    _warn(
        f'{name} ({channel!r}) goes on {LATE:g} s after the process was told to end; '
        f'Apache kills it after {KILLED_AFTER:g} s, mod_wsgi after shutdown-timeout'
    )


def _end_process() -> None:
    """This daemon process ends when its requests are answered; another takes its place."""
    os.kill(os.getpid(), signal.SIGUSR1)


def _refuse_to_end() -> None:
    _warn("the bus was asked to stop or exit, but the process is Apache's: it goes on")


def _warn(message: str) -> None:
    # Where no logging is configured, Python writes it to stderr, Apache's error log.
    logging.getLogger('paste_wspbus').warning('mod_wsgi: %s', message)
