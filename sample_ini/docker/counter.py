"""An application that counts its visitors in Redis, and serves also without it."""

from redis import RedisError

from paste_wspbus import get_bus


def make_app(global_conf):
    bus = get_bus(global_conf)

    def app(environ, start_response):
        try:
            text = f'Visit number {bus.resources["cache"].incr("visits")}'
        except RedisError:
            text = 'Redis does not answer'
        body = f'{text}, bus {bus.state.name}\n'.encode()
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [body]

    return app
