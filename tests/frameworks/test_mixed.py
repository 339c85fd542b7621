"""The mixed site of the samples: CherryPy, Pyramid, Pylons and Flask on one bus."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import xml.etree.ElementTree

import pytest

from tests.environments import environment
from tests.kit import TIMEOUT, Site, eventually, run
from tests.kit.places import ROOT

#: What they open: in this order, and closed in the reverse.
OPENED = [
    'Pyramid: the database of guests is open',
    'Pylons: the database of letters is open',
    'Flask: the clerks are at work',
    'CherryPy: the folder of uploads is there',
]
CLOSED = [
    'CherryPy: the folder of uploads is gone',
    'Flask: the clerks have gone home',
    'Pylons: the database of letters is closed',
    'Pyramid: the database of guests is closed',
]
PARTS = ['guests', 'letters', 'clerks', 'Uploads', 'WaitressServer']

PATHS = {'CherryPy': '/', 'Pyramid': '/api/', 'Pylons': '/old/', 'Flask': '/shop/'}
MODULES = {
    'CherryPy': 'wiki.py',
    'Pyramid': 'guestbook.py',
    'Pylons': 'archive.py',
    'Flask': 'shop.py',
}

#: In the place of the sample's: a slow page takes until the test lets it go.
PAGE = """\
import json
import os
from pathlib import Path


def page(framework, bus, seconds=0):
    if seconds:
        with open(Path(__file__).with_name('gate')) as gate:
            os.write(2, f'{framework} waits\\n'.encode())
            gate.read()
    facts = {'framework': framework, 'bus': id(bus), 'state': bus.state.name}
    return json.dumps({**facts, 'process': os.getpid(), 'open': list(bus.resources)})
"""

#: What the four log, with their process, goes to a file, too.
ORDER = """
[handler_order]
class = FileHandler
args = ('%(here)s/order.log', 'a')
formatter = order
[formatter_order]
format = %(process)d %(message)s
"""


def load_timeline():
    path = ROOT / 'docs' / 'timeline.py'
    spec = importlib.util.spec_from_file_location('timeline', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


timeline = load_timeline()


@pytest.fixture
def folder(tmp_path):
    """A copy of the sample whose slow pages wait, and which tells what it did."""
    folder = tmp_path / 'site'
    timeline.copy_with_recorder(folder)
    (folder / 'page.py').write_text(PAGE)
    os.mkfifo(folder / 'gate')
    ini = folder / 'site.ini'
    text = ini.read_text()
    for old, new in [
        ('port = 8080', 'port = 0'),
        ('keys = console', 'keys = console, order'),
        ('keys = generic', 'keys = generic, order'),
        ('handlers = console', 'handlers = console, order'),
    ]:
        assert old in text
        text = text.replace(old, new)
    ini.write_text(text + ORDER)
    return folder


def edit(folder, name, old, new):
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def words(command='wspserve'):
    programs = environment('pylons') / 'bin'
    paster = [programs / 'paster', 'wspserve']
    return paster if command == 'paster' else [programs / command]


def served(folder, *args, command='wspserve'):
    return Site(folder, None, 'site.ini', *args, command=words(command))


def order(folder):
    """{process: [what it opened and closed]}, from the file that they append to."""
    found = {}
    for line in (folder / 'order.log').read_text().splitlines():
        process, _, message = line.partition(' ')
        if message in OPENED + CLOSED:
            found.setdefault(int(process), []).append(message)
    return found


def runs(folder):
    """What the recorder wrote: a run for each process."""
    return [json.loads(line) for line in (folder / 'run.json').read_text().splitlines()]


def names(one, channel, outcome='ok'):
    """Of the site's parts, in the order of the timeline."""
    found = (
        timeline.name_of(call)
        for call in one['calls']
        if call['channel'] == channel and call['outcome'] == outcome
    )
    return [name for name in found if name in PARTS]


@contextlib.contextmanager
def slow_requests(site):
    """One in each of the four, in flight until ``release()``: (connections, release)."""
    with (
        open(site.folder / 'gate', 'r+b', buffering=0) as gate,
        contextlib.ExitStack() as stack,
    ):
        connections = {}
        for framework, path in PATHS.items():
            connections[framework] = stack.enter_context(site.connect())
            connections[framework].send(f'{path}report', connection='close')
            site.expect(f'{framework} waits\n')
        yield connections, gate.close


def stop_while_all_four_answer(site, signum=signal.SIGINT, processes=1):
    """One signal: (what the four answered, the exit code)."""
    with slow_requests(site) as (connections, release):
        site.send(signum)
        site.expect('] Bus STOPPING\n', processes)
        release()
        answers = {name: one.receive() for name, one in connections.items()}
    assert {answer.status for answer in answers.values()} == {200}, site.report()
    return {name: json.loads(one.body) for name, one in answers.items()}, site.wait()


# -- one Ctrl-C ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('command', 'signum'),
    [
        ('wspserve', signal.SIGINT),
        ('wspserve', signal.SIGTERM),
        ('paster', signal.SIGINT),
    ],
    ids=['SIGINT', 'SIGTERM', 'paster'],
)
def test_one_signal_stops_all_four_in_reverse_when_all_have_answered(
    folder, command, signum
):
    with served(folder, command=command) as site:
        facts = {name: json.loads(site.get(path).body) for name, path in PATHS.items()}
        assert json.loads(site.get('/old').body) == facts['Pylons']
        answers, code = stop_while_all_four_answer(site, signum)
    assert code == 0, site.report()
    assert site.has_left_nothing()
    [[process, told]] = order(folder).items()
    assert told == OPENED + CLOSED
    [[bus]] = {(one['bus'],) for one in facts.values()}
    for name, fact in facts.items():
        expected = {'framework': name, 'bus': bus, 'process': process}
        expected |= {'state': 'STARTED', 'open': PARTS[:3]}
        assert fact == expected
        assert answers[name] == expected | {'state': 'STOPPING'}
    [one] = runs(folder)
    assert names(one, 'start') == PARTS
    assert names(one, 'stop') == PARTS[::-1]


def test_each_worker_stops_all_four_in_reverse(folder):
    with served(folder, '--workers', '2') as site:
        _, code = stop_while_all_four_answer(site, processes=2)
    assert code == 0, site.report()
    assert site.has_left_nothing()
    assert list(order(folder).values()) == [OPENED + CLOSED] * 2
    assert [(names(one, 'start'), names(one, 'stop')) for one in runs(folder)] == [
        (PARTS, PARTS[::-1])
    ] * 2


# -- failures --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('framework', 'number'),
    [('CherryPy', 0), ('Flask', 1), ('Pylons', 2), ('Pyramid', 3)],
)
def test_one_that_fails_to_stop_keeps_none_of_the_others_from_it(
    folder, framework, number
):
    told = f"log.info('{CLOSED[number]}')"
    edit(folder, MODULES[framework], told, "raise LookupError('the key is lost')")
    with served(folder) as site:
        assert site.stop(signal.SIGINT)[0] == 1
    [[_, told]] = order(folder).items()
    assert told == [*OPENED, *CLOSED[:number], *CLOSED[number + 1 :]]
    assert 'LookupError: the key is lost' in site.err.text
    [one] = runs(folder)
    failed = PARTS[3 - number]
    assert names(one, 'stop', 'failed') == [failed]
    assert names(one, 'stop') == [name for name in PARTS[::-1] if name != failed]


@pytest.mark.parametrize(('framework', 'number'), [('Flask', 2), ('CherryPy', 3)])
def test_if_one_fails_to_start_those_before_it_are_stopped_in_reverse(
    folder, framework, number
):
    told = f"log.info('{OPENED[number]}')"
    edit(folder, MODULES[framework], told, "raise LookupError('there is no room')")
    process = run(folder, 'site.ini', command=words())
    assert process.code == 1
    [[_, told]] = order(folder).items()
    assert told == OPENED[:number] + CLOSED[4 - number :]
    assert 'LookupError: there is no room' in process.err.text.splitlines()[-1]
    assert 'Serving on' not in process.out.text


# -- reload ----------------------------------------------------------------------------


def test_an_edit_of_each_is_served_by_the_next_process(folder):
    with served(folder, '--reload') as site:
        for framework, path in PATHS.items():
            edit(folder, MODULES[framework], f"page('{framework}'", "page('Edited'")
            eventually(lambda path=path: b'"Edited"' in site.get(path).body)
        assert site.stop(signal.SIGINT)[0] == 0, site.report()
    assert site.has_left_nothing()
    told = list(order(folder).values())
    assert told.count(OPENED + CLOSED) >= 5
    for one in told:  # one that is started while a file is being saved gives up
        opened = len(one) // 2
        assert one == OPENED[:opened] + CLOSED[4 - opened :]


# -- the sample as it is ---------------------------------------------------------------


def test_check_finds_nothing_wrong_with_the_sample():
    sample = timeline.SAMPLE / 'site.ini'
    process = run(ROOT, '--check', sample, command=words())
    assert (process.code, process.err.text) == (0, '')


def test_without_pylons_the_other_three_are_served(tmp_path):
    """By the Python of the suite, which has none."""
    folder = tmp_path / 'site'
    timeline.copy_with_recorder(folder)
    edit(folder, 'site.ini', '/old = archive\n', '')
    assert '/old = archive' in (timeline.SAMPLE / 'site.ini').read_text()
    with Site(folder, None, 'site.ini', '--listen', '127.0.0.1:0') as site:
        for framework, path in PATHS.items():
            if framework != 'Pylons':
                assert site.get(path).text.startswith(f'{framework}: bus ')
        assert site.stop(signal.SIGINT)[0] == 0
    [one] = runs(folder)
    assert names(one, 'stop') == [name for name in PARTS[::-1] if name != 'letters']


# -- the picture -----------------------------------------------------------------------


def texts(svg):
    root = xml.etree.ElementTree.fromstring(svg)
    found = root.iterfind('.//{http://www.w3.org/2000/svg}text')
    return [(one.get('class'), one.text) for one in found]


def test_the_picture_in_the_docs_is_of_the_site_as_it_is(tmp_path):
    python, made = environment('pylons') / 'bin' / 'python', tmp_path / 'made.svg'
    program = ROOT / 'docs' / 'timeline.py'
    done = subprocess.run(
        [python, program, made], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(' is STOPPING, with guests, letters, clerks\n') == 4
    kept = timeline.PICTURE.read_text()
    assert len(kept) < 20_000
    assert '<script' not in kept
    stays = 'title', 'part', 'name'
    now = [text for text in texts(made.read_text()) if text[0] in stays]
    assert [text for text in texts(kept) if text[0] in stays] == now
    assert [text for kind, text in now if kind == 'name'] == ['SIGINT', *PARTS]


def call(channel, name, start, duration):
    made = {'channel': channel, 'name': name, 'start': start, 'duration': duration}
    return made | {'outcome': 'ok'}


def test_a_run_is_drawn_as_it_was():
    calls = [
        call('start', 'guests', 100, 0.002),
        call('start', 'odd & ends.start', 100.002, 0.006),
        call('start', 'nothing to stop', 100.008, 0.001),
        call('start', 'WaitressServer', 100.009, 0.001),
        call('stop', 'WaitressServer.stop', 103, 1),
        call('stop', 'odd & ends.stop', 104, 0.001),
        call('stop', 'guests', 104.001, 0.003),
    ]
    requests = [{'path': '/api/report', 'start': 102, 'end': 104}]
    log = [[99, 'Bus STARTING'], [103, 'Caught signal SIGINT.']]
    svg = timeline.draw({'calls': calls, 'requests': requests, 'log': log})
    said = texts(svg)
    assert [text for kind, text in said if kind == 'name'] == [
        'SIGINT',
        'guests',
        'odd & ends',
        'WaitressServer',
    ]
    told = [text for _, text in said if text.endswith(' ms')]
    assert sorted(told) == ['1 ms', '1 ms', '1000 ms', '2 ms', '3 ms', '6 ms']
    assert ('inside', '/api/report') in said
    # Half of the middle panel: from its beginning to the SIGINT.
    [request] = re.findall(r'<rect class="bar" x="372.0" .*? width="([\d.]+)"', svg)
    assert float(request) == 650 - 372
    [line] = re.findall(r'class="signal" d="M([\d.]+) ', svg)
    assert float(line) == (372 + 650) / 2
