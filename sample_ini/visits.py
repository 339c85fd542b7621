"""A component with a lifespan, and a small application, for several of the samples."""

import contextlib
import sqlite3

from paste_wspbus import get_bus


def database(bus, global_conf, path):
    """Open the database at start, close it at stop: [plugin:NAME] use = call:visits:database.

    A plugin that is a generator function is a lifespan.
    """
    bus.log(f'Opening {path}')
    with contextlib.closing(sqlite3.connect(path, check_same_thread=False)) as db:
        db.execute('create table if not exists visits (path)')
        yield db  # bus.resources['db'] from here on
    bus.log(f'Closed {path}')


def make_app(global_conf):
    """Make an application that counts visits in the database that the bus opened."""
    bus = get_bus(global_conf)

    def app(environ, start_response):
        db = bus.resources['db']
        with db:
            db.execute('insert into visits values (?)', [environ['PATH_INFO']])
        (count,) = db.execute('select count(*) from visits').fetchone()
        body = (
            f'Visit number {count}, bus {environ["wspbus.bus"].state.name}\n'.encode()
        )
        start_response(
            '200 OK',
            [('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))],
        )
        return [body]

    return app
