"""The composites of Paste: which keys name applications, and those that have none."""

from __future__ import annotations

import os
import re

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.factories import APP
from paste_wspbus.ini.includes import files_of
from paste_wspbus.values import split_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from paste_wspbus.ini.config import Config
    from paste_wspbus.ini.file import ConfigLoader

#: From the kind of a composite to the pattern of its keys that name applications. The
#: composite loads them all (paste.urlmap, paste.cascade).
COMPOSITES = {
    'egg:paste#urlmap': re.compile('/|domain |not_found_app$').match,
    'egg:paste#cascade': re.compile('app').match,
}

#: What an empty one does, and what to write.
_EMPTY = {
    'egg:paste#urlmap': ', so each request is answered with 404: write / = NAME',
    'egg:paste#cascade': ', so each request fails: write app1 = NAME',
}


def empty_composites(config: Config, app_name: str | None = None) -> Iterator[str]:
    """Return a sentence on each composite that names no application.

    It may get applications in another section, which uses it: then there is no sentence.
    Nor is there one if no section names it.

    :param app_name: the application that is served; None if the .ini says it.
    """
    loader = config.loader
    try:
        loader.find_config_section(APP, app_name or config.app_name)
    except ConfigError:  # it is reported when the site is loaded
        return
    sections = [
        (file, section, own, own.get('use', '').strip())
        for file in files_of(loader)
        for section, own in _sections_of(loader, file)
    ]
    named, filled = {'main', app_name, config.app_name}, set()
    for _, _, own, use in sections:
        named |= {
            word.rpartition('#')[2] for one in own.values() for word in one.split()
        }
        if use.lower() not in COMPOSITES and _names_application(own):
            filled.add((split_file(use)[1] or 'main') if ':' in use else use)
    for file, section, own, use in sections:
        kind, _, name = section.partition(':')
        name = name.strip() or 'main'
        empty = _EMPTY.get(use := use.lower())
        if not kind.startswith('composit') or empty is None:
            continue
        if name in named - filled and not _names_application(own, use):
            is_here = file == os.path.abspath(loader.filename)
            place = f'[{section}]' if is_here else f'{file} [{section}]'
            yield f'{place} names no application{empty}'


def _sections_of(
    loader: ConfigLoader, file: str
) -> Iterable[tuple[str, Mapping[str, str]]]:
    if file != os.path.abspath(loader.filename):
        try:
            loader = loader.included(file)
        except ConfigError:  # it is reported when the file is loaded
            return ()
    # Factories get the keys of [DEFAULT], too, and one may name an application.
    more = {key: '' for key in loader.parser._defaults if key == 'not_found_app'}
    return [(name, {**own, **more}) for name, own in loader.parser._sections.items()]


def _names_application(own: Iterable[str], *kinds: str) -> bool:
    keys = [re.sub('^(?:set|get) ', '', key) for key in own]
    return any(COMPOSITES[kind](key) for kind in kinds or COMPOSITES for key in keys)
