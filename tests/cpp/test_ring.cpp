// What needs no fault runs on the running kernel and on the simulated one, over make-believe files
// and over real ones: where they disagree, the simulated one is wrong.
#include "ring.hpp"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "support.hpp"

namespace uring::test {
namespace {

// A kernel to run on, and the means to do to it what a test needs.
enum class Which { kMadeUp, kSimulatedOverReal, kReal };

struct Machine {
  explicit Machine(Which which)
      : real(which != Which::kMadeUp), simulated(1, real ? Backing::kReal : Backing::kMadeUp) {
    kernel = which == Which::kReal ? real_kernel() : simulated.table();
  }
  ~Machine() {
    for (const std::string& violation : simulated.violations) FAIL_CHECK(violation);
    CHECK(simulated.mappings() == 0);
  }
  void in_another_thread(const std::function<void()>& work) {
    if (real) {
      std::thread(work).join();
      return;
    }
    ++simulated.thread;
    work();
    --simulated.thread;
  }

  // (full, its other end): a stream socket or a pipe.
  std::pair<int, int> full(bool is_pipe, bool nonblocking) {
    if (!real) {
      const auto ends = is_pipe ? simulated.pipe(10, nonblocking) : simulated.stream_pair(10);
      simulated.put(ends.first, "0123456789");
      return ends;
    }
    int ends[2] = {-1, -1};
    if (is_pipe) {
      REQUIRE(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
      std::swap(ends[0], ends[1]);
    } else {
      REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    }
    const std::string bytes(65536, '-');
    for (std::size_t size : {bytes.size(), std::size_t{1}}) {
      while (::write(ends[0], bytes.data(), size) > 0) continue;
    }
    if (!nonblocking) REQUIRE(fcntl(ends[0], F_SETFL, 0) == 0);
    return {ends[0], ends[1]};
  }
  void empty(int fd) {
    if (!real) {
      simulated.take(fd);
      return;
    }
    std::string bytes(1 << 20, '-');
    CHECK(::read(fd, bytes.data(), bytes.size()) > 0);
  }
  void close(int fd) {
    if (real)
      ::close(fd);
    else
      simulated.close_file(fd);
  }

  bool real;  // its files
  SimulatedKernel simulated;
  Kernel kernel;
};

// Both kernels, all rungs that each has.
void everywhere(const std::function<void(Machine&, const Features&)>& test) {
  for (Which which : {Which::kMadeUp, Which::kSimulatedOverReal, Which::kReal}) {
    for (Rung rung : kRungs) {
      CAPTURE(which);
      CAPTURE(rung_name(rung));
      Machine machine(which);
      Features features;
      REQUIRE(probe_features(machine.kernel, &features, rung) == 0);
      if (features.rung == rung) test(machine, features);
    }
  }
}

void nop(Ring& ring, std::uint64_t user_data) {
  io_uring_sqe* sqe = ring.get_sqe();
  REQUIRE(sqe != nullptr);
  io_uring_prep_nop(sqe);
  sqe->user_data = user_data;
}

void open(Ring& ring, const Features& features, unsigned submissions = 4,
          unsigned completions = 8) {
  REQUIRE(ring.init(features, submissions, completions, 1000000000) == 0);
  REQUIRE(ring.enable() == 0);
}

TEST_CASE("Ring: what is submitted completes in order through many rounds of the queues") {
  everywhere([](Machine& machine, const Features& features) {
    Ring ring(machine.kernel);
    open(ring, features);
    std::uint64_t sent = 0, seen = 0;
    io_uring_cqe cqe;
    CHECK_FALSE(ring.pop(&cqe));
    for (int round = 0; round < 50; ++round) {
      for (int count = 0; count <= round % 4; ++count) nop(ring, ++sent);
      CHECK(ring.submissions_pending() == static_cast<unsigned>(round % 4) + 1);
      CHECK(ring.enter(true, -1) == round % 4 + 1);
      CHECK(ring.submissions_pending() == 0);
      CHECK(ring.completions_visible());
      while (ring.pop(&cqe)) {
        CHECK(cqe.user_data == ++seen);
        CHECK(cqe.res == 0);
      }
      CHECK_FALSE(ring.completions_visible());
    }
    CHECK(seen == sent);
  });
}

TEST_CASE("get_sqe: null when the SQ is full; an enter makes room") {
  everywhere([](Machine& machine, const Features& features) {
    Ring ring(machine.kernel);
    open(ring, features);
    for (std::uint64_t count = 0; count < 4; ++count) nop(ring, count);
    CHECK(ring.get_sqe() == nullptr);
    CHECK(ring.get_sqe() == nullptr);
    CHECK(ring.submissions_pending() == 4);
    CHECK(ring.enter(false, 0) == 4);
    CHECK(ring.get_sqe() != nullptr);
  });
}

TEST_CASE("get_sqe: nothing is left of what the SQE said before") {
  // Since liburing 2.6 its prep functions count on an SQE that io_uring_get_sqe() has cleared.
  everywhere([](Machine& machine, const Features& features) {
    Ring ring(machine.kernel);
    open(ring, features);
    for (int round = 0; round < 8; ++round) {
      io_uring_sqe* sqe = ring.get_sqe();
      REQUIRE(sqe != nullptr);
      const unsigned char* bytes = reinterpret_cast<const unsigned char*>(sqe);
      CHECK(std::all_of(bytes, bytes + sizeof(*sqe), [](unsigned char byte) { return byte == 0; }));
      memset(sqe, 0xee, sizeof(*sqe));
      sqe->flags = 0;
      io_uring_cqe cqe;
      CHECK(ring.enter(true, -1) == 1);
      REQUIRE(ring.pop(&cqe));
      CHECK(cqe.res == -EINVAL);
    }
  });
}

TEST_CASE("enter: a bad SQE does not hold up those behind it") {
  everywhere([](Machine& machine, const Features& features) {
    Ring ring(machine.kernel);
    open(ring, features);
    nop(ring, 1);
    io_uring_sqe* sqe = ring.get_sqe();
    io_uring_prep_nop(sqe);
    sqe->opcode = 255;
    sqe->user_data = 2;
    nop(ring, 3);
    CHECK(ring.enter(false, 0) == 3);
    int results[4] = {1, 1, 1, 1};
    io_uring_cqe cqe;
    while (ring.pop(&cqe)) results[cqe.user_data] = cqe.res;
    CHECK(results[1] == 0);
    CHECK(results[2] == -EINVAL);
    CHECK(results[3] == 0);
  });
}

TEST_CASE("enter: a ring of one issuer takes nothing before enable") {
  everywhere([](Machine& machine, const Features& features) {
    Ring ring(machine.kernel);
    REQUIRE(ring.init(features, 4, 8, 0) == 0);
    CHECK(ring.single_issuer() == features.single_issuer());
    nop(ring, 1);
    CHECK(ring.enter(false, 0) == (features.single_issuer() ? -EBADFD : 1));
    REQUIRE(ring.enable() == 0);
    CHECK(ring.enable() == 0);
    CHECK(ring.enter(false, 0) == (features.single_issuer() ? 1 : 0));
    io_uring_cqe cqe;
    CHECK(ring.pop(&cqe));
  });
}

TEST_CASE("enter: a ring of one issuer refuses another thread and keeps what it was given") {
  everywhere([](Machine& machine, const Features& features) {
    Ring ring(machine.kernel);
    open(ring, features);
    nop(ring, 1);
    int submitted = 0, waited = 0;
    machine.in_another_thread([&] { submitted = ring.enter(false, 0); });
    CHECK(submitted == (features.single_issuer() ? -EEXIST : 1));
    CHECK(ring.submissions_pending() == (features.single_issuer() ? 1 : 0));
    CHECK(ring.enter(false, 0) == (features.single_issuer() ? 1 : 0));
    machine.in_another_thread([&] { waited = ring.enter(false, 0); });
    CHECK(waited == (features.single_issuer() ? -EEXIST : 0));
    io_uring_cqe cqe;
    CHECK(ring.pop(&cqe));
    CHECK_FALSE(ring.pop(&cqe));
  });
}

TEST_CASE("enable: the thread that enables owns the ring, not the one that made it") {
  everywhere([](Machine& machine, const Features& features) {
    Ring ring(machine.kernel);
    REQUIRE(ring.init(features, 4, 8, 0) == 0);
    int enabled = 1, entered = 0;
    machine.in_another_thread([&] {
      enabled = ring.enable();
      nop(ring, 1);
      entered = ring.enter(false, 0);
    });
    CHECK(enabled == 0);
    CHECK(entered == 1);
    nop(ring, 2);
    CHECK(ring.enter(false, 0) == (features.single_issuer() ? -EEXIST : 1));
  });
}

TEST_CASE("enter: without a completion a wait ends with the time") {
  everywhere([](Machine& machine, const Features& features) {
    Ring ring(machine.kernel);
    open(ring, features);
    const std::int64_t before = machine.kernel.clock(machine.kernel.self);
    CHECK(ring.enter(true, 3000000) == -ETIME);
    CHECK(machine.kernel.clock(machine.kernel.self) - before >= 3000000);
    CHECK(ring.enter(false, -1) == 0);
    CHECK(ring.enter(true, 0) == -ETIME);
  });
}

TEST_CASE("enter: completions that are there end a wait at once") {
  everywhere([](Machine& machine, const Features& features) {
    Ring ring(machine.kernel);
    open(ring, features);
    nop(ring, 1);
    CHECK(ring.enter(false, 0) == 1);
    CHECK(ring.enter(true, -1) == 0);
  });
}

TEST_CASE("completions_deferred: true while an enter is needed to see a completion") {
  everywhere([](Machine& machine, const Features& features) {
    Kernel& kernel = machine.kernel;
    Ring ring(kernel);
    open(ring, features);
    const int fd = kernel.eventfd(kernel.self, 0, EFD_NONBLOCK | EFD_CLOEXEC);
    REQUIRE(fd >= 0);
    io_uring_sqe* sqe = ring.get_sqe();
    io_uring_prep_poll_add(sqe, fd, POLLIN);
    sqe->user_data = 7;
    CHECK(ring.enter(false, 0) == 1);
    CHECK_FALSE(ring.completions_deferred());
    CHECK_FALSE(ring.completions_visible());
    const std::uint64_t one = 1;
    CHECK(kernel.write(kernel.self, fd, &one, sizeof(one)) == sizeof(one));
    kernel.fork_count(kernel.self);  // the simulated one looks at real files when it is called
    if (features.rung == Rung::kDeferTaskrun) {
      CHECK(ring.completions_deferred());
      CHECK_FALSE(ring.completions_visible());
    } else {
      // The write itself may have run the task work.
      CHECK((ring.completions_deferred() || ring.completions_visible()));
    }
    CHECK(ring.enter(false, 0) == 0);
    CHECK_FALSE(ring.completions_deferred());
    io_uring_cqe cqe;
    REQUIRE(ring.pop(&cqe));
    CHECK(cqe.user_data == 7);
    CHECK(cqe.res == POLLIN);
    CHECK((cqe.flags & IORING_CQE_F_MORE) == 0);
    kernel.close(kernel.self, fd);
  });
}

// The completions that a few enters bring, by user_data.
using Results = std::map<std::uint64_t, int>;
Results results(Ring& ring) {
  Results seen;
  io_uring_cqe cqe;
  for (int round = 0; round < 3; ++round) {
    ring.enter(false, 0);
    while (ring.pop(&cqe)) {
      CHECK(seen.count(cqe.user_data) == 0);
      CHECK((cqe.flags & IORING_CQE_F_MORE) == 0);
      seen[cqe.user_data] = cqe.res;
    }
  }
  return seen;
}

TEST_CASE("enter: what finds no room waits or ends with EAGAIN") {
  everywhere([](Machine& machine, const Features& features) {
    for (bool is_pipe : {false, true}) {
      for (bool nonblocking : {false, true}) {
        CAPTURE(is_pipe);
        CAPTURE(nonblocking);
        Ring ring(machine.kernel);
        open(ring, features);
        auto [fd, peer] = machine.full(is_pipe, nonblocking);
        io_uring_sqe* sqe = ring.get_sqe();
        if (is_pipe)
          io_uring_prep_write(sqe, fd, "abc", 3, static_cast<std::uint64_t>(-1));
        else
          io_uring_prep_send(sqe, fd, "abc", 3, MSG_NOSIGNAL | (nonblocking ? MSG_DONTWAIT : 0));
        sqe->user_data = 1;
        Results seen = results(ring);
        if (nonblocking && !is_pipe) CHECK(seen == Results{{1, -EAGAIN}});
        if (!nonblocking) CHECK(seen.empty());
        // Of a non-blocking pipe kernels say the one or the other.
        if (seen.empty()) {
          machine.empty(peer);
          // On 6.1 a pipe's write is io-wq's, whose thread takes its time.
          const int waited = ring.enter(true, 1000000000);
          CHECK((waited == 0 || waited == -ETIME));
          seen = results(ring);
          CHECK(seen == Results{{1, 3}});
        }
        machine.close(fd);
        machine.close(peer);
      }
    }
  });
}

TEST_CASE("enter: a write with RWF_NOWAIT does not wait, or is refused") {
  everywhere([](Machine& machine, const Features& features) {
    for (bool nonblocking : {false, true}) {
      CAPTURE(nonblocking);
      Ring ring(machine.kernel);
      open(ring, features);
      auto [fd, peer] = machine.full(true, nonblocking);
      auto write = [&, fd = fd](std::uint64_t key) {
        io_uring_sqe* sqe = ring.get_sqe();
        io_uring_prep_write(sqe, fd, "abc", 3, static_cast<std::uint64_t>(-1));
        sqe->rw_flags = RWF_NOWAIT;
        sqe->user_data = key;
        return results(ring)[key];
      };
      const int result = write(1);
      // Before Linux 6.4 a pipe knows nothing of it.
      CHECK((result == -EAGAIN || result == -EOPNOTSUPP));
      machine.empty(peer);
      CHECK(write(2) == (result == -EAGAIN ? 3 : result));
      machine.close(fd);
      machine.close(peer);
    }
  });
}

TEST_CASE("enter: a cancel ends its target and both say so") {
  everywhere([](Machine& machine, const Features& features) {
    Ring ring(machine.kernel);
    open(ring, features, 8, 16);
    auto [fd, peer] = machine.full(false, false);
    io_uring_sqe* sqe = ring.get_sqe();
    io_uring_prep_poll_add(sqe, fd, POLLIN);
    sqe->user_data = 1;
    sqe = ring.get_sqe();
    io_uring_prep_send(sqe, fd, "abc", 3, MSG_NOSIGNAL);
    sqe->user_data = 2;
    CHECK(results(ring).empty());
    for (std::uint64_t target : {1, 2, 3}) {
      sqe = ring.get_sqe();
      io_uring_prep_cancel64(sqe, target, 0);
      sqe->user_data = 10 + target;
    }
    CHECK(results(ring) ==
          Results{{1, -ECANCELED}, {2, -ECANCELED}, {11, 0}, {12, 0}, {13, -ENOENT}});
    // Nothing of the send is out.
    machine.empty(peer);
    machine.close(fd);
    machine.close(peer);
  });
}

TEST_CASE("enter: a request in flight holds its file open") {
  everywhere([](Machine& machine, const Features& features) {
    Ring ring(machine.kernel);
    open(ring, features);
    auto [fd, peer] = machine.full(false, false);
    io_uring_sqe* sqe = ring.get_sqe();
    io_uring_prep_poll_add(sqe, fd, POLLIN);
    sqe->user_data = 1;
    CHECK(results(ring).empty());
    sqe = ring.get_sqe();
    io_uring_prep_poll_add(sqe, peer, POLLRDHUP);
    sqe->user_data = 2;
    CHECK(results(ring).empty());
    machine.close(fd);
    CHECK(results(ring).empty());  // the peer sees no end
    io_uring_prep_cancel64(ring.get_sqe(), 1, 0);
    auto seen = results(ring);
    CHECK(seen[1] == -ECANCELED);
    CHECK((seen[2] & POLLRDHUP) != 0);
    machine.close(peer);
  });
}

TEST_CASE("overflowed: completions that find the CQ full come with later enters") {
  everywhere([](Machine& machine, const Features& features) {
    Ring ring(machine.kernel);
    open(ring, features, 4, 8);
    constexpr std::uint64_t kCount = 24;
    for (std::uint64_t sent = 0; sent < kCount;) {
      for (int count = 0; count < 4; ++count) nop(ring, ++sent);
      // An older kernel takes nothing more until room is made (-EBUSY).
      REQUIRE(ring.enter(false, 0) == 4);
    }
    CHECK(ring.overflowed());
    CHECK(ring.completions_deferred());
    std::uint64_t seen = 0;
    io_uring_cqe cqe;
    for (int round = 0; round < 10 && seen < kCount; ++round) {
      while (ring.pop(&cqe)) CHECK(cqe.user_data == ++seen);
      ring.enter(false, 0);
    }
    CHECK(seen == kCount);
    CHECK_FALSE(ring.overflowed());
    CHECK_FALSE(ring.completions_deferred());
  });
}

TEST_CASE("Ring: moved from it is closed and moved to it goes on") {
  everywhere([](Machine& machine, const Features& features) {
    Ring first(machine.kernel);
    open(first, features);
    nop(first, 1);
    const int fd = first.fd();
    Ring second(std::move(first));
    CHECK_FALSE(first.is_open());
    CHECK(second.fd() == fd);
    CHECK(second.submissions_pending() == 1);
    CHECK(second.enter(false, 0) == 1);
    Ring third(machine.kernel);
    open(third, features);
    const int given_up = third.fd();
    third = std::move(second);
    CHECK(third.fd() == fd);
    CHECK(machine.kernel.close(machine.kernel.self, given_up) == -EBADF);
    machine.simulated.violations.clear();  // that close
    io_uring_cqe cqe;
    REQUIRE(third.pop(&cqe));
    CHECK(cqe.user_data == 1);
  });
}

TEST_CASE("close: gives file and memory back and may come twice") {
  everywhere([](Machine& machine, const Features& features) {
    const std::size_t files = machine.simulated.open_files();
    Ring ring(machine.kernel);
    CHECK_FALSE(ring.is_open());
    ring.close();
    open(ring, features);
    CHECK(ring.is_open());
    ring.close();
    CHECK_FALSE(ring.is_open());
    CHECK(machine.simulated.open_files() == files);
    CHECK(machine.simulated.mappings() == 0);
    ring.close();
    open(ring, features);
    nop(ring, 1);
    CHECK(ring.enter(false, 0) == 1);
  });
}

TEST_CASE("close: a closed ring is an empty one whatever was in it") {
  everywhere([](Machine& machine, const Features& features) {
    auto check = [](Ring& ring) {
      io_uring_cqe cqe;
      CHECK_FALSE(ring.is_open());
      CHECK(ring.fd() == -1);
      CHECK_FALSE(ring.single_issuer());
      CHECK(ring.get_sqe() == nullptr);
      CHECK(ring.submissions_pending() == 0);
      CHECK(ring.pending_sqe(0).user_data == 0);
      ring.retract();
      CHECK(ring.submissions_pending() == 0);
      CHECK_FALSE(ring.completions_deferred());
      CHECK_FALSE(ring.overflowed());
      CHECK_FALSE(ring.completions_visible());
      CHECK_FALSE(ring.pop(&cqe));
      CHECK(ring.enable() == -EBADF);
      CHECK(ring.enter(false, 0) == -EBADF);
      CHECK(ring.enter(true, -1) == -EBADF);
      CHECK(ring.enter(true, 1000) == -EBADF);
    };
    // With a completion that is visible, and with an SQE that is not submitted.
    auto use = [&](Ring& ring) {
      open(ring, features);
      nop(ring, 1);
      CHECK(ring.enter(true, -1) == 1);
      CHECK(ring.completions_visible());
      nop(ring, 2);
      CHECK(ring.pending_sqe(0).user_data == 2);
      CHECK(ring.pending_sqe(1).user_data == 0);
    };
    Ring ring(machine.kernel);
    check(ring);
    use(ring);
    ring.close();
    check(ring);
    use(ring);
    {
      Ring other(std::move(ring));
      check(ring);
      ring = std::move(other);
      check(other);
    }
    CHECK(ring.completions_visible());
    // A closed ring has nothing to give; its pointers would be into the dead.
    {
      Ring closed(machine.kernel);
      ring = std::move(closed);
    }
    check(ring);
    Ring made = [&] { return Ring(Ring(machine.kernel)); }();
    check(made);
  });
}

// -- the simulated kernel alone: what cannot be asked of a real one --

// With its table, which a Ring points to.
struct Simulated : SimulatedKernel {
  Kernel calls_of = table();
};

Features features_on(SimulatedKernel& kernel, Rung rung) {
  Features features;
  REQUIRE(probe_features(kernel.table(), &features, rung) == 0);
  REQUIRE(features.rung == rung);
  return features;
}

TEST_CASE("init: asks for its rung and is disabled only where one thread will own it") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulated kernel;
    Ring ring(kernel.calls_of);
    REQUIRE(ring.init(features_on(kernel, rung), 4, 16, 0) == 0);
    const unsigned disabled = rung == Rung::kDeferTaskrun ? IORING_SETUP_R_DISABLED : 0;
    CHECK(kernel.ring_flags(ring.fd()) == (setup_flags(rung) | disabled));
  }
}

TEST_CASE("init: a refusal at any step leaves nothing behind") {
  struct Step {
    Call call;
    unsigned nth;
    int error;
  };
  for (Step step : {Step{Call::kSetup, 1, -EMFILE}, Step{Call::kMmap, 1, -EAGAIN},
                    Step{Call::kMmap, 2, -EAGAIN}}) {
    CAPTURE(step.error);
    Simulated kernel;
    const Features features = features_on(kernel, Rung::kDeferTaskrun);
    const std::size_t files = kernel.open_files();
    Ring ring(kernel.calls_of);
    kernel.fail(step.call, step.error, step.nth);
    CHECK(ring.init(features, 4, 8, 1000000000) == step.error);
    CHECK_FALSE(ring.is_open());
    CHECK(kernel.open_files() == files);
    CHECK(kernel.mappings() == 0);
    CHECK(kernel.slept == 0);
    CHECK(kernel.violations.empty());
    open(ring, features);
  }
}

TEST_CASE("init: memory that closed rings give back late is waited for") {
  for (Call call : {Call::kSetup, Call::kMmap}) {
    Simulated kernel;
    const Features features = features_on(kernel, Rung::kDeferTaskrun);
    const std::size_t files = kernel.open_files();
    Ring ring(kernel.calls_of);
    kernel.fail(call, -ENOMEM, 1, 10);
    CHECK(ring.init(features, 4, 8, 1000000000) == 0);
    CHECK(kernel.slept > 0);
    CHECK(kernel.slept < 1000000000);
    CHECK(kernel.open_files() == files + 1);
    CHECK(kernel.mappings() == 2);
  }
}

TEST_CASE("init: memory that never comes is an error after the patience is over") {
  Simulated kernel;
  const Features features = features_on(kernel, Rung::kPlain);
  const std::size_t files = kernel.open_files();
  Ring ring(kernel.calls_of);
  kernel.fail(Call::kSetup, -ENOMEM, 1, 1000000);
  CHECK(ring.init(features, 4, 8, 1000000000) == -ENOMEM);
  CHECK(kernel.slept >= 1000000000);
  CHECK(kernel.slept < 1200000000);
  CHECK(kernel.calls(Call::kSetup) < 100);
  CHECK(kernel.open_files() == files);
}

TEST_CASE("memory_needed: no less than a ring of this size maps") {
  for (unsigned size : {4u, 64u, 512u, 4096u}) {
    CAPTURE(size);
    std::size_t mapped = 0;
    Kernel kernel = real_kernel();
    kernel.self = &mapped;
    kernel.mmap = [](void* self, std::size_t length, int fd, std::int64_t offset,
                     void** address) {
      *static_cast<std::size_t*>(self) += (length + 4095) / 4096 * 4096;
      return real_kernel().mmap(nullptr, length, fd, offset, address);
    };
    Features features;
    REQUIRE(real_features(&features) == 0);
    Ring ring(kernel);
    REQUIRE(ring.init(features, size, 4 * size, 0) == 0);
    CHECK(Ring::memory_needed(size, 4 * size) >= mapped);
    CHECK(Ring::memory_needed(size, 4 * size) <= mapped + 4096);
  }
}

TEST_CASE("enter: a short submit leaves the rest pending") {
  Simulated kernel;
  Ring ring(kernel.calls_of);
  open(ring, features_on(kernel, Rung::kDeferTaskrun));
  kernel.largest_submit = 1;
  for (std::uint64_t count = 1; count <= 4; ++count) nop(ring, count);
  for (unsigned left = 4; left > 0; --left) {
    CHECK(ring.submissions_pending() == left);
    CHECK(ring.enter(false, 0) == 1);
  }
  io_uring_cqe cqe;
  for (std::uint64_t count = 1; count <= 4; ++count) {
    REQUIRE(ring.pop(&cqe));
    CHECK(cqe.user_data == count);
  }
}

TEST_CASE("enter: a refused one keeps what was to be submitted") {
  for (int error : {-EINTR, -EAGAIN, -EBUSY}) {
    CAPTURE(error);
    Simulated kernel;
    Ring ring(kernel.calls_of);
    open(ring, features_on(kernel, Rung::kDeferTaskrun));
    nop(ring, 1);
    kernel.fail(Call::kEnter, error);
    CHECK(ring.enter(true, -1) == error);
    CHECK(ring.submissions_pending() == 1);
    CHECK(ring.enter(true, -1) == 1);
  }
}

TEST_CASE("enter: NO_IOWAIT where the kernel has it, in a wait alone") {
  for (bool known : {true, false}) {
    CAPTURE(known);
    Simulated kernel;
    if (!known) {
      kernel.features &= ~IORING_FEAT_NO_IOWAIT;
      kernel.known_enter_flags &= ~IORING_ENTER_NO_IOWAIT;
    }
    Ring ring(kernel.calls_of);
    open(ring, features_on(kernel, Rung::kDeferTaskrun));
    CHECK(ring.enter(true, 1000) == -ETIME);
    CHECK(((kernel.last_enter_flags & IORING_ENTER_NO_IOWAIT) != 0) == known);
    CHECK(ring.enter(false, 0) == 0);
    CHECK((kernel.last_enter_flags & IORING_ENTER_NO_IOWAIT) == 0);
    CHECK((kernel.last_enter_flags & IORING_ENTER_GETEVENTS) != 0);
  }
}

TEST_CASE("abandon: a child leaves memory and descriptor alone") {
  Simulated kernel;
  const std::size_t files = kernel.open_files();
  Ring ring(kernel.calls_of);
  open(ring, features_on(kernel, Rung::kDeferTaskrun));
  const unsigned unmapped = kernel.calls(Call::kMunmap);
  kernel.fork();
  ring.abandon();
  CHECK_FALSE(ring.is_open());
  CHECK(kernel.open_files() == files);
  CHECK(kernel.calls(Call::kMunmap) == unmapped);
  CHECK(kernel.violations.empty());
}

TEST_CASE("init: no child gets the ring's memory") {
  Simulated kernel;
  Ring ring(kernel.calls_of);
  const Features features = features_on(kernel, Rung::kDeferTaskrun);
  const unsigned advised = kernel.calls(Call::kMadvise);
  open(ring, features);
  CHECK(kernel.calls(Call::kMadvise) - advised == 2);
  // The simulated kernel counts an munmap of what is not there.
  ++kernel.forks;
  ring.close();
  CHECK(kernel.violations.size() == 2);
}

}  // namespace
}  // namespace uring::test
