"""What the ready-made plugins of the samples run."""

import os
import time


def tidy(bus):
    """Say which process tidies up: `cron.ini` runs this."""
    bus.log(f'Process {os.getpid()} tidies up')


def clock(stop):
    """Say what time it is until the site stops: `service.ini` runs this."""
    while not stop.wait(10):
        print(time.strftime('It is %H:%M:%S.'), flush=True)
