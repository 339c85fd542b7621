"""The section [cluster:main]: its keys, and the engine that it asks for."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import socket
from typing import NamedTuple

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini import typed, urls
from paste_wspbus.unix.kernel_timer import IS_POSSIBLE
from paste_wspbus.values import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.cluster.engine import Engine
    from paste_wspbus.ini.file import ConfigLoader

#: The names of the section.
SECTIONS = 'cluster:main', 'cluster'

#: The limits of ``ttl``, in seconds.
LEAST_TTL, MOST_TTL = 1.0, 3600.0

#: The limits of ``keep``, in seconds.
LEAST_KEEP, MOST_KEEP = 1.0, 86400.0

#: What a name may be: it stands in keys of the engine and in names of files.
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,63}')
_NAME_TAKES = 'letters, digits, ".", "_" and "-", at most 64'

#: The group of the entry points of engines: their names are the schemes of URLs.
GROUP = 'paste_wspbus.cluster_engine'

#: The scheme of the engine without a server.
LOCAL = 'local'

#: The schemes of the engines of this package, which need no metadata.
SCHEMES = {
    **dict.fromkeys(('redis', 'rediss', 'unix', 'sentinel'), 'make_redis'),
    LOCAL: 'make_local',
}


class Settings(NamedTuple):
    """What [cluster:main] says.

    ``use`` is the URL of the engine; '' stands for this machine alone. ``name`` is that of
    the site, ``machine`` the name that is shown of this member. ``ttl`` is the time of a
    lease, in seconds. ``secret`` signs messages. ``require`` says whether the site starts only if the
    engine answers. ``keep`` is the number of seconds for which the engine keeps messages.
    """

    use: str
    name: str
    machine: str
    ttl: float = 10.0
    secret: str = ''
    require: bool = False
    keep: float = 300.0

    @property
    def scheme(self) -> str:
        """The scheme of the URL; ``local`` if there is none."""
        return urls.split(self.use).scheme or LOCAL

    @property
    def shown(self) -> str:
        """The engine as messages name it: without user names and passwords."""
        if not self.use:
            return 'this machine alone'
        return urls.split(self.use).shown


def _keys(
    bus: Any,
    global_conf: Any,
    use: Url = '',  # type: ignore[name-defined]  # noqa: F821
    name: str = '',
    machine: str = '',
    ttl: Seconds = 10,  # type: ignore[name-defined]  # noqa: F821
    secret: str = '',
    require: bool = False,
    keep: Seconds = 300,  # type: ignore[name-defined]  # noqa: F821
) -> None:
    """Only its signature matters: the keys of the section, with types and defaults."""


def section_of(loader: ConfigLoader | None) -> str | None:
    """Return the full name of the section; None if the .ini has none."""
    found = loader.parser.sections() if loader else ()
    return next((one for one in SECTIONS if one in found), None)


def read(loader: ConfigLoader, file: str) -> Settings:
    """Read the section, and check that its engine can be made.

    Without the section, the settings are those of this machine alone: then the name is that
    of the .ini, so that two sites do not meet.

    :param file: the .ini.
    :raises ConfigError: if a key is unknown or wrong, if the scheme of ``use`` is unknown,
        or if a library is missing.
    """
    section = section_of(loader)
    if section is None:
        return Settings('', _name_of(file), machine_name())

    def wrong(key: str, problem: str) -> ConfigError:
        return ConfigError(loader.filename, problem, section=section, key=key)

    given = _given(loader, section, wrong)
    if given.get('use') and not given.get('name'):
        raise wrong(
            'name', 'this key is missing: the machines of one site have one name'
        )
    settings = Settings(
        **{
            'use': '',
            **given,
            'name': given.get('name') or _name_of(file),
            'machine': given.get('machine') or machine_name(),
        }
    )
    for key in ('name', 'machine'):
        value = getattr(settings, key)
        if not _NAME.fullmatch(value):
            raise wrong(key, f'{value!r} is not a name: it may have {_NAME_TAKES}')
    if not LEAST_TTL <= settings.ttl <= MOST_TTL:
        raise wrong('ttl', f'{settings.ttl:g} s is not from 1 s to 1 h')
    if not LEAST_KEEP <= settings.keep <= MOST_KEEP:
        raise wrong('keep', f'{settings.keep:g} s is not from 1 s to 24 h')
    if settings.use and not IS_POSSIBLE:
        problem = 'only Linux can end a stopped process in time: leave the key out'
        raise wrong('use', problem)
    find_maker(settings, wrong)
    return settings


def _given(
    loader: ConfigLoader, section: str, wrong: Callable[[str, str], ConfigError]
) -> dict[str, Any]:
    """Return the values of the section, by key; texts without spaces around them."""
    conf = {key: loader.value(section, key) for key in loader.parser._sections[section]}
    known = typed.settings_of(_keys)
    assert known is not None
    for key in conf:
        if key not in known.known:
            hint = nearest(key, known.known) or f'; it takes {", ".join(known.known)}'
            raise wrong(key, f'unknown key{hint}')
    if conf.get('use', 'none').strip() in ('', LOCAL):
        raise wrong('use', 'leave this key out: then it is this machine alone')
    given = typed.convert(known, conf, loader.filename, section)
    return {
        key: one.strip() if isinstance(one, str) else one for key, one in given.items()
    }


def _name_of(file: str) -> str:
    """Return a name for the site of an .ini: that of the file, and a number for its path."""
    stem = re.sub(r'[^A-Za-z0-9._-]', '-', os.path.basename(file).rpartition('.')[0])
    number = hashlib.sha256(os.fsencode(os.path.realpath(file))).hexdigest()[:8]
    return f'{stem.strip(".-_")[:40] or "site"}-{number}'


def machine_name() -> str:
    """Return the name of this host, as far as it can be a name of a machine."""
    name = re.sub(r'[^A-Za-z0-9._-]', '-', socket.gethostname()).strip('.-_')[:64]
    return name or 'localhost'


# -- the engine -------------------------------------------------------------------------


def find_maker(
    settings: Settings, wrong: Callable[[str, str], Exception]
) -> Callable[[Settings, str], Engine]:
    """Return what makes the engine: it gets the settings and the runtime folder.

    :param wrong: makes the error for a key and a problem.
    :raises ConfigError: if the scheme is unknown, the URL is wrong, or a library is missing.
    """
    scheme = settings.scheme
    if scheme == LOCAL:
        return make_local
    if scheme in SCHEMES:
        if importlib.util.find_spec('redis') is None:
            raise wrong(
                'use', f"{scheme}:// needs redis: pip install 'paste_wspbus[cluster]'"
            )
        from paste_wspbus.cluster.redis import check

        if problem := check(settings.use):
            raise wrong('use', problem)
        return make_redis
    from importlib.metadata import entry_points

    found = {one.name: one for one in entry_points(group=GROUP)}
    if scheme not in found:
        names = sorted({*SCHEMES, *found} - {LOCAL})
        hint = nearest(scheme, names) or f'; there are {", ".join(names)}'
        raise wrong('use', f'there is no engine for {scheme}://{hint}')
    try:
        maker: Callable[[Settings, str], Engine] = found[scheme].load()
    except Exception as error:
        problem = f'the engine for {scheme}:// cannot be imported: {error}'
        raise wrong('use', problem) from None
    return maker


def make_redis(settings: Settings, folder: str) -> Engine:
    """Make the engine on Redis or Valkey."""
    from paste_wspbus.cluster.redis import RedisEngine

    return RedisEngine(settings)


def make_local(settings: Settings, folder: str) -> Engine:
    """Make the engine of one machine.

    :param folder: the runtime folder, to which only this user can write.
    """
    from paste_wspbus.cluster.local import LocalEngine

    return LocalEngine(settings, folder)
