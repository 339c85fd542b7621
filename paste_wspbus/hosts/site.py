"""A site in the process of another program, which composes, starts and stops it once."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time

from paste_wspbus.bus import (
    ChannelFailures,
    State,
    culprits,  # noqa: F401 - now, see `ending.import_rest`
)
from paste_wspbus.errors import RestartImpossible, WSPBusError
from paste_wspbus.hosts import Host, host_of
from paste_wspbus.ini.config import Config, Site, StartFailed, site_path
from paste_wspbus.plugins import log_files  # noqa: F401 - now: a reopening may come late
from paste_wspbus.plugins.signals import SignalHandler
from paste_wspbus.plugins.sitelog import SiteLog
from paste_wspbus.plugins.threads import ThreadManager
from paste_wspbus.reference import composing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from paste_wspbus.bus import Bus

#: Seconds between two checks of the requests in flight of a process that stops.
LOOK = 0.01


class NotStarted(WSPBusError):
    """The site stopped as soon as it was started, because a listener asked for that."""

    def __init__(self, file: str | None) -> None:
        super().__init__(f'{file}: the site stopped as soon as it was started')
        self.file = file


class Program(Host):
    """Another program that owns the process of one site, and starts and stops that site.

    ``site`` is the HostedSite; None until it is composed.
    """

    exits_with_process = True

    def __init__(self, name: str, version: str, capabilities: Iterable[str]) -> None:
        super().__init__(name, version, capabilities)
        self.owns_signals = self.owns_alarm = 'signals' in self.capabilities
        self.site: HostedSite | None = None
        self._end_process: Callable[[], object] | None = None

    @classmethod
    def like(cls, host: Host) -> Program:
        """Return ``host`` if it is a Program, else a Program with its name and promises.

        A program that does more has a subclass.
        """
        if isinstance(host, Program):
            return host
        return cls(host.name, host.version, host.capabilities)

    def take(self, site: HostedSite) -> None:
        """Connect this program's own events to a site, so that they start and stop it."""

    def ends_by(self, end_process: Callable[[], object] | None) -> None:
        """Set the function that ends this process in the program's own way.

        :param end_process: is called when a component asks for an exit, stop or restart.
            If None, the bus does what the component asks for.
        """
        self._end_process = end_process

    def start(self, bus: Bus) -> None:
        """Start the site for a request that comes before its start. Other requests wait.

        :raises StartFailed: if a listener failed.
        :raises NotStarted: if a listener stopped the site while it started.
        """
        if self.site is not None:
            self.site.start()

    def leave(self, bus: Bus, command: str) -> bool:
        """End the process in this program's way, which stops the site.

        :returns: False if the program has no way to do that.
        """
        if self._end_process is None:
            return False
        self._end_process()
        return True

    @property
    def restarts(self) -> bool:  # type: ignore[override]
        """Whether the program starts another process in the place of one that ends."""
        return self._end_process is not None

    def restart(self, bus: Bus) -> bool:
        """End the process: the program starts another one in its place."""
        return self.leave(bus, 'restart')


class HostedSite:
    """A site that its host starts and stops, each once in a process, from any thread.

    ``bus`` is the bus of the site. ``app`` is the WSGI application, with the bus in
    environ; None if the bus has no .ini. ``patience`` is the number of seconds that
    requests in flight have before 'stop' listeners run; it is for a host that accepts no
    more requests but does not wait for those in flight. 0 stands for no wait. ``leave`` is
    set by a host that can end this process in its own way; it is called without arguments
    when a component asks for an exit, stop or restart.
    """

    def __init__(self, site: Site) -> None:
        self.file, self.bus, self.app = site.file, site.bus, site.app
        self.patience = 0.0
        self.leave: Callable[[], object] | None = None
        self._site = site
        self._lock = threading.RLock()
        self._started: int | None = None
        self._stopped: int | None = None
        self._host = Program.like(host_of(self.bus))
        self._host.site, self.bus.host = self, self._host
        self.bus.subscribe('drain', self._finish_requests)

    def start(self) -> None:
        """Start the bus in this process; if it was started already, do nothing.

        :raises StartFailed: if a listener failed. The parts that had started were
            stopped. The filter lets no request pass; each request tries to start again.
        :raises NotStarted: if a listener stopped the site while it started.
        """
        if self._started == os.getpid():  # without the lock, which a stop may hold long
            return
        with self._lock:
            if self._started == os.getpid():
                return
            start_bus(self._site)
            self._started = os.getpid()
            self._host.ends_by(self.leave)
        # The bus has registered its own function before, so this one is called first.
        at_exit(self.stop, 'process exit')

    @property
    def is_started(self) -> bool:
        """Whether it was started in this process, and has not been stopped."""
        return self._started == os.getpid() != self._stopped

    def stop(self, reason: str = '') -> int:
        """Drain, stop and exit the bus, in the process that started it, once.

        :param reason: becomes ``bus.stop_reason``, which listeners may read.
        :returns: the exit code for the process: 0, or 1 if listeners failed.
        """
        with self._lock:
            if not self.is_started:
                return self.bus.exit_code
            self._stopped = os.getpid()
        self._host.ends_by(None)
        self.bus.stop_reason, self.bus.execv = reason, False
        end_bus(self.bus)
        return self.bus.exit_code

    def add_plugins(self, config: Config) -> None:
        """Make the plugins of an .ini whose application another program composes.

        :raises ConfigError: if a section is missing or wrong.
        :raises FactoryError: if a factory fails.
        """
        with composing(self.bus):
            config.make_plugins(self._site, 'plugins')
        _warn_of_site_plugins(self.bus, config)
        _take_cluster_plugins(self._site, config)

    def _finish_requests(self) -> None:
        requests = self.bus.plugins.get('requests')
        until = time.monotonic() + self.patience
        # It polls: a notification would cost a line of Python at the end of each request.
        while requests and time.monotonic() < until and not self.bus.hurried:
            time.sleep(LOOK)


def start_bus(site: Site) -> None:
    """Start the bus of a site.

    :raises StartFailed: if a listener failed. The parts that had started were stopped.
    :raises NotStarted: if a listener stopped the site while it started.
    """
    bus = site.bus
    try:
        bus.start()
    except ChannelFailures as failures:
        listener, error = failures.listener or '', failures.get_instances()[0]
        raise StartFailed(site.place_of(listener), listener, error) from error
    except SystemExit as exited:
        from paste_wspbus.ini.exited import failure_of

        failed = failure_of(site, exited)
        if failed is None:
            raise
        raise failed from exited
    if bus.state is not State.STARTED:
        raise NotStarted(site.file)


def end_bus(bus: Bus) -> None:
    """Exit a bus, and wait until it has exited; the log has each error."""
    with contextlib.suppress(ChannelFailures):
        bus.exit()
    bus.wait(State.EXITING)
    bus.turn.wait_until_free()  # another thread may still run the exit


def stand_down(bus: Bus, host: Host) -> None:
    """Let another program handle signals, the end and the restart of the process.

    This is called before anything is composed, because a component may ask what the
    host can do.
    """
    bus.host = Program.like(host)
    bus.drain_delay = 0  # when the host stops the site, it accepts no more requests
    bus.restart_checks.append(lambda: _refuse_restart(bus))


def _refuse_restart(bus: Bus) -> None:
    raise RestartImpossible(f'the process belongs to {host_of(bus)}')


def compose(
    uri: str | os.PathLike[str],
    host: Host,
    vars: Mapping[str, str] | None = None,
    app_name: str | None = None,
    *,
    relative_to: str | None = None,
    configure_logging: bool = True,
    logger: str = 'paste_wspbus',
    site_plugins: bool = False,
) -> HostedSite:
    """Compose the site of an .ini for a host: its bus, plugins and application, no server.

    :param uri: the path of an .ini, ``PATH#name`` or ``egg:Dist#name``.
    :param host: the program that owns the process.
    :param vars: the variables that ``var=value`` sets on the command line.
    :param app_name: ``[app:NAME]`` instead of ``[app:main]``.
    :param relative_to: the folder in which a relative path starts; the working directory
        if None.
    :param configure_logging: whether to set logging up as the .ini says.
    :param logger: the name of the logger that gets the messages of the bus.
    :param site_plugins: whether the site has this process only, so that its site_plugins
        run here. If False, they do not run, and a warning says that. The cluster plugins
        run in the worker that holds their lease, if the host promises 'cluster'.
    :returns: the site, which is not started.
    :raises ConfigError: if the .ini is wrong.
    :raises FactoryError: if a factory fails.
    """
    config = Config(os.fspath(uri), vars or {}, relative_to or os.getcwd())
    site_path(config.file)
    if configure_logging:
        config.configure_logging()
    bus = config.make_bus()
    stand_down(bus, host)
    plug_in(bus, config, logger, owns_log=configure_logging)
    site = config.compose(bus, None, app_name, with_site_plugins=site_plugins)
    if not site_plugins:
        _warn_of_site_plugins(bus, config)
    _take_cluster_plugins(site, config)
    return HostedSite(site)


def plug_in(bus: Bus, config: Config, logger: str, owns_log: bool = False) -> None:
    """Make the default plugins, which a site finds in ``bus.plugins``.

    :param owns_log: whether the .ini decides how lines of the log look, and not the host.
    :raises ConfigError: if the log should be JSON, and python-json-logger is not installed.
    """
    bus.plugins['sitelog'] = SiteLog(bus, logger)
    bus.plugins['sitelog'].subscribe()
    # Some plugins look for it. It is not subscribed, because the host handles signals.
    bus.plugins['signals'] = SignalHandler(bus, config.settings['signals'])
    bus.plugins['threads'] = ThreadManager(bus)
    bus.plugins['threads'].subscribe()
    if config.logs_json:
        from paste_wspbus.hosts import json_logs

        json_logs.begin(bus, config, owns_log)


def _warn_of_site_plugins(bus: Bus, config: Config) -> None:
    names = config.settings['site_plugins']
    if names:
        bus.log(
            f'site_plugins = {" ".join(names)}: these plugins do not run, because '
            f'{host_of(bus)} has no process that exists once per site',
            logging.WARNING,
        )


def _take_cluster_plugins(site: Site, config: Config) -> None:
    if config.settings['cluster_plugins']:
        from paste_wspbus.hosts.leased import take

        take(site, config)


def at_exit(function: Callable[..., object], *args: Any) -> None:
    """Call a function when the main thread ends, while other threads still run."""
    try:
        threading._register_atexit(function, *args)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):
        atexit.register(function, *args)
