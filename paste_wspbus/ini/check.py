"""``wspserve --check``: it checks an .ini without composing the site or importing its code."""

from __future__ import annotations

import os
from difflib import get_close_matches
from importlib import metadata
from typing import NamedTuple

from paste_wspbus.errors import ConfigError, FactoryError, PluginError
from paste_wspbus.ini.check_logging import LISTS, LoggingCheck, is_logging
from paste_wspbus.ini.composites import COMPOSITES, empty_composites
from paste_wspbus.ini.factories import APP, FILTER, NO_NAME, PLUGIN, SERVER, one_line
from paste_wspbus.ini.hints import (
    NO_SERVER,
    distribution_hint,
    hidden_hint,
    indented,
    missing_key,
    module_hint,
    server_hint,
)
from paste_wspbus.ini.needs import read_wishes
from paste_wspbus.ini.pastedeploy import loadwsgi
from paste_wspbus.ini.plugins import NEEDS
from paste_wspbus.ini.settings import FILES, FOLDERS, NO_CHANNELS, PLUGINS, section_of
from paste_wspbus.ini.sources import NoModule, Source, definition_of, find_source
from paste_wspbus.ini.sources import problem_of as problem_in_source
from paste_wspbus.ini.typed import check_further, in_its_section, settings_in_source
from paste_wspbus.ini.typed import convert as convert_settings
from paste_wspbus.listening.written import parse_address
from paste_wspbus.plugins import CHANNELS
from paste_wspbus.reference import KEY
from paste_wspbus.unix.report_files import DENIED, problem_of
from paste_wspbus.values import closest, nearest, split_file, value_hint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from paste_wspbus.ini.config import Config
    from paste_wspbus.ini.file import ConfigLoader

    #: A key that names something: the key, the kind of section, and the name or URI.
    Target = tuple[str, Any, str]


#: The length of a chain of sections: PasteDeploy fails at about 320, by Python's recursion.
DEEPEST = 200

#: The kinds of sections, before the colon in their names.
KINDS = (
    'app',
    'application',
    'composite',
    'composit',
    'pipeline',
    'filter-app',
    'filter',
    'server',
    'plugin',
    'wspbus',
    'cluster',
)

#: Other sections that are read here; they have no colon in their names.
_ALONE = ('exe', 'pserve')

#: The keys of sections that no factory gets.
_OTHER_KEYS = ('use', 'require', 'next', 'filter-with', *NEEDS)

#: The factory of the filter that has the settings of a plugin.
ACCESS_LOG = 'paste_wspbus.ready.accesslog:make_filter'

#: The factory of applications that a module has ready.
WSGI_OBJECT = 'paste_wspbus.ini.wsgi_object:make_app'

#: How similar the name of a section must be to one of these: other programs have sections
#: in the same file.
NEAR = 0.75


def check(
    config: Config,
    server_name: str | None = None,
    app_name: str | None = None,
    listen: Sequence[str] | None = None,
) -> list[str]:
    """Check an .ini as far as possible without importing the site's code.

    :param listen: the addresses that replace those of the section.
    :returns: warnings: the site can be served, but perhaps not as the author expects.
    :raises ConfigError: if the site could not be served.
    """
    if config.file is None:
        return []
    listen = listen or config.settings['listen']
    for address in listen or ():
        parse_address(address)
    if listen:
        config.forget_where(server_name)
    parser = config.logging_parser()
    warnings = LoggingCheck(str(config.file), parser).run()
    warnings += _check_values(config)
    if config.settings['defaults']:
        from paste_wspbus.ini.defaults import check_replaced

        for key in config.settings['defaults']:
            check_replaced(config, key)
        if 'signals' in config.settings['defaults'] and config.settings['workers']:
            warnings.append(UNUSED_SIGNALS)
    sections = _Sections({*config.settings['signals'].values()})
    sections.check(config.loader, APP, app_name or config.app_name)
    for key in reversed(PLUGINS):
        for name in config.settings[key]:
            sections.check(config.loader, PLUGIN, name)
    read_wishes(config.loader, config.settings)
    if server_name or any(_is_server(one) for one in config.loader.parser.sections()):
        sections.check(config.loader, SERVER, server_name)
        server = config.known_server(server_name, listen=listen)
        config.check_workers(config.settings['workers'], server)
    elif not listen:
        hint = server_hint(config.loader.parser.sections())
        missing = f'there is no section [server:main]; {hint}'
        if hint != NO_SERVER:  # another section is meant as the application
            raise ConfigError(str(config.file), missing)
        warnings.append(missing)
    warnings += [*empty_composites(config, app_name), *_check_folders(config)]
    warnings += _check_names(config, sections.seen)
    warnings += sections.warnings
    warnings += _check_signals(config, sections.texts)
    return warnings


#: The key `signals` together with workers.
UNUSED_SIGNALS = (
    '[wspbus:main] signals: with workers nothing uses it, because the supervisor handles '
    'the signals'
)


def check_server(config: Config, name: str | None) -> None:
    """Check that ``[server:NAME]`` names something that exists.

    :raises ConfigError: if it does not.
    """
    _Sections().check(config.loader, SERVER, name)


def _check_names(config: Config, seen: set[str]) -> Iterator[str]:
    """Warn about sections that nothing reads: their names may have a typo.

    :param seen: the sections that the site, or one of these, names.
    """
    for section in config.loader.parser.sections():
        kind, colon, name = section.partition(':')
        if kind == 'plugin' and section not in seen:
            yield (
                f'[{section}] is not used: write plugins = {name.strip()} in '
                '[wspbus:main]'
            )
        elif section == 'uwsgi':
            yield (
                f'[uwsgi] is for uWSGI alone: "wspserve --from {config.file}" prints what '
                'says the same here'
            )
        elif kind == 'wspbus' and name not in ('', 'main'):
            yield f'[{section}] is not used: did you mean [wspbus:main]?'
        elif kind == 'cluster' and section != 'cluster:main':
            yield f'[{section}] is not used: did you mean [cluster:main]?'
        elif kind not in (*KINDS, *LISTS) and not is_logging(section):
            known = KINDS if colon else [*LISTS]
            for near in get_close_matches(kind, known, 1, NEAR):
                yield f'[{section}] is not used: did you mean [{near}{colon}{name}]?'


def _check_signals(config: Config, texts: set[str]) -> Iterator[str]:
    """Warn about the channels of signals that no module of the site names."""
    for signal, target in config.settings['signals'].items():
        if target not in {*NO_CHANNELS, *CHANNELS, *texts}:
            hint = nearest(target, [*NO_CHANNELS, *CHANNELS])
            yield (
                f'[{section_of(config.loader)}] signal.{signal}: no module that this '
                f'.ini names has the channel {target!r}{hint}'
            )


def _check_folders(config: Config) -> Iterator[str]:
    for key in (*FILES, *FOLDERS):
        path = config.settings[key] or ''
        folder = path if key in FOLDERS else os.path.dirname(path)
        if key in FOLDERS and os.path.exists(path):
            yield from _check_whether_it_takes_files(config, key, path)
        elif folder and not os.path.isdir(folder):
            missing, section = f'there is no folder {folder}', section_of(config.loader)
            # A service manager makes these folders when it starts the site.
            if not folder.startswith(('/run/', '/var/run/')):
                raise ConfigError(str(config.file), missing, section=section, key=key)
            yield f'[{section}] {key}: {missing}'


def _check_whether_it_takes_files(
    config: Config, key: str, folder: str
) -> Iterator[str]:
    problem, section = problem_of(folder), section_of(config.loader)
    if problem.endswith(DENIED):  # the site may run as another user
        yield f'[{section}] {key}: {problem} for this user'
    elif problem:
        raise ConfigError(str(config.file), problem, section=section, key=key)


def _is_server(section: str) -> bool:
    return section in ('server', 'server:main')


def _check_values(config: Config) -> Iterator[str]:
    """Compute the values with their variables; warn about keys that PasteDeploy ignores.

    Sections of other programs are left alone: there '%' may mean something else ([uwsgi] has
    ``paste = config:%p``), and [DEFAULT] need not be stronger.
    """
    parser = config.loader.parser
    defaults = set(parser._defaults) - {'here', '__file__'}
    for key in defaults:
        config.loader.value('DEFAULT', key)
    for section in parser.sections():
        if section.partition(':')[0] not in (*KINDS, *_ALONE):
            continue
        for key in parser._sections[section]:
            config.loader.value(section, key)
            if key in defaults:
                yield (
                    f'[{section}] {key} is ignored: PasteDeploy takes the {key} of '
                    f'[DEFAULT]; write "set {key} = …" to change it here'
                )
            elif key in config.vars:
                yield (
                    f'[{section}] {key} is used, although the command line also sets '
                    f'{key}; paster serve would ignore the {key} of this section'
                )


class _Sections:
    """Follows the names in sections, as PasteDeploy would; it imports nothing."""

    def __init__(self, channels: Iterable[str] = ()) -> None:
        self.warnings: list[str] = []
        #: The channels that are known.
        self._channels = CHANNELS | {*channels}
        #: The strings in the modules that the sections name: they may be channels, too.
        self.texts: set[str] = set()
        #: The sections that were checked.
        self.seen: set[str] = set()

    def check(
        self,
        loader: ConfigLoader,
        kind: Any,
        name: str | None,
        path: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Check a section and those that it names.

        :param path: the sections that led here.
        :raises ConfigError: if one of them is wrong.
        """
        section = loader.find_config_section(kind, name)
        path = [*path, (loader.filename, section)]
        _check_path(*path)
        self.seen.add(section)
        own = loader.parser._sections[section]
        place = _Place(loader.filename, section, 'require')
        self._check_gets(loader, path)
        for dist in loader.parser.get(section, 'require', fallback='').split():
            _distribution(place, dist)
        for key, target_kind, target in _targets(loader, section, own, kind):
            place = _Place(loader.filename, section, key)
            if key != 'pipeline' and (line := indented(target)):
                raise place.error(line)
            scheme = target.partition(':')[0]
            if not loader.absolute_name(target):
                # The message says what asks for the section, as at a start.
                loader.resolving.append(
                    (os.path.realpath(loader.filename), '', section)
                )
                try:
                    loader.find_config_section(target_kind, target)
                except ConfigError as error:
                    raise place.error(error.problem) from None
                finally:
                    loader.resolving.pop()
                self.check(loader, target_kind, target, path)
            elif scheme.lower() == 'config':
                self._check_included(place, target, target_kind, loader, path)
            elif scheme.lower() == 'egg':
                self._check_egg(place, target, target_kind, loader, path)
            elif scheme.lower() == 'call':
                definition = self._check_call(place, target, target_kind)
                _check_settings(loader, path, definition)
            else:
                from paste_wspbus.ini.mistakes import bad_scheme

                raise place.error(f'{target}: {bad_scheme(target)}')

    def _check_gets(
        self, loader: ConfigLoader, path: Sequence[tuple[str, str]]
    ) -> None:
        """Check that [DEFAULT] has the keys for which keys such as ``get db`` ask."""
        if {file for file, _ in path} != {loader.filename}:
            return  # another file gives this one keys, too
        sections = [loader.parser._sections[section] for _, section in path]
        set_here = [
            key[4:].strip() for own in sections for key in own if key[:4] == 'set '
        ]
        known = {*loader.parser._defaults, *loader.vars, *set_here, KEY}
        for key, name in sections[-1].items():
            if key.startswith('get ') and name not in known:
                problem = f'[DEFAULT] has no key {name!r}{nearest(name, known)}'
                raise _Place(*path[-1], key).error(problem)

    def _check_included(
        self,
        place: _Place,
        uri: str,
        kind: Any,
        loader: ConfigLoader,
        path: Sequence[tuple[str, str]],
    ) -> None:
        """Check a section of another file."""
        file, name = split_file(uri.partition(':')[2])
        # The message says what asks for the section, as at a start.
        loader.resolving.append((os.path.realpath(loader.filename), '', place.section))
        try:
            included = loader.included(file)
            included.resolving = loader.resolving
            self.check(included, kind, name or None, path)
        except ConfigError as error:
            from paste_wspbus.ini.mistakes import no_included

            raise no_included(loader, uri, error) from None
        finally:
            loader.resolving.pop()

    def _check_egg(
        self,
        place: _Place,
        uri: str,
        kind: Any,
        loader: ConfigLoader,
        path: Sequence[tuple[str, str]],
    ) -> None:
        """Check that an entry point exists. Check the keys of its section if its factory is known.

        :param path: the sections that led to it.
        """
        point = _entry_point(place, uri, kind)
        if point.value == WSGI_OBJECT:
            self._check_wsgi_object(loader, path)
        elif kind is PLUGIN:
            definition = definition_of(point.module, point.attr)
            _check_settings(loader, path, definition, point.module)
        elif kind is FILTER and point.value == ACCESS_LOG:
            definition = definition_of(point.module, 'accesslog')
            _check_settings(loader, path[-1:], definition, point.module)

    def _check_wsgi_object(
        self, loader: ConfigLoader, path: Sequence[tuple[str, str]]
    ) -> None:
        """Check the key ``app`` of egg:paste_wspbus#wsgi, if its module is where others are.

        :param path: the sections that led to it: each may have the key.
        """
        own: dict[str, str] = {}
        for file, section in path:
            if file != loader.filename:
                return
            own |= dict.fromkeys(loader.parser._sections[section].keys() - own, section)
        if not own.keys().isdisjoint(('file', 'path', 'get app')):
            return
        place = _Place(loader.filename, own.get('app', path[-1][1]), 'app')
        app = loader.value(place.section, 'app').strip() if 'app' in own else ''
        if not app:
            raise place.error(f'write app = MODULE:NAME{nearest("app", own)}')
        module, _, name = app.removesuffix('()').partition(':')
        self._check_call(place, f'call:{module}:{name or "application"}', APP)

    def _check_call(self, place: _Place, uri: str, kind: Any) -> Any:
        """Check that a module exists, that it is Python, and that it has the function.

        :returns: for a plugin, the definition of the function; None if nobody knows it.
        """
        if place.key == 'use' and place.section.startswith('filter-app:'):
            from paste_wspbus.ini.mistakes import call_in_filter_app

            raise call_in_filter_app(place.file, place.section, uri)
        module, colon, function = map(str.strip, uri.partition(':')[2].partition(':'))
        form = 'call:MODULE:FUNCTION'
        if place.key.startswith(('paste', 'app')):  # such as paste.app_factory
            uri, form = uri.removeprefix('call:'), form.removeprefix('call:')
        if not (module and colon and function):
            raise place.error(f'{uri}: write {form}')
        try:
            file = find_source(module)
        except NoModule:
            hint = module_hint(module, place.file)
            raise place.error(f'{uri}: there is no module {module!r}{hint}') from None
        if hint := hidden_hint(module, place.file, file):
            raise place.error(f'{uri}{hint}')
        if file is None:
            return None
        try:
            source = Source(file)
        except SyntaxError as error:
            at = f':{error.lineno}' if error.lineno else ''  # not of a NUL byte
            problem = f'{uri}: {one_line(error)}, at {file}{at}'
            raise FactoryError(
                place.file, problem, section=place.section, key=place.key
            ) from None
        except (OSError, ValueError) as error:
            raise place.error(f'{uri}: {file}: {one_line(error)}') from None
        self.texts |= source.texts()
        names, wanted = source.names(), function.partition('.')[0]
        if names is not None and wanted not in names:
            if hint := hidden_hint(module, place.file, file, anywhere=True):
                raise place.error(f'{uri}{hint}')
            hint = value_hint(uri) or nearest(wanted, names)
            raise place.error(f'{uri}: {file} has no {wanted!r}{hint}')
        if kind is PLUGIN:
            known = self._channels
            for listener, channel, line in source.unknown_channels(known, wanted):
                near = closest(channel, self._channels)
                wrong = PluginError(listener, channel, near, f'{file}:{line}')
                self.warnings.append(f'[{place.section}] {wrong}')
            return source.definition(function)
        return None


class _Place(NamedTuple):
    """A key, for error messages."""

    file: str
    section: str
    key: str

    def error(self, problem: str) -> ConfigError:
        """Return the error that names this key."""
        return ConfigError(self.file, problem, section=self.section, key=self.key)


def _check_settings(
    loader: ConfigLoader,
    path: Sequence[tuple[str, str]],
    definition: Any,
    module: str = '',
) -> None:
    """Check the keys of a plugin's section by the parameters of its factory.

    :param path: (file, name) of the section, and of each section that it uses with ``use``.
        Their keys are its keys, too. If they are in several files, nothing is checked.
    :param definition: the text of its factory; None if nobody knows it.
    :param module: that of the factory, if it may check more.
    """
    settings = definition and settings_in_source(definition)
    if not settings or {file for file, _ in path} != {loader.filename}:
        return
    conf: dict[str, str] = {}
    for _, section in reversed(path):
        own = loader.parser._sections[section]
        if any(key.startswith('get ') for key in own):
            return
        conf |= {
            key: loader.value(section, key)
            for key in own
            if key not in (*_OTHER_KEYS, *loader.parser._defaults)
            and not key.startswith('set ')
        }
    file, section = path[0]
    with in_its_section(loader, section):
        values = convert_settings(settings, conf, file, section)
        check_further(module, values, file, section)


def _check_path(*path: tuple[str, str]) -> None:
    """Check that a chain of sections has an end.

    :param path: the file and name of each section.
    """
    file, section = path[-1]
    if (file, section) in path[:-1]:
        from paste_wspbus.ini.mistakes import in_circle

        raise in_circle(file, path[path.index((file, section)) :])
    if len(path) > DEEPEST:
        problem = f'more than {DEEPEST} sections name each other in one chain, which is too deep'
        raise ConfigError(file, problem, section=section, key='use')


def _targets(
    loader: ConfigLoader, section: str, own: dict[str, str], kind: Any
) -> Iterator[Target]:
    def get(key: str) -> str:
        value = str(loader.parser.get(section, key)) if key in own else ''
        if not value.strip():
            problem = missing_key(key, own)
            raise ConfigError(loader.filename, problem, section=section, key=key)
        return value

    def named(kind: Any) -> Target:
        """Return what the section is: its use, or a key such as paste.app_factory."""
        for key in loadwsgi._flatten(kind.egg_protocols):
            if key in own and 'use' not in own:
                return key, kind, f'call:{get(key)}'
        return 'use', kind, get('use')

    if section.startswith('pipeline:'):
        *filters, app = get('pipeline').split()
        yield from (('pipeline', FILTER, one) for one in filters)
        yield 'pipeline', APP, app
    elif section.startswith('filter-app:'):
        yield named(FILTER)
        yield 'next', APP, get('next')
    else:
        yield (what := named(kind))
        names_app = COMPOSITES.get(what[2].strip().lower())
        if names_app is not None:
            yield from ((key, APP, get(key)) for key in own if names_app(key))
    if 'filter-with' in own:
        yield 'filter-with', FILTER, get('filter-with')


def _entry_point(place: _Place, uri: str, kind: Any) -> metadata.EntryPoint:
    """Check that an entry point exists, and what it names; return it."""
    dist, _, name = uri.partition(':')[2].partition('#')
    if not dist:
        raise place.error(f'{uri}: {NO_NAME}')
    groups = {
        group
        for protocols in kind.egg_protocols
        for group in ([protocols] if isinstance(protocols, str) else protocols)
    }
    points = _distribution(place, dist, f'{uri}: ').entry_points
    there = {one.name: one for one in points if one.group in groups}
    names = sorted(there)
    if (name or 'main') not in there:
        known = ', '.join(names) or 'none'
        problem = f'{dist} has no entry point {name or "main"!r}; it has {known}'
        problem += nearest(name or 'main', names)
        raise place.error(f'{uri}: {problem}')
    point = there[name or 'main']
    problem = problem_in_source(point.module, point.attr) if point.attr else ''
    if problem:
        raise place.error(f'{uri}: {problem}')
    return point


def _distribution(place: _Place, name: str, of: str = '') -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        problem = f'the distribution {name!r} is not installed{distribution_hint(name)}'
        raise place.error(f'{of}{problem}') from None
