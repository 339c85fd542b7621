"""A bus class of your own: it remembers every line that the bus logs."""

import time

from paste_wspbus.bus import Bus


class JournalBus(Bus):
    """A bus that keeps a journal of its log lines."""

    def __init__(self):
        super().__init__()
        self.journal = []
        self.subscribe('log', self.write_down)

    def write_down(self, msg, level):
        self.journal.append(f'{time.strftime("%H:%M:%S")} {msg}')


def make_app(global_conf):
    bus = global_conf['wspbus'].bus

    def app(environ, start_response):
        body = '\n'.join(bus.journal).encode()
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [body]

    return app
