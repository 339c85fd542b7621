"""What the ready-made plugins of the samples run."""

import os


def tidy(bus):
    """Say which process tidies up: `cron.ini` runs this."""
    bus.log(f'Process {os.getpid()} tidies up')
