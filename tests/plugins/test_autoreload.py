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
