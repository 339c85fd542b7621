"""The engines: each keeps the same promises, on this machine alone and on a real Redis."""

import signal
import threading
import time

import pytest

from paste_wspbus.cluster import local, redis
from paste_wspbus.cluster.engine import (
    MAX_MESSAGE,
    EngineAway,
    Member,
    Message,
    Wish,
    decoded,
    encoded,
)
from paste_wspbus.cluster.local import LocalEngine
from paste_wspbus.cluster.redis import RedisEngine, check
from paste_wspbus.cluster.settings import Settings
from paste_wspbus.unix.kernel_timer import boot_clock
from tests.kit import eventually
from tests.kit.clients import free_port
from tests.kit.redis_servers import RedisServer, certified

ONE, TWO = Member('one-1', 'one'), Member('two-2', 'two')


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp('redis')) as server:
        yield server


@pytest.fixture(params=['local', 'redis', 'unix'])
def make(request, tmp_path):
    """A function that makes an engine; all of a test share what they keep."""
    made, ini = [], Settings('', tmp_path.name, 'one', ttl=5)
    if request.param != 'local':
        server = request.getfixturevalue('server')
        server.client().flushall()
        url = server.url if request.param == 'redis' else f'unix://{server.socket}'
        ini = ini._replace(use=url)

    def make():
        engine = RedisEngine(ini) if ini.use else LocalEngine(ini, str(tmp_path))
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


def test_a_lease_is_taken_by_one_who_knows_its_version(make):
    one, two = make(), make()
    none = one.lease('plugins', ONE, Wish())
    assert (none.granted, none.record) == (False, None)
    taken = one.lease('plugins', ONE, Wish('take', none.version, 5))
    assert taken.granted
    assert taken.record.holder == 'one-1'
    assert taken.record.machine == 'one'
    assert taken.record.ttl == 5
    assert taken.record.fence > 1_600_000_000_000_000  # microseconds, by the clock
    late = two.lease('plugins', TWO, Wish('take', none.version))
    assert not late.granted
    assert late.version == taken.version
    assert late.epoch == taken.epoch
    assert 0 <= late.record.age < 5


def test_only_its_holder_renews_and_releases_it(make):
    engine = make()
    seen = engine.lease('plugins', ONE, Wish())
    fence = engine.lease('plugins', ONE, Wish('take', seen.version)).record.fence
    for wish in (Wish('renew', '', fence - 1), Wish('free', '', fence - 1)):
        assert not engine.lease('plugins', ONE, wish).granted
    for act in ('renew', 'free'):
        assert not engine.lease('plugins', TWO, Wish(act, '', fence)).granted
    for count in (1, 2):
        renewed = engine.lease('plugins', ONE, Wish('renew', '', fence))
        assert (renewed.record.renewals, renewed.record.fence) == (count, fence)
    freed = engine.lease('plugins', ONE, Wish('free', '', fence))
    assert freed.granted and freed.record.holder == ''
    assert not engine.lease('plugins', ONE, Wish('renew', '', fence)).granted
    again = engine.lease('plugins', TWO, Wish('take', freed.version))
    assert again.record.fence > fence


def test_of_who_enters_and_who_releases_a_lease_the_engine_knows_which_was_first(make):
    engine = make()
    seen = engine.lease('roll', ONE, Wish())
    taken = engine.lease('roll', ONE, Wish('take', seen.version, 0, 'it begins'))
    fence = taken.record.fence
    assert (taken.record.note, taken.record.entered) == ('it begins', '')
    assert not engine.lease('roll', TWO, Wish('enter', '', fence - 1)).granted
    entered = engine.lease('roll', TWO, Wish('enter', '', fence))
    assert entered.granted and entered.version == taken.version
    assert entered.record.entered == 'two-2'
    renewed = engine.lease('roll', ONE, Wish('renew', '', fence))
    assert renewed.granted
    assert (renewed.record.note, renewed.record.entered) == ('it begins', 'two-2')
    freed = engine.lease('roll', ONE, Wish('free', '', fence, 'é' * 9000))
    assert (freed.record.note, freed.record.entered) == ('é' * 8000, 'two-2')
    assert not engine.lease('roll', TWO, Wish('enter', '', fence)).granted
    assert engine.lease('roll', TWO, Wish()).record.note == 'é' * 8000
    again = engine.lease('roll', TWO, Wish('take', freed.version))
    assert (again.record.note, again.record.entered) == ('', '')


def test_nobody_enters_what_has_ended(make):
    engine = make()
    engine._ttl = 0.05
    seen = engine.lease('roll', ONE, Wish())
    fence = engine.lease('roll', ONE, Wish('take', seen.version)).record.fence
    until = boot_clock() + 0.06
    eventually(lambda: boot_clock() > until)
    assert not engine.lease('roll', TWO, Wish('enter', '', fence)).granted


def test_no_fence_is_lower_than_one_that_a_member_has_seen(make):
    engine, high = make(), 2**52
    seen = engine.lease('plugins', ONE, Wish())
    assert (
        engine.lease('plugins', ONE, Wish('take', seen.version, high)).record.fence
        == high + 1
    )
    assert engine.join(TWO, {'other': high}) >= 1
    seen = engine.lease('other', ONE, Wish())
    assert (
        engine.lease('other', ONE, Wish('take', seen.version)).record.fence == high + 1
    )


@pytest.mark.parametrize(
    'field, value',
    [
        ('fence', '9' * 300),
        ('fence', 9007199254740992),
        ('fence', '0x10'),
        ('renewals', 'x'),
        ('at', '-9'),
        ('since', '1e3'),
        ('ttl', 'inf'),
        ('ttl', 'nan'),
        ('ttl', 3601),
        ('machine', 'x' * 10**6),
    ],
)
def test_a_lease_that_another_program_has_changed_is_none(
    server, machine, field, value
):
    one, two = machine(), machine()
    key = 'wspbus:{' + one._settings.name + '}:'
    seen = one.lease('plugins', ONE, Wish())
    fence = one.lease('plugins', ONE, Wish('take', seen.version)).record.fence
    server.client().hset(f'{key}lease:plugins', field, value)
    assert two.lease('plugins', TWO, Wish()).record is None
    renewed = one.lease('plugins', ONE, Wish('renew', '', fence))  # it is mended
    assert renewed.granted and renewed.record.fence == fence
    assert two.lease('plugins', TWO, Wish()).record == renewed.record._replace(
        age=pytest.approx(0, abs=5), held_for=pytest.approx(0, abs=5)
    )


def test_no_fence_is_so_high_that_none_is_higher(server, machine):
    engine = machine()
    key = 'wspbus:{' + engine._settings.name + '}:fence:plugins'
    for high in ('inf', '1e300', 'x', 1 << 53):
        server.client().set(key, high)
        seen = engine.lease('plugins', ONE, Wish())
        record = engine.lease('plugins', ONE, Wish('take', seen.version, 7)).record
        assert 7 < record.fence < 1 << 53
    seen = engine.lease('plugins', ONE, Wish())
    with pytest.raises(EngineAway, match='too high a fence'):
        engine.lease('plugins', ONE, Wish('take', seen.version, (1 << 53) - 1))
    record = engine.lease('plugins', ONE, Wish()).record
    assert record.fence < 1 << 53  # it is as it was


def test_two_leases_do_not_meet(make):
    engine = make()
    for name, member in (('plugins', ONE), ('roll', TWO)):
        seen = engine.lease(name, member, Wish())
        assert engine.lease(name, member, Wish('take', seen.version)).granted


def test_an_engine_without_its_data_is_another_run(make, tmp_path, server):
    engine = make()
    before = engine.lease('plugins', ONE, Wish())
    taken = engine.lease('plugins', ONE, Wish('take', before.version))
    server.client().flushall()
    for path in tmp_path.glob('*/state'):
        path.unlink()
    after = engine.lease('plugins', TWO, Wish())
    assert after.record is None
    assert after.epoch != before.epoch
    assert after.version != before.version
    assert not engine.lease('plugins', TWO, Wish('take', before.version)).granted
    # Its holder may go on: nobody else takes it within a ttl.
    again = engine.lease('plugins', ONE, Wish('renew', '', taken.record.fence))
    assert again.granted and again.record.fence == taken.record.fence


def names(engine):
    return [one.member.machine for one in engine.members()]


def test_members_come_say_who_they_are_and_go(make):
    one, two = make(), make()
    assert one.join(ONE, {}) == 1
    assert two.join(TWO, {}) == 2
    assert two.join(TWO, {}) == 2
    one.record(ONE, {'release': '1.2'})
    seen = two.members()
    assert [member.member for member in seen] == [ONE, TWO]
    assert [member.facts for member in seen] == [{'release': '1.2'}, {}]
    assert all(0 <= member.age < 5 for member in seen)
    two.join(TWO, {'plugins': 7}, {'release': '1.3'})
    assert [member.facts['release'] for member in one.members()] == ['1.2', '1.3']
    two.join(TWO, {})
    assert one.members()[1].facts == {'release': '1.3'}
    two.leave(TWO)
    assert [member.member for member in one.members()] == [ONE]


@pytest.mark.parametrize('name', ['plugins', 'roll'])
def test_a_member_that_asks_for_a_lease_is_there(make, name):
    engine = make()
    assert engine.lease(name, ONE, Wish()).members == 0  # it has not joined
    for one in (ONE, TWO):
        engine.join(one, {}, {'release': '1.2'})
    assert engine.lease(name, ONE, Wish()).members == 2
    eventually(lambda: engine.members()[0].age > 0.1)
    engine.lease(name, ONE, Wish())
    first, second = engine.members()
    assert first.age < second.age

    def members(ttl):
        """How many there are if this is the ttl: ONE has just said something."""
        engine._ttl = 60
        engine.join(ONE, {}, {'release': '1.2'})
        engine._ttl = ttl
        return engine.lease(name, ONE, Wish()).members

    assert members(60) == 2
    eventually(lambda: members(0.05) == 1)  # the other one is silent
    eventually(lambda: members(0.05) == 1 and names(engine) == ['one'])  # and forgotten
    engine.leave(ONE)
    assert engine.lease(name, ONE, Wish()).members == 0
    assert engine.members() == []


@pytest.mark.parametrize('lost', ['members', 'seen', 'facts'])
def test_a_member_learns_that_the_engine_has_lost_a_part_of_what_it_has_said(
    server, machine, lost
):
    engine = machine()
    engine.join(ONE, {}, {'release': '1.2'})
    server.client().delete(f'wspbus:{{shop}}:{lost}')
    assert engine.lease('plugins', ONE, Wish()).members == 0


def test_members_that_another_program_has_written_are_left_out(server, tmp_path):
    server.client().flushall()
    engine = RedisEngine(Settings(server.url, 'shop', 'one', ttl=5))
    engine.join(ONE, {}, {'release': '1.2'})
    engine.join(TWO, {}, {'release': '1.3'})
    wild = ['[' * 4000, '7', '[7, "x"]', '["x"]', 'x', '{}', '[["a"], "b"]']
    wild += ['["x", "a b"]', '["\\u001b[2J", "x"]', f'["x", "{"x" * 101}"]']
    for number, text in enumerate(wild):
        server.client().hset('wspbus:{shop}:members', f'wild-{number}', text)
        server.client().zadd('wspbus:{shop}:seen', {f'wild-{number}': float('inf')})
    for text in ('[' * 4000, '7', '{"release": "' + 'x' * 5000 + '"}', 'x'):
        server.client().hset('wspbus:{shop}:facts', 'two-2', text)
        seen = engine.members()
        assert [one.member for one in seen] == [ONE, TWO]
        assert [one.facts for one in seen] == [{'release': '1.2'}, {}]
    engine.close()


def test_messages_come_in_order_to_all_who_receive(make):
    one, two = make(), make()
    assert one.receive(0.001).messages == two.receive(0.001).messages == []
    sent = [Message('one-1', 'free', str(number)) for number in range(3)]
    for message in sent:
        one.send(message)
    for engine in (one, two):
        received = []
        while len(received) < 3:
            received += engine.receive(1).messages
        assert received == sent


def test_messages_are_sent_together_or_none_is(make):
    one, two = make(), make()
    two.receive(0.001)
    texts = [Message('one-1', 'x', 'text', number) for number in range(1, 101)]
    with pytest.raises(ValueError, match='a message of'):
        one.send(*texts, texts[0]._replace(text='x' * MAX_MESSAGE))
    sender = threading.Thread(target=one.send, args=texts)
    sender.start()
    found = []
    while len(found) < 100:
        came = two.receive(10).messages
        assert came
        found += came
    sender.join()
    assert found == texts


def test_receiving_wakes_up_when_a_message_comes(make):
    one, two = make(), make()
    two.receive(0.001)
    timer = threading.Timer(0.1, one.send, [Message('one-1', 'free', '')])
    timer.start()
    assert two.receive(20).messages == [Message('one-1', 'free', '')]
    timer.join()


@pytest.fixture
def machine(server):
    """A function that makes the engine of a machine; ``keep`` is 300 s."""
    server.client().flushall()
    made = []

    def make(keep=300):
        made.append(RedisEngine(Settings(server.url, 'shop', 'one', keep=keep)))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def send(engine, *numbers, text=''):
    for number in numbers:
        engine.send(Message('one-1', 'x', text, number))


def numbers_of(received):
    return [message.number for message in received.messages]


def test_who_was_cut_off_reads_what_was_sent_meanwhile(server, machine):
    one, two = machine(), machine()
    two.receive(0.001)
    send(one, 1)
    assert numbers_of(two.receive(5)) == [1]
    server.client().client_kill_filter(_type='normal', skipme=True)
    send(one, 2, 3)  # a connection that was closed meanwhile loses no message
    two._looks = True  # it is connected anew
    received = two.receive(5)
    assert (numbers_of(received), received.missed) == ([2, 3], False)


@pytest.mark.parametrize('how', ['number', 'bytes', 'age'])
def test_the_engine_keeps_a_bounded_number_of_messages(
    server, machine, monkeypatch, how
):
    monkeypatch.setattr(redis, 'MAX_MESSAGES', 10 if how == 'number' else 1000)
    monkeypatch.setattr(redis, 'MAX_KEPT', 1000 if how == 'bytes' else 1 << 20)
    one, behind = machine(keep=0.2 if how == 'age' else 300), machine()
    behind.receive(0.001)
    send(one, *range(15), text='x' * 80)
    if how == 'age':
        time.sleep(0.3)
    send(one, 15, text='x' * 80)
    count = server.client().xlen('wspbus:{shop}:messages')
    assert count == {'number': 10, 'bytes': count, 'age': 1}[how]
    assert 1 <= count <= 10
    # It goes on where it was, and sees that there were more.
    behind._looks = True
    received = behind.receive(5)
    assert received.missed and numbers_of(received)[-1] == 15
    send(one, 16)
    received = behind.receive(5)
    assert (numbers_of(received), received.missed) == ([16], False)
    # What was before it, a new one does not need; it is as exact as its round trip is short.
    eventually(lambda: machine().receive(0.001) == ([], False, 0))


def test_who_was_stopped_during_a_burst_sees_that_messages_were_dropped(
    machine, monkeypatch
):
    """It was connected all the time, and does not know the sender."""
    monkeypatch.setattr(redis, 'MAX_MESSAGES', 10)
    one, two, new = machine(), machine(), machine()
    for engine in (two, new):
        engine.receive(0.001)
    send(one, 1)
    assert numbers_of(two.receive(5)) == [1]
    send(one, *range(2, 13))
    for engine in (two, new):
        received = engine.receive(5)
        assert (numbers_of(received), received.missed) == ([*range(3, 13)], True)
    send(one, 13)
    for engine in (two, new):
        received = engine.receive(5)
        assert (numbers_of(received), received.missed) == ([13], False)


def test_entries_of_another_program_are_no_messages(server, machine):
    one, two = machine(), machine()
    two.receive(0.001)
    key = 'wspbus:{shop}:messages'
    for fields in ({'m': 'x'}, {'m': 'x', 'n': 'y'}, {'m': 'x', 'n': '9' * 5000}):
        server.client().xadd(key, fields)
    send(one, 1)
    received = two.receive(5)
    assert (numbers_of(received), received.missed, received.refused) == ([1], False, 3)


def test_who_finds_the_engine_late_reads_what_was_sent_since_its_start(machine):
    one, late = machine(), machine()
    send(one, 1, 2)
    received = late.receive(5)
    assert (numbers_of(received), received.missed) == ([1, 2], False)
    later = machine()
    time.sleep(0.01)  # the engine's clock has milliseconds
    send(one, 3)
    time.sleep(0.05)
    one._keep = 20
    send(one, 4)
    received = later.receive(5)
    assert (numbers_of(received), received.missed) == ([4], True)


def test_who_has_read_all_has_missed_nothing_when_old_messages_are_dropped(machine):
    one, two = machine(keep=0.05), machine()
    two.receive(0.001)
    send(one, 1)
    assert numbers_of(two.receive(5)) == [1]
    time.sleep(0.1)
    send(one, 2)  # the first one is dropped
    two._looks = True
    received = two.receive(5)
    assert (numbers_of(received), received.missed) == ([2], False)


@pytest.mark.parametrize('then', [[], [7]], ids=['nothing', 'more'])
def test_an_engine_that_has_lost_its_data_may_have_lost_messages(server, machine, then):
    one, two = machine(), machine()
    two.receive(0.001)
    send(one, 1)
    assert numbers_of(two.receive(5)) == [1]
    server.client().flushall()
    send(one, *then)
    two._looks = True
    received = two.receive(0.2)
    assert (numbers_of(received), received.missed) == (then, True)
    send(one, 8)
    received = two.receive(5)
    assert (numbers_of(received), received.missed) == ([8], False)


def test_many_sites_of_one_machine_read_a_burst(tmp_path):
    """The queue of a Unix socket may have room for ten only: the sender waits a moment."""
    ini = Settings('', 'shop', 'one')
    one, two, deaf = (LocalEngine(ini, str(tmp_path)) for _ in range(3))
    two.receive(0.001)
    deaf.receive(0.001)  # and never again
    sender = threading.Thread(target=send, args=[one, *range(600)])
    sender.start()
    came = []
    while len(came) < 600:
        received = numbers_of(two.receive(10))
        assert received
        came += received
    sender.join()
    assert came == [*range(600)]
    for engine in (one, two, deaf):
        engine.close()


def test_a_site_that_did_not_read_learns_it_though_it_has_never_heard_the_sender(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(local, 'LISTENS', 0.01)
    ini = Settings('', 'shop', 'one')
    one, two = (LocalEngine(ini, str(tmp_path)) for _ in range(2))
    two.receive(0.001)
    send(one, *range(1, 1001))  # there is room for some of them
    came, missed = [], False
    while 1000 not in came:
        received = two.receive(0.001)
        came += numbers_of(received)
        missed = missed or received.missed
        if not received.messages:
            assert not missed  # nothing has shown it yet
            send(one, 1000)
    assert missed and came == [*range(1, len(came)), 1000]
    for engine in (one, two):
        engine.close()


def test_a_site_receives_a_bounded_number_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(local, 'BATCH', 3)
    ini = Settings('', 'shop', 'one')
    one, two = (LocalEngine(ini, str(tmp_path)) for _ in range(2))
    two.receive(0.001)
    send(one, *range(1, 6))
    assert [len(two.receive(5).messages) for _ in range(2)] == [3, 2]
    for engine in (one, two):
        engine.close()


def test_a_secret_signs_messages(make, tmp_path):
    engine, message = make(), Message('one-1', 'x', 'text')
    assert decoded(encoded(message, 'shop', 'sesame'), 'shop', 'sesame') == message
    assert decoded(encoded(message, 'shop', ''), 'shop', '') == message
    # Who has no secret reads all; who has one refuses what is not signed, or for another.
    assert decoded(encoded(message, 'shop', 'sesame'), 'shop', '') == message
    for name, secret in (('shop', ''), ('shop', 'open'), ('other', 'sesame')):
        assert decoded(encoded(message, name, secret), 'shop', 'sesame') is None
    for head in ('', '[]', '7', '["a", "b", 1]', '["a", "b", 1, 1.0, 7]', '[' * 10**5):
        assert decoded(f'{head}\ntext'.encode(), 'shop', '') is None
    assert decoded(b'["a", "b", 1, 1.0, ""]\n\xff', 'shop', '') is None
    assert decoded(b'["a", "b", 1, 1.0, ""]\n' + b'x' * MAX_MESSAGE, 'x', '') is None
    assert decoded(b'["%s", "b", 1, 1.0, ""]\n' % (b'a' * 101), 'x', '') is None
    for number in (-1, 1 << 53, '9' * 4300):
        assert decoded(f'["a", "b", {number}, 1.0, ""]\n'.encode(), 'x', '') is None
    # What somebody else has written need not be ASCII.
    for signature in ('"é"', '"\\ud800"'):
        head = f'["a", "b", 1, 1.0, {signature}]\n'.encode()
        assert decoded(head, 'x', 'sesame') is None
        assert decoded(head, 'x', '').text == ''
    odd = 'g\xe9heim \udcff'  # a byte of the environment that is not UTF-8
    assert decoded(encoded(message, 'shop', odd), 'shop', odd) == message
    with pytest.raises(ValueError, match='bytes'):
        engine.send(message._replace(text='x' * MAX_MESSAGE))


def test_messages_with_another_signature_are_counted(make):
    one, two = make(), make()
    two._settings = two._settings._replace(secret='sesame')
    assert one.receive(0.001).messages == two.receive(0.001).messages == []
    for engine in (one, two):
        engine.send(Message('one-1', 'x', 'text', 1))
    messages, refused = [], 0
    while len(messages) + refused < 2:
        received = two.receive(1)
        messages += received.messages
        refused += received.refused
    assert (messages, refused) == ([Message('one-1', 'x', 'text', 1)], 1)


def test_a_message_may_be_as_old_as_the_engine_keeps_it_and_a_minute(tmp_path):
    message = Message('one-1', 'x', 'text', 1, 1000.0)
    for now, is_current in ((900, False), (940, True), (1070, True), (1071, False)):
        assert message.is_current(10, now) is is_current
    assert not message._replace(at=float('nan')).is_current(10, 1000)


# -- what goes wrong ----------------------------------------------------------------------


def asked(settings):
    engine = RedisEngine(settings)
    try:
        seen = engine.lease('plugins', ONE, Wish())
        engine.lease('plugins', ONE, Wish('take', seen.version))
    except EngineAway as away:
        return away.reason
    finally:
        engine.close()
    return ''


def test_over_tls_the_certificate_of_the_engine_is_checked(tmp_path):
    certificate, key = certified(tmp_path, 'engine')
    other, _ = certified(tmp_path, 'other')
    port = free_port()
    options = ['--tls-port', str(port), '--tls-auth-clients', 'no']
    options += ['--tls-cert-file', certificate, '--tls-key-file', key]
    with RedisServer(tmp_path, *options) as server:

        def told(where, trusted=''):
            url = f'rediss://{where}/0' + (trusted and f'?ssl_ca_certs={trusted}')
            assert check(url) == ''
            return asked(Settings(url, 'shop', 'one', ttl=5))

        here = f'127.0.0.1:{port}'
        assert told(here, certificate) == ''
        refused = 'its certificate is not accepted: '
        for trusted in (other, ''):
            assert told(here, trusted) == f'{refused}self-signed certificate'
        line = told(f'localhost:{port}', certificate)
        assert line.startswith(refused) and "not valid for 'localhost'" in line
        assert told(f'127.0.0.1:{server.port}', certificate)  # it speaks no TLS there
    url = f'rediss://{here}/0?ssl_ca_certs={tmp_path}/none'
    assert check(url) == f'ssl_ca_certs: there is no file {tmp_path}/none'


def test_what_is_wrong_with_the_engine_is_told_in_a_few_words(tmp_path):
    with RedisServer(tmp_path, '--maxmemory', '3mb') as server:
        client, ini = server.client(), Settings(server.url, 'shop', 'one')
        assert asked(ini) == ''
        client.config_set('maxmemory', 1)
        assert asked(ini) == 'it is full: maxmemory is reached'
        client.config_set('maxmemory-policy', 'allkeys-lru')
        engine = RedisEngine(ini)
        (warning,) = engine.warnings()
        assert 'allkeys-lru' in warning and 'noeviction' in warning
        client.config_set('maxmemory', 0)
        assert engine.warnings() == []
        engine.close()
        client.flushall()
        client.set('wspbus:{shop}:lease:plugins', 'x')
        line = 'another program uses a key that begins with wspbus:{shop}:'
        assert asked(ini) == line
        client.flushall()
        client.replicaof('127.0.0.1', server.port + 1 if server.port < 65535 else 1)
        assert asked(ini) == 'it is a replica, which takes no writes'
        client.replicaof('NO', 'ONE')
        client.config_set('requirepass', 'sesame')
        assert asked(ini) == 'it wants a password'
        wrong = ini._replace(use=server.url.replace('://', '://:open@'))
        assert asked(wrong) == 'it refuses the user name or the password'
        right = ini._replace(use=server.url.replace('://', '://:sesame@'))
        assert asked(right) == ''
        server.kill()
        assert asked(right) == 'there is no connection: Connection refused'
        server.start()


def test_an_engine_that_stops_answering_costs_a_part_of_the_ttl(tmp_path):
    with RedisServer(tmp_path) as server:
        engine = RedisEngine(Settings(server.url, 'shop', 'one', ttl=1))
        engine.lease('plugins', ONE, Wish())
        server.signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(EngineAway, match='does not answer in time'):
            engine.lease('plugins', ONE, Wish())
        assert time.monotonic() - began < 5
        server.signal(signal.SIGCONT)
        engine.lease('plugins', ONE, Wish())
        engine.close()


def test_a_wrong_url_of_an_engine_is_refused():
    assert check('redis://10.0.0.5/0') == ''
    assert check('rediss://user:word@10.0.0.5:6380') == ''
    assert check('unix:///run/redis.sock') == ''
    assert check('sentinel://:word@one:26379,two,[::1]:26380/shop/2') == ''
    assert 'NAME' in check('sentinel://one:26379')
    assert "'x' is not the number" in check('redis://10.0.0.5/x')
    assert 'HOST' in check('redis:///0')
    assert 'PATH' in check('unix://')
    assert check('redis://host:port/0') != ''
