"""The tiers of transports, by name: of which classes a loop makes its transports.

Mirrors nothing.  A tier is a module; what BaseProactorEventLoop asks it for is

    _make_socket_transport(loop, sock, protocol, waiter, extra, server, context)
    _ProactorDatagramTransport(loop, sock, protocol, address, waiter, extra)
    _ProactorDuplexPipeTransport(loop, sock, protocol, waiter, extra)
    _Acceptor(loop, protocol_factory, sock, sslcontext, server, backlog,
              ssl_handshake_timeout, ssl_shutdown_timeout, context).start()
    _ssl_protocol_class()                 of what a connection over TLS has below it, and start_tls() makes

The class of the loop is the same on each of them.

Must not be in here: transports.
"""
import importlib
import sys

# Name -> module.
MODULES = {
    'native': 'proactor_events',
    'stdlib': 'stdlib_transports',
}

# What a loop has that was not told.
DEFAULT = 'native'


def module_of(name):
    """Return the module of the tier `name`; the default tier's for None.

    Raises ValueError for a name that is none.
    """
    if name is None:
        name = DEFAULT
    if not isinstance(name, str) or name not in MODULES:
        raise ValueError(f"transports must be {' or '.join(map(repr, MODULES))}, or None, not {name!r}")
    path = f'{__package__}.{MODULES[name]}'
    # (To import what is imported takes 3 µs, of a loop's 80.)
    return sys.modules.get(path) or importlib.import_module(path)


# Now: when a loop is made, there may be no descriptor left to open a module's file with.
for _name in MODULES:
    module_of(_name)
