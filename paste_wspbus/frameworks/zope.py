"""Zope: the bus is the utility `IBus`, and the databases open and close with the bus."""

from __future__ import annotations

import contextlib
import os
import sys

# Only Zope sites import this module; and the search for frameworks does if Zope is imported.
from zope.interface import Attribute, Interface

from paste_wspbus.errors import WSPBusError
from paste_wspbus.frameworks.guests import check_free
from paste_wspbus.plugins import Plugin, on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus


class IBus(Interface):  # type: ignore[misc]
    """The interface of the Web Site Process Bus: ``getUtility(IBus)``."""

    state = Attribute('STOPPED, STARTING, STARTED, DRAINING, STOPPING or EXITING')
    resources = Attribute('What the lifespans have yielded, by name')

    def subscribe(channel: str, callback: Any) -> Any:
        """Call ``callback`` whenever ``channel`` is published."""

    def lifespan(function: Any) -> Any:
        """Run the code before the ``yield`` at start, and the code after it at stop."""

    def publish(channel: str, *args: Any) -> Any:
        """Call the listeners of ``channel``, and return a list of their results."""

    def log(msg: str, level: int) -> Any:
        """Write a line to the site's log."""


def give(app: Any, bus: Bus) -> bool:
    """Register the bus as the utility `IBus`; let it open and close the databases.

    :returns: False if ``app`` is not Zope's publisher.
    :raises Taken: if the site has something else as that utility.
    """
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
    """Zope has opened its databases before this process was forked."""

    def __init__(self) -> None:
        super().__init__(
            'Zope opened its databases before this process was forked, and a forked '
            'process may not use them: load Zope in each worker (preload = false)'
        )


class CannotOpenAgain(WSPBusError):
    """The databases come from ``custom_zodb.py``, which only a new process can run."""

    def __init__(self) -> None:
        super().__init__(
            "Zope's databases come from custom_zodb.py and cannot be opened again "
            'in this process'
        )


class Databases(Plugin):
    """Closes Zope's databases at stop, and opens them again at the next start.

    Zope itself opens them first, when it is composed. They are open before the 'start'
    listeners of the default priority are called, and until the 'stop' listeners of the
    default priority have been called.

    :raises LookupError: if this version of Zope keeps its database at another place.
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
        #: The publisher keeps this object, and gets the root from it in each request.
        self._application = Zope2.bobo_application
        if self._application._db is not Zope2.DB:
            raise LookupError('Zope2.bobo_application has another database')

    @on('start', priority=20)
    def open(self) -> None:
        """Open the databases again, if they were closed, and notify Zope's subscribers.

        :raises DatabasesShared: in a forked child.
        :raises CannotOpenAgain: if the databases do not come from zope.conf.
        """
        if os.getpid() != self._pid:
            self._forget()  # the parent closes them
            raise DatabasesShared
        if not self._opened:
            self._open_again()

    def _open_again(self) -> None:
        """Do what Zope2.App.startup.startup does to open them, because it runs only once."""
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
        """Close all databases, also the mounted ones, so that no lock remains."""
        databases = {
            id(one): one for one in [*self._configured.values(), *self._opened]
        }
        self._forget()
        with contextlib.ExitStack() as closing:  # if one fails, it closes the others
            for database in databases.values():
                closing.callback(database.close)

    def _forget(self) -> None:
        self._configured.clear()
        self._opened.clear()
