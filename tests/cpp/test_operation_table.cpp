#include "operation_table.hpp"

#include <set>

#include "support.hpp"

namespace uring::test {
namespace {

// As the proactor does it when an operation is over.
void release(OperationTable& table, Operation* operation) {
  operation->state = State::kTaken;
  table.release(operation);
}

std::vector<std::uint32_t> slots_on(const OperationTable& table, int fd) {
  std::vector<std::uint32_t> slots;
  for (std::uint32_t slot = table.first_on(fd); slot != kNoSlot;
       slot = table.next_on(table.at(slot)))
    slots.push_back(slot);
  return slots;
}

TEST_CASE("allocate: a fresh operation is queued and has a key above 0") {
  OperationTable table;
  Operation* operation = table.allocate(Kind::kSend, 5);
  REQUIRE(operation != nullptr);
  CHECK(operation->kind == Kind::kSend);
  CHECK(operation->fd == 5);
  CHECK(operation->state == State::kQueued);
  CHECK(operation->flags == 0);
  CHECK(operation->file == -1);
  CHECK(operation->address == nullptr);
  CHECK(operation->key() != 0);
  CHECK(table.find(operation->key()) == operation);
  CHECK(table.used() == 1);
  release(table, operation);
  CHECK(table.used() == 0);
}

TEST_CASE("allocate: nothing is left of the slot's last operation") {
  OperationTable table;
  std::set<std::uint32_t> used;
  for (std::uint32_t count = 0; count < 2 * OperationTable::kSlabSize; ++count) {
    Operation* operation = table.allocate(Kind::kSendTo, 5);
    REQUIRE(operation != nullptr);
    used.insert(operation->slot);
    CHECK(operation->flags == 0);
    CHECK(operation->done == 0);
    CHECK(operation->retries == 0);
    CHECK(operation->cancel_error == 0);
    CHECK(operation->started_ns == 0);
    CHECK(operation->address == nullptr);
    operation->flags = 0xff;
    operation->done = 7;
    operation->retries = 7;
    operation->cancel_error = -7;
    operation->started_ns = 7;
    CHECK(table.allocate_address(operation) != nullptr);
    release(table, operation);
  }
  CHECK(table.capacity() == OperationTable::kSlabSize);
  CHECK(used.size() <= OperationTable::kSlabSize);
}

TEST_CASE("allocate: operations do not move when the table grows") {
  OperationTable table;
  std::vector<Operation*> operations;
  for (std::uint32_t count = 0; count < 5 * OperationTable::kSlabSize; ++count) {
    Operation* operation = table.allocate(Kind::kPoll, static_cast<int>(count % 50));
    REQUIRE(operation != nullptr);
    operation->length = count;
    operations.push_back(operation);
  }
  CHECK(table.capacity() == 5 * OperationTable::kSlabSize);
  CHECK(table.used() == operations.size());
  std::set<std::uint64_t> keys;
  for (std::size_t index = 0; index < operations.size(); ++index) {
    CHECK(table.at(operations[index]->slot) == operations[index]);
    CHECK(table.find(operations[index]->key()) == operations[index]);
    CHECK(operations[index]->length == index);
    keys.insert(operations[index]->key());
  }
  CHECK(keys.size() == operations.size());
  CHECK(table.stale_keys() == 0);
  for (Operation* operation : operations) release(table, operation);
  CHECK(table.used() == 0);
}

TEST_CASE("find: a stale key is counted and never followed") {
  OperationTable table;
  Operation* operation = table.allocate(Kind::kPoll, 3);
  const std::uint64_t old_key = operation->key();
  const std::uint32_t slot = operation->slot;
  release(table, operation);
  CHECK(table.find(old_key) == nullptr);
  CHECK(table.stale_keys() == 1);

  // The slot again, with another operation in it.
  Operation* next = nullptr;
  std::vector<Operation*> others;
  for (std::uint32_t count = 0; count < OperationTable::kSlabSize; ++count) {
    others.push_back(table.allocate(Kind::kPoll, 3));
    if (others.back()->slot == slot) next = others.back();
  }
  REQUIRE(next != nullptr);
  CHECK(next->key() != old_key);
  CHECK(table.find(old_key) == nullptr);
  CHECK(table.find(next->key()) == next);
  CHECK(table.stale_keys() == 2);
  for (Operation* other : others) release(table, other);
}

TEST_CASE("find: keys that never were") {
  OperationTable table;
  CHECK(table.find(0) == nullptr);
  Operation* operation = table.allocate(Kind::kPoll, 3);
  CHECK(table.find(operation->slot) == nullptr);
  CHECK(table.find((std::uint64_t{1} << 32) | OperationTable::kSlabSize) == nullptr);
  CHECK(table.find((std::uint64_t{1} << 32) | OperationTable::kReservedSlot) == nullptr);
  CHECK(table.find(~std::uint64_t{0}) == nullptr);
  CHECK(table.stale_keys() == 5);
  release(table, operation);
}

TEST_CASE("allocate: a key is above 0 however often its slot was used") {
  // Keys are handed out as int64: what is below 0 is an error.
  OperationTable table;
  Operation* operation = table.allocate(Kind::kPoll, 3);
  const std::uint32_t slot = operation->slot;
  release(table, operation);
  for (std::uint32_t generation : {0x7ffffffeU, 0x7fffffffU, 0x80000000U, 0xfffffffeU,
                                   0xffffffffU}) {
    CAPTURE(generation);
    table.at(slot)->generation = generation;
    std::vector<Operation*> operations;
    for (std::uint32_t count = 0; count < OperationTable::kSlabSize; ++count) {
      operations.push_back(table.allocate(Kind::kPoll, 3));
      CHECK(static_cast<std::int64_t>(operations.back()->key()) > 0);
      CHECK(operations.back()->generation != 0);
      CHECK(table.find(operations.back()->key()) == operations.back());
    }
    for (Operation* each : operations) release(table, each);
  }
}

TEST_CASE("first_on: all operations of a descriptor and no other's") {
  OperationTable table;
  std::map<int, std::set<std::uint32_t>> expected;
  std::map<int, std::vector<Operation*>> operations;
  for (int count = 0; count < 60; ++count) {
    const int fd = count % 7;
    Operation* operation = table.allocate(Kind::kPoll, fd);
    operations[fd].push_back(operation);
    expected[fd].insert(operation->slot);
  }
  auto check = [&] {
    for (auto& entry : expected) {
      CAPTURE(entry.first);
      const auto slots = slots_on(table, entry.first);
      CHECK(std::set<std::uint32_t>(slots.begin(), slots.end()) == entry.second);
      CHECK(slots.size() == entry.second.size());
    }
  };
  check();
  // From the middle, the front and the back of each list.
  for (std::size_t which : {4u, 0u, 5u, 0u}) {
    for (auto& entry : operations) {
      const std::size_t index = std::min(which, entry.second.size() - 1);
      Operation* operation = entry.second[index];
      entry.second.erase(entry.second.begin() + static_cast<std::ptrdiff_t>(index));
      expected[entry.first].erase(operation->slot);
      release(table, operation);
    }
    check();
  }
  for (auto& entry : operations) {
    for (Operation* operation : entry.second) release(table, operation);
    CHECK(table.first_on(entry.first) == kNoSlot);
  }
}

TEST_CASE("first_on: descriptors that nothing is on") {
  OperationTable table;
  CHECK(table.first_on(0) == kNoSlot);
  CHECK(table.first_on(0x7fffffff) == kNoSlot);
  Operation* operation = table.allocate(Kind::kPoll, 100);
  CHECK(table.first_on(99) == kNoSlot);
  CHECK(table.first_on(101) == kNoSlot);
  CHECK(table.first_on(1 << 20) == kNoSlot);
  CHECK(table.first_on(100) == operation->slot);
  release(table, operation);
}

TEST_CASE("first_on: numbers beyond any file limit share a list and are told apart") {
  OperationTable table;
  const int numbers[] = {1 << 20, 0x7fffffff, (1 << 20) + 1, 0x7ffffffe};
  std::vector<Operation*> operations;
  for (int round = 0; round < 2; ++round) {
    for (int fd : numbers) operations.push_back(table.allocate(Kind::kPoll, fd));
  }
  for (int fd : numbers) {
    CAPTURE(fd);
    CHECK(slots_on(table, fd).size() == 2);
    for (std::uint32_t slot : slots_on(table, fd)) CHECK(table.at(slot)->fd == fd);
  }
  CHECK(table.first_on((1 << 20) + 2) == kNoSlot);
  CHECK(table.first_on((1 << 20) - 1) == kNoSlot);
  release(table, operations[0]);
  release(table, operations[6]);
  CHECK(slots_on(table, 1 << 20).size() == 1);
  CHECK(slots_on(table, (1 << 20) + 1).size() == 1);
  CHECK(slots_on(table, 0x7fffffff).size() == 2);
  for (std::size_t index : {1u, 2u, 3u, 4u, 5u, 7u}) release(table, operations[index]);
}

TEST_CASE("allocate_address: blocks do not move and are used again") {
  OperationTable table;
  std::vector<Operation*> operations;
  std::map<Operation*, AddressBlock*> blocks;
  std::set<AddressBlock*> distinct;
  for (int count = 0; count < 200; ++count) {
    Operation* operation = table.allocate(Kind::kSendTo, 3);
    AddressBlock* block = table.allocate_address(operation);
    REQUIRE(block != nullptr);
    block->address.ss_family = static_cast<sa_family_t>(count);
    CHECK(table.allocate_address(operation) == block);
    operations.push_back(operation);
    blocks[operation] = block;
    distinct.insert(block);
  }
  CHECK(distinct.size() == operations.size());
  for (int count = 0; count < 200; ++count) {
    Operation* operation = operations[static_cast<std::size_t>(count)];
    CHECK(operation->address == blocks[operation]);
    CHECK(operation->address->address.ss_family == static_cast<sa_family_t>(count));
  }
  for (Operation* operation : operations) release(table, operation);
  for (int count = 0; count < 200; ++count) {
    Operation* operation = table.allocate(Kind::kSendTo, 3);
    CHECK(distinct.count(table.allocate_address(operation)) == 1);
    operations[static_cast<std::size_t>(count)] = operation;
  }
  for (Operation* operation : operations) release(table, operation);
}

TEST_CASE("lists: first in and first out; unlinked from anywhere") {
  OperationTable table;
  Operation* operations[5];
  OperationList list;
  CHECK(table.pop(&list) == nullptr);
  for (Operation*& operation : operations) {
    operation = table.allocate(Kind::kPoll, 3);
    table.push(&list, operation);
  }
  table.unlink(&list, operations[2]);
  table.unlink(&list, operations[0]);
  table.unlink(&list, operations[4]);
  table.push(&list, operations[2]);
  CHECK(table.pop(&list) == operations[1]);
  CHECK(table.pop(&list) == operations[3]);
  CHECK_FALSE(list.empty());
  CHECK(table.pop(&list) == operations[2]);
  CHECK(list.empty());
  CHECK(table.pop(&list) == nullptr);
  for (Operation* operation : operations) release(table, operation);
}

TEST_CASE("kind_name: every kind has one of its own") {
  std::set<std::string> names;
  for (int kind = 0; kind <= static_cast<int>(Kind::kWrite); ++kind)
    names.insert(kind_name(static_cast<Kind>(kind)));
  CHECK(names.size() == static_cast<std::size_t>(Kind::kWrite) + 1);
  CHECK(names.count("unknown") == 0);
}

}  // namespace
}  // namespace uring::test
