"""gunicorn: a bus in each worker, which starts after the fork and stops with the worker.

    gunicorn --paste site.ini -c python:paste_wspbus.hosts.gunicorn

This module is the configuration file. Of its names, gunicorn uses only the hook
`nworkers_changed`. This is the first hook that gets the application, and gunicorn calls
it before --preload composes the site. It puts the other hooks before or after those of
the site.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
from functools import partial

from paste_wspbus.bus import ChannelFailures
from paste_wspbus.errors import ConfigError, WSPBusError
from paste_wspbus.hosts.site import HostedSite, Program, compose
from paste_wspbus.ini.config import SERVER, Config
from paste_wspbus.values import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

#: The factory that ``[server:main] use = egg:gunicorn#main`` names.
FACTORY = 'gunicorn.app.pasterapp:serve'

#: The value of ``-c`` that names this module.
CONFIG = f'python:{__name__}'

#: The worker classes that are known to call hooks in the main thread, after the last request.
KNOWN = ('sync', 'gthread')

#: The capabilities that hold with every worker class.
PROMISES = ('start', 'stop', 'reload', 'per-worker')

#: gunicorn's exit codes (gunicorn.arbiter) for a worker that does not boot, and for an
#: application that does not load. After both, the master ends, and starts no new workers.
BOOT_ERROR, LOAD_ERROR = 3, 4

#: Seconds before gunicorn's own deadlines: the time to log what does not end.
MARGIN = 1.0


class Gunicorn(Program):
    """The Host of a site in a worker of gunicorn.

    :param master: the gunicorn of this process.
    """

    def __init__(
        self, master: Master, version: str, capabilities: Iterable[str]
    ) -> None:
        super().__init__('gunicorn', version, capabilities)
        self._master = master

    def take(self, site: HostedSite) -> None:
        """Let gunicorn's hooks start and stop a site whose application gunicorn loads."""
        self._master.site = site


class Master:
    """The gunicorn in this process, and its hooks. It composes the site for gunicorn.

    :param app: gunicorn's application object.
    :param make: composes the site; None if gunicorn loads the application itself. Then
        the application has the embedded bus, if it asks for a bus.
    :param started: the first worker that has started calls this, with the addresses.
    """

    def __init__(
        self,
        app: Any,
        make: Callable[[Master], HostedSite] | None,
        started: Callable[[list[str]], object] | None = None,
    ) -> None:
        self.app, self.cfg, self._make, self._started = app, None, make, started
        self.site: HostedSite | None = None
        self._urls: list[str] = []
        # The number of reloads, in memory that the workers share.
        self._reloads = mmap.mmap(-1, mmap.PAGESIZE)
        # One byte: the worker that reads it is the first.
        self._first, end = os.pipe()
        os.set_blocking(self._first, False)
        os.write(end, b'1')
        os.close(end)
        if make is not None:
            app.load = self._load

    @property
    def host(self) -> Gunicorn:
        """A new Host for one site, with gunicorn's promises for its present settings."""
        from gunicorn import __version__

        known = _kind_of(self.app.cfg) in KNOWN
        more = ('drain', 'main thread', 'cluster') if known else ()
        return Gunicorn(self, __version__, {*PROMISES, *more})

    def _load(self) -> Any:
        assert self._make is not None
        try:
            self.site = self._make(self)
        except WSPBusError as error:
            print(error, file=sys.stderr, flush=True)
            raise SystemExit(LOAD_ERROR) from error
        return self.site.app

    # The hooks

    def install(self, server: Any) -> None:
        """Put the hooks beside those of the site, once each time that the settings are read."""
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
                "paste_wspbus: with the worker class %s, the site's components may stop "
                'while it still answers requests; the worker classes %s wait for them',
                kind,
                ' and '.join(KNOWN),
            )

    @property
    def reloads(self) -> int:
        """The number of reloads of this gunicorn."""
        return int.from_bytes(self._reloads[:8], sys.byteorder)

    def _on_reload(self, server: Any) -> None:
        self._reloads[:8] = (self.reloads + 1).to_bytes(8, sys.byteorder)

    def _pre_fork(self, server: Any, worker: Any) -> None:
        worker.reloads_before = self.reloads
        # In the worker they may be sockets of gevent or eventlet, which name no address.
        self._urls = [str(sock) for sock in server.LISTENERS]

    def _post_worker_init(self, worker: Any) -> None:
        site = self.site
        if site is None:
            return  # the application asks for no bus, or could not be imported
        site.leave = partial(os.kill, os.getpid(), signal.SIGTERM)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            # The end of a terminal signals all its processes, and would kill this worker.
            signal.signal(signal.SIGHUP, worker.handle_exit)
        _keep_to(worker.cfg, site)
        try:
            site.start()
        except WSPBusError as error:
            worker.log.error('%s', error)
            raise SystemExit(BOOT_ERROR) from error
        if os.read(self._first, 1) and self._started is not None:
            self._started(self._urls)

    def _worker_exit(self, server: Any, worker: Any) -> None:
        site = self.site
        if site is None or not site.is_started:
            return
        reason = self._reason(worker)
        if reason == 'reload':
            with contextlib.suppress(ChannelFailures):  # the log has each error
                site.bus.graceful()
        site.stop(reason)

    def _reason(self, worker: Any) -> str:
        if worker.reloads_before != self.reloads:
            return 'reload'
        return 'max_requests' if worker.nr >= worker.max_requests else 'shutdown'


def _kind_of(cfg: Any) -> str:
    """Return the name of the worker class, such as 'sync' or 'gthread'."""
    return str(cfg.worker_class_str)


def _keep_to(cfg: Any, site: HostedSite) -> None:
    """Limit start and stop to gunicorn's timeouts: after them, it kills without a log line."""
    bus = site.bus
    if cfg.timeout and bus.start_timeout is not None:
        bus.start_timeout = min(bus.start_timeout, max(cfg.timeout - MARGIN, MARGIN))
    limit = max(cfg.graceful_timeout - MARGIN, MARGIN)
    if bus.stop_timeout is not None:
        bus.stop_timeout = min(bus.stop_timeout, limit)
    # After SIGQUIT, gthread ends while its threads still answer requests.
    site.patience = limit / 2


def _both(
    ours: Callable[..., object], theirs: Callable[..., object], first: bool
) -> Callable[..., None]:
    """Return a hook that calls both; theirs is called even if ours is first and fails."""

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
    """Install the hooks: gunicorn calls this before it loads the application and at reloads."""
    global _master
    if _master is None:
        _master = Master(server.app, _maker(server))
        if _read_default_config(server):
            return
    _master.install(server)


def _maker(server: Any) -> Callable[[Master], HostedSite] | None:
    """Return the function that composes the site.

    :returns: None if gunicorn composes it, because it is too old or has no --paste.
    """
    if not server.cfg.paste:
        return None
    if hasattr(server.app, 'app_uri'):
        return _compose_paste
    from gunicorn import __version__

    server.log.warning(
        'paste_wspbus: gunicorn %s is too old: before 20.0 it loads the application itself, '
        'so the site has a bus only if it has a filter "use = egg:paste_wspbus#bus"',
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
    # With logconfig, gunicorn has set up logging from the same file.
    configured = bool(master.app.cfg.logconfig)
    host = master.host
    hosted = compose(
        uri,
        host,
        vars,
        app_name,
        configure_logging=False,
        logger='paste_wspbus' if configured else 'gunicorn.error',
    )
    host.owns_alarm = True  # gunicorn does not use SIGALRM
    return hosted


def _read_default_config(server: Any) -> bool:
    """Also read the site's ./gunicorn.conf.py, although ``-c`` names this module."""
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
    server.setup(app)  # again: it has used the previous settings
    return True


# -- [server:main] use = egg:gunicorn#main ---------------------------------------------------


def is_server(config: Config, server_name: str | None = None) -> bool:
    """Whether [server:main], or [server:server_name], is gunicorn; this imports nothing."""
    return bool(config.loader.factory_name(SERVER, server_name) == FACTORY)


#: The keys that gunicorn's factory takes itself.
_KEYS = ('config', 'host', 'port')

#: The settings that are functions: to read them, gunicorn imports a module of the site.
_HOOKS = 'Server Hooks'


def check_settings(config: Config, server_name: str | None = None) -> dict[str, str]:
    """Check the settings that the section of gunicorn has, as gunicorn does.

    ``gunicorn --paste`` does not read this section, so it may have keys that only a
    ``gunicorn_conf.py`` of the site reads, such as RhodeCode's memory_max_usage.

    :returns: the keys that gunicorn does not know, each with a warning.
    :raises ConfigError: if gunicorn refuses a value, or a key resembles one of its settings.
    """
    from gunicorn.config import Config as Settings

    context = config.loader.get_context(SERVER, server_name, dict(config.vars))
    fail = partial(ConfigError, config.file, section=context.section)
    settings = Settings()
    foreign = {}
    for key, value in context.local_conf.items():
        setting = settings.settings.get(key.lower())
        if key in _KEYS:
            continue
        if setting is None:
            problem = 'gunicorn has no such setting'
            if meant := nearest(key, settings.settings):
                raise fail(f'{problem}{meant}', key=key)
            foreign[key] = f'[{context.section}] {key} is ignored: {problem}'
            continue
        if setting.section == _HOOKS:
            continue
        try:
            setting.set(value)
        except Exception as error:
            raise fail(f'{value!r} is not valid: {error}', key=key) from None
    return foreign


def serve(
    config: Config,
    server_name: str | None,
    app_name: str | None,
    settings: Mapping[str, Any],
    started: Callable[[list[str]], object],
) -> int:
    """Run the gunicorn that [server:main] of the .ini describes, in this process.

    :param config: the .ini.
    :param server_name: ``[server:NAME]`` instead of ``[server:main]``.
    :param app_name: ``[app:NAME]`` instead of ``[app:main]``.
    :param settings: settings of gunicorn, which override those of the section.
    :param started: the first worker that has started calls this, with the addresses.
    :returns: the exit code, if gunicorn does not exit itself.
    :raises SystemExit: at the end, with gunicorn's exit code; also in workers.
    """
    from gunicorn.errors import HaltServer

    context = config.loader.get_context(SERVER, server_name, dict(config.vars))
    foreign = check_settings(config, server_name)
    own = {key: text for key, text in context.local_conf.items() if key not in foreign}
    conf = {**own, **settings}
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
    except HaltServer as halt:  # a second worker has failed while gunicorn ends
        return int(halt.exit_status)
    return 0


# -- an application that gunicorn loads by itself: see hosts.embedded --------------------------


def this_host() -> Gunicorn | None:
    """Return gunicorn's Host; None if these hooks are not in use."""
    return _master.host if _master is not None else None
