"""Factories, which ``use`` in a section names: their kinds, how they are found and called."""

from __future__ import annotations

import contextlib
import time
from collections import deque

from paste_wspbus.bus import Bus
from paste_wspbus.bus.places import place_of_error
from paste_wspbus.errors import (
    BadPriority,
    ConfigError,
    FactoryError,
    LifespanRefused,
    NameTaken,
    NotCallable,
    PluginError,
    WSPBusError,
)
from paste_wspbus.ini.pastedeploy import loadwsgi
from paste_wspbus.reference import KEY, BusRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from typing import Any

#: The errors of this package that mean a mistake in the site's code.
OF_CODE = NotCallable, BadPriority, NameTaken, LifespanRefused

APP, FILTER, SERVER = loadwsgi.APP, loadwsgi.FILTER, loadwsgi.SERVER


class Terminated(SystemExit):
    """SIGTERM arrived while the site was being composed."""


class _BusType(loadwsgi._ObjectType):  # type: ignore[misc]
    name = 'bus'
    egg_protocols = ['paste_wspbus.bus_factory']
    config_prefixes = ['wspbus']

    def invoke(self, context: Any) -> Any:
        factory = context.object
        if isinstance(factory, type) and issubclass(factory, Bus):
            return factory()
        return factory(context.global_conf)


class _PluginType(loadwsgi._ObjectType):  # type: ignore[misc]
    name = 'plugin'
    egg_protocols = ['paste_wspbus.plugin_factory']
    config_prefixes = ['plugin']

    def invoke(self, context: Any) -> Any:
        bus = context.global_conf[KEY].bus
        return context.object(bus, context.global_conf, **context.local_conf)


BUS = _BusType()
PLUGIN = _PluginType()

#: From (distribution, group, name) to an entry point of a distribution that this package
#: requires. It saves a start the 1.5 ms that reading the metadata takes.
REQUIRED = {('waitress', 'paste.server_runner', 'main'): 'waitress:serve_paste'}

#: The modules whose factories warn, at each start, of other keys in global_conf than those
#: of PasteDeploy.
STRICT = ('keystonemiddleware.',)

#: The imports and factories of sections: each one is 'import' or 'factory', the section,
#: time.monotonic() and seconds; those inside of another one come before it.
steps: deque[tuple[str, str, float, float]] = deque(maxlen=500)

#: The (file, section) pairs that are being made: each pair has asked for the next one.
making: list[tuple[str | None, str | None]] = []


def with_bus(vars: Mapping[str, str], bus: Bus) -> dict[str, str]:
    """Return the ``global_conf`` for each factory: the vars of the command line and the bus."""
    return {**vars, KEY: BusRef(bus)}


def create(context: Any) -> Any:
    """Call the factory, in the place of PasteDeploy's ``create``.

    :raises FactoryError: if it raises, exits or returns None; the error names the section.
    :raises ConfigError: if a composite's application contains the composite.
    """
    place = getattr(context, 'file', None), getattr(context, 'section', None)
    if place in making:
        raise ConfigError(place[0], 'this section contains itself', section=place[1])
    making.append(place)
    if str(getattr(context.object, '__module__', '')).startswith(STRICT):
        context.global_conf = {
            key: value for key, value in context.global_conf.items() if key != KEY
        }
    try:
        with measured(place[1], 'factory'), translating(context, *place):
            made = context.object_type.invoke(context)
    finally:
        making.pop()
    if made is None and context.object_type is not PLUGIN:
        from paste_wspbus.ini.mistakes import returned_none

        raise returned_none(context, *place)
    return made


@contextlib.contextmanager
def measured(section: str | None, step: str) -> Generator[None]:
    """Add to `steps` an 'import' or a 'factory' of a section."""
    since = time.monotonic()
    try:
        yield
    finally:
        if section is not None:
            steps.append((step, f'[{section}]', since, time.monotonic() - since))


def name_of_factory(context: Any) -> str:
    """Return the name of the factory of a section for messages."""
    # With filter-with, PasteDeploy's own context is around that of the section.
    while context.object is None:
        context = context.next_context
    return getattr(context.object, '__qualname__', type(context.object).__name__)


@contextlib.contextmanager
def translating(context: Any, file: str | None, section: str | None) -> Generator[None]:
    """Convert an error of a factory to a FactoryError that names the section.

    :raises FactoryError: if the code in the ``with`` block raises or exits.
    """
    try:
        yield
    except PluginError as error:  # it names the line
        raise FactoryError(file, str(error), section=section) from None
    except OF_CODE as error:
        problem = f'{error}{at_place(error)}'
        raise FactoryError(file, problem, section=section) from error
    except (WSPBusError, KeyboardInterrupt, Terminated, GeneratorExit):
        raise  # GeneratorExit comes if a signal came before the block was entered
    except BaseException as error:
        from paste_wspbus.ini.mistakes import in_factory

        problem = in_factory(context, error)
        raise FactoryError(file, problem, section=section) from error


def one_line(error: BaseException) -> str:
    """Return an exception as one line: its type and the first line of its message."""
    try:
        # The text of a SyntaxError also has the name of its file, without the folder.
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        said = str(text).strip().splitlines()
    except Exception:  # the site's own __str__ may fail
        said = ['its message cannot be read']
    if len(said) > 1 and said[0].startswith('File "'):  # as in Zope: the reason is last
        said[0] += f' … {said[-1].strip()}'
    line = f'{type(error).__name__}: {said[0]}' if said else type(error).__name__
    if isinstance(error, (BaseExceptionGroup, ModuleNotFoundError)):
        from paste_wspbus.ini.hints import more_of

        return f'{line}{more_of(error)}'
    return line


def at_place(error: BaseException) -> str:
    """Return the end of a message that says where the site's code has failed, or ''."""
    place = place_of_error(error)
    return f', at {place}' if place else ''


#: The error message for an ``egg:`` without a distribution.
NO_NAME = 'write egg:DISTRIBUTION or egg:DISTRIBUTION#ENTRY_POINT'


def factory_of_egg(spec: str, kind: Any, name: str | None) -> str | None:
    """Return the factory of an entry point as 'module:function', without importing it."""
    for group in loadwsgi._flatten(kind.egg_protocols):
        if factory := REQUIRED.get((spec, group, name or 'main')):
            return factory
    from paste_wspbus.ini.eggs import EggLoader

    return EggLoader(spec).factory_name(kind, name)


def known_context(spec: str, kind: Any, name: str, global_conf: Any) -> Any:
    """Make PasteDeploy's context of an entry point in `REQUIRED`, without reading metadata.

    :returns: None for any other entry point.
    """
    for group in loadwsgi._flatten(kind.egg_protocols):
        factory = REQUIRED.get((spec, group, name))
        if factory:
            return loadwsgi.LoaderContext(
                loadwsgi.lookup_object(factory),
                kind,
                group,
                dict(global_conf or {}),
                {},
                loadwsgi.EggLoader(spec),
                entry_point_name=name,
            )
    return None
