#include "files.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

using at::Tensor;

namespace {

/** Bytes read at a time when they are converted or copied to a GPU: this fits in a processor's cache. */
constexpr int64_t pieceSize = 1 << 20;

/** Reads until the end of the buffer or the file; returns the number of bytes. */
int64_t readFully(int file, char* into, int64_t length, int64_t offset) {
  int64_t at = 0;
  while (at < length) {
    // One call reads at most 2 GiB.
    ssize_t n = pread(file, into + at, std::min<int64_t>(length - at, 1 << 30), offset + at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw std::runtime_error(std::strerror(errno));
    if (n == 0) break;
    at += n;
  }
  return at;
}

}  // namespace

napi_value readInto(const Arguments& in) {
  c10::NoGradGuard quiet;
  Tensor flat = in.tensor(0).detach().view(-1);
  int file = static_cast<int>(in.number(1));
  auto offset = static_cast<int64_t>(in.number(2));
  auto dtype = static_cast<at::ScalarType>(static_cast<int>(in.number(3)));
  auto width = static_cast<int64_t>(c10::elementSize(dtype));
  int64_t count = flat.numel(), read = 0;
  if (flat.is_cpu() && flat.scalar_type() == dtype)
    return jsNumber(in.env, static_cast<double>(readFully(file, static_cast<char*>(flat.data_ptr()), count * width, offset)));
  int64_t most = std::min(count, pieceSize / width);
  // Pinned, so that a copy to the GPU does not go through another buffer in the driver.
  Tensor piece = at::empty({most}, at::TensorOptions().dtype(dtype).pinned_memory(flat.is_cuda()));
  for (int64_t first = 0; first < count; first += most) {
    int64_t length = std::min(most, count - first) * width;
    int64_t got = readFully(file, static_cast<char*>(piece.data_ptr()), length, offset + first * width);
    read += got;
    if (got < length) break;
    Tensor from = piece.narrow(0, 0, length / width), to = flat.narrow(0, first, length / width);
    // copy_ to another device and dtype would convert on the CPU. Instead copy to the GPU in the file's dtype and convert there.
    to.copy_(flat.is_cuda() && flat.scalar_type() != dtype ? from.to(flat.device()) : from);
  }
  return jsNumber(in.env, static_cast<double>(read));
}

napi_value toBytes(const Arguments& in) {
  c10::NoGradGuard quiet;
  Tensor source = in.tensor(0).detach();
  Bytes bytes = bytesOf(in.env, in.values[1]);
  auto width = static_cast<int64_t>(source.element_size());
  int64_t first = in.present(2) ? static_cast<int64_t>(in.number(2)) : 0, count = static_cast<int64_t>(bytes.length) / width;
  if (count * width != static_cast<int64_t>(bytes.length) || first + count > source.numel() || (!in.present(2) && count != source.numel()))
    throw std::runtime_error("the view has " + std::to_string(bytes.length) + " bytes, the tensor " + std::to_string(source.nbytes()) + (first == 0 ? "" : ", " + std::to_string(first * width) + " of them before the first requested element"));
  if (count == 0) return nullptr;
  // A view of the elements if the tensor is contiguous, otherwise a copy of all of them.
  Tensor from = source.reshape(-1).narrow(0, first, count);
  at::from_blob(bytes.data, {count}, source.options().device(at::kCPU)).copy_(from);
  return nullptr;
}
