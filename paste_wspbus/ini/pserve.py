"""The section ``[pserve]`` of an .ini: pserve's own settings."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from typing import NamedTuple

from paste_wspbus.errors import SettingError
from paste_wspbus.values import boolean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class ReloadSettings(NamedTuple):
    """The paths and globs to watch, the globs to ignore, the URL to open, whether to poll.

    None stands for no URL; and for ``poll`` that is not set.
    """

    watch: list[str]
    ignore: list[str]
    open_url: str | None
    poll: bool | None = None


def reload_settings(section: Mapping[str, str], here: str) -> ReloadSettings:
    """Read ``watch_files``, ``ignore_files`` (one on each line) and ``open_url``; and
    ``poll``, which pserve does not have.

    :param section: the values of ``[pserve]``, interpolated; {} if there is no section.
    :param here: the folder in which relative paths start: that of the .ini.

    :raises SettingError: if the package of a ``package:path`` does not exist, or if
        ``poll`` is not a boolean.
    """
    watch = [_path(spec, here) for spec in _lines(section.get('watch_files', ''))]
    ignore = _lines(section.get('ignore_files', ''))
    poll = None
    if 'poll' in section:
        try:
            poll = boolean(section['poll'])
        except (SettingError, ValueError):
            raise SettingError('poll', 'it must be true or false') from None
    return ReloadSettings(watch, ignore, section.get('open_url') or None, poll)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _path(spec: str, here: str) -> str:
    """Return the path of a file or of Pyramid's ``package:path``."""
    name, colon, path = spec.partition(':')
    if not colon or os.path.isabs(spec):
        return os.path.abspath(os.path.join(here, spec))
    top, *below = name.split('.')
    # Find it, but do not import it: this process may have to import no code of the site.
    found = None
    with contextlib.suppress(ValueError):  # it is not the name of a module
        found = importlib.util.find_spec(top)
    folders = list(found.submodule_search_locations or ()) if found else []
    if found and found.has_location and not folders:  # it is a module
        folders = [os.path.dirname(str(found.origin))]
    if not folders:
        raise SettingError('watch_files', f'{spec}: there is no package {top!r}')
    return os.path.abspath(os.path.join(folders[0], *below, path))
