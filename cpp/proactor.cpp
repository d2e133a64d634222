#include "proactor.hpp"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

#include <cassert>
#include <new>
#include <utility>

namespace uring {
namespace {

// user_data of the proactor's own SQEs: generation 0 is never an operation's.
constexpr std::uint64_t kCancelKey = OperationTable::kReservedSlot;
constexpr std::uint64_t kWakeKey = OperationTable::kReservedSlot + 1;
constexpr std::uint64_t kReadinessKey = OperationTable::kReservedSlot + 2;

// The most that sendfile(2) and write(2) move in one call.
constexpr std::uint64_t kLongestTransfer = 0x7ffff000;
// A kernel that ends an operation this often without a reason and without progress is broken.
constexpr std::uint16_t kRetryLimit = 100;
// A write without RWF_NOWAIT is made after finding no room so often where poll(2) says that there is.
// Two writers of a pipe come to that by chance, a file that is always ready by its nature.
constexpr std::uint16_t kNowaitTries = 8;
// Enters that settle() spends on one descriptor: one cancels and sees it end, the rest is reserve.
constexpr int kSettleTurns = 8;
// What an enter runs of the deferred work without being asked for more (Linux 6.13).
constexpr unsigned kUnasked = 20;
// More than any ring has in flight.
constexpr unsigned kAllCompletions = 1u << 30;
// How long close() waits for another thread to come out of enter(), which a wake() ends at once.
constexpr std::int64_t kExitPatience = 5000000000;
constexpr std::int64_t kExitPause = 20000;
// How long a turn waits, at most, for a kernel that takes no submissions.
constexpr std::int64_t kBackOff = 1000000;
// A kernel that has refused so many enters in a row, for so long, will go on doing so.  (It says -EBUSY while
// completions are to be read first, -EAGAIN without the memory for a request: a moment, if that.)
constexpr unsigned kMostRefusals = 100;
constexpr std::int64_t kRefusalPatience = 2000000000;
// Waits in a row that end by a signal, before it is asked whether there was one.
constexpr unsigned kMostInterruptions = 100;
// What epoll(7) tells of unasked.
constexpr std::uint32_t kAlways = POLLERR | POLLHUP;
// Enters without effect (-EAGAIN) after which reap() leaves what overflowed to the next turn.
constexpr int kOverflowTries = 8;

// What enter() makes of what the ring's enter() says.
int harmless_as_0(int result) noexcept {
  if (result >= 0 || result == -ETIME || result == -EBUSY || result == -EAGAIN || result == -EBADR)
    return 0;
  return result;
}

bool again_later(int error) noexcept {
  return is_passing(error) || error == -ETIME;
}

}  // namespace

Proactor::Proactor(const Kernel& kernel) noexcept
    : kernel_(kernel), ring_(kernel_), readiness_(kernel_) {}

Proactor::~Proactor() {
  close();
  if (abandoned_ != 0) table_.abandon_addresses();
}

int Proactor::init(const Features& features, unsigned submission_entries,
                   unsigned completion_entries, std::int64_t patience_ns) noexcept {
  features_ = features;
  submission_entries_ = submission_entries;
  completion_entries_ = completion_entries;
  fork_count_ = kernel_.fork_count(kernel_.self);
  thread_ = 0;
  moved_ = false;
  refused_to_poll_ = 0;
  refused_ = 0;
  refusals_ = interruptions_ = 0;
  door_ = 0;
  int error = ring_.init(features_, submission_entries_, completion_entries_, patience_ns);
  if (error < 0) return error;
  error = readiness_.init();
  const int fd = error < 0 ? error : kernel_.eventfd(kernel_.self, 0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) {
    readiness_.close();
    ring_.close();
    return fd;
  }
  wake_fd_ = fd;
  wake_armed_ = readiness_armed_ = readiness_told_ = false;
  return 0;
}

bool Proactor::bound_here() const noexcept {
  if (!ring_.is_open() || forked() || thread_ == 0 || occupied() || refused_to_poll_ != 0) return false;
  return !ring_.single_issuer() || thread_ == kernel_.thread_id(kernel_.self);
}

int Proactor::bind_thread(bool force, std::int64_t patience_ns) noexcept {
  if (!ring_.is_open()) return -EBADF;
  if (forked()) return -EOWNERDEAD;
  const int thread = kernel_.thread_id(kernel_.self);
  if (thread == thread_ && !force) return 0;
  if (occupied()) return -EBUSY;
  int error = 0;
  if (thread_ == 0) {
    error = ring_.enable();
  } else if (ring_.single_issuer()) {
    Ring fresh(kernel_);
    error = make_ring(moved_ ? Rung::kCoopTaskrun : features_.rung, patience_ns, &fresh);
    if (error >= 0) {
      move_to(std::move(fresh));
      moved_ = true;
    }
  }
  if (error < 0) return error;
  thread_ = thread;
  ++run_;
  return 0;
}

int Proactor::make_ring(Rung rung, std::int64_t patience_ns, Ring* fresh) const noexcept {
  Features features = features_;
  features.rung = rung;
  const int error = fresh->init(features, submission_entries_, completion_entries_, patience_ns);
  return error < 0 ? error : fresh->enable();
}

void Proactor::move_to(Ring&& fresh) noexcept {
  io_uring_cqe cqe;
  while (ring_.pop(&cqe)) dispatch(cqe);
  const bool dropped = ring_.dropped();
  ring_ = std::move(fresh);
  wake_armed_ = readiness_armed_ = false;
  for (std::uint32_t slot = 0; slot < table_.capacity(); ++slot) {
    Operation* operation = table_.at(slot);
    operation->flags &= static_cast<std::uint16_t>(~kLive);
    if (operation->state != State::kInFlight) continue;
    const bool sending = owns_buffer(operation->kind) && !(operation->flags & kPolling);
    if (operation->flags & kCancelWanted) {
      disown(operation, -ECANCELED);
    } else if (sending && dropped) {
      disown(operation, -EBADR);
    } else {
      come_back(operation);
      queue_again(operation);
    }
  }
}

// -- starting --

std::int64_t Proactor::queue(Operation* operation) noexcept {
  if (operation == nullptr) return -ENOMEM;
  table_.push(&queued_, operation);
  return static_cast<std::int64_t>(operation->key());
}

std::int64_t Proactor::start_poll(Kind kind, int fd, std::uint32_t mask) noexcept {
  if (fd < 0) return -EBADF;
  Operation* operation = table_.allocate(kind, fd);
  if (operation != nullptr) operation->poll_mask = static_cast<std::uint16_t>(mask);
  return queue(operation);
}

std::int64_t Proactor::start_multishot(Kind kind, int fd, std::uint32_t mask) noexcept {
  const std::int64_t key = start_poll(kind, fd, mask);
  if (key > 0) table_.find(static_cast<std::uint64_t>(key))->flags |= kMultishot;
  return key;
}

std::int64_t Proactor::start_wait(Kind kind, int fd, std::uint32_t mask, bool repeated) noexcept {
  return begin_wait(kind, fd, mask, repeated ? kRepeated : 0, false);
}

std::int64_t Proactor::start_lingering_wait(Kind kind, int fd, std::uint32_t mask,
                                            bool same_file) noexcept {
  return begin_wait(kind, fd, mask, kLingers, same_file);
}

std::int64_t Proactor::begin_wait(Kind kind, int fd, std::uint32_t mask, unsigned flags,
                                  bool same_file) noexcept {
  if (fd < 0 || !ring_.is_open()) return -EBADF;
  Operation* operation = table_.allocate(kind, fd);
  if (operation == nullptr) return -ENOMEM;
  operation->poll_mask = static_cast<std::uint16_t>(mask);
  operation->flags |= static_cast<std::uint16_t>(kByReadiness | flags);
  operation->state = State::kWaiting;
  operation->started_ns = read_clock();
  const int error = ask_for_readiness(fd, operation, same_file);
  if (error < 0) {
    come_back(operation);
    operation->state = State::kTaken;
    table_.release(operation);
    return error;
  }
  return static_cast<std::int64_t>(operation->key());
}

std::int64_t Proactor::start_send(int fd, const void* buffer, std::uint64_t length,
                                  std::uint32_t message_flags, std::uint64_t done) noexcept {
  if (fd < 0) return -EBADF;
  Operation* operation = table_.allocate(Kind::kSend, fd);
  if (operation != nullptr) {
    operation->done = done;
    operation->buffer = buffer;
    operation->length = length;
    operation->message_flags = message_flags;
  }
  return queue(operation);
}

std::int64_t Proactor::start_sendto(int fd, const void* buffer, std::uint64_t length,
                                    std::uint32_t message_flags, const void* address,
                                    unsigned address_length) noexcept {
  if (fd < 0) return -EBADF;
  if (address_length > sizeof(sockaddr_storage)) return -EINVAL;
  Operation* operation = table_.allocate(Kind::kSendTo, fd);
  if (operation == nullptr) return -ENOMEM;
  AddressBlock* block = table_.allocate_address(operation);
  if (block == nullptr) {
    operation->state = State::kTaken;
    table_.release(operation);
    return -ENOMEM;
  }
  operation->buffer = buffer;
  operation->length = length;
  operation->message_flags = message_flags;
  memset(&block->message, 0, sizeof(block->message));
  // Without an address, of a connected socket, it is null, which memcpy must not see.
  if (address_length != 0) memcpy(&block->address, address, address_length);
  block->message.msg_name = &block->address;
  block->message.msg_namelen = address_length;
  block->message.msg_iov = &block->vector;
  block->message.msg_iovlen = 1;
  return queue(operation);
}

std::int64_t Proactor::start_write(int fd, const void* buffer, std::uint64_t length) noexcept {
  if (fd < 0) return -EBADF;
  Operation* operation = table_.allocate(Kind::kWrite, fd);
  if (operation != nullptr) {
    operation->buffer = buffer;
    operation->length = length;
  }
  return queue(operation);
}

std::int64_t Proactor::start_sendfile(int socket, int file, std::int64_t offset,
                                      std::uint64_t count) noexcept {
  if (socket < 0 || file < 0) return -EBADF;
  Operation* operation = table_.allocate(Kind::kSendfile, socket);
  if (operation != nullptr) {
    operation->poll_mask = POLLOUT;
    operation->file = file;
    operation->offset = offset;
    operation->length = count;
  }
  return queue(operation);
}

void Proactor::extend(std::uint64_t key, const void* buffer, std::uint64_t length) noexcept {
  Operation* operation = table_.find(key);
  if (operation == nullptr || operation->state != State::kQueued) return;
  assert(owns_buffer(operation->kind) && operation->kind != Kind::kSendTo);
  assert(length >= operation->length);
  operation->buffer = buffer;
  operation->length = length;
}

void Proactor::watch(std::uint64_t key) noexcept {
  Operation* operation = table_.find(key);
  if (operation == nullptr || (operation->flags & kWatched)) return;
  operation->flags |= kWatched;
  table_.push_watched(&watching_, operation);
  ++watched_;
}

// -- readiness --

std::uint32_t Proactor::look_at_next() noexcept {
  if (watching_.empty()) return kNoSlot;
  Operation* operation = table_.at(watching_.head);
  table_.unlink_watched(&watching_, operation);
  table_.push_watched(&watching_, operation);
  const bool flies = operation->state == State::kInFlight || operation->state == State::kWaiting;
  return flies ? operation->slot : kNoSlot;
}

// Does it want to be told of its descriptor's readiness?  A repeated one also while it is told.
bool Proactor::wants(const Operation* operation) const noexcept {
  if (!(operation->flags & kByReadiness)) return false;
  if (operation->state == State::kWaiting) return true;
  return (operation->flags & kRepeated) && !(operation->flags & kCancelWanted) &&
         (operation->state == State::kCompleted || operation->state == State::kTaken);
}

std::uint32_t Proactor::wanted_of(int fd, bool* once) const noexcept {
  std::uint32_t events = 0;
  *once = true;
  for (std::uint32_t slot = table_.first_on(fd); slot != kNoSlot;
       slot = table_.next_on(table_.at(slot))) {
    const Operation* operation = table_.at(slot);
    if (!wants(operation)) continue;
    events |= operation->poll_mask;
    if (operation->flags & (kRepeated | kLingers)) *once = false;
  }
  return events;
}

// Tell the set what its operations want of a descriptor.  `fresh` is of the file that has the
// number now; when that is not the one in the set, all others that have asked have lost theirs.
int Proactor::ask_for_readiness(int fd, Operation* fresh, bool same_file) noexcept {
  if (forked()) return -EOWNERDEAD;
  bool once = true;
  std::uint32_t events = wanted_of(fd, &once);
  if (events == 0) {
    readiness_.drop(fd);
    return 0;
  }
  if (same_file && readiness_.covers(fd, events)) {
    readiness_.note_unasked(fd);
    fresh->flags |= kOnTrust;
    if (!trusts_files_) trusted_since_ = fresh->started_ns;
    trusts_files_ = true;
    return 0;
  }
  if (readiness_.has(fd)) {
    const bool unasked = readiness_.is_unasked(fd);
    const int error = readiness_.change(fd, events, once);
    if (error == 0 && unasked) note_asked(fd);
    if (error != -ENOENT) return error;
    // Who has not asked has meant the file that has the number now.
    lose_file(fd, fresh, false);
    events = wanted_of(fd, &once);
    if (events == 0) return -EBADF;
  }
  const int error = readiness_.add(fd, events, once);
  if (error == 0)
    note_asked(fd);
  else
    lose_file(fd, fresh, true);
  return error;
}

void Proactor::note_asked(int fd) noexcept {
  for (std::uint32_t slot = table_.first_on(fd); slot != kNoSlot;
       slot = table_.next_on(table_.at(slot)))
    table_.at(slot)->flags &= static_cast<std::uint16_t>(~kOnTrust);
}

void Proactor::check_files() noexcept {
  trusts_files_ = false;
  if (forked()) return;
  for (int fd = readiness_.next_unasked(0); fd >= 0; fd = readiness_.next_unasked(fd + 1)) {
    // (Of one that was told just now as well: a file that lives on in a duplicate tells of what another one
    // has not, and who looks there in vain, and waits again, is told again.)
    if (readiness_.ask_again(fd) != -ENOENT) {
      note_asked(fd);
      continue;
    }
    // Who waits has waited for the file that has the number now.
    ask_for_readiness(fd);
  }
}

void Proactor::lose_file(int fd, const Operation* but, bool unasked) noexcept {
  for (std::uint32_t slot = table_.first_on(fd); slot != kNoSlot;
       slot = table_.next_on(table_.at(slot))) {
    Operation* operation = table_.at(slot);
    if (operation == but || !wants(operation)) continue;
    if (!unasked && (operation->flags & kOnTrust)) continue;
    operation->flags |= kCancelWanted;
    operation->cancel_error = -EBADF;
    if (operation->state != State::kWaiting) continue;
    come_back(operation);
    complete(operation, -EBADF, sent_by(*operation));
  }
}

void Proactor::forget(int fd) noexcept {
  if (!readiness_.has(fd) || forked()) return;
  for (std::uint32_t slot = table_.first_on(fd); slot != kNoSlot;
       slot = table_.next_on(table_.at(slot)))
    if (wants(table_.at(slot))) return;
  readiness_.drop(fd);
}

// The readers of a descriptor come before its writers, as on a selector, and the older before the
// younger.
void Proactor::tell_ready(int fd, std::uint32_t events) noexcept {
  std::uint32_t heard = 0;
  bool left = false;
  for (const bool reading : {true, false}) {
    std::uint32_t slot = table_.oldest_on(fd);
    while (slot != kNoSlot) {
      Operation* operation = table_.at(slot);
      slot = table_.younger_on(operation);
      if (((operation->poll_mask & POLLIN) != 0) != reading) continue;
      if (wants(operation)) heard |= operation->poll_mask | kAlways;
      if (operation->state != State::kWaiting) continue;
      const std::uint32_t holds = events & (operation->poll_mask | kAlways);
      if (holds == 0) {
        left = true;
        continue;
      }
      come_back(operation);
      if (operation->flags & kPolling)
        send_on(operation);
      else
        complete(operation, 0, holds);
    }
  }
  // A single interest is told once, to all who shared it; who has heard nothing wants it again.
  if (!readiness_.is_armed(fd)) {
    if (left) ask_for_readiness(fd);
  } else if ((events & ~heard) != 0) {
    // Of what nobody wants the set would go on telling.
    bool once;
    if (wanted_of(fd, &once) != 0)
      ask_for_readiness(fd);
    else
      readiness_.rest(fd);
  }
}

void Proactor::collect() noexcept {
  Readiness::Event events[Readiness::kBatch];
  const int count = readiness_.collect(events, Readiness::kBatch);
  for (int index = 0; index < count; ++index) tell_ready(events[index].fd, events[index].events);
}

// -- cancelling --

void Proactor::cancel(std::uint64_t key, int error) noexcept {
  Operation* operation = table_.find(key);
  if (operation == nullptr) return;
  if (operation->state == State::kCompleted && (operation->flags & kLive)) {
    // What it has told interests nobody any more.
    table_.unlink(&completed_, operation);
    fly_on(operation);
  }
  const bool repeated = (operation->flags & kRepeated) != 0;
  if (operation->state == State::kFree || (operation->state == State::kCompleted && !repeated))
    return;
  if (!(operation->flags & kCancelWanted)) {
    operation->flags |= kCancelWanted;
    operation->cancel_error = error;
  }
  if (operation->state == State::kWaiting) {
    come_back(operation);
    complete(operation, operation->cancel_error, sent_by(*operation));
  }
  // What is left of a single interest is told to nobody, once.
  if (repeated) ask_for_readiness(operation->fd);
  if (operation->state == State::kQueued) {
    table_.unlink(&queued_, operation);
    // What was out before a short send was queued again is told.
    complete(operation, operation->cancel_error, static_cast<std::int64_t>(operation->done));
  } else if (operation->state == State::kInFlight &&
             !(operation->flags & (kCancelListed | kCancelArmed))) {
    list_cancel(operation);
  }
}

void Proactor::list_cancel(Operation* operation) noexcept {
  operation->flags |= kCancelListed;
  table_.push_cancel(&cancels_, operation);
}

void Proactor::cancel_fd(int fd, int error) noexcept {
  std::uint32_t slot = fd < 0 ? kNoSlot : table_.first_on(fd);
  while (slot != kNoSlot) {
    Operation* operation = table_.at(slot);
    slot = table_.next_on(operation);
    cancel(operation->key(), error);
  }
}

void Proactor::cancel_all() noexcept {
  if (table_.used() == 0) return;
  for (std::uint32_t slot = 0; slot < table_.capacity(); ++slot) {
    Operation* operation = table_.at(slot);
    if (operation->state == State::kQueued || operation->state == State::kInFlight ||
        operation->state == State::kWaiting || (operation->flags & kLive))
      cancel(operation->key());
  }
}

std::int64_t Proactor::send_now(int fd, const void* buffer, std::uint64_t length,
                                std::uint32_t message_flags) noexcept {
  if (fd < 0) return -EBADF;
  if (length < kSendNow) return 0;
  for (std::uint32_t slot = table_.first_on(fd); slot != kNoSlot;
       slot = table_.next_on(table_.at(slot))) {
    const Operation* other = table_.at(slot);
    const bool over = other->state == State::kCompleted || other->state == State::kTaken;
    if (owns_buffer(other->kind) && !over) return 0;
  }
  const std::int64_t result =
      kernel_.sendto(kernel_.self, fd, buffer, length < kLongestSend ? length : kLongestSend,
                     static_cast<int>(message_flags) | MSG_DONTWAIT, nullptr, 0);
  return result == -EAGAIN || result == -EINTR ? 0 : result;
}

// -- the work of a ready operation --

std::int64_t Proactor::read(int fd, void* buffer, std::uint64_t size) noexcept {
  // A blocking pipe that somebody else was faster on would hold up the whole loop.
  const int events = kernel_.poll(kernel_.self, fd, POLLIN);
  if (events == 0) return -EAGAIN;
  std::int64_t result;
  do {
    result = kernel_.read(kernel_.self, fd, buffer, size);
  } while (result == -EINTR);
  return result;
}

std::int64_t Proactor::send_file(std::uint64_t key) noexcept {
  Operation* operation = table_.find(key);
  if (operation == nullptr) return -EBADF;
  const std::uint64_t left = operation->length - operation->done;
  std::int64_t result = left == 0 ? 0
                                  : kernel_.sendfile(
                                        kernel_.self, operation->fd, operation->file,
                                        operation->offset + static_cast<std::int64_t>(
                                                                operation->done),
                                        left < kLongestTransfer ? left : kLongestTransfer);
  if (result == -EINTR) return -EAGAIN;
  if (result < 0) return result;
  operation->done += static_cast<std::uint64_t>(result);
  if (result > 0) operation->retries = 0;
  // Nothing sent: the file ends before `length`.
  if (result == 0 || operation->done == operation->length)
    return static_cast<std::int64_t>(operation->done);
  return -EAGAIN;
}

// -- completions --

void Proactor::complete(Operation* operation, int error, std::int64_t result) noexcept {
  if (operation->flags & kDropped) {
    operation->state = State::kTaken;
    forget_operation(operation);
    return;
  }
  operation->error = error;
  operation->result = result;
  operation->state = State::kCompleted;
  table_.push(&completed_, operation);
  const bool alone = operation->fd_next == kNoSlot && operation->fd_previous == kNoSlot;
  if ((operation->poll_mask & POLLIN) && !alone) put_writers_behind(*operation);
}

// As on a selector, and as in tell_ready(): the readers of a descriptor come before its writers.
void Proactor::put_writers_behind(const Operation& reader) noexcept {
  for (std::uint32_t slot = table_.oldest_on(reader.fd); slot != kNoSlot;
       slot = table_.younger_on(table_.at(slot))) {
    Operation* other = table_.at(slot);
    const bool writes = !owns_buffer(other->kind) && (other->poll_mask & (POLLIN | POLLOUT)) == POLLOUT;
    if (other->state != State::kCompleted || !writes) continue;
    table_.unlink(&completed_, other);
    table_.push(&completed_, other);
  }
}

// Out of flight, or out of the readiness set: every operation that was there comes through here, and has
// no cancel to wait for.
void Proactor::come_back(Operation* operation) noexcept {
  assert(operation->state == State::kInFlight || operation->state == State::kWaiting);
  if (operation->state == State::kWaiting) {
    if (operation->flags & kGuest) operation->flags ^= kGuest | kByReadiness;
    return;
  }
  --in_flight_;
  if (operation->flags & kCancelListed) table_.unlink_cancel(&cancels_, operation);
  operation->flags &= static_cast<std::uint16_t>(~(kCancelListed | kCancelArmed));
}

void Proactor::queue_again(Operation* operation) noexcept {
  operation->state = State::kQueued;
  table_.push(&queued_, operation);
}

inline Proactor::Outcome Proactor::outcome_of(const Operation& operation, int result) const noexcept {
  const bool sending = owns_buffer(operation.kind);
  const bool polled = !sending || (operation.flags & kPolling);
  if (!polled && result >= 0 && operation.done >= operation.length) return Outcome::kWhole;
  if (operation.flags & kCancelWanted) return Outcome::kCancelled;
  if (!polled && is_refusal(result) && !(operation.flags & kByCall)) return Outcome::kRefused;
  if (result == -EOPNOTSUPP && operation.kind == Kind::kWrite && !(operation.flags & kMayWait))
    return Outcome::kCannotAsk;
  if (result == -EINTR || result == -ECANCELED || (result == -EFAULT && operation.run != run_))
    return Outcome::kInterrupted;
  if (!polled && (result == -EAGAIN || result == 0)) return Outcome::kNoRoom;
  if (result < 0) return Outcome::kFailed;
  const std::uint32_t asked = (sending ? POLLOUT : operation.poll_mask) | kAlways | POLLNVAL;
  if (polled && result > 0 && !(static_cast<std::uint32_t>(result) & asked)) return Outcome::kOfNoInterest;
  if (!sending) return Outcome::kReady;
  return polled ? Outcome::kRoom : Outcome::kShort;
}

// The final CQE of an operation in flight.
void Proactor::finish(Operation* operation, int result) noexcept {
  come_back(operation);
  const bool sending = owns_buffer(operation->kind);
  if (sending && !(operation->flags & kPolling) && result > 0) {
    operation->done += static_cast<std::uint64_t>(result);
    operation->retries = 0;
  }
  const std::int64_t done = static_cast<std::int64_t>(operation->done);

  switch (outcome_of(*operation, result)) {
    case Outcome::kWhole:
      return complete(operation, 0, done);
    case Outcome::kCancelled:
      return complete(operation, operation->cancel_error, sent_by(*operation));
    case Outcome::kRefused:
      // What comes of the call is the answer, whatever it is (a network's own EPERM comes again).
      operation->flags |= kByCall;
      return queue_again(operation);
    case Outcome::kCannotAsk:
      return let_wait(operation);
    case Outcome::kNoRoom:
      if (operation->kind == Kind::kWrite && !(operation->flags & kMayWait) && result != 0 &&
          ++operation->retries > kNowaitTries)
        return let_wait(operation);
      // -EAGAIN is a reason, however often it comes: a Unix datagram socket that is not connected
      // polls as writable whatever room its peer has.
      if (result == 0 && is_once_too_often(operation)) return complete(operation, -EAGAIN, done);
      operation->flags |= kPolling;
      return queue_again(operation);
    case Outcome::kInterrupted:
      if (is_once_too_often(operation)) return complete(operation, result, done);
      return queue_again(operation);
    case Outcome::kFailed:
      return complete(operation, result, done);
    case Outcome::kOfNoInterest:
      return wait_in_set(operation);
    case Outcome::kRoom:
      return send_on(operation);
    case Outcome::kShort:
      // There is no room for the rest now.
      operation->flags |= kPolling;
      return queue_again(operation);
    case Outcome::kReady:
      // A reader's poll is armed again and again for as long as there is the reader.
      operation->retries = 0;
      return complete(operation, 0, result);
  }
}

void Proactor::let_wait(Operation* operation) noexcept {
  operation->flags |= kMayWait;
  operation->retries = 0;
  queue_again(operation);
}

// There is room.
void Proactor::send_on(Operation* operation) noexcept {
  operation->flags &= static_cast<std::uint16_t>(~kPolling);
  queue_again(operation);
}

// The ring would tell the same at once, again and again: a POLL_ADD is told whenever the peer has ended its side
// (POLLRDHUP), asked or not.  epoll(7) tells of that only who asks.
void Proactor::wait_in_set(Operation* operation) noexcept {
  operation->flags |= kByReadiness | kGuest;
  if (operation->flags & kPolling) operation->poll_mask = POLLOUT;
  operation->state = State::kWaiting;
  const int error = ask_for_readiness(operation->fd, operation);
  if (error >= 0) return;
  come_back(operation);
  if (error == -EBADF) return complete(operation, error, sent_by(*operation));
  // There is no room in the set (-ENOSPC, -ENOMEM; epoll_ctl(2)): rather round and round than not at all.
  queue_again(operation);
}

bool Proactor::is_once_too_often(Operation* operation) noexcept {
  // The end of a thread is a reason to try again: of those there may be many before a poll has something to tell.
  return operation->run == run_ && ++operation->retries > kRetryLimit;
}

void Proactor::hear_wake() noexcept {
  std::uint64_t count;
  if (kernel_.read(kernel_.self, wake_fd_, &count, sizeof(count)) > 0) woken_ = true;
}

// Of our own polls.  To arm one again that is refused would end its turn at once, for ever.
void Proactor::note_poll(int result) noexcept {
  if (is_refusal(result)) refused_to_poll_ = result;
}

void Proactor::dispatch(const io_uring_cqe& cqe) noexcept {
  if (cqe.user_data == kCancelKey) return;  // 0, -ENOENT and -EALREADY alike: the target's CQE counts
  if (cqe.user_data == kWakeKey) {
    hear_wake();
    wake_armed_ = (cqe.flags & IORING_CQE_F_MORE) != 0;
    woken_ = true;
    note_poll(cqe.res);
    return;
  }
  if (cqe.user_data == kReadinessKey) {
    readiness_armed_ = (cqe.flags & IORING_CQE_F_MORE) != 0;
    readiness_told_ = true;
    note_poll(cqe.res);
    return;
  }
  Operation* operation = table_.find(cqe.user_data);
  if (operation == nullptr) return;
  if (operation->flags & kMultishot) return hear(operation, cqe);
  if (operation->state != State::kInFlight) return;
  // F_MORE: the kernel is not done with it, whatever the result says.
  if (cqe.flags & IORING_CQE_F_MORE) return;
  finish(operation, cqe.res);
}

void Proactor::hear(Operation* operation, const io_uring_cqe& cqe) noexcept {
  const bool more = (cqe.flags & IORING_CQE_F_MORE) != 0;
  const bool tells = more && cqe.res > 0 && !(operation->flags & kCancelWanted);
  if (operation->state == State::kInFlight) {
    if (!more) return finish(operation, cqe.res);
    if (!tells) return;
    come_back(operation);
    operation->flags |= kLive;
    operation->retries = 0;
    complete(operation, 0, cqe.res);
  } else if (operation->flags & kLive) {
    // Whoever is told of the first finds what has come since.
    if (tells)
      operation->result |= cqe.res;
    else if (!more)
      operation->flags &= static_cast<std::uint16_t>(~kLive);
  }
}

// A poll that has told something: the kernel has it still.
void Proactor::fly_on(Operation* operation) noexcept {
  operation->flags &= static_cast<std::uint16_t>(~kLive);
  operation->started_ns = clock_.load(std::memory_order_relaxed);
  operation->state = State::kInFlight;
  ++in_flight_;
}

// The ring went away before the final CQE came.
void Proactor::disown(Operation* operation, int error) noexcept {
  come_back(operation);
  if (operation->flags & kCancelWanted) error = operation->cancel_error;
  // A poll reads no memory of ours.  The end of a send is the kernel's affair now.
  // A child never had anything in the kernel.
  if (owns_buffer(operation->kind) && !(operation->flags & kPolling) && !forked()) {
    ++abandoned_;
    operation->flags |= kAbandoned;
  }
  complete(operation, error, static_cast<std::int64_t>(operation->done));
}

bool Proactor::next(Completion* completion) noexcept {
  Operation* operation = table_.pop(&completed_);
  if (operation == nullptr) return false;
  operation->state = State::kTaken;
  completion->key = operation->key();
  completion->kind = operation->kind;
  completion->error = operation->error;
  completion->result = operation->result;
  completion->abandoned = (operation->flags & kAbandoned) != 0;
  completion->kept = (operation->flags & kLive) != 0;
  return true;
}

bool Proactor::take(std::uint64_t key) noexcept {
  Operation* operation = table_.find(key);
  if (operation == nullptr || operation->state != State::kCompleted) return false;
  table_.unlink(&completed_, operation);
  operation->state = State::kTaken;
  return true;
}

int Proactor::again(std::uint64_t key, bool in_bulk) noexcept {
  Operation* operation = table_.find(key);
  if (operation == nullptr || operation->state != State::kTaken) return -EBADF;
  if (operation->flags & kCancelWanted) return operation->cancel_error;
  if (!ring_.is_open()) return -ECANCELED;
  if (operation->flags & kLive) {
    fly_on(operation);
    return 0;
  }
  if (!(operation->flags & kByReadiness)) {
    operation->started_ns = 0;
    if (in_bulk) operation->armed = 0;
    queue_again(operation);
    return 0;
  }
  operation->started_ns = clock_.load(std::memory_order_relaxed);
  operation->state = State::kWaiting;
  // Whether the number is still its own, who calls has asked.
  const int error =
      (operation->flags & kRepeated) ? 0 : ask_for_readiness(operation->fd, operation);
  if (error < 0) {
    come_back(operation);
    operation->state = State::kTaken;
  }
  return error;
}

void Proactor::release(std::uint64_t key) noexcept {
  Operation* operation = table_.find(key);
  if (operation == nullptr || operation->state != State::kTaken) return;
  if ((operation->flags & kLive) && !forked()) {
    operation->flags |= kDropped;
    fly_on(operation);
    cancel(key);
    return;
  }
  if (operation->file >= 0) kernel_.close(kernel_.self, operation->file);
  // The kernel may still read the message header of what was abandoned.
  if (operation->flags & kAbandoned) operation->address = nullptr;
  forget_operation(operation);
}

// Back to the table, and off the list of what is looked at.
void Proactor::forget_operation(Operation* operation) noexcept {
  if (operation->flags & kWatched) {
    table_.unlink_watched(&watching_, operation);
    --watched_;
  }
  table_.release(operation);
}

// -- a turn --

inline bool Proactor::is_to_be_kept(Operation* operation) noexcept {
  // Of a ring that several threads may enter: what a poll tells would go on coming to the thread that has armed it.
  if (!(operation->flags & kMultishot) || !ring_.single_issuer()) return false;
  if (keep_polls_from_ == 0) return true;
  if (operation->armed < kKeptAfter) {
    ++operation->armed;
    return false;
  }
  return in_flight_ >= keep_polls_from_ || table_.used() <= keep_polls_up_to_;
}

inline void Proactor::arm(Operation* operation, io_uring_sqe* sqe) noexcept {
  const char* rest = static_cast<const char*>(operation->buffer) + operation->done;
  std::uint64_t left = operation->length - operation->done;
  if (left > kLongestSend) left = kLongestSend;
  // The kernel's own wait for room must not be used.  A datagram: sendmsg(2) on a Unix socket whose
  // peer's queue is full has eaten the message by the time it says -EAGAIN, and what the kernel
  // then sends is an empty one.  A stream: the wait may end in a worker thread, where a cancel
  // does not reach it.  (Both seen on 6.18.)  A POLL_ADD of ours can always be cancelled.
  // A write is the same, where its file knows RWF_NOWAIT: a pipe(2) since Linux 6.4.  A FIFO and a
  // terminal do not, regular files and eventfds say -EAGAIN to it for ever: those are left to wait.
  const std::uint32_t message_flags = operation->message_flags | MSG_DONTWAIT;
  if (operation->flags & kPolling) {
    io_uring_prep_poll_add(sqe, operation->fd, POLLOUT);
  } else {
    switch (operation->kind) {
      case Kind::kSend:
        io_uring_prep_send(sqe, operation->fd, rest, left, static_cast<int>(message_flags));
        break;
      case Kind::kSendTo:
        operation->address->vector.iov_base = const_cast<char*>(rest);
        operation->address->vector.iov_len = left;
        io_uring_prep_sendmsg(sqe, operation->fd, &operation->address->message, message_flags);
        break;
      case Kind::kWrite:
        // Offset -1: at the file position, or, of a pipe, where there is none.
        io_uring_prep_write(sqe, operation->fd, rest, static_cast<unsigned>(left),
                            static_cast<std::uint64_t>(-1));
        if (!(operation->flags & kMayWait)) sqe->rw_flags = RWF_NOWAIT;
        break;
      default:
        if (is_to_be_kept(operation))
          io_uring_prep_poll_multishot(sqe, operation->fd, operation->poll_mask);
        else
          io_uring_prep_poll_add(sqe, operation->fd, operation->poll_mask);
        break;
    }
    if (owns_buffer(operation->kind)) bytes_prepared_ += left;
  }
  sqe->user_data = operation->key();
  operation->run = run_;
  operation->state = State::kInFlight;
  ++in_flight_;
}

// Is it done by a system call, and not by the ring?
inline bool Proactor::goes_by_call(const Operation* operation) const noexcept {
  if (!owns_buffer(operation->kind) || (operation->flags & kPolling)) return false;
  if (operation->flags & kByCall) return true;
  switch (operation->kind) {
    case Kind::kSend: return (features_.refused & kNoSend) != 0;
    case Kind::kSendTo: return (features_.refused & kNoSendmsg) != 0;
    default: return (features_.refused & kNoWrite) != 0;
  }
}

inline std::int64_t Proactor::call_once(const Operation* operation) noexcept {
  const char* rest = static_cast<const char*>(operation->buffer) + operation->done;
  const std::uint64_t left = operation->length - operation->done;
  if (operation->kind == Kind::kWrite) {
    // Not more than a pipe that polls as writable has room for, whatever flags it has.
    if (kernel_.poll(kernel_.self, operation->fd, POLLOUT) == 0) return -EAGAIN;
    return kernel_.write(kernel_.self, operation->fd, rest, left < PIPE_BUF ? left : PIPE_BUF);
  }
  const msghdr* message = operation->address == nullptr ? nullptr : &operation->address->message;
  const bool addressed = message != nullptr && message->msg_namelen != 0;
  return kernel_.sendto(kernel_.self, operation->fd, rest, left < kLongestSend ? left : kLongestSend,
                        static_cast<int>(operation->message_flags) | MSG_DONTWAIT,
                        addressed ? static_cast<const sockaddr*>(message->msg_name) : nullptr,
                        addressed ? message->msg_namelen : 0);
}

// Do a queued operation; false when there is no room for all of it: a poll is to wait for more.
inline bool Proactor::call(Operation* operation) noexcept {
  std::int64_t result;
  do {
    result = call_once(operation);
    if (result > 0) operation->done += static_cast<std::uint64_t>(result);
  } while (result == -EINTR || (result > 0 && operation->done < operation->length));
  // (Nothing is sent of what has no length, and that is all of it.)
  const bool whole = result >= 0 && operation->done >= operation->length;
  if (!whole && (result == -EAGAIN || result == 0)) {
    operation->flags |= kPolling;
    return false;
  }
  table_.unlink(&queued_, operation);
  complete(operation, whole ? 0 : static_cast<int>(result), static_cast<std::int64_t>(operation->done));
  return true;
}

// The cancels among what fill() writes.
bool Proactor::fill_cancels() noexcept {
  while (!cancels_.empty()) {
    io_uring_sqe* sqe = ring_.get_sqe();
    if (sqe == nullptr) return false;
    Operation* operation = table_.at(cancels_.head);
    table_.unlink_cancel(&cancels_, operation);
    operation->flags ^= kCancelListed | kCancelArmed;
    // The only requests that can wait, and so be cancelled, are polls.
    if (features_.refused & kNoCancel)
      io_uring_prep_poll_remove(sqe, operation->key());
    else
      io_uring_prep_cancel64(sqe, operation->key(), 0);
    sqe->user_data = kCancelKey;
  }
  return true;
}

// Write SQEs until the SQ is full (false) or nothing is left to write.
inline bool Proactor::fill() noexcept {
  if (!fill_cancels()) return false;
  if (!readiness_armed_) {
    io_uring_sqe* sqe = ring_.get_sqe();
    if (sqe == nullptr) return false;
    io_uring_prep_poll_add(sqe, readiness_.fd(), POLLIN);
    sqe->user_data = kReadinessKey;
    readiness_armed_ = true;
  }
  if (!wake_armed_) {
    io_uring_sqe* sqe = ring_.get_sqe();
    if (sqe == nullptr) return false;
    io_uring_prep_poll_add(sqe, wake_fd_, POLLIN);
    sqe->user_data = kWakeKey;
    wake_armed_ = true;
  }
  if (queued_.empty()) return true;
  const std::int64_t clock = filled_at_ = read_clock();
  while (!queued_.empty()) {
    Operation* operation = table_.at(queued_.head);
    if (goes_by_call(operation)) {
      filled_at_ = 0;  // which takes its time
      if (call(operation)) continue;
    }
    io_uring_sqe* sqe = ring_.get_sqe();
    if (sqe == nullptr) return false;
    table_.pop(&queued_);
    if (operation->started_ns == 0) operation->started_ns = clock;
    arm(operation, sqe);
  }
  return true;
}

// What the kernel has left in the SQ is queued again, ahead of what did not fit.  Until the next
// turn its descriptors may be closed, and their numbers be somebody else's.
void Proactor::take_back() noexcept {
  OperationList rest = queued_;
  queued_ = OperationList{};
  const unsigned pending = ring_.submissions_pending();
  for (unsigned index = 0; index < pending; ++index) {
    const io_uring_sqe& sqe = ring_.pending_sqe(index);
    if (sqe.user_data == kWakeKey) {
      wake_armed_ = false;
    } else if (sqe.user_data == kReadinessKey) {
      readiness_armed_ = false;
    } else if (sqe.user_data == kCancelKey) {
      // Its target may have ended meanwhile.
      const std::uint32_t slot = static_cast<std::uint32_t>(sqe.addr);
      Operation* target = slot < table_.capacity() ? table_.at(slot) : nullptr;
      if (target == nullptr || target->key() != sqe.addr || !(target->flags & kCancelArmed)) continue;
      target->flags ^= kCancelArmed;
      list_cancel(target);
    } else if (Operation* operation = table_.find(sqe.user_data)) {
      come_back(operation);
      if (operation->flags & kCancelWanted) {
        complete(operation, operation->cancel_error, static_cast<std::int64_t>(operation->done));
      } else {
        queue_again(operation);
      }
    }
  }
  while (Operation* operation = table_.pop(&rest)) table_.push(&queued_, operation);
  ring_.retract();
}

int Proactor::prepare() noexcept {
  if (!ring_.is_open()) return -EBADF;
  if (forked()) return -EOWNERDEAD;
  if (refused_to_poll_ != 0) return refused_to_poll_;
  bytes_prepared_ = 0;
  filled_at_ = 0;
  stalled_ = false;
  refused_ = 0;
  while (!fill()) {
    const unsigned before = ring_.submissions_pending();
    int error = enter(false, 0);
    const unsigned after = ring_.submissions_pending();
    if (after != 0) take_back();
    if (error == -EINTR && after == before) stalled_ = true;
    if (error < 0) return error;
    // The kernel may want its completions read first (-EBUSY), or be out of memory for now: what
    // did not fit stays queued for the next turn.
    if (after == before) {
      stalled_ = true;
      break;
    }
  }
  prepared_ = ring_.submissions_pending();
  return 0;
}

bool Proactor::must_enter() const noexcept {
  return ring_.submissions_pending() != 0 || ring_.completions_deferred();
}

int Proactor::enter_ring(bool wait, std::int64_t timeout_ns, std::int64_t spin_ns) noexcept {
  const unsigned before = door_.fetch_or(kInside);
  // As the kernel says it of a ring of one issuer.
  if (before & kInside) return -EEXIST;
  int result = -EBADF;
  if (!(before & kShut)) {
    // (What fill() has read is true to less than what a reading costs.)
    const std::int64_t began = !wait && spin_ns <= 0 ? 0 : filled_at_ != 0 ? filled_at_ : now();
    filled_at_ = 0;
    const std::int64_t end = began + spin_ns;
    if (wait) asleep_since_.store(began, std::memory_order_relaxed);
    do {
      result = ring_.enter(wait, timeout_ns);
      // All that may be looked at without the GIL; a close() waits for this thread to come out.
    } while (spin_ns > 0 && result >= 0 && !ring_.completions_visible() && !ring_.dropped() &&
             !(door_.load() & kShut) && now() < end);
    if (wait) {
      asleep_since_.store(0, std::memory_order_relaxed);
      blocked_ns_.add(static_cast<std::uint64_t>(read_clock() - began));
    }
    note_enter(result, wait);
  }
  return door_.fetch_and(~kInside) & kShut ? -EBADF : result;
}

// Was it refused, once more?
inline void Proactor::note_enter(int result, bool waited) noexcept {
  if (result == -EINTR && waited && ring_.submissions_pending() == 0) {
    // As it should be: a signal.  Of those there may be any number, but they do not end what does not wait.
    if (++interruptions_ <= kMostInterruptions) return;
    result = ring_.enter(false, 0);
  }
  const bool dropped = result == -EBADR && ring_.dropped();
  if (!(result == -EBADR || is_passing(result)) || dropped) {
    refused_ = 0;
    refusals_ = interruptions_ = 0;
    return;
  }
  if (refusals_++ == 0) refused_since_ = now();
  refused_ = result;
}

int Proactor::refused_to_enter() const noexcept {
  return refusals_ >= kMostRefusals && now() - refused_since_ >= kRefusalPatience ? refused_ : 0;
}

int Proactor::enter(bool wait, std::int64_t timeout_ns) noexcept {
  return harmless_as_0(enter_ring(wait, timeout_ns));
}

int Proactor::spin(std::int64_t spin_ns) noexcept {
  return harmless_as_0(enter_ring(false, 0, spin_ns));
}

void Proactor::back_off(std::int64_t timeout_ns) noexcept {
  const std::int64_t nap = timeout_ns < 0 || timeout_ns > kBackOff ? kBackOff : timeout_ns;
  filled_at_ = 0;
  enter_ring(true, nap);
  if (refused_ != 0) kernel_.sleep(kernel_.self, nap);
}

// How many there were.
unsigned Proactor::fetch_overflowed() noexcept {
  io_uring_cqe cqe;
  unsigned count = 0;
  for (int tries = kOverflowTries; tries > 0 && ring_.overflowed(); --tries) {
    ring_.enter(false, 0);
    for (; ring_.pop(&cqe); tries = kOverflowTries) {
      dispatch(cqe);
      ++count;
    }
  }
  return count;
}

// Completions were dropped.  What is still to be had of the others makes fewer sends end in doubt.
void Proactor::replace_ring() noexcept {
  io_uring_cqe cqe;
  while (ring_.pop(&cqe)) dispatch(cqe);
  fetch_overflowed();
  replaced_rings_.add(1);
  Ring fresh(kernel_);
  // The memory that is wanting may be wanting for this as well: then after a pause.
  if (make_ring(rung(), 0, &fresh) < 0)
    stalled_ = true;
  else
    move_to(std::move(fresh));
}

unsigned Proactor::read_completions(unsigned limit) noexcept {
  io_uring_cqe cqe;
  unsigned count = 0;
  while (count < limit && ring_.pop(&cqe)) {
    dispatch(cqe);
    ++count;
  }
  return count;
}

int Proactor::reap() noexcept {
  if (const unsigned left = ring_.submissions_pending()) {
    stalled_ = stalled_ || left == prepared_;
    take_back();
  }
  unsigned count = read_completions(kReapLimit);
  // As many as an enter brings by itself, and more are waiting: those that are ready with them.
  if (count >= kUnasked && count < kReapLimit && ring_.completions_deferred()) {
    ring_.enter_for(kReapLimit - count);
    count += read_completions(kReapLimit - count);
  }
  if (readiness_told_) {
    readiness_told_ = false;
    collect();
  }
  // What the kernel holds back would be lost with a ring of one issuer when another thread takes
  // over, and sent again: it is fetched while this thread can.
  if (ring_.overflowed()) {
    if (!overflowed_) overflows_.add(1);
    if (ring_.single_issuer()) count += fetch_overflowed();
  }
  overflowed_ = ring_.overflowed();
  if (ring_.dropped()) replace_ring();
  // The kernel puts work on its list first and raises TASKRUN then: if the list was run in between,
  // the flag stays up until the next work comes, and a thread that waited for it to fall would spin.
  // To sleep under it is safe: work that has come after all is run before the sleep.
  flag_is_stale_ = count == 0 && ring_.completions_deferred();
  if (refused_ != 0) stalled_ = true;
  if (count != 0) {
    refused_ = 0;
    refusals_ = 0;
  }
  if (count != 0 && !ring_.dropped()) stalled_ = false;
  // The poll for it may be among what the kernel does not take.
  if (stalled_ && !wake_armed_) hear_wake();
  return static_cast<int>(count);
}

int Proactor::turn(std::int64_t timeout_ns) noexcept {
  int error = prepare();
  if (error < 0 && error != -EINTR) return error;
  const bool wait = timeout_ns != 0 && idle();
  if (error == 0 && (wait || must_enter())) error = enter(wait, timeout_ns);
  reap();
  if (const int refused = refused_to_enter()) error = refused;
  // (One interruption may be a signal's.)
  const bool pause = error == 0 || (error == -EINTR && refusals_ > 1);
  if (pause && stalled_ && timeout_ns != 0) back_off(timeout_ns);
  return error;
}

void Proactor::settle(int fd) noexcept {
  cancel_fd(fd);
  // On the lower rungs any thread may enter, but not while the one that takes turns may be in
  // enter() itself: it would publish an SQE that is half written here.
  if (!bound_here() || thread_ != kernel_.thread_id(kernel_.self) || refused_to_enter() != 0) return;
  for (int turns = 0; turns < kSettleTurns; ++turns) {
    bool busy = false;
    for (std::uint32_t slot = table_.first_on(fd); slot != kNoSlot;
         slot = table_.next_on(table_.at(slot)))
      busy = busy || table_.at(slot)->state == State::kInFlight;
    if (!busy) return;
    fill_cancels();
    // All that is deferred: the end of this one may stand behind that of any number of others.
    const int error = ring_.enter_for(kAllCompletions);
    const bool refused = ring_.submissions_pending() != 0;
    if (refused) take_back();
    while (read_completions(kReapLimit) != 0) {
    }
    if (ring_.dropped()) replace_ring();
    if (error < 0 && !again_later(error)) return;
    if (refused) back_off(kBackOff);
  }
}

void Proactor::read_posted() noexcept {
  if (!ring_.is_open() || forked()) return;
  while (read_completions(kReapLimit) != 0) {
  }
}

void Proactor::send_queued() noexcept {
  if (!ring_.is_open() || forked()) return;
  std::uint32_t slot = queued_.head;
  while (slot != kNoSlot) {
    Operation* operation = table_.at(slot);
    slot = operation->next;
    if (operation->kind != Kind::kSend || (operation->flags & kPolling)) continue;
    // Behind what was given to the kernel before, or begun before.
    bool first = true;
    for (std::uint32_t other = table_.first_on(operation->fd); other != kNoSlot;
         other = table_.next_on(table_.at(other))) {
      const Operation* before = table_.at(other);
      if (before != operation && owns_buffer(before->kind) &&
          (before->state == State::kInFlight || before->state == State::kWaiting ||
           (before->state == State::kQueued && (before->flags & kPolling))))
        first = false;
    }
    if (!first) continue;
    std::int64_t result = 0;
    while (operation->done < operation->length) {
      const std::uint64_t left = operation->length - operation->done;
      result = kernel_.sendto(kernel_.self, operation->fd,
                              static_cast<const char*>(operation->buffer) + operation->done,
                              left < kLongestSend ? left : kLongestSend,
                              static_cast<int>(operation->message_flags) | MSG_DONTWAIT, nullptr,
                              0);
      if (result == -EINTR) continue;
      if (result <= 0) break;
      operation->done += static_cast<std::uint64_t>(result);
    }
    if (operation->done < operation->length && (result == -EAGAIN || result == 0)) {
      operation->flags |= kPolling;
      continue;
    }
    table_.unlink(&queued_, operation);
    complete(operation, result < 0 ? static_cast<int>(result) : 0,
             static_cast<std::int64_t>(operation->done));
  }
}

void Proactor::leave_polls() noexcept {
  for (std::uint32_t slot = 0; slot < table_.capacity(); ++slot) {
    Operation* operation = table_.at(slot);
    if (operation->flags & kLive) {
      operation->flags ^= kLive | kCancelWanted;
      operation->cancel_error = -ECANCELED;
    }
    if (operation->state == State::kInFlight &&
        (!owns_buffer(operation->kind) || (operation->flags & kPolling)))
      disown(operation, -ECANCELED);
  }
}

void Proactor::wake() noexcept {
  const std::uint64_t one = 1;
  ++wakers_;
  const int fd = wake_fd_;
  if (fd >= 0) kernel_.write(kernel_.self, fd, &one, sizeof(one));
  --wakers_;
}

bool Proactor::take_wake() noexcept {
  const bool woken = woken_;
  woken_ = false;
  return woken;
}

// -- the end --

unsigned Proactor::drain(std::int64_t timeout_ns) noexcept {
  if (!bound_here()) return in_flight_;
  cancel_all();
  const std::int64_t give_up = now() + timeout_ns;
  while (in_flight_ != 0) {
    const std::int64_t left = give_up - now();
    if (left <= 0) break;
    int error = prepare();
    if (error >= 0) {
      // Completions that nobody took yet must not keep this from sleeping.
      error = enter(may_sleep(), left);
    }
    reap();
    if ((error < 0 && !again_later(error)) || refused_to_enter() != 0) break;
    if (stalled_) back_off(give_up - now());
  }
  return in_flight_;
}

// Nobody is in the kernel with the ring from here on.  Its memory, and the number of its descriptor, which
// may be the next ring's, would be pulled from under his feet.
void Proactor::shut() noexcept {
  door_.fetch_or(kShut);
  for (std::int64_t waited = 0; occupied() && waited < kExitPatience; waited += kExitPause) {
    wake();
    kernel_.sleep(kernel_.self, kExitPause);
  }
}

void Proactor::close() noexcept {
  const bool child = ring_.is_open() && forked();
  if (child) {
    ring_.abandon();
    readiness_.forget();
    wake_fd_ = -1;
  } else if (ring_.is_open()) {
    shut();
    // What is posted is over: its result stands, and its buffer is free.
    io_uring_cqe cqe;
    while (ring_.pop(&cqe)) dispatch(cqe);
    ring_.close();
  }
  readiness_.close();
  const int wake_fd = wake_fd_.exchange(-1);
  if (wake_fd >= 0) {
    while (wakers_ != 0) kernel_.sleep(kernel_.self, kExitPause);
    kernel_.close(kernel_.self, wake_fd);
  }
  wake_armed_ = readiness_armed_ = readiness_told_ = false;
  if (table_.used() == 0) return;
  for (std::uint32_t slot = 0; slot < table_.capacity(); ++slot) {
    Operation* operation = table_.at(slot);
    if (operation->state == State::kQueued) {
      table_.unlink(&queued_, operation);
      complete(operation, -ECANCELED, static_cast<std::int64_t>(operation->done));
    } else if (operation->state == State::kInFlight) {
      disown(operation, -ECANCELED);
    } else if (operation->state == State::kWaiting) {
      come_back(operation);
      complete(operation, -ECANCELED, sent_by(*operation));
    }
    operation->flags &= static_cast<std::uint16_t>(~kLive);
  }
}

}  // namespace uring
