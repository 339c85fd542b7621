"""`status`: what it asks, prints and exits with."""

import re

from tests.kit.processes import kill


def test_status_of_a_running_site_tells_process_and_url(ground):
    ground.start()
    code, text = ground.status()
    assert code == 0
    first, second = text.splitlines()
    assert re.fullmatch(
        rf'The site is running \(process {ground.pid}\), for \d+ seconds?\.', first
    )
    assert second == f'Serving on {ground.url}'


def test_status_of_a_site_that_does_not_run(ground):
    code, text = ground.status()
    assert code == 3
    assert text == 'The site is not running (there is no paster.pid).\n'
    assert not ground.pid_file.exists()


def test_a_killed_site_is_dead_and_can_be_started_again(ground):
    ground.start()
    first = ground.pid
    kill(first)
    code, text = ground.status()
    assert code == 1
    assert str(first) in text
    assert 'paster.pid' in text
    ground.start()
    assert ground.pid != first
    assert ground.get() == f'hello {ground.pid}'
    assert (
        f'process {first}, which wrote it, is gone; this site uses the file now'
        in ground.log
    )
    ground.stop()
    assert ground.has_left_nothing()


def test_stop_tidies_up_after_a_killed_site(ground):
    ground.start()
    kill(ground.pid)
    process = ground.stop()
    assert 'not running' in process.out.text
    assert ground.has_left_nothing()


def test_the_option_status_is_the_subcommand(ground):
    ground.start()
    for words in (['--status', 'site.ini'], ['site.ini', '--status'], ['--status']):
        process = ground.run(*words)
        assert process.code == 0
        assert f'process {ground.pid}' in process.out.text
    ground.stop()
    assert ground.run('--status').code == 3


def test_status_of_a_site_that_is_composed(ground):
    ground.change(app='make_at_gate')
    with ground.begin('site.ini', 'start') as process:
        ground.gate.wait()
        code, text = ground.status()
        assert code == 0
        assert f'process {ground.pid}' in text
        ground.gate.open()
        assert process.wait() == 0, ground.report(process)


def test_status_names_the_requests_in_flight(ground):
    ground.start()
    with ground.request_at_gate('/Gate/To/X') as connection:
        code, text = ground.status()
        assert code == 0
        assert '1 request in flight' in text
        assert '/Gate/To/X' in text
        ground.gate.open()
        assert connection.receive().text == f'hello {ground.pid}'
