"""The ends of messages: what somebody may have meant."""

import pytest

from paste_wspbus import values
from paste_wspbus.command.unnamed import SUBCOMMANDS
from paste_wspbus.errors import ConfigError, FactoryError, SettingError
from paste_wspbus.ini import hints
from paste_wspbus.ini.settings import SETTINGS
from paste_wspbus.listening.addresses import parse_host
from paste_wspbus.testing import composed


@pytest.mark.parametrize(
    'section', ['[app:main', 'app.main', 'app main', 'app-main', 'appmain']
)
def test_a_section_with_other_signs_between_its_words_is_the_one_that_is_meant(section):
    hint = hints.section_hint(['app', 'application'], 'main', [section])
    assert hint == f'; did you mean [app:main], and not [{section}]?'


def test_a_section_that_has_another_name_is_not_the_one_that_is_meant():
    assert 'not [' not in hints.section_hint(['app'], 'main', ['app:shop', 'map.main'])


@pytest.mark.parametrize(
    ('key', 'hint'),
    [
        ('user', '; write --user NAME on the command line'),
        ('port', '; it is a key of [server:main]'),
        ('workrs', "; did you mean 'workers'?"),
        ('zzz', ''),
    ],
)
def test_a_key_that_is_an_option_or_belongs_elsewhere_is_named_as_that(key, hint):
    assert hints.unknown_key(key, SETTINGS) == f'unknown key{hint}'


LEVELS = ['NOTSET', 'DEBUG', 'INFO', 'WARNING', 'ERROR']


@pytest.mark.parametrize(
    ('word', 'meant', 'known'),
    [
        ('worker', 'workers', SETTINGS),
        ('wokers', 'workers', SETTINGS),
        ('stop_timout', 'stop_timeout', SETTINGS),
        ('metrics', 'site_metrics', SETTINGS),
        ('MaxMemory', 'max_memory', SETTINGS),
        ('deadline', 'request_deadline', SETTINGS),
        ('log', 'log_file', SETTINGS),
        ('pid', 'pid_file', SETTINGS),
        ('statu', 'status', SUBCOMMANDS),
        ('strat', 'start', SUBCOMMANDS),
        ('gracefull', 'graceful', SUBCOMMANDS),
        ('DEBG', 'DEBUG', LEVELS),
        ('err', 'ERROR', LEVELS),
        ('prot', 'port', ['host', 'port', 'threads']),
        ('app', 'make_app', ['make_app', 'main', 'os']),
        ('apq', 'app', ['app', 'main']),
        ('databse', 'database', ['database', 'catalog']),
    ],
)
def test_a_slip_or_a_part_of_a_name_means_that_name(word, meant, known):
    assert values.nearest(word, known) == f'; did you mean {meant!r}?'


@pytest.mark.parametrize(
    ('words', 'known'),
    [
        ('root port host cron redis url mode color group create', SETTINGS),
        ('list run test', SUBCOMMANDS),
        ('VERBOSE NOTICE', LEVELS),
        ('blog', ['shop', 'catalog', 'admin']),
        ('api', ['main', 'mail']),
    ],
)
def test_a_word_that_only_shares_letters_with_a_name_does_not_mean_it(words, known):
    assert [one for one in words.split() if values.nearest(one, known)] == []


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('SIGUSRR1', "; did you mean 'SIGUSR1'?"),
        ('usrr1', "; did you mean 'USR1'?"),
        ('kill', ''),
        ('SIGFOO', ''),
    ],
)
def test_a_signal_is_compared_without_the_letters_that_all_have(name, hint):
    assert hints.signal_hint(name) == hint


def test_an_ini_without_its_ending_is_found(tmp_path):
    (tmp_path / 'web.ini').touch()
    assert hints.file_hint('web', str(tmp_path)) == "; did you mean 'web.ini'?"
    assert 'wspserve --help' in hints.file_hint('help', str(tmp_path))


def test_an_ini_that_is_a_link_to_nothing_is_not_said_to_be_mistyped(tmp_path):
    (tmp_path / 'web.ini').symlink_to('../gone/web.ini')
    assert hints.file_hint('web.ini', str(tmp_path)) == ': it is a link to nothing'


def test_an_async_factory_is_called_so_and_warns_of_nothing():
    async def make():
        """Return nothing that a server could call."""

    assert 'make is an async function' in hints.no_application(make())
    assert hints.no_application(5) == '5 is not an application: it cannot be called'


MISTAKEN = {
    '[App:main]\n': '[app:main]; did you mean [app:main], and not [App:main]?',
    '[app:mian]\n': '[app:main]; did you mean [app:main], and not [app:mian]?',
    '[app:main]\nuse = "call:shop:make"\n': '; a value has no quotes',
    '[app:main]\nuse = shop:make\n': '; did you mean call:shop:make?',
    '[app:main]\nuse = shop.make\n': '; did you mean call:shop:make?',
    '[app:main]\nuse = call:shop.make\n': '; did you mean call:shop:make?',
    '[app:main]\nuse = shop\n': (
        '[app:shop]; it names a section, egg:DIST#NAME, call:MODULE:FUNCTION or config:FILE'
    ),
    '[app:main]\nuse = egg:shop  # ours\n': '; a comment needs a line of its own',
    '[app:main]\nuse = config:othr.ini\n': (
        'site.ini [app:main] use: config:othr.ini: there is no such file; did you mean '
        "'other.ini'?"
    ),
    '[pipeline:main]\npipeline = gzip, shop\n[filter:gzip]\n[app:shop]\n'
    'use = egg:paste_wspbus#hello\n': (
        '[filter:gzip,]; spaces separate the names, and no commas'
    ),
    '[pipeline:main]\npipeline =\n': (
        '[pipeline:main] pipeline: it names no application: filters first, the '
        'application last'
    ),
}


@pytest.mark.parametrize('text', MISTAKEN)
def test_a_mistake_of_an_app_section_says_what_would_be_right(tmp_path, text):
    (tmp_path / 'site.ini').write_text(text)
    (tmp_path / 'other.ini').touch()
    with pytest.raises(ConfigError) as caught, composed(tmp_path / 'site.ini'):
        pass
    assert str(caught.value).endswith(MISTAKEN[text])


SEVERAL = """
class Starlette:
    async def __call__(self, scope, receive, send):
        pass

def starlette(global_conf):
    return Starlette()

def asgi(global_conf):
    async def app(scope, receive, send):
        pass
    return app

def text(global_conf):
    return 'Starlette'

def lifespan(global_conf):
    yield text

def filter_(global_conf):
    return lambda app: app

NUMBER = 3
"""

TAKEN = """
import functools

def wraps(app):
    @functools.wraps(app)
    def wrapper(*args, **kwargs):
        return app(*args, **kwargs)
    return wrapper

class App:
    def plain(self, environ, start_response): pass
    def more(self, environ, start_response, log=None, debug=False): pass
    __call__ = staticmethod(lambda environ, start_response: None)

def plain(global_conf): return App().plain
def more(global_conf): return App().more
def static(global_conf): return App()
def kind(global_conf): return type('Made', (), {'__init__': App.plain})
def partial(global_conf): return functools.partial(App().more, debug=True)
def wrapped(global_conf): return wraps(App().plain)
"""


@pytest.mark.parametrize(
    ('factory', 'problem'),
    [
        (
            'starlette',
            'Starlette is an async application (ASGI), and wspserve serves WSGI',
        ),
        ('asgi', 'asgi.<locals>.app is an async application (ASGI)'),
        ('NUMBER', '[app:main]: 3 is no factory: it cannot be called'),
        (
            'lifespan',
            'lifespan has a yield, so it returns no application: write return',
        ),
        (
            'filter_',
            '<lambda> is not an application, which takes (environ, start_response): '
            'too many positional arguments; is it a filter?',
        ),
        ('text', "'Starlette' is not an application: it cannot be called"),
    ],
)
def test_what_makes_no_wsgi_application_is_refused(tmp_path, factory, problem):
    (tmp_path / 'several_apps.py').write_text(SEVERAL)
    ini = f'[app:main]\nuse = call:several_apps:{factory}\n'
    (tmp_path / 'site.ini').write_text(ini)
    with pytest.raises(FactoryError) as caught, composed(tmp_path / 'site.ini'):
        pass
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    'factory', ['plain', 'more', 'static', 'kind', 'partial', 'wrapped']
)
def test_what_takes_a_request_is_an_application(tmp_path, factory):
    (tmp_path / 'taken_apps.py').write_text(TAKEN)
    ini = f'[app:main]\nuse = call:taken_apps:{factory}\n'
    (tmp_path / 'site.ini').write_text(ini)
    with composed(tmp_path / 'site.ini') as site:
        assert site.app is not None


@pytest.mark.parametrize(
    ('host', 'hint'),
    [
        ('127.0.0.1:8080', '; the port has a key of its own'),
        (
            'http://127.0.0.1',
            '; write it without the scheme; the port has a key of its own',
        ),
        ('unix:/run/site', '; write unix_socket = PATH, without host and port'),
        ('', '; write 127.0.0.1 for this machine alone, or 0.0.0.0 for all networks'),
    ],
)
def test_a_host_with_a_port_is_none(host, hint):
    with pytest.raises(SettingError) as caught:
        parse_host(host)
    assert str(caught.value).endswith(f'is not a host name or address{hint}')


@pytest.mark.parametrize('host', ['::', '::1', 'fe80::1%eth0', 'localhost'])
def test_an_ipv6_address_is_a_host(host):
    assert parse_host(host) == host
