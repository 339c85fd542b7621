"""log_format = json: each line is one object, whoever writes it."""

import json
import logging
import re

import pytest

from paste_wspbus.bus import ChannelFailures
from paste_wspbus.ini.logging import configure_logging, logging_parser
from paste_wspbus.plugins.json_log import JsonFormatter, fields_of_call, one_object
from paste_wspbus.workers.log_handlers import usable
from tests.kit import Site, run, write
from tests.kit.sites import SERVED

LOGGING = """
[loggers]
keys = root

[handlers]
keys = console, plain

[formatters]
keys = generic, own

[logger_root]
level = INFO
handlers = console

[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = generic

[handler_plain]
class = StreamHandler
args = (sys.stdout,)

[formatter_generic]
format = %(asctime)s %(message)s

[formatter_own]
class = logging.Formatter
format = own %(message)s
"""

WEB = """
import logging
import threading
import warnings

def make(global_conf):
    logging.getLogger('shop').warning('loads')
    return app

def app(environ, start_response):
    try:
        raise ValueError('line\\nfeed')
    except ValueError:
        logging.getLogger('shop').exception('no', extra={'cart': 3})
    warnings.warn('old')
    thread = threading.Thread(target=lambda: 1 / 0, name='mail')
    thread.start()
    thread.join()
    start_response('200 OK', [])
    return [environ['wspbus.request_id'].encode()]

def part(bus, global_conf):
    yield
    raise ValueError('stop')
"""

MAIN = """
[wspbus:main]
log_format = json
plugins = part
%s

[plugin:part]
use = call:webapp:part
"""


def formatted(message, *args, name='paste_wspbus', **more):
    record = logging.LogRecord(name, 30, 'f.py', 1, message, args, None)
    vars(record).update(more)
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    return json.loads(line)


def objects(*outputs):
    """Return the objects of outputs that have nothing else."""
    lines = [line for output in outputs for line in output.text.splitlines()]
    return [json.loads(line) for line in lines]


# -- one record -----------------------------------------------------------------------------


def test_a_record_is_an_object_with_fields():
    made = formatted('%s\n\x1b[2J é', 'a', request_id='r1', cart=3)
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z', made.pop('time'))
    assert made.pop('pid')
    assert made.pop('process')
    assert made.pop('thread')
    made.pop('generation', None), made.pop('worker', None)
    assert made == {
        'level': 'WARNING',
        'logger': 'paste_wspbus',
        'message': 'a\n\x1b[2J é',
        'request_id': 'r1',
        'cart': 3,
    }


def test_a_field_of_the_site_replaces_none_of_ours():
    assert formatted('a', level='forged', logger='forged')['level'] == 'WARNING'


def test_what_is_no_json_becomes_a_text():
    assert formatted('a', cart={1}, user=object)['cart'] == '{1}'


class Silent:
    def __repr__(self):
        raise LookupError


LOOP = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    'value, text',
    [
        (float('nan'), 'nan'),
        ([float('inf')], '[inf]'),
        ({(1, 2): 3}, '{(1, 2): 3}'),
        (LOOP, '[[...]]'),
        (Silent(), '<Silent>'),
        (10**5000, '<int>'),
    ],
    ids=['nan', 'infinite', 'key', 'loop', 'silent', 'large'],
)
def test_a_record_is_written_whatever_its_fields_are(value, text):
    fields = formatted('paid', cart=value, more=3)
    assert (fields['message'], fields['cart'], fields['more']) == ('paid', text, 3)


@pytest.mark.parametrize(
    'message, args, text',
    [
        ('%d', ('x',), "'%d' with the arguments ('x',) has no text: TypeError"),
        (Silent(), (), '<Silent> has no text: LookupError'),
        ({(1, 2): 3}, (), '{(1, 2): 3}'),
    ],
    ids=['argument', 'silent', 'key'],
)
def test_a_record_is_written_also_if_it_has_no_text(message, args, text):
    assert formatted(message, *args)['message'] == text


def test_outside_of_requests_there_is_no_id():
    assert 'request_id' not in formatted('a', request_id='-')


def test_a_traceback_in_a_message_of_the_bus_is_a_field():
    made = formatted(
        "Error in 'stop' listener x\nTraceback (most recent call last):\n  y"
    )
    assert made['message'] == "Error in 'stop' listener x"
    assert made['traceback'] == 'Traceback (most recent call last):\n  y'
    made = formatted('Traceback (most recent call last):', name='site')
    assert 'traceback' not in made


def test_what_the_command_prints_is_an_object():
    assert json.loads(one_object('no\nsite', 40))['level'] == 'ERROR'


def test_messages_of_the_bus_name_channel_and_listener(bus):
    found = []
    bus.subscribe('log', lambda msg, level: found.append(fields_of_call(bus, msg)))

    def fails():
        bus.log('inside')
        raise ValueError

    bus.log('outside')
    bus.subscribe('start', fails)
    with pytest.raises(ChannelFailures):
        bus.start()
    outside, _, inside, error, *_ = found
    assert outside == {}
    for one in (inside, error):
        assert one['channel'] == 'start'
        assert one['listener'].endswith('fails')
        assert one['duration'] >= 0


# -- the sections of the .ini -----------------------------------------------------------------


def test_a_formatter_with_a_class_stays(tmp_path):
    path = tmp_path / 'site.ini'
    path.write_text(LOGGING)
    parser = logging_parser(str(path), path.read_text(), {}, True)
    classes = {
        name: parser.get(f'formatter_{name}', 'class') for name in ('generic', 'own')
    }
    assert classes == {
        'generic': 'paste_wspbus.plugins.json_log.JsonFormatter',
        'own': 'logging.Formatter',
    }
    ours = usable(parser)
    assert 'JsonFormatter' in ours['formatter_generic']['class']
    assert 'SafeFormatter' in ours['formatter_own']['class']


def test_a_handler_without_a_formatter_makes_json(tmp_path, monkeypatch):
    path = tmp_path / 'site.ini'
    path.write_text(LOGGING.replace('handlers = console', 'handlers = plain'))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    factory = logging.getLogRecordFactory()
    try:
        configure_logging(str(path), path.read_text(), {}, True)
        assert isinstance(root.handlers[0].formatter, JsonFormatter)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.setLogRecordFactory(factory)


# -- a site -----------------------------------------------------------------------------------


@pytest.mark.parametrize('logs', ['', LOGGING])
@pytest.mark.parametrize('workers', [0, 1])
def test_each_line_of_a_site_is_an_object(tmp_path, workers, logs):
    ini = SERVED + MAIN % f'workers = {workers}' + logs
    with Site(tmp_path, ini, files={'webapp.py': WEB}, wait=False) as site:
        assert site.out.wait_for('Serving on ')
        url = re.search(r'http://127\.0\.0\.1:\d+', site.out.text)[0]
        site.urls, site.url = [url], url
        assert site.get('/').status == 200
        site.stop()
    made = objects(site.out, site.err)
    shop = next(one for one in made if one['message'] == 'no')
    assert shop['cart'] == 3
    assert re.fullmatch('[0-9a-f]{12}-[0-9]+', shop['request_id'])
    assert shop['traceback'].endswith('ValueError: line\nfeed')
    (mail,) = [one for one in made if one['logger'] == 'threading']
    assert mail['message'] == 'An error has ended the thread mail'
    assert mail['traceback'].endswith('ZeroDivisionError: division by zero')
    (old,) = [one for one in made if one['logger'] == 'py.warnings']
    assert 'UserWarning: old' in old['message']
    stop = next(one for one in made if one.get('channel') == 'stop')
    assert stop['listener'] == 'part'
    assert stop['traceback'].endswith('ValueError: stop')
    texts = [one['message'] for one in made]
    for text in ('Bus STARTED', 'Bus EXITED', f'Serving on {url}', 'loads'):
        assert text in texts
    if workers:
        assert {shop['worker'], shop['generation'], stop['worker']} == {1}
        assert 'supervisor' in {one['process'] for one in made}


def test_an_error_at_the_start_is_an_object(tmp_path):
    files = {
        'webapp.py': 'raise ValueError("no\\nlicence")',
        'site.ini': SERVED + MAIN % '',
    }
    write(tmp_path, files)
    done = run(tmp_path, 'site.ini')
    assert done.code
    made = objects(done.err)
    assert made[-1]['level'] == 'ERROR'
    assert 'site.ini [' in made[-1]['message']


def test_without_the_library_one_line_says_what_to_install(tmp_path):
    write(tmp_path, {'site.ini': SERVED + MAIN % '', 'webapp.py': WEB})
    blocked = tmp_path / 'blocked' / 'pythonjsonlogger'
    blocked.mkdir(parents=True)
    (blocked / '__init__.py').write_text('raise ModuleNotFoundError(name=__name__)')
    for args in ([], ['--check']):
        done = run(tmp_path, *args, 'site.ini', env={'PYTHONPATH': str(blocked.parent)})
        assert done.code == 2
        assert done.err.text == (
            'site.ini [wspbus:main] log_format: json needs python-json-logger 3 or newer: '
            "pip install 'paste_wspbus[json]'\n"
        )


def test_the_check_is_for_people(tmp_path):
    write(tmp_path, {'site.ini': SERVED + MAIN % '', 'webapp.py': WEB})
    done = run(tmp_path, '--check', 'site.ini')
    assert done.out.text == 'site.ini: no mistakes found\n'
    assert done.code == 0
