"""A bus of one's own: every transition is written to a file, whoever asks for it."""

import time

from paste_wspbus.bus import Bus


class JournalBus(Bus):
    """Keeps a journal of what it logs."""

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
