"""How the plugins that [wspbus:main] lists are made from their sections."""

from __future__ import annotations

import functools
import inspect

from paste_wspbus.errors import FactoryError
from paste_wspbus.ini.factories import PLUGIN, translating, with_bus
from paste_wspbus.reference import KEY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from paste_wspbus.ini.composing import Composer, Site
    from paste_wspbus.ini.needs import Wishes

#: The keys of any plugin's section; no factory gets them. See `ini.needs`.
NEEDS = ('needs', 'after')


def make_plugins(composer: Composer, site: Site, names: Sequence[str]) -> None:
    """Make the plugins of these sections, in order, and add them to the site.

    :raises ConfigError: if a section is missing or wrong.
    :raises FactoryError: if a factory fails.
    """
    wishes = _wishes(composer)
    for name in names:
        with composer.origin(site, f'plugin:{name}'):
            _make_plugin(composer, site, name, wishes)


def _wishes(composer: Composer) -> Wishes:
    """Return what the plugins need; {} if none names another one."""
    if not any(
        key in NEEDS
        for section in composer.loader.parser._sections.values()
        for key in section
    ):
        return {}
    from paste_wspbus.ini.needs import read_wishes

    return read_wishes(composer.loader, composer.settings)


def _make_plugin(composer: Composer, site: Site, name: str, wishes: Wishes) -> None:
    bus = site.bus
    context = composer.loader.get_context(PLUGIN, name, with_bus(composer.vars, bus))
    for key in NEEDS:
        context.local_conf.pop(key, None)
    factory = context.object
    if inspect.iscoroutinefunction(factory) or inspect.isasyncgenfunction(factory):
        name = factory.__qualname__
        problem = f'{name} is an async function, which nothing would run'
        raise FactoryError(composer.file, problem, section=context.section)
    _convert(composer, context, f'plugin:{name}')
    if wishes:
        from paste_wspbus.bus.needs import Group, members, taken

        before = taken(bus)
    if inspect.isgeneratorfunction(context.object):
        # The code before its yield is the start, the code after it is the stop.
        bus.lifespan(_generator(composer, context), name=name)
        plugin: Any = bus.lifespans[name]
    else:
        plugin = context.create()
        subscribe = getattr(plugin, 'subscribe', None)
        if callable(subscribe):
            with translating(context, composer.file, context.section):
                subscribe()
    site.plugins[name] = bus.plugins[name] = plugin
    if wishes:
        bus.lifespans.groups[name] = members(bus, before, Group(*wishes[name]))


def _convert(composer: Composer, context: Any, section: str) -> None:
    """Convert the settings of a plugin, if its factory names types."""
    factory: Any = context.object
    function = factory.__init__ if inspect.isclass(factory) else factory
    if not getattr(function, '__annotations__', True):
        return
    from paste_wspbus.ini import typed

    settings = typed.settings_of(factory)
    if settings is not None and typed.is_typed(settings):
        file = getattr(context, 'file', None) or composer.file
        with typed.in_its_section(composer.loader, section):
            context.local_conf = typed.convert(
                settings, context.local_conf, file, context.section
            )
            typed.check_further(
                factory.__module__, context.local_conf, file, context.section
            )


def _generator(composer: Composer, context: Any) -> Callable[[], Iterator[Any]]:
    try:
        inspect.signature(context.object).bind(
            context.global_conf[KEY].bus, context.global_conf, **context.local_conf
        )
    except TypeError as error:
        from paste_wspbus.ini.hints import call_hint

        raise FactoryError(
            composer.file,
            f'{context.object.__qualname__}: {error}{call_hint(context, error)}',
            section=context.section,
        ) from error
    make = functools.partial(PLUGIN.invoke, context)
    return functools.update_wrapper(make, context.object)
