import time


def app(global_conf):
    def shop(environ, start_response):
        time.sleep(2 if environ['PATH_INFO'] == '/report' else 0)
        start_response(
            '200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '3')]
        )
        return [b'ok\n']

    return shop
