"""A plugin that runs once for a site, however many workers serve the site."""

from paste_wspbus.plugins.threads import Monitor


def cleaner(bus, global_conf, every):
    """Make the plugin of [plugin:NAME] use = call:cleaner:cleaner, every = SECONDS."""

    def clean_up():
        bus.log('Cleaned up')

    return Monitor(bus, clean_up, frequency=float(every))
