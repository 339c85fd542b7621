"""CherryPy's SimplePlugin rides our bus unmodified."""

from tests.kit.cherrypys import plugins


class Recorder(plugins.SimplePlugin):
    """A plugin as a site writes it."""

    def __init__(self, bus):
        super().__init__(bus)
        self.calls = []

    def start(self):
        self.calls.append('start')

    def stop(self):
        self.calls.append('stop')

    def exit(self):
        self.calls.append('exit')

    def graceful(self):
        self.calls.append('graceful')

    def main(self):
        self.calls.append('main')

    def log(self, msg, level):
        self.calls.append(msg)

    def reindex(self, what):
        self.calls.append(f'reindex {what}')
        return what


def test_a_simple_plugin_hears_every_channel_that_it_has_a_method_for(bus):
    bus.listeners['reindex'] = set()
    plugin = Recorder(bus)
    plugin.subscribe()
    assert bus.publish('reindex', 'all') == ['all']
    bus.start()
    bus.graceful()
    bus.publish('main')
    bus.exit()
    assert plugin.calls == [
        'reindex all',
        'Bus STARTING',
        'start',
        'Bus STARTED',
        'Bus graceful',
        'graceful',
        'main',
        'Bus STOPPING',
        'stop',
        'Bus STOPPED',
        'Bus EXITING',
        'exit',
        'Bus EXITED',
    ]


def test_a_channel_made_after_a_simple_plugin_subscribed_is_not_its(bus):
    plugin = Recorder(bus)
    plugin.subscribe()
    bus.listeners['reindex'] = set()
    assert bus.publish('reindex', 'all') == []


def test_a_simple_plugin_that_unsubscribed_hears_nothing(bus):
    bus.listeners['reindex'] = set()
    plugin = Recorder(bus)
    plugin.subscribe()
    plugin.unsubscribe()
    bus.start()
    bus.graceful()
    bus.publish('reindex', 'all')
    bus.exit()
    assert plugin.calls == []


def test_a_simple_plugin_subscribes_again_from_a_listener_of_its_own(bus):
    plugin = Recorder(bus)

    @bus.subscribe('start')
    def plug_in():
        plugin.subscribe()

    bus.start()
    bus.stop()
    assert plugin.calls[-2:] == ['stop', 'Bus STOPPED']


def test_cherrypys_plugins_start_and_stop_in_the_order_of_their_priorities(
    bus, tmp_path, site
):
    child = site("""
        from cheroot.wsgi import Server
        server = Server(('127.0.0.1', 0), None)
        servers.ServerAdapter(bus, server, ('127.0.0.1', 0)).subscribe()
        plugins.DropPrivileges(bus, umask=0o027).subscribe()
        plugins.PIDFile(bus, 'site.pid').subscribe()
        plugins.ThreadManager(bus).subscribe()
        bus.start()
        bus.exit()
        for call in bus.timeline:
            say('called', call.channel, call.name.split('.', 3)[-1])
    """)
    assert child.ends() == 0
    assert [line for line in child.rest() if line.startswith('called')] == [
        'called start PIDFile.start',
        'called start ServerAdapter.start',
        'called start DropPrivileges.start',
        'called stop ServerAdapter.stop',
        'called stop ThreadManager.stop',
        'called exit PIDFile.exit',
    ]
