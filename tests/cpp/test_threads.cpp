// What several threads do to a proactor, as the package has them: a mutex stands for Python's GIL.
// All calls are made with it held but enter(), during which other threads may call anything.
//
// Built with ThreadSanitizer as well, by itself: so nothing of the other tests is in here.
#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "proactor.hpp"

namespace uring::test {
namespace {

constexpr Rung kAllRungs[] = {Rung::kDeferTaskrun, Rung::kCoopTaskrun, Rung::kPlain};
constexpr int kMostTurns = 100000;

struct SocketPair {
  SocketPair() { good = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0; }
  ~SocketPair() {
    for (int fd : fds) ::close(fd);
  }
  int fds[2] = {-1, -1};
  bool good = false;
};

// A loop's thread, and the GIL.
class Loop {
 public:
  explicit Loop(Rung rung) {
    Features features;
    good_ = probe_features(real_kernel(), &features, rung) == 0 &&
            proactor_.init(features, 16, 32) == 0;
  }

  bool good() const { return good_; }
  std::mutex& gil() { return gil_; }
  Proactor& proactor() { return proactor_; }

  // With the GIL held: the calling thread takes the turns from here on.
  int bind() { return proactor_.bind_thread(); }

  // With the GIL held: as Ring.wait() does it.  What completed is released; how many there were.
  int turn(std::unique_lock<std::mutex>& lock, bool sleep) {
    if (proactor_.prepare() != 0) return -1;
    sleep = sleep && proactor_.idle();
    if (sleep) {
      lock.unlock();
      proactor_.enter(true, -1);
      lock.lock();
    } else if (proactor_.must_enter()) {
      proactor_.enter(false, 0);
    }
    proactor_.reap();
    woken_ += proactor_.take_wake();
    int count = 0;
    Completion completion;
    while (proactor_.next(&completion)) {
      char byte;
      if (completion.kind == Kind::kReceive && completion.error == 0)
        proactor_.receive(proactor_.peek(static_cast<std::uint32_t>(completion.key))->fd, &byte, 1, 0);
      errors_ += completion.error != 0;
      proactor_.release(completion.key);
      ++count;
    }
    return count;
  }

  unsigned woken() const { return woken_; }
  unsigned errors() const { return errors_; }

 private:
  std::mutex gil_;
  Proactor proactor_;
  bool good_ = false;
  unsigned woken_ = 0;
  unsigned errors_ = 0;
};

void wake_once(Loop& loop) {
  {
    std::lock_guard<std::mutex> lock(loop.gil());
    loop.proactor().wake();
  }
  // A mutex is not fair.
  std::this_thread::yield();
}

TEST_CASE("threads: wake() from several while the owner sleeps") {
  for (Rung rung : kAllRungs) {
    Loop loop(rung);
    REQUIRE(loop.good());
    constexpr int kThreads = 3, kWakes = 200;
    std::atomic<int> finished{0};
    std::atomic<bool> started{false};
    std::thread owner([&] {
      std::unique_lock<std::mutex> lock(loop.gil());
      loop.bind();
      started = true;
      // The last wake() comes after the count, so that no sleep is for ever.
      while (finished.load() < kThreads) loop.turn(lock, true);
      loop.proactor().close();
    });
    std::vector<std::thread> wakers;
    for (int number = 0; number < kThreads; ++number) {
      wakers.emplace_back([&] {
        while (!started) std::this_thread::yield();
        for (int count = 0; count < kWakes; ++count) wake_once(loop);
        ++finished;
        wake_once(loop);
      });
    }
    for (std::thread& waker : wakers) waker.join();
    owner.join();
    CHECK(loop.woken() >= 1);
  }
}

TEST_CASE("threads: operations started and cancelled while the owner sleeps") {
  for (Rung rung : kAllRungs) {
    Loop loop(rung);
    REQUIRE(loop.good());
    SocketPair pair;
    REQUIRE(pair.good);
    constexpr int kOperations = 200;
    std::atomic<bool> finished{false};
    int completed = 0;
    std::thread owner([&] {
      std::unique_lock<std::mutex> lock(loop.gil());
      loop.bind();
      for (int turns = 0; turns < kMostTurns && (!finished || loop.proactor().operations() != 0); ++turns)
        completed += loop.turn(lock, true);
      loop.proactor().close();
    });
    for (int count = 0; count < kOperations; ++count) {
      std::lock_guard<std::mutex> lock(loop.gil());
      const std::int64_t receive =
          loop.proactor().start_poll(Kind::kReceive, pair.fds[0], POLLIN);
      const std::int64_t send = loop.proactor().start_send(pair.fds[1], "x", 1, 0);
      if (count % 3 == 0) loop.proactor().cancel(static_cast<std::uint64_t>(receive));
      if (count % 5 == 0) loop.proactor().cancel(static_cast<std::uint64_t>(send));
      loop.proactor().wake();
    }
    {
      std::lock_guard<std::mutex> lock(loop.gil());
      loop.proactor().cancel_all();
      finished = true;
      loop.proactor().wake();
    }
    owner.join();
    CHECK(completed == 2 * kOperations);
  }
}

TEST_CASE("threads: a ring that is made in one and run in others while it is woken") {
  for (Rung rung : kAllRungs) {
    Loop loop(rung);
    REQUIRE(loop.good());
    SocketPair pair;
    REQUIRE(pair.good);
    std::atomic<bool> finished{false};
    std::thread waker([&] {
      while (!finished) wake_once(loop);
    });
    int completed = 0, started = 0;
    for (int run = 0; run < 8; ++run) {
      std::thread owner([&] {
        std::unique_lock<std::mutex> lock(loop.gil());
        CHECK(loop.bind() == 0);
        for (int count = 0; count < 10; ++count) {
          loop.proactor().start_poll(Kind::kReceive, pair.fds[0], POLLIN);
          loop.proactor().start_send(pair.fds[1], "x", 1, 0);
          started += 2;
          completed += loop.turn(lock, count % 2 == 0);
        }
      });
      owner.join();
    }
    // Here, in yet another one, is the end.
    {
      std::unique_lock<std::mutex> lock(loop.gil());
      CHECK(loop.bind() == 0);
      for (int turns = 0; turns < kMostTurns && loop.proactor().operations() != 0; ++turns)
        completed += loop.turn(lock, false);
    }
    finished = true;
    waker.join();
    CHECK(completed == started);
    CHECK(loop.errors() == 0);
  }
}

TEST_CASE("threads: closed while others wake it") {
  for (Rung rung : kAllRungs) {
    for (int round = 0; round < 20; ++round) {
      Loop loop(rung);
      REQUIRE(loop.good());
      SocketPair pair;
      REQUIRE(pair.good);
      std::atomic<bool> finished{false};
      std::vector<std::thread> wakers;
      for (int number = 0; number < 2; ++number) {
        wakers.emplace_back([&] {
          while (!finished) wake_once(loop);
        });
      }
      {
        std::unique_lock<std::mutex> lock(loop.gil());
        CHECK(loop.bind() == 0);
        loop.proactor().start_poll(Kind::kReceive, pair.fds[0], POLLIN);
        loop.turn(lock, true);
        if (round % 2) loop.proactor().drain(1000000000);
        loop.proactor().close();
      }
      finished = true;
      for (std::thread& waker : wakers) waker.join();
      std::unique_lock<std::mutex> lock(loop.gil());
      Completion completion;
      while (loop.proactor().next(&completion)) loop.proactor().release(completion.key);
      CHECK(loop.proactor().operations() == 0);
    }
  }
}

TEST_CASE("threads: closed by another while the owner is in the kernel") {
  for (Rung rung : kAllRungs) {
    for (int round = 0; round < 50; ++round) {
      Loop loop(rung);
      REQUIRE(loop.good());
      SocketPair pair;
      REQUIRE(pair.good);
      std::atomic<bool> started{false};
      int result = 0;
      std::thread owner([&] {
        std::unique_lock<std::mutex> lock(loop.gil());
        loop.bind();
        loop.proactor().start_poll(Kind::kReceive, pair.fds[0], POLLIN);
        started = true;
        // For ever: nothing comes.
        while (result == 0) {
          if ((result = loop.proactor().prepare()) != 0) break;
          lock.unlock();
          result = loop.proactor().enter(true, -1);
          lock.lock();
          loop.proactor().reap();
        }
      });
      // Now and then it is about to go in, now and then it is asleep.
      while (!started) std::this_thread::yield();
      if (round % 2) usleep(200);
      {
        std::lock_guard<std::mutex> lock(loop.gil());
        CHECK((rung != Rung::kDeferTaskrun || !loop.proactor().bound_here()));
        loop.proactor().close();
        CHECK_FALSE(loop.proactor().is_open());
      }
      // Whoever gets the descriptor's number next is not entered.
      Loop next(rung);
      owner.join();
      CHECK(result == -EBADF);
      std::lock_guard<std::mutex> lock(loop.gil());
      Completion completion;
      while (loop.proactor().next(&completion)) loop.proactor().release(completion.key);
      CHECK(loop.proactor().operations() == 0);
    }
  }
}

TEST_CASE("threads: nobody takes the ring over while another is in the kernel") {
  for (Rung rung : kAllRungs) {
    Loop loop(rung);
    REQUIRE(loop.good());
    std::atomic<int> entering{0};
    std::atomic<bool> finished{false};
    std::thread owner([&] {
      std::unique_lock<std::mutex> lock(loop.gil());
      CHECK(loop.bind() == 0);
      CHECK(loop.proactor().bound_here());
      while (!finished) {
        CHECK(loop.proactor().prepare() == 0);
        lock.unlock();
        ++entering;
        CHECK(loop.proactor().enter(true, -1) == 0);
        lock.lock();
        loop.proactor().reap();
        loop.proactor().take_wake();
      }
    });
    // It may be on its way in.
    int refused = 0;
    for (int tries = 0; tries < kMostTurns && refused == 0; ++tries) {
      while (entering == 0) std::this_thread::yield();
      std::lock_guard<std::mutex> lock(loop.gil());
      if (!loop.proactor().occupied()) continue;
      refused = loop.bind();
      CHECK(loop.proactor().enter(false, 0) == -EEXIST);
      CHECK(loop.proactor().occupied());
    }
    CHECK(refused == -EBUSY);
    {
      std::lock_guard<std::mutex> lock(loop.gil());
      CHECK_FALSE(loop.proactor().bound_here());
      finished = true;
      loop.proactor().wake();
    }
    owner.join();
    std::lock_guard<std::mutex> lock(loop.gil());
    CHECK(loop.bind() == 0);
    CHECK(loop.proactor().bound_here());
  }
}

TEST_CASE("threads: several proactors in as many, each probing at its start") {
  constexpr int kThreads = 4, kMessages = 200;
  std::atomic<int> good{0};
  std::vector<std::thread> owners;
  for (int number = 0; number < kThreads; ++number) {
    owners.emplace_back([&good] {
      Features features;
      Proactor proactor;
      SocketPair pair;
      if (!pair.good || real_features(&features) != 0 || proactor.init(features, 8, 16) != 0 ||
          proactor.bind_thread() != 0)
        return;
      int messages = 0;
      for (int count = 0; count < kMessages; ++count) {
        proactor.start_poll(Kind::kReceive, pair.fds[0], POLLIN);
        proactor.start_send(pair.fds[1], "x", 1, 0);
        for (int turns = 0; turns < kMostTurns && proactor.operations() != 0; ++turns) {
          proactor.turn(1000000000);
          Completion completion;
          while (proactor.next(&completion)) {
            char byte = 0;
            if (completion.kind == Kind::kReceive)
              messages += proactor.receive(pair.fds[0], &byte, 1, 0) == 1 && byte == 'x';
            proactor.release(completion.key);
          }
        }
      }
      proactor.close();
      good += messages == kMessages;
    });
  }
  for (std::thread& owner : owners) owner.join();
  CHECK(good == kThreads);
}

}  // namespace
}  // namespace uring::test
