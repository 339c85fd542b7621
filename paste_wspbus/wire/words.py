"""The reports and the orders between a supervisor and its processes: a table for each."""

from __future__ import annotations

from typing import NamedTuple


class Word(NamedTuple):
    """One report or order: who sends it, who receives it, and what the receiver does.

    ``carries`` has, for a report, the keys of its message; the first one is its name. For
    an order, it has the values behind the name in the line, each as JSON.
    """

    name: str
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    effect: str
    carries: tuple[str, ...] = ()


class UnknownWord(LookupError):
    """A report or order with the name ``word`` is not in the table."""

    def __init__(self, word: str) -> None:
        super().__init__(f'{word!r} is not a word of paste_wspbus.wire')
        self.word = word


#: The senders and receivers: the command that waits for a daemon's start, and that daemon;
#: the supervisor; a process that runs the site; a process that forks others.
LAUNCHER, DAEMON = 'launcher', 'daemon'
SUPERVISOR, WORKER, FORKER = 'supervisor', 'worker', 'forker'
#: The process that shows browsers that the site is loading.
PAGE = 'page'
#: The process of the ops listener.
OPS = 'ops'
#: A site of one process, and the process that tries its new code.
OLD, TRIAL = 'old', 'trial'

#: The reports of a process to the launcher or supervisor: each is a line of JSON.
REPORTS = {
    word.name: word
    for word in (
        Word(
            'pid',
            (DAEMON, WORKER),
            (LAUNCHER, SUPERVISOR),
            'The receiver notes the process ID, and can send signals.',
            ('pid',),
        ),
        Word(
            'loading',
            (DAEMON,),
            (LAUNCHER,),
            'This process loads the site: if it takes long, the launcher says where it is.',
            ('loading',),
        ),
        Word(
            'ready',
            (DAEMON, WORKER, FORKER),
            (LAUNCHER, SUPERVISOR),
            'The launcher prints the lines and exits with 0; the supervisor lets the '
            'process take its place.',
            ('ready',),
        ),
        Word(
            'failed',
            (DAEMON, WORKER, FORKER, TRIAL),
            (LAUNCHER, SUPERVISOR, OLD),
            'The launcher prints the line and exits with the code; the supervisor '
            'notes why the start failed, logs the traceback once for all that fail '
            'alike, and under --reload shows it; the old site logs the line and the '
            'traceback, and keeps serving.',
            ('failed', 'line', 'traceback', 'file', 'problem'),
        ),
        Word(
            'composed',
            (WORKER, TRIAL),
            (SUPERVISOR, OLD),
            'The supervisor answers with go, now or when it is time; the old site '
            'restarts in place.',
        ),
        Word(
            'untried',
            (TRIAL,),
            (OLD,),
            'The old site restarts in place, and logs why its code was not tried.',
        ),
        Word(
            'leave',
            (WORKER,),
            (SUPERVISOR,),
            'The site asks to stop: the supervisor stops all processes.',
        ),
        Word(
            'succeed',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor starts another process in the place of this one.',
        ),
        Word(
            'renew',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor restarts the site gracefully.',
        ),
        Word(
            'restarts',
            (WORKER,),
            (SUPERVISOR,),
            'The site has stopped, to be restarted: the supervisor starts it by fork '
            'or child, or waits until this process has replaced itself (execv).',
            ('restarts',),
        ),
        Word(
            'exits',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor notes the exit code, which it may not see otherwise.',
            ('exits',),
        ),
        Word(
            'status',
            (WORKER, OPS),
            (SUPERVISOR,),
            'The supervisor answers whoever asked for the status.',
            ('status',),
        ),
        Word(
            'timeline',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor keeps the calls of listeners, and answers whoever asked for '
            'them. A process also reports them at its end.',
            ('timeline', 'left_out', 'ends'),
        ),
        Word(
            'examined',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor logs a slow request only if the application computes.',
            ('examined', 'waits'),
        ),
        Word(
            'cut',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor adds the numbers to what it answers about a graceful restart.',
            ('cut', 'others'),
        ),
        Word(
            'hears',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor sends the retained messages on these channels, then heard; '
            'and from then on all messages on them.',
            ('hears',),
        ),
        Word(
            'broadcast',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor sends the message to all processes that hear the channel, '
            'and, if the cluster should have it, to the other machines.',
            ('broadcast', 'args', 'retain', 'cluster'),
        ),
        Word(
            'ask',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor sends the question to all processes that hear the channel, '
            'and their answers to the process that asks.',
            ('ask', 'channel', 'args', 'timeout'),
        ),
        Word(
            'answer',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor passes the answer on to the process that asks.',
            ('answer', 'value', 'error'),
        ),
        Word(
            'learnt',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor watches these files, and has these modules preloaded.',
            ('learnt', 'modules'),
        ),
        Word(
            'loads',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor has browsers shown where the load of the site is.',
        ),
        Word(
            'outdated',
            (WORKER,),
            (SUPERVISOR,),
            'These files have changed, and the process accepts no more connections: the '
            'supervisor restarts the site, even if the files are as they were.',
            ('outdated',),
        ),
        Word(
            'health',
            (WORKER,),
            (SUPERVISOR,),
            'The supervisor notes the health checks of the process, for the ops listener.',
            ('health',),
        ),
        Word(
            'wants',
            (OPS,),
            (SUPERVISOR,),
            'The supervisor sends this kind of answer about the site: see tells.',
            ('wants',),
        ),
        Word(
            'forked',
            (FORKER,),
            (SUPERVISOR,),
            'The supervisor notes the process ID of what it ordered by fork.',
            ('forked', 'process'),
        ),
        Word(
            'ended',
            (FORKER,),
            (SUPERVISOR,),
            'The supervisor takes note of the end of a process that it ordered.',
            ('ended', 'code', 'dumped'),
        ),
        Word(
            'imported',
            (FORKER,),
            (SUPERVISOR,),
            'The supervisor has spare workers forked, or, if a module has spoiled '
            'the process, starts another one without that module.',
            ('imported', 'why'),
        ),
    )
}

#: The orders of a supervisor to its processes: each is a line of text.
ORDERS = {
    word.name: word
    for word in (
        Word(
            'go',
            (SUPERVISOR,),
            (WORKER,),
            'A process that waits composes the site, or starts what it has composed.',
        ),
        Word(
            'stop',
            (SUPERVISOR,),
            (WORKER, FORKER, OPS),
            'The site stops: the process empties the sockets, for nobody accepts '
            'after it, and leaves.',
        ),
        Word(
            'release',
            (SUPERVISOR,),
            (WORKER, FORKER),
            'The site stops, but somebody else has the sockets: the process leaves.',
        ),
        Word(
            'make_way',
            (SUPERVISOR,),
            (WORKER, FORKER, PAGE),
            'Another process takes the place of this one, which leaves.',
        ),
        Word(
            'show',
            (SUPERVISOR,),
            (PAGE,),
            'The process shows since when the site is loading (time.monotonic), and the '
            'line where the load is.',
            ('since', 'place'),
        ),
        Word(
            'state',
            (SUPERVISOR,),
            (OPS,),
            'The process notes the fields of an ops.snapshot.State.',
            ('state',),
        ),
        Word(
            'checked',
            (SUPERVISOR,),
            (OPS,),
            'The process notes the health checks of the site: ops.health.Checked of each.',
            ('processes',),
        ),
        Word(
            'tells',
            (SUPERVISOR,),
            (OPS,),
            'The process notes an answer of this kind about the site.',
            ('kind', 'value'),
        ),
        Word(
            'restart',
            (SUPERVISOR,),
            (WORKER,),
            'The process stops the site and publishes restart.',
        ),
        Word(
            'hurry',
            (SUPERVISOR,),
            (WORKER,),
            'The process skips every wait while it stops.',
        ),
        Word(
            'force',
            (SUPERVISOR,),
            (WORKER,),
            'The process leaves at once.',
        ),
        Word(
            'status',
            (SUPERVISOR,),
            (WORKER, OPS),
            'The process reports its status: so the supervisor learns that it works.',
        ),
        Word(
            'timeline',
            (SUPERVISOR,),
            (WORKER,),
            'The process reports its timeline.',
        ),
        Word(
            'examine',
            (SUPERVISOR,),
            (WORKER,),
            'The process reports what a request waits for.',
            ('number',),
        ),
        Word(
            'give_up',
            (SUPERVISOR,),
            (WORKER,),
            'The process ends this request for its client, which gets a 503 if nothing '
            'was sent.',
            ('number',),
        ),
        Word(
            'take',
            (SUPERVISOR,),
            (WORKER,),
            'The process serves a connection of another one, which was killed. Its '
            'descriptor comes along, and is that of the socket with this inode.',
            ('inode',),
        ),
        Word(
            'drain',
            (SUPERVISOR,),
            (WORKER,),
            'The process sets bus.drained, which health checks read.',
        ),
        Word(
            'undrain',
            (SUPERVISOR,),
            (WORKER,),
            'The process clears bus.drained.',
        ),
        Word(
            'message',
            (SUPERVISOR,),
            (WORKER,),
            'The process publishes a message: its channel, and its arguments as JSON.',
            ('message',),
        ),
        Word(
            'question',
            (SUPERVISOR,),
            (WORKER,),
            'The process publishes a message, and reports its answer. It gets the channel, '
            'the arguments as JSON, and the number of the question.',
            ('question',),
        ),
        Word(
            'answered',
            (SUPERVISOR,),
            (WORKER,),
            'An answer to a question of this process: its token, the number of all answers, '
            'the place of this one among them, and the answer; it is null if there is none.',
            ('answered',),
        ),
        Word(
            'heard',
            (SUPERVISOR,),
            (WORKER,),
            'All retained messages were sent: the process need not wait for more.',
        ),
        Word(
            'missed',
            (SUPERVISOR,),
            (WORKER,),
            'The process publishes how many messages were dropped, because it did not read.',
            ('missed',),
        ),
        Word(
            'stacks',
            (SUPERVISOR,),
            (WORKER,),
            'The process logs the stacks of all threads.',
        ),
        Word(
            'reopen_logs',
            (SUPERVISOR,),
            (FORKER,),
            'The process opens its log files anew: those that it forks inherit them.',
        ),
        Word(
            'fork',
            (SUPERVISOR,),
            (FORKER,),
            'The process forks one with this role. Two descriptors come along: the '
            'connection and the scoreboard of the new process.',
            ('token', 'role'),
        ),
        Word(
            'import',
            (SUPERVISOR,),
            (FORKER,),
            'The process imports these modules, for those that it forks.',
            ('names',),
        ),
    )
}

#: The orders by which messages of the site travel; '' is the rest of a line, whose
#: beginning another program has read.
MESSAGES = frozenset({'message', 'question', 'answered', 'heard', 'missed', ''})


def report_word(word: str) -> Word:
    """Return the entry of a report.

    :raises UnknownWord: if it is not in the table.
    """
    known = REPORTS.get(word)
    if known is None:
        raise UnknownWord(word)
    return known
