# The compiled module: its transports are asyncio.Transport and asyncio.DatagramTransport for those who have one.
DETACH_TAKES_TRANSPORT: bool
GATHER_ONE: int
GATHER_ALL: int
HEADER_SIZE: int

# What Cython puts there.
__test__: dict[str, str]
