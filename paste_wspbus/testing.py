"""Sites in tests: `composed` or `served` in the process of the test, and the pytest plugin."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections import Counter
from functools import cached_property, partial

from paste_wspbus.errors import WSPBusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path
    from typing import Any

    import pytest

    from paste_wspbus.bus import Bus
    from paste_wspbus.ini.config import Config, Site
    from paste_wspbus.requests.filter import WSGIApp
    from paste_wspbus.servers.server import Server

    Ini = str | os.PathLike[str]

# pytest imports this module in every run if the package is installed. So the modules
# that compose a site are imported only when a test composes one.

#: The address of a live server; the system chooses a free port.
LOOPBACK = '127.0.0.1:0'


class NotStarted(WSPBusError):
    """The site stopped as soon as it was started, because a listener asked for that."""

    def __init__(self, file: str | None) -> None:
        super().__init__(f'{file}: the site stopped as soon as it was started')
        self.file = file


class StopFailed(WSPBusError):
    """The site has failed: `wspserve` would have exited with ``exit_code``."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(
            f'The site has failed, or has stopped with failures (exit code {exit_code}); '
            'the log shows them'
        )
        self.exit_code = exit_code


class RunningSite:
    """The site of an .ini, with its bus STARTED.

    ``app`` is the WSGI application, with the bus in environ. ``bus`` is the bus, whose
    transitions run in the thread of the ``with`` block. ``plugins`` has the objects that
    the [plugin:NAME] sections made, by name.
    """

    def __init__(self, site: Site) -> None:
        self.app: WSGIApp = site.app
        self.bus: Bus = site.bus
        self.plugins: dict[str, Any] = site.plugins

    @property
    def resources(self) -> dict[str, Any]:
        """The values that the lifespans have yielded, by name: ``bus.resources``."""
        return self.bus.resources


class ComposedSite(RunningSite):
    """A site without a server: the test calls ``app``."""

    @cached_property
    def client(self) -> Any:
        """A `webtest.TestApp` that calls ``app``; it keeps cookies.

        :raises ModuleNotFoundError: if WebTest is not installed.
        """
        try:
            with _changing, warnings.catch_warnings():
                # WebOb imports cgi, which is deprecated in Python 3.11 and 3.12.
                warnings.simplefilter('ignore', DeprecationWarning)
                from webtest import TestApp  # type: ignore[import-untyped]
        except ModuleNotFoundError as error:
            if error.name != 'webtest':
                raise
            raise ModuleNotFoundError(
                'A composed site needs WebTest for its requests: '
                "pip install 'paste_wspbus[testing]'",
                name=error.name,
            ) from None
        return TestApp(self.app)

    def get(self, url: str, *args: Any, **kwargs: Any) -> Any:
        """Make a GET request: ``client.get``.

        The arguments and the result are those of WebTest.

        :raises webtest.AppError: for a status of 400 and above, unless it is the one that
            ``status`` names.
        :raises ModuleNotFoundError: if WebTest is not installed.
        """
        return self.client.get(url, *args, **kwargs)

    def post(self, url: str, *args: Any, **kwargs: Any) -> Any:
        """Make a POST request: ``client.post``; see `get`."""
        return self.client.post(url, *args, **kwargs)


class ServedSite(RunningSite):
    """A site with its server, which listens at ``url``, such as 'http://127.0.0.1:40000'."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.url: str = site.server.urls[0]


@contextlib.contextmanager
def composed(
    ini: Ini,
    vars: Mapping[str, str] | None = None,
    *,
    relative_to: Ini | None = None,
    configure_logging: bool = False,
) -> Generator[ComposedSite]:
    """Compose a site without its server, and start its bus.

    At the end of the block, the site stops as under `wspserve`.

    :param ini: the path of an .ini, ``PATH#name`` or ``egg:Dist#name``; or the text of
        an .ini, which has more than one line and may be indented.
    :param vars: the variables that ``var=value`` sets on the command line.
    :param relative_to: the folder in which a relative path starts; the working
        directory if None. For a text: the folder of the .ini (``here``); if None, a
        new folder, which is deleted at the end of the block.
    :param configure_logging: whether to set logging up as the .ini says, until the end
        of the block.
    :returns: a context manager that yields the site.
    :raises ConfigError: if the .ini is wrong.
    :raises FactoryError: if a factory fails.
    :raises ChannelFailures: if a 'start' listener fails; the parts that had started
        were stopped. It is also raised at the end of the block, if listeners fail to stop.
    :raises NotStarted: if a listener stopped the site while it started.
    :raises StopFailed: at the end of the block, if the site has failed otherwise.
    """
    with _configured(ini, vars, relative_to, configure_logging) as config:
        site = _compose(config, None)
        with _started(site):
            yield ComposedSite(site)


@contextlib.contextmanager
def served(
    ini: Ini,
    vars: Mapping[str, str] | None = None,
    *,
    relative_to: Ini | None = None,
    configure_logging: bool = False,
) -> Generator[ServedSite]:
    """Compose a site with a live server on a free port of 127.0.0.1, and start its bus.

    The server is that of [server:main] if it stops with the bus (waitress, Paste#http,
    cheroot, CherryPy's, wsgiref), or else waitress. The arguments and the other errors
    are those of `composed`.

    :returns: a context manager that yields the site.
    :raises BindError: if the system gives no port.
    """
    with _configured(ini, vars, relative_to, configure_logging) as config:
        server = _server(config)
        try:
            server.bind()
            site = _compose(config, server)
            site.bus.subscribe('start', server, site.app)
            with _started(site):
                yield ServedSite(site)
        finally:
            server.close()


def _server(config: Config) -> Server:
    from paste_wspbus.servers.registry import find_adapter

    server = config.known_server(listen=[LOOPBACK])
    if server is not None:
        return server
    waitress = find_adapter('waitress:serve_paste')
    assert waitress is not None
    return waitress({'listen_on': LOOPBACK}, config.vars)


# -- composing -------------------------------------------------------------------


@contextlib.contextmanager
def _configured(
    ini: Ini,
    vars: Mapping[str, str] | None,
    relative_to: Ini | None,
    configure_logging: bool,
) -> Generator[Config]:
    """Read the .ini. Until the end of the block, modules beside it can be imported."""
    from paste_wspbus.ini.config import Config

    with contextlib.ExitStack() as stack:
        uri = os.fspath(ini)
        folder = os.getcwd() if relative_to is None else os.fspath(relative_to)
        if '\n' in uri:
            uri = stack.enter_context(_written(uri, relative_to))
        config = Config(uri, vars or {}, folder)
        stack.enter_context(_importable(config.file))
        if configure_logging:
            stack.enter_context(_logging(config))
        yield config


@contextlib.contextmanager
def _written(text: str, folder: Ini | None) -> Generator[str]:
    """Write a text to a file, and yield its path."""
    from tempfile import NamedTemporaryFile, TemporaryDirectory
    from textwrap import dedent

    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(TemporaryDirectory(prefix='wspbus-'))
        with NamedTemporaryFile(
            'w', dir=folder, prefix='site-', suffix='.ini', delete=False
        ) as file:
            stack.callback(os.unlink, file.name)
            file.write(dedent(text))
        yield file.name


#: For each folder that is in sys.path for tests' sites alone: the number of those sites.
_folders: Counter[str] = Counter()
_changing = threading.RLock()


@contextlib.contextmanager
def _importable(file: str | None) -> Generator[None]:
    """Make the modules beside the .ini importable, as the command does."""
    from paste_wspbus.ini.config import site_path

    folder = os.path.dirname(os.path.abspath(file)) if file else os.getcwd()
    with _changing:
        ours = folder in _folders or folder not in sys.path
        site_path(file)
        if ours:
            _folders[folder] += 1
    try:
        yield
    finally:
        if ours:
            _forget(folder)


def _forget(folder: str) -> None:
    with _changing:
        _folders[folder] -= 1
        if _folders[folder]:
            return
        del _folders[folder]
        for index in reversed(range(len(sys.path))):
            if sys.path[index] == folder:  # the last one: this module has appended it
                del sys.path[index]
                return


def _compose(config: Config, server: Server | None) -> Site:
    """Compose the site as the command does, but change nothing of the whole process."""
    from paste_wspbus.hosts import TESTING
    from paste_wspbus.plugins.signals import SignalHandler
    from paste_wspbus.plugins.sitelog import SiteLog
    from paste_wspbus.plugins.threads import ThreadManager

    with _changing:  # no two sites are composed at the same time
        bus = config.make_bus()
        bus.host = TESTING
        bus.drain_delay = 0  # there is no load balancer to wait for
        # A deadline must not end the process, which runs the tests.
        bus.before_force = partial(_hurry, bus)
        bus.plugins['sitelog'] = SiteLog(bus)
        bus.plugins['sitelog'].subscribe()
        # Some plugins look for it. It is not subscribed, because the tests handle signals.
        bus.plugins['signals'] = SignalHandler(bus, config.settings['signals'])
        bus.plugins['threads'] = ThreadManager(bus)
        bus.plugins['threads'].subscribe()
        if server is not None:
            server.plug_in(bus)
        return config.compose(bus, server)


def _hurry(bus: Bus, why: str) -> bool:
    """Skip every wait, and fail at the end: see `Bus.before_force`."""
    from paste_wspbus.bus import EX_SOFTWARE
    from paste_wspbus.bus.deadlines import call_after, stacks

    bus.exit_code = EX_SOFTWARE
    # The thread that hangs may hold a lock that the log waits for.
    cancel = call_after(2, bus.hurry)
    bus.log(f'{why}; skipping every wait. Stacks:\n{stacks()}', level=50)
    cancel()
    bus.hurry()
    return True


# -- starting and stopping ---------------------------------------------------------


@contextlib.contextmanager
def _started(site: Site) -> Generator[None]:
    from paste_wspbus.bus import ChannelFailures, State

    bus = site.bus
    # This thread runs the transitions that requests and timers ask for, as the main
    # thread does under the command.
    bus.turn.keep_for(threading.get_ident())
    try:
        bus.start()
        if bus.state is not State.STARTED:
            raise NotStarted(site.file)
    except BaseException:
        with contextlib.suppress(ChannelFailures):  # the log has each error
            bus.exit()
        raise
    try:
        yield
    finally:
        _leave(bus)


def _leave(bus: Bus) -> None:
    """Exit the bus; raise its failures, and those of a stop that another thread asked for."""
    from paste_wspbus.bus import State

    bus.turn.keep_for(threading.get_ident())
    asked = list(bus.turn.leaving)
    bus.exit()
    bus.wait(State.EXITING)
    bus.turn.wait_until_free()  # a thread in block() may still run the exit
    for request in asked:
        if request.error is not None:
            raise request.error
    if bus.exit_code:
        raise StopFailed(bus.exit_code)


# -- logging -------------------------------------------------------------------------


@contextlib.contextmanager
def _logging(config: Config) -> Generator[None]:
    """Set logging up as the .ini says; at the end of the block, set it up as it was before."""
    import logging

    registry: Any = logging
    before = {logger: _settings_of(logger) for logger in _loggers()}
    references, names = registry._handlerList[:], dict(registry._handlers)
    # fileConfig closes every handler that it finds here, but these are needed again.
    registry._handlerList.clear()
    made: list[Any] = []
    try:
        try:
            config.configure_logging()
        finally:
            made = registry._handlerList[:]
        yield
    finally:
        logging.shutdown(made)  # weak references; the loggers still hold the handlers
        for logger in _loggers():
            logger.__dict__.update(before.get(logger) or _untouched())
        others = [one for one in registry._handlerList if one not in made]
        registry._handlerList[:] = references + others
        registry._handlers.update(names)
        logging.root.manager._clear_cache()  # type: ignore[attr-defined]


def _loggers() -> list[Any]:
    import logging

    known = list(logging.root.manager.loggerDict.values())
    return [logging.root, *(one for one in known if isinstance(one, logging.Logger))]


def _settings_of(logger: Any) -> dict[str, Any]:
    names = ('level', 'propagate', 'disabled')
    kept = {name: getattr(logger, name) for name in names}
    return {**kept, 'handlers': logger.handlers[:]}


def _untouched() -> dict[str, Any]:
    """Return the settings of a logger that is not configured."""
    return {'level': 0, 'propagate': True, 'disabled': False, 'handlers': []}


# -- pytest --------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting ``wspbus_ini`` (a hook of pytest)."""
    parser.addini(
        'wspbus_ini', "the .ini of wspbus_site and wspbus_server, from pytest's rootdir"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add the fixtures (a hook of pytest)."""
    from types import ModuleType

    import pytest

    fixtures: Any = ModuleType('wspbus_fixtures')
    fixtures.wspbus_ini = pytest.fixture(scope='session')(wspbus_ini)
    fixtures.wspbus_vars = pytest.fixture(scope='session')(wspbus_vars)
    fixtures.wspbus_site = pytest.fixture(wspbus_site)
    fixtures.wspbus_server = pytest.fixture(wspbus_server)
    config.pluginmanager.register(fixtures, fixtures.__name__)


def wspbus_ini(pytestconfig: pytest.Config) -> Ini:
    """The path or the text of the .ini for wspbus_site and wspbus_server. Override it."""
    import pytest

    ini = pytestconfig.getini('wspbus_ini')
    if not ini:
        pytest.fail(
            "Which site? Set wspbus_ini in pytest's configuration, or write a "
            'fixture wspbus_ini that returns the path or the text of an .ini',
            pytrace=False,
        )
    return str(pytestconfig.rootpath / ini)


def wspbus_vars() -> dict[str, str]:
    """The variables (``var=value``) of wspbus_site and wspbus_server. Override it."""
    return {}


def wspbus_site(
    wspbus_ini: Ini, wspbus_vars: Mapping[str, str], tmp_path: Path
) -> Generator[ComposedSite]:
    """A composed site, with its bus started; see paste_wspbus.testing.composed."""
    folder = _folder_of(wspbus_ini, tmp_path)
    with composed(wspbus_ini, wspbus_vars, relative_to=folder) as site:
        yield site


def wspbus_server(
    wspbus_ini: Ini, wspbus_vars: Mapping[str, str], tmp_path: Path
) -> Generator[ServedSite]:
    """A site with a live server; see paste_wspbus.testing.served."""
    folder = _folder_of(wspbus_ini, tmp_path)
    with served(wspbus_ini, wspbus_vars, relative_to=folder) as site:
        yield site


def _folder_of(ini: Ini, tmp_path: Path) -> Path | None:
    """Return the folder of an .ini that is a text: the folder of the test."""
    return tmp_path if '\n' in os.fspath(ini) else None
