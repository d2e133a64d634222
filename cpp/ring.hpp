// One io_uring instance: its memory, its two queues, and the calls that enter the kernel.
//
// Owns the ring's file descriptor and its two mappings.  Knows nothing of operations: it hands out
// empty SQEs and hands back CQEs.  Three facts shape it:
//  - on the best rung (SINGLE_ISSUER) a ring belongs to the thread that enables it; until then it
//    takes no submission (-EBADFD), and from another thread every enter fails with -EEXIST;
//  - with DEFER_TASKRUN completions appear in the CQ only while that thread is in
//    io_uring_enter(2) with GETEVENTS; SQ_TASKRUN says that some are waiting to;
//  - IORING_FEAT_NODROP: completions that find the CQ full are kept by the kernel until an enter, if it
//    has the memory for them: else they are dropped, and counted (-EBADR, once, is all it says).
//
// A closed ring is an empty one: it has no SQE to give, nothing is pending in it and nothing visible,
// and an enter says -EBADF.  So nobody has to ask first.
#pragma once

#include <string.h>

#include <atomic>
#include <cstdint>

#include "features.hpp"
#include "kernel.hpp"

namespace uring {

template <typename T>
T load_acquire(const T* from) noexcept {
  return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}

template <typename T>
void store_release(T* to, T value) noexcept {
  __atomic_store_n(to, value, __ATOMIC_RELEASE);
}

// Counted by one thread at a time, and read by any: no more than a load and a store.
class Counter {
 public:
  void add(std::uint64_t count) noexcept {
    value_.store(value_.load(std::memory_order_relaxed) + count, std::memory_order_relaxed);
  }
  std::uint64_t get() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

class Ring {
 public:
  static constexpr unsigned kSubmissionEntries = 128;
  static constexpr unsigned kCompletionEntries = 512;

  explicit Ring(const Kernel& kernel) noexcept : kernel_(&kernel) { forget(); }
  ~Ring() { close(); }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  Ring(Ring&& other) noexcept;
  Ring& operator=(Ring&& other) noexcept;

  // Make and map the ring, on the rung of `features`.  On -ENOMEM tries again for up to
  // `patience_ns`: the kernel gives the locked memory of closed rings back late.
  int init(const Features& features, unsigned submission_entries, unsigned completion_entries,
           std::int64_t patience_ns) noexcept;

  // Bytes of locked memory that a ring of this size needs (RLIMIT_MEMLOCK).
  static std::size_t memory_needed(unsigned submission_entries,
                                   unsigned completion_entries) noexcept;

  // Bind the ring to the calling thread and let submissions in.
  int enable() noexcept;
  // Give everything back.  The kernel ends what was in flight on its own time.
  void close() noexcept;
  // As close(), in a forked child: the mappings are not there (MADV_DONTFORK), what stands at
  // their addresses now may be somebody else's, and the descriptor is closed (Kernel::fork_count).
  void abandon() noexcept;

  bool is_open() const noexcept { return fd_ >= 0; }
  int fd() const noexcept { return fd_; }
  Rung rung() const noexcept { return rung_of(flags_); }
  // IORING_FEAT_* as io_uring_setup(2) reported them; IORING_SETUP_*.
  unsigned features() const noexcept { return features_; }
  unsigned flags() const noexcept { return flags_; }
  bool single_issuer() const noexcept { return (flags_ & IORING_SETUP_SINGLE_ISSUER) != 0; }

  // An empty SQE, or null when the SQ is full: enter() then makes room.
  io_uring_sqe* get_sqe() noexcept;
  // SQEs that the kernel has not consumed yet.
  unsigned submissions_pending() const noexcept;
  // The one at `index` of those, from 0 on; one of zeros where there is none.
  const io_uring_sqe& pending_sqe(unsigned index) const noexcept;
  // Take them back: they will not be submitted.
  void retract() noexcept;
  // Publish the SQEs and enter the kernel once: submit, run deferred work, and, if `wait`, sleep
  // until a completion is there or `timeout_ns` is over (negative: for ever).
  // Returns the number of SQEs consumed, or -errno (-ETIME, -EINTR, -EBUSY, -EAGAIN are normal).
  int enter(bool wait, std::int64_t timeout_ns) noexcept;
  // The same without a wait, and with the deferred work of `completions` completions, if there is
  // so much.  Without asking, an enter runs twenty at most (Linux 6.13).
  int enter_for(unsigned completions) noexcept;
  // True when the kernel holds completions that only an enter can bring into the CQ.
  bool completions_deferred() const noexcept;
  bool overflowed() const noexcept;
  // True when completions were dropped; nobody knows which.
  bool dropped() const noexcept;
  bool completions_visible() const noexcept;
  // Copy the oldest completion and free its place; false when the CQ is empty.
  bool pop(io_uring_cqe* completion) noexcept;

  // -- What has been done since it was made.  A ring that another is moved into counts on. --
  // Calls of io_uring_enter(2), SQEs that it took, and completions that were read.
  std::uint64_t enters() const noexcept { return enters_.get(); }
  std::uint64_t submissions() const noexcept { return submissions_.get(); }
  std::uint64_t completions() const noexcept { return completions_.get(); }

 private:
  int call_enter(unsigned min_complete, unsigned flags, const void* argument, std::size_t size) noexcept;
  int map(const io_uring_params& params) noexcept;
  void forget() noexcept;

  const Kernel* kernel_;
  int fd_ = -1;
  unsigned flags_ = 0;
  unsigned features_ = 0;
  bool no_iowait_ = false;

  void* queues_ = nullptr;
  std::size_t queues_size_ = 0;
  io_uring_sqe* sqes_ = nullptr;
  std::size_t sqes_size_ = 0;

  // Into the mapping; to `nothing_` while the ring is closed.
  unsigned* sq_head_;
  unsigned* sq_tail_;
  unsigned* sq_flags_;
  unsigned sq_mask_ = 0;
  unsigned sq_entries_ = 0;
  unsigned sq_next_ = 0;  // our tail; published by enter()

  unsigned* cq_head_;
  unsigned* cq_tail_;
  unsigned* cq_dropped_;
  unsigned cq_mask_ = 0;
  io_uring_cqe* cqes_ = nullptr;

  Counter enters_, submissions_, completions_;

  unsigned nothing_;
};

// In the header: each turn asks these many times.

inline io_uring_sqe* Ring::get_sqe() noexcept {
  if (sq_next_ - load_acquire(sq_head_) >= sq_entries_) return nullptr;
  io_uring_sqe* sqe = &sqes_[sq_next_++ & sq_mask_];
  // Since liburing 2.6 its prep functions count on io_uring_get_sqe() to have cleared the rest.
  memset(sqe, 0, sizeof(*sqe));
  return sqe;
}

inline unsigned Ring::submissions_pending() const noexcept { return sq_next_ - load_acquire(sq_head_); }

inline bool Ring::completions_deferred() const noexcept {
  return (__atomic_load_n(sq_flags_, __ATOMIC_RELAXED) &
          (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

inline bool Ring::overflowed() const noexcept {
  return (__atomic_load_n(sq_flags_, __ATOMIC_RELAXED) & IORING_SQ_CQ_OVERFLOW) != 0;
}

inline bool Ring::dropped() const noexcept {
  return __atomic_load_n(cq_dropped_, __ATOMIC_RELAXED) != 0;
}

inline bool Ring::completions_visible() const noexcept {
  // Another thread may pop while one spins without the GIL.
  return load_acquire(cq_tail_) != __atomic_load_n(cq_head_, __ATOMIC_RELAXED);
}

inline bool Ring::pop(io_uring_cqe* completion) noexcept {
  unsigned head = *cq_head_;
  if (load_acquire(cq_tail_) == head) return false;
  memcpy(completion, &cqes_[head & cq_mask_], sizeof(*completion));
  store_release(cq_head_, head + 1);
  completions_.add(1);
  return true;
}

}  // namespace uring
