# What the modules above need of base_events.pyx.
from ._overlapped cimport Owner


cdef class ReadyOwner(Owner):
    """An owner of operations that the loop runs: it stands in the loop's _ready, as a Handle does."""
    cdef int run(self) except -1
