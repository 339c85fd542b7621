"""The files to which an .ini leads by its ``config:`` URIs."""

from __future__ import annotations

import configparser
import contextlib
import os
from urllib.parse import unquote

from paste_wspbus.errors import ConfigError
from paste_wspbus.values import split_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from paste_wspbus.ini.file import ConfigLoader


def files_of(loader: ConfigLoader) -> list[str]:
    """Return the paths of a file and of all files that its ``config:`` URIs lead to.

    Files that cannot be read are in the list, too.
    """
    found: dict[str, None] = {}
    _add(loader, found)
    return list(found)


def _add(loader: ConfigLoader, found: dict[str, None]) -> None:
    path = os.path.abspath(loader.filename)
    if path in found:
        return
    found[path] = None
    folder = os.path.dirname(path)
    for uri in _config_uris(loader):
        name = split_file(uri.partition(':')[2])[0]
        try:
            _add(loader.included(name), found)
        except ConfigError:  # the error is reported when the file is loaded
            found.setdefault(os.path.abspath(os.path.join(folder, unquote(name))))


def _config_uris(loader: ConfigLoader) -> Iterator[str]:
    for section in loader.parser.sections():
        for key in loader.parser.options(section):
            with contextlib.suppress(configparser.Error):  # as above
                words = loader.parser.get(section, key).split()
                yield from (one for one in words if one[:7].lower() == 'config:')
