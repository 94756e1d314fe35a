// Operators of a group of ranks (torch.distributed's c10d: Gloo on the CPU, NCCL on GPUs): join a group; sum, gather, scatter and broadcast tensors.
//
// A separate addon next to engine/native. It registers operators, which are called like libtorch's own. The rendezvous is c10d's TCPStore. Two threads monitor the group: one reports
// this rank's state to the store; the other exits the process when an operation exceeds the deadline, or fails on the GPU, after printing the state of each rank.
#ifdef CARAVAN_NCCL
#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#else
#define USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#endif
#include <ATen/ATen.h>
#include <netdb.h>
#include <node_api.h>
#include <sys/socket.h>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/library.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
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

/** An operation that has been started and may not have finished. */
struct Pending {
  /** Null while the operation is being started. */
  Work work;
  std::string what;
  Clock::time_point begun;
  /** Time limit in seconds. */
  double deadline;
  /** Done once the work is. */
  std::function<void()> after;
  /** Whether it was waited for. On NCCL that does not mean that the GPU has finished it. */
  bool waitedFor = false;
  bool isDone = false;
  /** On NCCL: why it failed. Its kernel waits for the lost rank forever, and so does a thread that waits for the kernel. (Gloo throws in the waiting thread.) */
  std::exception_ptr failure;
  /** Updates `isDone` and `failure`. */
  void look() {
    if (isDone || failure != nullptr || work == nullptr || !work->isCompleted()) return;
#ifdef CARAVAN_NCCL
    failure = work->exception();
#endif
    isDone = failure == nullptr;
  }
};

struct Group {
  int rank = 0, size = 1;
  double joining = 0, deadline = 0;
  std::string host;
  int port = 0;
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<Backend> backend;
  /** Guards the members below. */
  std::mutex mutex;
  int64_t number = 0;
  std::string last = "joining the group";
  std::map<int64_t, Pending> pending;
};
/** Never freed: its threads may outlive main. */
std::shared_ptr<Group>& group() {
  static auto* held = new std::shared_ptr<Group>();
  return *held;
}
Group& joined() {
  TORCH_CHECK(group() != nullptr, "this process has not joined a group of ranks");
  return *group();
}

std::string keyOf(int rank) { return "at/" + std::to_string(rank); }

/** A separate client of the store: a waiting call would block the other users of a shared client. */
c10::intrusive_ptr<c10d::TCPStore> connect(const std::string& host, int port, double seconds) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(port);
  options.waitWorkers = false;
  options.timeout = milliseconds(seconds);
  return c10::make_intrusive<c10d::TCPStore>(host, options);
}

/** "has finished operation 12, summing the loss, and is idle" or "is in operation 13, gathering block 2". */
std::string placeOf(Group& all) {
  std::lock_guard<std::mutex> lock(all.mutex);
  for (auto& [number, pending] : all.pending) {
    pending.look();
    if (!pending.isDone) return "is in operation " + std::to_string(number) + ", " + pending.what;
  }
  return "has finished operation " + std::to_string(all.number) + ", " + all.last + ", and is idle";
}

/** Reports this rank's state to the store once per second, with a counter that shows that it is alive. */
void tell(std::shared_ptr<Group> all, int port) {
  try {
    auto store = connect(all->host, port, 60);
    for (int64_t beat = 0;; beat++) {
      std::string text = std::to_string(beat) + " " + placeOf(*all);
      store->set(keyOf(all->rank), std::vector<uint8_t>(text.begin(), text.end()));
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  } catch (const std::exception&) {
    // The store has gone because rank 0 has exited: operations will fail.
  }
}

/** The states of the other ranks, as far as the store answers within a few seconds. */
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
          std::string text = "0 has not started";
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
    if (first == found->first.end()) out += "is in an unknown state: the process of rank 0, which keeps the states, does not answer.";
    else {
      const std::string& text = second == found->second.end() ? first->second : second->second;
      bool lives = second != found->second.end() && first->second.substr(0, first->second.find(' ')) != second->second.substr(0, second->second.find(' '));
      out += text.substr(text.find(' ') + 1) + (lives ? "." : " in its last report: its process is stopped or has exited.");
    }
  }
  return out;
}

/** The first line of an error's message; the others are a stack trace. */
std::string messageOf(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& error) {
    std::string message = error.what();
    return message.substr(0, message.find('\n'));
  }
}

/** "waited 600 s for the others in operation 13, gathering block 2." if an operation failed or exceeded its deadline; otherwise empty. */
std::string troubleOf(Group& all) {
  std::lock_guard<std::mutex> lock(all.mutex);
  for (auto& [number, pending] : all.pending) {
    pending.look();
    if (pending.isDone) continue;
    std::string place = "in operation " + std::to_string(number) + ", " + pending.what;
    double waited = secondsSince(pending.begun);
    if (pending.failure != nullptr) return "lost the others " + place + ": " + messageOf(pending.failure) + ". Another rank ended, or the network between them failed.";
    if (waited > pending.deadline) return "waited " + std::to_string(static_cast<int64_t>(waited)) + " s for the others " + place + ".";
  }
  return "";
}

/** Exits this process when an operation fails or takes too long: a rank that waits for another can do nothing else. */
void watch(std::shared_ptr<Group> all, int port) {
  for (int errors = 0; errors < 5;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    std::string trouble;
    try {
      trouble = troubleOf(*all);
      errors = 0;
    } catch (const std::exception&) {
      // CUDA has failed, which the thread that uses it reports, or the process is exiting.
      errors++;
    }
    if (trouble.empty()) continue;
    std::string elsewhere = others(all, port);
    std::fprintf(stderr, "\nRank %d of %d %s%s\n", all->rank, all->size, trouble.c_str(), elsewhere.c_str());
    std::fflush(stderr);
    _exit(75);
  }
}

// ---- operations ------------------------------------------------------------------------------------------------------------------------

int64_t begin(const std::string& what, Work work, std::function<void()> after = {}) {
  Group& all = joined();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.pending.emplace(++all.number, Pending{std::move(work), what, Clock::now(), all.deadline, std::move(after)});
  return all.number;
}

void finish(int64_t number) {
  Group& all = joined();
  Work work;
  std::function<void()> after;
  {
    std::lock_guard<std::mutex> lock(all.mutex);
    auto found = all.pending.find(number);
    TORCH_CHECK(found != all.pending.end(), "no operation ", number, " is pending");
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
  found->second.waitedFor = true;
  for (auto at = all.pending.begin(); at != all.pending.end();) {
    at->second.look();
    at = at->second.waitedFor && at->second.isDone ? all.pending.erase(at) : std::next(at);
  }
#else
  all.pending.erase(found);
#endif
}

/** A tensor's bytes: operations that move numbers without summing them need no dtype, and Gloo does not support bfloat16. */
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
/** Fills whole (n x elements) from each rank's shard (elements). */
int64_t allGather(const Tensor& whole, const Tensor& shard, const std::string& what) {
  Group& all = joined();
  TORCH_CHECK(whole.numel() == all.size * shard.numel() && whole.is_contiguous() && shard.is_contiguous(), "the gathered tensor must be contiguous with ", all.size, " times the shard's elements");
#ifdef CARAVAN_NCCL
  Tensor out = whole, in = shard;
  return begin(what, all.backend->_allgather_base(out, in));
#else
  std::vector<std::vector<Tensor>> out{bytes(whole).chunk(all.size)};
  std::vector<Tensor> in{bytes(shard)};
  return begin(what, all.backend->allgather(out, in));
#endif
}
/** Fills shard (elements) with this rank's part of the sum of all ranks' whole (n x elements). Overwrites whole. */
int64_t reduceScatter(const Tensor& shard, const Tensor& whole, const std::string& what) {
  Group& all = joined();
  TORCH_CHECK(whole.numel() == all.size * shard.numel() && whole.is_contiguous() && shard.is_contiguous(), "the scattered tensor must be contiguous with ", all.size, " times the shard's elements");
#ifdef CARAVAN_NCCL
  Tensor out = shard, in = whole;
  return begin(what, all.backend->_reduce_scatter_base(out, in));
#else
  // Gloo has no reduce-scatter: sum everything and keep a part.
  std::vector<Tensor> tensors{whole};
  int64_t from = all.rank * shard.numel();
  return begin(what, all.backend->allreduce(tensors), [shard, whole, from] { Tensor(shard).copy_(whole.view(-1).narrow(0, from, shard.numel())); });
#endif
}

// ---- joining ---------------------------------------------------------------------------------------------------------------------------

bool isLocal(const std::string& host) { return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0; }

struct Address {
  addrinfo* found = nullptr;
  Address(const std::string& host, int port, int type) {
    addrinfo wanted{};
    wanted.ai_socktype = type;
    int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &wanted, &found);
    TORCH_CHECK(error == 0, "can't resolve the address ", host, ": ", gai_strerror(error));
  }
  ~Address() { freeaddrinfo(found); }
};

/** A socket that listens only at this address. */
int listenAt(const std::string& host, int port) {
  Address address(host, port, SOCK_STREAM);
  int fd = socket(address.found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  bool ok = fd >= 0 && bind(fd, address.found->ai_addr, address.found->ai_addrlen) == 0 && listen(fd, 1024) == 0;
  TORCH_CHECK(ok, "listening at ", host, ":", port, ": ", std::strerror(errno));
  return fd;
}

/** Makes the store of a single machine listen only on loopback. libtorch 1.13 has no such option: its store listens at every address. */
template <class Options>
auto listenOnLoopback(Options& options, const std::string& host, int port, int) -> decltype(options.masterListenFd = 0, void()) {
  if (isLocal(host)) options.masterListenFd = listenAt(host, port);
}
template <class Options>
void listenOnLoopback(Options&, const std::string&, int, long) {}

/** Joins the others at the store, waiting up to `joining` seconds for all ranks. An operation may take up to `deadline` seconds. */
void join(int64_t rank, int64_t size, const std::string& host, int64_t port, double joining, double deadline) {
  TORCH_CHECK(group() == nullptr, "this process has already joined a group of ranks");
  auto all = std::make_shared<Group>();
  all->rank = static_cast<int>(rank);
  all->size = static_cast<int>(size);
  all->host = host;
  all->port = static_cast<int>(port);
  all->joining = joining;
  all->deadline = deadline;
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(port);
  options.isServer = rank == 0;
  options.waitWorkers = false;
  options.timeout = milliseconds(joining);
  if (options.isServer) listenOnLoopback(options, host, all->port, 0);
  all->store = c10::make_intrusive<c10d::TCPStore>(host, options);
  auto began = Clock::now();
  for (int64_t here = all->store->add("here", 1); here < size; here = all->store->add("here", 0)) {
    TORCH_CHECK(secondsSince(began) < joining, here, " of ", size, " ranks joined");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  group() = all;
  std::thread(tell, all, all->port).detach();
  std::thread(watch, all, all->port).detach();
}

#ifndef CARAVAN_NCCL
/** This machine's address on the route to another machine. */
std::string addressTowards(const std::string& host, int port) {
  Address address(host, port, SOCK_DGRAM);
  sockaddr_storage own{};
  socklen_t length = sizeof own;
  char text[NI_MAXHOST];
  int fd = socket(address.found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  bool ok = fd >= 0 && connect(fd, address.found->ai_addr, address.found->ai_addrlen) == 0 && getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length) == 0 &&
            getnameinfo(reinterpret_cast<sockaddr*>(&own), length, text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0;
  int error = errno;
  close(fd);
  TORCH_CHECK(ok, "there is no route to ", host, ": ", std::strerror(error));
  return text;
}
#endif

/** Connects every rank to every other, after all have joined. */
void connectAll(const std::string& what) {
  Group& all = joined();
  int64_t number = begin(what, Work());
  {
    std::lock_guard<std::mutex> lock(all.mutex);
    all.pending.at(number).deadline = all.joining;
  }
#ifdef CARAVAN_NCCL
  // By default a thread of c10d aborts the process when an operation fails, after writing its own records to a file; `watch` ends it, with a message.
  setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", 0);
  setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "0", 0);
  auto how = c10d::ProcessGroupNCCL::Options::create();
  auto device = at::kCUDA;
#else
  auto how = c10d::ProcessGroupGloo::Options::create();
  auto device = at::kCPU;
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  how->devices.push_back(interface != nullptr ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                                              : c10d::ProcessGroupGloo::createDeviceForHostname(isLocal(all.host) ? all.host : addressTowards(all.host, all.port)));
#endif
  // The watch thread above acts before this timeout.
  how->timeout = milliseconds(std::max(all.joining, all.deadline) + 3600);
  all.backend = c10::make_intrusive<Backend>(all.store, all.rank, all.size, how);
  // NCCL connects at its first operation.
  std::vector<Tensor> tensors{at::ones({1}, at::device(device))};
  all.backend->allreduce(tensors)->wait();
  TORCH_CHECK(tensors[0].item<float>() == static_cast<float>(all.size), "a sum of ones over ", all.size, " ranks gave ", tensors[0].item<float>());
  std::lock_guard<std::mutex> lock(all.mutex);
  all.pending.erase(number);
  all.number = 0;
}

// ---- memory ----------------------------------------------------------------------------------------------------------------------------

/** Releases a tensor's memory (0 bytes) or allocates it again, uninitialised; views of it stay views. */
void resizeStorage(const Tensor& x, int64_t size) {
  auto* storage = x.storage().unsafeGetStorageImpl();
  if (static_cast<int64_t>(storage->nbytes()) == size) return;
  auto* allocator = storage->allocator();
  storage->set_data_ptr_noswap(size == 0 ? at::DataPtr(nullptr, storage->device()) : allocator->allocate(size));
  storage->set_nbytes(static_cast<size_t>(size));
}

/** Sets the tensor's gradient, which may have another dtype. */
void setGradient(const Tensor& x, const Tensor& gradient) { x.mutable_grad() = gradient; }

TORCH_LIBRARY(caravan_ranks, library) {
  library.def("join(int rank, int size, str host, int port, float joining, float deadline) -> ()", join);
  library.def("connect_all(str what) -> ()", connectAll);
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
