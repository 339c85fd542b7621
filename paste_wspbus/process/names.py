"""Which site a command line asks for: the .ini, and the names of two of its sections."""

from __future__ import annotations

import os

from paste_wspbus.values import split_file, working_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from paste_wspbus.process.options import Options

#: The name of a section if the command line names none.
MAIN = 'main'


def ini_paths(config: str) -> tuple[str, str]:
    """Return the name of an .ini as it was given, absolute, and its real path.

    A deployment may change a link in the given name.

    :param config: the .ini, as on the command line; an ``egg:`` URI is its own name.
    """
    scheme, _, rest = config.partition(':')
    path = split_file(rest if scheme == 'config' else config)[0]
    if scheme == 'egg':
        return path, path
    folder = working_folder()
    if '%' in path:
        from paste_wspbus.ini.file import find  # it imports PasteDeploy

        path = find(path, folder)
    given = os.path.normpath(os.path.join(folder, path))
    return given, os.path.realpath(given)


class Names:
    """Which site a command line asks for. Several sites may have one .ini.

    ``ini`` is the path of the .ini as it was given, ``file`` its real path. ``server`` and
    ``app`` are the names of its sections.

    :param exactly: whether a section that is not named is ``main``. If not, the name is
        None, and any section may be meant.
    """

    def __init__(self, options: Options, exactly: bool = True) -> None:
        self.ini, self.file = ini_paths(options.config)
        default = MAIN if exactly else None
        self.server = options.server_name or default
        self.app = options.app_name or split_file(options.config)[1] or default

    @property
    def fields(self) -> dict[str, str]:
        """What a site reports of its names."""
        return {
            'ini': self.ini,
            'file': self.file,
            'server': self.server or MAIN,
            'app': self.app or MAIN,
        }

    def has_ini(self, fields: Mapping[str, str]) -> bool:
        """Whether a site has this .ini; ``fields`` are what the site reports."""
        # A deployment may have changed a link in the path since the site has started.
        names = {fields['ini'], fields['file'], os.path.realpath(fields['ini'])}
        return bool(names & {self.ini, self.file})

    def differ_from(self, fields: Mapping[str, str]) -> bool:
        """Whether a site has other sections than those that the command line names."""
        named = (('server', self.server), ('app', self.app))
        return any(name not in (None, fields[kind]) for kind, name in named)

    def are(self, fields: Mapping[str, str]) -> bool:
        """Whether a site has exactly these sections: ``main`` if none is named."""
        own = self.fields
        return all(own[kind] == fields[kind] for kind in ('server', 'app'))


def names_of(status: Mapping[str, Any]) -> dict[str, str]:
    """Return the site's names as a status has them; '' for each that it lacks."""
    names = {}
    for key in ('ini', 'file', 'server', 'app'):
        value = status.get(key)
        names[key] = value if isinstance(value, str) and '\0' not in value else ''
    return names
