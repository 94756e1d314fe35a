#include "handles.h"

#include <stdexcept>

using at::Tensor;

namespace {

constexpr uint32_t slotBits = 18, slotMask = (1u << slotBits) - 1;
constexpr uint64_t lastGeneration = (uint64_t{1} << 35) - 1;

struct Slot {
  Tensor tensor;
  uint64_t generation = 0;
  bool alive = false;
  bool kept = false;  // survives every scope until it is freed explicitly
};

std::vector<Slot> slots;
std::vector<uint32_t> freeSlots;
std::vector<uint32_t> scopeLog;   // slots made since the outermost open scope began
std::vector<size_t> scopeStarts;  // where each open scope begins in scopeLog
size_t live = 0;

uint32_t indexOf(uint64_t handle) {
  uint32_t index = handle & slotMask;
  if (index >= slots.size() || !slots[index].alive || slots[index].generation != handle >> slotBits)
    throw std::runtime_error("this tensor was freed (by free() or at the end of its scope): return it from scoped() or keep() it");
  return index;
}

void release(uint32_t index) {
  Slot& slot = slots[index];
  slot.tensor = Tensor();
  slot.alive = false;
  // A slot with no generations left is not reused.
  if (slot.generation++ < lastGeneration) freeSlots.push_back(index);
  live--;
}

}  // namespace

uint64_t put(Tensor tensor) {
  uint32_t index;
  if (freeSlots.empty()) {
    index = slots.size();
    if (index > slotMask) throw std::runtime_error("more than 262144 live tensors: free some, or wrap the work in scoped()");
    slots.emplace_back();
  } else {
    index = freeSlots.back();
    freeSlots.pop_back();
  }
  Slot& slot = slots[index];
  slot.tensor = std::move(tensor);
  slot.alive = true;
  slot.kept = false;
  if (!scopeStarts.empty()) scopeLog.push_back(index);
  live++;
  return index | (slot.generation << slotBits);
}

Tensor& tensorAt(uint64_t handle) { return slots[indexOf(handle)].tensor; }

void openScope() { scopeStarts.push_back(scopeLog.size()); }

void closeScope(const std::vector<uint64_t>& survivors) {
  if (scopeStarts.empty()) throw std::runtime_error("closeScope without openScope");
  std::vector<bool> survives(slots.size(), false);
  for (uint64_t handle : survivors)
    if ((handle & slotMask) < slots.size()) survives[handle & slotMask] = true;
  size_t start = scopeStarts.back();
  scopeStarts.pop_back();
  std::vector<uint32_t> passedOn;
  for (size_t i = start; i < scopeLog.size(); i++) {
    uint32_t index = scopeLog[i];
    if (!slots[index].alive || slots[index].kept) continue;
    if (!survives[index]) release(index);
    else if (!scopeStarts.empty()) passedOn.push_back(index);
  }
  scopeLog.resize(start);
  scopeLog.insert(scopeLog.end(), passedOn.begin(), passedOn.end());
}

void keepTensor(uint64_t handle) { slots[indexOf(handle)].kept = true; }
void freeTensor(uint64_t handle) { release(indexOf(handle)); }
size_t liveTensors() { return live; }
void freeAllTensors() {
  for (uint32_t index = 0; index < slots.size(); index++)
    if (slots[index].alive) release(index);
  scopeLog.clear();
  scopeStarts.clear();
}
