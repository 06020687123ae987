// Which instruction sets this machine and build have, and the backend of each.
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/error.h"
#include "cpu/cpu_backend.h"
#if IF_X86
#include <cpuid.h>
#endif

namespace df {
namespace {

struct Features {
  bool avx2 = false, avx512 = false, avx512bf16 = false;
};

#if IF_X86
// A CPU that has the instructions is not enough: the operating system must save their registers (XCR0).
Features detect() {
  Features f;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  const bool osxsave = c >> 27 & 1, avx = c >> 28 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1;
  if (!osxsave) return f;
  unsigned xcr0, high;
  __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
  const bool ymm_saved = (xcr0 & 0x06) == 0x06;  // SSE, AVX
  const bool zmm_saved = (xcr0 & 0xe6) == 0xe6;  // and opmask, ZMM 0-15 high halves, ZMM 16-31
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  const unsigned leaves = a;
  f.avx2 = ymm_saved && avx && fma && f16c && (b >> 5 & 1);
  const bool foundation = b >> 16 & 1, dq = b >> 17 & 1, bw = b >> 30 & 1, vl = b >> 31 & 1;
  f.avx512 = f.avx2 && zmm_saved && foundation && dq && bw && vl;
  if (f.avx512 && leaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) f.avx512bf16 = a >> 5 & 1;
  return f;
}
#else
Features detect() { return {}; }
#endif

const Features& features() {
  static const Features f = detect();
  return f;
}

std::string isa_names() {
  std::string names;
  for (const CpuIsa& isa : cpu_isas()) names += (names.empty() ? "" : ", ") + std::string(isa.name);
  return names;
}

const char* choose_isa() {
  const auto isas = cpu_isas();
  if (const char* wanted = std::getenv("IF_CPU_ISA"); wanted && *wanted) {
    cpu_backend(wanted);  // throws for what is unknown or unsupported
    for (const CpuIsa& isa : isas)
      if (std::strcmp(isa.name, wanted) == 0) return isa.name;
  }
  const char* best = "reference";
  for (const CpuIsa& isa : isas)
    if (isa.supported) best = isa.name;
  return best;
}

}  // namespace

std::vector<CpuIsa> cpu_isas() {
  const Features& f = features();
  return {{"reference", true}, {"portable", true}, {"avx2", f.avx2},
          {"avx512", f.avx512}, {"avx512bf16", f.avx512bf16}};
}

Backend& cpu_backend(const char* name) {
  const std::string isa = name;
  bool known = false, supported = false;
  for (const CpuIsa& i : cpu_isas())
    if (isa == i.name) known = true, supported = i.supported;
  DF_CHECK(known, "cpu: instruction set (IF_CPU_ISA) must be one of %s, got %s", isa_names().c_str(), name);
  if (!supported)
    fail(ErrorCode::NotBuilt, "cpu: instruction set (IF_CPU_ISA) must be supported by this machine and build, got %s; "
                              "unset IF_CPU_ISA to take the best one", name);
  if (isa == "reference") return reference_backend();
#if IF_X86
  if (isa == "avx512bf16") {
    static CpuBackend backend("cpu/avx512bf16", kernels_avx512bf16);
    return backend;
  }
  if (isa == "avx512") {
    static CpuBackend backend("cpu/avx512", kernels_avx512);
    return backend;
  }
  if (isa == "avx2") {
    static CpuBackend backend("cpu/avx2", kernels_avx2);
    return backend;
  }
#endif
  static CpuBackend backend("cpu/portable", kernels_portable);
  return backend;
}

const char* cpu_isa() {
  static const char* const isa = choose_isa();
  return isa;
}

}  // namespace df
