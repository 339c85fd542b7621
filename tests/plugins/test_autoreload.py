"""The autoreloader as a plugin: tests/watching has what it watches."""

import threading

from paste_wspbus.bus import Bus
from paste_wspbus.plugins.autoreload import Autoreloader
from paste_wspbus.watching.files import Files
from tests.kit.processes import TIMEOUT, eventually


class Announcing(Files):
    """Files that call ``before`` each time that ``on_news`` is set."""

    def before(self):
        pass

    @property
    def on_news(self):
        return self._on_news

    @on_news.setter
    def on_news(self, function):
        self.before()
        self._on_news = function


def test_started_by_another_thread_while_it_stops_it_learns_of_new_files(tmp_path):
    plugin = Autoreloader(Bus(), match='(?!)')
    plugin.learnt = Announcing()
    starter = threading.Thread(target=plugin.start)
    plugin.start()

    def start_in_between():
        plugin.learnt.before = lambda: None
        starter.start()
        starter.join(0.3)  # a lock makes it wait until stop() is over

    plugin.learnt.before = start_in_between
    plugin.stop()
    starter.join(TIMEOUT)
    try:
        new = tmp_path / 'new.txt'
        plugin.watch(new)
        eventually(lambda: str(new) in plugin.files.signatures)
    finally:
        plugin.stop()


def test_a_listener_that_exits_does_not_end_the_watch(bus, caplog):
    """The next change must be seen, and the site be restarted."""
    plugin = Autoreloader(bus)
    reacted = []
    plugin.react = reacted.append
    bus.listeners.setdefault('changed', set())

    def leave(paths):
        raise SystemExit(3)

    bus.subscribe('changed', leave)
    plugin._tell(['webapp.py'])
    bus.unsubscribe('changed', leave)
    plugin._tell(['views.py'])
    assert reacted == [['webapp.py'], ['views.py']]


def test_what_a_reaction_raises_is_a_reload_that_has_failed(bus):
    """Under --reload, the server accepts again then: the old code serves on."""
    plugin, told = Autoreloader(bus), []
    bus.subscribe('reload_failed', told.append)

    def react(paths):
        raise ValueError('no')

    plugin.react = react
    plugin._tell(['webapp.py'])
    bus.start()
    bus.stop()
    assert told == ["ValueError('no')"]
