"""The application that every server in these benchmarks serves."""

BODY = b'Hello, world\n'
HEADERS = [('Content-Type', 'text/plain'), ('Content-Length', str(len(BODY)))]


def app(environ, start_response):
    start_response('200 OK', HEADERS[:])
    return [BODY]


def make_app(global_conf):
    return app


def lifespan(bus, global_conf):
    yield
