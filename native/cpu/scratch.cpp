#include "cpu/scratch.h"

#include <cstdlib>

#include "core/error.h"

namespace df {
namespace {

constexpr int kPurposes = int(Scratch::Coefficients) + 1;

struct Buffers {
  void* data[kPurposes] = {};
  size_t size[kPurposes] = {};
  ~Buffers() {
    for (void* p : data) free(p);
  }
};
thread_local Buffers buffers;

}  // namespace

void* scratch(Scratch purpose, size_t bytes) {
  const int i = int(purpose);
  if (buffers.size[i] < bytes) {
    free(buffers.data[i]);
    buffers.data[i] = nullptr;
    buffers.size[i] = 0;
    const size_t size = (bytes + 4095) / 4096 * 4096;
    if (posix_memalign(&buffers.data[i], 4096, size) != 0) {
      buffers.data[i] = nullptr;
      fail(ErrorCode::OutOfMemory, "cpu: cannot allocate %.1f MB of scratch memory", double(size) / 1e6);
    }
    buffers.size[i] = size;
  }
  return buffers.data[i];
}

}  // namespace df
