// Tensors from files and to bytes, a piece at a time: neither a whole file nor a whole tensor is in host memory twice.
#pragma once
#include "values.h"

/**
 * readInto(tensor, file, offset, dtype) -> bytes that were read: fills a contiguous tensor of any device with its elements, row-major, that an open file
 * (its descriptor) holds as `dtype` from the offset on. Fewer bytes than the elements have: the file ended first, and the rest of the tensor is undefined.
 * Throws where the file can't be read.
 *
 * It reads (pread) and maps nothing. A page of a map whose file was cut short since raises SIGBUS, which ends the process without a word, where a read
 * comes back short; and the pieces stay in the processor's cache, so that reading takes no more time than a map's page faults (docs/performance.md).
 */
napi_value readInto(const Arguments& in);

/** toBytes(tensor, view, first?): copies the tensor's elements from number `first` (0) on, in row-major order, into the view, up to its end. */
napi_value toBytes(const Arguments& in);
