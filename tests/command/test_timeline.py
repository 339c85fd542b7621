"""`timeline` and `blame`: what a start, a graceful restart and a stop took, of all processes."""

import json
import os
import re
import signal
import threading
import time
import xml.etree.ElementTree as ET

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.command.blame import SHOWN, Blame, text_of
from paste_wspbus.command.timeline import NotWritten, check, save
from paste_wspbus.control.panels import Scale, panels
from paste_wspbus.control.picture import (
    MARK,
    MAX_LIVES,
    MAX_ROWS,
    draw,
    page,
)
from paste_wspbus.control.timeline import Life, describe_calls
from paste_wspbus.errors import UsageError
from tests.kit import Site, run
from tests.kit.processes import freeze
from tests.kit.sites import APP, SERVED
from tests.kit.workers import FILES, Workers

SVG = '{http://www.w3.org/2000/svg}'


def call(channel, name, since, seconds, outcome='ok'):
    return [channel, name, since, seconds, outcome, 'MainThread']


def process(name='site', pid=7, began=100.0, calls=(), **more):
    return {'name': name, 'pid': pid, 'began': began, 'calls': [*calls], **more}


def answer(*processes):
    return {'now': 200.0, 'time': 1e9, 'processes': [*processes], 'forgotten': 0}


STARTED = [
    call('import', '[app:main]', 100.1, 0.2),
    call('factory', '[app:main]', 100.3, 0.1),
    call('start', 'database', 100.5, 0.5),
]
STOPPED = [call('drain', 'server', 190, 0.1), call('stop', 'database', 190.1, 1.9)]


def words(picture):
    return [
        ''.join(one.itertext()) for one in ET.fromstring(picture).iter(f'{SVG}text')
    ]


# -- what is drawn ---------------------------------------------------------------------


def test_a_start_and_a_stop_have_a_part_each_with_a_scale_of_its_own():
    start, stop = panels(answer(process(calls=STARTED + STOPPED)))
    assert (start.title, start.length) == ('Start', '1000 ms')
    assert (stop.title, stop.length) == ('Stop', '2.00 s')
    said = words(draw([start, stop]))
    assert any(one.endswith('Time in ms: one line is 100 ms.') for one in said)
    assert any(one.endswith('Time in s: one line is 0.2 s.') for one in said)
    assert 'start database (500 ms)' in said


def test_a_graceful_restart_lasts_until_the_old_processes_have_ended():
    supervisor = process(
        'supervisor',
        calls=[call('start', 'all', 100, 1.0), call('graceful', 'renew', 150, 2.0)],
    )
    old = process('worker 1', 8, 100.1, ready=101, leaves=151, ended=153, generation=1)
    new = process('worker 1', 9, 150.1, ready=151, generation=2)
    other = process('worker 2', 10, 120, ready=121, leaves=125, ended=140)
    start, renewal = panels(answer(supervisor, old, new, other))
    assert [one.pid for one in start.lives] == ['7', '8']
    assert renewal.title == 'Graceful restart'
    assert (renewal.begin, renewal.end) == (150, 153)
    assert [one.pid for one in renewal.lives] == ['7', '8', '9']


def test_the_processes_stand_in_the_order_in_which_they_began():
    """The supervisor first; an answer has those that have ended before the others."""
    supervisor = process('supervisor', calls=STARTED + STOPPED)
    others = [process('worker 1', n, 200 - n, ended=191.0) for n in (10, 20, 30)]
    _, stop = panels(answer(supervisor, *others))
    assert [one.pid for one in stop.lives] == ['7', '30', '20', '10']


def test_a_start_whose_calls_are_gone_is_not_drawn():
    (stop,) = panels(answer(process(calls=STARTED[:2] + STOPPED)))
    assert stop.title == 'Stop'


def test_a_start_that_has_not_ended_is_drawn_until_now():
    (start,) = panels(answer(process(calls=STARTED[:2])))
    assert (start.begin, start.end) == (100.0, 200.0)


def test_a_process_that_died_in_the_middle_has_a_row_that_says_so():
    supervisor = process('supervisor', calls=[call('start', 'all', 100, 1.0)])
    died = process(
        'worker 1', 8, 100.1, ended=100.5, how='signal SIGKILL', problem='its calls …'
    )
    (start,) = panels(answer(supervisor, died))
    (said,) = [one for one in words(draw([start])) if one.startswith('Worker 1')]
    assert said == 'Worker 1 (process 8), ended: signal SIGKILL, its calls …'


@pytest.mark.parametrize(
    'seconds, unit, step',
    [
        (1e-5, 'ms', 0.001),
        (0.412, 'ms', 50),
        (1.999, 'ms', 200),
        (2, 's', 0.2),
        (119, 's', 20),
        (120, 'min', 0.2),
        (86400, 'min', 200),
    ],
)
def test_the_scale_fits_the_length(seconds, unit, step):
    scale = Scale(seconds)
    assert (scale.unit, scale.step) == (unit, pytest.approx(step))
    assert 4 <= len(scale.ticks()) <= 11
    assert scale.ticks()[-1][0] <= seconds * (1 + 1e-6)


def test_what_is_too_short_for_a_scale_has_a_smaller_unit():
    hour, minute = Scale(3600), Scale(60)
    shown = [hour.text(one) for one in (600, 6, 5, 0.003)]
    assert shown == ['10.0 min', '0.10 min', '5.00 s', '3.00 ms']
    assert [minute.text(one) for one in (0.1, 0.09, 0)] == [
        '0.10 s',
        '90.0 ms',
        '0.00 ms',
    ]


def test_a_picture_is_bounded_and_says_what_it_leaves_out():
    calls = [call('start', f'lifespan {n}', 100 + n / 1e3, n / 1e6) for n in range(300)]
    many = [process(f'worker {n}', n + 10, 100.1, ready=100.2) for n in range(50)]
    said = words(draw(panels(answer(process(calls=calls, left_out=9700), *many))))
    assert f'{9700 + 300 - MAX_ROWS} more calls of it are not drawn.' in said
    assert f'{51 - MAX_LIVES} more processes are not drawn.' in said
    assert sum(one.startswith('start lifespan') for one in said) == MAX_ROWS


def test_names_are_text_and_nothing_else():
    evil = '</text><script>alert(1)</script>&\x00\x1b[2J\ud800\u202e"\''
    shown = panels(
        answer(process(evil, calls=[call('start', evil, 100, 1.0, evil)], how=evil))
    )
    for made in (draw(shown), page(shown)):
        made.encode()
        assert '<script' not in made and '\x1b' not in made and '\u202e' not in made
    assert list(ET.fromstring(draw(shown)).iter(f'{SVG}script')) == []


def test_a_picture_needs_no_other_file_and_has_both_colour_schemes():
    made = page(panels(answer(process(calls=STARTED))))
    assert 'prefers-color-scheme: dark' in made
    assert re.findall(r'https?://[^"]*', made) == ['http://www.w3.org/2000/svg']
    assert re.search('url|@import|src=', made) is None


@pytest.mark.parametrize(
    'said',
    [
        {},
        {'processes': []},
        {'processes': [{}], 'now': 'x', 'time': None},
        answer(process(began=None)),
        answer(process(began=300.0)),
        answer(process(began='soon', ready=[], ended=True)),
        answer(process(calls=[call('start', 'x', 1e11, 1e11)])),
    ],
)
def test_an_answer_of_another_kind_makes_no_traceback(said):
    draw(panels(said))


# -- the file --------------------------------------------------------------------------


def test_an_older_picture_is_replaced_and_nothing_else_is(tmp_path, capsys):
    path = tmp_path / 'a.svg'
    save(str(path), answer(process(calls=STARTED)))
    check(str(path))
    save(str(path), answer(process(calls=STARTED + STOPPED)))
    assert capsys.readouterr().out.endswith('a.svg: start (1000 ms), stop (2.00 s)\n')
    assert MARK in path.read_text()
    assert os.listdir(tmp_path) == ['a.svg']
    other = tmp_path / 'index.html'
    other.write_text('<html>')
    with pytest.raises(NotWritten, match='it exists, and is no timeline'):
        check(str(other))


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / 'folder.svg').mkdir()
    (tmp_path / 'link.svg').symlink_to('/nowhere')
    os.mkfifo(tmp_path / 'fifo.svg')
    for name, problem in (
        ('no/a.svg', 'there is no folder'),
        ('folder.svg', 'it is a folder'),
        ('link.svg', 'it exists, and is no timeline'),
        ('fifo.svg', 'it exists, and is no timeline'),
    ):
        with pytest.raises(NotWritten, match=problem):
            check(str(tmp_path / name))
    for name in ('site.ini', 'a.png', 'svg'):
        with pytest.raises(UsageError, match='must end with'):
            check(str(tmp_path / name))
    with pytest.raises(NotWritten, match='No such file'):
        save(str(tmp_path / 'gone' / 'a.svg'), answer(process(calls=STARTED)))
    with pytest.raises(NotWritten, match='recorded nothing'):
        save(str(tmp_path / 'a.svg'), {})


# -- blame -----------------------------------------------------------------------------


def blamed(*processes, full=False):
    return text_of([Blame(Life(one)) for one in processes], full)


def test_blame_has_the_longest_first_and_the_time_inside_another_once():
    calls = [
        call('factory', '[pipeline:main]', 100, 1.0),
        call('factory', '[app:main]', 100.1, 0.9),
        call('start', 'database', 102, 0.5, 'failed'),
        call('stop', 'database', 103, 9.0),
        call('request', 'GET /', 110, 0.3),
        call('request', 'GET /', 110, 0.4),
    ]
    assert blamed(process(calls=calls, ready=103.0, left_out=3)) == [
        'The site (process 7) was ready after 3000 ms:',
        '      900.0 ms  factory  [app:main]',
        '      500.0 ms  start    database (failed)',
        '      100.0 ms  factory  [pipeline:main]',
        '  3 more calls are left out',
        '  First request: GET / took 300 ms',
    ]


def test_blame_is_short_and_says_what_it_leaves_out():
    calls = [call('start', f'no {n}', 100 + n, 0.1) for n in range(SHOWN + 5)]
    calls.append(call('start', 'tiny', 200, 0.0001))
    lines = blamed(process(calls=calls))
    assert len(lines) == SHOWN + 2
    assert lines[-1] == '  6 more took 500 ms together (-v shows them)'
    assert len(blamed(process(calls=calls), full=True)) == SHOWN + 7


def test_blame_shows_the_slowest_new_worker_and_names_the_others():
    def worker(number, seconds, generation=2):
        calls = [call('start', 'database', 100, seconds)]
        return process(f'worker {number}', number, calls=calls, generation=generation)

    site = process('site plugins', 9, calls=[call('start', 'cron', 100, 0.1)])
    found = [process('supervisor'), worker(1, 9, 1), worker(1, 2), worker(2, 3), site]
    lines = blamed(*found)
    heads = [line for line in lines if line.endswith(':')]
    assert heads == [
        'Worker 2 (process 2, generation 2):',
        'Site plugins (process 9):',
    ]
    assert lines[-1] == 'Others: worker 1 9000 ms, worker 1 2000 ms (-v shows them)'
    assert len([one for one in blamed(*found, full=True) if one.endswith(':')]) == 5


def test_blame_shows_the_imports_by_distribution_if_the_start_has_recorded_them():
    bus = Bus()
    for call in (
        ('import', '[app:main]', 100.0, 1.0),
        ('module', 'webob', 100.1, 0.75),
        ('imported', 'webob', 0.0, 0.5),
        ('imported', 'builtins', 0.0, 0.2),
        ('imported', 'my_shop', 0.0, 0.05),
    ):
        bus.calls.record(*call)
    told = process(**json.loads(json.dumps(describe_calls(bus))))
    assert blamed(told)[1:] == [
        '      500.0 ms  import   WebOb',
        '      250.0 ms  import   [app:main]',
        "      200.0 ms  import   Python's own modules",
        "       50.0 ms  import   the site's own modules",
    ]
    assert all('my_shop' not in one for one in words(draw(panels(answer(told)))))


# -- for real --------------------------------------------------------------------------


def test_one_process_says_what_its_start_took_and_draws_it(tmp_path):
    ini = f'[wspbus:main]\nimport_times = true\n{SERVED}'
    with Site(tmp_path, ini, files={'webapp.py': APP}) as site:
        site.get('/log')
        told = run(tmp_path, 'site.ini', 'blame', '-v')
        assert told.code == 0, told.report()
        assert told.out.text.startswith(f'The site (process {site.pid}):\n')
        assert re.search(r' ms  import   \[app:main\]\n', told.out.text)
        assert re.search(r' ms  start    \S*WaitressServer\n', told.out.text)
        assert re.search(r" ms  import   Python's own modules\n", told.out.text)
        assert 'import_times' not in told.out.text
        assert re.search(r'  First request: GET /log took [\d.]+ ms\n', told.out.text)
        (said,) = json.loads(run(tmp_path, 'site.ini', 'blame', '--json').out.text)
        assert said['pid'] == str(site.pid) and said['rows']
        drawn = run(tmp_path, 'site.ini', 'timeline', 'a.html')
        assert re.fullmatch(r'a\.html: start \(\d.*\)\n', drawn.out.text), (
            drawn.report()
        )
        piped = run(tmp_path, 'site.ini', 'timeline')
        assert ET.fromstring(piped.out.text).tag == f'{SVG}svg'
        stopped = run(tmp_path, 'site.ini', 'stop', '--timeline', 'site.ini')
        assert stopped.code == 2  # and the site runs on
        stopped = run(tmp_path, 'site.ini', 'stop', '--timeline', 'b.svg')
        assert stopped.code == 0, stopped.report()
    assert any(
        one.startswith('Stop: ') for one in words((tmp_path / 'b.svg').read_text())
    )


def test_a_process_that_waited_for_a_change_has_not_started_meanwhile(tmp_path):
    with Site(tmp_path, SERVED, '--reload', files={'webapp.py': APP}) as site:
        for number in range(2):  # the second reload has a spare
            threading.Event().wait(0.5)
            edited = time.monotonic()
            (tmp_path / 'webapp.py').write_text(f'{APP}\n# {number}\n')
            assert site.err.wait_for('served in', count=number + 1)
        took = time.monotonic() - edited
        told = run(tmp_path, 'site.ini', 'blame', '--json')
        known = [one for one in json.loads(told.out.text) if one['ready_after']]
        (said,) = [one for one in known if one['name'] == 'site']
        assert 0 < said['ready_after'] <= took
        site.stop()


def test_a_site_that_does_not_run_says_what_can_be_done(tmp_path):
    files = {'site.ini': '[app:main]\nuse = call:x:y\n'}
    told = run(tmp_path, 'site.ini', 'blame', files=files)
    assert told.code == 3
    assert told.err.text.endswith(
        'With --load, blame loads it in another process, and starts nothing.\n'
    )
    assert run(tmp_path, 'site.ini', 'timeline', 'a.svg').code == 3
    assert not (tmp_path / 'a.svg').exists()


def test_all_processes_are_drawn_also_one_that_was_killed(tmp_path):
    with Workers(tmp_path) as site:
        killed = site.pids()[1]
        os.kill(killed, signal.SIGKILL)
        site.expect('crashed')
        site.graceful()
        pids = site.pids()
        told = site.run('timeline', '--json')
        lives = {one['pid']: one for one in json.loads(told.out.text)['processes']}
        assert lives[killed]['how'] == 'signal SIGKILL'
        assert 'not known: it ended without' in lives[killed]['problem']
        assert lives[pids[0]]['problem'] is None
        freeze(pids[0])
        (late,) = [
            one
            for one in json.loads(site.run('timeline', '--json').out.text)['processes']
            if one['pid'] == pids[0]
        ]
        assert late['calls'] and late['ended'] is None  # what it had said before
        os.kill(pids[0], signal.SIGCONT)
        told = site.run('stop', '--timeline', 'a.svg')
        assert told.code == 0, told.report()
    picture = (tmp_path / 'a.svg').read_text()
    said = words(picture)
    titles = [
        one.partition(':')[0] for one in said if re.match('Start|Grace|Stop', one)
    ]
    assert titles == ['Start', 'Graceful restart', 'Stop']
    for pid in pids:
        assert any(f'(process {pid}, generation 2), ended: exit' in one for one in said)
    assert sum(one.startswith('stop resource (') for one in said) >= 2


def test_a_worker_that_hangs_at_its_start_is_not_waited_for(tmp_path):
    """The supervisor answers, and says that the worker starts."""
    from tests.kit.workers import AT_GATE, open_gate, set_up

    with Workers(tmp_path, count=1, files=FILES) as site:
        set_up(tmp_path, at_composition=AT_GATE)
        with site.begin('graceful') as renewal:
            site.expect('composing')
            told = site.run('timeline', '--json')
            open_gate(tmp_path)
            assert renewal.wait() == 0
        problems = [
            one.get('problem') for one in json.loads(told.out.text)['processes']
        ]
        assert 'its calls are not known yet: it starts' in problems
