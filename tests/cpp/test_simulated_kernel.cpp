// The simulated kernel's own faults: each does what its name says when it is wanted, is counted,
// and does nothing when it is not.  That it plays by the real kernel's rules is the affair of
// test_ring.cpp and test_proactor_real.cpp.
#include "simulated_kernel.hpp"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "ring.hpp"
#include "support.hpp"

namespace uring::test {
namespace {

// A ring on a simulated kernel, of which one fault is certain or all are off.
struct Faulty {
  explicit Faulty(unsigned Chances::*fault = nullptr, unsigned completions = 64,
                  Rung rung = Rung::kDeferTaskrun)
      : calls(kernel.table()), ring(calls) {
    Features features;
    REQUIRE(probe_features(calls, &features, rung) == 0);
    REQUIRE(ring.init(features, 16, completions, 0) == 0);
    REQUIRE(ring.enable() == 0);
    if (fault != nullptr) kernel.chances.*fault = 1000;
  }
  ~Faulty() {
    ring.close();
    kernel.end_closed_rings();
    for (const std::string& violation : kernel.violations) FAIL_CHECK(violation);
  }

  io_uring_sqe* sqe() {
    io_uring_sqe* sqe = ring.get_sqe();
    REQUIRE(sqe != nullptr);
    return sqe;
  }
  void poll(int fd, unsigned events, std::uint64_t user_data) {
    io_uring_sqe* entry = sqe();
    io_uring_prep_poll_add(entry, fd, events);
    entry->user_data = user_data;
  }
  void send(int fd, const char* text, std::uint64_t user_data) {
    io_uring_sqe* entry = sqe();
    io_uring_prep_send(entry, fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
    entry->user_data = user_data;
  }
  void cancel(std::uint64_t target, std::uint64_t user_data) {
    io_uring_sqe* entry = sqe();
    io_uring_prep_cancel64(entry, target, 0);
    entry->user_data = user_data;
  }
  // All that is visible, in order.
  std::vector<io_uring_cqe> pop() {
    std::vector<io_uring_cqe> cqes;
    io_uring_cqe cqe;
    while (ring.pop(&cqe)) cqes.push_back(cqe);
    return cqes;
  }
  // The one completion that an enter brings.
  io_uring_cqe one() {
    CHECK(ring.enter(false, 0) >= 0);
    std::vector<io_uring_cqe> cqes = pop();
    REQUIRE(cqes.size() == 1);
    return cqes[0];
  }

  SimulatedKernel kernel;
  Kernel calls;
  Ring ring;
};

TEST_CASE("Chances: what is off never strikes") {
  Faulty machine;
  auto [ours, theirs] = machine.kernel.stream_pair();
  for (std::uint64_t round = 1; round <= 100; ++round) {
    machine.send(ours, "ten bytes!", round);
    CHECK(machine.one().res == 10);
    CHECK(machine.kernel.take(theirs) == "ten bytes!");
  }
  for (const FaultName& fault : kFaults) CHECK(machine.kernel.taken.*fault.member == 0);
}

TEST_CASE("Chances: every one has a name, and no two have the same") {
  CHECK(sizeof(kFaults) / sizeof(*kFaults) == sizeof(Chances) / sizeof(unsigned));
  Chances chances;
  std::set<std::string> names;
  for (const FaultName& fault : kFaults) {
    ++(chances.*fault.member);
    CHECK(chances.*fault.member == 1);
    CHECK(names.insert(fault.name).second);
  }
}

TEST_CASE("Chances: the same seed and the same calls have the same faults") {
  auto results = [](std::uint64_t seed) {
    SimulatedKernel kernel(seed);
    const Kernel calls = kernel.table();
    kernel.chances.short_transfer = kernel.chances.interrupted = 500;
    auto [ours, theirs] = kernel.stream_pair();
    std::vector<std::int64_t> seen;
    for (int round = 0; round < 50; ++round) {
      seen.push_back(
          calls.sendto(calls.self, ours, "0123456789", 10, MSG_DONTWAIT | MSG_NOSIGNAL, nullptr, 0));
      kernel.take(theirs);
    }
    return seen;
  };
  CHECK(results(1) == results(1));
  CHECK(results(1) != results(2));
}

TEST_CASE("short_transfer: some of the bytes, of a stream alone") {
  Faulty machine(&Chances::short_transfer);
  auto [ours, theirs] = machine.kernel.stream_pair();
  machine.send(ours, "0123456789", 1);
  const int sent = machine.one().res;
  CHECK(sent > 0);
  CHECK(sent < 10);
  CHECK(machine.kernel.take(theirs) == std::string("0123456789").substr(0, sent));
  machine.kernel.put(theirs, "0123456789");
  char buffer[10];
  const std::int64_t received = machine.calls.recvfrom(machine.calls.self, ours, buffer, 10,
                                                       MSG_DONTWAIT, nullptr, nullptr);
  CHECK(received > 0);
  CHECK(received < 10);
  CHECK(machine.kernel.taken.short_transfer == 2);
  // Of eight bytes, an eventfd takes and gives all.
  const int event = machine.calls.eventfd(machine.calls.self, 5, 0);
  std::uint64_t number = 0;
  CHECK(machine.calls.read(machine.calls.self, event, &number, sizeof(number)) == 8);
  CHECK(number == 5);
}

TEST_CASE("zero_transfer: nothing sent and no error") {
  Faulty machine(&Chances::zero_transfer);
  auto [ours, theirs] = machine.kernel.stream_pair();
  machine.send(ours, "bytes", 1);
  CHECK(machine.one().res == 0);
  CHECK(machine.kernel.take(theirs).empty());
  CHECK(machine.kernel.taken.zero_transfer == 1);
}

TEST_CASE("spurious: an end without a reason and without effect") {
  Faulty machine(&Chances::spurious);
  auto [ours, theirs] = machine.kernel.stream_pair();
  std::set<int> sends, polls;
  for (std::uint64_t round = 1; round <= 50; ++round) {
    machine.send(ours, "bytes", round);
    sends.insert(machine.one().res);
    machine.poll(ours, POLLOUT, round);
    polls.insert(machine.one().res);
  }
  CHECK(sends == std::set<int>{-EINTR, -EAGAIN, -ECANCELED});
  CHECK(polls == std::set<int>{-EINTR, -ECANCELED});
  CHECK(machine.kernel.take(theirs).empty());
}

TEST_CASE("no_buffers: a send ends with ENOBUFS and has done nothing") {
  Faulty machine(&Chances::no_buffers);
  auto [ours, theirs] = machine.kernel.stream_pair();
  machine.send(ours, "bytes", 1);
  CHECK(machine.one().res == -ENOBUFS);
  machine.poll(ours, POLLOUT, 2);
  CHECK(machine.one().res == POLLOUT);
  CHECK(machine.kernel.take(theirs).empty());
  CHECK(machine.kernel.taken.no_buffers == 1);
}

TEST_CASE("hold_back: what is ready completes later, and a wait sees it in the end") {
  Faulty machine(&Chances::hold_back);
  auto [ours, theirs] = machine.kernel.stream_pair();
  machine.poll(ours, POLLIN, 1);
  CHECK(machine.ring.enter(false, 0) == 1);
  machine.kernel.put(theirs, "x");
  // Each enter begins a round of holding back; nothing says that it ends there.
  for (int count = 0; count < 10; ++count) {
    CHECK(machine.ring.enter(false, 0) == 0);
    CHECK_FALSE(machine.ring.completions_visible());
  }
  CHECK(machine.ring.enter(true, -1) == 0);
  CHECK(machine.pop().size() == 1);
}

TEST_CASE("reorder: all completions of an enter come, in any order") {
  Faulty machine(&Chances::reorder);
  bool ordered = true;
  for (int round = 0; round < 20; ++round) {
    for (std::uint64_t key = 1; key <= 8; ++key) {
      io_uring_sqe* entry = machine.sqe();
      io_uring_prep_nop(entry);
      entry->user_data = key;
    }
    CHECK(machine.ring.enter(false, 0) == 8);
    std::vector<std::uint64_t> order;
    for (const io_uring_cqe& cqe : machine.pop()) order.push_back(cqe.user_data);
    ordered = ordered && std::is_sorted(order.begin(), order.end());
    CHECK(std::set<std::uint64_t>(order.begin(), order.end()).size() == 8);
  }
  CHECK_FALSE(ordered);
}

TEST_CASE("late_cancel: the target is over, or soon is, when its cancel comes") {
  Faulty machine(&Chances::late_cancel);
  auto [ours, theirs] = machine.kernel.stream_pair();
  for (bool ready : {false, true}) {
    machine.poll(ours, POLLIN, 1);
    CHECK(machine.ring.enter(false, 0) == 1);
    if (ready) machine.kernel.put(theirs, "x");
    machine.cancel(1, 2);
    CHECK(machine.ring.enter(false, 0) == 1);
    std::map<std::uint64_t, int> results;
    for (const io_uring_cqe& cqe : machine.pop()) results[cqe.user_data] = cqe.res;
    CHECK(results[1] == (ready ? POLLIN : -ECANCELED));
    CHECK(results[2] == (ready ? -ENOENT : -EALREADY));
  }
}

TEST_CASE("cancel: without the fault it wins over what is ready and has not been done") {
  Faulty machine;
  machine.kernel.chances.hold_back = 1000;
  auto [ours, theirs] = machine.kernel.stream_pair();
  machine.poll(ours, POLLIN, 1);
  CHECK(machine.ring.enter(false, 0) == 1);
  machine.kernel.put(theirs, "x");
  machine.cancel(1, 2);
  CHECK(machine.ring.enter(true, -1) == 1);
  machine.kernel.chances.hold_back = 0;
  machine.ring.enter(false, 0);
  std::map<std::uint64_t, int> results;
  for (const io_uring_cqe& cqe : machine.pop()) results[cqe.user_data] = cqe.res;
  CHECK(results == std::map<std::uint64_t, int>{{1, -ECANCELED}, {2, 0}});
}

TEST_CASE("deaf_requests: a cancel is told that it is too late, and the target goes on") {
  Faulty machine;
  machine.kernel.deaf_requests = true;
  auto [ours, theirs] = machine.kernel.stream_pair();
  machine.poll(ours, POLLIN, 1);
  machine.cancel(1, 2);
  machine.cancel(1, 3);
  machine.cancel(9, 4);
  CHECK(machine.ring.enter(false, 0) == 4);
  std::map<std::uint64_t, int> results;
  for (const io_uring_cqe& cqe : machine.pop()) results[cqe.user_data] = cqe.res;
  CHECK(results == std::map<std::uint64_t, int>{{2, -EALREADY}, {3, -EALREADY}, {4, -ENOENT}});
  machine.kernel.put(theirs, "x");
  const io_uring_cqe cqe = machine.one();
  CHECK(cqe.user_data == 1);
  CHECK(cqe.res == POLLIN);
}

TEST_CASE("failed_enter: nothing is submitted, and a wait is interrupted") {
  Faulty machine(&Chances::failed_enter);
  auto [ours, theirs] = machine.kernel.stream_pair();
  CHECK(machine.ring.enter(false, 0) == 0);
  CHECK(machine.ring.enter(true, -1) == -EINTR);
  machine.send(ours, "bytes", 1);
  CHECK(machine.ring.enter(false, 0) == -EAGAIN);
  CHECK(machine.ring.submissions_pending() == 1);
  machine.kernel.chances.failed_enter = 0;
  CHECK(machine.ring.enter(false, 0) == 1);
  CHECK(machine.kernel.take(theirs) == "bytes");
}

TEST_CASE("short_submit: some of the SQEs, at least one") {
  Faulty machine(&Chances::short_submit);
  for (std::uint64_t key = 1; key <= 8; ++key) io_uring_prep_nop(machine.sqe());
  const int submitted = machine.ring.enter(false, 0);
  CHECK(submitted > 0);
  CHECK(submitted < 8);
  CHECK(machine.ring.submissions_pending() == static_cast<unsigned>(8 - submitted));
  CHECK(machine.pop().size() == static_cast<std::size_t>(submitted));
}

TEST_CASE("stale_flag: there seems to be task work where there is none") {
  for (bool stale : {false, true}) {
    Faulty machine(stale ? &Chances::stale_flag : nullptr);
    auto [ours, theirs] = machine.kernel.stream_pair();
    machine.poll(ours, POLLIN, 1);
    CHECK(machine.ring.enter(false, 0) == 1);
    machine.kernel.put(theirs, "x");
    CHECK(machine.ring.completions_deferred());
    CHECK(machine.one().user_data == 1);
    CHECK(machine.ring.completions_deferred() == stale);
    CHECK_FALSE(machine.ring.completions_visible());
  }
}

TEST_CASE("interrupted: a call by itself says EINTR or EAGAIN and does nothing") {
  Faulty machine(&Chances::interrupted);
  const Kernel& calls = machine.calls;
  auto [ours, theirs] = machine.kernel.stream_pair();
  machine.kernel.put(theirs, "for us");
  char buffer[10];
  std::set<std::int64_t> results;
  for (int round = 0; round < 20; ++round) {
    results.insert(
        calls.sendto(calls.self, ours, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL, nullptr, 0));
    results.insert(calls.recvfrom(calls.self, ours, buffer, 10, MSG_DONTWAIT, nullptr, nullptr));
    results.insert(calls.read(calls.self, ours, buffer, 10));
  }
  CHECK(results == std::set<std::int64_t>{-EINTR, -EAGAIN});
  CHECK(machine.kernel.take(theirs).empty());
  CHECK(machine.kernel.take(ours) == "for us");
}

TEST_CASE("overflow: completions are kept back though there is room, and none is lost") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Faulty machine(&Chances::overflow, 64, rung);
    auto [ours, theirs] = machine.kernel.stream_pair();
    machine.poll(ours, POLLOUT, 1);
    machine.poll(ours, POLLOUT, 2);
    // Without GETEVENTS nothing is brought back.
    const Kernel& calls = machine.calls;
    CHECK_FALSE(machine.ring.overflowed());
    CHECK(machine.ring.enter(false, 0) == 2);
    CHECK(machine.pop().size() == 2);
    CHECK_FALSE(machine.ring.overflowed());
    CHECK(machine.kernel.taken.overflow == 2);
    machine.poll(ours, POLLIN, 3);
    CHECK(machine.ring.enter(false, 0) == 1);
    CHECK(machine.kernel.put(theirs, "x") == 1);
    CHECK(calls.fork_count(calls.self) == 0);
    if (rung == Rung::kPlain) CHECK(machine.ring.overflowed());
    CHECK_FALSE(machine.ring.completions_visible());
    CHECK(machine.ring.enter(false, 0) == 0);
    CHECK(machine.pop().size() == 1);
  }
}

TEST_CASE("more: completions with F_MORE while a request waits, before its last") {
  Faulty machine(&Chances::more);
  auto [ours, theirs] = machine.kernel.stream_pair();
  machine.poll(ours, POLLIN, 1);
  std::vector<io_uring_cqe> cqes;
  for (int round = 0; round < 10; ++round) {
    CHECK(machine.ring.enter(false, 0) >= 0);
    for (const io_uring_cqe& cqe : machine.pop()) cqes.push_back(cqe);
  }
  CHECK(!cqes.empty());
  for (const io_uring_cqe& cqe : cqes) {
    CHECK(cqe.user_data == 1);
    CHECK(cqe.flags == IORING_CQE_F_MORE);
  }
  machine.kernel.put(theirs, "x");
  const io_uring_cqe last = machine.one();
  CHECK(last.res == POLLIN);
  CHECK(last.flags == 0);
}

TEST_CASE("stray: a key whose slot has got another completes once more") {
  Faulty machine(&Chances::stray);
  auto [ours, theirs] = machine.kernel.stream_pair();
  const std::uint64_t first = std::uint64_t{1} << 32 | 5, second = std::uint64_t{2} << 32 | 5;
  machine.poll(ours, POLLOUT, first);
  CHECK(machine.one().user_data == first);
  // The proactor arms an operation again under its key: that is no other.
  machine.poll(ours, POLLOUT, first);
  CHECK(machine.one().user_data == first);
  machine.poll(ours, POLLIN, second);
  const io_uring_cqe cqe = machine.one();
  CHECK(cqe.user_data == first);
  CHECK(cqe.flags == 0);
  CHECK(machine.kernel.taken.stray == 1);
}

TEST_CASE("failed_set_up: no ring can be had, and nothing is left of it") {
  SimulatedKernel kernel;
  const Kernel calls = kernel.table();
  Features features;
  REQUIRE(probe_features(calls, &features, Rung::kDeferTaskrun) == 0);
  const std::size_t files = kernel.open_files();
  std::set<int> results;
  kernel.chances.failed_set_up = 300;
  for (int round = 0; round < 200; ++round) {
    Ring ring(calls);
    int result = ring.init(features, 4, 8, 0);
    if (result == 0) result = ring.enable();
    results.insert(result);
    ring.close();
    CHECK(kernel.open_files() == files);
    CHECK(kernel.mappings() == 0);
  }
  CHECK(results == std::set<int>{-ENOMEM, -EMFILE, 0});
}

TEST_CASE("largest_sq, largest_cq: a ring gets less than it asked for and works") {
  SimulatedKernel kernel;
  const Kernel calls = kernel.table();
  kernel.largest_sq = 2;
  kernel.largest_cq = 4;
  Features features;
  REQUIRE(probe_features(calls, &features, Rung::kPlain) == 0);
  Ring ring(calls);
  REQUIRE(ring.init(features, 512, 2048, 0) == 0);
  for (int round = 0; round < 10; ++round) {
    io_uring_sqe* sqe;
    unsigned count = 0;
    for (; (sqe = ring.get_sqe()) != nullptr; ++count) io_uring_prep_nop(sqe);
    CHECK(count == 2);
    CHECK(ring.enter(false, 0) == 2);
    io_uring_cqe cqe;
    CHECK(ring.pop(&cqe));
    CHECK(ring.pop(&cqe));
    CHECK_FALSE(ring.pop(&cqe));
  }
}

// -- over real files --

struct Sockets {
  Sockets() { REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0); }
  ~Sockets() {
    for (int fd : fds) {
      if (fd >= 0) ::close(fd);
    }
  }
  void close(int which) {
    ::close(fds[which]);
    fds[which] = -1;
  }
  int fds[2] = {-1, -1};
};

// A plain ring over real files, and a pair of them.
struct Real {
  Real() : calls(kernel.table()), ring(calls) {
    Features features;
    REQUIRE(probe_features(calls, &features, Rung::kPlain) == 0);
    REQUIRE(ring.init(features, 4, 8, 0) == 0);
  }
  SimulatedKernel kernel{1, Backing::kReal};
  const Kernel calls;
  Ring ring;
  Sockets sockets;
};

TEST_CASE("Backing::kReal: descriptors that the program sees are those it would see without") {
  SimulatedKernel kernel(1, Backing::kReal);
  const Kernel calls = kernel.table();
  Features features;
  REQUIRE(probe_features(calls, &features, Rung::kPlain) == 0);
  const int next = dup(0);
  close(next);
  {
    Ring ring(calls);
    REQUIRE(ring.init(features, 4, 8, 0) == 0);
    CHECK(ring.fd() == next);
    Sockets sockets;
    CHECK(sockets.fds[0] == next + 1);
    io_uring_sqe* sqe = ring.get_sqe();
    io_uring_prep_poll_add(sqe, sockets.fds[0], POLLIN);
    CHECK(ring.enter(false, 0) == 1);
    CHECK(kernel.requests() == 1);
    const int after = dup(0);
    CHECK(after == next + 3);
    close(after);
  }
  kernel.end_closed_rings();
  CHECK(kernel.open_files() == 0);
  CHECK(kernel.violations.empty());
}

TEST_CASE("Backing::kReal: a thread that sleeps lets others in, and wakes by what they do") {
  Real real;
  for (std::uint64_t round = 0; round < 20; ++round) {
    io_uring_sqe* sqe = real.ring.get_sqe();
    io_uring_prep_poll_add(sqe, real.sockets.fds[0], POLLIN);
    sqe->user_data = round;
    std::thread other([&] {
      for (int count = 0; count < 50; ++count) real.calls.fork_count(real.calls.self);
      real.calls.sendto(real.calls.self, real.sockets.fds[1], "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL, nullptr, 0);
      for (int count = 0; count < 50; ++count) real.calls.fork_count(real.calls.self);
    });
    CHECK(real.ring.enter(true, -1) == 1);
    other.join();
    io_uring_cqe cqe;
    REQUIRE(real.ring.pop(&cqe));
    CHECK(cqe.user_data == round);
    char byte;
    CHECK(real.calls.read(real.calls.self, real.sockets.fds[0], &byte, 1) == 1);
  }
}

TEST_CASE("Backing::kReal: what a thread left behind when it ended, ends with the orphans' result") {
  Real real;
  pid_t thread = 0;
  std::thread([&] {
    thread = gettid();
    io_uring_prep_poll_add(real.ring.get_sqe(), real.sockets.fds[0], POLLIN);
    CHECK(real.ring.enter(false, 0) == 1);
  }).join();
  // A join returns a little before the kernel forgets the thread.
  while (syscall(SYS_tgkill, getpid(), thread, 0) == 0) std::this_thread::yield();
  real.sockets.close(1);
  CHECK(real.ring.enter(true, -1) == 0);
  io_uring_cqe cqe;
  REQUIRE(real.ring.pop(&cqe));
  CHECK(cqe.res == real.kernel.orphan_result);
}

}  // namespace
}  // namespace uring::test
