#include "simulated_files.hpp"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

#include "kernel.hpp"

namespace uring::test {
namespace {

// Descriptors that hold a real file are far from those that a program is given, so that the
// numbers which it sees are the ones that it would see without them.
constexpr int kFirstHeld = 600;

std::int64_t or_errno(std::int64_t result) { return result < 0 ? -errno : result; }

}  // namespace

std::string joined(const msghdr& message) {
  std::string bytes;
  for (std::size_t index = 0; index < message.msg_iovlen; ++index)
    bytes.append(static_cast<const char*>(message.msg_iov[index].iov_base),
                 message.msg_iov[index].iov_len);
  return bytes;
}

std::int64_t File::read(void*, std::size_t) { return -EBADF; }

std::int64_t File::write(const void*, std::size_t) { return -EBADF; }

std::int64_t File::write_nowait(const void* buffer, std::size_t size) {
  return write(buffer, size);
}

std::int64_t File::receive(void* buffer, std::size_t size, int, sockaddr*, socklen_t* length) {
  if (length != nullptr) *length = 0;
  return read(buffer, size);
}

std::int64_t File::send(const void* buffer, std::size_t size, int) { return write(buffer, size); }

std::int64_t File::send_message(const msghdr& message, std::size_t size, int) {
  const std::string bytes = joined(message);
  return write(bytes.data(), std::min(size, bytes.size()));
}

// -- make-believe --

MadeUpFile::~MadeUpFile() {
  if (in) in->broken = true;
  if (out) out->ended = true;
}

std::uint32_t MadeUpFile::events() const {
  switch (type) {
    case Type::kEvent:
      return POLLOUT | (counter != 0 ? POLLIN : 0);
    case Type::kRegular:
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

std::int64_t MadeUpFile::write(const void* buffer, std::size_t size) {
  if (type == Type::kEvent) {
    std::uint64_t number;
    if (size != sizeof(number)) return -EINVAL;
    memcpy(&number, buffer, sizeof(number));
    counter += number;
    return static_cast<std::int64_t>(size);
  }
  if (!out) return -EBADF;
  if (in && in->reset) return -ECONNRESET;
  if (out->broken) return -EPIPE;
  if (size == 0) return 0;
  if (out->room() == 0) return -EAGAIN;
  size = std::min(size, out->room());
  out->bytes.append(static_cast<const char*>(buffer), size);
  return static_cast<std::int64_t>(size);
}

std::int64_t MadeUpFile::write_nowait(const void* buffer, std::size_t size) {
  if (is_fifo) return -EOPNOTSUPP;
  // Of those that can't tell beforehand.
  if (type == Type::kEvent && !has_o_nonblock) return -EAGAIN;
  return write(buffer, size);
}

std::int64_t MadeUpFile::read(void* buffer, std::size_t size) {
  if (type == Type::kEvent) {
    if (size < sizeof(counter)) return -EINVAL;
    if (counter == 0) return -EAGAIN;
    memcpy(buffer, &counter, sizeof(counter));
    counter = 0;
    return sizeof(counter);
  }
  if (!in) return -EBADF;
  if (in->reset) return -ECONNRESET;
  if (type == Type::kDatagram) {
    if (in->datagrams.empty()) return -EAGAIN;
    const std::string datagram = std::move(in->datagrams.front());
    in->datagrams.pop_front();
    in->queued -= datagram.size();
    size = std::min(size, datagram.size());
    memcpy(buffer, datagram.data(), size);
    return static_cast<std::int64_t>(size);
  }
  if (in->bytes.empty()) return in->ended ? 0 : -EAGAIN;
  size = std::min(size, in->bytes.size());
  memcpy(buffer, in->bytes.data(), size);
  in->bytes.erase(0, size);
  return static_cast<std::int64_t>(size);
}

std::int64_t MadeUpFile::send_message(const msghdr& message, std::size_t size, int flags) {
  if (type != Type::kDatagram) return File::send_message(message, size, flags);
  const std::string bytes = joined(message);
  if (message.msg_namelen == 0) return -EDESTADDRREQ;
  const std::string name(static_cast<const char*>(message.msg_name), message.msg_namelen);
  auto found = addresses->find(name);
  auto queue = found == addresses->end() ? nullptr : found->second.lock();
  if (queue && !queue->broken) {  // else it is lost, as datagrams are
    if (queue->room() < bytes.size()) return -EAGAIN;
    queue->datagrams.push_back(bytes);
    queue->queued += bytes.size();
  }
  return static_cast<std::int64_t>(bytes.size());
}

// -- epoll sets --

std::uint32_t EpollFile::Interest::holds() const {
  constexpr std::uint32_t kPrivate = EPOLLONESHOT;
  const FilePointer open = file.lock();
  // A single interest that was told asks for nothing, not even for errors.
  if (!open || (event.events & ~kPrivate) == 0) return 0;
  return open->events() & (event.events | POLLERR | POLLHUP) & ~kPrivate;
}

int EpollFile::control(int operation, int fd, const FilePointer& file, const epoll_event& event) {
  if (!file) return -EBADF;
  if (!file->can_poll()) return -EPERM;
  const auto found =
      std::find_if(interests_.begin(), interests_.end(), [&](const Interest& interest) {
        return interest.fd == fd && interest.file.lock() == file;
      });
  if (operation == EPOLL_CTL_ADD) {
    if (found != interests_.end()) return -EEXIST;
    interests_.push_back({fd, file, event});
    return 0;
  }
  if (found == interests_.end()) return -ENOENT;
  if (operation == EPOLL_CTL_MOD)
    found->event = event;
  else
    interests_.erase(found);
  return 0;
}

int EpollFile::collect(epoll_event* events, int limit) {
  int count = 0;
  for (Interest& interest : interests_) {
    const std::uint32_t holds = interest.holds();
    if (holds == 0 || count == limit) continue;
    events[count] = interest.event;
    events[count++].events = holds;
    if (interest.event.events & EPOLLONESHOT) interest.event.events = EPOLLONESHOT;
  }
  return count;
}

std::uint32_t EpollFile::events() const {
  for (const Interest& interest : interests_)
    if (interest.holds() != 0) return POLLIN;
  return 0;
}

// -- rings --

RingFile::~RingFile() {
  if (reserved_ >= 0) real_kernel().close(nullptr, reserved_);
}

std::uint32_t RingFile::events() const { return POLLIN | POLLOUT; }

// -- the process's own --

RealFile::RealFile(int fd, bool duplicate) : fd_(fd), owned_(duplicate) {
  if (!duplicate) {
    if (fcntl(fd, F_GETFD) < 0) fd_ = -1;
    return;
  }
  fd_ = fcntl(fd, F_DUPFD_CLOEXEC, kFirstHeld);
  // EINVAL: the limit of descriptors is lower.
  if (fd_ < 0 && errno == EINVAL) fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

RealFile::~RealFile() {
  if (owned_ && fd_ >= 0) ::close(fd_);
}

std::uint32_t RealFile::events() const {
  pollfd asked{fd_, POLLIN | POLLPRI | POLLOUT | POLLRDHUP, 0};
  return ::poll(&asked, 1, 0) > 0 ? static_cast<std::uint32_t>(asked.revents) : 0;
}

bool RealFile::is_socket() const {
  struct stat status;
  return fstat(fd_, &status) == 0 && S_ISSOCK(status.st_mode);
}

bool RealFile::nonblocking() const { return (fcntl(fd_, F_GETFL) & O_NONBLOCK) != 0; }

bool RealFile::divisible() const {
  struct stat status;
  if (fstat(fd_, &status) != 0) return false;
  if (S_ISFIFO(status.st_mode)) return true;
  int type = 0;
  socklen_t size = sizeof(type);
  return getsockopt(fd_, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

std::int64_t RealFile::read(void* buffer, std::size_t size) {
  return or_errno(::read(fd_, buffer, size));
}

std::int64_t RealFile::write(const void* buffer, std::size_t size) {
  if (!nonblocking()) {
    // What poll(2) says is true of so many bytes.
    if (!(events() & (POLLOUT | POLLERR | POLLHUP))) return -EAGAIN;
    size = std::min<std::size_t>(size, PIPE_BUF);
  }
  return or_errno(::write(fd_, buffer, size));
}

std::int64_t RealFile::write_nowait(const void* buffer, std::size_t size) {
  const iovec piece{const_cast<void*>(buffer), size};
  return or_errno(::pwritev2(fd_, &piece, 1, -1, RWF_NOWAIT));
}

std::int64_t RealFile::receive(void* buffer, std::size_t size, int flags, sockaddr* address,
                               socklen_t* length) {
  return or_errno(::recvfrom(fd_, buffer, size, flags, address, length));
}

std::int64_t RealFile::send(const void* buffer, std::size_t size, int flags) {
  return or_errno(::send(fd_, buffer, size, flags | MSG_DONTWAIT));
}

std::int64_t RealFile::send_message(const msghdr& message, std::size_t size, int flags) {
  std::vector<iovec> pieces(message.msg_iov, message.msg_iov + message.msg_iovlen);
  for (iovec& piece : pieces) {
    piece.iov_len = std::min(piece.iov_len, size);
    size -= piece.iov_len;
  }
  msghdr part = message;
  part.msg_iov = pieces.data();
  return or_errno(::sendmsg(fd_, &part, flags | MSG_DONTWAIT));
}

}  // namespace uring::test
