"""Settings of plugins by type: the signature of a factory says what its section may have."""

from __future__ import annotations

import ast
import contextlib
import inspect
import math
import os
from pathlib import Path
from typing import NamedTuple

from paste_wspbus.errors import ConfigError, FactoryError, SettingError
from paste_wspbus.ini import urls
from paste_wspbus.ini.factories import PLUGIN
from paste_wspbus.ini.plugins import NEEDS
from paste_wspbus.ini.units import SIZE_TAKES, duration, size
from paste_wspbus.values import (
    DURATION_TAKES,
    boolean,
    nearest,
    split_list,
    value_hint,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from typing import Any

    from paste_wspbus.ini.file import ConfigLoader

#: This stands for no default: the .ini must have the key.
REQUIRED = object()

#: This stands for a default that is not written as a literal: only the code knows it.
COMPUTED = object()

#: The parameters of a factory before its settings: bus and global_conf.
GIVEN = 2


class Kind(NamedTuple):
    """What a setting accepts: a name for people, and the function that converts its text.

    ``types`` are those of its default in the code, ``in_code`` says that in words. ``sample``
    is a value as an .ini writes it.
    """

    name: str
    takes: str
    convert: Callable[[str], Any]
    types: tuple[type, ...]
    in_code: str
    sample: str


class Setting(NamedTuple):
    """A key of a plugin's section.

    ``default`` may be `REQUIRED` or `COMPUTED`. ``kind`` is None if the factory has no
    annotation for it, or one that is not known: then its value stays a text.
    """

    name: str
    kind: Kind | None
    default: Any

    @property
    def is_required(self) -> bool:
        """Whether the .ini must have the key."""
        return self.default is REQUIRED


class Settings(NamedTuple):
    """The settings of a factory. ``takes_more`` says whether it takes any other key, too."""

    known: dict[str, Setting]
    takes_more: bool


def _url(text: str) -> str:
    parts = urls.split(text)
    if not (parts.hosts or parts.path):
        raise ValueError(text)
    return text.strip()


def _whole(text: str) -> int:
    if '_' in text:  # int() accepts 1_000
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if '_' in text or not math.isfinite(number):
        raise ValueError(text)
    return number


def _path(text: str) -> Path:
    if not text.strip() or '\0' in text:
        raise ValueError(text)
    return Path(text.strip())


def _cron_line(text: str) -> str:
    from paste_wspbus.plugins.schedule import cron_line

    return cron_line(text)


def _zone(text: str) -> Any:
    from paste_wspbus.plugins.schedule import zone

    return zone(text)


def _function(text: str) -> str:
    """Check MODULE:FUNCTION by the text of the module.

    :raises SettingError: if there is no such module, or no such function in it.
    """
    from paste_wspbus.ini.sources import problem_of

    module, colon, function = text.strip().partition(':')
    if not (colon and module and function):
        raise ValueError(text)
    if problem := problem_of(module, function):
        raise SettingError(None, f'{text.strip()}: {problem}')
    return text.strip()


_KINDS = {
    'int': Kind('int', 'a whole number', _whole, (int,), 'a whole number', '3'),
    'float': Kind('float', 'a number', _number, (int, float), 'a number', '0.5'),
    'bool': Kind('bool', 'true or false', boolean, (bool,), 'True or False', 'true'),
    'str': Kind('str', 'a text', str, (str,), 'a text', 'text'),
    'Seconds': Kind(
        'seconds',
        DURATION_TAKES,
        duration,
        (int, float),
        'a number of seconds',
        '10m',
    ),
    'Bytes': Kind('bytes', SIZE_TAKES, size, (int,), 'a whole number of bytes', '300M'),
    'Path': Kind('path', 'a path', _path, (str, os.PathLike), 'a path', 'data'),
    'Url': Kind(
        'url',
        'a URL, as redis://localhost/0',
        _url,
        (str,),
        'a text',
        'scheme://host/name',
    ),
    'CronLine': Kind(
        'cron line', 'a cron line', _cron_line, (str,), 'a text', '15 3 * * *'
    ),
    'Zone': Kind(
        'time zone', 'a time zone', _zone, (object,), 'a time zone', 'Europe/Berlin'
    ),
    'Function': Kind(
        'function',
        'a function: write MODULE:FUNCTION',
        _function,
        (str,),
        'a text',
        'shop.jobs:nightly',
    ),
}

_LISTS = ('list', 'List', 'Sequence', 'Iterable', 'Collection')


def kind_of(annotation: str) -> Kind | None:
    """Return what an annotation means; None if it is not known."""
    try:
        return _kind(ast.parse(annotation.strip(), mode='eval').body)
    except SyntaxError:
        return None


def _kind(node: ast.expr) -> Kind | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return kind_of(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = [one for one in (node.left, node.right) if not _is_none(one)]
        return _kind(sides[0]) if len(sides) == 1 else None
    if isinstance(node, ast.Subscript):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        outer = _last_name(node.value)
        if outer in ('Optional', 'Annotated'):
            return _kind(parts[0])
        if outer == 'Literal':
            return _choice([getattr(one, 'value', None) for one in parts])
        if outer in _LISTS:
            return _list(_kind(parts[0]) or _KINDS['str'])
        return None
    name = _last_name(node)
    return _list(_KINDS['str']) if name in _LISTS else _KINDS.get(name)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _last_name(node: ast.expr) -> str:
    return getattr(node, 'attr', '') or getattr(node, 'id', '')


def _choice(values: list[Any]) -> Kind:
    named = {str(value): value for value in values}

    def convert(text: str) -> Any:
        if text.strip() not in named:
            raise ValueError(text)
        return named[text.strip()]

    *some, last = named
    takes = f'{", ".join(some)} or {last}' if some else last
    return Kind('|'.join(named), takes, convert, (object,), takes, next(iter(named)))


def _list(kind: Kind) -> Kind:
    def convert(text: str) -> list[Any]:
        return [kind.convert(word) for word in split_list(text)]

    takes = f'a list, with spaces or commas between: each is {kind.takes}'
    name, sample = f'list of {kind.name}', f'{kind.sample} {kind.sample}'
    return Kind(name, takes, convert, (list, tuple), 'a list or a tuple', sample)


def settings_of(factory: Any) -> Settings | None:
    """Return the settings of a factory by its signature; None if it has none that is known."""
    try:
        parameters = [*inspect.signature(factory).parameters.values()]
    except (TypeError, ValueError):
        return None
    if any(one.kind is one.VAR_POSITIONAL for one in parameters[:GIVEN]):
        return None  # a decorator without functools.wraps
    own = parameters[GIVEN:]
    known = {
        one.name: Setting(
            one.name,
            None if one.annotation is one.empty else kind_of(_written(one.annotation)),
            REQUIRED if one.default is one.empty else one.default,
        )
        for one in own
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }
    return Settings(known, any(one.kind is one.VAR_KEYWORD for one in own))


def _written(annotation: Any) -> str:
    """Return an annotation as it stands in the code."""
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type) and not getattr(annotation, '__args__', ()):
        return annotation.__name__
    return (
        getattr(annotation, '__name__', '')
        if hasattr(annotation, '__supertype__')
        else repr(annotation)
    )


def settings_in_source(function: ast.FunctionDef | ast.ClassDef) -> Settings | None:
    """Return the settings of a factory by its text; None if the text alone does not show them."""
    if function.decorator_list:
        return None
    given = GIVEN
    if isinstance(function, ast.ClassDef):
        made = [one for one in function.body if getattr(one, 'name', '') == '__init__']
        if not made or not isinstance(made[0], ast.FunctionDef):
            return None
        function, given = made[0], GIVEN + 1
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults: list[Any] = [REQUIRED] * (len(plain) - len(arguments.defaults))
    defaults += map(_literal, arguments.defaults)
    pairs = [*zip(plain, defaults, strict=True)][given:]
    pairs += [
        (argument, REQUIRED if default is None else _literal(default))
        for argument, default in zip(
            arguments.kwonlyargs, arguments.kw_defaults, strict=True
        )
    ]
    if arguments.vararg is not None and len(plain) < given:
        return None
    known = {
        one.arg: Setting(
            one.arg, None if one.annotation is None else _kind(one.annotation), default
        )
        for one, default in pairs
    }
    return Settings(known, arguments.kwarg is not None)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):  # TypeError: the key of a dict that is no key
        return COMPUTED


def convert(
    settings: Settings, conf: Mapping[str, str], file: str | None, section: str | None
) -> dict[str, Any]:
    """Convert the values of a plugin's section to the types that its factory names.

    :param conf: the keys of the section without ``use``, ``needs`` and ``after``.
    :returns: the values by key. A relative path starts in the folder of the .ini.
    :raises ConfigError: if a key is unknown, missing or wrong.
    :raises FactoryError: if a default of the factory is not of the type that it names.
    """
    check_defaults(settings, file, section)
    converted: dict[str, Any] = {}
    for key, text in conf.items():
        setting = settings.known.get(key)
        if setting is None and not settings.takes_more:
            hint = nearest(key, [*settings.known, *NEEDS]) or _all_of(settings)
            raise ConfigError(file, f'unknown key{hint}', section=section, key=key)
        if setting is None or setting.kind is None:
            converted[key] = text
            continue
        try:
            value = setting.kind.convert(text)
        except SettingError as error:
            problem = f'{error.problem}{value_hint(text)}'
            raise ConfigError(file, problem, section=section, key=key) from None
        except ValueError:
            from paste_wspbus.ini.masking import masked_value

            shown = masked_value(key, text)
            if setting.kind is _KINDS['Url'] and '@' in shown:  # it may have no ://
                shown = f'***@{shown.rpartition("@")[2]}'
            problem = f'{shown!r} is not {setting.kind.takes}{value_hint(text)}'
            raise ConfigError(file, problem, section=section, key=key) from None
        if isinstance(value, Path) and file:
            value = Path(os.path.dirname(os.path.abspath(file)), value)
        converted[key] = value
    for key, setting in settings.known.items():
        if setting.is_required and key not in conf:
            what = f': {setting.kind.takes}' if setting.kind else ''
            problem = f'this key is missing{what}'
            raise ConfigError(file, problem, section=section, key=key)
    return converted


@contextlib.contextmanager
def in_its_section(loader: ConfigLoader, name: str) -> Generator[None]:
    """Let an error name the section that has the key: ``name``, or one that this uses."""
    try:
        yield
    except ConfigError as error:
        section = _section_with(loader, name, error.key)
        is_same = error.file == loader.filename
        if type(error) is not ConfigError or not (section or is_same):
            raise
        raise ConfigError(
            loader.filename, error.problem, section=section or name, key=error.key
        ) from None


def _section_with(loader: ConfigLoader, name: str, key: str | None) -> str | None:
    at, seen = name, {name}
    while key not in (own := loader.parser._sections.get(at, {})):
        used = own.get('use', ':')
        if loader.absolute_name(used):
            return None
        try:
            at = loader.find_config_section(PLUGIN, used)
        except ConfigError:
            return None
        if at in seen:
            return None
        seen.add(at)
    return at


def converted(
    factory: Any, conf: Mapping[str, str], file: str | None, section: str | None
) -> dict[str, Any]:
    """Convert the settings of a factory of `ready`, and check what no type says.

    The errors are those of `convert`.
    """
    settings = settings_of(factory)
    assert settings is not None
    values = convert(settings, conf, file, section)
    check_further(factory.__module__, values, file, section)
    return values


def check_further(
    module: str, values: Mapping[str, Any], file: str | None, section: str | None
) -> None:
    """Let a module of `ready` check the settings of its plugin: ``check_settings(values)``.

    :raises ConfigError: if one is wrong.
    """
    if not module.startswith('paste_wspbus.ready.'):
        return
    from importlib import import_module

    check = getattr(import_module(module), 'check_settings', None)
    if check is None:
        return
    try:
        check(values)
    except SettingError as error:
        raise ConfigError(file, error.problem, section=section, key=error.key) from None


def check_defaults(settings: Settings, file: str | None, section: str | None) -> None:
    """Check that the defaults of a factory are of the types that it names.

    :raises FactoryError: if one is not.
    """
    for key, setting in settings.known.items():
        default, kind = setting.default, setting.kind
        if kind is None or default is None or default in (REQUIRED, COMPUTED):
            continue
        is_bool = isinstance(default, bool) and bool not in kind.types
        if not isinstance(default, kind.types) or (
            is_bool and object not in kind.types
        ):
            problem = f'its default in the code, {default!r}, is not {kind.in_code}'
            problem += _as_code(kind, default)
            raise FactoryError(file, problem, section=section, key=key)


def _as_code(kind: Kind, default: Any) -> str:
    """Return what to write for a default that stands in the code as it would in an .ini."""
    if not isinstance(default, str):
        return ''
    try:
        value = kind.convert(default)
    except (ValueError, SettingError):
        return ''
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f': write {value!r}'


def is_typed(settings: Settings) -> bool:
    """Whether the factory names the type of one of its settings at least."""
    return any(one.kind is not None for one in settings.known.values())


def _all_of(settings: Settings) -> str:
    return f'; it takes {", ".join([*settings.known, *NEEDS])}'
