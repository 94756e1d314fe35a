// Operators of a group of ranks (torch.distributed's c10d: Gloo on the CPU, NCCL on GPUs): a group is joined, tensors are summed, gathered, scattered and sent to all.
//
// An addon of its own, beside engine/native: it registers operators, which are called as any of libtorch's. The rendezvous is c10d's TCPStore. Two threads of the group watch over it:
// one tells the store where this rank is, the other ends the process when an operation takes longer than the deadline, and says which rank was where.
#ifdef CARAVAN_NCCL
#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#else
#define USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#endif
#include <node_api.h>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/library.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

using at::Tensor;
using Clock = std::chrono::steady_clock;

namespace {

#ifdef CARAVAN_NCCL
using Backend = c10d::ProcessGroupNCCL;
#else
using Backend = c10d::ProcessGroupGloo;
#endif
using Work = c10::intrusive_ptr<c10d::Work>;

double secondsSince(Clock::time_point then) { return std::chrono::duration<double>(Clock::now() - then).count(); }
std::chrono::milliseconds milliseconds(double seconds) { return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000)); }

/** An operation that was begun and may not be done. */
struct Pending {
  Work work;
  std::string what;
  Clock::time_point begun;
  /** Done once the work is. */
  std::function<void()> after;
};

struct Group {
  int rank = 0, size = 1;
  double deadline = 0;
  std::string host;
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<Backend> backend;
  /** Guards what follows. */
  std::mutex mutex;
  int64_t number = 0;
  std::string last = "joining the group";
  std::map<int64_t, Pending> pending;
};
/** Never freed: its threads may outlive the end of main. */
std::shared_ptr<Group>& group() {
  static auto* held = new std::shared_ptr<Group>();
  return *held;
}
Group& joined() {
  TORCH_CHECK(group() != nullptr, "this process has joined no group of ranks");
  return *group();
}

std::string keyOf(int rank) { return "at/" + std::to_string(rank); }

/** A client of the store of its own: one that waits would hold up others. */
c10::intrusive_ptr<c10d::TCPStore> connect(const std::string& host, int port, double seconds) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(port);
  options.waitWorkers = false;
  options.timeout = milliseconds(seconds);
  return c10::make_intrusive<c10d::TCPStore>(host, options);
}

/** "finished operation 12, summing the loss" or "is in operation 13, gathering block 2". */
std::string placeOf(Group& all) {
  std::lock_guard<std::mutex> lock(all.mutex);
  for (auto& [number, pending] : all.pending)
    if (!pending.work->isCompleted()) return "is in operation " + std::to_string(number) + ", " + pending.what;
  return "has done operation " + std::to_string(all.number) + ", " + all.last + ", and is in none";
}

/** Tells the store once a second where this rank is, with a count that shows that it lives. */
void tell(std::shared_ptr<Group> all, int port) {
  try {
    auto store = connect(all->host, port, 60);
    for (int64_t beat = 0;; beat++) {
      std::string text = std::to_string(beat) + " " + placeOf(*all);
      store->set(keyOf(all->rank), std::vector<uint8_t>(text.begin(), text.end()));
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  } catch (const std::exception&) {
    // The store is gone, and with it the first rank: operations fail.
  }
}

/** Where the other ranks are, as far as the store answers within some seconds. */
std::string others(std::shared_ptr<Group> all, int port) {
  struct Found {
    std::mutex mutex;
    std::map<int, std::string> first, second;
    bool done = false;
  };
  auto found = std::make_shared<Found>();
  std::thread([all, port, found] {
    try {
      auto store = connect(all->host, port, 5);
      auto read = [&](std::map<int, std::string>& out) {
        for (int rank = 0; rank < all->size; rank++) {
          std::string text = "0 has not begun";
          if (store->check({keyOf(rank)})) {
            auto bytes = store->get(keyOf(rank));
            text.assign(bytes.begin(), bytes.end());
          }
          std::lock_guard<std::mutex> lock(found->mutex);
          out[rank] = text;
        }
      };
      read(found->first);
      std::this_thread::sleep_for(std::chrono::milliseconds(2500));
      read(found->second);
    } catch (const std::exception&) {
    }
    std::lock_guard<std::mutex> lock(found->mutex);
    found->done = true;
  }).detach();
  for (int i = 0; i < 60; i++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    std::lock_guard<std::mutex> lock(found->mutex);
    if (found->done) break;
  }
  std::lock_guard<std::mutex> lock(found->mutex);
  std::string out;
  for (int rank = 0; rank < all->size; rank++) {
    if (rank == all->rank) continue;
    auto first = found->first.find(rank), second = found->second.find(rank);
    out += " Rank " + std::to_string(rank) + " ";
    if (first == found->first.end()) out += "is not told of: the process of rank 0, which knows, does not answer.";
    else {
      const std::string& text = second == found->second.end() ? first->second : second->second;
      bool lives = second != found->second.end() && first->second.substr(0, first->second.find(' ')) != second->second.substr(0, second->second.find(' '));
      out += text.substr(text.find(' ') + 1) + (lives ? "." : " when last heard of: its process is stopped or gone.");
    }
  }
  return out;
}

/** Ends this process when an operation takes too long: a rank that waits for another can do nothing else. */
void watch(std::shared_ptr<Group> all, int port) {
  for (;;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    int64_t late = -1;
    std::string what;
    double waited = 0;
    {
      std::lock_guard<std::mutex> lock(all->mutex);
      for (auto& [number, pending] : all->pending)
        if (late == -1 && secondsSince(pending.begun) > all->deadline && !pending.work->isCompleted()) {
          late = number;
          what = pending.what;
          waited = secondsSince(pending.begun);
        }
    }
    if (late == -1) continue;
    std::string elsewhere = others(all, port);
    std::fprintf(stderr, "\nRank %d of %d waited %.0f s for the others in operation %ld, %s.%s\n", all->rank, all->size, waited, static_cast<long>(late), what.c_str(), elsewhere.c_str());
    std::fflush(stderr);
    _exit(75);
  }
}

// ---- operations ------------------------------------------------------------------------------------------------------------------------

int64_t begin(const std::string& what, Work work, std::function<void()> after = {}) {
  Group& all = joined();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.pending.emplace(++all.number, Pending{std::move(work), what, Clock::now(), std::move(after)});
  return all.number;
}

void finish(int64_t number) {
  Group& all = joined();
  Work work;
  std::function<void()> after;
  {
    std::lock_guard<std::mutex> lock(all.mutex);
    auto found = all.pending.find(number);
    TORCH_CHECK(found != all.pending.end(), "no operation ", number, " is under way");
    work = found->second.work;
    after = found->second.after;
  }
  work->wait();
  if (after) after();
  std::lock_guard<std::mutex> lock(all.mutex);
  auto found = all.pending.find(number);
  all.last = found->second.what;
#ifdef CARAVAN_NCCL
  // The GPU may still be at it: it is watched until it is done.
  for (auto at = all.pending.begin(); at != all.pending.end();) at = at->second.work->isCompleted() ? all.pending.erase(at) : std::next(at);
#else
  all.pending.erase(found);
#endif
}

/** Bytes of a tensor: what moves numbers without adding them needs no dtype, and Gloo has none for bfloat16. */
Tensor bytes(const Tensor& x) { return x.view(-1).view(at::kByte); }

void allReduce(const Tensor& x, const std::string& what) {
  std::vector<Tensor> tensors{x};
  finish(begin(what, joined().backend->allreduce(tensors)));
}
void broadcast(const Tensor& x, int64_t root, const std::string& what) {
  std::vector<Tensor> tensors{bytes(x)};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  finish(begin(what, joined().backend->broadcast(tensors, options)));
}
/** whole (n x elements) from each rank's shard (elements). */
int64_t allGather(const Tensor& whole, const Tensor& shard, const std::string& what) {
  Group& all = joined();
  TORCH_CHECK(whole.numel() == all.size * shard.numel() && whole.is_contiguous() && shard.is_contiguous(), "what is gathered must have ", all.size, " times the shard's elements");
#ifdef CARAVAN_NCCL
  Tensor out = whole, in = shard;
  return begin(what, all.backend->_allgather_base(out, in));
#else
  std::vector<std::vector<Tensor>> out{bytes(whole).chunk(all.size)};
  std::vector<Tensor> in{bytes(shard)};
  return begin(what, all.backend->allgather(out, in));
#endif
}
/** shard (elements): this rank's part of the sum of all ranks' whole (n x elements), which is used up. */
int64_t reduceScatter(const Tensor& shard, const Tensor& whole, const std::string& what) {
  Group& all = joined();
  TORCH_CHECK(whole.numel() == all.size * shard.numel() && whole.is_contiguous() && shard.is_contiguous(), "what is scattered must have ", all.size, " times the shard's elements");
#ifdef CARAVAN_NCCL
  Tensor out = shard, in = whole;
  return begin(what, all.backend->_reduce_scatter_base(out, in));
#else
  // Gloo has none: the sum of all, of which a part is kept.
  std::vector<Tensor> tensors{whole};
  int64_t from = all.rank * shard.numel();
  return begin(what, all.backend->allreduce(tensors), [shard, whole, from] { Tensor(shard).copy_(whole.view(-1).narrow(0, from, shard.numel())); });
#endif
}

/** Joins the group; waits `joining` seconds for all to come. An operation may take `deadline` seconds. */
void join(int64_t rank, int64_t size, const std::string& host, int64_t port, double joining, double deadline) {
  TORCH_CHECK(group() == nullptr, "this process has joined a group of ranks already");
  auto all = std::make_shared<Group>();
  all->rank = static_cast<int>(rank);
  all->size = static_cast<int>(size);
  all->host = host;
  all->deadline = deadline;
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(port);
  options.isServer = rank == 0;
  options.waitWorkers = false;
  options.timeout = milliseconds(joining);
  all->store = c10::make_intrusive<c10d::TCPStore>(host, options);
  auto began = Clock::now();
  for (int64_t here = all->store->add("here", 1); here < size; here = all->store->add("here", 0)) {
    TORCH_CHECK(secondsSince(began) < joining, here, " of ", size, " ranks came");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
#ifdef CARAVAN_NCCL
  auto how = c10d::ProcessGroupNCCL::Options::create();
#else
  auto how = c10d::ProcessGroupGloo::Options::create();
  bool local = host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0;
  how->devices.push_back(local ? c10d::ProcessGroupGloo::createDeviceForHostname(host) : c10d::ProcessGroupGloo::createDefaultDevice());
#endif
  // Joining has a time of its own; afterwards the group's own watch comes first.
  how->timeout = milliseconds(std::max(joining, deadline) + 3600);
  all->backend = c10::make_intrusive<Backend>(all->store, all->rank, all->size, how);
  group() = all;
  std::thread(tell, all, static_cast<int>(port)).detach();
  std::thread(watch, all, static_cast<int>(port)).detach();
}

// ---- memory ----------------------------------------------------------------------------------------------------------------------------

/** Gives a tensor's memory back (0 bytes) or gets it anew, not filled; views of it stay views. */
void resizeStorage(const Tensor& x, int64_t size) {
  auto* storage = x.storage().unsafeGetStorageImpl();
  if (static_cast<int64_t>(storage->nbytes()) == size) return;
  auto* allocator = storage->allocator();
  storage->set_data_ptr_noswap(size == 0 ? at::DataPtr(nullptr, storage->device()) : allocator->allocate(size));
  storage->set_nbytes(static_cast<size_t>(size));
}

/** Makes this the tensor's gradient, whatever its dtype. */
void setGradient(const Tensor& x, const Tensor& gradient) { x.mutable_grad() = gradient; }

TORCH_LIBRARY(caravan_ranks, library) {
  library.def("join(int rank, int size, str host, int port, float joining, float deadline) -> ()", join);
  library.def("all_reduce(Tensor(a!) x, str what) -> ()", allReduce);
  library.def("broadcast(Tensor(a!) x, int root, str what) -> ()", broadcast);
  library.def("all_gather(Tensor(a!) whole, Tensor shard, str what) -> int", allGather);
  library.def("reduce_scatter(Tensor(a!) shard, Tensor(b!) whole, str what) -> int", reduceScatter);
  library.def("finish(int number) -> ()", finish);
  library.def("resize_storage(Tensor(a!) x, int size) -> ()", resizeStorage);
  library.def("set_gradient(Tensor(a!) x, Tensor gradient) -> ()", setGradient);
}

}  // namespace

NAPI_MODULE_INIT() { return exports; }
