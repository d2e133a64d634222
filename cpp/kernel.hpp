// The one door between cpp/ and the operating system.
//
// Every system call of this directory goes through a `Kernel`, a plain table of functions, so that
// a test can put a simulated kernel in its place: one that sends short, reorders completions,
// interrupts, overflows or runs out of memory on demand.  liburing serves for the layout of SQEs
// and for the inline `io_uring_prep_*` helpers only; its shared library makes no system call here.
//
// Must not be in here: any policy.  A function does one call and returns what the kernel said,
// `>= 0` or `-errno`.
#pragma once

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>

struct io_uring_params;

namespace uring {

struct Kernel {
  // Handed to every function as first argument; a simulated kernel keeps its state there.
  void* self;

  // io_uring_setup(2): a ring's file descriptor.
  int (*setup)(void* self, unsigned entries, io_uring_params* params);
  // io_uring_enter(2): the number of SQEs consumed.
  int (*enter)(void* self, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
               const void* argument, std::size_t size);
  // io_uring_register(2).
  int (*register_)(void* self, int fd, unsigned opcode, void* argument, unsigned count);
  // mmap(2) of a ring's memory, shared and populated; the address goes to `*address`.
  int (*mmap)(void* self, std::size_t length, int fd, std::int64_t offset, void** address);
  int (*munmap)(void* self, void* address, std::size_t length);
  int (*madvise)(void* self, void* address, std::size_t length, int advice);

  int (*eventfd)(void* self, unsigned initial, int flags);
  // epoll_create1(2), close-on-exec.
  int (*epoll_create)(void* self);
  int (*epoll_ctl)(void* self, int epoll, int operation, int fd, epoll_event* event);
  // epoll_wait(2), without the wait.
  int (*epoll_wait)(void* self, int epoll, epoll_event* events, int limit);
  // poll(2) of one descriptor, without the wait: which of `events` hold, or POLLERR, POLLHUP ...
  int (*poll)(void* self, int fd, short events);
  int (*close)(void* self, int fd);
  std::int64_t (*read)(void* self, int fd, void* buffer, std::size_t size);
  std::int64_t (*write)(void* self, int fd, const void* buffer, std::size_t size);
  // recvfrom(2); `address` and `address_length` may be null.
  std::int64_t (*recvfrom)(void* self, int fd, void* buffer, std::size_t size, int flags,
                           sockaddr* address, socklen_t* address_length);
  // sendto(2); with null and 0 in place of an address it is send(2).
  std::int64_t (*sendto)(void* self, int fd, const void* buffer, std::size_t size, int flags,
                         const sockaddr* address, socklen_t address_length);
  // sendfile(2) from `file` at `offset` into `socket`.
  std::int64_t (*sendfile)(void* self, int socket, int file, std::int64_t offset,
                           std::size_t count);

  // CLOCK_MONOTONIC, nanoseconds.
  std::int64_t (*clock)(void* self);
  void (*sleep)(void* self, std::int64_t nanoseconds);
  // gettid(2): SINGLE_ISSUER binds a ring to one thread.
  int (*thread_id)(void* self);
  // How often this process image came out of a fork(2); a ring belongs to the value it was made in.
  // In a child nothing need be closed of what setup(), eventfd() and epoll_create() have made: the
  // child has closed it on its way out of fork(2).
  unsigned (*fork_count)(void* self);
};

// The running system's own calls.
const Kernel& real_kernel() noexcept;

}  // namespace uring
