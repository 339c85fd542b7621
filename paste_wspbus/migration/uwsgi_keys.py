"""The options of uWSGI: which are not needed under wspserve, and which have no counterpart.

Those that have one are in `uwsgi`. The names are those of uWSGI 2.1 (its core/uwsgi.c,
plugins/http and plugins/python).
"""

from __future__ import annotations

#: What it says of a key is what wspserve does in any case.
NOT_NEEDED = {
    'with workers there is a supervisor': ('master', 'no-orphan'),
    'an unknown key is a mistake in any case': ('strict',),
    'SIGTERM stops the site': ('die-on-term', 'exit-on-reload'),
    'it finishes its requests before it stops': (
        *('hook-master-start', 'hook-accepting', 'wait-for-fd'),
    ),
    'its files are removed when it stops': ('vacuum',),
    'threads of the site run as in any Python program': (
        *('enable-threads', 'py-call-osafterfork', 'py-call-uwsgi-fork-hooks'),
        *('py-callos-afterfork', 'threads-stacksize', 'thread-stacksize'),
    ),
    'there is one interpreter': ('single-interpreter',),
    'a site that does not load does not start': ('need-app',),
    'workers share the connections evenly': (
        *('thunder-lock', 'no-defer-accept', 'reuse-port', 'lock-engine'),
    ),
    'requests are not logged, except by the plugin egg:paste_wspbus#accesslog': (
        *('disable-logging', 'log-4xx', 'log-5xx', 'log-ioerror', 'log-slow'),
        *('ignore-sigpipe', 'ignore-write-errors', 'disable-write-exception'),
        *('disable-sigpipe', 'log-zero', 'log-big'),
    ),
    'the head of a request may have 256 kB': ('buffer-size',),
    'the server reads a body before the application is called': (
        *('post-buffering', 'post-buffering-bufsize', 'http-buffer-size'),
        'http-post-buffering',
    ),
    'connections are kept alive': (
        *('http-keepalive', 'http-auto-chunked', 'so-keepalive', 'tcp-nodelay'),
        *('http-chunked-input', 'wsgi-manage-chunked-input', 'http-raw-body'),
    ),
    'workers are not replaced at the same time': ('max-requests-delta',),
    'workers that crash again and again are started later each time': (
        *('min-worker-lifetime', 'worker-reload-mercy-delta', 'forkbomb-delay'),
        'respawn-delay',
    ),
    'it serves Python': (
        'plugin',
        'plugins',
        'need-plugin',
        'need-plugins',
        'plugins-dir',
    ),
    '"wspserve site.ini status" shows it': (
        *('memory-report', 'show-config', 'harakiri-verbose', 'backlog-status'),
    ),
    'prefixes of a composite set SCRIPT_NAME': ('manage-script-name',),
    'descriptors are closed in new programs': ('close-on-exec', 'close-on-exec2'),
    'each process has a name in the log': ('auto-procname', 'procname-prefix'),
    'log files are reopened at SIGUSR1': (
        'log-reopen',
        'log-master',
        'threaded-logger',
    ),
    'tracebacks are in the log': ('catch-exceptions', 'py-tracebacker'),
    'environ is that of PEP 3333': (
        *('wsgi-env-behaviour', 'wsgi-env-behavior', 'wsgi-strict'),
        *('reload-os-env', 'wsgi-accept-buffer', 'wsgi-accept-buffers'),
    ),
    'the server has no worker processes of its own for HTTP': (
        *('http-processes', 'http-workers', 'http-events', 'offload-threads'),
    ),
}

#: Why a key has no counterpart, and what does its work.
NO_COUNTERPART = {
    'start it in this folder: cd, or WorkingDirectory= of its unit': (
        'chdir2',
        'chdir',
    ),
    'PYTHONPATH of the command; the folder of the .ini is searched in any case': (
        *('pythonpath', 'python-path', 'pp'),
    ),
    'it is in the environment of the command: Environment= of its unit': ('env',),
    'there is no TLS: a proxy, or use = egg:paste_wspbus#cheroot': (
        *('https', 'https2', 'https-socket', 'http-to-https', 'ssl-sessions-use-cache'),
        *('suwsgi-socket', 'ssl-enable3', 'hsts'),
    ),
    'it speaks HTTP alone': (
        *(
            'scgi-socket',
            'fastcgi-nph-socket',
            'http-socket-modifier1',
            'http-modifier1',
        ),
        *(
            'raw-socket',
            'puwsgi-socket',
            'zmq-socket',
            'http-websockets',
            'socket-modifier1',
        ),
    ),
    'the number of workers does not follow the load': (
        *(
            'cheaper',
            'cheaper-initial',
            'cheaper-step',
            'cheaper-algo',
            'cheap',
            'idle',
        ),
        *('cheaper-overload', 'cheaper-rss-limit-soft', 'cheaper-rss-limit-hard'),
        *('cheaper-busyness-max', 'cheaper-busyness-min', 'cheaper-busyness-verbose'),
        *(
            'cheaper-busyness-multiplier',
            'cheaper-busyness-backlog-alert',
            'die-on-idle',
        ),
        *('cheaper-busyness-backlog-step', 'cheaper-busyness-penalty'),
    ),
    'no file is watched: call "wspserve site.ini graceful"': (
        *('touch-reload', 'touch-chain-reload', 'touch-workers-reload', 'fs-reload'),
        *('touch-mules-reload', 'touch-spoolers-reload'),
    ),
    'send SIGUSR1 after the rotation': (
        'touch-logreopen',
        'touch-logrotate',
        'log-maxsize',
    ),
    'for development: wspserve site.ini --reload': (
        *('py-auto-reload', 'py-autoreload', 'python-auto-reload', 'python-autoreload'),
        'py-auto-reload-ignore',
    ),
    'ops shows what the site does (docs/ops.md), as "wspserve site.ini status --json"': (
        *('stats', 'stats-server', 'stats-http', 'stats-minified'),
    ),
    'ops has metrics for Prometheus, and egg:paste_wspbus#statsd sends them (docs/metrics.md)': (
        *('stats-push', 'stats-pusher-default-freq', 'enable-metrics', 'metric'),
        *('carbon', 'snmp'),
    ),
    'run it as a service of its own, under systemd or supervisord': (
        *(
            'attach-daemon',
            'attach-daemon2',
            'smart-attach-daemon',
            'smart-attach-daemon2',
        ),
        *('legion-attach-daemon', 'zerg', 'zerg-server', 'zerg-pool'),
    ),
    'use = egg:paste_wspbus#service, in site_plugins (docs/ready/service.md)': (
        *('mules', 'farm', 'mule-reload-mercy'),
    ),
    'use = egg:paste_wspbus#cron, in site_plugins (docs/ready/cron.md)': (
        *('cron2', 'timer', 'rb-timer', 'cron-harakiri'),
    ),
    'cluster_plugins run once for all machines (docs/many-machines.md)': (
        *('legion', 'legion-cron'),
    ),
    'a queue of tasks is a program of its own, such as Celery or RQ': (
        *('spooler', 'spooler-processes', 'spooler-import', 'spooler-max-tasks'),
        *('spooler-harakiri', 'spooler-frequency', 'spooler-chdir', 'spooler-quiet'),
    ),
    'a cache is a program of its own, or a plugin': (
        *('cache', 'cache2', 'cache-blocksize', 'cache-store', 'sharedarea', 'queue'),
        *('static-cache-paths', 'cache-report-freed-items'),
    ),
    'each site has its own command, and a unit of systemd starts it': (
        *(
            'emperor',
            'vassals-include',
            'vassal-set',
            'emperor-stats',
            'emperor-tyrant',
        ),
        *('subscribe-to', 'fastrouter', 'subscription-server', 'http-to'),
        *('http-subscription-server', 'rawrouter', 'vassals-set', 'emperor-on-demand'),
    ),
    'a WSGI filter, or the proxy, adds headers and chooses routes': (
        *('add-header', 'route', 'route-host', 'route-uri', 'route-run', 'route-if'),
        *(
            'collect-header',
            'response-route',
            'error-route',
            'final-route',
            'del-header',
        ),
        *(
            'route-remote-addr',
            'route-if-not',
            'http-var',
            'route-label',
            'pull-header',
        ),
    ),
    'the plugin egg:paste_wspbus#accesslog writes an access log (docs/logging.md)': (
        *('log-format', 'logformat', 'log-format-strftime', 'logformat-strftime'),
        *('req-logger', 'logger-req', 'log-x-forwarded-for', 'log-encoder'),
        *('log-req-encoder', 'log-route', 'log-req-route', 'log-drain', 'log-filter'),
    ),
    'the sections [loggers] and [handlers] say where the log goes, and its format': (
        *('logger', 'log-date', 'logdate', 'log-prefix', 'logto2-format', 'log-syslog'),
        *('syslog', 'rsyslog', 'log-backupname', 'log-socket', 'worker-logger'),
    ),
    'a plugin of your own: its start and its stop (docs/plugins.md)': (
        *(
            'exec-asap',
            'exec-pre-jail',
            'exec-post-jail',
            'exec-in-jail',
            'exec-as-root',
        ),
        *('exec-as-user', 'exec-as-user-atexit', 'exec-pre-app', 'exec-post-app'),
        *(
            'hook-asap',
            'hook-pre-app',
            'hook-post-app',
            'hook-post-fork',
            'hook-as-user',
        ),
        *('hook-as-root', 'hook-as-user-atexit', 'hook-pre-jail', 'hook-post-jail'),
        *('hook-in-jail', 'hook-touch', 'hook-accepting1', 'hook-accepting-once'),
        *('import', 'pyimport', 'py-import', 'python-import', 'shared-import'),
        *('shared-pyimport', 'shared-py-import', 'shared-python-import'),
    ),
    'the unit of systemd, or the container, limits it': (
        *(
            'limit-as',
            'limit-nproc',
            'limit-nofile',
            'max-fd',
            'cgroup',
            'nice',
            'umask',
        ),
        *(
            'cpu-affinity',
            'rlimit-as',
            'chroot',
            'unshare',
            'cap',
            'ionice',
            'pivot-root',
        ),
        *('immediate-uid', 'immediate-gid', 'add-gid', 'additional-gid'),
    ),
    'max_memory looks at the resident size alone': (
        'reload-on-as',
        'evil-reload-on-as',
    ),
    'greenlets: see docs/greenlets.md': (
        *(
            'gevent',
            'gevent-monkey-patch',
            'gevent-early-monkey-patch',
            'async',
            'ugreen',
        ),
        *('loop', 'asyncio', 'tornado', 'greenlet', 'gevent-wait-for-hub'),
    ),
    'sys.argv is that of the command': ('pyargv',),
    'the proxy knows the client: trusted_proxy of waitress': (
        'http-enable-proxy-protocol',
    ),
    'the server has one time limit, channel_timeout': (
        *('http-headers-timeout', 'http-connect-timeout', 'so-send-timeout'),
    ),
    'the .ini of uWSGI alone includes other files like that': (
        'xml',
        'yaml',
        'json',
        'yml',
    ),
    'it listens on what [server:main] says': (
        'shared-socket',
        'map-socket',
        'undeferred-shared-socket',
    ),
}

#: For each of these keys: whether it is needed, and the reason.
REASONS = {
    **{key: (False, why) for why, keys in NOT_NEEDED.items() for key in keys},
    **{key: (True, why) for why, keys in NO_COUNTERPART.items() for key in keys},
}
