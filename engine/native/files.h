// Reads tensors from files and copies them to bytes, a piece at a time: neither a complete file nor a complete tensor is in host memory twice.
#pragma once
#include "values.h"

/**
 * readInto(tensor, file, offset, dtype) -> number of bytes read. Fills a contiguous tensor on any device with elements of an open file (given by its
 * descriptor), stored row-major as `dtype` from the offset on. If the file ends early, fewer bytes are read and the rest of the tensor is undefined.
 * Throws if the file can't be read.
 *
 * It uses pread, not mmap. If a mapped file is truncated, accessing its pages raises SIGBUS, which kills the process without a message, while a read
 * just returns fewer bytes. The pieces stay in the processor's cache, so that reading takes no more time than a map's page faults (docs/performance.md).
 */
napi_value readInto(const Arguments& in);

/** toBytes(tensor, view, first?): fills the view with the tensor's elements, starting at element `first` (default 0), in row-major order. */
napi_value toBytes(const Arguments& in);
