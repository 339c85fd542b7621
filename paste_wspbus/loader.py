"""From an .ini to a Site: the bus, the application, the server, the plugins."""

from __future__ import annotations

import configparser
import contextlib
import functools
import inspect
import os
import re
import sys
import threading
from collections.abc import Mapping
from urllib.parse import unquote

from paste.deploy import loadwsgi
from paste.deploy.util import importlib_metadata

from paste_wspbus.bus import Bus, State, exit_code_of
from paste_wspbus.errors import (
    BindError,
    ConfigError,
    FactoryError,
    SettingError,
    TimedOut,
    WSPBusError,
)
from paste_wspbus.frameworks import introduce
from paste_wspbus.handoff import KEY, BusRef, composing
from paste_wspbus.middleware import BusFilter
from paste_wspbus.plugins.signals import signal_name
from paste_wspbus.servers import (
    WHERE,
    BlockingServer,
    Server,
    adapter_for,
    find_adapter,
)
from paste_wspbus.settings import MAX_WORKERS, boolean, nearest, worker_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from typing import Any

    from paste_wspbus.sockets import ListeningSocket

APP, FILTER, SERVER = loadwsgi.APP, loadwsgi.FILTER, loadwsgi.SERVER

#: The prefix of ``%(ENV_NAME)s``.
ENV = 'ENV_'


class Terminated(SystemExit):
    """SIGTERM came while the site was being composed."""


# -- kinds of sections that PasteDeploy does not know -------------------------


class _BusType(loadwsgi._ObjectType):  # type: ignore[misc]
    name = 'bus'
    egg_protocols = ['paste_wspbus.bus_factory']
    config_prefixes = ['wspbus']

    def invoke(self, context: Any) -> Any:
        factory = context.object
        if isinstance(factory, type) and issubclass(factory, Bus):
            return factory()
        return factory(context.global_conf)


class _PluginType(loadwsgi._ObjectType):  # type: ignore[misc]
    name = 'plugin'
    egg_protocols = ['paste_wspbus.plugin_factory']
    config_prefixes = ['plugin']

    def invoke(self, context: Any) -> Any:
        bus = context.global_conf[KEY].bus
        return context.object(bus, context.global_conf, **context.local_conf)


BUS = _BusType()
PLUGIN = _PluginType()


def make_bus(global_conf: Mapping[str, Any]) -> Bus:
    """``use = egg:paste_wspbus#bus`` (paste_wspbus.bus_factory)."""
    return Bus()


# -- [wspbus:main] --------------------------------------------------------------


def _not_negative(convert: Callable[[str], float]) -> Callable[[str], float]:
    def converter(text: str) -> float:
        number = convert(text)
        if not 0 <= number <= threading.TIMEOUT_MAX:
            raise ValueError(text)
        return number

    return converter


def _one_of(*words: str) -> Callable[[str], str]:
    def converter(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return converter


_SECONDS = (_not_negative(float), 'a number of seconds')

#: The keys of [wspbus:main]: the function that converts a value, and what it takes.
SETTINGS: dict[str, tuple[Callable[[str], Any], str]] = {
    'use': (str, 'egg:DIST#NAME or call:MODULE:FUNCTION'),
    'plugins': (str.split, 'names of [plugin:NAME] sections'),
    'site_plugins': (str.split, 'names of [plugin:NAME] sections'),
    'workers': (worker_count, f'a whole number from 0 to {MAX_WORKERS}, or auto'),
    'preload': (boolean, 'true or false'),
    'restart': (_one_of('execv', 'child', 'fork'), 'execv, child or fork'),
    'drain_delay': _SECONDS,
    'stop_timeout': _SECONDS,
    'start_timeout': _SECONDS,
}

#: What holds where [wspbus:main] is silent. stop_timeout is below Kubernetes' 30.
DEFAULTS = {'stop_timeout': 25.0, 'start_timeout': 60.0, 'drain_delay': 0.0}

#: The same for what is not an attribute of the bus.
OTHER_DEFAULTS: dict[str, Any] = {'workers': 0, 'preload': False, 'restart': None}


class Site:
    """What an .ini describes: composed, not started."""

    def __init__(self, file: str | None, bus: Bus, server: Any) -> None:
        self.file, self.bus, self.server = file, bus, server
        self.app: Any = None
        self.plugins: dict[str, Any] = {}
        #: The section that each 'start' listener came with, by the listener's name.
        self.origins: dict[str, str] = {}

    def place_of(self, listener: str) -> str:
        """The file and section that a 'start' listener came with."""
        section = self.origins.get(listener, 'server:main')
        return f'{self.file} [{section}]' if self.file else f'[{section}]'

    def failure_of(self, left: SystemExit) -> StartFailed | None:
        """What a component did that gave up by sys.exit at its start; None if none did."""
        calls = [call for call in self.bus.timeline if call.channel == 'start']
        code = exit_code_of(left)
        if not code or not calls or State.STARTED in self.bus._visited:
            return None
        name = calls[-1].name
        why = left.code if isinstance(left.code, str) else f'exit code {code}'
        error = WSPBusError(f'{name} left instead of starting: {why}')
        failed = StartFailed(self.place_of(name), name, error)
        failed.exit_code = code
        return failed


# -- reading .ini files -----------------------------------------------------------


class StartFailed(WSPBusError):
    """A 'start' listener failed: ``place``, the file and section it came from."""

    def __init__(self, place: str, listener: str, error: BaseException) -> None:
        if isinstance(error, TimedOut):
            what = f'{listener} did not start within {max(round(error.seconds, 1), 0.0):g} s'
        elif isinstance(error, WSPBusError):
            what = str(error)
        else:
            what = f'{listener} failed: {one_line(error)}'
        super().__init__(f'{place}: {what}')
        self.place, self.listener, self.error = place, listener, error


class _Names(Mapping[str, str]):
    """What ``%(name)s`` can name in a section: its own keys, the command's vars,
    [DEFAULT], and ENV_NAME for environment variables, in this order.

    PasteDeploy puts vars into [DEFAULT], where they lose against it, and take
    away every section's key of the same name.
    """

    def __init__(
        self,
        section: Mapping[str, str],
        option: str,
        known: Mapping[str, str],
        vars: Mapping[str, str],
    ) -> None:
        self._section, self._option, self._known, self._vars = (
            section,
            option,
            known,
            vars,
        )

    def __getitem__(self, name: str) -> str:
        own = name in self._section and name != self._option
        if not own and name in self._vars:
            return _literal(self._vars[name])
        if name in self._known:
            return self._known[name]
        return _environment(name)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._known, **self._vars})

    def __len__(self) -> int:
        return len({**self._known, **self._vars})


def _literal(text: str) -> str:
    return str(text).replace('%', '%%')


def _environment(name: str) -> str:
    """The environment variable of ``ENV_NAME``.

    `logging.config` lower-cases the name: then case does not count.
    """
    prefix, variable = name[: len(ENV)], name[len(ENV) :]
    if prefix == ENV:
        return _literal(os.environ[variable])
    if prefix == ENV.lower():
        for known, value in os.environ.items():
            if known.lower() == variable:
                return _literal(value)
    raise KeyError(name)


class Interpolation(configparser.BasicInterpolation):
    """``%(name)s``, where name may also be a var of the command, or ENV_NAME."""

    def __init__(self, vars: Mapping[str, str]) -> None:
        self._vars = vars

    def before_get(
        self, parser: Any, section: str, option: str, value: str, defaults: Any
    ) -> str:
        """Interpolate ``value`` (configparser's hook)."""
        own = parser._sections.get(section, {})
        names = _Names(own, option, defaults, self._vars)
        return super().before_get(parser, section, option, value, names)


class ConfigLoader(loadwsgi.ConfigLoader):  # type: ignore[misc]
    """PasteDeploy's, with errors that say where, and vars that work as expected."""

    def __init__(self, filename: str, vars: Mapping[str, str]) -> None:
        self.vars = vars
        self._resolving: list[tuple[str, str, str]] = []
        #: What entry points name: the metadata of a distribution takes milliseconds.
        self._factories: dict[tuple[str, Any, str], str | None] = {}
        with _reading(filename):
            super().__init__(filename)
        if not self.parser.sections():
            raise ConfigError(
                filename, 'it is empty; a site has [app:main] and [server:main]'
            )
        self.parser._interpolation = Interpolation(vars)

    def get_context(
        self, object_type: Any, name: str | None = None, global_conf: Any = None
    ) -> Any:
        """Find what ``name`` stands for, as PasteDeploy does.

        :raises ConfigError: names the file, the section and the key.
        """
        if self.absolute_name(name):
            return self._load_uri(object_type, str(name), global_conf)
        section = self.find_config_section(object_type, name=name)
        place = (os.path.realpath(self.filename), object_type.name, section)
        if place in self._resolving:
            circle = self._resolving[self._resolving.index(place) :]
            steps = ' → '.join(f'[{one}]' for *_, one in [*circle, place])
            raise ConfigError(
                self.filename, f'sections use each other in a circle: {steps}'
            )
        self._resolving.append(place)
        try:
            with self._translating(section):
                context = super().get_context(object_type, name, global_conf)
        finally:
            self._resolving.pop()
        if not hasattr(context, 'section'):
            context.section, context.file = section, self.filename
        context.create = functools.partial(_create, context)
        return context

    def find_config_section(self, object_type: Any, name: str | None = None) -> str:
        """The section's full name.

        :raises ConfigError: if there is none, or more than one.
        """
        try:
            return super().find_config_section(object_type, name=name)  # type: ignore[no-any-return]
        except LookupError as error:
            raise self._no_section(object_type, name or 'main', error) from None

    def _no_section(
        self, object_type: Any, name: str, error: LookupError
    ) -> ConfigError:
        section = self._resolving[-1][2] if self._resolving else None
        if section is None and _making:  # a composite's factory asks for its parts
            section = _making[-1][1]
        own = self.parser._sections.get(section, {})
        key = next((key for key, value in own.items() if name in value.split()), None)
        if 'Ambiguous' in str(error):
            problem = str(error).partition(' found in')[0]
        else:
            prefixes = loadwsgi._flatten(object_type.config_prefixes)
            known = [
                one.partition(':')[2] or 'main'
                for one in self.parser.sections()
                if one.partition(':')[0] in prefixes
            ]
            hint = nearest(name, known)
            problem = f'there is no section [{prefixes[0]}:{name}]{hint}'
        return ConfigError(self.filename, problem, section=section, key=key)

    def _load_uri(self, object_type: Any, uri: str, global_conf: Any) -> Any:
        scheme, _, rest = uri.partition(':')
        if scheme.lower() != 'config':
            return loadwsgi.loadcontext(
                object_type,
                uri,
                relative_to=os.path.dirname(self.filename),
                global_conf=global_conf,
            )
        path, _, name = rest.partition('#')
        loader = self.included(path)
        # What is in [DEFAULT] here is a default there, but for the vars.
        inherited = {
            k: v
            for k, v in (global_conf or {}).items()
            if k not in self.vars and k != KEY
        }
        loader.update_defaults(inherited, overwrite=False)
        loader._resolving = self._resolving
        return loader.get_context(object_type, name or None, global_conf)

    def factory_name(self, kind: Any, name: str | None, steps: int = 20) -> str | None:
        """The factory that a section names, as 'module:function'; nothing is imported.

        :returns: None if it cannot be told so, or the section is wrong.
        """
        try:
            own = self.parser[self.find_config_section(kind, name)]
            groups = [
                key for key in loadwsgi._flatten(kind.egg_protocols) if key in own
            ]
            use = own[groups[0]] if groups else own.get('use', '')
        except (ConfigError, configparser.Error):
            return None
        scheme, _, rest = use.partition(':')
        if groups or scheme == 'call':
            return str(use if groups else rest)
        if not use or not steps:
            return None
        if not self.absolute_name(use):
            return self.factory_name(kind, use, steps - 1)
        path, _, target = rest.partition('#')
        if scheme == 'egg':
            place = path, kind, target
            if place not in self._factories:
                self._factories[place] = _EggLoader(path).factory_name(kind, target)
            return self._factories[place]
        try:
            if scheme == 'config':
                included = self.included(path)
                return included.factory_name(kind, target or None, steps - 1)
        except ConfigError:
            pass  # to be told of when it is loaded
        return None

    def included(self, path: str) -> ConfigLoader:
        """The file that a ``config:`` URI in this one names.

        :raises ConfigError: if it cannot be read.
        """
        folder = os.path.dirname(self.filename)
        return ConfigLoader(os.path.join(folder, unquote(path)), self.vars)

    def files(self) -> list[str]:
        """The paths of this file and of those that ``config:`` URIs name, in turn.

        Those that cannot be read are among them.
        """
        found: dict[str, None] = {}
        self._add_files(found)
        return list(found)

    def _add_files(self, found: dict[str, None]) -> None:
        path = os.path.abspath(self.filename)
        if path in found:
            return
        found[path] = None
        folder = os.path.dirname(path)
        for uri in self._config_uris():
            name = uri.partition(':')[2].partition('#')[0]
            try:
                self.included(name)._add_files(found)
            except ConfigError:  # to be told of when it is loaded
                found.setdefault(os.path.abspath(os.path.join(folder, unquote(name))))

    def _config_uris(self) -> Iterator[str]:
        for section in self.parser.sections():
            for key in self.parser.options(section):
                with contextlib.suppress(configparser.Error):  # as above
                    words = self.parser.get(section, key).split()
                    yield from (one for one in words if one[:7].lower() == 'config:')

    @contextlib.contextmanager
    def _translating(self, section: str) -> Generator[None]:
        """Turn what PasteDeploy raises into a ConfigError that names the section."""
        try:
            yield
        except (WSPBusError, KeyboardInterrupt, Terminated):
            raise
        except SystemExit as error:
            problem = f'importing it exited: {error or exit_code_of(error)}'
            raise FactoryError(
                self.filename, problem, section=section, key='use'
            ) from error
        except configparser.InterpolationError as error:
            raise interpolation_error(self.filename, error) from None
        except BaseException as error:
            key, problem = self._explain(section, error)
            # PasteDeploy's own errors have nothing to add; those of a module have.
            known = (LookupError, importlib_metadata.PackageNotFoundError)
            cause = None if type(error) in known else error
            raise ConfigError(
                self.filename, problem, section=section, key=key
            ) from cause

    def _explain(self, section: str, error: BaseException) -> tuple[str | None, str]:
        own = self.parser._sections.get(section, {})
        use = own.get('use') or next(
            (v for k, v in own.items() if k.startswith('paste.')), None
        )
        key = 'use' if 'use' in own else None
        said = str(error).strip('"') or type(error).__name__
        if isinstance(error, importlib_metadata.PackageNotFoundError):
            return (
                key,
                f'{use}: the distribution {error.name or said!r} is not installed',
            )
        if isinstance(error, ModuleNotFoundError):
            return key, f'{use}: there is no module {error.name!r}'
        if isinstance(error, AttributeError) and use:
            return key, f'{use}: {said}'
        if (
            type(error) is LookupError
        ):  # PasteDeploy's own; a module's may be a KeyError
            if said.startswith('Entry point'):
                return key, f'{use}: {_entry_points(said)}'
            if said.startswith('No loader given'):
                return (
                    'use',
                    'missing; it names what to load: egg:DIST#NAME or call:MODULE:FUNCTION',
                )
            if said.startswith('Configuration not in'):
                return key, f'{use}: call: takes MODULE:FUNCTION'
            return key, re.sub(r' in \S+ ', ' ', said)
        return key, f'{use or section}: {type(error).__name__}: {said}'


def _entry_points(said: str) -> str:
    """PasteDeploy's "Entry point 'x' not found in egg 'y' (protocols: …)", with what there is."""
    found = re.match(
        r"Entry point '(.*?)' not found in egg '(.*?)' \(protocols: (.*?);", said
    )
    if not found:
        return said
    name, dist, protocols = found.groups()
    groups = [group.strip() for group in protocols.split(',')]
    names = sorted(
        entry.name
        for entry in importlib_metadata.distribution(dist).entry_points
        if entry.group in groups
    )
    there = f'it has {", ".join(names)}' if names else f'it has no {groups[0]}'
    return f'{dist} has no entry point {name!r}; {there}'


def interpolation_error(
    file: str, error: configparser.InterpolationError
) -> ConfigError:
    """What configparser says about ``%(name)s``, in our words."""
    reference = getattr(error, 'reference', None)
    if reference and reference.startswith(ENV):
        problem = f'the environment variable {reference[len(ENV) :]} is not set'
    elif reference:
        problem = (
            f'%({reference})s names nothing: give {reference}=VALUE after the file name; '
            'a literal % is written %%'
        )
    else:
        problem = str(error).splitlines()[-1]
    return ConfigError(file, problem, section=error.section, key=error.option)


@contextlib.contextmanager
def _reading(path: str) -> Generator[None]:
    """Turn what opening and parsing an .ini raises into a ConfigError."""
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(path, 'there is no such file') from None
    except IsADirectoryError:
        raise ConfigError(path, 'it is a directory, not an .ini file') from None
    except PermissionError:
        raise ConfigError(path, 'permission denied') from None
    except OSError as error:
        raise ConfigError(path, error.strerror or str(error)) from None
    except configparser.DuplicateSectionError as error:
        raise ConfigError(
            path,
            f'the section is there twice (line {error.lineno})',
            section=error.section,
        ) from None
    except configparser.DuplicateOptionError as error:
        raise ConfigError(
            path,
            f'the key is there twice (line {error.lineno})',
            section=error.section,
            key=error.option,
        ) from None
    except (configparser.Error, UnicodeDecodeError) as error:
        first = str(error).replace(f'{path!r}', 'it').splitlines()
        raise ConfigError(path, f'it is not an .ini file: {" ".join(first)}') from None


#: The (file, section) pairs that are being made: each was asked for by the one before.
_making: list[tuple[str | None, str | None]] = []


#: Whose factories warn, at each start, of a key in global_conf that is not PasteDeploy's.
STRICT = ('keystonemiddleware.',)


def _create(context: Any) -> Any:
    """Call the factory; an instance's stand-in for PasteDeploy's ``create``.

    :raises FactoryError: names the section, if it raises, exits or returns None.
    :raises ConfigError: if a composite's application contains the composite.
    """
    place = getattr(context, 'file', None), getattr(context, 'section', None)
    if place in _making:
        raise ConfigError(place[0], 'it is part of itself', section=place[1])
    _making.append(place)
    if str(getattr(context.object, '__module__', '')).startswith(STRICT):
        context.global_conf = {
            key: value for key, value in context.global_conf.items() if key != KEY
        }
    try:
        with _translating_factory(context, *place):
            made = context.object_type.invoke(context)
    finally:
        _making.pop()
    if made is None and context.object_type is not PLUGIN:
        raise FactoryError(
            place[0],
            f'{_factory_name(context)} returned None instead of the '
            f'{context.object_type.name}',
            section=place[1],
        )
    return made


def _factory_name(context: Any) -> str:
    while (
        context.object is None
    ):  # filter-with: PasteDeploy's own, around the section's
        context = context.next_context
    return getattr(context.object, '__qualname__', type(context.object).__name__)


@contextlib.contextmanager
def _translating_factory(
    context: Any, file: str | None, section: str | None
) -> Generator[None]:
    try:
        yield
    except (WSPBusError, KeyboardInterrupt, Terminated):
        raise
    except BaseException as error:
        name, problem = _factory_name(context), f'failed: {one_line(error)}'
        if isinstance(error, SystemExit):
            problem = f'exited with code {exit_code_of(error)} instead of making it'
        raise FactoryError(file, f'{name} {problem}', section=section) from error


def one_line(error: BaseException) -> str:
    """An exception as one line: its type and the first line of what it says."""
    try:
        said = str(error).strip().splitlines()
    except Exception:  # a site's own __str__
        said = ['its message cannot be had']
    if len(said) > 1 and said[0].startswith('File "'):  # Zope's: where first, what last
        said[0] += f' … {said[-1].strip()}'
    return f'{type(error).__name__}: {said[0]}' if said else type(error).__name__


# -- the site -----------------------------------------------------------------------


class Config:
    """One site's configuration: where it comes from, read and checked, nothing composed.

    :param uri: a path, ``config:path#name`` or ``egg:Dist#name``.
    :param vars: what the command line sets.
    :param relative_to: the folder that a relative path starts from.
    :raises ConfigError: if the file cannot be read, or [wspbus:main] is wrong.
    """

    def __init__(self, uri: str, vars: Mapping[str, str], relative_to: str) -> None:
        scheme, colon, rest = uri.partition(':')
        if not colon or not re.fullmatch('[a-zA-Z][a-zA-Z]+', scheme):
            scheme, rest = 'config', uri
        self.vars = dict(vars)
        path, _, name = rest.partition('#')
        self.app_name: str | None = name or None
        self.uri = f'{scheme}:{path}'
        self.file: str | None = None
        self.loader: Any
        if scheme.lower() == 'config':
            self.file = _find(path, relative_to)
            self.loader = ConfigLoader(self.file, self.vars)
        elif scheme.lower() == 'egg':
            self.loader = _EggLoader(path)
        else:
            raise ConfigError(uri, 'what to serve is a file, config:FILE or egg:DIST')
        self.settings = self._read_settings()

    # [wspbus:main]

    def _section(self) -> str | None:
        sections = self.loader.parser.sections() if self.file else []
        return next((one for one in sections if one in ('wspbus', 'wspbus:main')), None)

    def _read_settings(self) -> dict[str, Any]:
        settings = {**DEFAULTS, **OTHER_DEFAULTS}
        settings.update({'plugins': [], 'site_plugins': [], 'signals': {}})
        section = self._section()
        if section is None:
            return settings
        parser = self.loader.parser
        for key in parser._sections[section]:
            if key.startswith('signal.'):
                settings['signals'].update(self._read_signal(section, key))
                continue
            if key not in SETTINGS:
                raise ConfigError(
                    self.file,
                    f'unknown key{nearest(key, [*SETTINGS, "signal.SIGUSR1"])}',
                    section=section,
                    key=key,
                )
            settings[key] = self._convert(section, key)
        self._check_plugins(section, settings)
        drain_delay, limit = settings['drain_delay'], settings['stop_timeout']
        if drain_delay and drain_delay >= limit:
            raise ConfigError(
                self.file,
                f'{drain_delay:g} s leave nothing of stop_timeout, {limit:g} s, '
                'which includes them',
                section=section,
                key='drain_delay',
            )
        return settings

    @property
    def files(self) -> list[str]:
        """The paths of the .ini and of those that it includes; [] for an egg:'s."""
        return self.loader.files() if self.file else []

    def section(self, name: str) -> dict[str, str]:
        """The values of a section, interpolated; {} if there is none.

        :raises ConfigError: if one names what is not there.
        """
        if not self.file or not self.loader.parser.has_section(name):
            return {}
        keys = self.loader.parser.options(name)
        return {key: self.get(name, key) for key in keys}

    def get(self, section: str, key: str) -> str:
        """A value, interpolated.

        :raises ConfigError: if it names what is not there.
        """
        try:
            return self.loader.parser.get(section, key)  # type: ignore[no-any-return]
        except configparser.InterpolationError as error:
            raise interpolation_error(str(self.file), error) from None

    def _convert(self, section: str, key: str) -> Any:
        convert, what = SETTINGS[key]
        value = self.get(section, key)
        try:
            return convert(value)
        except ValueError:
            raise ConfigError(
                self.file, f'{value!r} is not {what}', section=section, key=key
            ) from None

    def _read_signal(self, section: str, key: str) -> dict[str, str]:
        try:
            name = signal_name(key.removeprefix('signal.'))
        except SettingError as error:
            raise ConfigError(
                self.file, error.problem, section=section, key=key
            ) from None
        return {name: self.get(section, key).strip()}

    def _check_plugins(self, section: str, settings: dict[str, Any]) -> None:
        sections = self.loader.parser.sections()
        known = [
            one.partition(':')[2].strip()
            for one in sections
            if one.startswith('plugin:')
        ]
        for key in ('plugins', 'site_plugins'):
            names = settings.get(key, [])
            for name in names:
                place = {'section': section, 'key': key}
                if names.count(name) > 1:
                    raise ConfigError(self.file, f'{name} is there twice', **place)
                if key == 'site_plugins' and name in settings['plugins']:
                    raise ConfigError(self.file, f'{name} is in plugins, too', **place)
                if name not in known:
                    raise ConfigError(
                        self.file,
                        f'there is no section [plugin:{name}]{nearest(name, known)}',
                        **place,
                    )

    # composing

    def make_bus(self) -> Bus:
        """The bus that [wspbus:main] asks for, with its settings.

        :raises ConfigError: if its ``use`` is wrong, or makes something else.
        """
        bus: Any = Bus()
        if 'use' in self.settings:
            context = self.loader.get_context(BUS, None, dict(self.vars))
            # Its keys are the command's, not the factory's.
            context.local_conf.clear()
            bus = context.create()
            missing = [
                n
                for n in ('start', 'block', 'publish', 'lifespan')
                if not hasattr(bus, n)
            ]
            if missing:
                raise FactoryError(
                    self.file,
                    f'{bus!r} is not a bus: it has no {missing[0]}',
                    section=self._section(),
                    key='use',
                )
        for name in DEFAULTS:
            setattr(bus, name, self.settings[name])
        return bus  # type: ignore[no-any-return]

    def known_server(
        self,
        name: str | None = None,
        kind: str | None = None,
        listen: str | None = None,
    ) -> Server | None:
        """The server of ``[server:NAME]``, its sockets not bound yet, if it is a known one.

        Nothing of the site's own is imported.

        :param kind: instead, a server of egg:PasteScript.
        :param listen: where to listen, instead of what the section says;
            without a section, waitress listens there.
        :returns: None if it is not one of `servers.ADAPTERS`: see `make_server`.
        :raises ConfigError: if the section is missing or wrong.
        """
        if not (kind or name or self._has_server()):
            if not listen:
                raise ConfigError(
                    self.file,
                    'there is no section [server:main]; add one, or say --listen HOST:PORT',
                )
            waitress = find_adapter('waitress:serve_paste')
            assert waitress is not None
            return self._configure(waitress, {}, self.vars, listen, None)
        if listen:
            self.forget_where(name)
        loader = _EggLoader('PasteScript') if kind else self.loader
        if find_adapter(loader.factory_name(SERVER, kind or name) or '') is None:
            return None
        context = loader.get_context(SERVER, kind or name, dict(self.vars))
        adapter, conf = adapter_for(context.object), context.local_conf
        if adapter is None or not adapter.knows(conf):
            return None
        section = getattr(context, 'section', None)
        return self._configure(adapter, conf, context.global_conf, listen, section)

    def forget_where(self, name: str | None = None) -> None:
        """Leave out where ``[server:NAME]`` listens: it may be variables that nobody gave."""
        if self.file is None:
            return
        name = name or 'main'
        for section in {f'server:{name}', name, *(['server'] * (name == 'main'))}:
            if self.loader.parser.has_section(section):
                for key in WHERE:
                    self.loader.parser.remove_option(section, key)

    def check_workers(self, workers: int, server: Server | None) -> None:
        """Whether so many processes can serve.

        :raises ConfigError: if the server is not one that can share its socket.
        """
        if server is None and workers > 1:
            raise ConfigError(
                self.file,
                f'workers = {workers} takes waitress, Paste#http, cheroot, CherryPy '
                'or wsgiref, which can share a listening socket; this server binds by itself',
                section='server:main',
            )

    def _has_server(self) -> bool:
        if self.file is None:
            return self.loader.factory_name(SERVER, None) is not None
        sections = self.loader.parser.sections()
        return any(one in ('server', 'server:main') for one in sections)

    def _configure(
        self,
        adapter: type[Server],
        conf: dict[str, str],
        global_conf: Any,
        listen: str | None,
        section: str | None,
    ) -> Server:
        if listen:
            conf = {k: v for k, v in conf.items() if k not in WHERE}
            conf['listen_on'] = listen
        with self._naming(section, listen):
            return adapter(conf, global_conf)

    @contextlib.contextmanager
    def _naming(self, section: str | None, listen: str | None) -> Generator[None]:
        """Errors of a server's settings name the file and the section."""
        try:
            yield
        except SettingError as error:
            if error.key == 'listen_on' or (error.key or '').startswith('--'):
                raise
            raise ConfigError(
                self.file, error.problem, section=section, key=error.key
            ) from None
        except BindError as error:
            place = f'{self.file} [{section}]' if section and not listen else ''
            raise BindError(error.address, error.reason, place) from None

    def bind(
        self,
        server: Server,
        name: str | None,
        listen: str | None,
        left: Iterable[ListeningSocket] = (),
    ) -> None:
        """Bind a known server's sockets.

        :param left: a predecessor's.
        :raises ConfigError, BindError: if that cannot be.
        """
        section = None
        if self.file and (name or self._has_server()):
            section = self.loader.find_config_section(SERVER, name)
        with self._naming(section, listen):
            server.bind(left)

    def make_server(
        self,
        bus: Bus,
        name: str | None = None,
        kind: str | None = None,
        listen: str | None = None,
    ) -> BlockingServer:
        """A server that no adapter knows: its factory's ``server(app)``.

        :raises ConfigError: if the section is wrong.
        :raises FactoryError: if the factory fails.
        """
        loader = _EggLoader('PasteScript') if kind else self.loader
        context = loader.get_context(SERVER, kind or name, self._global_conf(bus))
        section = getattr(context, 'section', None)
        if listen:
            raise ConfigError(
                self.file,
                '--listen works with waitress, Paste#http, cheroot, CherryPy and '
                'wsgiref only',
                section=section,
            )
        server = context.create()
        if not callable(server):
            raise FactoryError(
                self.file,
                f'{server!r} is not a server: it cannot be called',
                section=section,
            )
        return BlockingServer(server, _factory_name(context))

    def compose(
        self,
        bus: Bus,
        server: Any,
        app_name: str | None = None,
        *,
        with_site_plugins: bool = True,
    ) -> Site:
        """Make the plugins and the application, both with the bus in ``global_conf``.

        :param with_site_plugins: whether there is no other process for them.
        :raises ConfigError: if a section is missing or wrong.
        :raises FactoryError: if a factory fails.
        """
        with composing(bus):
            site = Site(self.file, bus, server)
            if with_site_plugins:
                self._make_plugins(site, 'site_plugins')
            self._make_plugins(site, 'plugins')
            return self._compose(site, app_name)

    def compose_site_plugins(self, bus: Bus) -> Site:
        """Make the site plugins alone: no application, no server.

        :raises ConfigError: if a section is missing or wrong.
        :raises FactoryError: if a factory fails.
        """
        with composing(bus):
            site = Site(self.file, bus, None)
            self._make_plugins(site, 'site_plugins')
            return site

    def _make_plugins(self, site: Site, key: str) -> None:
        for name in self.settings[key]:
            with self._origin(site, f'plugin:{name}'):
                self._make_plugin(site, name)

    def _compose(self, site: Site, app_name: str | None) -> Site:
        bus = site.bus
        with self._origin(site, 'app:main'):
            context = self.loader.get_context(
                loadwsgi.APP, app_name or self.app_name, self._global_conf(bus)
            )
            site.app = _create(context)
        if not callable(site.app):
            raise FactoryError(
                self.file,
                f'{site.app!r} is not an application: it cannot be called',
                section=getattr(context, 'section', None),
            )
        if not (isinstance(site.app, BusFilter) and site.app.bus is bus):
            site.app = BusFilter(site.app, bus)
        with self._origin(site, 'app:main'):
            introduce(site.app, bus)
        return site

    def _global_conf(self, bus: Bus) -> dict[str, str]:
        return {**self.vars, KEY: BusRef(bus)}

    @contextlib.contextmanager
    def _origin(self, site: Site, section: str) -> Generator[None]:
        def names() -> set[str]:
            return {one.name for one in site.bus._channel('start').ordered}

        before = names()
        yield
        site.origins.update(dict.fromkeys(names() - before, section))

    def _make_plugin(self, site: Site, name: str) -> None:
        bus = site.bus
        context = self.loader.get_context(PLUGIN, name, self._global_conf(bus))
        if inspect.isgeneratorfunction(context.object):
            # What it does before its yield is the start, what it does after is the stop.
            bus.lifespan(self._generator(context), name=name)
            plugin: Any = bus.lifespans[name]
        else:
            plugin = context.create()
            subscribe = getattr(plugin, 'subscribe', None)
            if callable(subscribe):
                subscribe()
        site.plugins[name] = bus.plugins[name] = plugin

    def _generator(self, context: Any) -> Callable[[], Iterator[Any]]:
        try:
            inspect.signature(context.object).bind(
                context.global_conf[KEY].bus, context.global_conf, **context.local_conf
            )
        except TypeError as error:
            raise FactoryError(
                self.file,
                f'{context.object.__qualname__}: {error}',
                section=context.section,
            ) from error
        make = functools.partial(PLUGIN.invoke, context)
        return functools.update_wrapper(make, context.object)

    # logging

    def logging_parser(self) -> configparser.ConfigParser:
        """The file as `logging.config` reads it, with ``here`` and the vars."""
        path = os.path.abspath(str(self.file))
        names = {'here': os.path.dirname(path), '__file__': path}
        # It lower-cases the names that are looked up.
        vars = {key.lower(): value for key, value in self.vars.items()} | self.vars
        parser = configparser.ConfigParser(
            {key: _literal(value) for key, value in names.items()},
            interpolation=Interpolation(vars),
        )
        with open(path) as lines:
            parser.read_file(lines)
        return parser

    def configure_logging(self) -> bool:
        """Set up logging as the .ini says; loggers that exist already stay alive.

        :returns: whether the .ini says anything.
        :raises ConfigError: if what it says is wrong.
        """
        if self.file is None or not self.loader.parser.has_section('loggers'):
            return False
        from logging.config import fileConfig

        try:
            fileConfig(self.logging_parser(), disable_existing_loggers=False)
        except configparser.InterpolationError as error:
            raise interpolation_error(self.file, error) from None
        except Exception as error:
            raise ConfigError(
                self.file, f'its logging sections are wrong: {one_line(error)}'
            ) from error
        return True


class _EggLoader(loadwsgi.EggLoader):  # type: ignore[misc]
    """PasteDeploy's, with errors that say what is wrong."""

    def get_context(
        self, object_type: Any, name: str | None = None, global_conf: Any = None
    ) -> Any:
        """Find an entry point.

        :raises ConfigError: if the distribution or the entry point is missing.
        """
        where = f'egg:{self.spec}'
        try:
            context = super().get_context(object_type, name, global_conf)
        except importlib_metadata.PackageNotFoundError:
            raise ConfigError(
                where, f'the distribution {self.spec!r} is not installed'
            ) from None
        except LookupError as error:
            if object_type is loadwsgi.SERVER and not name:
                raise ConfigError(where, 'there is no section [server:main]') from None
            raise ConfigError(where, _entry_points(str(error).strip('"'))) from None
        except Exception as error:
            raise ConfigError(where, one_line(error)) from error
        context.file = where
        return context

    def factory_name(self, kind: Any, name: str | None) -> str | None:
        """The factory of an entry point, as 'module:function'; nothing is imported."""
        groups = loadwsgi._flatten(kind.egg_protocols)
        try:
            known = importlib_metadata.distribution(self.spec).entry_points
        except importlib_metadata.PackageNotFoundError:
            return None
        for entry in known:
            if entry.group in groups and entry.name == (name or 'main'):
                return str(entry.value).partition(' ')[0]
        return None


def _find(path: str, relative_to: str) -> str:
    """The file that a path names; PasteDeploy's paths may be quoted as in a URL."""
    full = os.path.join(relative_to, path)
    quoted = os.path.join(relative_to, unquote(path))
    return quoted if not os.path.exists(full) and os.path.exists(quoted) else full


def site_path(file: str | None) -> None:
    """Have modules beside the .ini found, if it is in the working directory or below it.

    `paster` finds a project's modules by its egg-info folder; ``call:`` in an
    .ini without a project would find none.
    """
    folder = os.path.dirname(os.path.abspath(file)) if file else os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
