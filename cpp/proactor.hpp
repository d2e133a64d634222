// The proactor: starts operations, enters the kernel once a turn, and hands completions out.
//
// Owns the ring, the operation table and the eventfd that wakes it; it is the one class that
// Cython wraps.  Knows no Python object: an owner remembers the key that start_*() gave it.
//
// A turn is prepare(), enter(), reap().  Between turns operations only enter the table: the SQEs
// are written in prepare(), so that
//  - what is cancelled, or loses its descriptor, before the kernel saw it never reaches the kernel;
//  - an operation may start before the ring has a thread;
//  - no descriptor number waits in an SQE while somebody closes it: SQEs that the kernel has left
//    (-EAGAIN, -EBUSY, a short submit) are taken back in reap().
// Only enter() may run beside other calls (without the GIL): it touches nothing but the ring.  close()
// beside it wakes who sleeps there and waits until he is out, and bind_thread() refuses.
//
// Receiving kinds wait for readiness (POLL_ADD) and are then completed by receive() and the like,
// called by who takes the bytes.  Sending kinds give the kernel the caller's buffer and complete
// when all of it is out; short sends, -EAGAIN and -EINTR are resumed here.  What waits on a
// descriptor that belongs to the user waits in an epoll set instead (start_wait(), Readiness):
// there it holds no file open, begins at once, and ends at once.  So does what waits for room where the
// peer sends no more, of which a POLL_ADD would tell and tell.
//
// A kernel may refuse one operation and allow the others (Refusal): what it refuses is done here, by the
// system call of the same name when its turn comes, and a POLL_ADD waits for room as ever.
//
// A kernel without memory drops completions, and does not say which: all that waits is then queued again
// on a fresh ring, but of what sends nobody knows how much is out, and it ends with -EBADR.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <cstdint>

#include "features.hpp"
#include "kernel.hpp"
#include "operation_table.hpp"
#include "readiness.hpp"
#include "ring.hpp"

namespace uring {

struct Completion {
  std::uint64_t key = 0;
  Kind kind = Kind::kNone;
  int error = 0;             // 0 or -errno
  bool abandoned = false;    // the kernel may still hold the buffer: keep it for good
  bool kept = false;         // a poll of start_multishot() that the kernel has still
  std::int64_t result = 0;   // events of a poll, bytes of a send
};

class Proactor {
 public:
  // At most so many completions are read in one turn: the loop's other callbacks want theirs.
  static constexpr unsigned kReapLimit = 256;
  // So often a poll is armed before the kernel keeps it: of a connection that is over soon it would have to be cancelled.
  static constexpr std::uint8_t kKeptAfter = 3;
  // And so many operations are in flight then: to arm one again costs more than to be told of each packet where their memory
  // has left the cache by then.  Of fewer, packets that come while nothing is armed are told of for less.
  static constexpr unsigned kManyPolls = 96;
  // Or so few are there in all, whose peers wait for their answers: nothing comes until the loop sleeps.
  static constexpr unsigned kFewPolls = 8;
  // An enter that may copy more than this is worth giving the GIL up for.
  static constexpr std::uint64_t kLargeCopy = 1 << 20;
  // How long a new ring waits for the locked memory of closed ones.
  static constexpr std::int64_t kMemoryPatience = 1000000000;

  // An SQE's length is 32 bits; a longer send goes out in pieces.
  static constexpr std::uint64_t kLongestSend = 1 << 30;
  // From here on one send(2) is cheaper than its share of a batch.
  static constexpr std::uint64_t kSendNow = 16 * 1024;

  explicit Proactor(const Kernel& kernel = real_kernel()) noexcept;
  ~Proactor();
  Proactor(const Proactor&) = delete;
  Proactor& operator=(const Proactor&) = delete;

  // Make the ring.  0 or -errno; -ENOMEM when locked memory was waited for in vain, see Ring::init().
  int init(const Features& features, unsigned submission_entries = Ring::kSubmissionEntries,
           unsigned completion_entries = Ring::kCompletionEntries,
           std::int64_t patience_ns = kMemoryPatience) noexcept;

  // Make the calling thread the one that takes turns.  A ring of one issuer that belongs to
  // another thread is replaced by a fresh one: completions that are posted are read, then the old
  // ring closes, then what is unfinished is queued again.  Nothing is lost: on such a ring work
  // is done only while its thread is in the kernel.
  //
  // A loop that is set up here and run there moves once, and its ring is of one issuer again: that is
  // the best rung.  A loop that moves again will go on moving, and gets a ring of the second, which any
  // thread may enter: each later move costs next to nothing.  What is in flight stays where it is then.
  // It is completed by the thread that submitted it, when that is next in the kernel or interrupted;
  // or ends without a reason when that thread does, and is submitted again by whoever takes the turns.
  //
  // On failure everything is as it was.  `patience_ns` is how long to wait for locked memory, as in
  // init().  `force` says that the kernel refused this
  // thread (-EEXIST: a new thread got the old one's number).  0 or -errno.
  int bind_thread(bool force = false, std::int64_t patience_ns = kMemoryPatience) noexcept;
  // True while another thread is in enter().
  bool occupied() const noexcept { return (door_.load() & kInside) != 0; }
  // True while the calling thread may take turns.
  bool bound_here() const noexcept;

  // -- Operations.  Each start returns a key (above 0) or -errno. --
  std::int64_t start_poll(Kind kind, int fd, std::uint32_t mask) noexcept;
  // The same, of a poll that the kernel may keep (Completion::kept): its again() costs it nothing.  It tells what comes,
  // and of what is there once only: whoever is told calls again(), and then reads all that there is.
  std::int64_t start_multishot(Kind kind, int fd, std::uint32_t mask) noexcept;
  // It does where there are so few operations, or so many in flight, and it has been armed kKeptAfter times before; with 0
  // in flight, from the first on.
  void keep_polls(unsigned up_to, unsigned from_in_flight) noexcept {
    keep_polls_up_to_ = up_to;
    keep_polls_from_ = from_in_flight;
  }
  // As start_poll(), for a descriptor that belongs to the user; in any thread, and at once.
  // `repeated`: it is level-triggered, and its again() costs nothing.  Of one whose file loses its
  // number to another one this is found out when that one is waited for: it ends with -EBADF.
  std::int64_t start_wait(Kind kind, int fd, std::uint32_t mask, bool repeated = false) noexcept;
  // The same, for one that is over when it is told, and most likely comes again: it costs no call then.
  // `same_file`: the number's file is the one of the last wait for it, as far as anybody knows.
  std::int64_t start_lingering_wait(Kind kind, int fd, std::uint32_t mask, bool same_file) noexcept;
  // Did a wait begin without a call?  Whoever is about to sleep for long has to check_files() before,
  // and whoever never does, once it began so long ago.
  bool trusts_files() const noexcept { return trusts_files_; }
  bool has_trusted_for(std::int64_t nanoseconds) const noexcept {
    return trusts_files_ && now() - trusted_since_ >= nanoseconds;
  }
  // A number may have got another file by dup2(2) alone, which nobody else could see.
  void check_files() noexcept;
  // Does whoever reads this number's file know that there is nothing to read?  That he does, or not.
  bool is_drained(int fd) const noexcept { return readiness_.is_drained(fd); }
  void note_drained(int fd) noexcept { readiness_.note_drained(fd); }
  // `done` bytes of the buffer are out already; they count in the result.
  std::int64_t start_send(int fd, const void* buffer, std::uint64_t length,
                          std::uint32_t message_flags, std::uint64_t done = 0) noexcept;
  std::int64_t start_sendto(int fd, const void* buffer, std::uint64_t length,
                            std::uint32_t message_flags, const void* address,
                            unsigned address_length) noexcept;
  std::int64_t start_write(int fd, const void* buffer, std::uint64_t length) noexcept;
  // Owns `file` from here on: closed at release().
  std::int64_t start_sendfile(int socket, int file, std::int64_t offset,
                              std::uint64_t count) noexcept;
  // Give a send or write in state kQueued another buffer, one that begins as its old one.
  void extend(std::uint64_t key, const void* buffer, std::uint64_t length) noexcept;
  // Somebody can be asked whether the descriptor is still open: first_watched() finds it.
  void watch(std::uint64_t key) noexcept;
  // Of waits for readiness that are over nothing is left behind, either: a descriptor that moves on
  // to the ring costs no more than any other.
  void forget(int fd) noexcept;

  // Ask an operation to end with `error` (-errno).  It stays in the table until its final CQE; one
  // that the kernel does not know completes at once.  Never an error: a stale key does nothing.
  void cancel(std::uint64_t key, int error = -125 /* -ECANCELED */) noexcept;
  void cancel_fd(int fd, int error = -125) noexcept;
  void cancel_all() noexcept;

  // Send now what fits without waiting: the bytes that are out, or -errno.  0 for what goes better
  // through the ring: less than `kSendNow`, which costs less in a batch, and what must wait behind
  // another send on the descriptor that is not over.
  std::int64_t send_now(int fd, const void* buffer, std::uint64_t length,
                        std::uint32_t message_flags) noexcept;

  // send(2), without a wait, and whatever is in flight on the descriptor; -errno.
  std::int64_t send(int fd, const void* buffer, std::uint64_t length) noexcept {
    return sendto(fd, buffer, length, nullptr, 0);
  }
  // The same to an address; of none, the length is 0.
  std::int64_t sendto(int fd, const void* buffer, std::uint64_t length, const void* address,
                      unsigned address_length) noexcept;

  // -- The work of an operation that is ready.  -EAGAIN: somebody else took it; see again(). --
  std::int64_t receive(int fd, void* buffer, std::uint64_t size, int message_flags) noexcept {
    return receive_from(fd, buffer, size, message_flags, nullptr, nullptr);
  }
  std::int64_t receive_from(int fd, void* buffer, std::uint64_t size, int message_flags,
                            sockaddr_storage* address, unsigned* address_length) noexcept;
  // -EAGAIN as well when there is nothing to read from a file that would wait for it.
  std::int64_t read(int fd, void* buffer, std::uint64_t size) noexcept;
  // One step of a sendfile; the bytes sent in all when it is done, -EAGAIN when it goes on.
  std::int64_t send_file(std::uint64_t key) noexcept;

  // Take the oldest completion; false when there is none.
  bool next(Completion* completion) noexcept;
  bool has_completions() const noexcept { return !completed_.empty(); }
  // Take this one, out of its turn; false if it has not completed.
  bool take(std::uint64_t key) noexcept;
  // Queue a taken operation again (0), or find that it was cancelled meanwhile (-errno).  `in_bulk`: what it waits for
  // comes in many packets, of each of which a poll that is kept would tell; so it is not, until it has been armed
  // kKeptAfter times without.
  int again(std::uint64_t key, bool in_bulk = false) noexcept;
  // Forget a taken operation.
  void release(std::uint64_t key) noexcept;

  // -- A turn --
  // Write the SQEs of what is queued; enters without waiting where the SQ is too small. 0, -errno.
  int prepare() noexcept;
  // True when a turn may sleep: nothing is left to submit, and no completion is in sight.
  bool idle() const noexcept { return queued_.empty() && cancels_.empty() && quiet(); }
  // The same, whoever has not yet taken what completed.
  bool may_sleep() const noexcept {
    return queued_.empty() && cancels_.empty() && !ring_.completions_visible() && !ring_.dropped();
  }
  // As idle(), before prepare(), whatever waits to be submitted.
  bool quiet() const noexcept {
    return completed_.empty() && !woken_ && !ring_.completions_visible() && !ring_.dropped() &&
           (flag_is_stale_ || !ring_.completions_deferred());
  }
  // True when a turn that does not sleep would submit, enter and find nothing: it can be left out.
  bool at_rest() const noexcept {
    return ring_.is_open() && !forked() && readiness_armed_ && wake_armed_ && !readiness_told_ && !stalled_ &&
           idle() && !must_enter();
  }
  // True when an enter is needed even without sleeping.
  bool must_enter() const noexcept;
  // True when the SQEs written are to copy more than kLargeCopy.
  bool large_copy() const noexcept { return bytes_prepared_ > kLargeCopy; }
  // Enter the kernel once.  `timeout_ns` below 0: no limit.  0, or -errno; -ETIME, -EBUSY and
  // -EAGAIN, which a later turn cures, and -EBADR, which reap() does, count as 0.  -EBADF: closed, perhaps meanwhile.
  // -EEXIST: another thread is in here, or, of a ring of one issuer, it is another's.
  int enter(bool wait, std::int64_t timeout_ns) noexcept;
  // Enter without a wait, again and again, until a completion is there, `spin_ns` are over, or the kernel has
  // an error to tell.  Returns, and may run beside other calls, as enter().
  int spin(std::int64_t spin_ns) noexcept;
  // Read CQEs, about kReapLimit at most; how many there were.
  int reap() noexcept;
  // True when the kernel took nothing of what this turn had for it (-EAGAIN, -EBUSY), and had nothing to
  // give: before the next turn, wait with back_off().
  bool stalled() const noexcept { return stalled_; }
  // -errno where the kernel refuses to poll, without which there is nothing to wait by; prepare() has
  // returned it.
  int refused_to_poll() const noexcept { return refused_to_poll_; }
  // -errno where the kernel has refused to be entered (-EBUSY, -EAGAIN, -EINTR, -EBADR) again and again for
  // seconds, the last time in this turn, and with nothing to reap: it will go on so, and nobody should wait for it.
  int refused_to_enter() const noexcept;
  // Sleep until something completes, `timeout_ns` (negative: no limit) or a millisecond at most.  May run
  // beside other calls, as enter().
  void back_off(std::int64_t timeout_ns) noexcept;
  // All three at once, for callers without a GIL.
  int turn(std::int64_t timeout_ns) noexcept;
  // Cancel what is on a descriptor and see it end, so that a close(2) that follows really closes.
  // Submits nothing else.  Bounded; does nothing but mark in a thread that may not take turns.
  void settle(int fd) noexcept;
  // Read what is posted, beside a turn: a turn reads kReapLimit, and who asks how much of a send is out
  // wants to know it all.
  void read_posted() noexcept;
  // send(2) what is queued to be sent, without the ring, and so in any thread: what the kernel has
  // no room for stays queued.
  void send_queued() noexcept;
  // Complete all polls in flight with -ECANCELED, and leave them to the kernel, which ends them in
  // one go when the ring closes.  (To cancel one of a hundred thousand costs it 143 us on 6.18: it
  // looks through 64 buckets.)
  void leave_polls() noexcept;

  // End the sleep of the thread in enter(); any thread, async-signal-safe.  May run beside other calls.
  void wake() noexcept;
  // True once after a wake() was seen.
  bool take_wake() noexcept;

  // Cancel everything and take turns until nothing is in flight or the time is over; the number
  // of operations still in flight.
  unsigned drain(std::int64_t timeout_ns) noexcept;
  // Close the ring.  What is still in flight completes with -ECANCELED; the buffers that the
  // kernel may yet read are counted by abandoned().  Any thread.
  void close() noexcept;
  bool is_open() const noexcept { return ring_.is_open(); }
  // True in a child forked since the ring was made: it must not be touched there.
  bool forked() const noexcept { return fork_count_ != kernel_.fork_count(kernel_.self); }

  // -- For reprs, checks and tests --
  unsigned in_flight() const noexcept { return in_flight_; }
  unsigned operations() const noexcept { return table_.used(); }
  unsigned abandoned() const noexcept { return abandoned_; }
  std::uint64_t stale_keys() const noexcept { return table_.stale_keys(); }
  const Features& features() const noexcept { return features_; }
  // IORING_SETUP_* of the ring.
  unsigned ring_flags() const noexcept { return ring_.flags(); }
  Rung rung() const noexcept { return ring_.is_open() ? ring_.rung() : features_.rung; }
  int ring_fd() const noexcept { return ring_.fd(); }
  std::int64_t now() const noexcept { return kernel_.clock(kernel_.self); }
  void sleep(std::int64_t nanoseconds) const noexcept {
    kernel_.sleep(kernel_.self, nanoseconds);
  }
  // -- For statistics: what has been done since init().  Any thread. --
  std::uint64_t enters() const noexcept { return ring_.enters(); }
  std::uint64_t submissions() const noexcept { return ring_.submissions(); }
  std::uint64_t completions() const noexcept { return ring_.completions(); }
  // How often completions have found the queue full, and how many rings were given up because the
  // kernel had dropped some.
  std::uint64_t overflows() const noexcept { return overflows_.get(); }
  std::uint64_t replaced_rings() const noexcept { return replaced_rings_.get(); }
  // How long threads have slept in enter(), the one that does so now included.
  std::int64_t blocked_ns() const noexcept {
    const std::int64_t since = asleep_since_.load(std::memory_order_relaxed);
    return static_cast<std::int64_t>(blocked_ns_.get()) + (since == 0 ? 0 : now() - since);
  }

  // The operation in a slot, or null: state kFree.
  const Operation* peek(std::uint32_t slot) const noexcept {
    return slot < table_.capacity() ? table_.at(slot) : nullptr;
  }
  std::uint32_t capacity() const noexcept { return table_.capacity(); }
  std::uint32_t first_on(int fd) const noexcept { return table_.first_on(fd); }
  std::uint32_t next_on(std::uint32_t slot) const noexcept {
    return table_.next_on(table_.at(slot));
  }
  // The watched operation that was not looked at for the longest time; it is the last one then.  kNoSlot where it
  // is neither in flight nor waiting, or there is none.
  std::uint32_t look_at_next() noexcept;
  // How many of them there are.
  unsigned watched() const noexcept { return watched_; }
  // The queue of what prepare() will submit; along Operation::next.
  std::uint32_t first_queued() const noexcept { return queued_.head; }

 private:
  std::int64_t read_clock() noexcept {
    const std::int64_t clock = now();
    clock_.store(clock, std::memory_order_relaxed);
    return clock;
  }
  std::int64_t queue(Operation* operation) noexcept;
  bool wants(const Operation* operation) const noexcept;
  std::int64_t begin_wait(Kind kind, int fd, std::uint32_t mask, unsigned flags, bool same_file) noexcept;
  std::uint32_t wanted_of(int fd, bool* once) const noexcept;
  int ask_for_readiness(int fd, Operation* fresh = nullptr, bool same_file = false) noexcept;
  void note_asked(int fd) noexcept;
  void lose_file(int fd, const Operation* but, bool unasked) noexcept;
  void collect() noexcept;
  void tell_ready(int fd, std::uint32_t events) noexcept;
  bool fill_cancels() noexcept;
  unsigned read_completions(unsigned limit) noexcept;
  bool is_to_be_kept(Operation* operation) noexcept;
  void arm(Operation* operation, io_uring_sqe* sqe) noexcept;
  bool goes_by_call(const Operation* operation) const noexcept;
  bool call(Operation* operation) noexcept;
  std::int64_t call_once(const Operation* operation) noexcept;
  void note_poll(int result) noexcept;
  void hear_wake() noexcept;
  void come_back(Operation* operation) noexcept;
  void forget_operation(Operation* operation) noexcept;
  void list_cancel(Operation* operation) noexcept;
  void queue_again(Operation* operation) noexcept;
  void complete(Operation* operation, int error, std::int64_t result) noexcept;
  // What a final CQE says of its operation.
  enum class Outcome : std::uint8_t {
    kWhole,         // of a send: everything is out
    kCancelled,     // somebody has asked for its end
    kRefused,       // of a send: the kernel does not let the ring do it
    kCannotAsk,     // of a write: its file can't be asked not to wait for room
    kInterrupted,   // ended without us: by a signal, or with the thread that had submitted it
    kNoRoom,        // of a send: to be polled for room
    kFailed,
    kOfNoInterest,  // of a poll: nothing of what it was to tell
    kReady,         // of a poll
    kRoom,          // of a send's poll: to be sent on
    kShort,         // of a send: a part is out
  };
  Outcome outcome_of(const Operation& operation, int result) const noexcept;
  void finish(Operation* operation, int result) noexcept;
  void let_wait(Operation* operation) noexcept;
  void send_on(Operation* operation) noexcept;
  void wait_in_set(Operation* operation) noexcept;
  void put_writers_behind(const Operation& reader) noexcept;
  // What an operation that does not end by itself has to tell as its result.
  static std::int64_t sent_by(const Operation& operation) noexcept {
    return owns_buffer(operation.kind) ? static_cast<std::int64_t>(operation.done) : 0;
  }
  bool is_once_too_often(Operation* operation) noexcept;
  void dispatch(const io_uring_cqe& cqe) noexcept;
  void hear(Operation* operation, const io_uring_cqe& cqe) noexcept;
  void fly_on(Operation* operation) noexcept;
  void disown(Operation* operation, int error) noexcept;
  int enter_ring(bool wait, std::int64_t timeout_ns, std::int64_t spin_ns = 0) noexcept;
  void note_enter(int result, bool waited) noexcept;
  void shut() noexcept;
  bool fill() noexcept;
  void take_back() noexcept;
  int make_ring(Rung rung, std::int64_t patience_ns, Ring* fresh) const noexcept;
  void move_to(Ring&& fresh) noexcept;
  unsigned fetch_overflowed() noexcept;
  void replace_ring() noexcept;

  Kernel kernel_;
  Features features_;
  Ring ring_;
  Readiness readiness_;
  OperationTable table_;
  OperationList queued_;
  OperationList completed_;
  OperationList watching_;
  OperationList cancels_;
  std::uint64_t bytes_prepared_ = 0;
  unsigned submission_entries_ = 0;
  unsigned completion_entries_ = 0;
  unsigned in_flight_ = 0;
  unsigned keep_polls_from_ = kManyPolls;
  unsigned keep_polls_up_to_ = kFewPolls;
  unsigned abandoned_ = 0;
  unsigned watched_ = 0;
  unsigned fork_count_ = 0;
  std::uint32_t run_ = 0;
  int thread_ = 0;  // 0: the ring was never enabled
  bool moved_ = false;
  // Of the ring: a thread is in enter(), and nobody may go in any more.
  static constexpr unsigned kInside = 1, kShut = 2;
  std::atomic<unsigned> door_{0};
  // Threads in wake(), which may run beside close(): the number is not another file's before they are out.
  std::atomic<int> wakers_{0};
  std::atomic<int> wake_fd_{-1};
  bool wake_armed_ = false;
  bool woken_ = false;
  bool readiness_armed_ = false;
  bool readiness_told_ = false;
  bool trusts_files_ = false;
  std::int64_t trusted_since_ = 0;
  // The clock as it was read last, for ages that need be true to a turn only.
  std::atomic<std::int64_t> clock_{0};
  // The same as the turn has read it to begin operations; 0: there were none.
  std::int64_t filled_at_ = 0;
  Counter overflows_, replaced_rings_, blocked_ns_;
  std::atomic<std::int64_t> asleep_since_{0};  // 0: nobody sleeps
  bool overflowed_ = false;
  unsigned prepared_ = 0;  // SQEs that the turn's enter() has to submit
  bool stalled_ = false;
  int refused_to_poll_ = 0;
  // What the turn's last enter was refused with, how many have been in a row, and since when.
  int refused_ = 0;
  unsigned refusals_ = 0;
  std::int64_t refused_since_ = 0;
  unsigned interruptions_ = 0;  // waits in a row
  // The kernel says that there is deferred work, and the last turn's enter found none.
  bool flag_is_stale_ = false;
};

// In the header: who calls them, once a message, does it without a call in between.

inline std::int64_t Proactor::sendto(int fd, const void* buffer, std::uint64_t length,
                                     const void* address, unsigned address_length) noexcept {
  std::int64_t result;
  do {
    result = kernel_.sendto(kernel_.self, fd, buffer,
                            length < kLongestSend ? length : kLongestSend,
                            MSG_DONTWAIT,
                            address_length == 0 ? nullptr : static_cast<const sockaddr*>(address),
                            address_length);
  } while (result == -EINTR);
  return result;
}

inline std::int64_t Proactor::receive_from(int fd, void* buffer, std::uint64_t size,
                                           int message_flags, sockaddr_storage* address,
                                           unsigned* address_length) noexcept {
  std::int64_t result;
  socklen_t length = sizeof(sockaddr_storage);
  // MSG_DONTWAIT: the socket may be a blocking one.
  do {
    length = sizeof(sockaddr_storage);
    result = kernel_.recvfrom(kernel_.self, fd, buffer, size, message_flags | MSG_DONTWAIT,
                              reinterpret_cast<sockaddr*>(address),
                              address == nullptr ? nullptr : &length);
  } while (result == -EINTR);
  if (address_length != nullptr) *address_length = result < 0 ? 0 : length;
  return result;
}

}  // namespace uring
