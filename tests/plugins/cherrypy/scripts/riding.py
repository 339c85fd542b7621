"""What child processes of the tests begin with: a bus that talks."""

import contextlib
import os
import sys
import types

from paste_wspbus.bus import Bus, ChannelFailures, states


def say(*words):
    """A line to whoever started us, unbuffered; from a daemon, too."""
    line = ' '.join(map(str, words)).replace('\n', ' | ') + '\n'
    with contextlib.suppress(BrokenPipeError):
        os.write(int(os.environ.get('REPORT_FD', '1')), line.encode())


def talking_bus():
    """A bus whose log lines are said."""
    bus = Bus()
    bus.subscribe('log', lambda msg, level: say(msg))
    return bus


def say_when_blocking(bus, *words):
    """Say ``words`` once, from inside bus.block(): only then is 'main' published."""

    def once():
        bus.unsubscribe('main', once)
        say(*words)

    bus.subscribe('main', once)


def replace_wspbus(bus):
    """Have ``import cherrypy``, still to come, find ``bus`` in its wspbus module."""
    assert 'cherrypy' not in sys.modules
    module = types.ModuleType('cherrypy.process.wspbus')
    module.Bus, module.ChannelFailures, module.states = Bus, ChannelFailures, states
    module.bus = bus
    sys.modules[module.__name__] = module


def take_over(bus):
    """``cherrypy.engine = bus`` where CherryPy made an engine of its own already."""
    import cherrypy
    from cherrypy.process import plugins

    assert cherrypy.engine is not bus
    cherrypy.server.unsubscribe()
    cherrypy.engine = cherrypy.server.bus = bus
    cherrypy.server.subscribe()
    bus.listeners['before_request'] = set()
    bus.listeners['after_request'] = set()
    bus.autoreload = plugins.Autoreloader(bus)
    bus.autoreload.subscribe()
    bus.thread_manager = plugins.ThreadManager(bus)
    bus.thread_manager.subscribe()
    bus.signal_handler = plugins.SignalHandler(bus)
    bus.signals = cherrypy._HandleSignalsPlugin(bus)
    bus.subscribe('start', cherrypy.checker)
