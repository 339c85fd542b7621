"""gunicorn: a bus in each worker, started after the fork and stopped when the worker exits.

    gunicorn --paste site.ini -c python:paste_wspbus.hosts.gunicorn

This module is the configuration file: of all its names gunicorn takes `nworkers_changed`,
the first hook that sees the application, also before --preload composes it. That one puts
the others in front of, or behind, the site's own.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
from functools import partial

from paste_wspbus.bus import ChannelFailures
from paste_wspbus.errors import WSPBusError
from paste_wspbus.hosts import Host
from paste_wspbus.hosts.site import HostedSite, compose
from paste_wspbus.loader import SERVER, Config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

#: The factory that ``[server:main] use = egg:gunicorn#main`` names.
FACTORY = 'gunicorn.app.pasterapp:serve'

#: What ``-c`` names.
CONFIG = f'python:{__name__}'

#: The worker classes that are known to run hooks in the main thread, after the last request.
KNOWN = ('sync', 'gthread')

PROMISES = ('start', 'stop', 'reload', 'per-worker')

#: gunicorn's exit codes for a worker that does not boot and an application that does not
#: load (gunicorn.arbiter): with both, the master gives up instead of trying without end.
BOOT_ERROR, LOAD_ERROR = 3, 4

#: Seconds before gunicorn's own deadlines: time to log what holds the site up.
MARGIN = 1.0


class Master:
    """A gunicorn in this process: it composes the site where gunicorn loads it.

    :param make: composes the site; None where gunicorn loads an application of its own,
        which has the embedded bus if it asks for one.
    :param started: called with the addresses by the first worker that has started.
    """

    def __init__(
        self,
        app: Any,
        make: Callable[[Master], HostedSite] | None,
        started: Callable[[list[str]], object] | None = None,
    ) -> None:
        self.app, self.cfg, self._make, self._started = app, None, make, started
        self.site: HostedSite | None = None
        # How often it was reloaded: workers see it.
        self._reloads = mmap.mmap(-1, mmap.PAGESIZE)
        # One byte: the worker that gets it is the first.
        self._first, end = os.pipe()
        os.set_blocking(self._first, False)
        os.write(end, b'1')
        os.close(end)
        if make is not None:
            app.load = self._load

    @property
    def host(self) -> Host:
        """What gunicorn promises with these settings."""
        from gunicorn import __version__

        known = _kind_of(self.app.cfg) in KNOWN
        more = ('drain', 'main thread') if known else ()
        return Host('gunicorn', __version__, {*PROMISES, *more})

    def _load(self) -> Any:
        assert self._make is not None
        try:
            self.site = self._make(self)
        except WSPBusError as error:
            print(error, file=sys.stderr, flush=True)
            raise SystemExit(LOAD_ERROR) from error
        return self.site.app

    # hooks

    def install(self, server: Any) -> None:
        """Put the hooks beside the site's own; once for each reading of the settings."""
        cfg = server.app.cfg
        if cfg is self.cfg:
            return
        self.cfg = cfg
        for name, ours, first in (
            ('pre_fork', self._pre_fork, True),
            ('post_worker_init', self._post_worker_init, False),
            ('worker_exit', self._worker_exit, True),
            ('on_reload', self._on_reload, True),
        ):
            setting = cfg.settings[name]
            setting.value = _both(ours, setting.value, first)
        self._warn(server)

    def _warn(self, server: Any) -> None:
        kind = _kind_of(self.cfg)
        if kind not in KNOWN:
            server.log.warning(
                "paste_wspbus: with the worker class %s the site's components may be "
                'stopped while requests are being answered; %s wait for them',
                kind,
                ' and '.join(KNOWN),
            )

    @property
    def reloads(self) -> int:
        """How often this gunicorn was told to reload."""
        return int.from_bytes(self._reloads[:8], sys.byteorder)

    def _on_reload(self, server: Any) -> None:
        self._reloads[:8] = (self.reloads + 1).to_bytes(8, sys.byteorder)

    def _pre_fork(self, server: Any, worker: Any) -> None:
        worker.reloads_before = self.reloads

    def _post_worker_init(self, worker: Any) -> None:
        site = self.site
        if site is None:
            return  # an application that asks for no bus, or could not be imported
        site.leave = partial(os.kill, os.getpid(), signal.SIGTERM)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            # A terminal's end is told to all, and would kill this worker as it is.
            signal.signal(signal.SIGHUP, worker.handle_exit)
        _keep_to(worker.cfg, site)
        try:
            site.start()
        except WSPBusError as error:
            worker.log.error('%s', error)
            raise SystemExit(BOOT_ERROR) from error
        if os.read(self._first, 1) and self._started is not None:
            self._started([str(sock) for sock in worker.sockets])

    def _worker_exit(self, server: Any, worker: Any) -> None:
        site = self.site
        if site is None or not site.is_started:
            return
        reason = self._reason(worker)
        if reason == 'reload':
            with contextlib.suppress(ChannelFailures):  # in the log
                site.bus.graceful()
        site.stop(reason)

    def _reason(self, worker: Any) -> str:
        if worker.reloads_before != self.reloads:
            return 'reload'
        return 'max_requests' if worker.nr >= worker.max_requests else 'shutdown'


def _kind_of(cfg: Any) -> str:
    """The name of the worker class: 'sync', 'gthread', or another."""
    return str(cfg.worker_class_str)


def _keep_to(cfg: Any, site: HostedSite) -> None:
    """Gunicorn kills, without a word, what takes longer than its own timeouts."""
    bus = site.bus
    if cfg.timeout and bus.start_timeout is not None:
        bus.start_timeout = min(bus.start_timeout, max(cfg.timeout - MARGIN, MARGIN))
    limit = max(cfg.graceful_timeout - MARGIN, MARGIN)
    if bus.stop_timeout is not None:
        bus.stop_timeout = min(bus.stop_timeout, limit)
    # After SIGQUIT, gthread leaves while its threads are answering.
    site.patience = limit / 2


def _both(
    ours: Callable[..., object], theirs: Callable[..., object], first: bool
) -> Callable[..., None]:
    """Ours before the site's own hook, which runs whatever ours does; or behind it."""

    def hook(*args: Any) -> None:
        if not first:
            theirs(*args)
            ours(*args)
            return
        try:
            ours(*args)
        finally:
            theirs(*args)

    return hook


# -- gunicorn --paste site.ini -c python:paste_wspbus.hosts.gunicorn -------------------------

_master: Master | None = None


def nworkers_changed(server: Any, new_value: Any, old_value: Any) -> None:
    """gunicorn's hook: called before the application is loaded, and at each reload."""
    global _master
    if _master is None:
        _master = Master(server.app, _maker(server))
        if _read_default_config(server):
            return
    _master.install(server)


def _maker(server: Any) -> Callable[[Master], HostedSite] | None:
    """What composes the site; None where gunicorn does it: without --paste, or too old."""
    if not server.cfg.paste:
        return None
    if hasattr(server.app, 'app_uri'):
        return _compose_paste
    from gunicorn import __version__

    server.log.warning(
        'paste_wspbus: gunicorn %s is too old, before 20.0: it composes the site by itself, '
        'which has a bus if there is a filter "use = egg:paste_wspbus#bus" in it',
        __version__,
    )
    return None


def _compose_paste(master: Master) -> HostedSite:
    return _compose(master, master.app.app_uri, master.app.cfg.paste_global_conf)


def _compose(
    master: Master,
    uri: str,
    vars: Mapping[str, str] | None,
    app_name: str | None = None,
) -> HostedSite:
    configured = bool(master.app.cfg.logconfig)  # gunicorn did it, from the same file
    hosted = compose(
        uri,
        master.host,
        vars,
        app_name,
        configure_logging=False,
        logger='paste_wspbus' if configured else 'gunicorn.error',
    )
    hosted.bus.owns_alarm = True  # gunicorn has no use for SIGALRM
    return hosted


def _read_default_config(server: Any) -> bool:
    """The site's own ./gunicorn.conf.py holds, too, though ``-c`` names this module."""
    from gunicorn.config import get_default_config_file

    default, app = get_default_config_file(), server.app
    if default is None or app.cfg.config != CONFIG:
        return False
    read = app.load_config_from_file

    def read_both(location: str) -> Any:
        if location == CONFIG:
            read(default)
        return read(location)

    app.load_config_from_file = read_both
    app.do_load_config()
    server.setup(app)  # what it has read so far came from the other settings
    return True


# -- [server:main] use = egg:gunicorn#main ---------------------------------------------------


def is_server(config: Config, server_name: str | None = None) -> bool:
    """Whether [server:main], or the one named, is gunicorn; nothing is imported."""
    return bool(config.loader.factory_name(SERVER, server_name) == FACTORY)


def serve(
    config: Config,
    server_name: str | None,
    app_name: str | None,
    settings: Mapping[str, Any],
    started: Callable[[list[str]], object],
) -> int:
    """Be the gunicorn that the .ini's [server:main] describes, in this process.

    :param settings: gunicorn's, which hold over those of the section.
    :param started: called in the first worker that has started, with the addresses.
    :returns: the exit code, where gunicorn does not leave by itself.
    :raises SystemExit: at the end, with gunicorn's exit code; in workers, too.
    """
    from gunicorn.errors import HaltServer

    context = config.loader.get_context(SERVER, server_name, dict(config.vars))
    conf = {**context.local_conf, **settings}
    uri = config.uri

    def make(master: Master) -> HostedSite:
        return _compose(master, uri, config.vars, app_name or config.app_name)

    def hook(server: Any, new_value: Any, old_value: Any) -> None:
        global _master
        if _master is None:
            _master = Master(server.app, make, started)
        _master.install(server)

    conf['nworkers_changed'] = hook
    try:
        context.object(None, context.global_conf, **conf)
    except HaltServer as halt:  # when a second worker fails while it gives up
        return int(halt.exit_status)
    return 0


# -- an application that gunicorn loads by itself: see hosts.embedded --------------------------


def this_host() -> Host | None:
    """gunicorn's Host, if these hooks are in use."""
    return _master.host if _master is not None else None


def take(site: HostedSite) -> None:
    """Start and stop the bus of an application that is not composed here."""
    assert _master is not None
    _master.site = site
