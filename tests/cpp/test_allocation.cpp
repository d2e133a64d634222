// What must not need memory: the way out of everything.  The program's operator new is replaced here,
// and refuses where a test says so.
#include <errno.h>
#include <poll.h>

#include <cstdlib>
#include <new>
#include <vector>

#include "proactor.hpp"
#include "support.hpp"

namespace {

bool no_memory = false;

struct NoMemory {
  NoMemory() { no_memory = true; }
  ~NoMemory() { no_memory = false; }
};

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size) {
  void* memory = no_memory ? nullptr : std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace uring::test {
namespace {

TEST_CASE("cancel: takes no memory") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung, 512, 2048);
    Proactor& proactor = simulation.proactor;
    auto [ours, theirs] = simulation.kernel.stream_pair();
    std::vector<std::int64_t> keys;
    for (int count = 0; count < 300; ++count)
      keys.push_back(proactor.start_poll(Kind::kReceive, ours, POLLIN));
    simulation.turn();
    CHECK(proactor.in_flight() == 300);
    auto cancel = [&](std::size_t from, std::size_t to) {
      for (; from < to; ++from) proactor.cancel(static_cast<std::uint64_t>(keys[from]));
    };
    {
      NoMemory none;
      cancel(0, 100);
      REQUIRE(proactor.prepare() == 0);
    }
    // The kernel takes none of the hundred SQEs, and another thread cancels the rest meanwhile.
    simulation.kernel.fail(Call::kEnter, -EAGAIN);
    CHECK(proactor.enter(false, 0) == 0);
    {
      NoMemory none;
      cancel(100, 300);
      proactor.reap();
      cancel(0, 300);
    }
    CHECK(simulation.collector.until([&] { return simulation.collector.count() == 300; }, 10));
    for (std::int64_t key : keys) CHECK(simulation.collector[key].error == -ECANCELED);
    CHECK(proactor.stale_keys() == 0);
    CHECK(simulation.kernel.put(theirs, "x") == 1);
  }
}

}  // namespace
}  // namespace uring::test
