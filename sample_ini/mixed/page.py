"""The page of all four frameworks: it shows which bus they use, and what is open on it."""

import time


def page(framework, bus, seconds=0):
    """Return the text of the page.

    :param seconds: how long that takes.
    """
    time.sleep(seconds)
    opened = ', '.join(bus.resources)
    return f'{framework}: bus {id(bus):x} is {bus.state.name}, with {opened}\n'
