"""The memory of a supervisor whose site is restarted again and again."""

from tests.kit.processes import status_field
from tests.kit.workers import Workers

#: kB that a supervisor may grow by in `RENEWALS` renewals; without a collection of what they
#: leave, it is some 1,600.
MOST, RENEWALS = 1000, 120


def test_renewals_leave_nothing_in_the_memory_of_the_supervisor(tmp_path):
    def renew():
        before = site.status()['generation']
        assert site.control('graceful')['generation'] == before + 1, site.report()

    def memory():
        return int(status_field(site.pid, 'VmRSS').removesuffix(' kB'))

    with Workers(tmp_path, count=1) as site:
        for _ in range(3):  # the first ones import modules
            renew()
        before = memory()
        for _ in range(RENEWALS):
            renew()
        assert memory() - before < MOST
        assert site.stop()[0] == 0, site.report()
