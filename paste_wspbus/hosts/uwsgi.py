"""uWSGI: a bus in each worker, for an .ini with the bus filter: ``uwsgi --ini-paste site.ini``.

The filter makes the embedded bus, and this module connects it to uWSGI's events. The bus
starts after the fork (`uwsgi.post_fork_hook`), or under lazy-apps with the application.
`uwsgi.atexit` stops it. Each of these hooks is a single function; a function that was
there before is called, too. The facts about uWSGI are from its source, version 2.0.31.
See also docs/uwsgi.md.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from functools import partial

from paste_wspbus.hosts.site import HostedSite, Program
from paste_wspbus.ini.config import StartFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus

#: uWSGI's exit code for a worker that cannot load its application (UWSGI_FAILED_APP_CODE).
FAILED_APP = 22

#: The option with which a worker finishes its request at SIGINT, which the master sends,
#: and at SIGTERM. Otherwise these signals end it at once.
HOOKS = (
    '"hook-accepting = unix_signal:2 gracefully_kill" and '
    '"hook-accepting = unix_signal:15 gracefully_kill"'
)

#: With these options, uWSGI does not call `uwsgi.atexit` (uwsgi_python_atexit, end_me).
WITHOUT_EXIT = ('skip-atexit', 'async', 'gevent', 'asyncio')

#: Without one of these options, uWSGI runs no thread that it has not made itself.
RUNS_THREADS = ('enable-threads', 'threads')

#: With these options, uWSGI reads requests from clients, and may wait for a part of one.
READS_HTTP = ('http-socket', 'http11-socket', 'https-socket')


class UWSGI(Program):
    """The Host of a site in a worker of uWSGI."""

    _starts_when_composed = False

    def take(self, site: HostedSite) -> None:
        """Connect uWSGI's own events to a site, so that they start and stop it."""
        import uwsgi

        site.leave = _end_worker
        if uwsgi.worker_id():  # lazy-apps: the worker was forked before
            self._starts_when_composed = True
        else:
            others = getattr(uwsgi, 'post_fork_hook', None)
            uwsgi.post_fork_hook = partial(_after_fork, site, others)
        reason = _why_unsure(uwsgi)
        if reason and uwsgi.worker_id() < 2:  # only once: each lazy worker comes here
            logging.getLogger('paste_wspbus').warning('uWSGI: %s', reason)

    def composed(self, bus: Bus) -> None:
        """Start the site in a worker that has composed it itself (lazy-apps)."""
        if self._starts_when_composed and self.site is not None:
            _start(self.site)


def this_host() -> UWSGI | None:
    """Return the Host with what uWSGI promises with its options; None if it is not there."""
    uwsgi: Any = sys.modules.get('uwsgi')
    if not hasattr(uwsgi, 'worker_id'):
        return None
    promises = ['start', 'per-worker', 'main thread']
    if not _why_unsure(uwsgi):
        promises += ['drain', 'stop']
    if any(name in uwsgi.opt for name in RUNS_THREADS):
        promises.append('cluster')
    return UWSGI('uWSGI', _text(uwsgi.version), promises)


def _after_fork(site: HostedSite, others: Callable[[], object] | None) -> None:
    """Start the site in a worker; mules and spoolers are forked, too, but serve nothing."""
    import uwsgi

    if others is not None:
        others()
    if uwsgi.worker_id():
        _start(site)


def _start(site: HostedSite) -> None:
    """Start the site; if it fails, exit as a worker whose application does not load.

    The master logs that, and starts another worker. With lazy-apps and need-app it ends.
    """
    import uwsgi

    try:
        site.start()
    except StartFailed as error:
        logging.getLogger('paste_wspbus').error('%s', error)
        raise SystemExit(FAILED_APP) from error
    except KeyboardInterrupt:
        # A signal that ends this worker has ended the start. uWSGI would only print it, and
        # the worker would serve on.
        raise SystemExit(0) from None
    # Set this only now: the site may have set the hook while it was composed.
    uwsgi.atexit = partial(_stop, site, getattr(uwsgi, 'atexit', None))


def _stop(site: HostedSite, others: Callable[[], object] | None) -> None:
    try:
        site.stop('process exit')
    finally:
        if others is not None:
            others()


def _end_worker() -> None:
    """End this worker after its request; the master forks another one."""
    os.kill(os.getpid(), signal.SIGHUP)


def _why_unsure(uwsgi: Any) -> str | None:
    """Return why 'stop' listeners may not run at the end of a worker; None if they run.

    uWSGI does not call `uwsgi.atexit` in a worker if it believes that the worker is in a
    request. This is likely if a signal ends the worker at once, and more likely if the
    worker has many threads. It also happens if the worker ends while its first thread
    waits for a part of a request: when the read fails, nothing resets ``in_request``.
    """
    options = uwsgi.opt
    without = [name for name in WITHOUT_EXIT if name in options]
    if without:
        return f"'stop' listeners do not run with {without[0]}"
    # On Python 3, uwsgi.opt has only the last value of an option.
    if 'gracefully_kill' not in _text(options.get('hook-accepting', '')):
        return (
            "'stop' listeners do not run in a worker that SIGINT or SIGTERM ends during a "
            f'request; set {HOOKS} to finish the request first'
        )
    direct = [name for name in READS_HTTP if name in options]
    if direct:
        return (
            "'stop' listeners do not run in a worker that ends while it waits for the "
            f'rest of a request on its {direct[0]}; use "socket" behind a proxy, so that '
            'it does not wait'
        )
    return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
