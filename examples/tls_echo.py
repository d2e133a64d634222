"""A TLS echo server and its client in one program, on io_uring.

    python examples/tls_echo.py             both, and the end
    python examples/tls_echo.py PORT        the server alone, until Ctrl-C (0: any free port)

The server's certificate is made at the start, by the `openssl` command, for one day and for localhost. It is
signed by its own key only, so nobody trusts it but those who were given it: the client loads it as its one
authority, and verifies it and the host's name as any other. A real server has one from an authority instead.
The key is never on a disk: however this program ends, it leaves none behind.
"""

import argparse
import asyncio
import os
import ssl
import subprocess
import sys

import uringloop


def server_context():
    """Make a key and a self-signed certificate; return the server's context and the certificate as text.

    See openssl-req(1). load_cert_chain() takes files only: this one is in memory, memfd_create(2).
    """
    with open(os.memfd_create("key and certificate"), "r+", encoding="ascii") as file:
        # The same path in the child, which inherits the descriptor.
        path = f"/proc/self/fd/{file.fileno()}"
        command = [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", path,
        ]
        try:
            done = subprocess.run(command, check=True, capture_output=True, text=True, pass_fds=[file.fileno()])
        except FileNotFoundError:
            sys.exit("this example needs the `openssl` command, to make a certificate: apt install openssl")
        except subprocess.CalledProcessError as exc:
            sys.exit(f"openssl could not make a certificate:\n{exc.stderr}")
        file.seek(0, os.SEEK_END)
        file.write(done.stdout)
        file.flush()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(path)
    return context, done.stdout


async def echo(reader, writer):
    peer = writer.get_extra_info("peername")
    print(f"Connection from {peer}, {writer.get_extra_info('ssl_object').version()}")
    try:
        while data := await reader.read(4096):
            print(f"Received: {data.decode(errors='replace')}")
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        print(f"Connection with {peer} closed")
    except (ConnectionError, ssl.SSLError) as exc:
        print(f"Connection with {peer} broken: {exc}")
    except asyncio.CancelledError:
        pass        # Ctrl-C; not raised again, as the streams of early 3.12 would log that
    finally:
        writer.transport.abort()    # does nothing where it is closed


async def client(host, port, certificate):
    # This one authority is trusted, and none of the system's.
    context = ssl.create_default_context(cadata=certificate)
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    message = "Hello, World!"
    print(f"Send: {message!r}")
    writer.write(message.encode())
    answer = await reader.readexactly(len(message))
    print(f"Received: {answer.decode()!r}")
    writer.close()
    await writer.wait_closed()


async def refused_client(host, port):
    """Whoever does not have the certificate must not connect: it could be anybody's."""
    try:
        await asyncio.open_connection(host, port, ssl=ssl.create_default_context())
    except ssl.SSLCertVerificationError as exc:
        print(f"Without the certificate: {exc.verify_message}")


async def main(port, context, certificate):
    served = asyncio.Event()

    async def serve(reader, writer):
        await echo(reader, writer)
        served.set()

    server = await asyncio.start_server(serve, "127.0.0.1", port or 0, ssl=context)
    try:
        address = server.sockets[0].getsockname()
        print(f"Serving on {address}", flush=True)
        if port is None:
            await refused_client("localhost", address[1])
            await client("localhost", address[1], certificate)
            await served.wait()
        else:
            await asyncio.Event().wait()    # which nobody sets: until Ctrl-C
    finally:
        server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="TLS echo on io_uring; without a port, with a client")
    parser.add_argument("port", nargs="?", type=int, metavar="PORT")
    arguments = parser.parse_args()
    try:
        context, certificate = server_context()
        with asyncio.Runner(loop_factory=uringloop.new_event_loop) as runner:
            runner.run(main(arguments.port, context, certificate))
    except KeyboardInterrupt:
        print("Stopped")
