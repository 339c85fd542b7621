"""``wspserve --check``: it checks an .ini without composing the site or importing its code."""

from __future__ import annotations

import configparser
from importlib import metadata
from importlib.util import find_spec

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.factories import APP, FILTER, NO_NAME, PLUGIN, SERVER
from paste_wspbus.ini.file import interpolation_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from paste_wspbus.ini.config import Config
    from paste_wspbus.ini.file import ConfigLoader

    #: A key that names something: the key, the kind of section, and the name or URI.
    Target = tuple[str, Any, str]


#: The length of a chain of sections: PasteDeploy fails at about 320, by Python's recursion.
DEEPEST = 200

#: The values that `logging.config` does not interpolate: their % are for records.
_RAW = frozenset(('formatter', key) for key in ('format', 'datefmt', 'style'))


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
    if listen:
        config.forget_where(server_name)
    _check_logging(config)
    warnings = list(_check_values(config))
    _check_section(config.loader, APP, app_name or config.app_name, [])
    for name in [*config.settings['site_plugins'], *config.settings['plugins']]:
        _check_section(config.loader, PLUGIN, name, [])
    if server_name or any(_is_server(one) for one in config.loader.parser.sections()):
        _check_section(config.loader, SERVER, server_name, [])
        server = config.known_server(server_name, listen=listen)
        config.check_workers(config.settings['workers'], server)
    elif not listen:
        warnings.append(
            'there is no section [server:main]: add one, or start the site with '
            '--listen HOST:PORT'
        )
    if config.settings['preload'] and not config.settings['workers']:
        warnings.append('[wspbus:main] preload = true has no effect without workers')
    return warnings


def _is_server(section: str) -> bool:
    return section in ('server', 'server:main')


def _is_logging(section: str) -> bool:
    return section.partition('_')[0] in ('logger', 'handler', 'formatter')


def _check_logging(config: Config) -> None:
    parser = config.logging_parser()
    for section in filter(_is_logging, parser.sections()):
        try:
            for key, _ in parser.items(section, raw=True):
                parser.get(section, key, raw=(section.partition('_')[0], key) in _RAW)
        except configparser.InterpolationError as error:
            raise interpolation_error(str(config.file), error) from None


def _check_values(config: Config) -> Iterator[str]:
    """Compute all values with their variables; warn about keys that PasteDeploy ignores."""
    parser = config.loader.parser
    defaults = set(parser._defaults) - {'here', '__file__'}
    for key in defaults:
        config.loader.value('DEFAULT', key)
    for section in parser.sections():
        if _is_logging(section):
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


def _check_section(
    loader: ConfigLoader, kind: Any, name: str | None, path: list[tuple[str, str]]
) -> None:
    """Follow the names in a section, as PasteDeploy would.

    :param path: the sections that led here."""
    section = loader.find_config_section(kind, name)
    file = loader.filename
    if (file, section) in path:
        raise ConfigError(
            file, 'sections use each other in a circle', section=section, key='use'
        )
    path = [*path, (file, section)]
    if len(path) > DEEPEST:
        raise ConfigError(
            file,
            f'more than {DEEPEST} sections name each other in one chain, which is too deep',
            section=section,
            key='use',
        )
    own = loader.parser._sections[section]
    for dist in loader.parser.get(section, 'require', fallback='').split():
        _check_distribution(file, section, 'require', dist)
    for key, target_kind, target in _targets(loader, section, own, kind):
        scheme, _, rest = target.partition(':')
        if not loader.absolute_name(target):
            _check_named(loader, target_kind, target, path, section, key)
        elif scheme.lower() == 'config':
            other, _, fragment = rest.partition('#')
            _check_section(loader.included(other), target_kind, fragment or None, path)
        else:
            _check_uri(file, section, key, target, target_kind)


def _check_named(
    loader: ConfigLoader,
    kind: Any,
    name: str,
    path: list[tuple[str, str]],
    section: str,
    key: str,
) -> None:
    try:
        loader.find_config_section(kind, name)
    except ConfigError as error:
        raise ConfigError(
            loader.filename, error.problem, section=section, key=key
        ) from None
    _check_section(loader, kind, name, path)


def _targets(
    loader: ConfigLoader, section: str, own: dict[str, str], kind: Any
) -> Iterator[Target]:
    def get(key: str) -> str:
        if key not in own:
            raise ConfigError(
                loader.filename, 'this key is missing', section=section, key=key
            )
        return str(loader.parser.get(section, key))

    if section.startswith('pipeline:'):
        *filters, app = get('pipeline').split()
        yield from (('pipeline', FILTER, one) for one in filters)
        yield 'pipeline', APP, app
    elif section.startswith('filter-app:'):
        yield 'use', FILTER, get('use')
        yield 'next', APP, get('next')
    elif not any(key.startswith('paste.') for key in own):
        yield 'use', kind, get('use')
    if 'filter-with' in own:
        yield 'filter-with', FILTER, get('filter-with')


def _check_uri(file: str, section: str, key: str, uri: str, kind: Any) -> None:
    """Check that an entry point or a module exists, without importing it."""
    place = {'section': section, 'key': key}
    scheme, _, rest = uri.partition(':')
    if scheme.lower() == 'egg':
        dist, _, name = rest.partition('#')
        if not dist:
            raise ConfigError(file, f'{uri}: {NO_NAME}', **place)
        _check_distribution(file, section, key, dist)
        groups = {
            group
            for protocols in kind.egg_protocols
            for group in ([protocols] if isinstance(protocols, str) else protocols)
        }
        names = sorted(
            one.name
            for one in metadata.distribution(dist).entry_points
            if one.group in groups
        )
        if (name or 'main') not in names:
            there = ', '.join(names) or 'none'
            problem = f'{dist} has no entry point {name or "main"!r}; it has {there}'
            raise ConfigError(file, f'{uri}: {problem}', **place)
    elif scheme.lower() == 'call':
        module, colon, _ = rest.partition(':')
        if not colon:
            raise ConfigError(file, f'{uri}: write call:MODULE:FUNCTION', **place)
        if find_spec(module.partition('.')[0]) is None:
            raise ConfigError(file, f'{uri}: there is no module {module!r}', **place)
    else:
        problem = (
            f'{uri}: it must begin with config:, egg: or call:, not with {scheme}:'
        )
        raise ConfigError(file, problem, **place)


def _check_distribution(file: str, section: str, key: str, dist: str) -> None:
    try:
        metadata.distribution(dist)
    except metadata.PackageNotFoundError:
        raise ConfigError(
            file,
            f'the distribution {dist!r} is not installed',
            section=section,
            key=key,
        ) from None
