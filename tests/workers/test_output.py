"""The supervisor's output: a reader that stalls costs lines, never time."""

import contextlib
import os
import pty
import signal
import socket
import termios
import time

import pytest

from paste_wspbus.workers import output
from paste_wspbus.workers.output import Output
from tests.kit import eventually
from tests.kit.processes import TIMEOUT, children, has_ended, status_field
from tests.kit.sites import SERVED
from tests.kit.stalled import SIZE, Stalled, fill, pipe


class Written:
    """An `Output` to a descriptor."""

    def __init__(self, reader, writer, events):
        self.reader, self.writer = reader, writer
        self.stream = os.fdopen(writer, 'w', closefd=False)
        self.output = Output(self.stream, events)
        self.events = events

    def read(self, seconds=0.0):
        """All that is there, the loop being run, until nothing comes."""
        came = b''
        os.set_blocking(self.reader, False)
        while True:
            self.events.step(seconds)
            try:
                part = os.read(self.reader, 65536)
            except BlockingIOError:
                return came.decode()
            if not part:
                return came.decode()
            came += part

    def close(self):
        self.stream.close()
        for fd in (self.reader, self.writer):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def written(events):
    written = Written(*pipe(), events)
    yield written
    written.close()


def test_what_has_room_is_written_at_once(written):
    written.output.write('a line\n')
    assert os.read(written.reader, 100) == b'a line\n'
    assert not written.output._is_registered


def test_what_has_no_room_comes_later_and_in_order(written):
    fill(written.writer)
    for number in range(100):
        written.output.write(f'{number}\n')
    assert written.output._is_registered
    lines = written.read().lstrip('.').splitlines()
    assert lines == [str(number) for number in range(100)]
    assert not written.output._is_registered


def test_what_is_too_much_is_lost_and_counted(written, monkeypatch):
    monkeypatch.setattr(output, 'MAX_WAITING', 1000)
    fill(written.writer)
    for number in range(1000):
        written.output.write(f'{number:03}\n')
    lines = written.read().lstrip('.').splitlines()
    kept, note = lines[:-1], lines[-1]
    assert kept == [f'{number:03}' for number in range(250)]
    assert note == '… 750 lines are lost here: nobody read the output in time'
    written.output.write('again\n')
    assert written.read() == 'again\n'


def test_the_note_of_what_is_lost_stands_in_its_place(written, monkeypatch):
    monkeypatch.setattr(output, 'MAX_WAITING', 100)
    fill(written.writer)
    for _ in range(100):
        written.output.write('early\n')
    monkeypatch.setattr(output, 'MAX_WAITING', 10000)
    written.output.write('late\n')
    lines = written.read().lstrip('.').splitlines()
    assert lines[:-2] == ['early'] * 16
    assert ('84 lines' in lines[-2], lines[-1]) == (True, 'late')


def test_a_long_text_comes_in_parts(written):
    text = ''.join(f'{number:05}\n' for number in range(5000))
    assert written.output.write(text) == len(text)
    assert written.read() == text


def test_a_write_that_another_process_has_overtaken_ends_in_time(written, monkeypatch):
    fill(written.writer)
    monkeypatch.setattr(Output, '_has_room', lambda self: True)
    began = time.monotonic()
    written.output.write('a line\n')
    assert 0.1 < time.monotonic() - began < 5
    monkeypatch.undo()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert written.read().lstrip('.') == 'a line\n'


def test_a_reader_that_is_gone_is_no_error(written):
    os.close(written.reader)
    for _ in range(1000):
        written.output.write('a line\n')
    assert not written.output._waiting


def test_the_end_waits_for_a_reader_but_not_for_ever(written):
    fill(written.writer)
    written.output.write('a line\n')
    began = time.monotonic()
    written.output.drain(0.2)
    assert 0.1 < time.monotonic() - began < 5
    os.read(written.reader, SIZE)
    written.output.drain(TIMEOUT)
    assert os.read(written.reader, 100) == b'a line\n'


def test_a_forked_child_writes_to_the_stream_and_not_what_waits(written):
    fill(written.writer)
    written.output.write('of the parent\n')
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.read(written.reader, SIZE)
            print('of the child', file=written.output, flush=True)
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.read(written.reader, 100) == b'of the child\n'
    assert written.read() == 'of the parent\n'


def test_a_stream_socket_is_not_waited_for(events):
    mine, its = socket.socketpair()
    written = Written(its.detach(), mine.detach(), events)
    for number in range(2000):
        written.output.write(f'{number:0400}\n')
    assert written.output._waiting and os.get_blocking(written.writer)
    lines = written.read().splitlines()
    expected = [f'{number:0400}' for number in range(len(lines) - 1)]
    assert lines[:-1] == expected and 'lost' in lines[-1]
    written.close()


def test_a_terminal_that_is_stopped_is_not_waited_for(events):
    main, terminal = pty.openpty()
    written = Written(main, terminal, events)
    termios.tcflow(terminal, termios.TCOOFF)  # as Ctrl-S
    began = time.monotonic()
    for number in range(1000):
        written.output.write(f'{number}\n')
    assert time.monotonic() - began < 5
    assert written.output._waiting
    termios.tcflow(terminal, termios.TCOON)
    came = ''
    while '999' not in came:
        came += written.read(0.01)
    assert came.split() == [str(number) for number in range(1000)]
    written.close()


def test_a_full_disk_costs_lines(events):
    written = Written(
        os.open(os.devnull, os.O_RDONLY), os.open('/dev/full', os.O_WRONLY), events
    )
    written.output.write('a line\n')
    assert not written.output._waiting
    written.close()


# -- a supervisor ---------------------------------------------------------------------

INI = SERVED + '\n[wspbus:main]\nworkers = 2\nstop_timeout = 4\n'


@pytest.mark.parametrize('stream', ['stdout', 'stderr', 'both'])
def test_a_supervisor_whose_output_nobody_reads_does_its_work(tmp_path, stream):
    with Stalled(tmp_path, stream, INI) as site:
        pid = site.process.pid
        first = set(children(pid))
        for worker in first:
            os.kill(worker, signal.SIGKILL)
        eventually(lambda: all(map(has_ended, first)))
        eventually(lambda: len(set(children(pid)) - first) == 2)
        site.process.send_signal(signal.SIGHUP)
        eventually(lambda: site.status()['generation'] == 2)
        began = time.monotonic()
        assert site.end() == 0
        assert time.monotonic() - began < 20


def test_a_reader_that_reads_again_gets_what_it_missed(tmp_path):
    with Stalled(tmp_path, 'stderr', INI) as site:
        worker = children(site.process.pid)[0]
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: worker not in children(site.process.pid))
        eventually(lambda: len(children(site.process.pid)) == 2)
        text = ''
        while f'process {worker}' not in text:
            text += os.read(site.reader, 4096).decode()
        assert site.end() == 0


def test_an_idle_supervisor_does_not_wake_up_for_a_reader_that_stalls(tmp_path):
    with Stalled(tmp_path, 'both', INI) as site:

        def switches():
            return int(status_field(site.process.pid, 'voluntary_ctxt_switches'))

        eventually(lambda: site.status()['state'] == 'STARTED')
        time.sleep(1.0)
        before = switches()
        time.sleep(1.0)
        assert switches() - before <= 1
        assert site.end() == 0
