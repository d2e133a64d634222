#include "simulated_kernel.hpp"

#include <errno.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <list>

namespace uring::test {
namespace {

constexpr unsigned kSetupFlags =
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED |
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SINGLE_ISSUER |
    IORING_SETUP_DEFER_TASKRUN;
constexpr unsigned kEnterFlags =
    IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG | IORING_ENTER_NO_IOWAIT;
constexpr unsigned kFeatures = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP |
                               IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_EXT_ARG |
                               IORING_FEAT_NO_IOWAIT;
constexpr unsigned kLargestRing = 32768;
// A wait that lasts longer than so many rounds without anything to show gets what is held back.
constexpr int kMostHeldBack = 64;
// A wait that the others' doings do not end in so many rounds never ends.
constexpr int kMostRounds = 10000;
// So that there is an end to reading completions.
constexpr int kMostSaid = 3;
// Of ended_keys, by itself.
constexpr std::size_t kMostEnded = 1000;
// What an enter takes, so that whoever polls for a time comes to its end.
constexpr std::int64_t kCallTime = 1000;

unsigned power_of_two(unsigned number) {
  unsigned power = 1;
  while (power < number) power *= 2;
  return power;
}

// Every byte; of long memory, which is looked at again and again, a word in eight.
std::uint64_t mix(std::uint64_t hash, const void* data, std::size_t size) {
  constexpr std::size_t kLong = 65536;
  const unsigned char* bytes = static_cast<const unsigned char*>(data);
  std::uint64_t word;
  const std::size_t step = size > kLong ? 8 * sizeof(word) : sizeof(word);
  std::size_t index = 0;
  for (; index + sizeof(word) <= size; index += step) {
    memcpy(&word, bytes + index, sizeof(word));
    hash = (hash ^ word) * 1099511628211ULL;
    hash ^= hash >> 32;
  }
  for (; index < size; ++index) hash = (hash ^ bytes[index]) * 1099511628211ULL;
  return hash;
}

}  // namespace

SimulatedKernel::SimulatedKernel(std::uint64_t seed, Backing backing)
    : known_setup_flags(kSetupFlags),
      known_enter_flags(kEnterFlags),
      features(kFeatures),
      known_operations{IORING_OP_NOP,  IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE, IORING_OP_ASYNC_CANCEL,
                       IORING_OP_SEND, IORING_OP_SENDMSG,  IORING_OP_WRITE},
      orphan_result(-EFAULT),
      largest_transfer(std::numeric_limits<std::size_t>::max()),
      largest_submit(std::numeric_limits<unsigned>::max()),
      largest_sq(kLargestRing),
      largest_cq(2 * kLargestRing),
      backing_(backing),
      made_in_(fork_count()),
      random_(seed) {
  if (backing_ == Backing::kReal) return;
  // A process has these.
  for (int fd = 0; fd < 3; ++fd) open(std::make_shared<MadeUpFile>(MadeUpFile::Type::kRegular));
}

SimulatedKernel::~SimulatedKernel() { end_closed_rings(); }

namespace {

// A call of the table: one at a time.
template <auto method>
struct Entry;
template <typename Result, typename... Arguments, Result (SimulatedKernel::*method)(Arguments...)>
struct Entry<method> {
  static Result call(void* self, Arguments... arguments) {
    SimulatedKernel* kernel = static_cast<SimulatedKernel*>(self);
    std::lock_guard<std::recursive_mutex> guard(kernel->mutex());
    return (kernel->*method)(arguments...);
  }
};

}  // namespace

Kernel SimulatedKernel::table() noexcept {
  using Self = SimulatedKernel;
  Kernel table{};
  table.self = this;
  table.setup = Entry<&Self::setup>::call;
  table.enter = Entry<&Self::enter>::call;
  table.register_ = Entry<&Self::register_>::call;
  table.mmap = Entry<&Self::mmap>::call;
  table.munmap = Entry<&Self::munmap>::call;
  table.madvise = Entry<&Self::madvise>::call;
  table.eventfd = Entry<&Self::eventfd>::call;
  table.epoll_create = Entry<&Self::epoll_create>::call;
  table.epoll_ctl = Entry<&Self::epoll_control>::call;
  table.epoll_wait = Entry<&Self::epoll_wait>::call;
  table.poll = Entry<&Self::poll>::call;
  // A child has its parent's descriptors, and perhaps a lock whose holder it has not.
  table.close = [](void* self, int fd) {
    return static_cast<Self*>(self)->in_child() ? ::close(fd) : Entry<&Self::close>::call(self, fd);
  };
  table.read = Entry<&Self::read>::call;
  // wake() may come out of a signal handler, where nobody can wait for a lock.
  table.write = [](void* self, int fd, const void* buffer, std::size_t size) {
    return static_cast<Self*>(self)->backing_ == Backing::kReal
               ? real_kernel().write(nullptr, fd, buffer, size)
               : Entry<&Self::write>::call(self, fd, buffer, size);
  };
  table.recvfrom = Entry<&Self::recvfrom>::call;
  table.sendto = Entry<&Self::sendto>::call;
  table.sendfile = Entry<&Self::sendfile>::call;
  table.clock = [](void* self) { return static_cast<Self*>(self)->clock(); };
  table.sleep = [](void* self, std::int64_t nanoseconds) {
    static_cast<Self*>(self)->sleep(nanoseconds);
  };
  table.thread_id = [](void* self) { return static_cast<Self*>(self)->thread_id(); };
  table.fork_count = [](void* self) {
    return static_cast<Self*>(self)->in_child() ? static_cast<Self*>(self)->fork_count()
                                                : Entry<&Self::look>::call(self);
  };
  return table;
}

// -- who calls, and when --

void SimulatedKernel::fork() {
  ++forks;
  for (auto entry = files_.begin(); entry != files_.end();) {
    const File* file = entry->second.get();
    const MadeUpFile* made_up = dynamic_cast<const MadeUpFile*>(file);
    const bool kept_from_children =
        dynamic_cast<const RingFile*>(file) != nullptr ||
        dynamic_cast<const EpollFile*>(file) != nullptr ||
        (made_up != nullptr && made_up->type == MadeUpFile::Type::kEvent);
    entry = kept_from_children ? files_.erase(entry) : std::next(entry);
  }
}

bool SimulatedKernel::in_child() const {
  return backing_ == Backing::kReal && fork_count() != made_in_;
}

unsigned SimulatedKernel::fork_count() const {
  return backing_ == Backing::kReal ? real_kernel().fork_count(nullptr) : forks;
}

unsigned SimulatedKernel::look() {
  if (backing_ == Backing::kReal) changed();
  return fork_count();
}

int SimulatedKernel::thread_id() const {
  return backing_ == Backing::kReal ? real_kernel().thread_id(nullptr) : thread;
}

std::int64_t SimulatedKernel::clock() const {
  return backing_ == Backing::kReal ? real_kernel().clock(nullptr) : now;
}

void SimulatedKernel::sleep(std::int64_t nanoseconds) {
  slept += nanoseconds;
  if (backing_ == Backing::kReal)
    real_kernel().sleep(nullptr, nanoseconds);
  else
    now += nanoseconds;
}

// -- faults --

bool SimulatedKernel::chance(unsigned in_a_thousand) {
  return in_a_thousand != 0 && below(1000) < in_a_thousand;
}

bool SimulatedKernel::strikes(unsigned Chances::*fault) {
  const bool struck = chance(chances.*fault);
  taken.*fault += struck;
  return struck;
}

std::uint64_t SimulatedKernel::below(std::uint64_t limit) { return random_() % limit; }

void SimulatedKernel::fail(Call call, int error, unsigned nth, unsigned times) {
  failures_[static_cast<int>(call)].push_back({nth, times, error});
}

int SimulatedKernel::failure(Call call) {
  ++calls_[static_cast<int>(call)];
  int error = 0;
  for (Failure& failure : failures_[static_cast<int>(call)]) {
    if (failure.wait > 1) {
      --failure.wait;
    } else if (failure.times > 0) {
      --failure.times;
      error = failure.error;
    }
  }
  return error;
}

int SimulatedKernel::set_up_failure(Call call) {
  if (int error = failure(call)) return error;
  if (!strikes(&Chances::failed_set_up)) return 0;
  return below(2) == 0 ? -ENOMEM : -EMFILE;
}

void SimulatedKernel::force_result(unsigned opcode, int result) {
  forced_[opcode].push_back(result);
}

std::size_t SimulatedKernel::limited(const File& file, std::size_t size) {
  if (!file.divisible()) return size;
  if (size > largest_transfer) size = largest_transfer;
  if (size > 1 && strikes(&Chances::short_transfer)) size = 1 + below(size - 1);
  return size;
}

// Of a call that does no more than look whether it can be done now.
int SimulatedKernel::interruption(const File& file) {
  if (!file.divisible() || !strikes(&Chances::interrupted)) return 0;
  return below(2) == 0 ? -EINTR : -EAGAIN;
}

// -- files --

int SimulatedKernel::open(FilePointer file) {
  int fd = 0;
  while (files_.count(fd) != 0) ++fd;
  files_[fd] = std::move(file);
  return fd;
}

FilePointer SimulatedKernel::file_at(int fd, bool hold) const {
  auto found = files_.find(fd);
  if (found != files_.end()) return found->second;
  if (backing_ == Backing::kMadeUp) return nullptr;
  auto file = std::make_shared<RealFile>(fd, hold);
  return file->is_open() ? file : nullptr;
}

MadeUpFile* SimulatedKernel::made_up(int fd) const {
  auto found = files_.find(fd);
  return found == files_.end() ? nullptr : dynamic_cast<MadeUpFile*>(found->second.get());
}

SimulatedKernel::Ring* SimulatedKernel::ring_at(int fd) const {
  auto found = files_.find(fd);
  RingFile* file =
      found == files_.end() ? nullptr : dynamic_cast<RingFile*>(found->second.get());
  return file == nullptr ? nullptr : file->ring.get();
}

std::pair<int, int> SimulatedKernel::stream_pair(std::size_t capacity) {
  auto one = std::make_shared<MadeUpFile>(MadeUpFile::Type::kStream);
  auto two = std::make_shared<MadeUpFile>(MadeUpFile::Type::kStream);
  one->out = two->in = std::make_shared<Queue>();
  two->out = one->in = std::make_shared<Queue>();
  one->out->capacity = two->out->capacity = capacity;
  const int fd = open(one);
  return {fd, open(two)};
}

std::pair<int, int> SimulatedKernel::pipe(std::size_t capacity, bool nonblocking, bool fifo) {
  auto reader = std::make_shared<MadeUpFile>(MadeUpFile::Type::kPipe);
  auto writer = std::make_shared<MadeUpFile>(MadeUpFile::Type::kPipe);
  reader->in = writer->out = std::make_shared<Queue>();
  reader->in->capacity = capacity;
  reader->has_o_nonblock = writer->has_o_nonblock = nonblocking;
  reader->is_fifo = writer->is_fifo = fifo;
  const int fd = open(writer);
  return {fd, open(reader)};
}

int SimulatedKernel::datagram_socket(const std::string& address, std::size_t capacity) {
  auto file = std::make_shared<MadeUpFile>(MadeUpFile::Type::kDatagram);
  file->in = std::make_shared<Queue>();
  file->in->capacity = capacity;
  file->addresses = &addresses_;
  addresses_[address] = file->in;
  return open(file);
}

int SimulatedKernel::regular_file(std::string content) {
  auto file = std::make_shared<MadeUpFile>(MadeUpFile::Type::kRegular);
  file->content = std::move(content);
  return open(file);
}

std::int64_t SimulatedKernel::put(int fd, const std::string& bytes) {
  FilePointer file = file_at(fd);
  if (!file) return -EBADF;
  const std::int64_t result = file->write(bytes.data(), bytes.size());
  changed();
  return result;
}

std::string SimulatedKernel::take(int fd, std::size_t most) {
  MadeUpFile* file = made_up(fd);
  if (file == nullptr || !file->in) return std::string();
  const bool datagram = file->type == MadeUpFile::Type::kDatagram;
  std::string bytes(datagram ? 65536 : std::min(most, file->in->bytes.size()), '\0');
  const std::int64_t result = file->read(bytes.data(), bytes.size());
  bytes.resize(result < 0 ? 0 : static_cast<std::size_t>(result));
  changed();
  return bytes;
}

bool SimulatedKernel::at_end(int fd) {
  MadeUpFile* file = made_up(fd);
  return file != nullptr && file->in && file->in->bytes.empty() && file->in->ended;
}

void SimulatedKernel::close_file(int fd) {
  files_.erase(fd);
  changed();
}

void SimulatedKernel::reset(int fd) {
  MadeUpFile* file = made_up(fd);
  file->out->reset = true;
  file->out->bytes.clear();
  close_file(fd);
}

int SimulatedKernel::eventfd(unsigned initial, int flags) {
  if (int error = set_up_failure(Call::kEventfd)) return error;
  if (backing_ == Backing::kReal) return real_kernel().eventfd(nullptr, initial, flags);
  auto file = std::make_shared<MadeUpFile>(MadeUpFile::Type::kEvent);
  file->counter = initial;
  file->has_o_nonblock = (flags & EFD_NONBLOCK) != 0;
  return open(file);
}

int SimulatedKernel::epoll_create() {
  if (int error = set_up_failure(Call::kEpollCreate)) return error;
  if (backing_ == Backing::kReal) return real_kernel().epoll_create(nullptr);
  return open(std::make_shared<EpollFile>());
}

int SimulatedKernel::epoll_control(int epoll, int operation, int fd, epoll_event* event) {
  if (int error = failure(Call::kEpollControl)) return error;
  int result = -EBADF;
  if (backing_ == Backing::kReal) {
    result = real_kernel().epoll_ctl(nullptr, epoll, operation, fd, event);
  } else if (auto* set = dynamic_cast<EpollFile*>(file_at(epoll).get())) {
    result = set->control(operation, fd, file_at(fd), *event);
  } else {
    violate("epoll_ctl(2) on what is no epoll set");
  }
  changed();
  return result;
}

int SimulatedKernel::epoll_wait(int epoll, epoll_event* events, int limit) {
  if (int error = failure(Call::kEpollWait)) return error;
  if (backing_ == Backing::kReal) return real_kernel().epoll_wait(nullptr, epoll, events, limit);
  auto* set = dynamic_cast<EpollFile*>(file_at(epoll).get());
  if (set != nullptr) return set->collect(events, limit);
  violate("epoll_wait(2) on what is no epoll set");
  return -EBADF;
}

int SimulatedKernel::poll(int fd, short events) {
  if (int error = failure(Call::kPoll)) return error;
  const FilePointer file = file_at(fd);
  if (!file) return POLLNVAL;
  return static_cast<int>(file->events() & (static_cast<unsigned>(events) | POLLERR | POLLHUP));
}

int SimulatedKernel::close(int fd) {
  if (int error = failure(Call::kClose)) return error;
  auto found = files_.find(fd);
  if (found == files_.end()) {
    const int result = backing_ == Backing::kReal ? real_kernel().close(nullptr, fd) : -EBADF;
    if (result < 0) violate("close of descriptor " + std::to_string(fd) + ", which is not open");
    return result;
  }
  // A child's copy of a ring goes without the parent's.
  Ring* ring = ring_at(fd);
  if (ring != nullptr && ring->forks == fork_count()) {
    for (Request& request : ring->waiting) {
      // Nobody runs the task work of a DEFER_TASKRUN ring any more: what waits is only ended.
      request.reads_memory = !ring->deferred();
      closing_.push_back(std::move(request));
    }
    ring->waiting.clear();
  }
  files_.erase(found);
  changed();
  return 0;
}

std::int64_t SimulatedKernel::read(int fd, void* buffer, std::size_t size) {
  if (int error = failure(Call::kRead)) return error;
  FilePointer file = file_at(fd);
  if (!file) return -EBADF;
  if (int error = interruption(*file)) return error;
  const std::int64_t result = file->read(buffer, limited(*file, size));
  changed();
  return result;
}

std::int64_t SimulatedKernel::write(int fd, const void* buffer, std::size_t size) {
  if (int error = failure(Call::kWrite)) return error;
  FilePointer file = file_at(fd);
  const std::int64_t result = file ? file->write(buffer, size) : -EBADF;
  changed();
  return result;
}

std::int64_t SimulatedKernel::recvfrom(int fd, void* buffer, std::size_t size, int flags,
                                       sockaddr* address, socklen_t* length) {
  if (int error = failure(Call::kReceive)) return error;
  FilePointer file = file_at(fd);
  if (!file) return -EBADF;
  if (!(flags & MSG_DONTWAIT)) violate("recvfrom(2) that may wait");
  forget_told(fd);
  if (int error = interruption(*file)) return error;
  const std::int64_t result = file->receive(buffer, limited(*file, size), flags, address, length);
  changed();
  return result;
}

std::int64_t SimulatedKernel::sendto(int fd, const void* buffer, std::size_t size, int flags,
                                     const sockaddr* address, socklen_t length) {
  if (int error = failure(Call::kSend)) return error;
  FilePointer file = file_at(fd);
  if (!(flags & MSG_DONTWAIT)) violate("send(2) that may wait");
  if (!file) return -EBADF;
  if (int error = interruption(*file)) return error;
  std::int64_t result;
  if (address == nullptr) {
    result = file->send(buffer, limited(*file, size), flags);
  } else {
    iovec piece{const_cast<void*>(buffer), size};
    msghdr message{};
    message.msg_name = const_cast<sockaddr*>(address);
    message.msg_namelen = length;
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    result = file->send_message(message, limited(*file, size), flags);
  }
  changed();
  return result;
}

std::int64_t SimulatedKernel::sendfile(int socket, int file, std::int64_t offset,
                                       std::size_t count) {
  if (int error = failure(Call::kSendfile)) return error;
  FilePointer to = file_at(socket);
  if (!to) return -EBADF;
  if (int error = interruption(*to)) return error;
  std::int64_t result;
  if (backing_ == Backing::kReal) {
    result = real_kernel().sendfile(nullptr, socket, file, offset, limited(*to, count));
  } else {
    MadeUpFile* from = made_up(file);
    if (from == nullptr) return -EBADF;
    if (from->type != MadeUpFile::Type::kRegular || offset < 0) return -EINVAL;
    const std::size_t start = std::min(static_cast<std::size_t>(offset), from->content.size());
    count = std::min(count, from->content.size() - start);
    if (count == 0) return 0;
    result = to->write(from->content.data() + start, limited(*to, count));
  }
  changed();
  return result;
}

// -- rings --

int SimulatedKernel::setup(unsigned entries, io_uring_params* params) {
  if (int error = set_up_failure(Call::kSetup)) return error;
  if (setup_error != 0) return setup_error;
  const unsigned flags = params->flags;
  if (flags & ~known_setup_flags) return -EINVAL;
  const bool deferred = (flags & IORING_SETUP_DEFER_TASKRUN) != 0;
  if (deferred && !(flags & IORING_SETUP_SINGLE_ISSUER)) return -EINVAL;
  if ((flags & IORING_SETUP_TASKRUN_FLAG) && !deferred && !(flags & IORING_SETUP_COOP_TASKRUN))
    return -EINVAL;
  if (entries == 0 || entries > kLargestRing) return -EINVAL;

  auto ring = std::make_shared<Ring>();
  ring->flags = flags;
  ring->forks = fork_count();
  ring->sq_entries = power_of_two(std::min(entries, largest_sq));
  ring->cq_entries = 2 * ring->sq_entries;
  if (flags & IORING_SETUP_CQSIZE) {
    if (params->cq_entries == 0 || params->cq_entries > 2 * kLargestRing) return -EINVAL;
    ring->cq_entries = power_of_two(std::min(params->cq_entries, largest_cq));
    if (ring->cq_entries < ring->sq_entries) return -EINVAL;
  }
  if ((flags & IORING_SETUP_SINGLE_ISSUER) && !(flags & IORING_SETUP_R_DISABLED))
    ring->owner = thread_id();

  const std::size_t size = ring->array_offset() + ring->sq_entries * sizeof(unsigned);
  ring->queues.resize((size + 7) / 8);
  ring->sqes.resize(ring->sq_entries * sizeof(io_uring_sqe) / 8);
  *ring->sq(kMask) = ring->sq_entries - 1;
  *ring->sq(kEntries) = ring->sq_entries;
  *ring->cq(kMask) = ring->cq_entries - 1;
  *ring->cq(kEntries) = ring->cq_entries;

  params->sq_entries = ring->sq_entries;
  params->cq_entries = ring->cq_entries;
  params->features = features;
  auto word = [](unsigned base, Word which) {
    return base + static_cast<unsigned>(which) * static_cast<unsigned>(sizeof(unsigned));
  };
  params->sq_off.head = word(kSqOffset, kHead);
  params->sq_off.tail = word(kSqOffset, kTail);
  params->sq_off.ring_mask = word(kSqOffset, kMask);
  params->sq_off.ring_entries = word(kSqOffset, kEntries);
  params->sq_off.flags = word(kSqOffset, kFlags);
  params->sq_off.dropped = word(kSqOffset, kLost);
  params->sq_off.array = ring->array_offset();
  params->cq_off.head = word(kCqOffset, kHead);
  params->cq_off.tail = word(kCqOffset, kTail);
  params->cq_off.ring_mask = word(kCqOffset, kMask);
  params->cq_off.ring_entries = word(kCqOffset, kEntries);
  params->cq_off.flags = word(kCqOffset, kFlags);
  params->cq_off.overflow = word(kCqOffset, kLost);
  params->cq_off.cqes = kCqesOffset;

  if (backing_ == Backing::kMadeUp) return open(std::make_shared<RingFile>(std::move(ring), -1));
  const int fd = real_kernel().eventfd(nullptr, 0, EFD_CLOEXEC);
  if (fd >= 0) files_[fd] = std::make_shared<RingFile>(std::move(ring), fd);
  return fd;
}

int SimulatedKernel::mmap(std::size_t length, int fd, std::int64_t offset, void** address) {
  if (int error = set_up_failure(Call::kMmap)) return error;
  if (mmap_error != 0) return mmap_error;
  Ring* ring = ring_at(fd);
  if (ring == nullptr) return -EBADF;
  std::vector<std::uint64_t>* memory = nullptr;
  if (offset == static_cast<std::int64_t>(IORING_OFF_SQ_RING)) memory = &ring->queues;
  if (offset == static_cast<std::int64_t>(IORING_OFF_SQES)) memory = &ring->sqes;
  if (memory == nullptr || length > memory->size() * 8) return -EINVAL;
  *address = memory->data();
  mappings_[*address] = {length, files_[fd], fork_count(), true};
  return 0;
}

int SimulatedKernel::munmap(void* address, std::size_t length) {
  if (int error = failure(Call::kMunmap)) return error;
  auto found = mappings_.find(address);
  if (found == mappings_.end() || found->second.length != length ||
      (found->second.forks != fork_count() && !found->second.in_children)) {
    violate("munmap of what is not mapped here");
    return -EINVAL;
  }
  mappings_.erase(found);
  return 0;
}

int SimulatedKernel::madvise(void* address, std::size_t length, int advice) {
  if (int error = failure(Call::kMadvise)) return error;
  auto found = mappings_.find(address);
  if (found == mappings_.end() || found->second.length != length) {
    violate("madvise of what is not mapped here");
    return -EINVAL;
  }
  if (advice == MADV_DONTFORK) found->second.in_children = false;
  return 0;
}

int SimulatedKernel::register_(int fd, unsigned opcode, void* argument, unsigned count) {
  if (int error = set_up_failure(Call::kRegister)) return error;
  Ring* ring = ring_at(fd);
  if (ring == nullptr) return -EBADF;
  if (ring->forks != fork_count()) violate("a child registers with its parent's ring");
  switch (opcode) {
    case IORING_REGISTER_ENABLE_RINGS:
      if (!(ring->flags & IORING_SETUP_R_DISABLED)) return -EBADFD;
      ring->flags &= ~IORING_SETUP_R_DISABLED;
      ring->owner = thread_id();
      return 0;
    case IORING_REGISTER_PROBE: {
      io_uring_probe* probe = static_cast<io_uring_probe*>(argument);
      const unsigned last = *known_operations.rbegin();
      probe->last_op = static_cast<unsigned char>(last);
      probe->ops_len = static_cast<unsigned char>(std::min(count, last + 1));
      for (unsigned index = 0; index < probe->ops_len; ++index) {
        const bool known = known_operations.count(index) != 0;
        probe->ops[index].op = static_cast<unsigned char>(index);
        probe->ops[index].flags = known ? IO_URING_OP_SUPPORTED : 0;
      }
      return 0;
    }
    default:
      return -EINVAL;
  }
}

bool SimulatedKernel::may_enter(const Ring& ring) const {
  return !(ring.flags & IORING_SETUP_SINGLE_ISSUER) || ring.owner == thread_id();
}

int SimulatedKernel::enter(int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                           const void* argument, std::size_t size) {
  last_enter_flags = flags;
  if (backing_ == Backing::kReal) end_closed_rings();
  now += kCallTime;
  if (int error = failure(Call::kEnter)) return error;
  FilePointer held = file_at(fd);
  Ring* ring = ring_at(fd);
  if (ring == nullptr) return -EBADF;
  if (ring->forks != fork_count()) violate("a child enters its parent's ring");
  if (flags & ~known_enter_flags) return -EINVAL;
  if (ring->flags & IORING_SETUP_R_DISABLED) return -EBADFD;
  if (to_submit != 0 && !may_enter(*ring)) return -EEXIST;
  if (to_submit != 0 && submit_error != 0) return submit_error;
  if (min_complete != 0 && interrupt_waits) return -EINTR;
  if ((to_submit != 0 || min_complete != 0) && strikes(&Chances::failed_enter)) {
    // A signal; no memory for a request, no room for its completion.
    if (to_submit == 0) return -EINTR;
    return ring->overflow.empty() ? -EAGAIN : -EBUSY;
  }

  const int submitted = submit(*ring, to_submit);
  if (submitted != static_cast<int>(to_submit) || !(flags & IORING_ENTER_GETEVENTS)) {
    changed();
    return submitted;
  }
  auto result = [submitted](int error) { return submitted != 0 ? submitted : error; };
  if (ring->deferred() && !may_enter(*ring)) return result(-EEXIST);

  std::int64_t give_up = std::numeric_limits<std::int64_t>::max();
  if (flags & IORING_ENTER_EXT_ARG) {
    io_uring_getevents_arg events;
    if (size != sizeof(events)) return result(-EINVAL);
    memcpy(&events, argument, sizeof(events));
    if (events.ts != 0) {
      __kernel_timespec timeout;
      memcpy(&timeout, reinterpret_cast<const void*>(events.ts), sizeof(timeout));
      give_up = clock() + timeout.tv_sec * 1000000000 + timeout.tv_nsec;
    }
  }
  min_complete = std::min(min_complete, ring->cq_entries);
  for (int round = 0;; ++round) {
    // What is held back from one who does not wait, or waits in vain, comes in a later enter.
    run_task_work(*ring, round < kMostHeldBack);
    flush_overflow(*ring);
    if (ring->visible() >= min_complete) break;
    if (ring->dropped) {
      ring->dropped = submitted != 0;
      return result(-EBADR);
    }
    const bool more = std::any_of(ring->waiting.begin(), ring->waiting.end(),
                                  [this](const Request& request) { return is_ready(request); });
    if (backing_ == Backing::kReal) {
      if (more) continue;
      const int error = sleep_until_ready(*ring, give_up);
      if (error < 0) return result(error);
      continue;
    }
    const bool endless = round > kMostRounds;
    const bool asleep = give_up > now;
    if (!endless && (more || (asleep && while_asleep && while_asleep()))) continue;
    if (endless || give_up == std::numeric_limits<std::int64_t>::max()) {
      violate("sleeps for ever");
      return result(-EDEADLK);
    }
    now = std::max(now, give_up);
    return result(-ETIME);
  }
  if (busy_on_overflow && !ring->overflow.empty()) return result(-EBUSY);
  changed();
  return submitted;
}

// A poll(2) of all that requests wait for; 0, -ETIME or -EINTR.
int SimulatedKernel::sleep_until_ready(Ring& ring, std::int64_t give_up) {
  std::vector<FilePointer> held;
  std::vector<pollfd> asked;
  for (const Request& request : ring.waiting) {
    const RealFile* file = dynamic_cast<const RealFile*>(request.file.get());
    if (file == nullptr || request.told) continue;
    held.push_back(request.file);
    asked.push_back({file->descriptor(), static_cast<short>(wanted_events(request)), 0});
  }
  timespec limit{};
  const bool limited = give_up != std::numeric_limits<std::int64_t>::max();
  if (limited) {
    const std::int64_t left = give_up - clock();
    if (left <= 0) return -ETIME;
    limit = {static_cast<time_t>(left / 1000000000), static_cast<long>(left % 1000000000)};
  }
  ring.sleeper = true;
  mutex_.unlock();
  int result = ::ppoll(asked.data(), asked.size(), limited ? &limit : nullptr, nullptr);
  if (result < 0) result = -errno;
  mutex_.lock();
  ring.sleeper = false;
  return result == 0 ? -ETIME : std::min(result, 0);
}

int SimulatedKernel::submit(Ring& ring, unsigned count) {
  unsigned limit = std::min(count, largest_submit);
  if (limit > 1 && strikes(&Chances::short_submit))
    limit = 1 + static_cast<unsigned>(below(limit - 1));
  unsigned head = *ring.sq(kHead);
  const unsigned tail = Ring::load(ring.sq(kTail));
  if (tail - head > ring.sq_entries) violate("the SQ holds more than it can");
  const unsigned* array = ring.at(ring.array_offset());
  unsigned consumed = 0;
  while (consumed < limit && head != tail) {
    const unsigned index = array[head & (ring.sq_entries - 1)];
    ++head;
    ++consumed;
    if (index >= ring.sq_entries) {
      ++*ring.sq(kLost);
      continue;
    }
    io_uring_sqe sqe;
    memcpy(&sqe, reinterpret_cast<const io_uring_sqe*>(ring.sqes.data()) + index, sizeof(sqe));
    // Consumed: nobody may count on what it says from here on.
    memset(reinterpret_cast<io_uring_sqe*>(ring.sqes.data()) + index, 0xdd, sizeof(sqe));
    if (!start(ring, sqe) && !(ring.flags & IORING_SETUP_SUBMIT_ALL)) break;
  }
  Ring::store(ring.sq(kHead), head);
  flush(ring);
  return static_cast<int>(consumed);
}

// False when the SQE is a bad one.
bool SimulatedKernel::start(Ring& ring, const io_uring_sqe& sqe) {
  Request request;
  request.sqe = sqe;
  request.thread = thread_id();
  if (known_operations.count(sqe.opcode) == 0 || sqe.flags != 0) {
    complete(ring, request, -EINVAL);
    return false;
  }
  if (refused_operations.count(sqe.opcode) != 0) {
    complete(ring, request, -EACCES);
    return false;
  }
  if (sqe.opcode == IORING_OP_ASYNC_CANCEL || sqe.opcode == IORING_OP_POLL_REMOVE) {
    cancel(ring, sqe.user_data, sqe.addr);
    return true;
  }
  remember(ring, sqe.user_data);
  if (sqe.opcode != IORING_OP_NOP) {
    request.file = file_at(sqe.fd, true);
    if (!request.file) {
      complete(ring, request, -EBADF);
      return false;
    }
  }
  request.memory = checksum(request);
  int result;
  if (!attempt(request, &result)) {
    ring.waiting.push_back(std::move(request));
  } else if (tell(ring, request, result)) {
    ring.waiting.push_back(std::move(request));
  } else {
    complete(ring, request, result);
  }
  return true;
}

// A multishot poll tells what there is, once, and goes on.
bool SimulatedKernel::tell(Ring& ring, Request& request, int result) {
  if (!request.multishot() || result <= 0) return false;
  request.told = true;
  ring.batch.push_back({request.sqe.user_data, result, IORING_CQE_F_MORE});
  return true;
}

// ... and tells of what comes then, as of what is left behind a read: another packet may be meant.
void SimulatedKernel::forget_told(int read) {
  for (auto& entry : files_) {
    Ring* ring = ring_at(entry.first);
    if (ring == nullptr) continue;
    for (Request& request : ring->waiting) {
      if (request.told && (request.sqe.fd == read || !(request.file->events() & wanted_events(request))))
        request.told = false;
    }
  }
}

void SimulatedKernel::cancel(Ring& ring, std::uint64_t user_data, std::uint64_t target) {
  auto found = std::find_if(
      ring.waiting.begin(), ring.waiting.end(),
      [target](const Request& request) { return request.sqe.user_data == target; });
  int answer = -ENOENT;
  if (found != ring.waiting.end()) {
    answer = found->cancelled || deaf_requests ? -EALREADY : 0;
    if (late_cancels || strikes(&Chances::late_cancel)) {
      // Either it has just ended, or it is being worked on and ends soon.
      answer = -EALREADY;
      int result;
      if (attempt(*found, &result)) {
        answer = -ENOENT;
        complete(ring, *found, result);
        ring.waiting.erase(found);
        found = ring.waiting.end();
      }
    }
    if (found != ring.waiting.end()) found->cancelled = !deaf_requests;
  }
  ring.batch.push_back({user_data, answer, 0});
}

// An operation's key is generation and slot; its generation is never 0.
void SimulatedKernel::remember(const Ring& ring, std::uint64_t user_data) {
  if (user_data >> 32 == 0) return;
  if (std::any_of(ring.waiting.begin(), ring.waiting.end(), [user_data](const Request& other) {
        return other.sqe.user_data == user_data;
      }))
    violate("an operation is submitted while the kernel has it");
  std::uint64_t& last = last_keys_[static_cast<std::uint32_t>(user_data)];
  if (last != 0 && last != user_data && ended_keys.size() < kMostEnded) ended_keys.push_back(last);
  last = user_data;
}

// What must be so before a request can go on.
std::uint32_t SimulatedKernel::wanted_events(const Request& request) const {
  // (IO_POLL_UNMASK: asked or not, a poll is told of these.)
  if (request.sqe.opcode == IORING_OP_POLL_ADD)
    return request.sqe.poll32_events | POLLERR | POLLHUP | POLLRDHUP;
  return POLLOUT | POLLERR | POLLHUP;
}

bool SimulatedKernel::is_ready(const Request& request) const {
  if (request.cancelled) return true;
  if (request.told) return false;
  return (request.file->events() & wanted_events(request)) != 0;
}

// True when it is over, with its result.
bool SimulatedKernel::attempt(Request& request, int* result) {
  const unsigned opcode = request.sqe.opcode;
  std::deque<int>& forced = forced_[opcode];
  if (!forced.empty()) {
    *result = forced.front();
    forced.pop_front();
    return true;
  }
  if (request.cancelled) {
    *result = -ECANCELED;
    return true;
  }
  if (opcode == IORING_OP_NOP) {
    *result = 0;
    return true;
  }
  if (is_ready(request)) {
    if (has_exited(request.thread)) {
      *result = orphan_result;
      return true;
    }
    if (strikes(&Chances::spurious)) {
      constexpr int kErrors[] = {-EINTR, -ECANCELED, -EAGAIN};
      *result = kErrors[below(opcode == IORING_OP_POLL_ADD ? 2 : 3)];
      return true;
    }
    if (opcode != IORING_OP_POLL_ADD && strikes(&Chances::no_buffers)) {
      *result = -ENOBUFS;
      return true;
    }
    if (opcode != IORING_OP_POLL_ADD && request.file->divisible() &&
        strikes(&Chances::zero_transfer)) {
      *result = 0;
      return true;
    }
  }
  *result = perform(request);
  if (*result != -EAGAIN) return true;
  if (opcode == IORING_OP_SEND || opcode == IORING_OP_SENDMSG)
    return (request.sqe.msg_flags & MSG_DONTWAIT) != 0;
  return opcode == IORING_OP_WRITE &&
         ((request.sqe.rw_flags & RWF_NOWAIT) != 0 || request.file->nonblocking());
}

int SimulatedKernel::perform(Request& request) {
  const io_uring_sqe& sqe = request.sqe;
  File& file = *request.file;
  switch (sqe.opcode) {
    case IORING_OP_POLL_ADD: {
      const std::uint32_t events = file.events() & wanted_events(request);
      return events != 0 ? static_cast<int>(events) : -EAGAIN;
    }
    case IORING_OP_SEND:
      if (!file.is_socket()) return -ENOTSOCK;
      return static_cast<int>(file.send(reinterpret_cast<const void*>(sqe.addr),
                                        limited(file, sqe.len),
                                        static_cast<int>(sqe.msg_flags)));
    case IORING_OP_SENDMSG: {
      if (!file.is_socket()) return -ENOTSOCK;
      const msghdr& message = *reinterpret_cast<const msghdr*>(sqe.addr);
      return static_cast<int>(file.send_message(message, limited(file, joined(message).size()),
                                                static_cast<int>(sqe.msg_flags)));
    }
    case IORING_OP_WRITE: {
      const void* bytes = reinterpret_cast<const void*>(sqe.addr);
      const std::size_t size = limited(file, sqe.len);
      return static_cast<int>((sqe.rw_flags & RWF_NOWAIT) != 0 ? file.write_nowait(bytes, size)
                                                               : file.write(bytes, size));
    }
    default:
      return -EINVAL;
  }
}

// Completions that end nothing.
void SimulatedKernel::talk_idly(Ring& ring) {
  constexpr int kResults[] = {0, 1, 7, -EINTR, -EAGAIN, -ECANCELED};
  for (Request& request : ring.waiting) {
    if (request.said == kMostSaid || !strikes(&Chances::more)) continue;
    ++request.said;
    ring.add({request.sqe.user_data, kResults[below(6)], IORING_CQE_F_MORE});
  }
  if (!ended_keys.empty() && strikes(&Chances::stray))
    ring.add({ended_keys[below(ended_keys.size())], kResults[below(6)], 0});
}

void SimulatedKernel::run_task_work(Ring& ring, bool hold_back) {
  forget_told(-1);
  talk_idly(ring);
  std::vector<std::list<Request>::iterator> ready;
  for (auto request = ring.waiting.begin(); request != ring.waiting.end(); ++request) {
    if (is_ready(*request) && !(hold_back && strikes(&Chances::hold_back)))
      ready.push_back(request);
  }
  for (auto request : ready) {
    int result;
    // The one before may have taken the room.
    if (!attempt(*request, &result) || tell(ring, *request, result)) continue;
    complete(ring, *request, result);
    ring.waiting.erase(request);
  }
  flush(ring);
  // The kernel adds to its list first and sets the flag then: the list may be done with by then.
  if (ring.flags & IORING_SETUP_TASKRUN_FLAG)
    ring.set_flag(IORING_SQ_TASKRUN, strikes(&Chances::stale_flag));
}

void SimulatedKernel::complete(Ring& ring, const Request& request, int result) {
  check_memory(request);
  ring.batch.push_back({request.sqe.user_data, result, 0});
}

void SimulatedKernel::flush(Ring& ring) {
  std::vector<Ring::Completed> batch;
  batch.swap(ring.batch);
  if (batch.size() > 1 && strikes(&Chances::reorder)) {
    for (std::size_t index = batch.size(); --index > 0;)
      std::swap(batch[index], batch[below(index + 1)]);
  }
  for (const Ring::Completed& completed : batch) {
    if (strikes(&Chances::dropped)) {
      ++*ring.cq(kLost);
      ring.dropped = true;
    } else if (strikes(&Chances::overflow)) {
      ring.set_aside(completed);
    } else {
      ring.add(completed);
    }
  }
}

void SimulatedKernel::flush_overflow(Ring& ring) {
  while (!ring.overflow.empty() && ring.write(ring.overflow.front())) ring.overflow.pop_front();
  if (ring.overflow.empty()) ring.set_flag(IORING_SQ_CQ_OVERFLOW, false);
}

std::uint64_t SimulatedKernel::checksum(const Request& request) const {
  const io_uring_sqe& sqe = request.sqe;
  std::uint64_t hash = 14695981039346656037ULL;
  if (sqe.opcode == IORING_OP_SEND || sqe.opcode == IORING_OP_WRITE)
    return mix(hash, reinterpret_cast<const void*>(sqe.addr), sqe.len);
  if (sqe.opcode != IORING_OP_SENDMSG) return hash;
  const msghdr& message = *reinterpret_cast<const msghdr*>(sqe.addr);
  const std::string bytes = joined(message);
  hash = mix(hash, &message.msg_iov, sizeof(message.msg_iov));
  hash = mix(hash, message.msg_name, message.msg_namelen);
  return mix(hash, bytes.data(), bytes.size());
}

void SimulatedKernel::check_memory(const Request& request) {
  if (request.file && request.reads_memory && checksum(request) != request.memory)
    violate("memory of a request in flight was changed");
}

void SimulatedKernel::changed() {
  for (auto& entry : files_) {
    Ring* ring = ring_at(entry.first);
    if (ring == nullptr || ring->waiting.empty() || ring->sleeper) continue;
    const bool ready = std::any_of(ring->waiting.begin(), ring->waiting.end(),
                                   [this](const Request& request) { return is_ready(request); });
    if (!ready) continue;
    if (!ring->cooperative())
      run_task_work(*ring, true);
    else if (ring->flags & IORING_SETUP_TASKRUN_FLAG)
      ring->set_flag(IORING_SQ_TASKRUN, true);
  }
}

bool SimulatedKernel::has_exited(int which) const {
  if (exited_.count(which) != 0) return true;
  return backing_ == Backing::kReal && syscall(SYS_tgkill, getpid(), which, 0) < 0 &&
         errno == ESRCH;
}

void SimulatedKernel::exit_thread(int which) {
  exited_.insert(which);
  changed();
}

bool SimulatedKernel::post(int ring_fd, std::uint64_t user_data, int result, unsigned flags) {
  Ring* ring = ring_at(ring_fd);
  if (ring != nullptr) ring->add({user_data, result, flags});
  return ring != nullptr;
}

void SimulatedKernel::end_requests(int ring_fd, int result) {
  Ring* ring = ring_at(ring_fd);
  for (const Request& request : ring->waiting) complete(*ring, request, result);
  ring->waiting.clear();
  flush(*ring);
}

void SimulatedKernel::end_closed_rings() {
  std::vector<Request> ending;
  ending.swap(closing_);
  for (const Request& request : ending) check_memory(request);
  ending.clear();
  changed();
}

std::size_t SimulatedKernel::requests(int ring_fd) const {
  Ring* ring = ring_at(ring_fd);
  return ring == nullptr ? 0 : ring->waiting.size();
}

std::size_t SimulatedKernel::requests() const {
  std::size_t count = closing_.size();
  for (auto& entry : files_) count += requests(entry.first);
  return count;
}

std::vector<unsigned> SimulatedKernel::rings() const {
  std::vector<unsigned> flags;
  for (auto& entry : files_) {
    if (const Ring* ring = ring_at(entry.first)) flags.push_back(ring->flags);
  }
  return flags;
}

unsigned SimulatedKernel::ring_flags(int ring_fd) const {
  Ring* ring = ring_at(ring_fd);
  return ring == nullptr ? 0 : ring->flags;
}

}  // namespace uring::test
