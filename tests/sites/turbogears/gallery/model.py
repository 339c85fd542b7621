"""What the site opens at start and closes at stop."""

import contextlib
import os
import sqlite3


def say(text):
    os.write(2, (text + '\n').encode())


@contextlib.contextmanager
def database(path):
    """A database in which requests look things up."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute('create table if not exists picture (title)')
    say('gallery opened')
    yield connection
    connection.close()
    say('gallery closed')


def index(bus, global_conf):
    """[plugin:index]: not TurboGears' at all."""
    say('index opened')
    yield 'index'
    say('index closed')
