"""The keys of [wspbus:main] whose factories replace the defaults of wspserve."""

from __future__ import annotations

import contextlib
import os
import signal
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution

from paste_wspbus.errors import ConfigError, FactoryError, WSPBusError
from paste_wspbus.ini.eggs import EggLoader
from paste_wspbus.ini.factories import (
    PLUGIN,
    at_place,
    create,
    one_line,
    translating,
    with_bus,
)
from paste_wspbus.ini.pastedeploy import loadwsgi
from paste_wspbus.ini.settings import EARLY_DEFAULTS
from paste_wspbus.ini.sources import NoModule, find_source, problem_of
from paste_wspbus.report import Report
from paste_wspbus.unix.holding import SIGNALS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.ini.config import Config
    from paste_wspbus.unix.users import Identity

#: The section of the keys.
SECTION = 'wspbus:main'


class _Early(loadwsgi._ObjectType):  # type: ignore[misc]
    """A default that acts before there is a bus: the factory of its replacement gets it."""

    name = 'function'
    egg_protocols = ['paste_wspbus.default_factory']
    config_prefixes = ['default']
    default: Any = None

    def invoke(self, context: Any) -> Any:
        return context.object(context.default, context.global_conf)


EARLY = _Early()


def replaced(config: Config, key: str, default: Any) -> Any:
    """Return the replacement of a default that acts before there is a bus.

    :param default: what wspserve uses; the factory gets it, and may call it.
    :returns: the default itself if the key is not set. If a replacement fails, it
        raises a FactoryError.
    :raises ConfigError: if the key is wrong.
    :raises FactoryError: if the factory fails.
    """
    if key not in config.settings['defaults']:
        return default
    context = _context(config, key, EARLY, dict(config.vars))
    context.default = default
    with _naming(config, key):
        made = create(context)
    if not callable(made):
        problem = f'{made!r} takes the place of a function, and cannot be called'
        raise ConfigError(config.file, problem, section=SECTION, key=key)

    def called(*args: Any) -> Any:
        with failing(config, key):
            return made(*args)

    return called


def daemonizer(config: Config, default: Any) -> Any:
    """Return the function in the place of `unix.daemonizing.daemonize`.

    What it returns is checked: a command waits for what the Report says.
    """
    become = replaced(config, 'daemonizer', default)

    def checked(*args: Any) -> Any:
        report = become(*args)
        if not isinstance(report, Report):
            problem = f'it returned {report!r} instead of the Report of the default'
            raise ConfigError(config.file, problem, section=SECTION, key='daemonizer')
        return report

    return checked


def pid_lock(config: Config, default: Any) -> Any:
    """Return the class in the place of `unix.pid_lock.PIDLock`; it must be a subclass."""
    make = replaced(config, 'pidfile', default)

    def checked(*args: Any) -> Any:
        lock = make(*args)
        if not isinstance(lock, default):
            problem = f'it made {lock!r} instead of a PIDLock'
            raise ConfigError(config.file, problem, section=SECTION, key='pidfile')
        return lock

    return checked


def drop_privileges(config: Config, identity: Identity | None) -> None:
    """Call the function in the place of `unix.users.Identity.take`.

    :param identity: the user and group of the command line; None if it names none.
    :raises PrivilegesKept: if the process does not have this user and group afterwards.
    """
    default = identity.take if identity is not None else _nothing
    replaced(config, 'privileges', default)()
    if identity is not None:
        identity.verify()


def _nothing() -> None:
    """Change no user."""


def made(config: Config, key: str, bus: Bus) -> Any:
    """Return the plugin that a key makes; its factory is that of any plugin.

    :raises ConfigError: if the key is wrong, or if what it makes is no plugin.
    :raises FactoryError: if the factory fails.
    """
    context = _context(config, key, PLUGIN, with_bus(config.vars, bus))
    with _naming(config, key), translating(context, config.file, SECTION):
        plugin = PLUGIN.invoke(context)
    if not callable(getattr(plugin, 'subscribe', None)):
        problem = f'{plugin!r} is no plugin: it has no subscribe()'
        raise ConfigError(config.file, problem, section=SECTION, key=key)
    return plugin


@contextlib.contextmanager
def failing(config: Config, key: str) -> Generator[None]:
    """Convert an error of the object that a key has made to one line that names the key.

    Errors that end the process on purpose pass, and so do the errors of the default.

    :raises FactoryError: if the code in the ``with`` block fails.
    """
    try:
        yield
    except WSPBusError:
        raise
    except Exception as error:
        problem = f'it failed: {one_line(error)}{at_place(error)}'
        raise FactoryError(config.file, problem, section=SECTION, key=key) from error


@contextlib.contextmanager
def _naming(config: Config, key: str) -> Generator[None]:
    """Let the error of a factory name the key: the section has several factories."""
    try:
        yield
    except FactoryError as error:
        raise FactoryError(
            config.file, error.problem, section=SECTION, key=key
        ) from error.__cause__


def leave_to_python(handler: object) -> None:
    """Give the signals back that still have a handler, because the site's plugin takes others."""
    for number in SIGNALS:
        if signal.getsignal(number) == handler:
            is_interrupt = number == signal.SIGINT
            own = signal.default_int_handler if is_interrupt else signal.SIG_DFL
            signal.signal(number, own)


def check_replaced(config: Config, key: str) -> None:
    """Check a key without importing what it names.

    :raises ConfigError: if there is nothing of that name.
    """
    target = _target(config, key)
    problem = problem_of(*target)
    if problem:
        raise ConfigError(config.file, problem, section=SECTION, key=key)


def refuse_untrusted(config: Config) -> None:
    """Refuse, as root, code that others than root can write, and that acts as root.

    No code of the site is imported.

    :raises ConfigError: if a key that acts before the user changes names such code.
    """
    for key in EARLY_DEFAULTS:
        spec = config.settings['defaults'].get(key)
        if spec is None:
            continue
        why = ''
        if not spec.startswith('egg:'):
            why = 'it acts as root, so it must be egg:, installed where only root can write'
        else:
            module, _ = _target(config, key)
            try:
                path = _exposed_entry(spec) or _writable(module)
            except NoModule as error:
                why = f'it acts as root, and root finds no module {error}: install it where '
                why += 'only root can write'
            else:
                if path:
                    why = f'it acts as root, and others than root can write to {path}'
        if why:
            raise ConfigError(config.file, why, section=SECTION, key=key)


def _target(config: Config, key: str) -> tuple[str, str]:
    """Return the module and the function that a key names; no code is imported.

    :raises ConfigError: if the distribution or the entry point is missing.
    """
    spec = config.settings['defaults'][key]
    scheme, _, rest = spec.partition(':')
    if scheme == 'call':
        module, _, name = rest.partition(':')
        return module, name
    dist, _, name = rest.partition('#')
    kind = EARLY if key in EARLY_DEFAULTS else PLUGIN
    (group,) = loadwsgi._flatten(kind.egg_protocols)
    try:
        entries = distribution(dist).entry_points
    except (PackageNotFoundError, ValueError):
        problem = f'the distribution {dist!r} is not installed'
        raise ConfigError(config.file, problem, section=SECTION, key=key) from None
    for entry in entries:
        if (entry.group, entry.name) == (group, name or 'main'):
            return entry.module, entry.attr
    problem = f'{dist} has no entry point {name or "main"!r} in the group {group}'
    raise ConfigError(config.file, problem, section=SECTION, key=key)


def _exposed_entry(spec: str) -> str:
    """Return the folder of a distribution's metadata if others can write to it, or ''."""
    from paste_wspbus.unix.exposed import is_exposed

    name = spec.partition(':')[2].partition('#')[0]
    folder = str(distribution(name).locate_file(''))
    return folder if is_exposed(os.path.join(folder, 'METADATA')) else ''


def _writable(module: str) -> str:
    """Return the first path of a module that others than root can write to; '' for none."""
    from paste_wspbus.unix.exposed import is_exposed

    parts = module.split('.')
    for number in range(1, len(parts) + 1):
        path = find_source('.'.join(parts[:number]))
        if path is None:
            return f'the place of {module}, which is no file of Python'
        status = os.stat(path)
        if is_exposed(path) or status.st_uid != 0 or status.st_mode & 0o022:
            return path
    return ''


def _context(config: Config, key: str, kind: Any, conf: dict[str, str]) -> Any:
    """Return PasteDeploy's context of the factory.

    :raises ConfigError: if it cannot be found or imported.
    """
    spec = config.settings['defaults'][key]
    scheme, _, rest = spec.partition(':')
    conf = {**config.loader.parser.defaults(), **conf}  # also `here` and `__file__`
    try:
        if scheme == 'egg':
            dist, _, name = rest.partition('#')
            context = EggLoader(dist).get_context(kind, name or None, conf)
        else:
            module, _, name = rest.partition(':')
            check_replaced(config, key)
            found: Any = import_module(module)
            for part in name.split('.'):
                found = getattr(found, part)
            context = loadwsgi.LoaderContext(found, kind, None, conf, {}, None)
    except ConfigError as error:
        problem = error.problem
        raise ConfigError(config.file, problem, section=SECTION, key=key) from None
    except Exception as error:
        problem = f'{spec}: {one_line(error)}{at_place(error)}'
        raise ConfigError(config.file, problem, section=SECTION, key=key) from error
    context.file, context.section = config.file, SECTION
    return context
