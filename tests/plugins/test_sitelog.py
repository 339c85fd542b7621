"""What the bus says is logged, and log files are reopened without losing a line."""

import io
import logging
import logging.config
import logging.handlers
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from paste_wspbus.bus import ChannelFailures
from paste_wspbus.bus.channels import name_of
from paste_wspbus.plugins import log_files
from paste_wspbus.plugins.sitelog import SiteLog
from tests.kit import TIMEOUT, Process, eventually
from tests.kit.places import ROOT


@pytest.fixture
def said(bus):
    """What the bus logs, as a list that grows."""
    lines = []
    bus.subscribe('log', lambda msg, level: lines.append(msg))
    return lines


@pytest.fixture
def sitelog(bus):
    sitelog = SiteLog(bus)
    sitelog.subscribe()
    return sitelog


@pytest.fixture
def logger(request):
    """A logger of the test's own, whose handlers are closed when it is over."""
    logger = logging.getLogger(f'site.{request.node.name}')
    logger.setLevel(logging.INFO)
    logger.propagate = False
    before = set(logger.handlers)
    yield logger
    for handler in set(logger.handlers) - before:
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'site.log'


def rotate(path, name='rotated.log'):
    return path.rename(path.with_name(name))


# -- what the bus says ------------------------------------------------------------


@pytest.mark.parametrize('is_reloaded', [True, False])
def test_under_reload_the_routine_of_the_bus_is_for_debug(
    bus, sitelog, caplog, is_reloaded
):
    caplog.set_level(logging.DEBUG, 'paste_wspbus')
    sitelog.routine_is_debug = is_reloaded
    bus.log('Bus STARTING')
    bus.log('The site (process 4711) is ready')
    bus.log('Bus pass: 3 left')
    bus.log('Bus STOPPING', 30)
    levels = [record.levelname for record in caplog.records]
    routine = 'DEBUG' if is_reloaded else 'INFO'
    assert levels == [routine, routine, 'INFO', 'WARNING']


def test_what_the_bus_says_is_logged_with_its_level(bus, sitelog, caplog):
    caplog.set_level(logging.DEBUG, 'paste_wspbus')
    bus.log('100% told')
    bus.log('in trouble', 40)
    assert caplog.record_tuples == [
        ('paste_wspbus', logging.INFO, '100% told'),
        ('paste_wspbus', logging.ERROR, 'in trouble'),
    ]


def test_a_record_names_the_line_that_has_logged_it(bus, sitelog, caplog):
    caplog.set_level(logging.DEBUG, 'paste_wspbus')
    bus.log('here')
    here = sys._getframe().f_code
    (record,) = caplog.records
    assert (record.pathname, record.funcName) == (__file__, here.co_name)
    assert record.lineno == here.co_firstlineno + 2


def test_it_is_logged_without_tracebacks_if_so_wanted(bus, sitelog, caplog):
    for sitelog.tracebacks in (True, False):
        try:
            raise RuntimeError('boom')
        except RuntimeError:
            bus.log('failed', 40, traceback=True)
    first, second = (record.getMessage() for record in caplog.records)
    assert 'RuntimeError: boom' in first
    assert second == 'failed (RuntimeError: boom)'


def test_quiet_drops_what_the_command_says_and_nothing_else_that_is_wrong(
    bus, sitelog, caplog
):
    caplog.set_level(logging.DEBUG, 'paste_wspbus')
    sitelog.quiet = True

    @bus.subscribe('start', timeout=0.01)
    def hang():
        time.sleep(60)

    @bus.subscribe('stop', priority=1)
    def other():
        raise RuntimeError('cannot stop')

    bus.log('a detail', 20)
    for level in (30, 40, 50):
        bus.log('no licence', level)
    with pytest.raises(ChannelFailures):
        bus.start()
    bus.unsubscribe('start', hang)

    @bus.subscribe('start')
    def fail():
        raise RuntimeError('cannot start')

    with pytest.raises(ChannelFailures):
        bus.start()
    told = [
        (one.levelno, one.getMessage().partition('\n')[0]) for one in caplog.records
    ]
    stopped = 40, f"Error in 'stop' listener {name_of(other)}"
    said = [(level, 'no licence') for level in (30, 40, 50)]
    assert [(level, line.partition(', at ')[0]) for level, line in told] == [
        *said,
        stopped,
        stopped,
    ]


def test_unsubscribed_it_logs_and_reopens_nothing(bus, sitelog, logger, path, caplog):
    logger.addHandler(logging.FileHandler(path))
    sitelog.unsubscribe()
    rotate(path)
    bus.log('told')
    bus.publish('reopen_logs')
    assert caplog.records == []
    assert not path.exists()


# -- which files are reopened ---------------------------------------------------------


@pytest.mark.parametrize(
    'make',
    [
        logging.FileHandler,
        lambda path: logging.FileHandler(path, 'w'),
        logging.handlers.WatchedFileHandler,
        lambda path: logging.handlers.RotatingFileHandler(path, maxBytes=10**6),
        lambda path: logging.handlers.TimedRotatingFileHandler(path, 'D'),
    ],
    ids=['file', 'w', 'watched', 'rotating', 'timed'],
)
def test_a_file_that_was_moved_away_is_opened_anew(bus, sitelog, logger, path, make):
    handler = make(path)
    logger.addHandler(handler)
    old = handler.stream
    logger.info('before')
    rotated = rotate(path)
    bus.publish('reopen_logs')
    assert old.closed
    opened = handler.stream
    logger.info('after')
    assert handler.stream is opened
    assert (rotated.read_text(), path.read_text()) == ('before\n', 'after\n')


def test_a_file_that_nobody_moved_keeps_its_lines(bus, sitelog, logger, path):
    handler = logging.FileHandler(path, 'w')
    logger.addHandler(handler)
    for line in ('one', 'two'):
        logger.info(line)
        bus.publish('reopen_logs')
    logger.info('three')
    assert path.read_text() == 'one\ntwo\nthree\n'
    assert handler.mode == 'w'


def test_a_rotating_handler_goes_on_rotating(bus, sitelog, logger, path):
    logger.addHandler(
        logging.handlers.RotatingFileHandler(path, maxBytes=12, backupCount=1)
    )
    logger.info('line one')
    bus.publish('reopen_logs')
    logger.info('line two')
    assert path.read_text() == 'line two\n'
    assert path.with_name('site.log.1').read_text() == 'line one\n'


def test_a_file_that_was_never_opened_stays_so(bus, sitelog, logger, path):
    logger.addHandler(logging.FileHandler(path, delay=True))
    bus.publish('reopen_logs')
    assert not path.exists()
    logger.info('first')
    assert path.read_text() == 'first\n'


def test_handlers_inside_of_handlers_are_reopened(bus, sitelog, logger, path):
    """Nothing but the handler itself knows of them."""
    inner = logging.FileHandler(path)
    records = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(records, inner)
    logger.addHandler(logging.handlers.QueueHandler(records))
    target = logging.FileHandler(path.with_name('memory.log'))
    memory = logging.handlers.MemoryHandler(1, target=target)
    logger.addHandler(memory)
    try:
        for which in (path, Path(target.baseFilename)):
            rotate(which, f'old-{which.name}')
        bus.publish('reopen_logs')
        listener.start()
        logger.info('after')
        listener.stop()
        assert path.read_text() == path.with_name('memory.log').read_text() == 'after\n'
    finally:
        inner.close()
        target.close()


def test_handlers_that_logging_forgot_are_reopened(bus, sitelog, path):
    """Those that were there before dictConfig and fileConfig."""
    script = f"""
import logging, logging.config
from paste_wspbus.bus import Bus
from paste_wspbus.plugins.sitelog import SiteLog
logger = logging.getLogger('access')
handler = logging.FileHandler({str(path)!r})
logger.addHandler(handler)
logging.config.dictConfig({{'version': 1, 'disable_existing_loggers': False}})
assert not logging._handlerList
logger.error('before')
import os
os.rename({str(path)!r}, {str(path) + '.1'!r})
bus = Bus()
SiteLog(bus).subscribe()
bus.publish('reopen_logs')
logger.error('after')
"""
    subprocess.run(
        [sys.executable, '-c', script],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        check=True,
        timeout=TIMEOUT,
    )
    assert path.read_text() == 'after\n'


def test_pastes_access_log_is_reopened(bus, sitelog, logger, path):
    from paste.translogger import TransLogger

    logger.addHandler(logging.FileHandler(path))
    app = TransLogger(
        lambda environ, start_response: [
            start_response('200 OK', [('Content-Length', '0')]) and b''
        ],
        logger=logger,
        setup_console_handler=False,
    )

    def request(name):
        environ = {'REQUEST_METHOD': 'GET', 'PATH_INFO': name, 'SCRIPT_NAME': ''}
        environ['SERVER_PROTOCOL'] = 'HTTP/1.1'
        app(environ, lambda status, headers, exc_info=None: None)

    request('/before')
    rotated = rotate(path)
    bus.publish('reopen_logs')
    request('/after')
    assert '"GET /before HTTP/1.1" 200' in rotated.read_text()
    assert '"GET /after HTTP/1.1" 200' in path.read_text()
    assert 'after' not in rotated.read_text()


def test_what_is_no_file_is_left_alone(bus, sitelog, said, logger, tmp_path):
    """To open a pipe anew would wait for somebody who reads it."""
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    in_pipe, in_memory = logging.FileHandler(pipe), logging.FileHandler(pipe)
    in_memory.stream.close()
    in_memory.stream = io.StringIO()
    streams = in_pipe.stream, in_memory.stream
    for handler in (in_pipe, in_memory):
        logger.addHandler(handler)
    os.close(reader)
    # Whoever waits to write into it holds the lock.
    held, done, let_go = threading.Event(), threading.Event(), []

    def write():
        with in_pipe.lock:
            held.set()
            let_go.append(done.wait(TIMEOUT))

    writer = threading.Thread(target=write)
    writer.start()
    assert held.wait(TIMEOUT)
    bus.publish('reopen_logs')
    done.set()
    writer.join(TIMEOUT)
    assert let_go == [True]
    assert (in_pipe.stream, in_memory.stream) == streams
    assert said == []


def test_a_handler_in_the_midst_of_a_rollover_is_waited_for(bus, sitelog, logger, path):
    wanted = threading.Event()

    class Handler(logging.FileHandler):
        def acquire(self):
            wanted.set()
            super().acquire()

    handler = Handler(path)
    logger.addHandler(handler)
    reopening = threading.Thread(target=bus.publish, args=('reopen_logs',))
    with handler.lock:
        handler.stream.close()
        handler.stream = None  # for a moment, as its own rotation has it
        wanted.clear()
        reopening.start()
        assert wanted.wait(TIMEOUT)
        handler.stream = handler._open()
        rotated = rotate(path)
    reopening.join(TIMEOUT)
    logger.info('after')
    assert (rotated.read_text(), path.read_text()) == ('', 'after\n')


# -- what fails -------------------------------------------------------------------------


def test_a_file_that_cannot_be_opened_stays_in_use_and_the_others_are_reopened(
    bus, sitelog, said, logger, tmp_path
):
    paths = [tmp_path / name / 'site.log' for name in ('first', 'broken', 'last')]
    for path in paths:
        path.parent.mkdir()
        logger.addHandler(logging.FileHandler(path))
    logger.addHandler(logging.FileHandler(paths[1]))  # the same file once more
    first, broken, last = (rotate(path) for path in paths)
    gone = broken.parent.rename(tmp_path / 'gone')
    bus.publish('reopen_logs')
    logger.info('after')
    assert (gone / 'rotated.log').read_text() == 'after\n' * 2
    assert paths[0].read_text() == paths[2].read_text() == 'after\n'
    assert first.read_text() == last.read_text() == ''
    assert said == [
        f'Cannot reopen {paths[1]}: No such file or directory; the old file is used'
    ]
    gone.rename(paths[1].parent)
    bus.publish('reopen_logs')
    logger.info('healed')
    assert paths[1].read_text() == 'healed\n' * 2
    assert len(said) == 1


def test_a_handler_class_that_fails_in_its_own_way_does_not_stop_the_others(
    bus, sitelog, said, logger, tmp_path
):
    class Compressed(logging.FileHandler):
        def _open(self):
            if hasattr(self, 'broken'):
                raise ValueError('no compressor')
            return super()._open()

    paths = [tmp_path / 'one.log', tmp_path / 'two.log']
    compressed = Compressed(paths[0])
    logger.addHandler(compressed)
    logger.addHandler(logging.FileHandler(paths[1]))
    compressed.broken = True
    rotated = [rotate(path, f'old-{path.name}') for path in paths]
    bus.publish('reopen_logs')
    logger.info('after')
    assert rotated[0].read_text() == paths[1].read_text() == 'after\n'
    assert said == [f'Cannot reopen {paths[0]}: no compressor; the old file is used']


def test_a_full_disk_keeps_the_old_file_in_use(bus, sitelog, said, logger, path):
    class Full(logging.FileHandler):
        def _open(self):
            if hasattr(self, 'full'):
                raise OSError(28, 'No space left on device')
            return super()._open()

    handler = Full(path)
    logger.addHandler(handler)
    handler.full = True
    rotated = rotate(path)
    bus.publish('reopen_logs')
    logger.info('after')
    assert rotated.read_text() == 'after\n'
    assert said == [
        f'Cannot reopen {path}: No space left on device; the old file is used'
    ]


# -- while others log --------------------------------------------------------------------


@pytest.mark.parametrize(
    'kind',
    [
        logging.FileHandler,
        logging.handlers.WatchedFileHandler,
        logging.handlers.RotatingFileHandler,
        logging.handlers.TimedRotatingFileHandler,
    ],
)
def test_each_line_is_whole_and_in_one_file_however_often_they_are_rotated(
    bus, sitelog, logger, path, kind, monkeypatch
):
    complaints = []
    monkeypatch.setattr(
        kind, 'handleError', lambda *_: complaints.append(sys.exc_info())
    )
    logger.addHandler(kind(path))
    over, written, lines_came = threading.Event(), [0, 0], threading.Semaphore(0)

    def log(number):
        while not over.is_set():
            logger.info('%d %d %s', number, written[number], 'x' * 200)
            written[number] += 1
            lines_came.release()

    threads = [threading.Thread(target=log, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for number in range(50):
        assert lines_came.acquire(timeout=TIMEOUT)
        rotate(path, f'rotated.{number}')
        bus.publish('reopen_logs')
    over.set()
    for thread in threads:
        thread.join(TIMEOUT)
    assert complaints == []
    lines = []
    for file in path.parent.iterdir():
        text = file.read_text()
        assert text[-1:] in ('', '\n')
        lines += text.splitlines()
    expected = {
        f'{number} {count} {"x" * 200}'
        for number in (0, 1)
        for count in range(written[number])
    }
    assert len(lines) == len(expected) >= 50
    assert set(lines) == expected


# -- file descriptors ----------------------------------------------------------------------

REDIRECTED = """
import os, signal, sys, threading
from paste_wspbus.bus import Bus
from paste_wspbus.plugins.signals import SignalHandler
from paste_wspbus.plugins.sitelog import SiteLog
terminal = os.dup(2)
def say(text):
    os.write(terminal, (text + '\\n').encode())
bus = Bus()
sitelog = SiteLog(bus)
sitelog.subscribe()
"""


def site(tmp_path, script):
    return Process(
        [sys.executable, '-c', REDIRECTED + script],
        tmp_path,
        env={'PYTHONPATH': str(ROOT)},
    )


def test_output_that_was_redirected_is_reopened(tmp_path):
    script = """
print('to the terminal')  # held back by Python until it is flushed
sitelog.redirect('out.log', 1, 2)
os.chdir('/')
assert sitelog.files == [(sys.argv[0], (1, 2))] or sitelog.files[0][1] == (1, 2)
assert os.get_inheritable(1) and os.get_inheritable(2)
print('before')
os.system('echo of a child; echo its errors >&2')
os.rename(sitelog.files[0][0], sitelog.files[0][0] + '.1')
bus.publish('reopen_logs')
print('after')
sys.stderr.write('errors after\\n')
os.system('echo of a child after')
"""
    with site(tmp_path, script) as process:
        assert process.wait() == 0, process.report()
        assert process.out.text == 'to the terminal\n'
    rotated, new = (tmp_path / 'out.log.1').read_text(), (tmp_path / 'out.log')
    assert sorted(rotated.splitlines()) == ['before', 'its errors', 'of a child']
    assert sorted(new.read_text().splitlines()) == [
        'after',
        'errors after',
        'of a child after',
    ]
    assert new.stat().st_mode & 0o777 == 0o644


def test_redirected_output_stays_where_it_is_if_its_file_cannot_be_opened(tmp_path):
    script = """
os.mkdir('logs')
sitelog.redirect('logs/out.log', 1, 2)
sitelog.log = None
bus.subscribe('log', lambda msg, level: say(msg))
os.rename('logs', 'gone')
bus.publish('reopen_logs')
print('still here')
"""
    with site(tmp_path, script) as process:
        assert process.wait() == 0, process.report()
        missing = tmp_path / 'logs' / 'out.log'
        assert process.err.text == (
            f'Cannot reopen {missing}: No such file or directory; '
            'the old file is used\n'
        )
    assert 'still here\n' in (tmp_path / 'gone' / 'out.log').read_text()


def test_what_cannot_be_opened_at_first_is_an_error_and_changes_nothing(
    sitelog, tmp_path
):
    with pytest.raises(FileNotFoundError):
        sitelog.redirect(tmp_path / 'missing' / 'out.log', 1)
    assert sitelog.files == []


def test_a_descriptor_has_one_file_the_last_it_was_given(sitelog, tmp_path):
    fds = [os.open(os.devnull, os.O_WRONLY) for _ in range(3)]
    one, two = str(tmp_path / 'one'), str(tmp_path / 'two')
    try:
        sitelog.redirect(one, *fds)
        sitelog.redirect(two, fds[1])
        assert sitelog.files == [(one, (fds[0], fds[2])), (two, (fds[1],))]
        sitelog.redirect(two, *fds)
        assert sitelog.files == [(two, tuple(fds))]
        assert not any(os.get_inheritable(fd) for fd in fds)
    finally:
        for fd in fds:
            os.close(fd)


def test_a_redirection_to_what_is_no_file_is_left_alone(bus, sitelog, monkeypatch):
    fd = os.open(os.devnull, os.O_WRONLY)
    try:
        sitelog.redirect(os.devnull, fd)
        opened = []
        monkeypatch.setattr(log_files, 'append_to', lambda *args: opened.append(args))
        bus.publish('reopen_logs')
        assert opened == []
    finally:
        os.close(fd)


def test_what_is_redirected_is_appended_whoever_else_writes_or_empties_the_file(
    sitelog, path
):
    fd = os.open(os.devnull, os.O_WRONLY)
    try:
        sitelog.redirect(path, fd)
        path.write_text('of another\n')
        os.write(fd, b'ours\n')
        assert path.read_text() == 'of another\nours\n'
        os.truncate(path, 0)  # logrotate's copytruncate
        os.write(fd, b'later\n')
        assert path.read_text() == 'later\n'
    finally:
        os.close(fd)


def test_output_that_was_closed_can_be_redirected(tmp_path):
    """The first descriptor that the system gives is then the one that is wanted."""
    script = """
os.close(1)
sitelog.redirect('out.log', 1, 2)
os.write(1, b'one\\n')
os.write(2, b'two\\n')
os.system('echo of a child')
"""
    with site(tmp_path, script) as process:
        assert process.wait() == 0, process.report()
    assert (tmp_path / 'out.log').read_text() == 'one\ntwo\nof a child\n'


def test_each_line_of_output_is_in_one_file_however_often_it_is_rotated(tmp_path):
    script = """
sitelog.redirect('out.log', 1, 2)
over, count, lines_came = threading.Event(), 0, threading.Semaphore(0)
def write():
    global count
    while not over.is_set():
        sys.stderr.write(f'{count} {"x" * 100}\\n')
        sys.stderr.flush()
        count += 1
        lines_came.release()
thread = threading.Thread(target=write)
thread.start()
for number in range(50):
    lines_came.acquire()
    os.rename('out.log', f'rotated.{number}')
    bus.publish('reopen_logs')
over.set()
thread.join()
say(f'written {count}')
"""
    with site(tmp_path, script) as process:
        assert process.wait() == 0, process.report()
        count = int(process.err.text.removeprefix('written '))
    lines = []
    for file in tmp_path.iterdir():
        lines += file.read_text().splitlines()
    assert len(lines) == count
    assert set(lines) == {f'{number} {"x" * 100}' for number in range(count)}


def test_logrotate_is_a_rename_and_a_signal(tmp_path):
    script = """
import logging
sitelog.redirect('out.log', 1, 2)
logging.basicConfig(filename='site.log', level='INFO')
signals = SignalHandler(bus)
signals.subscribe()
bus.subscribe('reopen_logs', lambda: say('reopened'), priority=90)
bus.subscribe('start', lambda: say('started'), priority=90)
bus.start()
bus.block()
print('ended')
"""
    with site(tmp_path, script) as process:
        process.expect('started')
        for name in ('site.log', 'out.log'):
            (tmp_path / name).rename(tmp_path / f'{name}.1')
        process.send(signal.SIGUSR1)
        process.expect('reopened')
        eventually((tmp_path / 'site.log').exists)
        process.send(signal.SIGTERM)
        assert process.wait() == 0, process.report()
    assert 'Bus STARTING' in (tmp_path / 'site.log.1').read_text()
    assert 'Bus EXITED' in (tmp_path / 'site.log').read_text()
    assert (tmp_path / 'out.log').read_text() == 'ended\n'
    assert (tmp_path / 'out.log.1').read_text() == ''


def test_a_redirected_file_is_made_anew_with_the_mode_that_it_had(bus, tmp_path):
    path = tmp_path / 'site.log'
    with open(os.devnull) as spare:
        sitelog = SiteLog(bus)
        sitelog.redirect(path, spare.fileno())
        path.chmod(0o640)
        path.rename(tmp_path / 'site.log.1')
        previous = os.umask(0o777)
        try:
            sitelog.reopen_logs()
        finally:
            os.umask(previous)
    assert path.stat().st_mode & 0o777 == 0o640
