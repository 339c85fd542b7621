"""What a site does once, however many workers serve it."""

from paste_wspbus.plugins.threads import Monitor


def cleaner(bus, global_conf, every):
    """A plugin: [plugin:NAME] use = call:cleaner:cleaner, every = SECONDS."""

    def clean_up():
        bus.log('Cleaned up')

    return Monitor(bus, clean_up, frequency=float(every))
