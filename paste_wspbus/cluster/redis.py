"""The engine on Redis or Valkey, by redis-py: standalone, over TLS, with Sentinel, or a Unix socket."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
from urllib.parse import parse_qs, unquote, urlsplit

from paste_wspbus.cluster import scripts
from paste_wspbus.cluster.engine import (
    BATCH,
    FORGOTTEN,
    MAX_KEPT,
    MAX_MESSAGES,
    MAX_NOTE,
    Answer,
    EngineAway,
    Member,
    Message,
    Received,
    Record,
    Seen,
    encoded,
    received,
)
from paste_wspbus.cluster.facts import MAX_FACTS
from paste_wspbus.ini import urls
from paste_wspbus.unix.kernel_timer import boot_clock as clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from typing import Any

    from paste_wspbus.cluster.engine import Wish
    from paste_wspbus.cluster.settings import Settings

#: Seconds that one command may take at most, and the part of the ttl that this is at most.
PATIENCE, SHARE = 2.0, 1 / 5

#: The number of bytes of a member's facts that are read at most.
MAX_KEPT_FACTS = 4 * MAX_FACTS

#: Whether a text may be the name or the id of a machine: see `settings.read`.
_NAMES = re.compile(r'[A-Za-z0-9._-]{1,100}').fullmatch

#: What a URL may have behind the ?: names of files, and others of TLS.
_FILES = 'ssl_ca_certs', 'ssl_certfile', 'ssl_keyfile'
_TLS = *_FILES, 'ssl_ca_path', 'ssl_password', 'ssl_ciphers', 'ssl_cert_reqs'
_REQUIREMENTS = 'none', 'optional', 'required'

#: What it may have there as well: they change nothing which this module decides.
_HARMLESS = 'db', 'username', 'password', 'client_name'

#: The line for a URL whose login is not escaped; it must not show what may be a password.
_ESCAPES = (
    'write %2F for /, %3F for ? and %23 for # in a user name and in a password; in an .ini, '
    'each % is written twice'
)

#: From errors of the engine to their meanings for its operator. redis-py removes some
#: of the words, and raises an error of a class of its own.
_MEANINGS = (
    ('OUTOFMEMORYERROR', 'it is full: maxmemory is reached'),
    ('READONLYERROR', 'it is a replica, which takes no writes'),
    ('NOPERMISSIONERROR', 'this user may not do that: {}'),
    ('BUSYLOADINGERROR', 'it is still loading its data'),
    ('MASTERDOWNERROR', 'it is a replica without its master'),
    ('WRONGPASS', 'it refuses the user name or the password'),
    ('NOAUTH', 'it wants a password'),
    ('AUTHENTICATION REQUIRED', 'it wants a password'),
    ('UNAUTHENTICATED', 'it wants a password'),
    ('AUTHENTICATIONERROR', 'it refuses the user name or the password'),
    ('NOPERM', 'this user may not do that: {}'),
    ('READONLY', 'it is a replica, which takes no writes'),
    ('OOM', 'it is full: maxmemory is reached'),
    ('MISCONF', 'it takes no writes, because it cannot save them to its disk'),
    ('NOREPLICAS', 'it takes no writes, because too few replicas are connected'),
    ('LOADING', 'it is still loading its data'),
    ('MASTERDOWN', 'it is a replica without its master'),
    ('FENCE', 'another program has written too high a fence'),
    ('WRONGTYPE', 'another program uses a key that begins with {prefix}'),
)


class RedisEngine:
    """The engine on Redis 6.2 or later, or on Valkey.

    It opens no connection before the first command. A connection that fails is opened
    anew by the next command; nothing is sent twice. All keys begin with ``wspbus:{NAME}:``,
    so that Redis Cluster keeps them in one place.
    """

    def __init__(self, settings: Settings) -> None:
        self._ttl = settings.ttl
        self._patience = min(PATIENCE, settings.ttl * SHARE)
        self._prefix = f'wspbus:{{{settings.name}}}:'
        self._settings = settings
        self._keep, self._made = int(settings.keep * 1000), clock()
        #: The id of the last message that was received, and the run of the stream that it
        #: belongs to; '' before the first call.
        self._last = self._run = ''
        #: The number of that message in the stream; None if it is not known.
        self._count: int | None = None
        self._looks = True
        self._open = _opener(settings.use)
        self._commands = self._open(self._patience)
        #: A command that fails closes all connections of its client: these have their own.
        self._receiving: _Direct | None = None
        self._sending: _Direct | None = None
        self._is_sending = threading.Lock()
        self._lease = self._commands.register_script(scripts.LEASE)
        self._join = self._commands.register_script(scripts.JOIN)
        self._members = self._commands.register_script(scripts.MEMBERS)

    def _key(self, name: str) -> str:
        return self._prefix + name

    @property
    def _of_members(self) -> list[str]:
        return [self._key(name) for name in ('members', 'seen', 'facts')]

    @property
    def _silences(self) -> tuple[int, int]:
        """The milliseconds after which a member counts as silent, and as gone."""
        return int(self._ttl * 1000), int(self._ttl * FORGOTTEN * 1000)

    # -- the verbs ----------------------------------------------------------------------

    def join(
        self,
        member: Member,
        fences: Mapping[str, int],
        facts: Mapping[str, Any] | None = None,
    ) -> int:
        """See `Engine.join`."""
        keys = self._of_members + [self._key(f'fence:{name}') for name in fences]
        kept = '' if facts is None else json.dumps(facts)
        silent, forgotten = self._silences
        args = [member.id, json.dumps([*member]), forgotten, kept, silent]
        args += fences.values()
        with self._asking(self._commands):
            return int(self._join(keys, args))

    def members(self) -> list[Seen]:
        """See `Engine.members`."""
        with self._asking(self._commands):
            now, *rest = self._members(self._of_members)
        found = []
        for who, facts, at in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
            member, said = _parsed(who), _parsed(facts)
            if not isinstance(member, list) or [*map(type, member)] != [str, str]:
                continue  # another program's
            if not all(map(_NAMES, member)):
                continue  # no machine has such a name
            age = max(float(now) - float(at), 0.0) / 1000
            known = said if isinstance(said, dict) else {}
            found.append(Seen(Member(*member), age, known))
        return sorted(found, key=lambda one: (one.member.machine, one.member.id))

    def leave(self, member: Member) -> None:
        """See `Engine.leave`."""
        with self._asking(self._commands):
            self._commands.zrem(self._key('seen'), member.id)
            self._commands.hdel(self._key('members'), member.id)
            self._commands.hdel(self._key('facts'), member.id)

    def lease(self, name: str, member: Member, wish: Wish) -> Answer:
        """See `Engine.lease`."""
        keys = [self._key(one) for one in ('epoch', f'lease:{name}', f'fence:{name}')]
        keys += self._of_members
        who = member.id, member.machine
        args = [
            secrets.token_hex(8),
            wish.act,
            *who,
            wish.version,
            wish.fence,
            self._ttl,
            wish.note[:MAX_NOTE],
            *self._silences,
        ]
        with self._asking(self._commands):
            return _answer(*map(_text, self._lease(keys, args)))

    def record(self, member: Member, facts: Mapping[str, Any]) -> None:
        """See `Engine.record`."""
        with self._asking(self._commands):
            self._commands.hset(self._key('facts'), member.id, json.dumps(facts))

    def send(self, *messages: Message) -> None:
        """See `Engine.send`."""
        name, secret = self._settings.name, self._settings.secret
        came = [encoded(one, name, secret) for one in messages]
        args = self._keep, MAX_MESSAGES, MAX_KEPT, secrets.token_hex(8), *came
        with self._is_sending:
            if self._sending is None:
                self._sending = _Direct(self._open(self._patience))
            with self._asking(self._sending.client):
                self._sending.run(scripts.SEND, self._stream, *args)

    def receive(self, timeout: float) -> Received:
        """See `Engine.receive`."""
        if self._receiving is None:
            self._receiving = _Direct(self._open(self._patience + timeout))
        missed, wait = False, max(int(timeout * 1000), 1)
        words = 'XREAD', 'COUNT', BATCH, 'BLOCK', wait, 'STREAMS', self._key('messages')
        try:
            with self._asking(self._receiving.client):
                if self._looks:
                    missed = self._find_where_to_go_on(self._receiving)
                came = self._receiving.ask(*words, self._last)
        except EngineAway:
            self._looks = True
            raise
        # [[stream, [[id, [name, value, …]], …]]]; nothing if none has come.
        entries = [entry for _, some in came or () for entry in some]
        if entries:
            self._last = _text(entries[-1][0])
        self._looks = False
        texts = []
        for _, fields in entries:
            text, number = _message_in(fields)
            texts.append(text)
            if (
                number
            ):  # it may be so far behind that others were dropped before this one
                missed = missed or self._count not in (None, number - 1)
                self._count = number
        return received(texts, self._settings, missed)

    @property
    def _stream(self) -> list[str]:
        return [self._key('messages'), self._key('stream')]

    def _find_where_to_go_on(self, receiving: _Direct) -> bool:
        """Find the message after which to go on; return whether later ones were lost.

        A stream that has lost its data, as that of an engine that was restarted, begins
        anew.
        """
        found = receiving.run(scripts.WHERE, self._stream, secrets.token_hex(8))
        run, top, dropped, now, count = map(_text, found)
        had, self._run = self._run, run
        if not had:  # the engine may have been away until now
            age = int((clock() - self._made) * 1000)
            self._last = f'{max(int(now) - age - 1, 0)}-0'
            if _order(top) <= _order(self._last):
                self._count = _number(count)
        elif run != had or _order(top) < _order(self._last):
            self._last, self._count = '0-0', None
            return True
        return _order(dropped) > _order(self._last)

    def warnings(self) -> list[str]:
        """See `Engine.warnings`."""
        with self._asking(self._commands):
            try:
                info = self._commands.info('memory')
            except EngineAway:
                raise
            except Exception:  # this user may not ask
                return []
        policy = str(info.get('maxmemory_policy', ''))
        if info.get('maxmemory') and policy.startswith('allkeys'):
            return [
                f'its maxmemory-policy is {policy}, so that it may drop a lease when it is '
                'full: set volatile-lru or noeviction'
            ]
        return []

    def close(self) -> None:
        """See `Engine.close`."""
        direct = [one.client for one in (self._receiving, self._sending) if one]
        for client in (self._commands, *direct):
            with contextlib.suppress(Exception):
                client.close()
                client.connection_pool.disconnect()

    # -- errors -------------------------------------------------------------------------

    @contextlib.contextmanager
    def _asking(self, client: Any) -> Generator[None]:
        """Convert the errors of redis-py, and begin with a new connection after each.

        :raises EngineAway: if the command has failed.
        """
        try:
            yield
        except Exception as error:
            with contextlib.suppress(Exception):
                client.connection_pool.disconnect()
            raise EngineAway(_reason(error, self._prefix)) from error


class _Direct:
    """One connection of a client, for commands that are sent often.

    To take a connection from the pool of redis-py, and to give it back, costs more than the
    command itself. A connection that was closed is opened anew by the next command.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        # The connection is given back when no code refers to it any more.
        self._single: Any = None
        self._hashes: dict[str, str] = {}

    def ask(self, *words: Any) -> Any:
        """Send a command, and return what the engine answers."""
        if self._single is None:
            self._single = self.client.client()
        connection = self._single.connection
        if _is_closed(connection):
            connection.disconnect()
        connection.send_command(*words)
        return connection.read_response()

    def run(self, script: str, keys: Sequence[str], *args: Any) -> Any:
        """Run a script, which the engine knows already as a rule."""
        from redis.exceptions import NoScriptError

        if script not in self._hashes:
            self._hashes[script] = self.client.register_script(script).sha
        try:
            return self.ask('EVALSHA', self._hashes[script], len(keys), *keys, *args)
        except NoScriptError:
            return self.ask('EVAL', script, len(keys), *keys, *args)


def _is_closed(connection: Any) -> bool:
    """Whether the engine has closed a connection, or has sent something without a command."""
    import redis.exceptions

    try:
        return bool(connection.can_read(0))
    except (redis.exceptions.RedisError, OSError):
        return True


def _message_in(fields: Sequence[bytes]) -> tuple[bytes, int | None]:
    """Return the message in an entry of the stream, and its number in it.

    They are b'' and None if another program has added it.
    """
    if len(fields) != 4 or (fields[0], fields[2]) != (b'm', b'n'):
        return b'', None
    return fields[1], _number(_text(fields[3]))


def _number(text: str) -> int | None:
    """Return the number of a message in the stream; None if another program has written it."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else None


def _reason(error: Exception, prefix: str) -> str:
    """Say in a few words why a command has failed.

    :param prefix: with which all keys of the site begin.
    """
    import redis.exceptions

    said = ' '.join(str(error).split())[:200]
    words = f' {type(error).__name__} {said.replace(".", " ")} '.upper()
    for word, meaning in _MEANINGS:
        if f' {word} ' in words:
            return meaning.format(said, prefix=prefix)
    if isinstance(error, redis.exceptions.TimeoutError):
        return 'it does not answer in time'
    if refused := re.search(r'certificate verify failed: (.+?)\.? \(_ssl', said):
        return f'its certificate is not accepted: {refused[1]}'
    if isinstance(error, (redis.exceptions.ConnectionError, OSError)):
        why = re.sub(r'^Error -?\d+ connecting to \S+?\. ', '', said).rstrip('.')
        return f'there is no connection: {why}'
    return f'{type(error).__name__}: {said}'


def _answer(granted: str, epoch: str, now: str, members: str, *had: str) -> Answer:
    """Make an answer of what the script has returned.

    :raises ValueError: if another program has written something else there.
    """
    clock = int(now) / 1e6
    record = None
    if had:
        holder, fence, renewals, written, at, since, machine, ttl, *said = had
        age, held_for = clock - int(at) / 1e6, clock - int(since) / 1e6
        record = Record(
            holder,
            int(fence),
            int(renewals),
            written,
            age,
            held_for,
            machine,
            float(ttl),
            *said,
        )
    return Answer(granted == '1', record, epoch, clock, int(members))


def _parsed(text: bytes) -> Any:
    """Return the value of a text in JSON; None if it is not JSON, or too long to be a member's."""
    if len(text) <= MAX_KEPT_FACTS:
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(text)
    return None


def _text(value: Any) -> str:
    return value.decode(errors='replace') if isinstance(value, bytes) else str(value)


def _order(number: str) -> tuple[int, int]:
    """Return the id of a stream's entry, as two numbers that can be compared; '' is the lowest."""
    time, _, count = number.partition('-')
    return int(time or 0), int(count or 0)


# -- URLs -------------------------------------------------------------------------------


def _opener(url: str) -> Callable[[float], Any]:
    """Return a function that makes a client, with a time-out in seconds.

    :raises ValueError: if the URL is wrong.
    """
    import redis

    parts = urls.split(url)
    if parts.scheme != 'sentinel':
        unix = parts.scheme == 'unix'
        asks = parse_qs(urlsplit(url).query).get('ssl_cert_reqs')
        is_checked = parts.scheme == 'rediss' and asks != ['none']

        def connect(patience: float) -> Any:
            more = _options(patience)
            if unix:
                del more['socket_keepalive']
            if is_checked:  # redis-py 5 does not look at the name
                more['ssl_check_hostname'] = True
            return redis.Redis.from_url(url, **more)

        return connect
    sentinels = _sentinels(parts.hosts)
    service, _, database = parts.path.strip('/').partition('/')
    login: dict[str, Any] = {}
    if parts.password:
        login['password'] = parts.password
    if parts.user:
        login['username'] = parts.user

    def connect_by_sentinel(patience: float) -> Any:
        from redis.sentinel import Sentinel

        few = _options(min(patience, PATIENCE))
        asked = Sentinel(sentinels, sentinel_kwargs=few, **few)
        own = {**_options(patience), **login, 'db': int(database or 0)}
        return asked.master_for(unquote(service), **own)

    return connect_by_sentinel


def _options(patience: float) -> dict[str, Any]:
    """Return the options of a client that waits for so many seconds."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {
        'socket_timeout': patience,
        'socket_connect_timeout': patience,
        'socket_keepalive': True,
        'retry': Retry(NoBackoff(), 0),  # `Agent` decides when to ask again
        'retry_on_error': [],
        'protocol': 2,  # the same answers from all versions of redis-py
    }


def _sentinels(text: str) -> list[tuple[str, int]]:
    """Read HOST:PORT,HOST:PORT; the port is 26379 if there is none."""
    found = []
    for one in text.split(','):
        host, colon, port = one.strip().rpartition(':')
        if not colon or port.endswith(']'):
            host, port = one.strip(), '26379'
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f'{port!r} is not the number of a port')
        found.append((host.strip('[]'), int(port)))
    return found


def _check_query(scheme: str, url: str) -> str:
    """Return what is wrong with the part of a URL behind the ?; '' if nothing is."""
    for key, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items():
        value = values[-1]
        if key not in _TLS + _HARMLESS:
            return f'{key} cannot be set here: only {", ".join(_TLS)} can'
        if key in _TLS and scheme != 'rediss':
            return f'{key} needs TLS: write rediss://'
        if key in _FILES and not os.path.isfile(value):
            return f'{key}: there is no file {value}'
        if key == 'ssl_cert_reqs' and value not in _REQUIREMENTS:
            return f'{key} is {" or ".join(_REQUIREMENTS)}, not {value!r}'
        if key == 'db' and not _is_number(value):
            return f'{value!r} is not the number of a database'
    return ''


def _check_address(scheme: str, url: str) -> str:
    """Return what is wrong with the host and the port of a URL; '' if nothing is."""
    try:
        whole = urlsplit(url)
    except ValueError:
        return 'an IPv6 address stands in brackets, as [::1]'
    try:
        port = whole.port
    except ValueError:
        port = 0
    if port == 0:  # this text may be a password
        return 'its port is not a number from 1 to 65535'
    if not whole.hostname or ',' in whole.hostname:
        return f'write {scheme}://HOST:6379/0'
    return ''


def check(url: str) -> str:
    """Return what is wrong with a URL; '' if nothing is. It needs no redis-py."""
    parts = urls.split(url)
    scheme, database = parts.scheme, parts.path.strip('/')
    if any(map(str.isspace, url)):
        return 'a URL has no spaces; a comment needs a line of its own'
    if scheme != 'unix':
        _, _, behind = re.split('([/?#]|$)', url.partition('://')[2], maxsplit=1)
        if '#' in url or '@' in behind:
            return _ESCAPES
    if scheme == 'sentinel':
        service, _, database = database.partition('/')
        try:
            hosts = _sentinels(parts.hosts)
        except ValueError as error:
            return str(error)
        if not all(host for host, _ in hosts) or not service:
            return 'write sentinel://HOST:26379,HOST:26379/NAME/0, where NAME is that of the master'
        if '?' in url:
            return 'sentinel:// takes nothing behind a ?'
    elif scheme == 'unix':
        database = ''
        if parts.hosts or not parts.path:
            return 'write unix:///PATH of the socket'
    elif problem := _check_address(scheme, url):
        return problem
    if scheme != 'sentinel' and (problem := _check_query(scheme, url)):
        return problem
    if database and not _is_number(database):
        return f'{database!r} is not the number of a database'
    return ''


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
