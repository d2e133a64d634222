#include "simulated_kernel.hpp"

#include <errno.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

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
// What an enter takes, so that whoever polls for a time comes to its end.
constexpr std::int64_t kCallTime = 1000;

// Where things stand in the queues' mapping; in bytes.
constexpr unsigned kSqOffset = 0;
constexpr unsigned kCqOffset = 64;
constexpr unsigned kCqesOffset = 128;
enum Word { kHead, kTail, kMask, kEntries, kFlags, kLost };

unsigned power_of_two(unsigned number) {
  unsigned power = 1;
  while (power < number) power *= 2;
  return power;
}

std::uint64_t mix(std::uint64_t hash, const void* data, std::size_t size) {
  const unsigned char* bytes = static_cast<const unsigned char*>(data);
  for (std::size_t index = 0; index < size; ++index)
    hash = (hash ^ bytes[index]) * 1099511628211ULL;
  return hash;
}

std::string joined(const msghdr& message) {
  std::string bytes;
  for (std::size_t index = 0; index < message.msg_iovlen; ++index)
    bytes.append(static_cast<const char*>(message.msg_iov[index].iov_base),
                 message.msg_iov[index].iov_len);
  return bytes;
}

}  // namespace

// What one file writes and another reads.
struct SimulatedKernel::Queue {
  std::size_t capacity = 0;
  std::string bytes;                  // of a stream or a pipe
  std::deque<std::string> datagrams;  // of a datagram socket
  std::size_t queued = 0;             // bytes in `datagrams`
  bool ended = false;                 // the writing side is closed
  bool broken = false;                // the reading side is closed
  bool reset = false;

  std::size_t room() const { return capacity - std::min(capacity, bytes.size() + queued); }
  bool readable() const { return !bytes.empty() || !datagrams.empty() || ended || reset; }
};

// An open file; closed when the last who holds it lets go.
struct SimulatedKernel::File {
  enum class Type { kStream, kPipe, kDatagram, kEvent, kRegular, kRing };

  explicit File(Type its_type) : type(its_type) {}
  ~File() {
    if (in) in->broken = true;
    if (out) out->ended = true;
  }

  Type type;
  bool nonblocking = false;
  std::shared_ptr<Queue> in, out;
  std::uint64_t counter = 0;  // kEvent
  std::string content;        // kRegular
  std::shared_ptr<Ring> ring;

  // As poll(2) has them.
  std::uint32_t events() const {
    switch (type) {
      case Type::kEvent:
        return POLLOUT | (counter != 0 ? POLLIN : 0);
      case Type::kRegular:
      case Type::kRing:
        return POLLIN | POLLOUT;
      case Type::kDatagram:
        // Whether there is room depends on the peer.
        return POLLOUT | (in->readable() ? POLLIN : 0);
      case Type::kPipe:
        if (in) return (in->bytes.empty() ? 0 : POLLIN) | (in->ended ? POLLHUP : 0);
        return (out->room() > 0 ? POLLOUT : 0) | (out->broken ? POLLOUT | POLLERR : 0);
      case Type::kStream:
        break;
    }
    std::uint32_t result = 0;
    if (in->readable()) result |= POLLIN;
    if (in->ended) result |= POLLRDHUP | POLLHUP;
    if (in->reset) result |= POLLERR;
    if (out->room() > 0 || out->broken) result |= POLLOUT;
    return result;
  }
};

struct SimulatedKernel::Request {
  io_uring_sqe sqe;
  FilePointer file;
  int thread = 0;
  bool cancelled = false;
  bool reads_memory = true;
  int said = 0;              // completions with F_MORE
  std::uint64_t memory = 0;  // checksum of what the kernel was told to read
};

struct SimulatedKernel::Ring {
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
  std::vector<std::uint64_t> queues, sqes;
  std::list<Request> waiting;
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
    if (!overflow.empty() || !write(completed)) {
      overflow.push_back(completed);
      set_flag(IORING_SQ_CQ_OVERFLOW, true);
    }
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

SimulatedKernel::SimulatedKernel(std::uint64_t seed)
    : known_setup_flags(kSetupFlags),
      known_enter_flags(kEnterFlags),
      features(kFeatures),
      known_operations{IORING_OP_NOP,  IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL,
                       IORING_OP_SEND, IORING_OP_SENDMSG,  IORING_OP_WRITE},
      orphan_result(-EFAULT),
      largest_transfer(std::numeric_limits<std::size_t>::max()),
      largest_submit(std::numeric_limits<unsigned>::max()),
      random_(seed) {
  // A process has these.
  for (int fd = 0; fd < 3; ++fd) open(std::make_shared<File>(File::Type::kRegular));
}

SimulatedKernel::~SimulatedKernel() { end_closed_rings(); }

Kernel SimulatedKernel::table() noexcept {
  using Self = SimulatedKernel;
  Kernel table{};
  table.self = this;
  table.setup = [](void* self, unsigned entries, io_uring_params* params) {
    return static_cast<Self*>(self)->setup(entries, params);
  };
  table.enter = [](void* self, int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                   const void* argument, std::size_t size) {
    return static_cast<Self*>(self)->enter(fd, to_submit, min_complete, flags, argument, size);
  };
  table.register_ = [](void* self, int fd, unsigned opcode, void* argument, unsigned count) {
    return static_cast<Self*>(self)->register_(fd, opcode, argument, count);
  };
  table.mmap = [](void* self, std::size_t length, int fd, std::int64_t offset, void** address) {
    return static_cast<Self*>(self)->mmap(length, fd, offset, address);
  };
  table.munmap = [](void* self, void* address, std::size_t length) {
    return static_cast<Self*>(self)->munmap(address, length);
  };
  table.madvise = [](void* self, void* address, std::size_t length, int advice) {
    return static_cast<Self*>(self)->madvise(address, length, advice);
  };
  table.eventfd = [](void* self, unsigned initial, int flags) {
    return static_cast<Self*>(self)->eventfd(initial, flags);
  };
  table.close = [](void* self, int fd) { return static_cast<Self*>(self)->close(fd); };
  table.read = [](void* self, int fd, void* buffer, std::size_t size) {
    return static_cast<Self*>(self)->read(fd, buffer, size);
  };
  table.write = [](void* self, int fd, const void* buffer, std::size_t size) {
    return static_cast<Self*>(self)->write(fd, buffer, size);
  };
  table.recvfrom = [](void* self, int fd, void* buffer, std::size_t size, int flags,
                      sockaddr* address, socklen_t* length) {
    return static_cast<Self*>(self)->recvfrom(fd, buffer, size, flags, address, length);
  };
  table.send = [](void* self, int fd, const void* buffer, std::size_t size, int flags) {
    return static_cast<Self*>(self)->send(fd, buffer, size, flags);
  };
  table.sendfile = [](void* self, int socket, int file, std::int64_t offset, std::size_t count) {
    return static_cast<Self*>(self)->sendfile(socket, file, offset, count);
  };
  table.clock = [](void* self) { return static_cast<Self*>(self)->now; };
  table.sleep = [](void* self, std::int64_t nanoseconds) {
    static_cast<Self*>(self)->now += nanoseconds;
    static_cast<Self*>(self)->slept += nanoseconds;
  };
  table.thread_id = [](void* self) { return static_cast<Self*>(self)->thread; };
  table.fork_count = [](void* self) { return static_cast<Self*>(self)->forks; };
  return table;
}

// -- faults --

bool SimulatedKernel::chance(unsigned in_a_thousand) {
  return in_a_thousand != 0 && below(1000) < in_a_thousand;
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

void SimulatedKernel::force_result(unsigned opcode, int result) {
  forced_[opcode].push_back(result);
}

std::size_t SimulatedKernel::limited(std::size_t size) {
  if (size > largest_transfer) size = largest_transfer;
  if (size > 1 && chance(chances.short_transfer)) size = 1 + below(size - 1);
  return size;
}

// -- files --

int SimulatedKernel::open(FilePointer file) {
  int fd = 0;
  while (files_.count(fd) != 0) ++fd;
  files_[fd] = std::move(file);
  return fd;
}

SimulatedKernel::FilePointer SimulatedKernel::file_at(int fd) const {
  auto found = files_.find(fd);
  return found == files_.end() ? nullptr : found->second;
}

SimulatedKernel::Ring* SimulatedKernel::ring_at(int fd) const {
  auto found = files_.find(fd);
  return found == files_.end() ? nullptr : found->second->ring.get();
}

std::pair<int, int> SimulatedKernel::stream_pair(std::size_t capacity) {
  auto one = std::make_shared<File>(File::Type::kStream);
  auto two = std::make_shared<File>(File::Type::kStream);
  one->out = two->in = std::make_shared<Queue>();
  two->out = one->in = std::make_shared<Queue>();
  one->out->capacity = two->out->capacity = capacity;
  const int fd = open(one);
  return {fd, open(two)};
}

std::pair<int, int> SimulatedKernel::pipe(std::size_t capacity, bool nonblocking) {
  auto reader = std::make_shared<File>(File::Type::kPipe);
  auto writer = std::make_shared<File>(File::Type::kPipe);
  reader->in = writer->out = std::make_shared<Queue>();
  reader->in->capacity = capacity;
  reader->nonblocking = writer->nonblocking = nonblocking;
  const int fd = open(writer);
  return {fd, open(reader)};
}

int SimulatedKernel::datagram_socket(const std::string& address, std::size_t capacity) {
  auto file = std::make_shared<File>(File::Type::kDatagram);
  file->in = std::make_shared<Queue>();
  file->in->capacity = capacity;
  addresses_[address] = file->in;
  return open(file);
}

int SimulatedKernel::regular_file(std::string content) {
  auto file = std::make_shared<File>(File::Type::kRegular);
  file->content = std::move(content);
  return open(file);
}

std::int64_t SimulatedKernel::write_to(File& file, const void* buffer, std::size_t size) {
  if (file.type == File::Type::kEvent) {
    std::uint64_t number;
    if (size != sizeof(number)) return -EINVAL;
    memcpy(&number, buffer, sizeof(number));
    file.counter += number;
    return static_cast<std::int64_t>(size);
  }
  if (!file.out) return -EBADF;
  if (file.in && file.in->reset) return -ECONNRESET;
  if (file.out->broken) return -EPIPE;
  if (size == 0) return 0;
  if (file.out->room() == 0) return -EAGAIN;
  size = std::min(size, file.out->room());
  file.out->bytes.append(static_cast<const char*>(buffer), size);
  return static_cast<std::int64_t>(size);
}

std::int64_t SimulatedKernel::read_from(File& file, void* buffer, std::size_t size) {
  if (file.type == File::Type::kEvent) {
    if (size < sizeof(file.counter)) return -EINVAL;
    if (file.counter == 0) return -EAGAIN;
    memcpy(buffer, &file.counter, sizeof(file.counter));
    file.counter = 0;
    return sizeof(file.counter);
  }
  if (!file.in) return -EBADF;
  if (file.in->reset) return -ECONNRESET;
  std::string& bytes = file.in->bytes;
  if (file.type == File::Type::kDatagram) {
    if (file.in->datagrams.empty()) return -EAGAIN;
    const std::string datagram = std::move(file.in->datagrams.front());
    file.in->datagrams.pop_front();
    file.in->queued -= datagram.size();
    size = std::min(size, datagram.size());
    memcpy(buffer, datagram.data(), size);
    return static_cast<std::int64_t>(size);
  }
  if (bytes.empty()) return file.in->ended ? 0 : -EAGAIN;
  size = std::min(size, bytes.size());
  memcpy(buffer, bytes.data(), size);
  bytes.erase(0, size);
  return static_cast<std::int64_t>(size);
}

std::int64_t SimulatedKernel::send_message(File& file, const msghdr& message) {
  const std::string bytes = joined(message);
  if (file.type != File::Type::kDatagram)
    return write_to(file, bytes.data(), limited(bytes.size()));
  if (message.msg_namelen == 0) return -EDESTADDRREQ;
  const std::string name(static_cast<const char*>(message.msg_name), message.msg_namelen);
  auto found = addresses_.find(name);
  auto queue = found == addresses_.end() ? nullptr : found->second.lock();
  if (queue && !queue->broken) {  // else it is lost, as datagrams are
    if (queue->room() < bytes.size()) return -EAGAIN;
    queue->datagrams.push_back(bytes);
    queue->queued += bytes.size();
  }
  return static_cast<std::int64_t>(bytes.size());
}

std::int64_t SimulatedKernel::put(int fd, const std::string& bytes) {
  FilePointer file = file_at(fd);
  if (!file) return -EBADF;
  const std::int64_t result = write_to(*file, bytes.data(), bytes.size());
  changed();
  return result;
}

std::string SimulatedKernel::take(int fd, std::size_t most) {
  FilePointer file = file_at(fd);
  if (!file || !file->in) return std::string();
  const bool datagram = file->type == File::Type::kDatagram;
  std::string bytes(datagram ? 65536 : std::min(most, file->in->bytes.size()), '\0');
  const std::int64_t result = read_from(*file, bytes.data(), bytes.size());
  bytes.resize(result < 0 ? 0 : static_cast<std::size_t>(result));
  changed();
  return bytes;
}

bool SimulatedKernel::at_end(int fd) {
  FilePointer file = file_at(fd);
  return file && file->in && file->in->bytes.empty() && file->in->ended;
}

void SimulatedKernel::close_file(int fd) {
  files_.erase(fd);
  changed();
}

void SimulatedKernel::reset(int fd) {
  FilePointer file = file_at(fd);
  file->out->reset = true;
  file->out->bytes.clear();
  file.reset();
  close_file(fd);
}

int SimulatedKernel::eventfd(unsigned initial, int flags) {
  if (int error = failure(Call::kEventfd)) return error;
  auto file = std::make_shared<File>(File::Type::kEvent);
  file->counter = initial;
  file->nonblocking = (flags & EFD_NONBLOCK) != 0;
  return open(file);
}

int SimulatedKernel::close(int fd) {
  if (int error = failure(Call::kClose)) return error;
  FilePointer file = file_at(fd);
  if (!file) {
    violate("close of descriptor " + std::to_string(fd) + ", which is not open");
    return -EBADF;
  }
  // A child's copy of a ring goes without the parent's.
  if (file->ring && file->ring->forks == forks) {
    for (Request& request : file->ring->waiting) {
      // Nobody runs the task work of a DEFER_TASKRUN ring any more: what waits is only ended.
      request.reads_memory = !file->ring->deferred();
      closing_.push_back(std::move(request));
    }
    file->ring->waiting.clear();
  }
  files_.erase(fd);
  file.reset();
  changed();
  return 0;
}

std::int64_t SimulatedKernel::read(int fd, void* buffer, std::size_t size) {
  if (int error = failure(Call::kRead)) return error;
  FilePointer file = file_at(fd);
  const std::int64_t result = file ? read_from(*file, buffer, size) : -EBADF;
  changed();
  return result;
}

std::int64_t SimulatedKernel::write(int fd, const void* buffer, std::size_t size) {
  if (int error = failure(Call::kWrite)) return error;
  FilePointer file = file_at(fd);
  const std::int64_t result = file ? write_to(*file, buffer, size) : -EBADF;
  changed();
  return result;
}

std::int64_t SimulatedKernel::recvfrom(int fd, void* buffer, std::size_t size, int,
                                       sockaddr*, socklen_t* length) {
  if (int error = failure(Call::kReceive)) return error;
  FilePointer file = file_at(fd);
  const std::int64_t result = file ? read_from(*file, buffer, size) : -EBADF;
  if (length != nullptr) *length = 0;
  changed();
  return result;
}

std::int64_t SimulatedKernel::send(int fd, const void* buffer, std::size_t size, int flags) {
  if (int error = failure(Call::kSend)) return error;
  FilePointer file = file_at(fd);
  if (!(flags & MSG_NOSIGNAL)) violate("send(2) that may raise SIGPIPE");
  const std::int64_t result = file ? write_to(*file, buffer, limited(size)) : -EBADF;
  changed();
  return result;
}

std::int64_t SimulatedKernel::sendfile(int socket, int file, std::int64_t offset,
                                       std::size_t count) {
  if (int error = failure(Call::kSendfile)) return error;
  FilePointer to = file_at(socket);
  FilePointer from = file_at(file);
  if (!to || !from) return -EBADF;
  if (from->type != File::Type::kRegular || offset < 0) return -EINVAL;
  const std::size_t start = std::min(static_cast<std::size_t>(offset), from->content.size());
  count = std::min(count, from->content.size() - start);
  if (count == 0) return 0;
  const std::int64_t result = write_to(*to, from->content.data() + start, limited(count));
  changed();
  return result;
}

// -- rings --

int SimulatedKernel::setup(unsigned entries, io_uring_params* params) {
  if (int error = failure(Call::kSetup)) return error;
  const unsigned flags = params->flags;
  if (flags & ~known_setup_flags) return -EINVAL;
  const bool deferred = (flags & IORING_SETUP_DEFER_TASKRUN) != 0;
  if (deferred && !(flags & IORING_SETUP_SINGLE_ISSUER)) return -EINVAL;
  if ((flags & IORING_SETUP_TASKRUN_FLAG) && !deferred && !(flags & IORING_SETUP_COOP_TASKRUN))
    return -EINVAL;
  if (entries == 0 || entries > kLargestRing) return -EINVAL;

  auto ring = std::make_shared<Ring>();
  ring->flags = flags;
  ring->forks = forks;
  ring->sq_entries = power_of_two(entries);
  ring->cq_entries = 2 * ring->sq_entries;
  if (flags & IORING_SETUP_CQSIZE) {
    if (params->cq_entries == 0 || params->cq_entries > 2 * kLargestRing) return -EINVAL;
    ring->cq_entries = power_of_two(params->cq_entries);
    if (ring->cq_entries < ring->sq_entries) return -EINVAL;
  }
  if ((flags & IORING_SETUP_SINGLE_ISSUER) && !(flags & IORING_SETUP_R_DISABLED))
    ring->owner = thread;

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

  auto file = std::make_shared<File>(File::Type::kRing);
  file->ring = std::move(ring);
  return open(std::move(file));
}

int SimulatedKernel::mmap(std::size_t length, int fd, std::int64_t offset, void** address) {
  if (int error = failure(Call::kMmap)) return error;
  FilePointer file = file_at(fd);
  if (!file || !file->ring) return -EBADF;
  std::vector<std::uint64_t>* memory = nullptr;
  if (offset == static_cast<std::int64_t>(IORING_OFF_SQ_RING)) memory = &file->ring->queues;
  if (offset == static_cast<std::int64_t>(IORING_OFF_SQES)) memory = &file->ring->sqes;
  if (memory == nullptr || length > memory->size() * 8) return -EINVAL;
  *address = memory->data();
  mappings_[*address] = {length, file->ring, forks, true};
  return 0;
}

int SimulatedKernel::munmap(void* address, std::size_t length) {
  if (int error = failure(Call::kMunmap)) return error;
  auto found = mappings_.find(address);
  if (found == mappings_.end() || found->second.length != length ||
      (found->second.forks != forks && !found->second.in_children)) {
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
  if (int error = failure(Call::kRegister)) return error;
  Ring* ring = ring_at(fd);
  if (ring == nullptr) return -EBADF;
  if (ring->forks != forks) violate("a child registers with its parent's ring");
  switch (opcode) {
    case IORING_REGISTER_ENABLE_RINGS:
      if (!(ring->flags & IORING_SETUP_R_DISABLED)) return -EBADFD;
      ring->flags &= ~IORING_SETUP_R_DISABLED;
      ring->owner = thread;
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
  return !(ring.flags & IORING_SETUP_SINGLE_ISSUER) || ring.owner == thread;
}

int SimulatedKernel::enter(int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
                           const void* argument, std::size_t size) {
  last_enter_flags = flags;
  now += kCallTime;
  if (int error = failure(Call::kEnter)) return error;
  FilePointer held = file_at(fd);
  Ring* ring = ring_at(fd);
  if (ring == nullptr) return -EBADF;
  if (ring->forks != forks) violate("a child enters its parent's ring");
  if (flags & ~known_enter_flags) return -EINVAL;
  if (ring->flags & IORING_SETUP_R_DISABLED) return -EBADFD;
  if (to_submit != 0 && !may_enter(*ring)) return -EEXIST;
  if (chance(chances.failed_enter)) {
    // No memory for a request, no room for its completion, a signal.
    if (to_submit != 0) return ring->overflow.empty() ? -EAGAIN : -EBUSY;
    if (min_complete != 0) return -EINTR;
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
      give_up = now + timeout.tv_sec * 1000000000 + timeout.tv_nsec;
    }
  }
  min_complete = std::min(min_complete, ring->cq_entries);
  for (int round = 0;; ++round) {
    // What is held back from one who does not wait, or waits in vain, comes in a later enter.
    run_task_work(*ring, round < kMostHeldBack);
    flush_overflow(*ring);
    if (ring->visible() >= min_complete) break;
    const bool more = std::any_of(ring->waiting.begin(), ring->waiting.end(),
                                  [this](const Request& request) { return is_ready(request); });
    const bool endless = round > kMostRounds;
    if (!endless && (more || (while_asleep && while_asleep()))) continue;
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

int SimulatedKernel::submit(Ring& ring, unsigned count) {
  unsigned limit = std::min(count, largest_submit);
  if (limit > 1 && chance(chances.short_submit))
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
  request.thread = thread;
  if (known_operations.count(sqe.opcode) == 0 || sqe.flags != 0) {
    complete(ring, request, -EINVAL);
    return false;
  }
  if (sqe.opcode == IORING_OP_ASYNC_CANCEL) {
    cancel(ring, sqe.user_data, sqe.addr);
    return true;
  }
  // The upper half of an operation's key is never 0.
  if (sqe.user_data >> 32 != 0 &&
      std::any_of(ring.waiting.begin(), ring.waiting.end(), [&sqe](const Request& other) {
        return other.sqe.user_data == sqe.user_data;
      }))
    violate("an operation is submitted while the kernel has it");
  if (sqe.opcode != IORING_OP_NOP) {
    request.file = file_at(sqe.fd);
    if (!request.file) {
      complete(ring, request, -EBADF);
      return false;
    }
  }
  request.memory = checksum(request);
  int result;
  if (attempt(request, &result))
    complete(ring, request, result);
  else
    ring.waiting.push_back(std::move(request));
  return true;
}

void SimulatedKernel::cancel(Ring& ring, std::uint64_t user_data, std::uint64_t target) {
  auto found = std::find_if(
      ring.waiting.begin(), ring.waiting.end(),
      [target](const Request& request) { return request.sqe.user_data == target; });
  int answer = -ENOENT;
  if (found != ring.waiting.end()) {
    answer = found->cancelled ? -EALREADY : 0;
    if (late_cancels || chance(chances.late_cancel)) {
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
    if (found != ring.waiting.end()) found->cancelled = true;
  }
  ring.batch.push_back({user_data, answer, 0});
}

// What must be so before a request can go on.
std::uint32_t SimulatedKernel::wanted_events(const Request& request) const {
  if (request.sqe.opcode == IORING_OP_POLL_ADD)
    return request.sqe.poll32_events | POLLERR | POLLHUP;
  return POLLOUT | POLLERR | POLLHUP;
}

bool SimulatedKernel::is_ready(const Request& request) const {
  if (request.cancelled) return true;
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
    if (exited_.count(request.thread) != 0) {
      *result = orphan_result;
      return true;
    }
    if (chance(chances.spurious)) {
      constexpr int kErrors[] = {-EINTR, -ECANCELED, -EAGAIN};
      *result = kErrors[below(opcode == IORING_OP_POLL_ADD ? 2 : 3)];
      return true;
    }
    if (opcode != IORING_OP_POLL_ADD && chance(chances.zero_transfer)) {
      *result = 0;
      return true;
    }
  }
  *result = perform(request);
  if (*result != -EAGAIN) return true;
  if (opcode == IORING_OP_SEND || opcode == IORING_OP_SENDMSG)
    return (request.sqe.msg_flags & MSG_DONTWAIT) != 0;
  return opcode == IORING_OP_WRITE && request.file->nonblocking;
}

int SimulatedKernel::perform(Request& request) {
  const io_uring_sqe& sqe = request.sqe;
  File& file = *request.file;
  const bool socket =
      file.type == File::Type::kStream || file.type == File::Type::kDatagram;
  switch (sqe.opcode) {
    case IORING_OP_POLL_ADD: {
      const std::uint32_t events = file.events() & wanted_events(request);
      return events != 0 ? static_cast<int>(events) : -EAGAIN;
    }
    case IORING_OP_SEND:
      if (!socket) return -ENOTSOCK;
      if (!(sqe.msg_flags & MSG_NOSIGNAL)) violate("a send that may raise SIGPIPE");
      return static_cast<int>(
          write_to(file, reinterpret_cast<const void*>(sqe.addr), limited(sqe.len)));
    case IORING_OP_SENDMSG:
      if (!socket) return -ENOTSOCK;
      if (!(sqe.msg_flags & MSG_NOSIGNAL)) violate("a sendmsg that may raise SIGPIPE");
      return static_cast<int>(send_message(file, *reinterpret_cast<const msghdr*>(sqe.addr)));
    case IORING_OP_WRITE:
      return static_cast<int>(
          write_to(file, reinterpret_cast<const void*>(sqe.addr), limited(sqe.len)));
    default:
      return -EINVAL;
  }
}

// Completions that end nothing.
void SimulatedKernel::talk_idly(Ring& ring) {
  constexpr int kResults[] = {0, 1, 7, -EINTR, -EAGAIN, -ECANCELED};
  for (Request& request : ring.waiting) {
    if (request.said == kMostSaid || !chance(chances.more)) continue;
    ++request.said;
    ring.add({request.sqe.user_data, kResults[below(6)], IORING_CQE_F_MORE});
  }
  if (!ended_keys.empty() && chance(chances.stray)) {
    ++strays;
    ring.add({ended_keys[below(ended_keys.size())], kResults[below(6)], 0});
  }
}

void SimulatedKernel::run_task_work(Ring& ring, bool hold_back) {
  talk_idly(ring);
  std::vector<std::list<Request>::iterator> ready;
  for (auto request = ring.waiting.begin(); request != ring.waiting.end(); ++request) {
    if (is_ready(*request) && !(hold_back && chance(chances.hold_back))) ready.push_back(request);
  }
  for (auto request : ready) {
    int result;
    // The one before may have taken the room.
    if (!attempt(*request, &result)) continue;
    complete(ring, *request, result);
    ring.waiting.erase(request);
  }
  flush(ring);
  if (ring.flags & IORING_SETUP_TASKRUN_FLAG) ring.set_flag(IORING_SQ_TASKRUN, false);
}

void SimulatedKernel::complete(Ring& ring, const Request& request, int result) {
  check_memory(request);
  ring.batch.push_back({request.sqe.user_data, result, 0});
}

void SimulatedKernel::flush(Ring& ring) {
  std::vector<Ring::Completed> batch;
  batch.swap(ring.batch);
  if (batch.size() > 1 && chance(chances.reorder)) {
    for (std::size_t index = batch.size(); --index > 0;)
      std::swap(batch[index], batch[below(index + 1)]);
  }
  for (const Ring::Completed& completed : batch) ring.add(completed);
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
    Ring* ring = entry.second->ring.get();
    if (ring == nullptr || ring->waiting.empty()) continue;
    const bool ready = std::any_of(ring->waiting.begin(), ring->waiting.end(),
                                   [this](const Request& request) { return is_ready(request); });
    if (!ready) continue;
    if (!ring->cooperative())
      run_task_work(*ring, true);
    else if (ring->flags & IORING_SETUP_TASKRUN_FLAG)
      ring->set_flag(IORING_SQ_TASKRUN, true);
  }
}

void SimulatedKernel::exit_thread(int which) {
  exited_.insert(which);
  changed();
}

void SimulatedKernel::post(int ring_fd, std::uint64_t user_data, int result, unsigned flags) {
  ring_at(ring_fd)->add({user_data, result, flags});
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

unsigned SimulatedKernel::ring_flags(int ring_fd) const {
  Ring* ring = ring_at(ring_fd);
  return ring == nullptr ? 0 : ring->flags;
}

}  // namespace uring::test
