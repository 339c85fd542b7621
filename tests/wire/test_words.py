"""The words between a supervisor and its processes: each has a sender and a receiver."""

import inspect
import json
import os
import re
from pathlib import Path

import pytest

import paste_wspbus
from paste_wspbus.inbox import Inbox
from paste_wspbus.process.supervised_report import SupervisedReport
from paste_wspbus.report import Report
from paste_wspbus.wire import checks, lines
from paste_wspbus.wire import words as known
from paste_wspbus.wire.words import ORDERS, REPORTS, UnknownWord

PACKAGE = Path(paste_wspbus.__file__).parent
SOURCE = '\n'.join(
    path.read_text()
    for path in sorted(PACKAGE.rglob('*.py'))
    if path != Path(known.__file__)
)


def sent_orders():
    """The words that the supervisor's side sends, as its source says."""
    sent = r"(?:\.tell|\.tell_all|\.send|put\(order|line = order)\(\s*'(\w+)'"
    return set(re.findall(sent, SOURCE)) | {
        word
        for pair in re.findall(r"\.tell\(\s*'(\w+)' if \w+ else '(\w+)'", SOURCE)
        for word in pair
    }


def test_every_order_is_sent_and_nothing_else_is():
    assert sent_orders() == set(ORDERS)


@pytest.mark.parametrize('word', ORDERS)
def test_every_order_has_a_receiver(word):
    orders = (PACKAGE / 'workers' / 'orders.py').read_text()
    forker = (PACKAGE / 'workers' / 'forker.py').read_text()
    page = (PACKAGE / 'workers' / 'loading_page.py').read_text()
    ops = (PACKAGE / 'workers' / 'ops_listener.py').read_text()
    understood = {known.WORKER: orders, known.FORKER: forker, known.PAGE: page}
    understood[known.OPS] = ops
    for party in ORDERS[word].receivers:
        assert f"'{word}'" in understood[party], party


@pytest.mark.parametrize('word', REPORTS)
def test_every_report_has_a_method_that_somebody_calls(word):
    assert callable(getattr(SupervisedReport, word))
    assert re.search(rf'report\.{word}\b', SOURCE)


@pytest.mark.parametrize('word', REPORTS)
def test_every_report_has_a_receiver(word):
    assert re.search(rf"'{word}': |hear\(\s*'{word}'", SOURCE)


@pytest.mark.parametrize('words', [ORDERS, REPORTS], ids=['orders', 'reports'])
def test_every_word_says_who_sends_it_and_what_the_receiver_does(words):
    parties = {known.LAUNCHER, known.DAEMON, known.SUPERVISOR, known.WORKER}
    parties |= {known.FORKER, known.OLD, known.TRIAL, known.PAGE, known.OPS}
    for name, word in words.items():
        assert word.name == name
        assert word.senders and set(word.senders) <= parties
        assert word.receivers and set(word.receivers) <= parties
        assert word.effect.endswith('.')


def test_the_table_of_values_has_every_key():
    keys = {key for word in REPORTS.values() for key in word.carries or (word.name,)}
    assert keys == set(checks.VALUES)


def test_there_is_no_other_report():
    own = {'close'}
    methods = {
        name
        for name, _ in inspect.getmembers(SupervisedReport, inspect.isfunction)
        if not name.startswith('_')
    }
    assert methods - own == set(REPORTS)


# -- orders -------------------------------------------------------------------


@pytest.mark.parametrize(
    'word, carried',
    [
        ('go', []),
        ('import', [['a', 'b c']]),
        ('import', [[]]),
        ('fork', [3, ['worker', 1, 'a "b" c\n']]),
        ('message', [['cache', '["a b", "c\\n"]']]),
        ('heard', []),
    ],
)
def test_an_order_is_read_as_it_was_written(word, carried):
    line = lines.order(word, *carried)
    assert line.count(b'\n') == 1 and line.endswith(b'\n')
    assert lines.read_order(line) == (word, carried)


def test_a_typo_cannot_be_sent():
    with pytest.raises(UnknownWord, match='make_wey'):
        lines.order('make_wey')


def test_an_order_carries_what_the_table_says():
    with pytest.raises(TypeError, match='fork'):
        lines.order('fork', 1)
    with pytest.raises(TypeError, match='go'):
        lines.order('go', 1)


@pytest.mark.parametrize('line', [b'', b'\n', b'dance\n', b'pid\n', b'gone\n', b'GO\n'])
def test_an_unknown_order_is_nobodys(line):
    assert lines.read_order(line) == ('', [])


# -- reports ------------------------------------------------------------------


@pytest.fixture
def report():
    reader, writer = os.pipe()
    report = SupervisedReport(writer)
    report.inbox = Inbox(reader)
    yield report
    report.close()
    os.close(reader)


CHECK = {
    **{'name': 'db', 'group': 'ready', 'every': 10.0, 'timeout': 1},
    **{'ok': None, 'text': '', 'at': None, 'took': 0.5},
}

SAID = {
    'pid': ((), {'pid': os.getpid()}),
    'ready': ((['a line'],), {'ready': ['a line']}),
    'composed': ((), {'composed': True}),
    'timeline': (
        ([['start', 'db', 1.5, 2.5, 'ok', 'MainThread']], 3, True),
        {
            'timeline': [['start', 'db', 1.5, 2.5, 'ok', 'MainThread']],
            'left_out': 3,
            'ends': True,
        },
    ),
    'status': (({'requests': []},), {'status': {'requests': []}}),
    'forked': ((1, 4711), {'forked': 1, 'process': 4711}),
    'ended': ((1, None), {'ended': 1, 'code': None, 'dumped': False}),
    'hears': ((['cache'],), {'hears': ['cache']}),
    'broadcast': (
        ('cache', '[1]', True, False),
        {'broadcast': 'cache', 'args': '[1]', 'retain': True, 'cluster': False},
    ),
    'ask': (
        (7, 'cache', '[1]', 0.5),
        {'ask': 7, 'channel': 'cache', 'args': '[1]', 'timeout': 0.5},
    ),
    'answer': ((7, None, 'why'), {'answer': 7, 'value': None, 'error': 'why'}),
    'learnt': (
        ([['file', 'a.py', [1, 2]]], ['b']),
        {'learnt': [['file', 'a.py', [1, 2]]], 'modules': ['b']},
    ),
    'loading': ((4711,), {'loading': 4711}),
    'loads': (('a.py:3 in f',), {'loads': 'a.py:3 in f'}),
    'health': (([CHECK],), {'health': [CHECK]}),
    'wants': (('status',), {'wants': 'status'}),
    'outdated': ((['a.py'],), {'outdated': ['a.py']}),
    'imported': (('a', 'why'), {'imported': 'a', 'why': 'why'}),
    'leave': ((), {'leave': True}),
    'succeed': ((), {'succeed': True}),
    'renew': ((), {'renew': True}),
    'restarts': (('fork',), {'restarts': 'fork'}),
    'cut': ((2, 1), {'cut': 2, 'others': 1}),
    'examined': ((7, 'client'), {'examined': 7, 'waits': 'client'}),
    'exits': ((3,), {'exits': 3}),
    'untried': (('a lock',), {'untried': 'a lock'}),
    'failed': (
        (2, 'a line', 'trace', 'a.py', 'shown'),
        {
            'failed': 2,
            'line': 'a line',
            'traceback': 'trace',
            'file': 'a.py',
            'problem': 'shown',
        },
    ),
}


@pytest.mark.parametrize('word', REPORTS)
def test_a_report_arrives_with_the_keys_of_the_table(report, word):
    arguments, message = SAID[word]
    getattr(report, word)(*arguments)
    assert report.inbox.read() == [message]
    assert tuple(message) == (REPORTS[word].carries or (word,))


def test_a_report_that_is_not_in_the_table_cannot_be_sent(report, monkeypatch):
    monkeypatch.delitem(REPORTS, 'exits')
    with pytest.raises(UnknownWord, match='exits'):
        report.exits(0)


def test_what_came_of_a_start_is_reported_once(report):
    report.ready()
    report.failed(1)
    report.ready(['again'])
    assert report.inbox.read() == [{'ready': []}]


def test_a_report_that_does_not_last_ends_when_it_is_ready():
    reader, writer = os.pipe()
    Report(writer).ready(['a line'])
    assert list(Inbox(reader)) == [{'ready': ['a line']}]
    os.close(reader)


def test_nobody_hears_of_a_reader_that_is_gone():
    reader, writer = os.pipe()
    report = SupervisedReport(writer)
    os.close(reader)
    report.exits(0)
    report.close()
    report.exits(0)


def test_a_signal_handler_that_reports_in_the_middle_of_a_line_does_not_break_it(
    report, monkeypatch
):
    write = os.write

    def write_a_part(fd, line):
        monkeypatch.setattr(os, 'write', write)
        report.exits(3)  # the handler runs here, between two parts of the line
        return write(fd, line[:5])

    monkeypatch.setattr(os, 'write', write_a_part)
    report.outdated(['a.py'])
    assert report.inbox.read() == [{'outdated': ['a.py']}, {'exits': 3}]


MESSAGE = {'broadcast': 'cache', 'args': '[]', 'retain': False, 'cluster': False}
QUESTION = {'ask': 1, 'channel': 'cache', 'args': '[]', 'timeout': 1}


@pytest.mark.parametrize(
    'message',
    [
        {**MESSAGE, 'args': 'x' * (checks.MAX_MESSAGE + 1)},
        {**MESSAGE, 'args': []},
        {**MESSAGE, 'broadcast': ''},
        {**MESSAGE, 'broadcast': 'x' * 201},
        {**MESSAGE, 'retain': 1},
        {**MESSAGE, 'cluster': None},
        {**QUESTION, 'ask': -1},
        {**QUESTION, 'timeout': 0},
        {**QUESTION, 'timeout': 1e9},
        {'answer': 1, 'value': 3, 'error': None},
        {'answer': 1, 'value': None, 'error': 'x' * 1001},
        {'hears': ['cache'] * 1001},
        {'hears': [1]},
    ],
)
def test_a_message_that_is_out_of_bounds_is_no_report(message):
    with pytest.raises(lines.NoReport):
        lines.read_report(json.dumps(message).encode())


def test_messages_are_read_when_they_are_complete():
    reader, writer = os.pipe()
    inbox = Inbox(reader)
    line = json.dumps({'exits': 0}).encode() + b'\n'
    os.write(writer, line + line[:5])
    assert inbox.read() == [{'exits': 0}]
    os.write(writer, line[5:])
    assert inbox.read() == [{'exits': 0}]
    os.close(writer)
    assert inbox.read() is None
    os.close(reader)
