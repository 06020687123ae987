// Denormals are flushed in the threads that compute (slow on many CPUs, and vdpbf16ps flushes always); threads owned by
// the host keep their own mode.
#pragma once

namespace df {

/// Sets flush-to-zero and denormals-are-zero on this thread; returns the previous mode for restore_float_mode.
unsigned enable_flush_to_zero();
void restore_float_mode(unsigned mode);

}  // namespace df
