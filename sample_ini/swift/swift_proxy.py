"""The proxy of Swift. Its pipeline is made by Swift's own loader, which changes it."""

from swift.common.wsgi import init_request_processor


def make_app(global_conf, conf):
    app, *_ = init_request_processor(conf, 'proxy-server')
    return app
