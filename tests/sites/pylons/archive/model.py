"""What the site opens at start and closes at stop."""

import contextlib
import os
import sqlite3


def say(text):
    os.write(2, (text + '\n').encode())


@contextlib.contextmanager
def database(path):
    """A database in which requests look things up."""
    name = os.path.basename(os.path.dirname(path))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute('create table if not exists letter (text)')
    say(f'{name} opened')
    yield connection
    connection.close()
    say(f'{name} closed')


def index(bus, global_conf):
    """[plugin:index]: not Pylons' at all."""
    say('index opened')
    yield 'index'
    say('index closed')
