"""A cache in each worker, and requests that look at all of them, or drop them all."""

from paste_wspbus import Plugin, get_bus, on


class Cache(Plugin):
    """The pages that this process has made."""

    def __init__(self, bus):
        super().__init__(bus)
        self.pages = {}

    @on('cache.drop', remote=True)
    def drop(self, *names):
        for name in names or list(self.pages):
            self.pages.pop(name, None)

    @on('missed')  # messages were lost here: one of them may have been a 'cache.drop'
    def drop_all(self, count):
        self.pages.clear()

    @on('cache.size', remote=True)
    def size(self):
        return len(self.pages)


def make_cache(bus, global_conf):
    return Cache(bus)


def make_app(global_conf):
    bus = get_bus(global_conf)

    def app(environ, start_response):
        path = environ['PATH_INFO']
        if path == '/drop':
            bus.broadcast('cache.drop')
        else:
            bus.plugins['cache'].pages[path] = f'The page {path}'
        sizes = [
            f'{one.worker}: {one.error or one.value}' for one in bus.ask('cache.size')
        ]
        body = '\n'.join(['Bus state: ' + bus.state.name, *sizes, '']).encode()
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [body]

    return app
