// Polls that the kernel keeps when they have told something.
#include <errno.h>
#include <poll.h>
#include <string.h>

#include <vector>

#include "proactor.hpp"
#include "support.hpp"

namespace uring::test {
namespace {

// One on a connection, armed; what completes is taken by hand.
struct Told : Simulation {
  explicit Told(Rung rung = Rung::kDeferTaskrun) : Simulation(rung) {
    proactor.keep_polls(0, 0);
    auto [first, second] = kernel.stream_pair();
    ours = first;
    theirs = second;
    key = proactor.start_multishot(Kind::kReceive, ours, POLLIN);
    CHECK(proactor.turn(0) == 0);
    CHECK(state(key) == State::kInFlight);
    submissions = proactor.submissions();
  }

  // Turns until something completes that the test has not taken yet; its events.
  std::int64_t next() {
    for (int turns = 0; turns < 10 && !proactor.has_completions(); ++turns) proactor.turn(0);
    Completion completion;
    REQUIRE(proactor.next(&completion));
    CHECK(static_cast<std::int64_t>(completion.key) == key);
    CHECK(state(key) == State::kTaken);
    error = completion.error;
    kept = completion.kept;
    return completion.result;
  }
  // A turn brings nothing.
  bool quiet() {
    proactor.turn(0);
    return !proactor.has_completions();
  }
  std::string read() {
    char buffer[64];
    const std::int64_t got = proactor.receive(ours, buffer, sizeof(buffer), 0);
    return got < 0 ? strerror(static_cast<int>(-got)) : std::string(buffer, static_cast<std::size_t>(got));
  }
  int again() { return proactor.again(static_cast<std::uint64_t>(key)); }
  void release() { proactor.release(static_cast<std::uint64_t>(key)); }

  int ours = -1, theirs = -1, error = 0;
  bool kept = false;
  std::int64_t key = 0;
  std::uint64_t submissions = 0;
};

TEST_CASE("start_multishot: tells again and again, and is submitted once") {
  Told told;
  for (const char* bytes : {"abc", "de", "f"}) {
    told.kernel.put(told.theirs, bytes);
    CHECK(told.next() == POLLIN);
    CHECK(told.error == 0);
    CHECK(told.kept);
    CHECK(told.again() == 0);
    CHECK(told.state(told.key) == State::kInFlight);
    CHECK(told.read() == bytes);
    CHECK(told.quiet());
    CHECK(told.proactor.in_flight() == 1);
  }
  CHECK(told.proactor.submissions() == told.submissions);
}

TEST_CASE("start_multishot: what comes until somebody calls again() is told with the first") {
  Told told;
  told.kernel.put(told.theirs, "abc");
  told.proactor.turn(0);
  CHECK(told.proactor.has_completions());
  CHECK(told.kernel.post(told.proactor.ring_fd(), static_cast<std::uint64_t>(told.key), POLLRDHUP, IORING_CQE_F_MORE));
  told.proactor.turn(0);
  CHECK(told.next() == (POLLIN | POLLRDHUP));
  CHECK(told.again() == 0);
  CHECK(told.quiet());
}

TEST_CASE("start_multishot: one that ends is armed again") {
  SUBCASE("while it waits") {
    Told told;
    told.kernel.end_requests(told.proactor.ring_fd(), -EINTR);
    CHECK(told.quiet());
    CHECK(told.quiet());
    CHECK(told.state(told.key) == State::kInFlight);
    // With the two polls of the proactor's own.
    CHECK(told.proactor.submissions() == told.submissions + 3);
    told.kernel.put(told.theirs, "abc");
    CHECK(told.next() == POLLIN);
    CHECK(told.again() == 0);
  }
  SUBCASE("when it has told something") {
    Told told;
    told.kernel.put(told.theirs, "abc");
    told.proactor.turn(0);
    told.kernel.end_requests(told.proactor.ring_fd(), POLLIN);
    told.proactor.turn(0);
    CHECK(told.next() == POLLIN);
    CHECK(told.again() == 0);
    CHECK(told.state(told.key) == State::kQueued);
    // Nobody has read it: a poll that is armed looks.
    CHECK(told.next() == POLLIN);
    CHECK(told.again() == 0);
  }
}

TEST_CASE("start_multishot: an end is told behind what there is to read") {
  Told told;
  told.kernel.put(told.theirs, "abc");
  told.kernel.close_file(told.theirs);
  CHECK((told.next() & POLLIN) != 0);
  CHECK(told.again() == 0);
  CHECK(told.read() == "abc");
  CHECK((told.next() & (POLLIN | POLLHUP)) != 0);
  CHECK(told.again() == 0);
  CHECK(told.read() == "");
}

TEST_CASE("cancel: a multishot poll in each of its states") {
  Told told;
  const std::uint64_t key = static_cast<std::uint64_t>(told.key);
  SUBCASE("in flight") {}
  SUBCASE("it has told something that nobody has taken") {
    told.kernel.put(told.theirs, "abc");
    told.proactor.turn(0);
    CHECK(told.state(told.key) == State::kCompleted);
  }
  told.proactor.cancel(key, -EBADF);
  CHECK(told.state(told.key) == State::kInFlight);
  CHECK_FALSE(told.proactor.has_completions());
  told.next();
  CHECK(told.error == -EBADF);
  CHECK(told.again() == -EBADF);
  told.release();
  CHECK(told.proactor.operations() == 0);
  CHECK(told.kernel.requests(told.proactor.ring_fd()) == 2);
  CHECK(told.quiet());
}

TEST_CASE("settle: a multishot poll that has told something does not hold the file open") {
  Told told;
  told.kernel.put(told.theirs, "abc");
  told.proactor.turn(0);
  CHECK(told.state(told.key) == State::kCompleted);
  told.proactor.settle(told.ours);
  CHECK(told.kernel.requests(told.proactor.ring_fd()) == 2);
  told.next();
  CHECK(told.error == -ECANCELED);
  told.release();
}

TEST_CASE("release: the kernel lets go of a multishot poll, and nobody is told") {
  Told told;
  told.kernel.put(told.theirs, "abc");
  told.next();
  SUBCASE("as it is") {}
  SUBCASE("behind a cancel") {
    told.proactor.cancel(static_cast<std::uint64_t>(told.key));
    CHECK(told.again() == -ECANCELED);
  }
  told.release();
  CHECK(told.proactor.operations() == 1);
  CHECK(told.quiet());
  CHECK(told.quiet());
  CHECK(told.proactor.operations() == 0);
  CHECK(told.proactor.stale_keys() == 0);
  CHECK(told.kernel.requests(told.proactor.ring_fd()) == 2);
}

TEST_CASE("start_multishot: a ring that several threads may enter polls once") {
  for (Rung rung : {Rung::kCoopTaskrun, Rung::kPlain}) {
    CAPTURE(rung_name(rung));
    Told told(rung);
    told.kernel.put(told.theirs, "abc");
    CHECK(told.next() == POLLIN);
    CHECK(told.again() == 0);
    CHECK(told.state(told.key) == State::kQueued);
    CHECK(told.read() == "abc");
    CHECK(told.quiet());
    CHECK(told.proactor.submissions() == told.submissions + 1);
  }
}

TEST_CASE("keep_polls: they are while so many are in flight") {
  Simulation simulation;
  simulation.proactor.keep_polls(0, 3);
  auto [ours, theirs] = simulation.kernel.stream_pair();
  std::vector<std::uint64_t> keys;
  for (int count = 0; count < 5; ++count)
    keys.push_back(static_cast<std::uint64_t>(simulation.proactor.start_multishot(Kind::kReceive, ours, POLLIN)));
  simulation.turn();
  simulation.kernel.put(theirs, "abc");
  const int first = Proactor::kKeptAfter;
  for (int round = 1; round <= first + 1; ++round) {
    simulation.proactor.turn(0);
    std::vector<bool> kept;
    Completion completion;
    while (simulation.proactor.next(&completion)) {
      kept.push_back(completion.kept);
      CHECK(simulation.proactor.again(completion.key) == 0);
    }
    CAPTURE(round);
    // Each is armed for the first time, the second ... With fewer than three in flight none is kept even then.
    if (round <= first)
      CHECK(kept == std::vector<bool>(5, false));
    else
      CHECK(kept == std::vector<bool>{false, false, false, true, true});
  }
  for (std::uint64_t key : keys) simulation.proactor.cancel(key);
  simulation.collector.until([&] { return simulation.proactor.in_flight() == 0; });
}

TEST_CASE("keep_polls: they are while there are so few operations, and nothing comes in bulk") {
  Simulation simulation;
  simulation.proactor.keep_polls(2, 100);
  auto [ours, theirs] = simulation.kernel.stream_pair();
  std::vector<std::uint64_t> keys;
  // Is it kept, when it has told so often?
  auto told = [&](std::uint64_t key, int times, bool in_bulk = false) {
    bool kept = false;
    for (int round = 0; round < times; ++round) {
      simulation.kernel.put(theirs, "abc");
      for (int turns = 0; turns < 10 && !simulation.proactor.has_completions(); ++turns) simulation.proactor.turn(0);
      Completion completion;
      while (simulation.proactor.next(&completion)) {
        if (completion.key == key) kept = completion.kept;
        CHECK(simulation.proactor.again(completion.key, in_bulk) == 0);
      }
      char buffer[64];
      CHECK(simulation.proactor.receive(ours, buffer, sizeof(buffer), 0) > 0);
    }
    return kept;
  };
  auto start = [&] {
    keys.push_back(static_cast<std::uint64_t>(simulation.proactor.start_multishot(Kind::kReceive, ours, POLLIN)));
    return keys.back();
  };
  const int first = Proactor::kKeptAfter;
  const std::uint64_t one = start();
  SUBCASE("one after the other") {
    CHECK_FALSE(told(one, first));
    CHECK(told(one, 1));
    const std::uint64_t two = start();
    CHECK_FALSE(told(two, first));
    CHECK(told(two, 1));
    const std::uint64_t three = start();
    CHECK_FALSE(told(three, 10));
    // What is kept stays so.
    CHECK(told(one, 1));
  }
  SUBCASE("in bulk") {
    CHECK_FALSE(told(one, 10, true));
    CHECK_FALSE(told(one, first));
    CHECK(told(one, 1));
    CHECK(told(one, 10, true));
  }
  for (std::uint64_t key : keys) simulation.proactor.cancel(key);
  simulation.collector.until([&] { return simulation.proactor.in_flight() == 0; });
}

TEST_CASE("bind_thread: a multishot poll goes on, on the fresh ring") {
  Told told;
  told.kernel.put(told.theirs, "abc");
  SUBCASE("in flight") {
    CHECK(told.next() == POLLIN);
    CHECK(told.again() == 0);
    CHECK(told.read() == "abc");
  }
  SUBCASE("it has told something") { told.proactor.turn(0); }
  ++told.kernel.thread;
  REQUIRE(told.proactor.bind_thread() == 0);
  if (told.proactor.has_completions()) {
    CHECK(told.next() == POLLIN);
    CHECK(told.again() == 0);
    CHECK(told.state(told.key) == State::kQueued);
    CHECK(told.read() == "abc");
  }
  told.proactor.turn(0);
  told.kernel.put(told.theirs, "de");
  CHECK(told.next() == POLLIN);
  CHECK(told.again() == 0);
  CHECK(told.read() == "de");
}

TEST_CASE("close: a multishot poll that has told something") {
  Told told;
  told.kernel.put(told.theirs, "abc");
  SUBCASE("and was not taken") { told.proactor.turn(0); }
  SUBCASE("and was taken") { told.next(); }
  SUBCASE("and was dropped") {
    told.next();
    told.release();
  }
  told.proactor.close();
  const bool taken = told.proactor.operations() != 0 && !told.proactor.has_completions();
  if (taken) {
    CHECK(told.again() == -ECANCELED);
    told.release();
  }
}

TEST_CASE("leave_polls: a multishot poll that has told something does not come again") {
  Told told;
  told.kernel.put(told.theirs, "abc");
  told.proactor.turn(0);
  told.proactor.leave_polls();
  CHECK(told.next() == POLLIN);
  CHECK(told.again() == -ECANCELED);
  told.release();
  CHECK(told.proactor.operations() == 0);
}

}  // namespace
}  // namespace uring::test
