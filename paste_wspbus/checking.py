"""``wspserve --check``: what can be known of an .ini without composing it, nothing imported."""

from __future__ import annotations

import configparser
from importlib import metadata
from importlib.util import find_spec

from paste_wspbus.errors import ConfigError
from paste_wspbus.loader import (
    APP,
    FILTER,
    PLUGIN,
    SERVER,
    Config,
    ConfigLoader,
    interpolation_error,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    #: Where something is looked up: a kind of section, and a name or URI.
    Target = tuple[str, Any, str]


#: What `logging.config` reads as it is: the % in there are for records.
_RAW = frozenset(('formatter', key) for key in ('format', 'datefmt', 'style'))


def check(
    config: Config,
    server_name: str | None = None,
    app_name: str | None = None,
    listen: str | None = None,
) -> list[str]:
    """Look at everything that serving would look at first.

    :param listen: where to listen, instead of what the section says.
    :returns: warnings: what would be served, but perhaps not as meant.
    :raises ConfigError: for what could not be served.
    """
    if config.file is None:
        return []
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
            'there is no section [server:main]: serving it needs --listen HOST:PORT'
        )
    if config.settings['preload'] and not config.settings['workers']:
        warnings.append('preload = true means something to workers only')
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
    """Interpolate all of them; warn of keys that PasteDeploy passes over."""
    parser = config.loader.parser
    defaults = set(parser._defaults) - {'here', '__file__'}
    for key in defaults:
        config.get('DEFAULT', key)
    for section in parser.sections():
        if _is_logging(section):
            continue
        for key in parser._sections[section]:
            config.get(section, key)
            if key in defaults:
                yield (
                    f'[{section}] {key} is ignored: PasteDeploy takes the {key} of '
                    f'[DEFAULT]; write "set {key} = …" to change it here'
                )
            elif key in config.vars:
                yield (
                    f'[{section}] {key} is kept, though the command line sets a var '
                    f'{key}; paster serve would ignore it'
                )


def _check_section(
    loader: ConfigLoader, kind: Any, name: str | None, path: list[tuple[str, str]]
) -> None:
    """Follow what a section names, as PasteDeploy would; ``path`` led here."""
    section = loader.find_config_section(kind, name)
    file = loader.filename
    if (file, section) in path:
        raise ConfigError(
            file, 'sections use each other in a circle', section=section, key='use'
        )
    path = [*path, (file, section)]
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
            raise ConfigError(loader.filename, 'missing', section=section, key=key)
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
    """Whether an entry point or a module is there; nothing is imported."""
    place = {'section': section, 'key': key}
    scheme, _, rest = uri.partition(':')
    if scheme.lower() == 'egg':
        dist, _, name = rest.partition('#')
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
            raise ConfigError(file, f'{uri}: call: takes MODULE:FUNCTION', **place)
        if find_spec(module.partition('.')[0]) is None:
            raise ConfigError(file, f'{uri}: there is no module {module!r}', **place)
    else:
        problem = f'{uri}: {scheme}: is none of config:, egg: and call:'
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
