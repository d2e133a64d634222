# Nothing of it is public: its transports are asyncio.Transport and asyncio.DatagramTransport for those who have one.
import asyncio.proactor_events
from collections.abc import Iterable

DETACH_TAKES_TRANSPORT: bool
GATHER_ONE: int
GATHER_ALL: int
HEADER_SIZE: int

def check_datagram(data: object) -> bytes: ...
def join_pieces(pieces: Iterable[object]) -> bytes: ...

class BaseProactorEventLoop(asyncio.proactor_events.BaseProactorEventLoop): ...
