"""The sockets a gateway listens on: bound before anything else is started, and shared by its workers."""

import contextlib
import errno
import socket

from gateway.domain.errors import StartRefused


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind every address that `host` stands for; listening begins later.

    Raises StartRefused if the port is in use or not allowed to this user, or the host not this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartRefused(f"The host {host} to listen on cannot be resolved: {error.strerror}.") from error
    bound: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = undo.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Port 0: the first address is given a free one, and the others share its number.
            chosen = bound[0].getsockname()[1] if bound else port
            try:
                listener.bind((address[0], chosen, *address[2:]))
            except OSError as error:
                if bound and error.errno == errno.EADDRNOTAVAIL:
                    continue  # "localhost" names ::1, too, on machines without IPv6
                raise StartRefused(why_not(error, host, chosen)) from error
            listener.setblocking(False)
            bound.append(listener)
        undo.pop_all()
    return bound


def url_of(listener: socket.socket) -> str:
    """Return the URL by which a person on this machine reaches `listener`."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def why_not(error: OSError, host: str, port: int) -> str:
    """Return in words why `port` of `host` cannot be listened on, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use by another program. Stop it or choose another with --port."
    if error.errno == errno.EACCES:
        return f"Port {port} is not allowed to this user. Choose one above 1023 with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine. Choose one with --host; 0.0.0.0 is all of them."
    return f"Port {port} on {host} cannot be listened on: {error.strerror}."
