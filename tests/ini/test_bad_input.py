"""What is wrong is told in one line that says where; nothing is left running."""

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.kit import Site, free_port, is_free, run

WEBAPP = """
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def note(text):
    with open(os.path.join(HERE, 'notes'), 'a') as notes:
        notes.write(text + '\\n')


def make(global_conf, color=None):
    return lambda environ, start_response: []


def make_filter(global_conf):
    return lambda app: app


def make_server(global_conf):
    return lambda app: note('served')


def raises(*args, **conf):
    raise ValueError('no luck\\ntoday')


def raises_nothing_said(*args, **conf):
    raise ValueError


def raises_group(*args, **conf):
    raise ExceptionGroup('two tasks', [OSError('no database'), ValueError('no luck')])


def exits(*args, **conf):
    sys.exit('enough')


def exits_0(*args, **conf):
    sys.exit(0)


def returns_none(*args, **conf):
    return None


def returns_five(*args, **conf):
    return 5


def make_empty_filter(global_conf):
    return lambda app: None


def first(bus, global_conf):
    note('opened')
    yield
    note('closed')


def start_raises(bus, global_conf):
    raise RuntimeError('no database')
    yield


def start_exits(bus, global_conf):
    sys.exit(3)
    yield


def start_hangs(bus, global_conf):
    time.sleep(600)
    yield


def stops_site(bus, global_conf):
    bus.exit()
    yield


def listener_raises(bus, global_conf):
    @bus.subscribe('start')
    def connect():
        raise RuntimeError('no database')


def listener_hangs(bus, global_conf):
    bus.subscribe('start', lambda: time.sleep(600))
"""

BROKEN = {
    'syntax_error.py': 'x = 1\ndef make(:\n',
    'import_error.py': 'import nonsense_inside\n',
    'raises_error.py': 'raise RuntimeError("at import")\n',
    'exits_early.py': 'raise SystemExit("at import")\n',
    'null_byte.py': 'x = 1\0\n',
    'uses_null_byte.py': 'import null_byte\n',
    'other_python.pyc': '\0' * 40,
}

APP = '[app:main]\nuse = call:webapp:make\n'
SERVER = '[server:main]\nuse = egg:waitress\nhost = 127.0.0.1\nport = %(free)s\n'
FIRST = '[plugin:first]\nuse = call:webapp:first\n'
GOOD = APP + SERVER + FIRST


class Case:
    """An .ini, what the command is given, and what it must say.

    ``words`` stand in the line; ``cause``: it comes from an exception, whose
    traceback -v shows.
    """

    def __init__(self, ini, code, *words, args=('site.ini',), cause=False, files=None):
        self.ini, self.code, self.words = ini, code, words
        self.args, self.cause, self.files = args, cause, files or {}


def app(use, code, *words, **kwargs):
    return Case(f'[app:main]\nuse = {use}\n' + SERVER, code, *words, **kwargs)


def app_factory(name, *words, **kwargs):
    return app(f'call:webapp:{name}', 1, 'site.ini [app:main]', name, *words, **kwargs)


def server(settings, code, *words, **kwargs):
    ini = APP + '[server:main]\n' + settings + '\n'
    return Case(ini, code, *words, **kwargs)


def server_factory(name, *words, **kwargs):
    place = 'site.ini [server:main]'
    return server(f'use = call:webapp:{name}', 1, place, *words, **kwargs)


def settings(lines, code, *words, **kwargs):
    ini = GOOD + '[wspbus:main]\n' + lines + '\n'
    return Case(ini, code, 'site.ini [wspbus:main]', *words, **kwargs)


def plugin(use, code, *words, more='', **kwargs):
    ini = f'{GOOD}[wspbus:main]\nplugins = first bad\n{more}\n[plugin:bad]\nuse = {use}'
    return Case(ini, code, 'site.ini [plugin:bad]', *words, **kwargs)


def command(*args, words, code=2, **kwargs):
    return Case(GOOD, code, *words, args=args, **kwargs)


FILES = {
    'no such file': command('nowhere.ini', words=['nowhere.ini', 'no such file']),
    'near file': command('sit.ini', words=["such file; did you mean 'site.ini'?"]),
    'no such folder': command('no/where.ini', words=['no/where.ini', 'no such file']),
    'not an .ini': Case('Lorem ipsum\ndolor\n', 2, 'site.ini', 'not an .ini'),
    'a line that is none': Case(GOOD + 'Lorem ipsum\n', 2, 'site.ini', 'Lorem'),
    'empty': Case('\n', 2, 'site.ini', 'empty', '[app:main]'),
    'only comments': Case('# [x]\n', 2, 'site.ini', 'empty', '[app:main]'),
    'a directory': command('.', words=['directory']),
    'a file as a directory': command('site.ini/x.ini', words=['site.ini/x.ini']),
    'no [app:main]': Case(SERVER, 2, 'site.ini', 'no section [app:main]'),
    '[app:mian]': Case(
        SERVER + '[app:mian]\nuse = call:webapp:make',
        2,
        'did you mean [app:main], and not [app:mian]?',
    ),
    'no [server:main]': Case(APP, 2, 'site.ini', '[server:main]', '--listen'),
    '[server:mian]': Case(
        APP + SERVER.replace('main', 'mian'),
        2,
        'did you mean [server:main], and not [server:mian]?',
    ),
    'no [app:other]': command(
        'site.ini', '-n', 'other', words=['site.ini', '[app:other]']
    ),
    'no #other': command('site.ini#other', words=['site.ini', '[app:other]']),
    'no [server:other]': command(
        'site.ini', '--server-name', 'other', words=['site.ini', '[server:other]']
    ),
    'section twice': Case(GOOD + APP, 2, 'site.ini [app:main]', 'twice', 'line 9'),
    'key twice': Case(APP + 'use = x\n', 2, 'site.ini [app:main] use', 'twice'),
    'app and composite main': Case(
        GOOD + '[composite:main]\nuse = egg:Paste#urlmap\n', 2, 'site.ini', 'main'
    ),
    'egg that is not there': command(
        'egg:Nonsense',
        '--listen=127.0.0.1:0',
        words=['egg:Nonsense', "'Nonsense' is not installed"],
    ),
    'egg without that app': command(
        'egg:Paste#nonsense', '--listen=127.0.0.1:0', words=["'nonsense'", 'test']
    ),
    'another scheme': command('https://example.com/x', words=['config:FILE']),
}

CIRCLES = {
    'of one': app('main', 2, '[app:main]', 'circle'),
    'of two': Case(
        '[app:main]\nuse = b\n[app:b]\nuse = main\n' + SERVER,
        2,
        'site.ini',
        '[app:main] → [app:b] → [app:main]',
    ),
    'of files': Case(
        '[app:main]\nuse = config:other.ini\n' + SERVER,
        2,
        'circle',
        files={'other.ini': '[app:main]\nuse = config:site.ini\n'},
    ),
    'of a file with itself': Case(
        '[app:main]\nuse = config:site.ini\n' + SERVER, 2, 'site.ini', 'circle'
    ),
    'of a pipeline': Case(
        '[pipeline:main]\npipeline = f main\n'
        '[filter:f]\nuse = call:webapp:make_filter\n' + SERVER,
        2,
        'site.ini',
        'circle',
    ),
    'of a filter-app': Case(
        '[filter-app:main]\nuse = egg:paste_wspbus#bus\nnext = main\n' + SERVER,
        2,
        'site.ini',
        'circle',
    ),
    'of filters': Case(
        APP
        + 'filter-with = f\n[filter:f]\nuse = call:webapp:make_filter\n'
        + 'filter-with = f\n'
        + SERVER,
        2,
        'site.ini',
        'circle',
    ),
    'of a composite': Case(
        '[composite:main]\nuse = egg:Paste#urlmap\n/ = main\n' + SERVER,
        2,
        'site.ini',
        '[composite:main]',
    ),
    'of servers': Case(APP + '[server:main]\nuse = main\n', 2, 'site.ini', 'circle'),
}

HERE = 'site.ini [app:main] use'
USES = {
    'distribution': app('egg:Nonsense', 2, HERE, "'Nonsense' is not installed"),
    'no distribution': app('egg:', 2, HERE, 'egg:DISTRIBUTION'),
    'no distribution, but a name': app('egg:#main', 2, HERE, 'egg:DISTRIBUTION'),
    'entry point': app('egg:Paste#nonsense', 2, HERE, "'nonsense'", 'Paste', 'urlmap'),
    'entry point of another kind': app('egg:Paste#http', 2, HERE, "'http'"),
    'module': app('call:nonsense:make', 2, HERE, "'nonsense'"),
    'module in a package': app('call:os.nonsense:make', 2, HERE, 'os.nonsense'),
    'function': app('call:webapp:nonsense', 2, HERE, "'nonsense'"),
    'no function': app('call:webapp', 2, HERE, 'MODULE:FUNCTION'),
    'scheme': app('nonsense:x', 2, HERE, 'nonsense'),
    'section': app('nonsense', 2, HERE, '[app:nonsense]'),
    'file': app('config:nonsense.ini', 2, 'nonsense.ini', 'no such file'),
    'no use at all': Case('[app:main]\nx = 1\n' + SERVER, 2, HERE, 'egg:'),
    'server distribution': server('use = egg:Nonsense', 2, '[server:main] use'),
    'server entry point': server(
        'use = egg:Paste#nonsense', 2, '[server:main] use', "'nonsense'", 'http'
    ),
    'server module': server('use = call:nonsense:make', 2, '[server:main] use'),
    'server function': server(
        'use = call:webapp:nonsense', 2, '[server:main] use', "'nonsense'"
    ),
    'plugin distribution': plugin('egg:Nonsense', 2, 'use', 'not installed'),
    'plugin entry point': plugin('egg:Paste#http', 2, 'use', "'http'"),
    'plugin module': plugin('call:nonsense:x', 2, 'use', "'nonsense'"),
    'plugin function': plugin('call:webapp:nonsense', 2, 'use', "'nonsense'"),
    'bus distribution': settings('use = egg:Nonsense', 2, 'use', 'not installed'),
    'bus function': settings('use = call:webapp:nonsense', 2, 'use', "'nonsense'"),
    'filter': Case(
        '[pipeline:main]\npipeline = nonsense a\n[app:a]\nuse = call:webapp:make\n'
        + SERVER,
        2,
        'site.ini [pipeline:main] pipeline',
        '[filter:nonsense]',
    ),
    'filter-with': Case(
        APP + 'filter-with = nonsense\n' + SERVER,
        2,
        'site.ini [app:main] filter-with',
        '[filter:nonsense]',
    ),
    'in a composite': Case(
        '[composite:main]\nuse = egg:Paste#urlmap\n/ = nonsense\n' + SERVER,
        2,
        'site.ini [composite:main]',
        '[app:nonsense]',
    ),
    'require': Case(
        APP + 'require = Nonsense\n' + SERVER, 2, 'site.ini [app:main]', 'Nonsense'
    ),
}

TYPOS = {
    'use without a value': Case(
        '[app:main]\nuse =\n' + SERVER,
        2,
        'site.ini [app:main] use: this key has no value; it names what to load: egg:DIST',
    ),
    'capital letter': Case(
        '[App:main]\nuse = call:webapp:make\n' + SERVER,
        2,
        'there is no section [app:main]; did you mean [app:main], and not [App:main]?',
    ),
    'application of the command line': command(
        'site.ini#shop', words=['no section [app:shop]; there is a section [app:main]']
    ),
    'file in the place of a module': app(
        'call:webapp.py:make', 2, HERE, "no module 'webapp.py'; did you mean 'webapp'?"
    ),
    'module that Python has': app(
        'call:code:make',
        2,
        HERE,
        "code:make: Python has a module 'code' of its own: rename the one beside the .ini",
        files={'code.py': WEBAPP},
    ),
    'module of a package without __init__.py': app(
        'call:paste:make',
        2,
        HERE,
        "a package that is installed has a module 'paste', too (",
        'rename the one beside the .ini',
        files={'paste.py': WEBAPP},
    ),
    'ready application': Case(
        '[app:main]\nuse = egg:paste_wspbus#wsgi\napp = webapp:mke\n' + SERVER,
        2,
        '[app:main] app: ',
        "has no 'mke'; did you mean 'make'?",
    ),
    'ready application of no module': Case(
        '[app:main]\nuse = egg:paste_wspbus#wsgi\napp = webap:make\n' + SERVER,
        2,
        "[app:main] app: webap:make: there is no module 'webap'; did you mean 'webapp'?",
    ),
    'ready application that Python has': Case(
        '[app:main]\nuse = egg:paste_wspbus#wsgi\napp = code:make\n' + SERVER,
        2,
        "Python has a module 'code' of its own: rename the one beside the .ini",
        files={'code.py': WEBAPP},
    ),
    'ready application of a section': Case(
        '[app:main]\nuse = ready\n[app:ready]\nuse = egg:paste_wspbus#wsgi\n' + SERVER,
        2,
        '] app: write app = MODULE:NAME',
    ),
    'quotes around a host': server(
        'use = egg:waitress\nhost = "127.0.0.1"',
        2,
        'host: \'"127.0.0.1"\' is not a host name or address',
    ),
    'no use': Case(
        APP + '[server:main]\nport = 80\n',
        2,
        '[server:main] use: this key is missing; it names what to load: egg:DIST#NAME',
    ),
    'section': Case(
        '[ap:main]\nuse = call:webapp:make\n' + SERVER, 2, 'and not [ap:main]?'
    ),
    'kind of a section': Case(
        '[wspbus:main]\n[aplication:main]\nuse = call:webapp:make\n' + SERVER,
        2,
        'did you mean [app:main], and not [aplication:main]?',
    ),
    'section of another name': Case(
        '[wspbus:main]\n[app:shop]\nuse = call:webapp:make\n' + SERVER,
        2,
        'there is no section [app:main]; to serve another one, write site.ini#shop',
    ),
    'applications of other names': Case(
        '[composite:api]\nuse = egg:Paste#urlmap\n/ = v1\n[pipeline:v1]\n'
        'pipeline = f one\n[app:one]\n[filter:f]\nprogram = api\n[app:tiny]\n' + SERVER,
        2,
        'there is no section [app:main]; '
        'to serve another one, write site.ini#NAME (api, tiny)\n',
    ),
    'section of another kind': Case(
        '[pipeline:main]\npipeline = f\n[filter:f]\nuse = call:webapp:make_filter\n'
        + SERVER,
        2,
        'site.ini [pipeline:main] pipeline',
        'there is a section [filter:f]',
    ),
    'distribution': app('egg:Past#static', 2, HERE, "did you mean 'Paste'?"),
    'entry point': app('egg:Paste#urlmp', 2, HERE, "did you mean 'urlmap'?"),
    'server': server('use = egg:waitres', 2, "did you mean 'waitress'?"),
    'plugin': plugin('call:webapp:frst', 2, 'use', "did you mean 'first'?"),
    'module': app('call:webap:make', 2, HERE, "did you mean 'webapp'?"),
    'function': app('call:webapp:mak', 2, HERE, "did you mean 'make'?"),
    'scheme': app('webapp:make', 2, HERE, 'did you mean call:webapp:make?'),
    'use': Case(
        '[app:main]\nusee = call:webapp:make\n' + SERVER,
        2,
        HERE,
        "'usee' may be a typo",
    ),
    'comment behind a function': app(
        'call:webapp:make ; mine', 2, HERE, 'a comment needs a line of its own'
    ),
    'variable of a shell': server(
        'use = egg:waitress\nport = ${PORT}', 2, 'port', 'is written %(ENV_NAME)s'
    ),
    'quotes of a word processor': app(
        '“call:webapp:make”', 2, HERE, 'a value has no quotes'
    ),
    'entry point in capitals': app('egg:Paste#URLMAP', 2, "did you mean 'urlmap'?"),
    'section in capitals': Case(
        '[App:Main]\nuse = call:webapp:make\n' + SERVER, 2, 'and not [App:Main]?'
    ),
    'dots in the place of a colon': app(
        'webapp.make', 2, HERE, 'did you mean call:webapp:make?'
    ),
    'file in the place of a function': app(
        'webapp.py', 2, HERE, 'it names a section, egg:DIST#NAME, call:MODULE:FUNCTION'
    ),
    'pipeline in the wrong order': Case(
        '[pipeline:main]\npipeline = a f\n[filter:f]\nuse = call:webapp:make_filter\n'
        '[app:a]\nuse = call:webapp:make\n' + SERVER,
        2,
        'site.ini [pipeline:main] pipeline',
        'filters stand first, the application last',
    ),
    'comment': server(
        'use = egg:waitress\nport = 80 ; mine', 2, 'port', 'a line of its own'
    ),
    'percent sign': Case(
        APP + 'color = 100%\n' + SERVER, 2, '[app:main] color', 'write %%'
    ),
    'host that is a URL': server(
        'use = egg:waitress\nhost = http://127.0.0.1',
        2,
        "host: 'http://127.0.0.1' is not a host name or address",
    ),
    'address': Case(APP, 2, 'HOST:PORT', args=('site.ini', '--listen', 'localhost')),
    'address that is a URL': Case(
        APP, 2, '; write [::1]:0', args=('site.ini', '--listen', 'https://[::1]:0/')
    ),
    'address that is a URL without a port': Case(
        APP,
        2,
        '; write HOST:PORT, without http://',
        args=('site.ini', '--listen', 'http://localhost'),
    ),
    'address that is a URL of a path': Case(
        APP, 2, '; write unix:/s', args=('site.ini', '--listen', 'http+unix:///s')
    ),
}

IS_INDENTED = 'is indented, and so it belongs to the value above: remove the spaces'
INDENTED = {
    'server': server(
        'use = egg:waitress\n threads = 2', 2, f"use: 'threads = 2' {IS_INDENTED}"
    ),
    'host': server(
        'use = egg:waitress\nhost = 127.0.0.1\n port = 80',
        2,
        "host: '127.0.0.1\\nport = 80' is not a host name or address; a key must not be "
        'indented',
    ),
    'host of wsgiref': server(
        'use = egg:paste_wspbus#wsgiref\nhost = 127.0.0.1\n port = 80',
        2,
        'a key must not be indented',
    ),
    'application': Case(
        '[app:main]\npaste.app_factory = webapp:make\n color = red\n' + SERVER,
        2,
        f"[app:main] paste.app_factory: 'color = red' {IS_INDENTED}",
    ),
    'plugins': Case(
        '[wspbus:main]\nplugins = first\n workers = 2\n' + GOOD,
        2,
        f"plugins: there is no section [plugin:workers]; 'workers = 2' {IS_INDENTED}",
    ),
}


def explicit(value, *words):
    ini = f'[app:main]\npaste.app_factory = {value}\n' + SERVER
    return Case(ini, 2, f'[app:main] paste.app_factory: {value}: ', *words)


EXPLICIT = {
    'quotes': explicit("'webapp:make'"),
    'module': explicit(
        'webap:make', "there is no module 'webap'; did you mean 'webapp'?"
    ),
    'function': explicit('webapp:mak', 'has no ', "'mak'; did you mean 'make'?"),
}

IMPORTS = {
    name: app(f'call:{name}:make', 1, HERE, *words, cause=True, files=BROKEN)
    for name, words in {
        'syntax_error': ['SyntaxError: invalid syntax, at syntax_error.py:2'],
        'import_error': ['nonsense_inside', ', at import_error.py:1 in <module>'],
        'raises_error': ['at import, at raises_error.py:1 in <module>'],
        'exits_early': ['at import, at exits_early.py:1 in <module>'],
        'null_byte': ['SyntaxError: source code string cannot contain null bytes'],
        'uses_null_byte': ['null bytes, at uses_null_byte.py:1 in <module>'],
        'other_python': ["ImportError: bad magic number in 'other_python'"],
    }.items()
}


def names_nothing(ini, place, *words, args=()):
    return Case(ini, 2, f'site.ini{place}', *words, args=('site.ini', *args))


WORDS = 'neither a [section] nor KEY = VALUE'
PARSING = {
    'a section without its bracket': Case(
        GOOD.replace('[server:main]', '[server:main'),
        2,
        "site.ini, line 3: '[server:main' has no closing bracket",
    ),
    'the first section without its bracket': Case(
        GOOD.replace('[app:main]', '[app:main'), 2, "line 1: '[app:main' has no closing"
    ),
    'an indented section': Case(
        GOOD + '  [plugin:x]\n', 2, "line 9: '[plugin:x]' is indented", 'spaces'
    ),
    'a section in round brackets': Case(
        '(app:main)\n' + GOOD, 2, "line 1: '(app:main)' stands before the first"
    ),
    'a key before the sections': Case('x = 1\n' + GOOD, 2, "line 1: 'x = 1' stands"),
    'a key without a value': Case(
        APP + 'debug\n' + SERVER, 2, f"line 3: 'debug' is {WORDS}"
    ),
    'a very long line': Case(GOOD + 'x' * 5000, 2, 'line 9', f"x…' is {WORDS}"),
    'UTF-16': Case(
        GOOD.encode('utf-16'), 2, 'site.ini: it is UTF-16: save it as UTF-8'
    ),
    'UTF-16 without its mark': Case(
        GOOD.encode('utf-16-le'), 2, 'site.ini, line 1: it has the character NUL'
    ),
    'UTF-32': Case(
        GOOD.encode('utf-32'), 2, 'site.ini: it is UTF-32: save it as UTF-8'
    ),
    'a NUL': Case(
        GOOD + 'x = \0', 2, 'site.ini, line 9: it has the character NUL', 'or no text'
    ),
    'a file with a NUL in its name': Case(
        '[app:main]\nuse = config:a%%00b\n' + SERVER,
        2,
        'site.ini [app:main]: config:a%00b: no name of a file has the character NUL',
    ),
    'a file without a name': Case(
        '[app:main]\nuse = config:\n' + SERVER,
        2,
        'site.ini [app:main] use: config:: write config:FILE',
    ),
    'a folder in the place of a file': Case(
        '[app:main]\nuse = config:.\n' + SERVER,
        2,
        'site.ini [app:main] use: config:.: it is a directory, not an .ini file',
    ),
    'a function without a name': Case(
        '[app:main]\nuse = call:webapp:\n' + SERVER,
        2,
        'site.ini [app:main] use: call:webapp:: write call:MODULE:FUNCTION',
    ),
    'a module without a name': Case(
        '[app:main]\nuse = call::make\n' + SERVER,
        2,
        'site.ini [app:main] use: call::make: write call:MODULE:FUNCTION',
    ),
    'an indented section with a comment': Case(
        APP + ' [server:main] ; one\n', 2, "line 3: '[server:main] ; one' is indented"
    ),
    'Latin 1': Case(
        GOOD.encode() + '# grün'.encode('latin-1'),
        2,
        'site.ini, line 9',
        '0xfc',
        'UTF-8',
    ),
}

GETS = {
    'a key that [DEFAULT] has not': Case(
        '[DEFAULT]\ncolour = red\n' + APP + 'get color = color\n' + SERVER,
        2,
        "site.ini [app:main] get color: [DEFAULT] has no key 'color'; did you mean 'colour'?",
    ),
    'a filter-app that calls a function': Case(
        '[filter-app:main]\nuse = call:webapp:make\nnext = x\n[app:x]\n'
        'use = call:webapp:make\n' + SERVER,
        2,
        'site.ini [filter-app:main] use: call:webapp:make: PasteDeploy takes no call:',
        'Write it into a section [filter:NAME], and use = NAME here',
    ),
    'a filter-app without next': Case(
        '[filter-app:main]\nuse = egg:paste_wspbus#bus\n' + SERVER,
        2,
        'site.ini [filter-app:main] next: this key is missing',
    ),
}

LOGGED = """
[loggers]
keys = root, site
[handlers]
keys = console
[formatters]
keys = plain
[logger_root]
level = WARNING
handlers = console
[logger_site]
qualname = site
handlers =
[handler_console]
class = StreamHandler
args = (sys.stderr,)
level = INFO
formatter = plain
[formatter_plain]
format = %(message)s
"""


def logged(old, new, *words, code=2, **kwargs):
    assert old in LOGGED
    return Case(GOOD + LOGGED.replace(old, new), code, *words, **kwargs)


LOGGING = {
    'no [formatters]': logged(
        '[formatters]',
        '[formaters]',
        "no section [formatters]; did you mean 'formaters'?",
    ),
    'no keys': logged('keys = plain', 'key = plain', '[formatters] keys: this key is'),
    'a percent sign': logged('keys = plain', 'keys = %', '[formatters] keys: ', "'%'"),
    'no root': logged('keys = root, site', 'keys = site', '[loggers] keys', 'root'),
    'no such handler': logged(
        '[handler_console]',
        '[handler_konsole]',
        "[handlers] keys: there is no section [handler_console]; did you mean 'handler_konsole'?",
    ),
    'no such logger': logged(
        '[logger_site]', '[logger_stie]', '[loggers] keys', 'stie'
    ),
    'no qualname': logged('qualname = site', '', '[logger_site] qualname: this key is'),
    'a handler that is not listed': logged(
        'handlers = console',
        'handlers = konsole',
        '[logger_root] handlers: ',
        "'console'?",
    ),
    'a formatter that is not listed': logged(
        'formatter = plain',
        'formatter = plian',
        '[handler_console] formatter: ',
        "'plain'?",
    ),
    'no such level': logged(
        'level = WARNING',
        'level = WARNUNG',
        "[logger_root] level: 'WARNUNG' is not a level",
    ),
    'no such level of a handler': logged(
        'level = INFO', 'level = info', "[handler_console] level: 'info'", "'INFO'?"
    ),
    'no such class': logged(
        'StreamHandler', 'StreamHandlr', '[handler_console] class', "'StreamHandler'?"
    ),
    'no such class of handlers': logged(
        'class = StreamHandler',
        'class = handlers.SyslogHandler',
        "'handlers.SysLogHandler'?",
    ),
    'no such module': logged(
        'class = StreamHandler', 'class = nonsense.Handler', "no module 'nonsense'"
    ),
    'arguments that are not Python': logged(
        '(sys.stderr,)', '(sys.stderr,', '[handler_console] args: it is not Python'
    ),
    'no such stream': logged(
        '(sys.stderr,)',
        '(sys.stderrr,)',
        '[handler_console] args:',
        "'stderrr'",
        "did you mean 'stderr'?",
    ),
    'arguments that are no tuple': logged(
        '(sys.stderr,)',
        'sys.stderr',
        '[handler_console] args: sys.stderr is not a tuple: write args = (sys.stderr,)',
    ),
    'arguments that are a text': logged(
        'class = StreamHandler\nargs = (sys.stderr,)',
        "class = FileHandler\nargs = ('x.log')",
        "[handler_console] args: 'x.log' is not a tuple: write args = ('x.log',)",
    ),
    'keyword arguments that are no dictionary': logged(
        'args = (sys.stderr,)',
        'kwargs = sys.stderr',
        '[handler_console] kwargs: sys.stderr is not a dictionary: write kwargs = {',
    ),
    'a logger that propagates by a word': logged(
        'qualname = site',
        'qualname = site\npropagate = no',
        "[logger_site] propagate: 'no' is not 0 or 1",
    ),
    'a field without its letter': logged(
        '%(message)s',
        '%(levelname) %(message)s',
        '[formatter_plain] format: after %(levelname) there must be a letter: write '
        '%(levelname)s',
    ),
    'a percent sign in a format': logged(
        '%(message)s',
        '100% %(message)s',
        '[formatter_plain] format: unsupported format character',
        'for a percent sign, write %%',
    ),
    'a format that is none': logged(
        '%(message)s', '%(message', '[formatter_plain] format: '
    ),
}

#: What is found only when a handler is made.
HANDLERS = {
    'no such folder': logged(
        'class = StreamHandler\nargs = (sys.stderr,)',
        "class = FileHandler\nargs = ('/no/where.log',)",
        'site.ini [handler_console] args: there is no folder ',
    ),
    "the site's own handler fails": logged(
        'class = StreamHandler',
        'class = myhandler.Handler',
        '[handler_console] args: OSError: no queue, at myhandler.py:',
        code=1,
        cause=True,
        files={
            'myhandler.py': """
            import logging
            class Handler(logging.Handler):
                def __init__(self, *args):
                    raise OSError('no queue')
            """
        },
    ),
}

CHANNEL = {
    'plug.py': """
    from paste_wspbus import Plugin, on
    class Refresh(Plugin):
        def __init__(self, bus, global_conf):
            super().__init__(bus)
        @on('refresh')
        def refresh(self):
            pass
    def make(bus, global_conf):
        bus.subscribe('start', 5)
    """
}
PLUGINS = {
    "a channel of one's own": plugin(
        'call:plug:Refresh',
        1,
        "unknown channel: 'refresh', at plug.py:5; ",
        "channels = ('refresh',)",
        files=CHANNEL,
    ),
    'something that cannot be called': plugin(
        'call:plug:make',
        1,
        'takes callables, not 5, at plug.py:9',
        cause=True,
        files=CHANNEL,
    ),
}

#: What one .ini asks of another; the files are below.
INCLUDED = {
    'no such section in it': app(
        'config:base.ini#shp',
        2,
        'base.ini: there is no section [app:shp], which site.ini [app:main] names; did '
        "you mean 'shop'?",
        files={'base.ini': APP.replace('main', 'shop')},
    ),
    'no such file': app(
        'config:bsae.ini#shop',
        2,
        'site.ini [app:main] use: config:bsae.ini',
        "there is no such file; did you mean 'base.ini'?",
        files={'base.ini': APP},
    ),
    'a wrong name in it': app(
        'config:base.ini',
        2,
        "base.ini [app:main] use: there is no section [app:shp]; did you mean 'shop'?",
        files={'base.ini': '[app:main]\nuse = shp\n' + APP.replace('main', 'shop')},
    ),
    'a circle': app(
        'config:base.ini',
        2,
        'in a circle: site.ini [app:main] → base.ini [app:main] → site.ini [app:main]',
        files={'base.ini': '[app:main]\nuse = config:site.ini\n'},
    ),
    'a key that [DEFAULT] lacks': Case(
        GOOD.replace('make\n', 'make\nget db = dburl\n') + '[DEFAULT]\ndb_url = x\n',
        2,
        "site.ini [app:main] get db: [DEFAULT] has no key 'dburl'; did you mean 'db_url'?",
    ),
    'a module that an installed one hides': app(
        'call:jinja2:make',
        2,
        'site.ini [app:main] use: call:jinja2:make: a package that is installed has a '
        "module 'jinja2', too",
        'rename the one beside the .ini',
        files={'jinja2.py': 'def make(global_conf): ...\n'},
    ),
}

INTERPOLATIONS = {
    'of the same name': names_nothing(
        APP + 'color = %(color)s\n' + SERVER,
        ', line 3 [app:main] color',
        '%(color)s has no value: write color=VALUE after the file name',
    ),
    'in an app': names_nothing(
        APP + 'color = %(nonsense)s\n' + SERVER,
        ', line 3 [app:main] color',
        '%(nonsense)s',
        'write nonsense=VALUE after',
    ),
    'that is a typo': names_nothing(
        APP + 'Color = %(hrere)s/red\n' + SERVER,
        ', line 3 [app:main] Color',
        '%(hrere)s has no value; did you mean %(here)s?',
    ),
    'that is a typo of a var': names_nothing(
        APP + 'color = %(colour)s\n' + SERVER,
        ', line 3 [app:main] color',
        '%(colour)s has no value; did you mean %(coulour)s?',
        args=['coulour=red'],
    ),
    'by way of [DEFAULT]': names_nothing(
        APP + 'color = %(x)s\n' + SERVER + '[DEFAULT]\ny = 1\nx = %(nonsense)s\n',
        ', line 10 [DEFAULT] x',
        '%(nonsense)s',
    ),
    'in a server': names_nothing(
        APP + SERVER + 'threads = %(nonsense)s\n',
        ', line 7 [server:main] threads',
        'nonsense',
    ),
    'in a plugin': names_nothing(
        GOOD + 'x = %(nonsense)s\n[wspbus:main]\nplugins = first\n',
        ', line 9 [plugin:first] x',
        'nonsense',
    ),
    'in the settings': names_nothing(
        GOOD + '[wspbus:main]\nplugins = %(nonsense)s\n',
        ', line 10 [wspbus:main] plugins',
        'nonsense',
    ),
    'in [DEFAULT]': names_nothing(
        GOOD + '[DEFAULT]\nx = %(nonsense)s\n', ', line 10 [DEFAULT] x', 'nonsense'
    ),
    'a variable that is not set': names_nothing(
        APP + 'color = %(ENV_NONSENSE)s\n' + SERVER,
        ', line 3 [app:main] color',
        'environment variable NONSENSE is not set\n',
    ),
    'a variable with a typo': names_nothing(
        APP + 'color = %(ENV_PATHS)s\n' + SERVER,
        ', line 3 [app:main] color',
        "environment variable PATHS is not set; did you mean 'PATH'?",
    ),
    'a lone %': names_nothing(
        APP + 'color = 100%\n' + SERVER,
        ', line 3 [app:main] color',
        "'%' must be followed by",
    ),
    'in logging': names_nothing(
        GOOD
        + '[loggers]\nkeys = root\n[handlers]\nkeys = h\n[formatters]\nkeys =\n'
        + '[logger_root]\nhandlers = h\n[handler_h]\nclass = FileHandler\n'
        + 'args = ("%(nonsense)s",)\n',
        ', line 19 [handler_h] args',
        'nonsense',
    ),
}

FACTORIES = {
    'raises': app_factory(
        'raises', 'ValueError: no luck, at webapp.py:', 'in raises', cause=True
    ),
    'raises and says nothing': app_factory(
        'raises_nothing_said', 'ValueError', cause=True
    ),
    'raises a group': app_factory(
        'raises_group',
        'two tasks (2 sub-exceptions): OSError: no database, at webapp.py:',
        cause=True,
    ),
    'exits': app_factory(
        'exits',
        "sys.exit('enough') instead of returning the application, at webapp.py:",
        cause=True,
    ),
    'exits with 0': app_factory('exits_0', 'exit', cause=True),
    'returns None': app_factory('returns_none', 'None'),
    'returns what is not callable': app(
        'call:webapp:returns_five', 1, 'site.ini [app:main]', '5'
    ),
    'gets a key it does not take': Case(
        APP + 'colour = red\n' + SERVER, 1, 'site.ini [app:main]', 'colour', cause=True
    ),
    'server raises': server_factory('raises', 'no luck', cause=True),
    'server exits': server_factory('exits', 'exit', cause=True),
    'server returns None': server_factory('returns_none', 'None'),
    'server is not callable': server_factory(
        'returns_five', '5 is not a server', 'cannot be called'
    ),
    'server gets a key it does not take': server(
        'use = call:webapp:make_server\nport = 1',
        1,
        'site.ini [server:main]',
        'port',
        cause=True,
    ),
    'plugin raises': plugin('call:webapp:raises', 1, 'no luck', cause=True),
    'plugin exits': plugin('call:webapp:exits', 1, 'exit', cause=True),
    'plugin gets a key it does not take': plugin(
        'call:webapp:first\nx = 1', 1, "'x'", cause=True
    ),
    'bus raises': settings('use = call:webapp:raises', 1, 'no luck', cause=True),
    'bus is None': settings('use = call:webapp:returns_none', 1, 'None'),
    'bus is none': settings('use = call:webapp:returns_five', 1, 'use', '5'),
    'filter raises': Case(
        APP + 'filter-with = f\n[filter:f]\nuse = call:webapp:raises\n' + SERVER,
        1,
        'site.ini [filter:f]',
        'no luck',
        cause=True,
    ),
    'filter makes None of it': Case(
        APP
        + 'filter-with = f\n[filter:f]\nuse = call:webapp:make_empty_filter\n'
        + SERVER,
        1,
        'site.ini [app:main]',
        'None',
    ),
    'the bus filter has settings': Case(
        APP
        + 'filter-with = f\n[filter:f]\nuse = egg:paste_wspbus#bus\ncolor = red\n'
        + SERVER,
        None,
        'site.ini [filter:f]',
        'color',
        cause=True,
    ),
    'in a composite': Case(
        '[composite:main]\nuse = egg:Paste#urlmap\n/ = a\n'
        '[app:a]\nuse = call:webapp:raises\n' + SERVER,
        1,
        'site.ini [app:a]',
        'no luck',
        cause=True,
    ),
    'app takes other arguments': app(
        'call:os:getpid',
        1,
        'site.ini [app:main]',
        'a factory takes (global_conf, **settings) and returns the application',
        cause=True,
    ),
    'plugin takes no bus': plugin(
        'call:webapp:make_server', 1, 'a factory takes (bus, global_conf, **settings)'
    ),
    'in another file': Case(
        '[app:main]\nuse = config:other.ini\n' + SERVER,
        1,
        'other.ini [app:main]',
        'no luck',
        cause=True,
        files={'other.ini': '[app:main]\nuse = call:webapp:raises\n'},
    ),
}

SETTINGS = {
    'unknown key': settings('plugin = first', 2, 'plugin', "'plugins'"),
    'unknown key, like none': settings('zzz = 1', 2, 'zzz', 'unknown'),
    'keys of another file': settings(
        'use = config:base.ini', 2, 'use', 'takes no keys from another file'
    ),
    'not a number': settings('stop_timeout = soon', 2, 'stop_timeout', "'soon'"),
    'no number at all': settings('stop_timeout =', 2, 'stop_timeout', 'duration'),
    'no time to stop': settings(
        'stop_timeout = 0', 2, 'stop_timeout', "'0'", 'more than 0 seconds'
    ),
    'no time to start': settings(
        'start_timeout = 0.0', 2, 'start_timeout', "'0.0'", 'more than 0 seconds'
    ),
    'an exponent': settings('stop_timeout = 1e-999', 2, 'stop_timeout', "'1e-999'"),
    'below 0': settings('drain_delay = -1', 2, 'drain_delay', "'-1'"),
    'no time for a soak': settings('soak = long', 2, 'soak', "'long'", '500ms'),
    'a smoke of no path': settings(
        'smoke = health', 2, 'smoke', "'health'", 'begins with /'
    ),
    'a smoke of another scheme': settings(
        'smoke = / ftp://x/', 2, 'smoke', "'ftp://x/'", 'http'
    ),
    'a warm_up of no path': settings(
        'warm_up = x', 2, 'warm_up', "'x'", 'begins with /'
    ),
    'a status that is none': settings(
        'smoke_status = ok', 2, 'smoke_status', "'ok'", '2xx'
    ),
    'a form of the log that is none': settings(
        'log_format = xml', 2, 'log_format', "'xml'", 'text or json'
    ),
    'control in a folder that is missing': settings(
        'control = /missing/site.sock',
        2,
        'control',
        'there is no folder /missing',
    ),
    'no time for smoke': settings(
        'smoke_timeout = 0', 2, 'smoke_timeout', 'more than 0 seconds'
    ),
    'requests that are none': settings(
        'max_requests = -1', 2, 'max_requests', "'-1'", 'whole number'
    ),
    'memory without a unit that is known': settings(
        'max_memory = 5T', 2, 'max_memory', "'5T'", '300M'
    ),
    'hangs after no time': settings(
        'hung_after = soon', 2, 'hung_after', "'soon'", 'as 500ms, 5', '0'
    ),
    'an age that is none': settings('max_age = old', 2, 'max_age', "'old'", '12h'),
    'not a number by name': settings('start_timeout = nan', 2, 'start_timeout', 'nan'),
    'not a whole number': settings('workers = 1.5', 2, 'workers', 'whole', 'auto'),
    'fewer workers than none': settings('workers = -1', 2, 'workers', "'-1'", '0'),
    'too many workers': settings('workers = 1001', 2, 'workers', "'1001'", '1000'),
    'workers without a number': settings('workers =', 2, 'workers', 'auto'),
    'a word for workers': settings('workers = many', 2, 'workers', "'many'", 'auto'),
    "another script's digit": settings('workers = ١', 2, 'workers', 'auto'),
    'neither true nor false': settings(
        'preload = maybe', 2, 'preload', 'true or false'
    ),
    'none of the words': settings('restart = exec', 2, 'restart', 'execv', 'fork'),
    'unknown signal': settings('signal.SIGFOO = exit', 2, 'signal.SIGFOO', 'signal'),
    'signal that cannot be had': settings('signal.KILL = exit', 2, 'signal.KILL'),
    'plugin without a section': settings(
        'plugins = frist', 2, 'plugins', '[plugin:frist]', "'first'"
    ),
    'plugin twice': settings('plugins = first first', 2, 'plugins', 'first', 'twice'),
}

IN_WEBAPP = ', at webapp.py:'
STARTS = {
    'raises': plugin(
        'call:webapp:start_raises', 1, f'no database{IN_WEBAPP}', cause=True
    ),
    'listener raises': plugin(
        'call:webapp:listener_raises', 1, f'no database{IN_WEBAPP}', cause=True
    ),
    'hangs': plugin(
        'call:webapp:start_hangs',
        1,
        f'0.5 s{IN_WEBAPP}',
        more='start_timeout = 0.5',
        cause=True,
    ),
    'listener hangs': plugin(
        'call:webapp:listener_hangs',
        1,
        f'0.5 s{IN_WEBAPP}',
        more='start_timeout = 0.5',
        cause=True,
    ),
    'stops the site': plugin('call:webapp:stops_site', 1, 'bad', 'was stopped'),
}


def workers(text):
    said = f'--workers {text}: it must be a number from 0 to 1000, or auto'
    return command('site.ini', f'--workers={text}', words=[said])


COMMAND_LINES = {
    'var without =': command('site.ini', 'color', words=["'color'", 'NAME=VALUE']),
    'var without a name': command('site.ini', '=red', words=["'=red'", 'NAME=VALUE']),
    'unknown option': command(
        'site.ini', '--server-nam=x', words=['--server-nam', "'--server-name'"]
    ),
    'unknown option with a space': command(
        'site.ini', '--log-fil=my log', words=['--log-fil', "'--log-file'"]
    ),
    'unknown letter': command('site.ini', '-z', words=['-z']),
    'option without its value': command('site.ini', '-n', words=['-n']),
    'workers: below 0': workers('-1'),
    'workers: half a one': workers('1.5'),
    'workers: none': workers(''),
    'workers: a word': workers('many'),
    'workers: too many': workers('1001'),
    'workers: far too many': workers(str(10**30)),
    'workers: nan': workers('nan'),
    "workers: another script's digit": workers('١'),
    'workers: nothing': command('site.ini', '--workers', words=['--workers']),
    'no-wait without graceful': command(
        'site.ini', '--no-wait', words=['--no-wait', 'graceful']
    ),
    'json without status': command('site.ini', '--json', words=['--json', 'status']),
    'json of graceful': command('site.ini', 'graceful', '--json', words=['--json']),
    'graceful and stop': command(
        'site.ini',
        'graceful',
        'stop',
        words=['give one subcommand only', 'graceful, stop'],
    ),
    'graceful before the file': command(
        'graceful', 'site.ini', words=['the file comes first', 'site.ini graceful']
    ),
    'gracefull': command('site.ini', 'gracefull', words=["'graceful'"]),
    'ps of a file': command('site.ini', 'ps', words=['ps lists all sites']),
    'graceful of what does not run': command(
        'site.ini', 'graceful', words=['not running', 'paster.pid'], code=1
    ),
    'a daemon that reloads': command(
        'site.ini', '--daemon', '--reload', words=['--reload', '--daemon']
    ),
    'start and reload': command('site.ini', 'start', '--reload', words=['--reload']),
    'a reloader without reload': command(
        'site.ini', '--reloader', 'child', words=['--reloader', '--reload']
    ),
    'an unknown reloader': command(
        'site.ini', '--reload', '--reloader', 'magic', words=['--reloader', "'magic'"]
    ),
    'a reload interval of nothing': command(
        'site.ini', '--reload', '--reload-interval', '0', words=['--reload-interval 0']
    ),
    'log file that cannot be': command(
        'site.ini',
        '--log-file',
        'no/where.log',
        words=['log file no/where.log: there is no folder no'],
    ),
    'listen: nothing known': command(
        'site.ini', '--listen', 'nonsense', words=['--listen', 'HOST:PORT', 'unix:']
    ),
    'listen: port': command(
        'site.ini', '--listen', '127.0.0.1:http', words=['--listen', "'http'", '65535']
    ),
    'listen: port too large': command(
        'site.ini', '--listen', '127.0.0.1:99999', words=['--listen', '99999', '65535']
    ),
    'listen: fd': command(
        'site.ini', '--listen', 'fd://x', words=['fd://x', 'fd://3'], code=1
    ),
    'listen: fd that is not open': command(
        'site.ini', '--listen', 'fd://99', words=['fd://99'], code=1
    ),
    'listen: fd that is no socket': command(
        'site.ini', '--listen', 'fd://2', words=['fd://2'], code=1
    ),
    'listen: path too long': command(
        'site.ini', '--listen', 'unix:' + 'x' * 200, words=['--listen', '200', '107']
    ),
    'listen: no path': command('site.ini', '--listen', 'unix:', words=['--listen']),
    'listen: a file': command(
        'site.ini', '--listen', 'unix:webapp.py', words=['webapp.py', 'socket'], code=1
    ),
    'listen: no such folder': command(
        'site.ini', '--listen', 'unix:no/where', words=['no/where'], code=1
    ),
    'listen: with an unknown server': Case(
        APP + '[server:main]\nuse = call:webapp:make_server\n',
        2,
        'site.ini [server:main]',
        '--listen',
        args=('site.ini', '--listen', '127.0.0.1:0'),
    ),
}

USED = {
    'waitress': 'use = egg:waitress\n',
    'Paste': 'use = egg:Paste#http\n',
    'cheroot': 'use = egg:paste_wspbus#cheroot\n',
    'wsgiref': 'use = egg:paste_wspbus#wsgiref\n',
}
PLACE = 'site.ini [server:main]'
SERVERS = {}
for name, use in USED.items():
    at_home = use + 'host = 127.0.0.1\n'
    SERVERS |= {
        f'{name}: port 99999': server(
            at_home + 'port = 99999', 2, PLACE, 'port', '99999', '65535'
        ),
        f'{name}: port http': server(
            at_home + 'port = http', 2, PLACE, 'port', "'http'"
        ),
        f'{name}: port -1': server(at_home + 'port = -1', 2, PLACE, 'port', '-1'),
        f'{name}: no port': server(at_home + 'port =', 2, PLACE, 'port'),
        f'{name}: host': server(
            use + 'host = nonsense.invalid\nport = 0', 1, 'nonsense.invalid', 'resolve'
        ),
        f'{name}: host with a scheme': server(
            use + 'host = http://127.0.0.1\nport = 0',
            2,
            PLACE,
            'host: ',
            'write it without the scheme; the port has a key of its own',
        ),
        f'{name}: host that is a path': server(
            use + 'host = unix:/run/site\nport = 0',
            2,
            PLACE,
            'host: ',
            'write unix_socket = PATH, without host and port',
        ),
        f'{name}: listen without an address': server(
            use + 'listen =', 2, PLACE, 'listen: this key has no value; write HOST:PORT'
        ),
        f'{name}: listen with a scheme': server(
            use + 'listen = http://127.0.0.1:0',
            2,
            PLACE,
            'listen',
            '; write 127.0.0.1:0',
        ),
        f'{name}: listen with a path': server(
            use + 'listen = /run/site', 2, PLACE, 'listen', '; write unix:/run/site'
        ),
        f'{name}: host elsewhere': server(
            use + 'host = 192.0.2.1\nport = 0', 1, '192.0.2.1', 'address'
        ),
        f'{name}: unknown setting': server(
            at_home + 'prot = 0', 2, PLACE, 'prot', "'port'"
        ),
        f'{name}: workers': server(
            at_home + 'workers = 2', 2, PLACE, 'workers', 'a key of [wspbus:main]'
        ),
        f'{name}: path too long': server(
            use + f'unix_socket = {"x" * 200}', 2, PLACE, 'unix_socket', '200', '107'
        ),
        f'{name}: a file': server(
            use + 'unix_socket = webapp.py', 1, 'webapp.py', 'socket'
        ),
    }
    if name != 'Paste':  # Paste has a default for it
        SERVERS[f'{name}: no host'] = server(
            use + 'host =\nport = 0',
            2,
            PLACE,
            "host: '' is not a host name or address; write 127.0.0.1 for this machine alone",
        )
#: Settings that are numbers, of which no system takes each.
NUMBERS = {
    'waitress': ('threads', 'backlog', 'recv_bytes'),
    'Paste#http': ('threadpool_workers', 'request_queue_size'),
    'paste_wspbus#cheroot': (
        *('numthreads', 'request_queue_size', 'timeout', 'max_request_body_size'),
    ),
    'paste_wspbus#cherrypy': ('thread_pool', 'socket_queue_size', 'socket_timeout'),
}
#: In the folder of the PYTHONPATH that `run_case` sets.
IN_THE_WAY = {'first/waitress.py': 'x = 1\n'}

SERVERS |= {
    'that is broken': server(
        'use = egg:waitress',
        1,
        '[server:main] use: this server cannot be imported: ImportError: cannot import',
        'first/waitress.py',
        cause=True,
        files=IN_THE_WAY,
    ),
    'waitress: threads': server(
        USED['waitress'] + 'threads = many', 2, PLACE, 'threads', "'many'"
    ),
    'waitress: a size with a unit': server(
        USED['waitress'] + 'max_request_body_size = 10M',
        2,
        PLACE,
        "max_request_body_size: '10M' is not a whole number",
    ),
    'waitress: listen': server(
        USED['waitress'] + 'listen = 127.0.0.1:http', 2, PLACE, 'listen', "'http'"
    ),
    'waitress: together': server(
        USED['waitress'] + 'host = 127.0.0.1\nlisten = 127.0.0.1:0', 2, PLACE, 'listen'
    ),
    'waitress: permissions': server(
        USED['waitress'] + 'unix_socket = s\nunix_socket_perms = rw', 2, PLACE, 'perms'
    ),
    'Paste: workers': server(
        USED['Paste'] + 'threadpool_workers = many',
        2,
        PLACE,
        'threadpool_workers',
        'whole',
    ),
    'Paste: pool': server(
        USED['Paste'] + 'use_threadpool = maybe', 2, PLACE, 'use_threadpool'
    ),
    'Paste: protocol': server(
        USED['Paste'] + 'port = 0\nprotocol_version = 2',
        2,
        PLACE,
        'protocol_version',
    ),
    'Paste: settings that contradict each other': server(
        USED['Paste'] + 'port = 0\nthreadpool_spawn_if_under = 11',
        2,
        PLACE,
        'threadpool_spawn_if_under: 11 is more than threadpool_workers, 10',
    ),
    'Paste: a thread is killed before it counts as hung': server(
        USED['Paste'] + 'port = 0\nthreadpool_kill_thread_limit = 10',
        2,
        PLACE,
        'threadpool_hung_thread_limit: 30 s is more than threadpool_kill_thread_limit, 10 s',
    ),
    'cheroot: threads': server(
        USED['cheroot'] + 'numthreads = many', 2, PLACE, 'numthreads', "'many'"
    ),
    **{
        f'{egg}: {key} = {number}': server(
            f'use = egg:{egg}\nhost = 127.0.0.1\nport = 0\n{key} = {number}',
            2,
            f'{PLACE} {key}: ',
            f"'{number}' is not a whole number from ",
        )
        for egg, keys in NUMBERS.items()
        for key in keys
        for number in ('99999999999999999999', '-1')
    },
    'no threads': server(
        USED['waitress'] + 'threads = 0', 2, PLACE, 'threads', "'0'", 'from 1'
    ),
    'Paste#http: threads of another server': server(
        'use = egg:Paste#http\nthreads = 8', 2, PLACE, 'threads', "'threadpool_workers'"
    ),
    'cheroot: half a certificate': server(
        USED['cheroot'] + 'ssl_certificate = x.pem', 2, PLACE, 'ssl_private_key'
    ),
    'cheroot: no certificate': server(
        USED['cheroot'] + 'port = 0\nssl_certificate = x.pem\nssl_private_key = x.pem',
        None,
        PLACE,
        'ssl_certificate',
        cause=True,
    ),
}

CASES = {
    f'{group}, {name}': case
    for group, cases in {
        'file': FILES,
        'circle': CIRCLES,
        'use': USES,
        'typo': TYPOS,
        'indented': INDENTED,
        'explicit': EXPLICIT,
        'import': IMPORTS,
        'parsing': PARSING,
        'get': GETS,
        'logging': LOGGING,
        'handler': HANDLERS,
        'plugin': PLUGINS,
        'included': INCLUDED,
        'interpolation': INTERPOLATIONS,
        'factory': FACTORIES,
        'setting': SETTINGS,
        'start': STARTS,
        'command line': COMMAND_LINES,
        'server': SERVERS,
    }.items()
    for name, case in cases.items()
}


def run_case(folder, case, *more, **kwargs):
    port = free_port()
    files = {'webapp.py': WEBAPP, **case.files}
    if isinstance(case.ini, bytes):
        Path(folder, 'site.ini').write_bytes(case.ini)
    else:
        files['site.ini'] = case.ini.replace('%(free)s', str(port))
    args = (*case.args, *more)
    if case.files is IN_THE_WAY:
        kwargs['env'] = {**os.environ, 'PYTHONPATH': str(Path(folder, 'first'))}
    with Site(folder, None, *args, files=files, wait=False, **kwargs) as process:
        assert not process.out.wait_for('Serving on'), process.report()
        process.code = process.wait()
        assert process.has_left_nothing()
    assert is_free(port)
    assert not list(Path(folder).glob('s'))
    return process


def check_one_line(process, case):
    text = process.err.text
    assert 'Traceback' not in text, process.report()
    assert len(text.splitlines()) == 1, process.report()
    for word in case.words:
        assert word in text, f'{word!r}: {process.report()}'
    if case.code is None:
        assert process.code in (1, 2)
    else:
        assert process.code == case.code, process.report()
    assert process.out.text == ''


def notes(folder):
    path = Path(folder, 'notes')
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize('name', CASES)
def test_it_is_told_in_one_line(tmp_path, name):
    process = run_case(tmp_path, CASES[name])
    check_one_line(process, CASES[name])
    assert notes(tmp_path) == (['opened', 'closed'] if name.startswith('start') else [])
    assert (tmp_path / 'webapp.py').read_text() == WEBAPP.lstrip('\n')


@pytest.mark.parametrize('name', [name for name in CASES if CASES[name].cause])
def test_v_shows_where_it_comes_from(tmp_path, name):
    case = CASES[name]
    process = run_case(tmp_path, case, '-v')
    assert 'Traceback' in process.err.text
    last = process.err.text.splitlines()[-1]
    for word in case.words:
        assert word in last, process.report()
    assert process.code in ([case.code] if case.code else (1, 2))


def test_a_plugin_that_exits_gives_the_site_its_code(tmp_path):
    process = run_case(tmp_path, plugin('call:webapp:start_exits', 3))
    assert process.code == 3, process.report()
    assert 'Traceback' not in process.err.text
    assert notes(tmp_path) == ['opened', 'closed']


def test_check_finds_what_it_can_without_composing(tmp_path):
    """The same line and code, with nothing imported."""
    # What stands in a module it cannot know.
    unknown = (
        'module in a package',
        'bus distribution',
        'bus function',
        'module of a package without __init__.py',
    )
    known = USES, TYPOS, INDENTED, EXPLICIT, INTERPOLATIONS, SETTINGS, PARSING, LOGGING
    known = *known, INCLUDED
    wrong = []
    for name, case in [pair for table in known for pair in table.items()]:
        if name.endswith(unknown) or isinstance(case.ini, bytes):
            continue
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        webapp = f'{WEBAPP}\nraise SystemExit("imported")'
        files = {'webapp.py': webapp, **case.files}
        files['site.ini'] = case.ini.replace('%(free)s', '0')
        process = run(folder, '--check', *case.args, files=files)
        if (process.code, len(process.err.text.splitlines())) != (2, 1):
            wrong.append(f'{name}: {process.report()}')
    assert not wrong, '\n'.join(wrong)


# -- what depends on who asks ---------------------------------------------------------

#: Runs a command without root's powers over files (1, 2) and ports (10), <linux/capability.h>.
PLAIN_USER = """
import ctypes, os, sys
PR_CAPBSET_DROP = 24
libc = ctypes.CDLL(None, use_errno=True)
if os.geteuid() == 0:
    for capability in (1, 2, 10):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            sys.exit(99)
os.execv(sys.argv[1], sys.argv[1:])
"""


def run_as_plain_user(folder, case):
    program = Path(sys.executable).parent / 'wspserve'
    words = [sys.executable, '-c', PLAIN_USER, program]
    process = run_case(folder, case, command=words)
    if process.code == 99:
        pytest.skip('cannot become a plain user here')
    return process


needs_linux = pytest.mark.skipif(sys.platform != 'linux', reason='needs Linux')


@pytest.mark.parametrize(
    ('made', 'why'),
    [
        (lambda path: path.mkdir(), 'is a directory'),
        (lambda path: path.write_text('precious'), 'is another file, and no socket'),
    ],
    ids=['a directory', 'a file'],
)
def test_what_is_no_socket_at_the_place_of_control_stays(tmp_path, made, why):
    made(tmp_path / 'here')
    case = settings('control = here', 2, f'control: here {why}')
    check_one_line(run_case(tmp_path, case), case)
    assert (tmp_path / 'here').exists()


@needs_linux
def test_an_unreadable_file_is_one_line(tmp_path):
    (tmp_path / 'secret.ini').touch(0o000)
    case = command('secret.ini', words=['secret.ini', 'permission denied'])
    check_one_line(run_as_plain_user(tmp_path, case), case)


@needs_linux
def test_an_unreadable_file_that_is_included_is_one_line(tmp_path):
    (tmp_path / 'secret.ini').touch(0o000)
    case = app('config:secret.ini', 2, 'secret.ini', 'permission denied')
    check_one_line(run_as_plain_user(tmp_path, case), case)


@needs_linux
@pytest.mark.parametrize('name', USED)
def test_a_privileged_port_is_one_line(tmp_path, name):
    first = Path('/proc/sys/net/ipv4/ip_unprivileged_port_start')
    if first.exists() and int(first.read_text()) <= 81:
        pytest.skip('no port is privileged here')
    lines = USED[name] + 'host = 127.0.0.1\nport = 81'
    case = server(lines, 1, '127.0.0.1:81', 'permission denied', '1024')
    check_one_line(run_as_plain_user(tmp_path, case), case)


@needs_linux
def test_a_log_file_that_must_not_be_written(tmp_path):
    (tmp_path / 'site.log').touch(0o444)
    case = command(
        '--log-file', 'site.log', 'site.ini', words=['site.log', 'ermission denied']
    )
    check_one_line(run_as_plain_user(tmp_path, case), case)


# -- what is taken ----------------------------------------------------------------------


def test_what_had_started_is_stopped_when_the_port_is_taken_meanwhile(tmp_path):
    """A server that binds by itself finds out last."""
    port = free_port()
    lines = f'use = call:late:make\nport = {port}\n'
    late = """
        import socket

        def make(global_conf, port):
            def serve(app):
                with socket.create_server(('127.0.0.1', int(port))):
                    raise SystemExit('it was free')
            return serve
        """
    with socket.create_server(('127.0.0.1', port)):
        ini = APP + FIRST + '[wspbus:main]\nplugins = first\n[server:main]\n' + lines
        files = {'webapp.py': WEBAPP, 'site.ini': ini, 'late.py': late}
        process = run(tmp_path, 'site.ini', files=files)
    case = Case(ini, 1, 'site.ini [server:main]', 'Address already in use')
    lines = process.err.text.splitlines()
    assert len(lines) == 1, process.report()
    assert process.code == 1
    for word in case.words:
        assert word in lines[0]
    assert notes(tmp_path) == ['opened', 'closed']


@pytest.mark.parametrize('name', USED)
def test_a_unix_socket_that_somebody_listens_on_is_left_alone(tmp_path, name):
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / 'taken'))
        taken.listen()
        lines = USED[name] + 'unix_socket = %(here)s/taken'
        case = server(lines, 1, 'taken', 'another process listens there')
        check_one_line(run_case(tmp_path, case), case)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / 'taken'))


def test_a_file_at_a_sockets_place_is_left_alone(tmp_path):
    path = tmp_path / 'precious'
    path.write_text('data')
    lines = USED['waitress'] + 'unix_socket = %(here)s/precious'
    case = server(lines, 1, 'precious', 'not a socket')
    check_one_line(run_case(tmp_path, case), case)
    assert path.read_text() == 'data'


def test_a_chain_of_sections_that_is_too_deep_is_one_line(tmp_path):
    chain = ''.join(f'[app:a{n}]\nuse = a{n + 1}\n' for n in range(2000))
    text = f'[app:main]\nuse = a0\n{chain}[app:a2000]\nuse = egg:paste_wspbus#hello\n'
    for args in ([], ['--check']):
        refused = run(tmp_path, 'site.ini', *args, files={'site.ini': text})
        assert refused.code == 2, refused.report()
        assert len(refused.err.text.splitlines()) == 1


@pytest.mark.parametrize('args', [[], ['--check']])
def test_a_module_that_is_a_link_to_nothing_is_named(tmp_path, args):
    (tmp_path / 'shop.py').symlink_to('../gone/shop.py')
    ini = '[app:main]\nuse = call:shop:make\n' + SERVER % {'free': free_port()}
    done = run(tmp_path, 'site.ini', *args, files={'site.ini': ini})
    assert done.code in (1, 2)
    line = "no module 'shop': shop.py is not a file, or a link to nothing"
    assert line in done.err.text, done.report()


@pytest.mark.parametrize('name', ['shop #2', 'shop ; old', '100%'])
def test_a_folder_whose_name_looks_like_a_comment(tmp_path, name):
    """The key of a path may begin with %(here)s; a comment behind the path is refused."""
    folder = tmp_path / name
    folder.mkdir()
    paths = '[wspbus:main]\npid_file = %(here)s/x.pid'
    ini = GOOD.replace('%(free)s', '0') + paths
    files = {'webapp.py': WEBAPP, 'site.ini': ini}
    with Site(folder, None, 'site.ini', files=files) as site:
        assert (folder / 'x.pid').exists()
        assert site.stop()[0] == 0
    files = {'site.ini': f'{ini} ; the number'}
    refused = run(folder, 'site.ini', files=files)
    assert refused.code == 2
    assert "x.pid ; the number' is not a path; a comment needs a line of its own" in (
        refused.err.text
    )
