"""A UDP echo server and its client in one program, on io_uring.

    python examples/udp_echo.py             both, and the end
    python examples/udp_echo.py PORT        the server alone, until Ctrl-C (0: any free port)

A datagram may be lost on its way, so the client asks again when no answer comes in time.
"""

import argparse
import asyncio

import uringloop

PATIENCE = 1.0      # seconds until the client asks again
ATTEMPTS = 5


class EchoServer(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        print(f"Received: {len(data)} bytes from {peer}")
        self.transport.sendto(data, peer)

    def error_received(self, exc):
        print(f"Error: {exc}")


class EchoClient(asyncio.DatagramProtocol):
    """Asks one question at a time; `ask` waits for the datagram that begins with its number."""

    def __init__(self):
        self.waiting = {}       # number of a question -> future of the answer

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        answer = self.waiting.get(data[:4])
        # Of a question that was asked twice there may be two answers.
        if answer is not None and not answer.done():
            answer.set_result(data[4:])

    def error_received(self, exc):
        # Nobody listens on that port: the kernel tells a connected socket.
        for answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(exc)

    async def ask(self, number, message):
        key = number.to_bytes(4)
        self.waiting[key] = asyncio.get_running_loop().create_future()
        try:
            for _ in range(ATTEMPTS):
                self.transport.sendto(key + message)
                done, _ = await asyncio.wait([self.waiting[key]], timeout=PATIENCE)
                if done:
                    return self.waiting[key].result()
            raise TimeoutError(f"no answer to question {number}")
        finally:
            del self.waiting[key]


async def client(address):
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(EchoClient, remote_addr=address)
    try:
        messages = [b"Hello, World!", b"", b"x" * 1400]
        for number, message in enumerate(messages):
            answer = await protocol.ask(number, message)
            print(f"Answer {number}: {len(answer)} bytes, {'the same' if answer == message else 'others'}")
        # Many at once, each with its own number; the answers come in any order.
        answers = await asyncio.gather(*(protocol.ask(number, b"ping") for number in range(10, 20)))
        print(f"At once: {answers.count(b'ping')} answers")
    finally:
        transport.close()


async def main(port):
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(EchoServer, local_addr=("127.0.0.1", port or 0))
    try:
        address = transport.get_extra_info("sockname")
        print(f"Serving on {address}", flush=True)
        if port is None:
            await client(address)
        else:
            await asyncio.Event().wait()    # which nobody sets: until Ctrl-C
    finally:
        transport.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="UDP echo on io_uring; without a port, with a client")
    parser.add_argument("port", nargs="?", type=int, metavar="PORT")
    arguments = parser.parse_args()
    try:
        with asyncio.Runner(loop_factory=uringloop.new_event_loop) as runner:
            runner.run(main(arguments.port))
    except KeyboardInterrupt:
        print("Stopped")
