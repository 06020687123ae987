// What only a sanitizer finds: races that leave the result right in every schedule, and indices from one member of shared
// memory into the next. These cases exist in if_tests_thread and if_tests_address only.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cstdlib>

#include "emulation_case.h"

// read by the sanitizers' libraries, so they must be visible there
#pragma GCC visibility push(default)
extern "C" {
// One address stands for many variables here (a block's shared memory): report each race, not each address once.
const char* __tsan_default_options() { return "suppress_equal_addresses=0:history_size=2"; }
// The oracle is not instrumented, so how its threads wait for each other is not seen: its copies are no races.
const char* __tsan_default_suppressions() { return "race:df::reference::\nrace:df::ReferenceBackend::\n"; }
const char* __asan_default_options() { return "detect_leaks=0"; }
}
#pragma GCC visibility pop

namespace df::test {
namespace {

struct Operands {
  alignas(1024) gpu::bf16 a[64 * 64], b[64 * 64];
};
GPU_FN void multiply(Operands& s, float (&d)[32]) {
  gpu::wgmma_fence();
  gpu::wgmma<gpu::bf16, 64, false, false>(d, gpu::wgmma_descriptor(s.a, 16, 1024), gpu::wgmma_descriptor(s.b, 16, 1024), false);
  gpu::wgmma_commit();
  gpu::wgmma_wait<0>();
}
void clean(int* out) {
  Operands& s = gpu::dynamic_shared<Operands>();
  for (int i = int(threadIdx.x); i < 64 * 64; i += 128) s.a[i] = s.b[i] = gpu::from_float<gpu::bf16>(1.0f);
  gpu::fence_proxy_async();
  __syncthreads();
  float d[32];
  multiply(s, d);
  s.a[threadIdx.x] = gpu::from_float<gpu::bf16>(d[0]);
  __syncthreads();
  out[blockIdx.x * 128 + threadIdx.x] = int(gpu::to_float(s.a[127 - threadIdx.x]));
}

#if defined(__SANITIZE_THREAD__)
void same_value(int* out) {
  GPU_SHARED(int[1], x);
  x[0] = 5;
  __syncthreads();
  out[threadIdx.x] = x[0];
}
void write_after_read(int* out) {
  GPU_SHARED(int[128], x);
  x[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = x[(threadIdx.x + 1) % 128];
  x[threadIdx.x] = 1;
}
void shuffle_is_no_fence(int* out) {
  GPU_SHARED(int[128], x);
  x[threadIdx.x] = 3;
  __shfl_xor_sync(~0u, 1, 1);
  out[threadIdx.x] = x[threadIdx.x ^ 31];
}
void blocks_share_output(int* out) { out[threadIdx.x] = 1; }
void plain_and_atomic(int* out) {
  if (threadIdx.x < 31) atomicAdd(&out[0], 1);
  if (threadIdx.x == 31) out[0] = 0;  // g++ 12 can hang when it reports from an atomic: nobody follows
}
void missing_proxy_fence(int* out) {
  Operands& s = gpu::dynamic_shared<Operands>();
  for (int i = int(threadIdx.x); i < 64 * 64; i += 128) s.a[i] = s.b[i] = gpu::from_float<gpu::bf16>(1.0f);
  __syncthreads();
  float d[32];
  multiply(s, d);
  out[threadIdx.x] = int(d[0]);
}
#else
struct Neighbours {
  int x[128], y[128];
};
void index_into_the_next_member(int* out) {
  Neighbours& s = gpu::dynamic_shared<Neighbours>();
  const int i = int(threadIdx.x) + 1;
  s.x[i] = 1;
  __syncthreads();
  out[threadIdx.x] = s.x[threadIdx.x];
}
void beyond_device_memory(int* out) { out[threadIdx.x + 1000] = 1; }
void beyond_static_memory(int* out) {
  GPU_SHARED(int[128], x);
  int* p = x;
  p[threadIdx.x + 1] = 1;
  out[threadIdx.x] = x[threadIdx.x];
}
void misaligned_vector(int* out) { *reinterpret_cast<float4*>(out + 1) = make_float4(1, 2, 3, 4); }
#endif

// The case starts this program again, for itself alone: a sanitizer may end it, and reports are no failure of ours.
constexpr const char* kAlone = "IF_PLANTED_DEFECT";

bool is_found(const std::string& name) {
  const std::string alone = std::string(kAlone) + "=1";
  std::vector<char*> environment = {const_cast<char*>(alone.c_str()), const_cast<char*>("TSAN_OPTIONS=symbolize=0"),
                                    const_cast<char*>("ASAN_OPTIONS=symbolize=0"), nullptr};
  char* arguments[] = {const_cast<char*>("if_tests"), const_cast<char*>(name.c_str()), nullptr};
  posix_spawn_file_actions_t silent;
  posix_spawn_file_actions_init(&silent);
  for (int stream : {1, 2}) posix_spawn_file_actions_addopen(&silent, stream, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  int status = 0;
  CHECK(posix_spawn(&child, "/proc/self/exe", &silent, nullptr, arguments, environment.data()) == 0);
  CHECK(waitpid(child, &status, 0) == child);
  posix_spawn_file_actions_destroy(&silent);
  return status != 0;
}
void add(Suite& suite, const std::string& defect, void (*kernel)(int*), unsigned blocks, bool found) {
  const std::string name = "emulation sanitizer " + defect;
  suite.add(name, [=] {
    if (std::getenv(kAlone)) run_kernel(kernel, dim3(blocks), dim3(128), sizeof(Operands), 1000);
    else CHECK(is_found(name) == found);
  });
}

const Registration planted([](Suite& suite) {
  add(suite, "clean kernel", clean, 3, false);
#if defined(__SANITIZE_THREAD__)
  add(suite, "same value written", same_value, 1, true);
  add(suite, "write after read", write_after_read, 1, true);
  add(suite, "shuffle is no fence", shuffle_is_no_fence, 1, true);
  add(suite, "two blocks, one output", blocks_share_output, 2, true);
  add(suite, "plain and atomic", plain_and_atomic, 1, true);
  add(suite, "missing proxy fence", missing_proxy_fence, 1, true);
#else
  add(suite, "index into the next member", index_into_the_next_member, 1, true);
  add(suite, "beyond device memory", beyond_device_memory, 1, true);
  add(suite, "beyond static shared memory", beyond_static_memory, 1, true);
  add(suite, "misaligned vector", misaligned_vector, 1, true);
#endif
});

}  // namespace
}  // namespace df::test

#endif
