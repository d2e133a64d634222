// "The kernel still owns it", on the running kernel: a buffer is poisoned in the moment in which its
// operation hands it back, after cancels at all moments.  A kernel that read it later would send the
// poison, or, where the page is protected, fail with -EFAULT instead of what was asked for.
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <map>
#include <string>

#include "proactor.hpp"
#include "support.hpp"

namespace uring::test {
namespace {

constexpr std::size_t kPage = 4096;
constexpr char kPoison = '!';
constexpr int kMoments = 8;
constexpr int kMostTurns = 1000;

enum class Poison { kCanary, kProtection };

// Whole pages of their own, poisoned at their release.
class Buffer {
 public:
  explicit Buffer(std::size_t pages) : size_(pages * kPage) {
    void* mapped = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(mapped != MAP_FAILED);
    bytes_ = static_cast<char*>(mapped);
    memset(bytes_, 'a', size_);
  }
  ~Buffer() { munmap(bytes_, size_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  const char* bytes() const { return bytes_; }
  std::size_t size() const { return size_; }
  void release(Poison poison) {
    if (poison == Poison::kCanary)
      memset(bytes_, kPoison, size_);
    else
      REQUIRE(mprotect(bytes_, size_, PROT_NONE) == 0);
  }

 private:
  char* bytes_;
  std::size_t size_;
};

// A turn in its three steps, with a cancel before one of them.  `moment` counts them all.
template <typename Cancel, typename Collect>
void turns_with_cancel(Proactor& proactor, int moment, Cancel cancel, Collect collect) {
  for (int step = 0; step <= kMoments + 3; ++step) {
    if (step == moment) {
      cancel();
      collect();
    }
    switch (step % 3) {
      case 0: REQUIRE(proactor.prepare() == 0); break;
      case 1: REQUIRE(proactor.enter(false, 0) == 0); break;
      default: proactor.reap(); break;
    }
    collect();
  }
  for (int turns = 0; turns < kMostTurns && proactor.in_flight() != 0; ++turns) {
    proactor.turn(0);
    collect();
  }
}

void start(Proactor& proactor, Rung rung) {
  Features features;
  REQUIRE(probe_features(real_kernel(), &features, rung) == 0);
  REQUIRE(proactor.init(features, 8, 16) == 0);
  REQUIRE(proactor.bind_thread() == 0);
}

std::string drain(int fd) {
  std::string all;
  char block[65536];
  for (ssize_t count; (count = recv(fd, block, sizeof(block), MSG_DONTWAIT)) > 0;)
    all.append(block, static_cast<std::size_t>(count));
  return all;
}

TEST_CASE("poison: a send's buffer is not read after its release") {
  for (Rung rung : kRungs) {
    for (Poison poison : {Poison::kCanary, Poison::kProtection}) {
      // One that goes out whole, and one that must wait for room.
      for (std::size_t pages : {1, 256}) {
        for (int moment = 0; moment <= kMoments; ++moment) {
          CAPTURE(rung_name(rung));
          CAPTURE(pages);
          CAPTURE(moment);
          Proactor proactor;
          start(proactor, rung);
          int fds[2];
          REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
          Buffer buffer(pages);
          const std::int64_t key =
              proactor.start_send(fds[0], buffer.bytes(), buffer.size(), 0);
          std::int64_t result = -1;
          std::string arrived;
          auto collect = [&] {
            Completion completion;
            while (proactor.next(&completion)) {
              CHECK((completion.error == 0 || completion.error == -ECANCELED));
              result = completion.result;
              proactor.release(completion.key);
              buffer.release(poison);
            }
          };
          auto cancel = [&] {
            // By then it may be over.
            if (result < 0) proactor.cancel(static_cast<std::uint64_t>(key));
          };
          turns_with_cancel(proactor, moment, cancel, collect);
          // With room again, whoever still waits for it reads on.
          arrived += drain(fds[1]);
          for (int turns = 0; turns < 5; ++turns) proactor.turn(0);
          collect();
          arrived += drain(fds[1]);
          CHECK(result >= 0);
          CHECK(arrived.size() == static_cast<std::size_t>(result));
          CHECK(arrived.find(kPoison) == std::string::npos);
          CHECK(proactor.stale_keys() == 0);
          CHECK(proactor.operations() == 0);
          proactor.close();
          for (int fd : fds) ::close(fd);
        }
      }
    }
  }
}

TEST_CASE("poison: a datagram's address is not read after its release") {
  for (Rung rung : kRungs) {
    for (int moment = 0; moment <= kMoments; ++moment) {
      CAPTURE(rung_name(rung));
      CAPTURE(moment);
      Proactor proactor;
      start(proactor, rung);
      const int ours = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      int theirs[2];
      sockaddr_un names[2];
      socklen_t lengths[2];
      for (int which = 0; which < 2; ++which) {
        theirs[which] = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        names[which] = sockaddr_un{};
        names[which].sun_family = AF_UNIX;
        lengths[which] = sizeof(names[which]);
        // A name of the kernel's choice.
        REQUIRE(bind(theirs[which], reinterpret_cast<sockaddr*>(&names[which]), sizeof(sa_family_t)) == 0);
        REQUIRE(getsockname(theirs[which], reinterpret_cast<sockaddr*>(&names[which]), &lengths[which]) == 0);
      }
      const std::int64_t first = proactor.start_sendto(ours, "first", 5, 0, &names[0], lengths[0]);
      std::map<std::int64_t, Completion> seen;
      std::int64_t second = 0;
      auto collect = [&] {
        Completion completion;
        while (proactor.next(&completion)) {
          seen[static_cast<std::int64_t>(completion.key)] = completion;
          proactor.release(completion.key);
          // The block that is free now is the next one's.
          if (second == 0)
            second = proactor.start_sendto(ours, "second", 6, 0, &names[1], lengths[1]);
        }
      };
      auto cancel = [&] {
        if (seen.count(first) == 0) proactor.cancel(static_cast<std::uint64_t>(first));
      };
      turns_with_cancel(proactor, moment, cancel, collect);
      for (int turns = 0; turns < kMostTurns && proactor.operations() != 0; ++turns) {
        proactor.turn(0);
        collect();
      }
      REQUIRE(seen.size() == 2);
      CHECK(drain(theirs[0]) == (seen[first].error == 0 ? "first" : ""));
      CHECK(drain(theirs[1]) == "second");
      CHECK(seen[second].error == 0);
      CHECK(proactor.stale_keys() == 0);
      proactor.close();
      for (int fd : {ours, theirs[0], theirs[1]}) ::close(fd);
    }
  }
}

}  // namespace
}  // namespace uring::test
