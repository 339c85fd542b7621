"""An .ini file: this reads it, interpolates its values, and finds sections for PasteDeploy."""

from __future__ import annotations

import configparser
import contextlib
import errno
import functools
import io
import os
import stat
from collections.abc import Mapping
from urllib.parse import unquote

from paste_wspbus.errors import ConfigError, FactoryError, WSPBusError
from paste_wspbus.ini.factories import (
    Terminated,
    create,
    factory_of_egg,
    known_context,
    measured,
)
from paste_wspbus.ini.pastedeploy import loadwsgi
from paste_wspbus.reference import KEY
from paste_wspbus.values import split_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import Any

#: The prefix of ``%(ENV_NAME)s``.
ENV = 'ENV_'

#: The number of bytes that an .ini has at most.
MAX_LENGTH = 10_000_000

#: Some editors write it at the beginning of a file in UTF-8.
BYTE_ORDER_MARK = '\ufeff'


class _Names(Mapping[str, str]):
    """The names that ``%(name)s`` can use in a section.

    They are its own keys, the vars of the command line, [DEFAULT], and ENV_NAME for
    environment variables, in this order. PasteDeploy itself puts vars into [DEFAULT]:
    there they do not override its keys, and they hide keys with the same name in each
    section.
    """

    def __init__(
        self,
        section: Mapping[str, str],
        option: str,
        known: Mapping[str, str],
        vars: Mapping[str, str],
    ) -> None:
        self._section, self._option = section, option
        self._known, self._vars = known, vars

    def __getitem__(self, name: str) -> str:
        own = name in self._section and name != self._option
        if not own and name in self._vars:
            return literal(self._vars[name])
        if name in self._known:
            return self._known[name]
        return _environment(name)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._known, **self._vars})

    def __len__(self) -> int:
        return len([*self])


def literal(text: str) -> str:
    """Return a text as an .ini writes it, so that interpolation leaves it as it is."""
    return str(text).replace('%', '%%')


def _environment(name: str) -> str:
    """Return the value of the environment variable of ``ENV_NAME``.

    `logging.config` converts the name to lower case; then this ignores case.
    """
    prefix, variable = name[: len(ENV)], name[len(ENV) :]
    if prefix == ENV:
        return literal(os.environ[variable])
    if prefix == ENV.lower():
        for known, value in os.environ.items():
            if known.lower() == variable:
                return literal(value)
    raise KeyError(name)


class Interpolation(configparser.BasicInterpolation):
    """Interpolates ``%(name)s``; the name may also be a var of the command, or ENV_NAME."""

    def __init__(self, vars: Mapping[str, str]) -> None:
        self.vars = vars

    def before_get(
        self, parser: Any, section: str, option: str, value: str, defaults: Any
    ) -> str:
        """Interpolate ``value`` (configparser's hook)."""
        own = parser._sections.get(section, {})
        names = _Names(own, option, defaults, self.vars)
        return super().before_get(parser, section, option, value, names)


class ConfigLoader(loadwsgi.ConfigLoader):  # type: ignore[misc]
    """PasteDeploy's loader of .ini files: errors name the place; vars override [DEFAULT]."""

    def __init__(
        self, filename: str, vars: Mapping[str, str], is_included: bool = False
    ) -> None:
        self.vars = vars
        self.resolving: list[tuple[str, str, str]] = []
        #: The factories of entry points, because reading the metadata takes milliseconds.
        self._factories: dict[tuple[str, Any, str], str | None] = {}
        #: The sections, by what stands before the colon and after it.
        self._sections: dict[tuple[str, str], list[str]] = {}
        with _reading(filename):
            filename = filename.strip()
            #: What was read: a pipe, or a file that is being replaced, is read only once.
            self.text = read_text(filename, waits_for_pipes and not is_included)
            if '[uwsgi]' in self.text:
                from paste_wspbus.ini.mistakes import refuse_uwsgi

                refuse_uwsgi(filename, self.text)
            # This does what PasteDeploy's __init__ does, which would read /dev/zero for ever.
            self.filename = filename
            path = os.path.abspath(filename)
            names = {'here': literal(os.path.dirname(path)), '__file__': literal(path)}
            self.parser = loadwsgi.NicerConfigParser(filename, defaults=names)
            self.parser.optionxform = str
            self.parser.read_string(self.text)
        if not self.parser.sections():
            needs = '' if is_included else '; a site needs [app:main] and [server:main]'
            raise ConfigError(filename, f'it is empty: it has no sections{needs}')
        self.parser._interpolation = Interpolation(vars)
        for section in self.parser.sections():
            kind, colon, own_name = section.partition(':')
            if colon:
                same = self._sections.setdefault((kind, own_name.strip()), [])
                same.append(section)

    def get_context(
        self, object_type: Any, name: str | None = None, global_conf: Any = None
    ) -> Any:
        """Find what ``name`` stands for, as PasteDeploy does.

        :raises ConfigError: if it is missing or wrong; the error names the file, section and
            key.
        """
        if self.absolute_name(name):
            return self._load_uri(object_type, str(name), global_conf)
        section = self.find_config_section(object_type, name=name)
        place = (os.path.realpath(self.filename), object_type.name, section)
        if place in self.resolving:
            from paste_wspbus.ini.mistakes import in_circle

            circle = [*self.resolving[self.resolving.index(place) :], place]
            raise in_circle(self.filename, [(file, one) for file, _, one in circle])
        self.resolving.append(place)
        try:
            with measured(section, 'import'), self._translating(section):
                context = super().get_context(object_type, name, global_conf)
        finally:
            self.resolving.pop()
        if not hasattr(context, 'section'):
            context.section, context.file = section, self.filename
        context.create = functools.partial(create, context)
        return context

    def _filter_app_context(self, object_type: Any, section: str, **conf: Any) -> Any:
        use = conf['local_conf'].get('use', '')
        if use.startswith('call:'):
            from paste_wspbus.ini.mistakes import call_in_filter_app

            raise call_in_filter_app(self.filename, section, use)
        return super()._filter_app_context(object_type, section, **conf)

    def find_config_section(self, object_type: Any, name: str | None = None) -> str:
        """Return the full name of a section.

        :raises ConfigError: if there is no such section, or more than one.
        """
        try:
            return super().find_config_section(object_type, name=name)  # type: ignore[no-any-return]
        except LookupError as error:
            from paste_wspbus.ini.mistakes import no_section

            raise no_section(self, object_type, name or 'main', error) from None

    def _find_sections(
        self, sections: list[str], name_prefix: str, name: str | None
    ) -> list[str]:
        # PasteDeploy looks at all sections, several times for each one that it needs.
        found = self._sections.get((name_prefix, 'main' if name is None else name), [])
        bare = name is None and name_prefix in sections
        return [name_prefix, *found] if bare else list(found)

    def _load_uri(self, object_type: Any, uri: str, global_conf: Any) -> Any:
        scheme, _, rest = uri.partition(':')
        path, name = split_file(rest)
        if scheme.lower() == 'egg':
            known = known_context(path, object_type, name or 'main', global_conf)
            if known is not None:
                return known
        if scheme.lower() == 'call' and not all(rest.partition('#')[0].partition(':')):
            raise LookupError('Configuration not in format module:function')
        if scheme.lower() != 'config':
            return loadwsgi.loadcontext(
                object_type,
                uri,
                relative_to=os.path.dirname(self.filename),
                global_conf=global_conf,
            )
        try:
            loader = self.included(path)
        except ConfigError as error:
            from paste_wspbus.ini.mistakes import no_included

            raise no_included(self, uri, error) from None
        # The keys of [DEFAULT] here are defaults there, except the vars.
        inherited = {
            k: literal(v)
            for k, v in (global_conf or {}).items()
            if k not in self.vars and k != KEY
        }
        loader.update_defaults(inherited, overwrite=False)
        loader.resolving = self.resolving
        return loader.get_context(object_type, name or None, global_conf)

    def factory_name(self, kind: Any, name: str | None, steps: int = 20) -> str | None:
        """Return the factory that a section names as 'module:function', without importing it.

        :returns: None if nobody can know it without importing, or if the section is wrong.
        """
        try:
            own = self.parser[self.find_config_section(kind, name)]
            groups = [
                key
                for key in loadwsgi._flatten(kind.egg_protocols)
                if key in own and 'use' not in own
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
        path, target = split_file(rest)
        if scheme == 'egg':
            place = path, kind, target
            if place not in self._factories:
                self._factories[place] = factory_of_egg(path, kind, target)
            return self._factories[place]
        try:
            if scheme == 'config':
                included = self.included(path)
                return included.factory_name(kind, target or None, steps - 1)
        except ConfigError:
            pass  # the error is reported when the file is loaded
        return None

    def value(self, section: str, key: str) -> str:
        """Return an interpolated value.

        :raises ConfigError: if it uses a variable that has no value.
        """
        try:
            return self.parser.get(section, key)  # type: ignore[no-any-return]
        except configparser.InterpolationError as error:
            from paste_wspbus.ini.mistakes import in_interpolation

            raise in_interpolation(self.filename, error, self.parser) from None

    def values(self, section: str) -> dict[str, str]:
        """Return the interpolated values of a section; {} if there is none.

        :raises ConfigError: if a value uses a variable that has no value.
        """
        if not self.parser.has_section(section):
            return {}
        return {key: self.value(section, key) for key in self.parser.options(section)}

    def included(self, path: str) -> ConfigLoader:
        """Return the loader of a file that a ``config:`` URI in this file names.

        :raises ConfigError: if it cannot be read.
        """
        folder = os.path.dirname(self.filename)
        file = os.path.join(folder, unquote(path))
        return ConfigLoader(file, self.vars, is_included=True)

    def may_compose(self) -> bool:
        """Whether a composite may be in this file, or in one that it uses."""
        text = str(self.parser._sections)
        return 'composit' in text or 'config:' in text

    @contextlib.contextmanager
    def _translating(self, section: str) -> Generator[None]:
        """Convert the errors of PasteDeploy to a ConfigError that names the section."""
        try:
            yield
        except (WSPBusError, KeyboardInterrupt, Terminated, GeneratorExit):
            raise  # GeneratorExit comes if a signal came before the block was entered
        except configparser.InterpolationError as error:
            from paste_wspbus.ini.mistakes import in_interpolation

            raise in_interpolation(self.filename, error, self.parser) from None
        except BaseException as error:
            from paste_wspbus.ini.mistakes import in_loading

            own = self.parser._sections.get(section, {})
            known = self.parser._defaults
            wrong = in_loading(self.filename, section, own, known, error)
            # What code has raised is worth a traceback; a mistake in the .ini is not.
            raise wrong from (error if isinstance(wrong, FactoryError) else None)


#: The flag of open(2) for that. Windows has no pipes with names of files.
_AT_ONCE = getattr(os, 'O_NONBLOCK', 0)

#: Whether this process may wait for the end of a pipe: not while it serves or supervises.
waits_for_pipes = True


def wait_for_no_pipe() -> None:
    """Refuse pipes from now on: this process must not wait for those who write there."""
    global waits_for_pipes
    waits_for_pipes = False


def _open_at_once(path: str, flags: int) -> int:
    # Else the call would wait for somebody who opens the other end of a pipe.
    return os.open(path, flags | _AT_ONCE)


def read_text(path: str, waits: bool) -> str:
    """Return the text of an .ini: a file, or a pipe such as the shell's <(command).

    :param waits: whether it may be a pipe, which this waits for.
    :raises ConfigError: if it is something else, or does not end.
    :raises OSError: if it cannot be read.
    :raises UnicodeDecodeError: if it is not in the encoding of the locale, mostly UTF-8.
    """
    mode = os.stat(path).st_mode  # do not open a device: that may have effects
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISDIR(mode)):
        raise ConfigError(path, 'it is not a file')
    with open(path, 'rb', opener=None if waits else _open_at_once) as file:
        if not waits and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            raise ConfigError(path, 'it is a pipe: name a file')
        data = file.read(MAX_LENGTH + 1)
    if len(data) > MAX_LENGTH:
        raise ConfigError(
            path, f'it is not an .ini file: it has more than {MAX_LENGTH:,} bytes'
        )
    text = io.TextIOWrapper(io.BytesIO(data)).read().removeprefix(BYTE_ORDER_MARK)
    if '\0' in text or any(map(_may_be_no_section, text.splitlines())):
        from paste_wspbus.ini.syntax import check_text

        check_text(path, text)
    return text


def _may_be_no_section(line: str) -> bool:
    """Whether `syntax.NO_SECTION` may match: to compile it takes as long as to read 1,000 lines."""
    return ']' not in line if line[:1] == '[' else line.lstrip()[:1] == '['


@contextlib.contextmanager
def _reading(path: str) -> Generator[None]:
    """Convert the errors of opening and parsing an .ini to a ConfigError."""
    try:
        yield
    except (OSError, configparser.Error, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # no file can be opened now, nor the module below
        from paste_wspbus.ini.syntax import in_reading

        raise in_reading(path, error) from None


def find(path: str, relative_to: str) -> str:
    """Return the file of a path; a path for PasteDeploy may be quoted as in a URL."""
    full = os.path.join(relative_to, path)
    quoted = os.path.join(relative_to, unquote(path))
    return quoted if not os.path.exists(full) and os.path.exists(quoted) else full
