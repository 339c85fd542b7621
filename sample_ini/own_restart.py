from paste_wspbus.plugins.restart import ExecvRestarter


def restart_by_execv(bus, global_conf):
    bus.plugins['restart'].unsubscribe()  # the default one of --reload: fork
    bus.subscribe('restart', ExecvRestarter(bus).restart)
