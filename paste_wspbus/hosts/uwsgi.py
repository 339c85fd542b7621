"""uWSGI: a bus in each worker, for an .ini with the bus filter: ``uwsgi --ini-paste site.ini``.

The filter makes the embedded bus, which this module ties to uWSGI's events: started after
the fork (`uwsgi.post_fork_hook`), or with the application under lazy-apps; stopped by
`uwsgi.atexit`. Both are single slots: whatever is in them is called, too. Facts about
uWSGI are from the source of 2.0.31. docs/uwsgi.md.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from functools import partial

from paste_wspbus.hosts import Host
from paste_wspbus.loader import StartFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.hosts.site import HostedSite

#: uWSGI's exit code for a worker that cannot load its application (UWSGI_FAILED_APP_CODE).
FAILED_APP = 22

#: What makes a worker finish its request at the signals that would end it at once: its
#: master sends it the first.
HOOKS = (
    '"hook-accepting = unix_signal:2 gracefully_kill" and '
    '"hook-accepting = unix_signal:15 gracefully_kill"'
)

#: With these, uWSGI calls nothing when a worker ends (uwsgi_python_atexit, end_me).
WITHOUT_EXIT = ('skip-atexit', 'async', 'gevent', 'asyncio')

#: Here uWSGI reads requests from their clients, and may wait for the rest of one.
READS_HTTP = ('http-socket', 'http11-socket', 'https-socket')


def this_host() -> Host | None:
    """What uWSGI promises in this process, with its options; None if it is not there."""
    uwsgi: Any = sys.modules.get('uwsgi')
    if not hasattr(uwsgi, 'worker_id'):
        return None
    promises = ['start', 'per-worker', 'main thread']
    if not _why_unsure(uwsgi):
        promises += ['drain', 'stop']
    return Host('uWSGI', _text(uwsgi.version), promises)


def take(site: HostedSite) -> None:
    """Have a site started and stopped by uWSGI's own events."""
    import uwsgi

    site.leave = _end_worker
    if uwsgi.worker_id():  # lazy-apps: the fork was before
        site.bus.composed = partial(_start, site)
    else:
        others = getattr(uwsgi, 'post_fork_hook', None)
        uwsgi.post_fork_hook = partial(_after_fork, site, others)
    reason = _why_unsure(uwsgi)
    if reason and uwsgi.worker_id() < 2:  # once: lazy workers all come here
        logging.getLogger('paste_wspbus').warning('uWSGI: %s', reason)


def _after_fork(site: HostedSite, others: Callable[[], object] | None) -> None:
    """Also of mules and spoolers, which serve nothing."""
    import uwsgi

    if others is not None:
        others()
    if uwsgi.worker_id():
        _start(site)


def _start(site: HostedSite) -> None:
    """A worker whose site does not start exits as one whose application does not load.

    The master says so, and begins another; with lazy-apps and need-app it gives up.
    """
    import uwsgi

    try:
        site.start()
    except StartFailed as error:
        logging.getLogger('paste_wspbus').error('%s', error)
        raise SystemExit(FAILED_APP) from error
    # Not before: what the site put into the slot while it was made is called, too.
    uwsgi.atexit = partial(_stop, site, getattr(uwsgi, 'atexit', None))


def _stop(site: HostedSite, others: Callable[[], object] | None) -> None:
    try:
        site.stop('process exit')
    finally:
        if others is not None:
            others()


def _end_worker() -> None:
    """This worker ends when its request is answered; the master forks another."""
    os.kill(os.getpid(), signal.SIGHUP)


def _why_unsure(uwsgi: Any) -> str | None:
    """Why 'stop' listeners may not run at a worker's end; None if they will.

    uWSGI does not call `uwsgi.atexit` in a worker that it takes to be in a request. A
    worker that ends at once at a signal may well be, the more the more threads it has.
    And its first thread is taken to be, if it ends while it waits for the rest of a
    request: nothing sets ``in_request`` back after the read that fails.
    """
    options = uwsgi.opt
    without = [name for name in WITHOUT_EXIT if name in options]
    if without:
        return f"'stop' listeners do not run with {without[0]}"
    # uwsgi.opt has the last of an option's values alone, on Python 3.
    if 'gracefully_kill' not in _text(options.get('hook-accepting', '')):
        return (
            "'stop' listeners do not run in a worker that SIGINT or SIGTERM ends in the "
            f'midst of a request; it finishes that first with {HOOKS}'
        )
    direct = [name for name in READS_HTTP if name in options]
    if direct:
        return (
            "'stop' listeners do not run in a worker that ends while it waits for the "
            f'rest of a request on its {direct[0]}; behind a proxy that talks to "socket" '
            'it does not wait'
        )
    return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
