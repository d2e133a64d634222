#include "operation_table.hpp"

#include <cassert>
#include <new>

namespace uring {

const char* kind_name(Kind kind) noexcept {
  switch (kind) {
    case Kind::kNone: return "none";
    case Kind::kPoll: return "poll";
    case Kind::kReceive: return "recv";
    case Kind::kReceiveFrom: return "recvfrom";
    case Kind::kRead: return "read";
    case Kind::kAccept: return "accept";
    case Kind::kConnect: return "connect";
    case Kind::kSendfile: return "sendfile";
    case Kind::kSend: return "send";
    case Kind::kSendTo: return "sendto";
    case Kind::kWrite: return "write";
  }
  return "unknown";
}

bool OperationTable::grow() noexcept {
  std::uint32_t first = capacity();
  if (first > kReservedSlot - kSlabSize) return false;
  Slab slab(new (std::nothrow) Operation[kSlabSize]);
  if (!slab) return false;
  try {
    slabs_.push_back(std::move(slab));
  } catch (const std::bad_alloc&) {
    return false;
  }
  for (std::uint32_t slot = first; slot < first + kSlabSize; ++slot) {
    at(slot)->slot = slot;
    push(&free_, at(slot));
  }
  return true;
}

Operation* OperationTable::allocate(Kind kind, int fd) noexcept {
  assert(fd >= 0);
  if (free_.empty() && !grow()) return nullptr;
  const std::size_t bucket = bucket_of(fd);
  if (bucket >= by_fd_.size()) {
    try {
      by_fd_.resize(bucket + 64, kNoSlot);
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
  }
  Operation* operation = pop(&free_);
  const std::uint32_t slot = operation->slot;
  // 31 bits: a key is handed out as an int64, where below 0 is an error.
  std::uint32_t generation = (operation->generation + 1) & 0x7fffffff;
  if (generation == 0) generation = 1;
  *operation = Operation{};
  operation->slot = slot;
  operation->generation = generation;
  operation->fd = fd;
  operation->kind = kind;
  operation->state = State::kQueued;
  operation->fd_next = by_fd_[bucket];
  if (operation->fd_next != kNoSlot) at(operation->fd_next)->fd_previous = slot;
  by_fd_[bucket] = slot;
  ++used_;
  return operation;
}

void OperationTable::release(Operation* operation) noexcept {
  assert(operation->state != State::kFree && operation->state != State::kInFlight);
  if (operation->fd_previous != kNoSlot)
    at(operation->fd_previous)->fd_next = operation->fd_next;
  else
    by_fd_[bucket_of(operation->fd)] = operation->fd_next;
  if (operation->fd_next != kNoSlot) at(operation->fd_next)->fd_previous = operation->fd_previous;
  if (operation->address != nullptr) {
    free_addresses_.push_back(operation->address);  // reserved when its slab was made
    operation->address = nullptr;
  }
  operation->state = State::kFree;
  operation->kind = Kind::kNone;
  --used_;
  push(&free_, operation);
}

AddressBlock* OperationTable::allocate_address(Operation* operation) noexcept {
  constexpr std::size_t kBlocks = 64;
  if (operation->address != nullptr) return operation->address;
  if (free_addresses_.empty()) {
    try {
      address_slabs_.push_back(std::make_unique<AddressBlock[]>(kBlocks));
      free_addresses_.reserve(address_slabs_.size() * kBlocks);
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
    for (std::size_t index = 0; index < kBlocks; ++index)
      free_addresses_.push_back(&address_slabs_.back()[index]);
  }
  operation->address = free_addresses_.back();
  free_addresses_.pop_back();
  return operation->address;
}

void OperationTable::abandon_addresses() noexcept {
  for (auto& slab : address_slabs_) slab.release();
  address_slabs_.clear();
}

void OperationTable::push_cancel(OperationList* list, Operation* operation) noexcept {
  append<&Operation::cancel_next, &Operation::cancel_previous>(list, operation);
}

void OperationTable::unlink_cancel(OperationList* list, Operation* operation) noexcept {
  remove<&Operation::cancel_next, &Operation::cancel_previous>(list, operation);
}

void OperationTable::push_watched(OperationList* list, Operation* operation) noexcept {
  append<&Operation::watch_next, &Operation::watch_previous>(list, operation);
}

void OperationTable::unlink_watched(OperationList* list, Operation* operation) noexcept {
  remove<&Operation::watch_next, &Operation::watch_previous>(list, operation);
}

}  // namespace uring
