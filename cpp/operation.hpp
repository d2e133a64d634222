// One operation: the record of it that the table keeps from start() to release().
//
// A fixed-size record, so that a slot never moves and a slab of them is one allocation.  It names
// its memory (`buffer`) but does not own it: whoever started the operation keeps the buffer alive
// until the operation's final completion has been taken out with Proactor::next(), or, for what a
// closed ring left behind, for good.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstdint>

namespace uring {

enum class Kind : std::uint8_t {
  kNone,
  // Wait for readiness; the caller then does the work with receive() or the like, or by itself.
  // Nothing is taken from the socket before that, so a cancel can lose nothing.
  kPoll,
  kReceive,
  kReceiveFrom,
  kRead,
  kAccept,
  kConnect,
  kSendfile,
  // The kernel works on the caller's buffer; done when all of it is out.
  kSend,
  kSendTo,
  kWrite,
};

const char* kind_name(Kind kind) noexcept;

constexpr bool owns_buffer(Kind kind) noexcept {
  return kind == Kind::kSend || kind == Kind::kSendTo || kind == Kind::kWrite;
}

enum class State : std::uint8_t {
  kFree,       // the slot is on the free list
  kQueued,     // started; no SQE written: the kernel knows nothing of it
  kInFlight,   // its SQE is written; the kernel owns buffer and address
  kWaiting,    // in the set of Readiness: the ring knows nothing of it
  kCompleted,  // the final CQE is in, or one of a kMultishot; waits for next()
  kTaken,      // handed out by next(): to be released, or queued again
};

enum Flag : std::uint16_t {
  kCancelWanted = 1 << 0,  // asked to end; the next final CQE is the last
  kCancelListed = 1 << 1,  // on the list of cancels to submit
  kPolling = 1 << 2,       // of a sending kind: in flight is a POLL_ADD, not the send itself
  kWatched = 1 << 3,       // somebody can be asked whether its descriptor is still open
  kAbandoned = 1 << 4,     // its ring closed before the final CQE: the kernel may hold the buffer
  kMayWait = 1 << 5,       // of a write: its file can't be asked not to wait for room
  kByReadiness = 1 << 6,   // it waits in the set of Readiness, and not by a POLL_ADD
  kRepeated = 1 << 7,      // ... and goes on waiting whenever it was told
  kCancelArmed = 1 << 8,   // the SQE of its cancel is written
  kByCall = 1 << 9,        // of a sending kind: the ring has refused it, a system call does it
  kLingers = 1 << 10,      // in the set of Readiness: what it wanted stays wanted there when it is over
  kOnTrust = 1 << 11,      // ... and was so when it began: nobody has asked whether it is the same file's
  kMultishot = 1 << 12,    // a poll that the kernel keeps when it has told something
  kLive = 1 << 13,         // ... and it has told something, nobody has called again(), and the kernel has it
  kDropped = 1 << 14,      // ... and was released so: of its end nobody is told
  kGuest = 1 << 15,        // kByReadiness for this once: its POLL_ADD tells of nothing that it waits for
};

// What a sendto needs at addresses that stay put until the final CQE.
struct AddressBlock {
  msghdr message;
  iovec vector;
  sockaddr_storage address;
};

constexpr std::uint32_t kNoSlot = 0xffffffff;

struct Operation {
  // Linked into at most one of: free list, queue of what is to be armed, completed list.
  std::uint32_t next = kNoSlot;
  std::uint32_t previous = kNoSlot;
  // All operations on one descriptor.
  std::uint32_t fd_next = kNoSlot;
  std::uint32_t fd_previous = kNoSlot;
  // The list of cancels.
  std::uint32_t cancel_next = kNoSlot;
  std::uint32_t cancel_previous = kNoSlot;
  // Of what is kWatched: the list of what is looked at, which it leaves only when it is released.
  std::uint32_t watch_next = kNoSlot;
  std::uint32_t watch_previous = kNoSlot;

  std::uint32_t slot = kNoSlot;
  std::uint32_t generation = 0;

  int fd = -1;
  int file = -1;  // kSendfile: what is sent
  std::uint32_t message_flags = 0;
  std::uint16_t poll_mask = 0;
  std::int16_t cancel_error = 0;  // -errno that a cancelled operation ends with

  // 0 or -errno.
  std::int32_t error = 0;
  std::uint32_t run = 0;  // in which thread's turn it was armed: see Proactor::bind_thread()
  // Of a poll the events, of a send the bytes that are out.
  std::int64_t result = 0;

  const void* buffer = nullptr;
  std::uint64_t length = 0;
  std::uint64_t done = 0;
  std::int64_t offset = 0;
  AddressBlock* address = nullptr;
  // When the kernel got it: the first time, or, of what goes on waiting (Proactor::again()), this time.
  // 0 while queued.
  std::int64_t started_ns = 0;

  std::uint16_t retries = 0;  // re-arms in a row without progress
  std::uint8_t armed = 0;     // of a kMultishot: how often, up to Proactor::kKeptAfter
  Kind kind = Kind::kNone;
  State state = State::kFree;
  std::uint16_t flags = 0;

  std::uint64_t key() const noexcept {
    return (static_cast<std::uint64_t>(generation) << 32) | slot;
  }
};

static_assert(sizeof(Operation) <= 128, "an operation is two cache lines");

}  // namespace uring
