// What waits in the epoll set: Proactor::start_wait() on a simulated kernel, and on the running one.
#include <doctest/doctest.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "support.hpp"

namespace uring::test {
namespace {

std::uint64_t key_of(std::int64_t key) { return static_cast<std::uint64_t>(key); }

// A proactor on the running kernel.
struct Real {
  Real() : collector(&proactor) {
    Features features;
    REQUIRE(real_features(&features) == 0);
    REQUIRE(proactor.init(features) == 0);
    REQUIRE(proactor.bind_thread() == 0);
  }
  ~Real() {
    proactor.close();
    collector.collect();
    CHECK(proactor.operations() == 0);
  }
  Proactor proactor;
  Collector collector;
};

std::pair<int, int> real_pair() {
  int fds[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
  return {fds[0], fds[1]};
}

TEST_CASE("start_wait: told when it holds, once, with what holds") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    auto [ours, theirs] = simulation.kernel.stream_pair();
    const std::int64_t key = simulation.proactor.start_wait(Kind::kPoll, ours, POLLIN);
    REQUIRE(key > 0);
    CHECK(simulation.state(key) == State::kWaiting);
    simulation.turn();
    CHECK(!simulation.collector.has(key));
    simulation.kernel.put(theirs, "x");
    CHECK(simulation.collector.until_all({key}, 5));
    CHECK(simulation.collector[key].error == 0);
    CHECK(simulation.collector[key].result == POLLIN);
  }
}

TEST_CASE("start_wait: nothing is told that is over by the time it is told") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t key = simulation.proactor.start_wait(Kind::kPoll, ours, POLLIN);
  simulation.turn();
  simulation.kernel.put(theirs, "x");
  CHECK(simulation.kernel.take(ours) == "x");
  for (int turns = 0; turns < 4; ++turns) simulation.turn();
  CHECK(!simulation.collector.has(key));
  simulation.kernel.put(theirs, "y");
  CHECK(simulation.collector.until_all({key}, 5));
}

TEST_CASE("start_wait: a repeated one is told as long as it holds, and costs no call in between") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t key = proactor.start_wait(Kind::kPoll, ours, POLLIN, true);
  const unsigned calls = simulation.kernel.calls(Call::kEpollControl);
  simulation.kernel.put(theirs, "x");
  Completion completion;
  for (int told = 0; told < 3; ++told) {
    for (int turns = 0; turns < 4 && !proactor.has_completions(); ++turns) proactor.turn(0);
    REQUIRE(proactor.next(&completion));
    CHECK(completion.key == key_of(key));
    CHECK(proactor.again(completion.key) == 0);
  }
  CHECK(simulation.kernel.calls(Call::kEpollControl) == calls);
  CHECK(simulation.kernel.take(ours) == "x");
  for (int turns = 0; turns < 4; ++turns) proactor.turn(0);
  CHECK(!proactor.has_completions());
  proactor.cancel(key_of(key));
  simulation.collector.collect();
  CHECK(simulation.collector[key].error == -ECANCELED);
}

TEST_CASE("start_lingering_wait: for the same file it costs a call once") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  std::int64_t key = proactor.start_lingering_wait(Kind::kPoll, ours, POLLIN, false);
  const unsigned calls = simulation.kernel.calls(Call::kEpollControl);
  for (int times = 0; times < 3; ++times) {
    simulation.kernel.put(theirs, "x");
    CHECK(simulation.collector.until_all({key}, 5));
    CHECK(simulation.collector[key].error == 0);
    CHECK(simulation.kernel.take(ours) == "x");
    key = proactor.start_lingering_wait(Kind::kPoll, ours, POLLIN, true);
    simulation.turn();
    CHECK(!simulation.collector.has(key));
  }
  CHECK(simulation.kernel.calls(Call::kEpollControl) == calls);
  CHECK(proactor.trusts_files());
  // Who asks is answered as before.
  const std::int64_t other = proactor.start_wait(Kind::kPoll, ours, POLLOUT);
  CHECK(simulation.collector.until_all({other}, 5));
  CHECK(!simulation.collector.has(key));
  simulation.kernel.put(theirs, "y");
  CHECK(simulation.collector.until_all({key}, 5));
}

TEST_CASE("start_lingering_wait: what comes while nobody waits is told once, and by the next wait") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  std::int64_t key = proactor.start_lingering_wait(Kind::kPoll, ours, POLLIN, false);
  simulation.kernel.put(theirs, "x");
  CHECK(simulation.collector.until_all({key}, 5));
  CHECK(simulation.kernel.take(ours) == "x");
  proactor.note_drained(ours);
  CHECK(proactor.is_drained(ours));
  simulation.kernel.put(theirs, "y");
  for (int turns = 0; turns < 3; ++turns) simulation.turn();
  CHECK(!proactor.is_drained(ours));
  // It is at rest: the ring's poll of the set is not told of it again and again.
  const unsigned calls = simulation.kernel.calls(Call::kEpollWait);
  for (int turns = 0; turns < 5; ++turns) simulation.turn();
  CHECK(simulation.kernel.calls(Call::kEpollWait) == calls);
  key = proactor.start_lingering_wait(Kind::kPoll, ours, POLLIN, true);
  CHECK(simulation.collector.until_all({key}, 5));
}

TEST_CASE("start_lingering_wait: nobody is told again and again of what only others wait for") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair(8);
  simulation.kernel.put(ours, std::string(8, 'z'));
  const std::int64_t reader = proactor.start_lingering_wait(Kind::kPoll, ours, POLLIN, false);
  const std::int64_t writer = proactor.start_wait(Kind::kPoll, ours, POLLOUT);
  simulation.kernel.put(theirs, "x");
  CHECK(simulation.collector.until_all({reader}, 5));
  for (int turns = 0; turns < 3; ++turns) simulation.turn();
  const unsigned calls = simulation.kernel.calls(Call::kEpollWait);
  for (int turns = 0; turns < 5; ++turns) simulation.turn();
  CHECK(simulation.kernel.calls(Call::kEpollWait) == calls);
  CHECK(!simulation.collector.has(writer));
  CHECK(simulation.kernel.take(theirs) == std::string(8, 'z'));
  CHECK(simulation.collector.until_all({writer}, 5));
}

TEST_CASE("start_lingering_wait: another socket under the number asks, whatever is left of the last") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  std::int64_t key = proactor.start_lingering_wait(Kind::kPoll, ours, POLLIN, false);
  simulation.kernel.put(theirs, "x");
  CHECK(simulation.collector.until_all({key}, 5));
  simulation.kernel.close_file(ours);
  auto [again, others] = simulation.kernel.stream_pair();
  REQUIRE(again == ours);
  key = proactor.start_lingering_wait(Kind::kPoll, again, POLLIN, false);
  simulation.turn();
  CHECK(!simulation.collector.has(key));
  simulation.kernel.put(others, "y");
  CHECK(simulation.collector.until_all({key}, 5));
}

TEST_CASE("real: check_files finds the file that dup2 has put under the number of one that was trusted") {
  Real real;
  auto [ours, theirs] = real_pair();
  auto [fresh, others] = real_pair();
  std::int64_t key = real.proactor.start_lingering_wait(Kind::kPoll, ours, POLLIN, false);
  REQUIRE(write(theirs, "x", 1) == 1);
  CHECK(real.collector.until_all({key}, 5));
  REQUIRE(dup2(fresh, ours) == ours);
  key = real.proactor.start_lingering_wait(Kind::kPoll, ours, POLLIN, true);
  REQUIRE(write(others, "y", 1) == 1);
  for (int turns = 0; turns < 3; ++turns) real.proactor.turn(0);
  real.collector.collect();
  CHECK(!real.collector.has(key));
  CHECK(real.proactor.trusts_files());
  real.proactor.check_files();
  CHECK(!real.proactor.trusts_files());
  CHECK(real.collector.until_all({key}, 5));
  CHECK(real.collector[key].error == 0);
  for (int fd : {ours, theirs, fresh, others}) close(fd);
}

TEST_CASE("real: check_files finds it as well when the last file lives on, and has just been told of") {
  Real real;
  auto [ours, theirs] = real_pair();
  auto [fresh, others] = real_pair();
  std::int64_t key = real.proactor.start_lingering_wait(Kind::kPoll, ours, POLLIN, false);
  REQUIRE(write(theirs, "x", 1) == 1);
  CHECK(real.collector.until_all({key}, 5));
  const int kept = dup(ours);
  REQUIRE(dup2(fresh, ours) == ours);
  // Of the other file nobody reads, which is told all the same.
  key = real.proactor.start_lingering_wait(Kind::kPoll, ours, POLLIN, true);
  CHECK(real.collector.until_all({key}, 5));
  real.proactor.check_files();
  key = real.proactor.start_lingering_wait(Kind::kPoll, ours, POLLIN, true);
  for (int turns = 0; turns < 3; ++turns) real.proactor.turn(0);
  real.collector.collect();
  CHECK(!real.collector.has(key));
  REQUIRE(write(others, "y", 1) == 1);
  CHECK(real.collector.until_all({key}, 5));
  for (int fd : {ours, theirs, fresh, others, kept}) close(fd);
}

TEST_CASE("real: check_files finds whose number has another file though the set has begun anew") {
  Real real;
  auto [ours, theirs] = real_pair();
  auto [fresh, others] = real_pair();
  auto [gone, peer] = real_pair();
  std::int64_t key = real.proactor.start_lingering_wait(Kind::kPoll, ours, POLLIN, false);
  const std::int64_t other = real.proactor.start_wait(Kind::kPoll, gone, POLLIN, true);
  REQUIRE(write(theirs, "x", 1) == 1);
  CHECK(real.collector.until_all({key}, 5));
  REQUIRE(dup2(fresh, ours) == ours);
  key = real.proactor.start_lingering_wait(Kind::kPoll, ours, POLLIN, true);
  CHECK(real.proactor.has_trusted_for(0));
  CHECK(!real.proactor.has_trusted_for(3'600'000'000'000));
  // A file that nobody can name any more is ready: a set without it takes the place of this one.
  const int kept = dup(gone);
  close(gone);
  real.proactor.forget(gone);
  real.proactor.cancel(key_of(other));
  REQUIRE(write(peer, "z", 1) == 1);
  for (int turns = 0; turns < 3; ++turns) real.proactor.turn(0);
  real.proactor.check_files();
  CHECK(!real.proactor.has_trusted_for(0));
  REQUIRE(write(others, "y", 1) == 1);
  CHECK(real.collector.until_all({key}, 5));
  CHECK(real.collector[key].error == 0);
  for (int fd : {ours, theirs, fresh, others, peer, kept}) close(fd);
}

TEST_CASE("start_wait: a reader is told before a writer, the older before the younger") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  simulation.kernel.put(theirs, "x");
  const std::int64_t writer = proactor.start_wait(Kind::kPoll, ours, POLLOUT, true);
  const std::int64_t reader = proactor.start_wait(Kind::kPoll, ours, POLLIN, true);
  const std::int64_t late = proactor.start_wait(Kind::kPoll, ours, POLLIN);
  for (int turns = 0; turns < 4 && !proactor.has_completions(); ++turns) proactor.turn(0);
  Completion completion;
  for (std::int64_t key : {reader, late, writer}) {
    REQUIRE(proactor.next(&completion));
    CHECK(completion.key == key_of(key));
    proactor.release(completion.key);
  }
}

TEST_CASE("start_wait: who shares a single interest and has heard nothing is still told") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair(8);
  // The other direction has no room.
  simulation.kernel.put(ours, std::string(8, 'z'));
  const std::int64_t reader = simulation.proactor.start_wait(Kind::kPoll, ours, POLLIN);
  const std::int64_t writer = simulation.proactor.start_wait(Kind::kPoll, ours, POLLOUT);
  simulation.kernel.put(theirs, "x");
  CHECK(simulation.collector.until_all({reader}, 5));
  CHECK(!simulation.collector.has(writer));
  CHECK(simulation.kernel.take(theirs) == std::string(8, 'z'));
  CHECK(simulation.collector.until_all({writer}, 5));
}

TEST_CASE("start_wait: it holds no file open, and a cancel ends it at once") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t key = proactor.start_wait(Kind::kPoll, ours, POLLIN);
  simulation.turn();
  simulation.kernel.close_file(ours);
  CHECK(simulation.kernel.at_end(theirs));
  proactor.cancel(key_of(key));
  simulation.collector.collect();
  CHECK(simulation.collector[key].error == -ECANCELED);
}

TEST_CASE("start_wait: the next owner of a number has its own waits, and ends those of the last") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t single = proactor.start_wait(Kind::kPoll, ours, POLLIN);
  const std::int64_t repeated = proactor.start_wait(Kind::kPoll, ours, POLLIN, true);
  simulation.turn();
  simulation.kernel.close_file(ours);
  auto [again, others] = simulation.kernel.stream_pair();
  REQUIRE(again == ours);
  const std::int64_t next = proactor.start_wait(Kind::kPoll, again, POLLIN);
  simulation.collector.collect();
  CHECK(simulation.collector[single].error == -EBADF);
  CHECK(simulation.collector[repeated].error == -EBADF);
  simulation.turn();
  CHECK(!simulation.collector.has(next));
  simulation.kernel.put(others, "x");
  CHECK(simulation.collector.until_all({next}, 5));
  CHECK(simulation.collector[next].error == 0);
}

TEST_CASE("start_wait: what is told and waits again does not move to the number's next owner") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t reader = proactor.start_wait(Kind::kPoll, ours, POLLIN, true);
  const std::int64_t writer = proactor.start_wait(Kind::kPoll, ours, POLLOUT, true);
  simulation.kernel.close_file(ours);
  auto [again, others] = simulation.kernel.stream_pair();
  REQUIRE(again == ours);
  simulation.kernel.put(others, "x");
  // The writer's end changes what is wanted: of a file that is gone.
  proactor.cancel(key_of(writer));
  for (int turns = 0; turns < 4; ++turns) simulation.turn();
  CHECK((!simulation.collector.has(reader) || simulation.collector[reader].error == -EBADF));
}

TEST_CASE("start_wait: what can't be polled is refused, and leaves nothing behind") {
  Simulation simulation;
  const int file = simulation.kernel.regular_file("x");
  CHECK(simulation.proactor.start_wait(Kind::kPoll, file, POLLIN) == -EPERM);
  CHECK(simulation.proactor.start_wait(Kind::kPoll, 700, POLLIN) == -EBADF);
  CHECK(simulation.proactor.start_wait(Kind::kPoll, 0x7fffffff, POLLIN) == -EBADF);
  CHECK(simulation.proactor.start_wait(Kind::kPoll, -1, POLLIN) == -EBADF);
  CHECK(simulation.proactor.operations() == 0);
  auto [ours, theirs] = simulation.kernel.stream_pair();
  simulation.kernel.fail(Call::kEpollControl, -ENOSPC);
  CHECK(simulation.proactor.start_wait(Kind::kPoll, ours, POLLIN) == -ENOSPC);
  CHECK(simulation.proactor.operations() == 0);
}

TEST_CASE("start_wait: it moves with its proactor to another thread") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t key = proactor.start_wait(Kind::kPoll, ours, POLLIN);
  simulation.turn();
  simulation.kernel.thread = 2;
  REQUIRE(proactor.bind_thread() == 0);
  simulation.kernel.put(theirs, "x");
  CHECK(simulation.collector.until_all({key}, 5));
}

TEST_CASE("forget: the set lets go of a descriptor") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t key = simulation.proactor.start_wait(Kind::kPoll, ours, POLLOUT);
  CHECK(simulation.collector.until_all({key}, 5));
  const unsigned calls = simulation.kernel.calls(Call::kEpollControl);
  simulation.proactor.forget(ours);
  CHECK(simulation.kernel.calls(Call::kEpollControl) == calls + 1);
  simulation.proactor.forget(ours);
  simulation.proactor.forget(-1);
  CHECK(simulation.kernel.calls(Call::kEpollControl) == calls + 1);
}

TEST_CASE("real: the set is what the simulated one is") {
  Real loop;
  auto [ours, theirs] = real_pair();
  const std::int64_t key = loop.proactor.start_wait(Kind::kPoll, ours, POLLIN);
  loop.collector.turn();
  CHECK(!loop.collector.has(key));
  REQUIRE(write(theirs, "x", 1) == 1);
  CHECK(loop.collector.until_all({key}, 10));
  CHECK(loop.collector[key].result == POLLIN);
  char byte;
  REQUIRE(read(ours, &byte, 1) == 1);
  const int file = open("/dev/null", O_RDWR | O_CLOEXEC);
  CHECK(loop.proactor.start_wait(Kind::kPoll, file, POLLIN) == -EPERM);
  close(file);
  const std::int64_t closed = loop.proactor.start_wait(Kind::kPoll, ours, POLLPRI);
  loop.collector.turn();
  close(ours);
  CHECK(read(theirs, &byte, 1) == 0);  // nothing holds it open
  loop.proactor.cancel(key_of(closed));
  close(theirs);
}

TEST_CASE("real: a closed file that lives on in a duplicate does not keep the loop awake") {
  Real loop;
  auto [ours, theirs] = real_pair();
  auto [others, far] = real_pair();
  const int duplicate = dup(ours);
  const std::int64_t key = loop.proactor.start_wait(Kind::kPoll, ours, POLLIN, true);
  const std::int64_t stays = loop.proactor.start_wait(Kind::kPoll, others, POLLIN, true);
  loop.collector.turn();
  close(ours);
  REQUIRE(write(theirs, "x", 1) == 1);
  loop.proactor.cancel(key_of(key));
  for (int turns = 0; turns < 4; ++turns) loop.collector.turn();
  // The set that could not be rid of it has been replaced: a turn may sleep again.
  loop.proactor.turn(20000000);
  CHECK(loop.proactor.idle());
  CHECK(!loop.proactor.has_completions());
  REQUIRE(write(far, "y", 1) == 1);
  CHECK(loop.collector.until_all({stays}, 10));
  for (int fd : {duplicate, theirs, others, far}) close(fd);
}

TEST_CASE("real: settle ends one among a thousand that are ready") {
  Real loop;
  constexpr int kPairs = 300;
  std::pair<int, int> pairs[kPairs];
  for (auto& pair : pairs) {
    pair = real_pair();
    loop.proactor.start_poll(Kind::kReceive, pair.first, POLLIN);
  }
  loop.proactor.turn(0);
  for (auto& pair : pairs) REQUIRE(write(pair.second, "x", 1) == 1);
  for (int index : {0, kPairs / 2, kPairs - 1}) {
    loop.proactor.settle(pairs[index].first);
    close(pairs[index].first);
    char byte;
    ssize_t got;
    // A reset, since it had bytes; the end, on another kernel.
    do got = read(pairs[index].second, &byte, 1);
    while (got > 0);
    CHECK((got == 0 || errno == ECONNRESET));
    pairs[index].first = -1;
  }
  for (auto& pair : pairs) {
    if (pair.first >= 0) close(pair.first);
    close(pair.second);
  }
}

TEST_CASE("send_queued: in any thread, without the ring, and not behind what waits for room") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair(6);
  const std::int64_t first = proactor.start_send(ours, "abc", 3, 0);
  const std::int64_t second = proactor.start_send(ours, "defg", 4, 0);
  const std::int64_t third = proactor.start_send(ours, "h", 1, 0);
  simulation.kernel.thread = 2;
  const unsigned enters = simulation.kernel.calls(Call::kEnter);
  proactor.send_queued();
  simulation.collector.collect();
  CHECK(simulation.collector[first].result == 3);
  CHECK(simulation.kernel.take(theirs) == "abcdef");
  proactor.send_queued();
  simulation.collector.collect();
  CHECK(simulation.kernel.calls(Call::kEnter) == enters);
  CHECK(!simulation.collector.has(second));
  CHECK(!simulation.collector.has(third));
  CHECK(simulation.kernel.take(theirs) == "");
  proactor.cancel(key_of(third));
  simulation.kernel.thread = 1;
  CHECK(simulation.collector.until_all({second}, 20));
  CHECK(simulation.collector[second].result == 4);
  CHECK(simulation.kernel.take(theirs) == "g");
}

TEST_CASE("leave_polls: they end at once, and the ring's close ends them in the kernel") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair(4);
  const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  const std::int64_t send = proactor.start_send(ours, "too much", 8, 0);
  simulation.turn();
  simulation.turn();
  proactor.leave_polls();
  simulation.collector.collect();
  CHECK(simulation.collector[poll].error == -ECANCELED);
  CHECK(simulation.collector[send].error == -ECANCELED);
  CHECK(proactor.in_flight() == 0);
  simulation.kernel.put(theirs, "late");
  simulation.turn();
  CHECK(simulation.collector.count() == 2);
}

// -- whose peer sends no more: a POLL_ADD tells of that (POLLRDHUP) whatever it was asked for --

// Our end has no room, and has heard the end of what theirs sends; all that was sent stands in it.
std::string fill_and_end(const std::pair<int, int>& pair) {
  std::string sent;
  const std::string block = some_bytes(4096);
  for (ssize_t count; (count = send(pair.first, block.data(), block.size(), MSG_DONTWAIT | MSG_NOSIGNAL)) > 0;)
    sent += block.substr(0, static_cast<std::size_t>(count));
  REQUIRE(errno == EAGAIN);
  REQUIRE(shutdown(pair.second, SHUT_WR) == 0);
  return sent;
}

std::string take_all(int fd) {
  std::string taken;
  char block[4096];
  for (ssize_t count; (count = recv(fd, block, sizeof(block), MSG_DONTWAIT)) > 0;)
    taken.append(block, static_cast<std::size_t>(count));
  return taken;
}

void take_turns(Real* real, int count) {
  for (int turns = 0; turns < count; ++turns) real->collector.turn(0);
}

TEST_CASE("real: a poll for room is told of room, and not that the peer has ended") {
  Real real;
  const auto pair = real_pair();
  fill_and_end(pair);
  const std::int64_t key = real.proactor.start_poll(Kind::kPoll, pair.first, POLLOUT);
  take_turns(&real, 8);
  CHECK(!real.collector.has(key));
  // Nothing is left that would end a sleep.
  const std::uint64_t enters = real.proactor.enters();
  CHECK(real.proactor.turn(20000000) == 0);
  CHECK(real.proactor.enters() <= enters + 3);
  CHECK(!real.collector.has(key));
  take_all(pair.second);
  CHECK(real.collector.until_all({key}, 20));
  CHECK(real.collector[key].error == 0);
  CHECK(real.collector[key].result == POLLOUT);
  close(pair.first);
  close(pair.second);
}

TEST_CASE("real: a send for which there is no room goes on when there is, though the peer has ended") {
  Real real;
  const auto pair = real_pair();
  const std::string before = fill_and_end(pair);
  const std::string bytes = some_bytes(300000);
  const std::int64_t key = real.proactor.start_send(pair.first, bytes.data(), bytes.size(), 0);
  take_turns(&real, 8);
  CHECK(real.proactor.peek(static_cast<std::uint32_t>(key))->state == State::kWaiting);
  // Whoever would send at once has to wait behind it.
  const std::string late = some_bytes(Proactor::kSendNow);
  CHECK(real.proactor.send_now(pair.first, late.data(), late.size(), 0) == 0);
  std::string taken;
  CHECK(real.collector.until([&] {
    taken += take_all(pair.second);
    return real.collector.has(key);
  }));
  taken += take_all(pair.second);
  CHECK(real.collector[key].error == 0);
  CHECK(real.collector[key].result == 300000);
  CHECK(taken == before + bytes);
  close(pair.first);
  close(pair.second);
}

TEST_CASE("real: a send that waits for room of a peer that has ended tells at its end what is out") {
  for (const bool by_close : {false, true}) {
    CAPTURE(by_close);
    Real real;
    const auto pair = real_pair();
    const std::string before = fill_and_end(pair);
    const std::string bytes = some_bytes(1000000);
    const std::int64_t key = real.proactor.start_send(pair.first, bytes.data(), bytes.size(), 0);
    take_turns(&real, 8);
    std::string taken = take_all(pair.second);
    take_turns(&real, 8);
    CHECK(real.proactor.peek(static_cast<std::uint32_t>(key))->state == State::kWaiting);
    if (by_close)
      real.proactor.close();
    else
      real.proactor.cancel(key_of(key));
    real.collector.collect();
    taken += take_all(pair.second);
    CHECK(real.collector[key].error == -ECANCELED);
    CHECK(real.collector[key].result == static_cast<std::int64_t>(taken.size() - before.size()));
    CHECK(real.collector[key].result > 0);
    close(pair.first);
    close(pair.second);
  }
}

TEST_CASE("a poll that hears of the end only goes on by the ring where the set has no room") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  for (const int error : {-ENOSPC, -ENOMEM}) {
    CAPTURE(error);
    simulation.kernel.force_result(IORING_OP_POLL_ADD, POLLRDHUP);
    const std::int64_t key = simulation.proactor.start_poll(Kind::kPoll, ours, POLLOUT);
    simulation.kernel.fail(Call::kEpollControl, error);
    CHECK(simulation.collector.until_all({key}, 10));
    CHECK(simulation.collector[key].error == 0);
    CHECK(simulation.collector[key].result == POLLOUT);
  }
}

TEST_CASE("a poll that waits in the set for this once is the ring's when it is armed again") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  simulation.kernel.force_result(IORING_OP_POLL_ADD, POLLRDHUP);
  const std::int64_t key = simulation.proactor.start_poll(Kind::kPoll, ours, POLLOUT);
  Completion completion;
  for (int turns = 0; turns < 10 && !simulation.proactor.next(&completion); ++turns)
    REQUIRE(simulation.proactor.turn(0) == 0);
  REQUIRE(completion.key == key_of(key));
  CHECK(simulation.proactor.again(completion.key) == 0);
  CHECK(simulation.state(key) == State::kQueued);
  CHECK(simulation.collector.until_all({key}, 5));
}

TEST_CASE("a send that waits for room in the set stays there when its proactor moves to another thread") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair(4);
  const std::int64_t key = simulation.proactor.start_send(ours, "too much", 8, 0);
  simulation.turn();
  simulation.kernel.force_result(IORING_OP_POLL_ADD, POLLRDHUP);
  for (int turns = 0; turns < 10 && simulation.state(key) != State::kWaiting; ++turns) simulation.turn();
  REQUIRE(simulation.state(key) == State::kWaiting);
  simulation.kernel.thread = 2;
  REQUIRE(simulation.proactor.bind_thread() == 0);
  CHECK(simulation.state(key) == State::kWaiting);
  CHECK(simulation.kernel.take(theirs) == "too ");
  CHECK(simulation.collector.until_all({key}, 20));
  CHECK(simulation.collector[key].result == 8);
  CHECK(simulation.kernel.take(theirs) == "much");
  simulation.kernel.thread = 1;
  REQUIRE(simulation.proactor.bind_thread() == 0);
}

TEST_CASE("real: the reader of a descriptor is told before its writer, whoever was ready first") {
  Real real;
  const auto pair = real_pair();
  const std::string block = some_bytes(4096);
  while (send(pair.first, block.data(), block.size(), MSG_DONTWAIT) > 0) {
  }
  const std::int64_t writer = real.proactor.start_poll(Kind::kPoll, pair.first, POLLOUT);
  const std::int64_t reader = real.proactor.start_poll(Kind::kPoll, pair.first, POLLIN);
  take_turns(&real, 2);
  take_all(pair.second);
  REQUIRE(write(pair.second, "x", 1) == 1);
  REQUIRE(real.proactor.turn(0) == 0);
  std::vector<std::int64_t> told;
  Completion completion;
  while (real.proactor.next(&completion)) {
    told.push_back(static_cast<std::int64_t>(completion.key));
    real.proactor.release(completion.key);
  }
  CHECK(told == std::vector<std::int64_t>{reader, writer});
  close(pair.first);
  close(pair.second);
}

}  // namespace
}  // namespace uring::test
