"""Apache's mod_wsgi: a bus in each process that serves, made by a .wsgi script of two lines.

    from paste_wspbus.hosts.mod_wsgi import application_from
    application = application_from('site.ini')

The facts about mod_wsgi are from its source, versions 4.9.4 and 6.1.1. See also
docs/mod_wsgi.md.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from functools import partial
from time import monotonic, sleep

from paste_wspbus.bus.deadlines import call_after
from paste_wspbus.errors import WSPBusError
from paste_wspbus.hosts.site import LOOK, HostedSite, Program, compose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from paste_wspbus.requests.filter import WSGIApp

#: Seconds after which Apache kills a daemon process that it has asked to end, at its own
#: restart, graceful restart and stop (APR's pool of subprocesses). No setting changes it.
KILLED_AFTER = 3.0

#: The part of these seconds for requests in flight; the rest is for 'stop' listeners.
IN_FLIGHT = 1.5

#: Seconds that a request may take from mod_wsgi, which accepts it, to the filter, which
#: counts it: mod_wsgi accepts without Python, and then waits for the lock of Python (GIL).
ON_ITS_WAY = 0.05

#: Seconds after which the log says what a stop waits for, before Apache kills the process.
LATE = 2.0

#: Seconds that the requests in flight of a site have if its script was touched in embedded
#: mode. Requests for the new site wait meanwhile.
REPLACED = 10.0

#: The sites of this interpreter that are started, by script, .ini and application.
_sites: dict[object, HostedSite] = {}
_loading = threading.RLock()
_subscribed = False


class NotUnderModWSGI(WSPBusError):
    """`application_from` was called in a process that does not belong to Apache."""

    def __init__(self) -> None:
        super().__init__(
            'application_from() works only in a .wsgi script that mod_wsgi runs; '
            'use wspserve to serve the .ini itself'
        )


class ModWSGI(Program):
    """The Host of a site under Apache's mod_wsgi, which runs its script in each process."""

    def take(self, site: HostedSite, key: object = None) -> None:
        """Connect mod_wsgi's own events to a site, so that they stop it.

        :param key: identifies the site among those of this interpreter.
        """
        mod_wsgi: Any = sys.modules['mod_wsgi']
        daemon = bool(mod_wsgi.process_group)
        if daemon:
            site.leave = _end_process
            site.bus.subscribe('drain', partial(_finish_requests, site), priority=100)
        else:  # Apache's own processes answer their requests before the event
            site.leave = _refuse_to_end
        _sites[key] = site
        _subscribe(mod_wsgi, daemon)


def this_host() -> ModWSGI | None:
    """Return the Host with what mod_wsgi promises in this process; None if it is not there."""
    # The package mod_wsgi of PyPI has the same name, and its command runs without Apache.
    mod_wsgi: Any = sys.modules.get('mod_wsgi')
    if not hasattr(mod_wsgi, 'process_group'):
        return None
    promises = ['start', 'stop', 'per-worker', 'cluster']
    if hasattr(mod_wsgi, 'subscribe_shutdown'):
        promises.append('drain')
    return ModWSGI('mod_wsgi', '.'.join(map(str, mod_wsgi.version)), promises)


def application_from(
    uri: str | os.PathLike[str],
    vars: Mapping[str, str] | None = None,
    app_name: str | None = None,
) -> WSGIApp:
    """Compose the site of an .ini, start its bus, and return the application.

    In embedded mode, mod_wsgi runs a script again in the same process if the script was
    touched. Then the site that it has made before is stopped first.

    :param uri: the path of an .ini; a relative path starts in the folder of the script.
    :param vars: the variables that ``var=value`` sets on the command line.
    :param app_name: ``[app:NAME]`` instead of ``[app:main]``.
    :raises ConfigError: if the .ini is wrong. A site that the script has made before
        keeps running.
    :raises FactoryError: if a factory fails. A site from before keeps running, too.
    :raises StartFailed: if a listener failed; the parts that had started were stopped.
        mod_wsgi logs it, answers 500, and runs the script again for the next request.
    :raises NotUnderModWSGI: if this process does not belong to Apache.
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
        host.take(site, key)
        try:
            site.start()
        except BaseException:
            _sites.pop(key, None)
            raise
    return site.app  # type: ignore[no-any-return]


def _subscribe(mod_wsgi: Any, daemon: bool) -> None:
    """Subscribe to mod_wsgi's event, once in an interpreter; warn if there is no event."""
    global _subscribed
    if _subscribed:
        return
    _subscribed = True
    if hasattr(mod_wsgi, 'subscribe_shutdown'):
        mod_wsgi.subscribe_shutdown(_stopping)
    else:
        _warn(
            'this mod_wsgi does not announce the end of its process (version 4.8 does): '
            "'drain' and 'stop' listeners run only when the interpreter ends"
        )
    if not daemon:
        _warn(
            'in embedded mode the site runs in the child processes of Apache: Apache '
            'starts and ends them when it wants, and the bus cannot end them; '
            'WSGIDaemonProcess gives the site processes of its own'
        )


def _stopping(name: str, shutdown_reason: str = '', **more: object) -> None:
    """Stop all sites: mod_wsgi's event says that the process accepts no more requests.

    The stop is over when this returns. Then mod_wsgi joins the threads that answer
    requests, and ends the interpreter (not with WSGIDestroyInterpreter Off). It does not
    wait for other threads of a sub-interpreter.
    """
    for site in list(_sites.values()):
        cancel = call_after(LATE, partial(_tell_late, site))
        try:
            site.stop(shutdown_reason)
        finally:
            cancel()


def _finish_requests(site: HostedSite) -> None:
    """Wait until no request is in flight, or on its way from mod_wsgi to the filter."""
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
        f'{name} ({channel!r}) still runs {LATE:g} s after the order to end the process; '
        f'Apache kills the process after {KILLED_AFTER:g} s, mod_wsgi after '
        'shutdown-timeout'
    )


def _end_process() -> None:
    """End this daemon process after its requests in flight; Apache starts another one."""
    os.kill(os.getpid(), signal.SIGUSR1)


def _refuse_to_end() -> None:
    _warn(
        'the bus was asked to stop or exit, but Apache owns the process: it keeps running'
    )


def _warn(message: str) -> None:
    # Without configured logging, Python writes it to stderr, which is Apache's error log.
    logging.getLogger('paste_wspbus').warning('mod_wsgi: %s', message)
