"""The reports of one process: on what they are written, and what is in them."""

import json
import os
import stat

import pytest

from paste_wspbus import Bus
from paste_wspbus.bus import ending
from paste_wspbus.process.own_reports import OwnReports
from tests.kit import Site, run
from tests.kit.sites import APP, SERVED


@pytest.fixture
def forced():
    return []


@pytest.fixture
def bus(forced, monkeypatch):
    def note(bus, why, runs_handlers):
        forced.append(why)

    monkeypatch.setattr(ending, 'force_exit', note)
    bus = Bus()
    yield bus
    bus.exit()


@pytest.fixture
def reports(bus, tmp_path):
    made = OwnReports(bus, str(tmp_path), lambda: {'versions': {'waitress': '3'}})
    made.subscribe()
    return made


def written(folder, kind):
    return sorted(folder.glob(f'*-{kind}-site-{os.getpid()}.txt'))


def test_a_site_that_stops_because_something_failed_has_a_report(
    bus, reports, tmp_path
):
    bus.start()
    bus.log('no route to db://shop:pw@db', 40)
    bus.log(f'{"-" * 495} t0psecret', 40)
    reports.notes.hide(['t0psecret', 't0p'])
    bus.exit_code = 3
    bus.stop()
    (report,) = written(tmp_path, 'crash')
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    text = report.read_text()
    told = json.loads(text.splitlines()[-1])
    assert (
        text.partition('\n')[0]
        == f'The site (process {os.getpid()}) stops with exit code 3.'
    )
    assert told['errors'][0]['text'] == 'no route to db://***@db'
    assert told['errors'][1]['text'].endswith('-- ***')
    assert 'Versions\n  waitress = 3\n' in text and 'supervisor' not in text


def test_a_site_that_stops_has_none(bus, reports, tmp_path):
    bus.start()
    bus.stop()
    assert not list(tmp_path.iterdir())


def test_a_stop_by_force_is_reported_before_the_process_ends(
    bus, reports, forced, tmp_path
):
    bus.force_exit('The site did not stop within 2 s')
    assert forced == ['The site did not stop within 2 s']
    (report,) = written(tmp_path, 'kill')
    assert ' ends by force: The site did not stop within 2 s.\n' in report.read_text()


def test_of_requests_that_are_overdue_one_in_a_minute_is_reported(reports, tmp_path):
    for _ in range(3):
        reports.is_overdue('GET /sleep has run for 2.0 s')
    (report,) = written(tmp_path, 'deadline')
    assert 'has an overdue request: GET /sleep has run for 2.0 s.' in report.read_text()


def test_a_report_that_cannot_be_written_is_told_once(bus, log, tmp_path):
    reports = OwnReports(bus, str(tmp_path / 'gone'), dict)
    reports._write('kill', 'ends')
    reports._write('kill', 'ends')
    assert sum('gone: No such file' in line for line in log) == 1


OVERDUE = """
[wspbus:main]
request_deadline = 200ms
reports = .
"""


def test_an_overdue_request_has_a_report_without_workers(tmp_path):
    with Site(tmp_path, SERVED + OVERDUE, files={'webapp.py': APP}) as site:
        with site.connect() as client:
            client.send('/wait')
            site.expect('The site has a report: ')
            site.release()
        assert site.stop()[0] == 0
    (report,) = tmp_path.glob('*-deadline-site-*.txt')
    assert 'has an overdue request: GET /wait has run for 0.' in report.read_text()


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='Linux')
@pytest.mark.parametrize('args', [['--check'], [], ['--workers', '1']])
def test_a_folder_that_takes_no_file_is_refused(tmp_path, args):
    ini = SERVED + '[wspbus:main]\nreports = /proc\n'
    files = {'site.ini': ini, 'webapp.py': APP}
    told = run(tmp_path, 'site.ini', *args, files=files)
    assert told.code == 2
    assert 'site.ini [wspbus:main] reports: /proc takes no file (' in told.err.text
