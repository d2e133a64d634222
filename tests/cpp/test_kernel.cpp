#include "kernel.hpp"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <thread>

#include "support.hpp"

namespace uring::test {
namespace {

// Nothing but pointers, `self` first: a function that is added and forgotten is found as well.
std::size_t missing_functions(const Kernel& kernel) {
  void* words[sizeof(Kernel) / sizeof(void*)];
  static_assert(sizeof(words) == sizeof(Kernel), "a table of pointers");
  memcpy(words, &kernel, sizeof(words));
  return static_cast<std::size_t>(std::count(std::begin(words) + 1, std::end(words), nullptr));
}

TEST_CASE("real_kernel: every function is there") { CHECK(missing_functions(real_kernel()) == 0); }

TEST_CASE("SimulatedKernel: every function is there") {
  SimulatedKernel kernel;
  CHECK(missing_functions(kernel.table()) == 0);
}

TEST_CASE("real_kernel: what the kernel refuses comes as -errno") {
  const Kernel& kernel = real_kernel();
  char byte = 0;
  void* address = nullptr;
  io_uring_params params{};
  CHECK(kernel.setup(kernel.self, 0, &params) == -EINVAL);
  errno = ETIME;
  CHECK(kernel.enter(kernel.self, -1, 0, 0, 0, nullptr, 0) == -EBADF);
  CHECK(errno == 0);
  CHECK(kernel.register_(kernel.self, 1 << 30, IORING_REGISTER_PROBE, nullptr, 0) == -EBADF);
  CHECK(kernel.mmap(kernel.self, 4096, -1, 0, &address) == -EBADF);
  CHECK(kernel.munmap(kernel.self, &byte, 0) == -EINVAL);
  CHECK(kernel.madvise(kernel.self, nullptr, 4096, -1) == -EINVAL);
  CHECK(kernel.eventfd(kernel.self, 0, -1) == -EINVAL);
  CHECK(kernel.close(kernel.self, -1) == -EBADF);
  CHECK(kernel.read(kernel.self, -1, &byte, 1) == -EBADF);
  CHECK(kernel.write(kernel.self, -1, &byte, 1) == -EBADF);
  CHECK(kernel.recvfrom(kernel.self, -1, &byte, 1, 0, nullptr, nullptr) == -EBADF);
  CHECK(kernel.sendto(kernel.self, -1, &byte, 1, 0, nullptr, 0) == -EBADF);
  CHECK(kernel.sendfile(kernel.self, -1, -1, 0, 1) == -EBADF);
}

TEST_CASE("real_kernel: bytes go through its calls") {
  const Kernel& kernel = real_kernel();
  int pair[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
  char buffer[8] = {};
  CHECK(kernel.sendto(kernel.self, pair[0], "abc", 3, MSG_NOSIGNAL, nullptr, 0) == 3);
  CHECK(kernel.recvfrom(kernel.self, pair[1], buffer, sizeof(buffer), 0, nullptr, nullptr) == 3);
  CHECK(std::string(buffer) == "abc");
  CHECK(kernel.recvfrom(kernel.self, pair[1], buffer, sizeof(buffer), MSG_DONTWAIT, nullptr,
                        nullptr) == -EAGAIN);

  const int file = memfd_create("test", MFD_CLOEXEC);
  REQUIRE(write(file, "0123456789", 10) == 10);
  CHECK(kernel.sendfile(kernel.self, pair[0], file, 4, 3) == 3);
  CHECK(kernel.read(kernel.self, pair[1], buffer, sizeof(buffer)) == 3);
  CHECK(std::string(buffer, 3) == "456");
  CHECK(lseek(file, 0, SEEK_CUR) == 10);  // the file position is left alone
  for (int fd : {file, pair[0], pair[1]}) CHECK(kernel.close(kernel.self, fd) == 0);
}

TEST_CASE("real_kernel: clock goes on by as much as was slept") {
  const Kernel& kernel = real_kernel();
  const std::int64_t before = kernel.clock(kernel.self);
  kernel.sleep(kernel.self, 2000000);
  CHECK(kernel.clock(kernel.self) - before >= 2000000);
}

TEST_CASE("real_kernel: thread_id tells threads apart") {
  const Kernel& kernel = real_kernel();
  int other = 0;
  std::thread([&] { other = kernel.thread_id(kernel.self); }).join();
  CHECK(other != 0);
  CHECK(other != kernel.thread_id(kernel.self));
  CHECK(kernel.thread_id(kernel.self) == kernel.thread_id(kernel.self));
}

TEST_CASE("real_kernel: fork_count goes up in the child alone") {
  const Kernel& kernel = real_kernel();
  const unsigned before = kernel.fork_count(kernel.self);
  const pid_t child = fork();
  if (child == 0) _exit(kernel.fork_count(kernel.self) == before + 1 ? 0 : 1);
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(kernel.fork_count(kernel.self) == before);
}

}  // namespace
}  // namespace uring::test
