"""The keys of [wspbus:main]: a table of what each key accepts, and how the section is read."""

from __future__ import annotations

import os

from paste_wspbus.errors import ConfigError, SettingError
from paste_wspbus.plugins.signal_names import signal_name
from paste_wspbus.values import DURATION_TAKES, boolean, split_list, value_hint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.ini.file import ConfigLoader


class Setting:
    """A key of [wspbus:main].

    :param convert: converts the text to a value; it raises ValueError if it is wrong.
    :param takes: the text for an error message that says what the key accepts.
    :param default: the value if [wspbus:main] does not set the key.
    :param is_of_bus: whether the value is set on the bus, as the attribute of the same name.
    """

    __slots__ = ('convert', 'default', 'is_of_bus', 'takes')

    def __init__(
        self,
        convert: Callable[[str], Any],
        takes: str,
        default: Any = None,
        is_of_bus: bool = False,
    ) -> None:
        self.convert, self.takes = convert, takes
        self.default, self.is_of_bus = default, is_of_bus


#: The number of workers that a site may ask for at most.
MAX_WORKERS = 1000


def worker_count(text: str) -> int:
    """Read a number of workers: from 0 to `MAX_WORKERS`, or ``auto`` for one per CPU.

    :raises ValueError: if the text is neither.
    """
    word = text.strip()
    if word.lower() == 'auto':
        from paste_wspbus.unix.cpus import cpu_count  # most sites name a number

        return min(cpu_count(), MAX_WORKERS)
    # int() would also accept '1_0', digits of other scripts, and numbers of any length.
    if not (word.isascii() and word.isdigit() and len(word) <= 9):
        raise ValueError(text)
    if int(word) > MAX_WORKERS:
        raise ValueError(text)
    return int(word)


def _seconds(text: str) -> float:
    """Read a duration, in seconds; most values have no unit."""
    if text.isascii() and text.isdigit() and len(text) < 9:
        return float(text)
    from paste_wspbus.ini.units import duration

    return duration(text)


def _by(module: str, name: str) -> Callable[[str], Any]:
    """Return a function of a module that is imported when the function is called."""

    def read(text: str) -> Any:
        from importlib import import_module  # few sites have these keys

        return getattr(import_module(f'paste_wspbus.{module}'), name)(text)

    return read


def _one_of(*words: str) -> Callable[[str], str]:
    def converter(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return converter


def _auto_or_boolean(text: str) -> str | bool:
    return 'auto' if text.strip().lower() == 'auto' else boolean(text)


def _factory(text: str) -> str:
    if not text.startswith(('egg:', 'call:')) or not text.partition(':')[2]:
        raise ValueError(text)
    return text


#: The keys of files: a relative path starts in the folder of the .ini. What runs keeps
#: its files until it is stopped.
FILES = ('control', 'pid_file', 'log_file')

#: The keys that name a factory in the place of a default: functions that act before
#: there is a bus, and the default plugins. See `defaults`.
EARLY_DEFAULTS = ('daemonizer', 'privileges', 'pidfile', 'logging')
DEFAULTS = (*EARLY_DEFAULTS, 'signals', 'restarter', 'autoreload', 'threads', 'systemd')

#: The keys of folders; their paths start in the same folder.
FOLDERS = ('reports',)

_SECONDS = DURATION_TAKES
_URLS, _STATUSES = 'paths and URLs', 'statuses such as 200 or 2xx'
_FACTORY = 'egg:DIST#NAME or call:MODULE:FUNCTION'
_NAMES = 'names of [plugin:NAME] sections'

#: The files that exist in a container: that of podman, and that of Docker.
CONTAINER_FILES = ('/run/.containerenv', '/.dockerenv')

#: ``stop_timeout`` in a container: Docker kills after 10 s, Kubernetes after 30.
STOP_TIMEOUT_IN_CONTAINER = 8.0


def default_stop_timeout(drain_delay: float) -> float:
    """Return the default of ``stop_timeout``: containers kill their processes earlier.

    :param drain_delay: if this is long, the operator has given the container more time,
        too, and the default is the usual one.
    """
    limit: float = SETTINGS['stop_timeout'].default
    if drain_delay > STOP_TIMEOUT_IN_CONTAINER / 2:
        return limit
    if os.getpid() == 1 or any(map(os.path.exists, CONTAINER_FILES)):
        return STOP_TIMEOUT_IN_CONTAINER
    return limit


_TIME_LIMIT, _PATH = _by('ini.units', 'time_limit'), _by('ini.units', 'path')

#: All keys except those of signals, for which see `read_settings`.
SETTINGS = {
    'use': Setting(_by('ini.units', 'use_of_bus'), _FACTORY),
    **{key: Setting(_factory, _FACTORY) for key in DEFAULTS},
    'pidfile': Setting(_factory, f'{_FACTORY}; the key of a path is pid_file'),
    'plugins': Setting(split_list, _NAMES, ()),
    'site_plugins': Setting(split_list, _NAMES, ()),
    'cluster_plugins': Setting(split_list, _NAMES, ()),
    'listen': Setting(_by('listening.written', 'addresses'), 'addresses', ()),
    'control': Setting(_PATH, 'a path'),
    'pid_file': Setting(_PATH, 'a path'),
    'log_file': Setting(_PATH, 'a path'),
    'log_format': Setting(_one_of('text', 'json'), 'text or json', 'text'),
    'workers': Setting(
        worker_count, f'a whole number from 0 to {MAX_WORKERS}, or auto', 0
    ),
    'preload': Setting(boolean, 'true or false', False),
    'restart': Setting(_one_of('execv', 'child', 'fork'), 'execv, child or fork'),
    'trial': Setting(_auto_or_boolean, 'auto, true or false', 'auto'),
    'drain_delay': Setting(_seconds, _SECONDS, 0.0, is_of_bus=True),
    'stop_timeout': Setting(_TIME_LIMIT, _SECONDS, 25.0, is_of_bus=True),
    'stop_reserve': Setting(_seconds, _SECONDS, is_of_bus=True),
    'start_timeout': Setting(_TIME_LIMIT, _SECONDS, 60.0, is_of_bus=True),
    'soak': Setting(_seconds, _SECONDS, 2.0),
    'warm_up': Setting(_by('requests.asking', 'targets'), _URLS, ()),
    'smoke': Setting(_by('requests.asking', 'targets'), _URLS, ()),
    'smoke_status': Setting(_by('requests.asking', 'statuses'), _STATUSES, ('2xx',)),
    'smoke_timeout': Setting(_TIME_LIMIT, _SECONDS, 10.0),
    'max_requests': Setting(
        _by('ini.units', 'count'), 'a whole number; 0 is no limit', 0
    ),
    'max_memory': Setting(
        _by('ini.units', 'size'), 'a size, as 300M; 0 is no limit', 0
    ),
    'max_age': Setting(_seconds, f'{_SECONDS}; 0 is no limit', 0.0),
    # None: HUNG_AFTER, if there are workers.
    'reports': Setting(_PATH, 'the path of a folder'),
    'hung_after': Setting(_seconds, f'{_SECONDS}; 0 never replaces a worker'),
    'ops': Setting(_by('ini.ops', 'addresses'), 'HOST:PORT or unix:PATH', ()),
    'ops_token': Setting(_by('ini.ops', 'token'), 'a token'),
    'ops_hosts': Setting(_by('ini.ops', 'hosts'), 'names of hosts', ()),
    'ops_pages': Setting(boolean, 'true or false', False),
    'site_metrics': Setting(
        _one_of('off', 'multiprocess'), 'off or multiprocess', 'off'
    ),
    'import_times': Setting(boolean, 'true or false', False),
    'slow_request': Setting(_by('ini.limits', 'read_limit'), _SECONDS),
    'request_deadline': Setting(_by('ini.limits', 'read_limit'), _SECONDS),
}

#: The keys that list plugins: those of each worker, of the site, of all machines.
PLUGINS = ('plugins', 'site_plugins', 'cluster_plugins')

#: The keys that need workers, or a supervisor at least: see `process.idle`.
FOR_WORKERS = (
    *('preload', 'soak', 'max_requests', 'max_memory', 'max_age'),
    *('hung_after', 'request_deadline', 'site_metrics'),
)

#: ``hung_after`` of a site with workers.
HUNG_AFTER = 30.0

#: The prefix of the keys ``signal.NAME``, whose value is the target of that signal.
SIGNAL = 'signal.'


#: The targets of signals that are not channels.
NO_CHANNELS = frozenset(['', 'hangup', 'ignore', 'none', 'stacks'])


def section_of(loader: ConfigLoader | None) -> str | None:
    """Return the full name of [wspbus:main], or None if there is none."""
    sections = loader.parser.sections() if loader else ()
    return next((one for one in sections if one in ('wspbus', 'wspbus:main')), None)


def read_settings(loader: ConfigLoader | None) -> dict[str, Any]:
    """Read [wspbus:main].

    :param loader: the loader of the .ini; None if there is no file: then all values are
        the defaults.
    :returns: the value of each key of SETTINGS; ``signals``, which is
        {name of a signal: its target}; and ``defaults``, {key of DEFAULTS: its factory}.
    :raises ConfigError: if a key is wrong; the error names the file, section and key.
    """
    settings = {key: setting.default for key, setting in SETTINGS.items()}
    settings['signals'], settings['defaults'] = {}, {}
    settings['stop_timeout'] = None
    section = section_of(loader)
    if loader is None or section is None:
        settings['stop_timeout'] = default_stop_timeout(settings['drain_delay'])
        return settings
    for key in loader.parser._sections[section]:
        if key.startswith(SIGNAL):
            settings['signals'].update(_read_signal(loader, section, key))
            continue
        if key not in SETTINGS:
            from paste_wspbus.ini.hints import unknown_key

            raise ConfigError(
                loader.filename,
                unknown_key(key, [*SETTINGS, 'signal.SIGUSR1']),
                section=section,
                key=key,
            )
        of = settings['defaults'] if key in DEFAULTS else settings
        of[key] = _convert(loader, section, key)
    if settings['stop_timeout'] is None:
        settings['stop_timeout'] = default_stop_timeout(settings['drain_delay'])
    if any(settings[key] for key in PLUGINS):
        from paste_wspbus.ini.listed import check_plugins

        check_plugins(loader, section, settings)
    _find_files(loader, section, settings)
    _check_parts_of_stop(loader, section, settings)
    return settings


def _convert(loader: ConfigLoader, section: str, key: str) -> Any:
    value = loader.value(section, key)
    try:
        return SETTINGS[key].convert(value)
    except SettingError as error:
        raise ConfigError(
            loader.filename, error.problem, section=section, key=key
        ) from None
    except ValueError:
        raise ConfigError(
            loader.filename,
            f'{value!r} is not {SETTINGS[key].takes}{value_hint(value)}',
            section=section,
            key=key,
        ) from None


def _read_signal(loader: ConfigLoader, section: str, key: str) -> dict[str, str]:
    try:
        name = signal_name(key.removeprefix(SIGNAL))
    except SettingError as error:
        from paste_wspbus.ini.hints import signal_hint

        problem = f'{error.problem}{signal_hint(key.removeprefix(SIGNAL))}'
        raise ConfigError(loader.filename, problem, section=section, key=key) from None
    return {name: loader.value(section, key).strip()}


def _find_files(loader: ConfigLoader, section: str, settings: dict[str, Any]) -> None:
    """Make the paths of files absolute; two keys cannot have one file."""
    folder = os.path.dirname(os.path.abspath(loader.filename))
    seen: dict[str, str] = {}
    for key in (*FILES, *FOLDERS):
        if settings[key] is None:
            continue
        settings[key] = path = os.path.normpath(os.path.join(folder, settings[key]))
        other = seen.setdefault(os.path.realpath(path), key)
        if other != key:
            raise ConfigError(
                loader.filename, f'{other} is the same file', section=section, key=key
            )


def _check_parts_of_stop(
    loader: ConfigLoader, section: str, settings: dict[str, Any]
) -> None:
    limit = settings['stop_timeout']
    for key in ('drain_delay', 'stop_reserve'):
        seconds = settings[key]
        if seconds and seconds >= limit:
            raise ConfigError(
                loader.filename,
                f'{seconds:g} s is too long: it must be shorter than '
                f'stop_timeout, {limit:g} s, which includes it',
                section=section,
                key=key,
            )
