"""What all four answer: which bus they ride, and what is open on it."""

import time


def page(framework, bus, seconds=0):
    """:param seconds: that it takes."""
    time.sleep(seconds)
    opened = ', '.join(bus.resources)
    return f'{framework}: bus {id(bus):x} is {bus.state.name}, with {opened}\n'
