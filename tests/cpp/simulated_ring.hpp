// One ring of a simulated kernel: the memory that it shares with its user, and what is in flight.
#pragma once

#include <linux/io_uring.h>

#include <cstdint>
#include <deque>
#include <list>
#include <vector>

#include "features.hpp"
#include "simulated_files.hpp"

namespace uring::test {

// Where things stand in the queues' mapping; in bytes.
constexpr unsigned kSqOffset = 0;
constexpr unsigned kCqOffset = 64;
constexpr unsigned kCqesOffset = 128;
enum Word { kHead, kTail, kMask, kEntries, kFlags, kLost };

struct SimulatedRequest {
  io_uring_sqe sqe;
  FilePointer file;
  int thread = 0;
  bool cancelled = false;
  bool reads_memory = true;
  bool told = false;         // of a multishot poll: what there is
  int said = 0;              // completions with F_MORE
  std::uint64_t memory = 0;  // checksum of what the kernel was told to read

  bool multishot() const { return sqe.opcode == IORING_OP_POLL_ADD && (sqe.len & IORING_POLL_ADD_MULTI) != 0; }
};

struct SimulatedRing {
  struct Completed {
    std::uint64_t user_data;
    int result;
    unsigned flags;
  };

  unsigned flags = 0;
  unsigned sq_entries = 0;
  unsigned cq_entries = 0;
  int owner = 0;
  unsigned forks = 0;
  bool dropped = false;  // completions, and nobody has been told
  bool sleeper = false;  // its thread sleeps in enter(), and does what becomes ready by itself
  std::vector<std::uint64_t> queues, sqes;
  std::list<SimulatedRequest> waiting;
  std::vector<Completed> batch;
  std::deque<Completed> overflow;

  bool deferred() const { return (flags & IORING_SETUP_DEFER_TASKRUN) != 0; }
  bool cooperative() const { return deferred() || (flags & IORING_SETUP_COOP_TASKRUN) != 0; }

  unsigned* sq(Word word) { return at(kSqOffset) + word; }
  unsigned* cq(Word word) { return at(kCqOffset) + word; }
  unsigned array_offset() const {
    return kCqesOffset + cq_entries * static_cast<unsigned>(sizeof(io_uring_cqe));
  }
  unsigned* at(unsigned offset) {
    return reinterpret_cast<unsigned*>(reinterpret_cast<unsigned char*>(queues.data()) + offset);
  }
  unsigned visible() { return *cq(kTail) - load(cq(kHead)); }

  static unsigned load(const unsigned* from) { return __atomic_load_n(from, __ATOMIC_ACQUIRE); }
  static void store(unsigned* to, unsigned value) { __atomic_store_n(to, value, __ATOMIC_RELEASE); }
  void set_flag(unsigned flag, bool on) {
    const unsigned flags_now = *sq(kFlags);
    store(sq(kFlags), on ? flags_now | flag : flags_now & ~flag);
  }

  // To the CQ, or behind what found it full.
  void add(const Completed& completed) {
    if (!overflow.empty() || !write(completed)) set_aside(completed);
  }
  void set_aside(const Completed& completed) {
    overflow.push_back(completed);
    set_flag(IORING_SQ_CQ_OVERFLOW, true);
  }
  bool write(const Completed& completed) {
    if (visible() >= cq_entries) return false;
    const unsigned tail = *cq(kTail);
    io_uring_cqe* cqe = reinterpret_cast<io_uring_cqe*>(at(kCqesOffset)) + (tail % cq_entries);
    cqe->user_data = completed.user_data;
    cqe->res = completed.result;
    cqe->flags = completed.flags;
    store(cq(kTail), tail + 1);
    return true;
  }
};

}  // namespace uring::test
