"""CherryPy's SignalHandler rides our bus unmodified."""

import signal

import pytest

from tests.kit.cherrypys import posix
from tests.kit.threads import in_a_thread

SIGNALLED = """
    handler = plugins.SignalHandler(bus)
    handler.subscribe()
    bus.subscribe('graceful', lambda: say_when_blocking(bus, 'reloaded'))
    say_when_blocking(bus, 'blocking')
    bus.start()
    bus.block()
    say('block returned')
"""


@posix
def test_sigterm_stops_a_site_that_blocks(site):
    child = site(SIGNALLED)
    child.hear('blocking')
    child.send(signal.SIGTERM)
    assert child.ends() == 0
    assert child.rest()[-7:] == [
        'Caught signal SIGTERM.',
        'Bus STOPPING',
        'Bus STOPPED',
        'Bus EXITING',
        'Bus EXITED',
        'Waiting for child threads to terminate...',
        'block returned',
    ]


@posix
@pytest.mark.parametrize('waits', ['block()', 'wait(bus.states.EXITING)'])
def test_sigterm_ends_a_wait_during_which_nobody_listens_to_main(site, waits):
    child = site(f"""
        plugins.SignalHandler(bus).subscribe()
        bus.start()
        say('waiting')
        bus.{waits}
        say('returned')
    """)
    child.hear('waiting')
    child.send(signal.SIGTERM)
    assert child.ends() == 0
    assert child.rest()[-1] == 'returned'
    assert child.said.count('Bus EXITED') == 1


@posix
def test_sighup_of_a_site_that_is_no_daemon_exits(site):
    child = site(SIGNALLED)
    child.hear('blocking')
    child.send(signal.SIGHUP)
    assert child.ends() == 0
    assert 'SIGHUP caught but not daemonized. Exiting.' in child.rest()
    assert 'Bus EXITED' in child.said


@posix
def test_sigusr1_is_graceful_and_the_site_goes_on(site):
    child = site(SIGNALLED)
    child.hear('blocking')
    for _ in range(2):
        child.send(signal.SIGUSR1)
        child.hear('Bus graceful')
        child.hear('reloaded')
    assert 'Bus STOPPING' not in child.said
    child.send(signal.SIGTERM)
    assert child.ends() == 0
    assert 'block returned' in child.rest()


def test_a_graceful_asked_for_during_a_graceful_is_not_lost(bus):
    # What it is about may have changed after the listeners looked.
    told = []

    @bus.subscribe('graceful')
    def reload():
        told.append('reloaded')
        if len(told) == 1:
            in_a_thread(bus.graceful)

    bus.start()
    bus.graceful()
    assert told == ['reloaded', 'reloaded']


@posix
def test_a_signal_handler_that_unsubscribed_gives_the_signals_back(site):
    child = site("""
        handler = plugins.SignalHandler(bus)
        handler.subscribe()
        say_when_blocking(bus, 'blocking')
        bus.start()
        handler.unsubscribe()
        bus.block()
    """)
    child.hear('Restoring SIGTERM handler')
    child.hear('blocking')
    child.send(signal.SIGTERM)
    assert child.ends() == -signal.SIGTERM
    assert 'Bus STOPPING' not in child.rest()


@posix
def test_a_signal_handler_takes_signals_and_listeners_of_the_sites_choice(site):
    child = site("""
        handler = plugins.SignalHandler(bus)
        handler.handlers['SIGUSR2'] = lambda: say('rotated')
        handler.handlers['SIGNONSENSE'] = bus.exit
        del handler.handlers['SIGHUP']
        handler.subscribe()
        handler.set_handler('SIGHUP', lambda: say('hung up'))
        handler.set_handler(signal.SIGWINCH, lambda: say('resized'))
        say_when_blocking(bus, 'blocking')
        bus.start()
        bus.block()
    """)
    child.hear('blocking')
    for name, answer in [
        ('SIGUSR2', 'rotated'),
        ('SIGHUP', 'hung up'),
        ('SIGWINCH', 'resized'),
    ]:
        child.send(getattr(signal, name))
        child.hear(f'Caught signal {name}.')
        child.hear(answer)
    child.send(signal.SIGTERM)
    assert child.ends() == 0


@posix
def test_sigterm_during_start_is_obeyed_before_the_next_listener(site):
    child = site("""
        plugins.SignalHandler(bus).subscribe()
        wait_for_signal = threading.Event()
        bus.subscribe('SIGTERM', wait_for_signal.set)

        @bus.subscribe('start', priority=10)
        def slow():
            say('starting slowly')
            wait_for_signal.wait(60)

        bus.subscribe('start', lambda: say('too late'), priority=20)
        bus.subscribe('exit', lambda: say('tidied up'))
        bus.start()
        bus.block()
        say('block returned')
    """)
    child.hear('starting slowly')
    child.send(signal.SIGTERM)
    assert child.ends() == 0
    said = child.rest()
    assert 'too late' not in said
    assert 'Bus STARTED' not in said
    assert said.index('tidied up') < said.index('block returned')


@posix
def test_signals_during_stop_do_not_stop_twice(site):
    child = site("""
        plugins.SignalHandler(bus).subscribe()
        # Not a Semaphore: the handler could meet the lock that it interrupts.
        seen, sees = os.pipe()
        bus.subscribe('SIGTERM', lambda: os.write(sees, b'.'))

        @bus.subscribe('stop')
        def slow():
            say('stopping slowly')
            os.read(seen, 1)
            os.read(seen, 1)
            say('stopped slowly')

        say_when_blocking(bus, 'blocking')
        bus.start()
        bus.block()
    """)
    child.hear('blocking')
    child.send(signal.SIGTERM)
    child.hear('stopping slowly')
    child.send(signal.SIGTERM)
    assert child.ends() == 0
    said = child.rest()
    assert said.count('stopping slowly') == said.count('stopped slowly') == 1
    assert said.count('Bus EXITED') == 1


@posix
def test_sigterm_stops_a_site_that_does_not_block(site):
    child = site("""
        plugins.SignalHandler(bus).subscribe()
        left = threading.Event()
        bus.subscribe('exit', left.set)
        bus.start()
        say('working')
        left.wait(60)
        say(bus.state.name)
    """)
    child.hear('working')
    child.send(signal.SIGTERM)
    assert child.ends() == 0
    assert child.rest()[-1] == 'EXITING'


@posix
def test_ctrl_c_ends_a_site_that_blocks(site):
    child = site("""
        bus.subscribe('exit', lambda: say('tidied up'))
        say_when_blocking(bus, 'blocking')
        bus.start()
        bus.block()
        say('block returned')
    """)
    child.hear('blocking')
    child.send(signal.SIGINT)
    assert child.ends() == 0
    said = child.rest()
    assert said.index('Keyboard Interrupt: shutting down bus') < said.index('tidied up')
    assert said[-1] == 'block returned'
