"""WSGI application initialization for gallery."""

from gallery.config.app_cfg import configurator


def make_app(global_conf, globals='Globals', **app_conf):
    """Set gallery up with the settings found in the PasteDeploy configuration"""
    base_config = configurator(globals)
    return base_config.make_wsgi_app(global_conf, app_conf, wrap_app=None)


def make_app_of_tomorrow(global_conf, **app_conf):
    """TurboGears, where the class went elsewhere."""
    import tg.wsgiapp

    app = make_app(global_conf, **app_conf)
    del tg.wsgiapp.TGApp
    return app
