"""Order by name: a part of the site starts after the parts that it names, and stops before them."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from paste_wspbus.bus.channels import Listener, Order
from paste_wspbus.bus.states import ALIVE, State
from paste_wspbus.errors import NeedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from paste_wspbus.bus.bus import Bus

#: The priority from which on the site is served, or about to be: see `servers.server`.
SERVER = 75


class Group:
    """The listeners of one part of a site: of a lifespan, or of a plugin's section.

    :param needs: the names of the parts that must have started before it.
    :param after: names of parts after which it starts, if there are such parts.
    """

    def __init__(self, needs: Iterable[str] = (), after: Iterable[str] = ()) -> None:
        self.needs, self.after = tuple(needs), tuple(after)
        self.starts: list[Listener] = []
        self.stops: list[Listener] = []


def names(value: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return the names that ``needs=`` or ``after=`` has: one as a str, or several."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def arrange(bus: Bus) -> None:
    """Give each listener of a part that names others its place on 'start' and on 'stop'.

    A need wins over a priority: a part with the priority 40 that needs one with 50 starts
    directly behind that. Parts that name nothing stay where their priorities put them.

    :raises NeedError: if a part needs one that is not there, or itself over others, or
        one that starts with the server or later while it has to start before it.
    """
    groups = _groups(bus)
    for name in in_order({name: (g.needs, g.after) for name, g in groups.items()}):
        group = groups[name]
        others = [groups[o] for o in (*group.needs, *group.after) if o in groups]
        before = max((one.place for o in others for one in o.starts), default=None)
        behind = min((one.stop_place for o in others for one in o.stops), default=None)
        for one in group.starts:
            one.moved = None
            if before is not None and one.place < before:
                if one.priority < SERVER <= before[0]:
                    raise NeedError(
                        name, _last(group, groups), 'it starts after the server'
                    )
                one.moved = (*before, *one.place)
        for one in group.stops:
            one.moved = None
            if behind is not None and one.stop_place > behind:
                own = one.stop_place
                one.moved = (*behind[:-1], own[0] - 100, *own[1:])
    for channel in ('start', 'stop'):
        bus.channel(channel).order = Order()


def in_order(wishes: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> list[str]:
    """Sort names so that each comes after those that it names.

    :param wishes: for each name, what it needs, and after what it starts.
    :raises NeedError: if a needed name is not there, or there is a circle.
    """
    graph: dict[str, list[str]] = {}
    for name, (needs, after) in wishes.items():
        for need in needs:
            if need == name:
                raise NeedError(name, need, 'nothing can need itself')
            if need not in wishes:
                raise NeedError(name, need, 'there is none of this name')
        graph[name] = [one for one in (*needs, *after) if one in wishes and one != name]
    try:
        return [*TopologicalSorter(graph).static_order()]
    except CycleError as error:
        circle = error.args[1][::-1]  # the names of a circle: each one needs the next
        way = ' → '.join(circle[1:])
        why = 'this is a circle: each starts after the next'
        raise NeedError(circle[0], way, why) from None


def add(
    bus: Bus,
    name: str,
    needs: str | Iterable[str] | None,
    after: str | Iterable[str] | None,
) -> None:
    """Note what a new lifespan names; if the site starts or has started, give it its place.

    :raises NeedError: as `arrange`; and if a lifespan that it needs was not entered.
    """
    bus.lifespans.groups[name] = Group(names(needs), names(after))
    if bus.state in ALIVE:
        arrange(bus)
    if bus.state is State.STARTED:
        for need in bus.lifespans.groups[name].needs:
            if need in bus.lifespans and not bus.lifespans[need].is_entered:
                raise NeedError(name, need, 'it has not started')


def _groups(bus: Bus) -> dict[str, Group]:
    """Return all parts by name: those that name others, and all that can be named."""
    groups: dict[str, Group] = {}
    for name, lifespan in bus.lifespans.items():
        wished = bus.lifespans.groups.get(name)
        group = groups[name] = Group(*(wished.needs, wished.after) if wished else ())
        group.starts, group.stops = [lifespan.start_listener], [lifespan.stop_listener]
    for name, made in bus.lifespans.groups.items():
        if name not in groups or made.starts or made.stops:
            groups[name] = made
    return groups


def _last(group: Group, groups: dict[str, Group]) -> str:
    """Return the name of that needed part which starts last."""
    named = [one for one in (*group.needs, *group.after) if one in groups]
    return max(
        named,
        key=lambda name: max(
            (one.place for one in groups[name].starts), default=(0.0,)
        ),
    )


def members(
    bus: Bus, before: tuple[set[Any], set[Any], set[str]], group: Group
) -> Group:
    """Note which listeners a plugin's factory has subscribed since ``before``; see `taken`."""
    starts, stops, lifespans = before
    group.starts = [o for o in bus.channel('start').ordered if o not in starts]
    group.stops = [o for o in bus.channel('stop').ordered if o not in stops]
    for name in bus.lifespans.keys() - lifespans:
        stop = bus.lifespans[name].stop_listener
        group.stops += [stop] if stop not in group.stops else []
    return group


def taken(bus: Bus) -> tuple[set[Any], set[Any], set[str]]:
    """Return the listeners of 'start' and 'stop' and the names of lifespans that there are now."""
    return (
        set(bus.channel('start').ordered),
        set(bus.channel('stop').ordered),
        set(bus.lifespans),
    )
