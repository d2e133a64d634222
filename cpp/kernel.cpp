#include "kernel.hpp"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <new>
#include <vector>

// <asm/unistd.h> of an old header package may lack them; the numbers are the same everywhere but
// on alpha.
#ifndef __NR_io_uring_setup
#define __NR_io_uring_setup 425
#endif
#ifndef __NR_io_uring_enter
#define __NR_io_uring_enter 426
#endif
#ifndef __NR_io_uring_register
#define __NR_io_uring_register 427
#endif

namespace uring {
namespace {

// (errno itself is left at 0: whoever looks at it next, as OpenSSL's users do who ask what a failed call
// of theirs was, must not take the end of our sleep, ETIME, for an error of his.)
template <typename T>
T or_errno(T result) noexcept {
  if (result >= 0) return result;
  const int error = errno;
  errno = 0;
  return static_cast<T>(-error);
}

// Descriptors that a forked child must not keep.  A ring's holds whatever is in flight on it: were
// the parent killed, its connections and its ports would live on as long as the child.
//
// Not destroyed at exit: a thread may still fork.
struct NotForChildren {
  std::mutex mutex;
  std::vector<int> fds;
};
NotForChildren& not_for_children() {
  static NotForChildren* const kept = new NotForChildren;
  return *kept;
}

// `fd`, once it is noted; closed, and -ENOMEM, where it can't be.
int keep_from_children(int fd) noexcept {
  if (fd < 0) return fd;
  NotForChildren& kept = not_for_children();
  try {
    const std::lock_guard<std::mutex> lock(kept.mutex);
    kept.fds.push_back(fd);
  } catch (const std::bad_alloc&) {
    close(fd);
    return -ENOMEM;
  }
  return fd;
}

int real_setup(void*, unsigned entries, io_uring_params* params) {
  return keep_from_children(
      static_cast<int>(or_errno(syscall(__NR_io_uring_setup, entries, params))));
}

int real_enter(void*, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
               const void* argument, std::size_t size) {
  return static_cast<int>(or_errno(
      syscall(__NR_io_uring_enter, fd, to_submit, min_complete, flags, argument, size)));
}

int real_register(void*, int fd, unsigned opcode, void* argument, unsigned count) {
  return static_cast<int>(or_errno(syscall(__NR_io_uring_register, fd, opcode, argument, count)));
}

int real_mmap(void*, std::size_t length, int fd, std::int64_t offset, void** address) {
  void* mapped =
      mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
  if (mapped == MAP_FAILED) return or_errno(-1);
  *address = mapped;
  return 0;
}

int real_munmap(void*, void* address, std::size_t length) {
  return or_errno(munmap(address, length));
}

int real_madvise(void*, void* address, std::size_t length, int advice) {
  return or_errno(madvise(address, length, advice));
}

int real_eventfd(void*, unsigned initial, int flags) {
  return keep_from_children(or_errno(eventfd(initial, flags)));
}

int real_epoll_create(void*) { return keep_from_children(or_errno(epoll_create1(EPOLL_CLOEXEC))); }

int real_epoll_ctl(void*, int epoll, int operation, int fd, epoll_event* event) {
  return or_errno(epoll_ctl(epoll, operation, fd, event));
}

int real_epoll_wait(void*, int epoll, epoll_event* events, int limit) {
  return or_errno(epoll_wait(epoll, events, limit, 0));
}

int real_poll(void*, int fd, short events) {
  pollfd asked{fd, events, 0};
  const int result = or_errno(poll(&asked, 1, 0));
  return result > 0 ? asked.revents : result;
}

int real_close(void*, int fd) {
  NotForChildren& kept = not_for_children();
  const std::lock_guard<std::mutex> lock(kept.mutex);
  // Newest first: loops are closed in the reverse of the order in which they are made.
  const auto found = std::find(kept.fds.rbegin(), kept.fds.rend(), fd);
  if (found != kept.fds.rend()) kept.fds.erase(std::next(found).base());
  // Under the lock: a child that is forked in between would close the number's next owner.
  return or_errno(close(fd));
}

std::int64_t real_read(void*, int fd, void* buffer, std::size_t size) {
  return or_errno<std::int64_t>(read(fd, buffer, size));
}

std::int64_t real_write(void*, int fd, const void* buffer, std::size_t size) {
  return or_errno<std::int64_t>(write(fd, buffer, size));
}

std::int64_t real_recvfrom(void*, int fd, void* buffer, std::size_t size, int flags,
                           sockaddr* address, socklen_t* address_length) {
  return or_errno<std::int64_t>(recvfrom(fd, buffer, size, flags, address, address_length));
}

std::int64_t real_sendto(void*, int fd, const void* buffer, std::size_t size, int flags,
                         const sockaddr* address, socklen_t address_length) {
  return or_errno<std::int64_t>(sendto(fd, buffer, size, flags, address, address_length));
}

std::int64_t real_sendfile(void*, int socket, int file, std::int64_t offset, std::size_t count) {
  off_t position = offset;
  return or_errno<std::int64_t>(sendfile(socket, file, &position, count));
}

std::int64_t real_clock(void*) {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

void real_sleep(void*, std::int64_t nanoseconds) {
  timespec wait{static_cast<time_t>(nanoseconds / 1000000000),
                static_cast<long>(nanoseconds % 1000000000)};
  nanosleep(&wait, nullptr);
}

int real_thread_id(void*) { return static_cast<int>(syscall(SYS_gettid)); }

// getpid() is a system call again since glibc 2.25: a counter that the child's side of fork()
// raises costs nothing to read.
std::atomic<unsigned> forks{0};

void before_fork() { not_for_children().mutex.lock(); }

void after_fork_in_parent() { not_for_children().mutex.unlock(); }

void after_fork_in_child() {
  NotForChildren& kept = not_for_children();
  for (int fd : kept.fds) close(fd);
  kept.fds.clear();
  kept.mutex.unlock();
  forks.fetch_add(1, std::memory_order_relaxed);
}

unsigned real_fork_count(void*) { return forks.load(std::memory_order_relaxed); }

Kernel make_real_kernel() noexcept {
  not_for_children();
  pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
  Kernel kernel{};
  kernel.setup = real_setup;
  kernel.enter = real_enter;
  kernel.register_ = real_register;
  kernel.mmap = real_mmap;
  kernel.munmap = real_munmap;
  kernel.madvise = real_madvise;
  kernel.eventfd = real_eventfd;
  kernel.epoll_create = real_epoll_create;
  kernel.epoll_ctl = real_epoll_ctl;
  kernel.epoll_wait = real_epoll_wait;
  kernel.poll = real_poll;
  kernel.close = real_close;
  kernel.read = real_read;
  kernel.write = real_write;
  kernel.recvfrom = real_recvfrom;
  kernel.sendto = real_sendto;
  kernel.sendfile = real_sendfile;
  kernel.clock = real_clock;
  kernel.sleep = real_sleep;
  kernel.thread_id = real_thread_id;
  kernel.fork_count = real_fork_count;
  return kernel;
}

}  // namespace

const Kernel& real_kernel() noexcept {
  static const Kernel kernel = make_real_kernel();
  return kernel;
}

}  // namespace uring
