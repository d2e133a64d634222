// What a proactor tells of what it has done, for statistics.
#include <errno.h>
#include <poll.h>

#include "proactor.hpp"
#include "support.hpp"

namespace uring::test {
namespace {

TEST_CASE("counters: enters, submissions and completions are those of the kernel") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    Proactor& proactor = simulation.proactor;
    // Those of the probe, on a ring of its own, are not counted.
    const unsigned before = simulation.kernel.calls(Call::kEnter);
    CHECK(proactor.enters() == 0);
    CHECK(proactor.submissions() == 0);
    auto [ours, theirs] = simulation.kernel.stream_pair();
    const std::string bytes = "abc";
    for (std::uint64_t sends = 1; sends < 4; ++sends) {
      const std::int64_t key = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
      REQUIRE(simulation.collector.until_all({key}));
      CHECK(proactor.enters() == simulation.kernel.calls(Call::kEnter) - before);
      // With the two polls of its own, which go on.
      CHECK(proactor.submissions() == sends + 2);
      CHECK(proactor.completions() == sends);
    }
    simulation.kernel.fail(Call::kEnter, -EAGAIN);
    const std::int64_t key = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
    REQUIRE(simulation.collector.until_all({key}));
    // What failed was an enter and no submission.
    CHECK(proactor.enters() == simulation.kernel.calls(Call::kEnter) - before);
    CHECK(proactor.submissions() == 6);
  }
}

TEST_CASE("counters: a loop that moves to a fresh ring counts on") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::string bytes = "abc";
  const std::int64_t first = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
  REQUIRE(simulation.collector.until_all({first}));
  const std::uint64_t enters = proactor.enters();
  ++simulation.kernel.thread;
  REQUIRE(proactor.bind_thread() == 0);
  CHECK(proactor.enters() == enters);
  CHECK(proactor.completions() == 1);
  const std::int64_t second = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
  REQUIRE(simulation.collector.until_all({second}));
  CHECK(proactor.enters() > enters);
  CHECK(proactor.completions() == 2);
}

TEST_CASE("counters: an overflow is counted when the queue becomes full, and not while it stays so") {
  Simulation simulation(Rung::kDeferTaskrun, 16, 16);
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair(1 << 20);
  const std::string bytes = "abc";
  for (std::uint64_t spells = 1; spells < 4; ++spells) {
    // The queue is read when all are submitted, which takes four enters.
    std::int64_t last = 0;
    for (int sends = 0; sends < 60; ++sends)
      last = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
    REQUIRE(simulation.collector.until_all({last}, 10));
    REQUIRE(simulation.collector.until([&] { return proactor.operations() == 0; }, 10));
    CHECK(proactor.overflows() == spells);
  }
}

TEST_CASE("counters: a ring that is given up for what was dropped") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t poll = proactor.start_poll(Kind::kPoll, ours, POLLIN);
  simulation.turn();
  CHECK(proactor.replaced_rings() == 0);
  simulation.kernel.chances.dropped = 1000;
  simulation.kernel.put(theirs, "x");
  for (int turns = 0; turns < 4 && proactor.replaced_rings() == 0; ++turns) simulation.turn();
  simulation.kernel.chances.dropped = 0;
  CHECK(proactor.replaced_rings() == 1);
  REQUIRE(simulation.collector.until_all({poll}));
}

TEST_CASE("counters: only a sleep is time that is blocked, the one under way included") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  std::int64_t seen = -1;
  simulation.kernel.while_asleep = [&, peer = theirs] {
    simulation.kernel.now += 1000000;
    seen = proactor.blocked_ns();
    simulation.kernel.put(peer, "x");
    return true;
  };
  simulation.turn();
  simulation.kernel.now += 5000000;
  simulation.turn();
  CHECK(proactor.blocked_ns() == 0);
  const std::int64_t poll = proactor.start_poll(Kind::kPoll, ours, POLLIN);
  REQUIRE(simulation.collector.until([&] { return simulation.collector.has(poll); }, 10, -1));
  // (An enter takes the simulated kernel a microsecond.)
  CHECK(seen == 1001000);
  CHECK(proactor.blocked_ns() == seen);
  simulation.kernel.now += 5000000;
  CHECK(proactor.blocked_ns() == seen);
}

TEST_CASE("started_ns: of what goes on waiting it is when it began to wait again") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t key = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  const std::int64_t first = simulation.kernel.now;
  simulation.turn();
  CHECK(simulation.operation(key)->started_ns == first);
  simulation.kernel.put(theirs, "x");
  simulation.kernel.now += 7;
  Completion completion;
  for (int turns = 0; turns < 10 && !proactor.next(&completion); ++turns) CHECK(proactor.turn(0) == 0);
  REQUIRE(completion.key == static_cast<std::uint64_t>(key));
  simulation.kernel.take(ours);
  simulation.kernel.now += 7;
  REQUIRE(proactor.again(completion.key) == 0);
  CHECK(simulation.operation(key)->started_ns == 0);
  const std::int64_t second = simulation.kernel.now;
  CHECK(proactor.turn(0) == 0);
  CHECK(simulation.operation(key)->started_ns == second);
}

TEST_CASE("started_ns: a wait in the readiness set costs no clock to go on, and is true to a turn") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  simulation.kernel.put(theirs, "x");
  const std::int64_t key = proactor.start_wait(Kind::kPoll, ours, POLLIN, true);
  Completion completion;
  for (int turns = 0; turns < 10 && !proactor.next(&completion); ++turns) CHECK(proactor.turn(0) == 0);
  REQUIRE(completion.key == static_cast<std::uint64_t>(key));
  simulation.kernel.now += 9;
  // The clock is read for something else that is submitted.
  const std::int64_t other = proactor.start_poll(Kind::kPoll, theirs, POLLIN);
  REQUIRE(proactor.prepare() == 0);
  REQUIRE(proactor.again(completion.key) == 0);
  CHECK(simulation.operation(key)->started_ns == simulation.kernel.now);
  proactor.cancel(static_cast<std::uint64_t>(key));
  proactor.cancel(static_cast<std::uint64_t>(other));
  REQUIRE(simulation.collector.until_all({key, other}));
}

}  // namespace
}  // namespace uring::test
