"""Zope: the utility `IBus`, and databases that are closed at stop."""

from __future__ import annotations

import contextlib
import os
import sys

# Nobody imports this module but Zope's people, and `give` when Zope is there.
from zope.interface import Attribute, Interface

from paste_wspbus.errors import WSPBusError
from paste_wspbus.frameworks.guests import check_free
from paste_wspbus.plugins import Plugin, on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus


class IBus(Interface):  # type: ignore[misc]
    """The Web Site Process Bus: ``getUtility(IBus)``."""

    state = Attribute('STOPPED, STARTING, STARTED, DRAINING, STOPPING or EXITING')
    resources = Attribute('What the lifespans yielded, by name')

    def subscribe(channel: str, callback: Any) -> Any:
        """Have ``callback`` called when ``channel`` is published."""

    def lifespan(function: Any) -> Any:
        """What stands before ``yield`` runs at start, what follows at stop."""

    def publish(channel: str, *args: Any) -> Any:
        """Call the listeners of ``channel``; a list of their results."""

    def log(msg: str, level: int) -> Any:
        """Write a line to the site's log."""


def give(app: Any, bus: Bus) -> bool:
    """The utility `IBus`; the databases are closed and opened with the bus."""
    from zope.component import getGlobalSiteManager
    from ZPublisher.WSGIPublisher import publish_module

    if app is not publish_module:
        return False
    if 'zope_databases' not in bus.plugins:
        databases = bus.plugins['zope_databases'] = Databases(bus)
        databases.subscribe()
    utilities = getGlobalSiteManager()
    check_free(utilities.queryUtility(IBus), bus, 'the utility IBus')
    utilities.registerUtility(bus, IBus)
    return True


class DatabasesShared(WSPBusError):
    """The databases were opened before this process was forked."""

    def __init__(self) -> None:
        super().__init__(
            'Zope opened its databases before this process was forked, which may '
            'not use them: compose Zope in each worker (preload = false)'
        )


class CannotOpenAgain(WSPBusError):
    """The instance has a ``custom_zodb.py``: only a new process runs it."""

    def __init__(self) -> None:
        super().__init__(
            "Zope's databases are from custom_zodb.py and cannot be opened again "
            'in this process'
        )


class Databases(Plugin):
    """Zope's databases: opened when it is composed, closed at stop, opened at start.

    They are open from before the listeners of the default priority start until
    after they have stopped.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        import Zope2
        from App.config import getConfiguration
        from zope import event, processlifetime

        self._pid = os.getpid()
        self._zope, self._notify, self._events = Zope2, event.notify, processlifetime
        self._opened: list[Any] = Zope2.opened
        self._table = getConfiguration().dbtab
        self._configured: dict[str, Any] = self._table.databases
        #: The publisher keeps it, and asks it for the root at each request.
        self._application = Zope2.bobo_application
        if self._application._db is not Zope2.DB:
            raise LookupError('Zope2.bobo_application has another database')

    @on('start', priority=20)
    def open(self) -> None:
        """Open them again, if they were closed; Zope's subscribers are told.

        :raises DatabasesShared: in a forked child.
        :raises CannotOpenAgain: if they are not from zope.conf.
        """
        if os.getpid() != self._pid:
            self._forget()  # they are the parent's to close
            raise DatabasesShared
        if not self._opened:
            self._open_again()

    def _open_again(self) -> None:
        """What Zope2.App.startup.startup does of it, which runs once a process."""
        if 'Zope2.custom_zodb' in sys.modules:
            raise CannotOpenAgain
        database = self._table.getDatabase('/', is_root=1)
        self._opened.append(database)
        for path, _ in self._table.listMountPaths():
            self._table.getDatabase(path).open().close()
        self._notify(self._events.DatabaseOpened(database))
        self._zope.DB = self._application._db = database
        self._notify(self._events.DatabaseOpenedWithRoot(database))

    @on('stop', priority=80)
    def close(self) -> None:
        """Close all, those that are mounted, too: nobody's lock stays."""
        databases = {
            id(one): one for one in [*self._configured.values(), *self._opened]
        }
        self._forget()
        with contextlib.ExitStack() as closing:  # the next one, if one fails
            for database in databases.values():
                closing.callback(database.close)

    def _forget(self) -> None:
        self._configured.clear()
        self._opened.clear()
