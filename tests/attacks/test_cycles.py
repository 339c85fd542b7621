"""The quick form of `tests.attacks.cycles`: starts and restarts that leave nothing."""

from tests.attacks.cycles import Cycles


def test_daemons_that_start_and_end_in_many_ways_leave_nothing(tmp_path):
    cycles = Cycles(tmp_path, seed=1)
    for _ in range(3):
        cycles.daemon()
    assert not cycles.wrong, '\n'.join(cycles.wrong)


def test_graceful_restarts_under_load_lose_no_request(tmp_path):
    cycles = Cycles(tmp_path)
    assert cycles.graceful(3)
    assert not cycles.wrong, '\n'.join(cycles.wrong)
