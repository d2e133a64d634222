// The overlapped-style table: every operation from its start to its release.
//
// Slots live in slabs and never move; a slab is taken when the table grows, never per operation.
// An operation is named by a key, generation and slot, which is also its SQE's user_data: a key
// whose operation is gone finds nothing, so a stale completion can be counted but never followed.
// Keys whose slot is at or above kReservedSlot name no operation (the proactor's own SQEs).
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "operation.hpp"

namespace uring {

// First-in first-out, linked through Operation::next and previous, or the pair of one of the lists beside.
struct OperationList {
  std::uint32_t head = kNoSlot;
  std::uint32_t tail = kNoSlot;
  bool empty() const noexcept { return head == kNoSlot; }
};

class OperationTable {
 public:
  static constexpr std::uint32_t kSlabSize = 64;
  static constexpr std::uint32_t kReservedSlot = 0xfffffff0;

  OperationTable() = default;
  OperationTable(const OperationTable&) = delete;
  OperationTable& operator=(const OperationTable&) = delete;

  // A fresh operation in state kQueued, in no list but that of its descriptor; null without memory.
  Operation* allocate(Kind kind, int fd) noexcept;
  // Give slot and address block back.  The generation moves on, so the old key is stale.
  void release(Operation* operation) noexcept;

  // The operation of a key, or null (counted) when it is gone.
  Operation* find(std::uint64_t key) noexcept;
  Operation* at(std::uint32_t slot) noexcept { return &slabs_[slot / kSlabSize][slot % kSlabSize]; }
  const Operation* at(std::uint32_t slot) const noexcept {
    return &slabs_[slot / kSlabSize][slot % kSlabSize];
  }

  // A block that stays put until the operation is released; null without memory.
  AddressBlock* allocate_address(Operation* operation) noexcept;

  // Leave the blocks to the kernel for good: called when a ring closed over operations in flight.
  void abandon_addresses() noexcept;

  void push(OperationList* list, Operation* operation) noexcept;
  Operation* pop(OperationList* list) noexcept;
  void unlink(OperationList* list, Operation* operation) noexcept;
  // The same for the list of cancels, which an operation is on while it is in flight.
  void push_cancel(OperationList* list, Operation* operation) noexcept;
  void unlink_cancel(OperationList* list, Operation* operation) noexcept;
  // The same for the list of what is looked at.
  void push_watched(OperationList* list, Operation* operation) noexcept;
  void unlink_watched(OperationList* list, Operation* operation) noexcept;

  // The first operation on a descriptor, or kNoSlot.  next_on() goes on from there.
  std::uint32_t first_on(int fd) const noexcept {
    const std::size_t bucket = bucket_of(fd);
    return bucket < by_fd_.size() ? skip_to(by_fd_[bucket], fd) : kNoSlot;
  }
  std::uint32_t next_on(const Operation* operation) const noexcept {
    return skip_to(operation->fd_next, operation->fd);
  }
  // The one that was started first, and the one that was started next.
  std::uint32_t oldest_on(int fd) const noexcept {
    std::uint32_t oldest = kNoSlot;
    for (std::uint32_t slot = first_on(fd); slot != kNoSlot; slot = next_on(at(slot)))
      oldest = slot;
    return oldest;
  }
  std::uint32_t younger_on(const Operation* operation) const noexcept {
    std::uint32_t slot = operation->fd_previous;
    while (slot != kNoSlot && at(slot)->fd != operation->fd) slot = at(slot)->fd_previous;
    return slot;
  }

  std::uint32_t capacity() const noexcept {
    return static_cast<std::uint32_t>(slabs_.size()) * kSlabSize;
  }
  std::uint32_t used() const noexcept { return used_; }
  std::uint64_t stale_keys() const noexcept { return stale_keys_; }

 private:
  // Descriptors are small and dense, so the index is a plain array; a number that no file limit
  // allows (a hostile argument) must not make it grow without bound and shares the last bucket.
  static constexpr std::size_t kBuckets = 1 << 20;
  static std::size_t bucket_of(int fd) noexcept {
    return static_cast<std::size_t>(fd) < kBuckets ? static_cast<std::size_t>(fd) : kBuckets;
  }
  std::uint32_t skip_to(std::uint32_t slot, int fd) const noexcept {
    while (slot != kNoSlot && at(slot)->fd != fd) slot = at(slot)->fd_next;
    return slot;
  }
  using Link = std::uint32_t Operation::*;
  template <Link next, Link previous>
  void append(OperationList* list, Operation* operation) noexcept;
  template <Link next, Link previous>
  void remove(OperationList* list, Operation* operation) noexcept;
  bool grow() noexcept;

  using Slab = std::unique_ptr<Operation[]>;
  std::vector<Slab> slabs_;
  std::vector<std::uint32_t> by_fd_;
  OperationList free_;
  std::vector<std::unique_ptr<AddressBlock[]>> address_slabs_;
  std::vector<AddressBlock*> free_addresses_;
  std::uint32_t used_ = 0;
  std::uint64_t stale_keys_ = 0;
};

// In the header: a completion takes a dozen of these steps.

inline Operation* OperationTable::find(std::uint64_t key) noexcept {
  const std::uint32_t slot = static_cast<std::uint32_t>(key);
  if (slot < capacity()) {
    Operation* operation = at(slot);
    if (operation->generation == key >> 32 && operation->state != State::kFree) return operation;
  }
  ++stale_keys_;
  return nullptr;
}

template <OperationTable::Link next, OperationTable::Link previous>
void OperationTable::append(OperationList* list, Operation* operation) noexcept {
  operation->*next = kNoSlot;
  operation->*previous = list->tail;
  if (list->tail != kNoSlot)
    at(list->tail)->*next = operation->slot;
  else
    list->head = operation->slot;
  list->tail = operation->slot;
}

template <OperationTable::Link next, OperationTable::Link previous>
void OperationTable::remove(OperationList* list, Operation* operation) noexcept {
  if (operation->*previous != kNoSlot)
    at(operation->*previous)->*next = operation->*next;
  else
    list->head = operation->*next;
  if (operation->*next != kNoSlot)
    at(operation->*next)->*previous = operation->*previous;
  else
    list->tail = operation->*previous;
  operation->*next = operation->*previous = kNoSlot;
}

inline void OperationTable::push(OperationList* list, Operation* operation) noexcept {
  append<&Operation::next, &Operation::previous>(list, operation);
}

inline Operation* OperationTable::pop(OperationList* list) noexcept {
  if (list->empty()) return nullptr;
  Operation* operation = at(list->head);
  unlink(list, operation);
  return operation;
}

inline void OperationTable::unlink(OperationList* list, Operation* operation) noexcept {
  remove<&Operation::next, &Operation::previous>(list, operation);
}

}  // namespace uring
