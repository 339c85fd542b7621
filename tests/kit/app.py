"""The small web application of the tests. Its text, and what a test adds, is a webapp.py."""

import json
import logging
import os
import signal
import threading


def say(text):
    os.write(2, f'{text}\n'.encode())


def note(what):
    """Write down which process did what: `life` in kit/supervised.py reads it."""
    with open('life', 'a') as file:
        file.write(f'{what} {os.getpid()}\n')


def obey(name):
    """Do what the test wants to happen here: it is in a file beside this module."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    if os.path.exists(path):
        with open(path) as file:
            exec(compile(file.read(), path, 'exec'), globals())


def hold():
    """Wait until the test releases the site: until standard input ends."""
    os.read(0, 1)


def die_of(signum):
    os.kill(os.getpid(), signum)
    threading.Event().wait()  # the other threads may be first to know


def bus_of(environ):
    return environ['wspbus.bus']


def wait(environ):
    say('waiting')
    hold()


def log(environ):
    logging.getLogger('site').warning('a line of the site')


#: A page does something; what it returns is added to what `about` says.
PAGES = {
    '/kill': lambda environ: die_of(signal.SIGKILL),
    '/segv': lambda environ: die_of(signal.SIGSEGV),
    '/exit0': lambda environ: os._exit(0),
    '/exit3': lambda environ: os._exit(3),
    '/bus_exit': lambda environ: bus_of(environ).exit(),
    '/bus_restart': lambda environ: bus_of(environ).restart(),
    '/wait': wait,
    '/log': log,
}


def about(environ):
    """Return what each page says of the process that answers."""
    return {'pid': os.getpid(), 'ppid': os.getppid()}


def app(environ, start_response):
    page = PAGES.get(environ['PATH_INFO'], lambda environ: None)
    told = page(environ) or {}
    start_response('200 OK', [('Content-Type', 'application/json')])
    return [json.dumps({**about(environ), **told}).encode()]


def make(global_conf, **conf):
    return app
