"""Socket addresses between C and Python, for the plain cases.

`format_address` gives what `socket.socket.recvfrom` gives for the families that it knows;
`parse_address` takes an address that needs no resolving and no checking.  For everything else
(host names, scope names, other families, wrong arguments) callers go to the socket module, whose
own methods parse, resolve and complain.

Source: ip(7), ipv6(7), unix(7), inet_pton(3).
"""
import _socket

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.string cimport memcpy, memset
from libc.stdint cimport uint16_t, uint32_t

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        object (*tp_descr_get)(object self, object instance, void* owner)
    PyTypeObject* Py_TYPE(object)
    object PyUnicode_DecodeFSDefaultAndSize(const char* text, Py_ssize_t size)

cdef extern from "<sys/socket.h>" nogil:
    int AF_INET, AF_INET6, AF_UNIX

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        pass
    cdef struct in6_addr:
        pass
    cdef struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    uint16_t htons(uint16_t)
    uint16_t ntohs(uint16_t)
    uint32_t htonl(uint32_t)
    uint32_t ntohl(uint32_t)

cdef extern from "<arpa/inet.h>" nogil:
    const char* inet_ntop(int family, const void* address, char* text, unsigned size)
    int inet_pton(int family, const char* text, void* address)

cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]


cdef inline bint _in_range(object number, long limit) except -1:
    return type(number) is int and 0 <= number <= limit


cdef unsigned parse_address(int family, object address, sockaddr_storage* into) except? 1:
    """The length of `address` written to `into`, or 0 when it is not a plain one."""
    cdef sockaddr_in* inet = <sockaddr_in*> into
    cdef sockaddr_in6* inet6 = <sockaddr_in6*> into
    cdef Py_ssize_t size
    cdef const char* host
    if type(address) is not tuple or not 2 <= len(address) <= 4:
        return 0
    if type(address[0]) is not str or not _in_range(address[1], 0xffff):
        return 0
    if not (<str> address[0]).isascii():
        return 0
    host = PyUnicode_AsUTF8AndSize(address[0], &size)
    if b"\0" in host[:size]:
        return 0
    memset(into, 0, sizeof(sockaddr_storage))
    if family == AF_INET and len(address) == 2:
        if inet_pton(AF_INET, host, &inet.sin_addr) != 1:
            return 0
        inet.sin_family = AF_INET
        inet.sin_port = htons(address[1])
        return sizeof(sockaddr_in)
    if family == AF_INET6:
        if len(address) > 2 and not _in_range(address[2], 0xfffff):
            return 0
        if len(address) > 3 and not _in_range(address[3], 0xffffffff):
            return 0
        if inet_pton(AF_INET6, host, &inet6.sin6_addr) != 1:
            return 0
        inet6.sin6_family = AF_INET6
        inet6.sin6_port = htons(address[1])
        inet6.sin6_flowinfo = htonl(address[2]) if len(address) > 2 else 0
        inet6.sin6_scope_id = address[3] if len(address) > 3 else 0
        return sizeof(sockaddr_in6)
    return 0


cdef object format_address(sockaddr_storage* address, unsigned length):
    """The Python form of an address, None for none; NotImplemented for an unknown family."""
    cdef sockaddr_in* inet = <sockaddr_in*> address
    cdef sockaddr_in6* inet6 = <sockaddr_in6*> address
    cdef sockaddr_un* unix = <sockaddr_un*> address
    cdef char text[64]
    cdef Py_ssize_t size
    if length == 0:
        return None
    if address.ss_family == AF_INET:
        inet_ntop(AF_INET, &inet.sin_addr, text, sizeof(text))
        return text.decode("ascii"), ntohs(inet.sin_port)
    if address.ss_family == AF_INET6:
        inet_ntop(AF_INET6, &inet6.sin6_addr, text, sizeof(text))
        return (text.decode("ascii"), ntohs(inet6.sin6_port), ntohl(inet6.sin6_flowinfo),
                inet6.sin6_scope_id)
    if address.ss_family == AF_UNIX:
        size = <Py_ssize_t> length - <Py_ssize_t> sizeof(unsigned short)
        if size <= 0:
            return None
        if unix.sun_path[0] == 0:
            return PyBytes_FromStringAndSize(unix.sun_path, size)
        # The kernel counts a final NUL in or not, as the sender bound it.
        while size > 0 and unix.sun_path[size - 1] == 0:
            size -= 1
        return PyUnicode_DecodeFSDefaultAndSize(unix.sun_path, size)
    return NotImplemented


cdef object _Socket = _socket.socket
cdef object _family_slot = _socket.socket.family


cdef int family_of(object sock) except? -1:
    if isinstance(sock, _Socket):
        return Py_TYPE(_family_slot).tp_descr_get(_family_slot, sock, NULL)
    return sock.family


cdef bint has_plain_addresses(object sock) except -1:
    return family_of(sock) in (AF_INET, AF_INET6, AF_UNIX)
