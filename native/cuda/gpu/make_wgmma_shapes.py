# Writes wgmma_shapes.cuh: the wgmma instruction for each N that a kernel uses (its operand list must be spelled out).
SHAPES = (64, 128, 160, 176, 192, 256)

def registers(first, count):
    lines, step = [], 16
    for i in range(first, first + count, step):
        lines.append(", ".join(f"%{k}" for k in range(i, min(i + step, first + count))))
    return (",\"\n               \"").join(lines)

def outputs(n):
    out = [f'"+f"(d[{i}])' for i in range(n // 2)]
    return ",\n                 ".join(", ".join(out[i:i + 8]) for i in range(0, len(out), 8))

def instruction(n, kind, a_in_registers):
    k = n // 2
    name = f"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{kind}.{kind}"
    if a_in_registers:
        operands = f"{{%{k}, %{k+1}, %{k+2}, %{k+3}}}, %{k+4}, p, 1, 1, %{k+6};"
        inputs = '"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)), "n"(int(BMnMajor))'
        predicate = f"setp.ne.b32 p, %{k+5}, 0;"
    else:
        operands = f"%{k}, %{k+1}, p, 1, 1, %{k+3}, %{k+4};"
        inputs = '"l"(a), "l"(b), "r"(int(accumulate)), "n"(int(AMnMajor)), "n"(int(BMnMajor))'
        predicate = f"setp.ne.b32 p, %{k+2}, 0;"
    return (f'  asm volatile("{{.reg .pred p; {predicate} {name} {{"\n               "{registers(0, k)}}}, "\n'
            f'               "{operands}}}"\n               : {outputs(n)}\n               : {inputs});\n')

def function(a_in_registers):
    head = "template <class T, int N, bool BMnMajor>" if a_in_registers else "template <class T, int N, bool AMnMajor, bool BMnMajor>"
    arg = "const uint32_t (&a)[4]" if a_in_registers else "uint64_t a"
    out = [f"{head}\nGPU_FN void wgmma(float (&d)[N / 2], {arg}, uint64_t b, bool accumulate GPU_SITE_ARG) {{\n#if GPU_EMULATED\n"]
    if a_in_registers:
        out.append("  emu::wgmma({d, a, 0, b, N, detail::IsBf16<T>::value, accumulate, false, BMnMajor}, site);\n")
    else:
        out.append("  emu::wgmma({d, nullptr, a, b, N, detail::IsBf16<T>::value, accumulate, AMnMajor, BMnMajor}, site);\n")
    out.append("#else\n  constexpr bool bf = detail::IsBf16<T>::value;\n")
    for i, n in enumerate(SHAPES):
        for kind in ("bf16", "f16"):
            test = f"N == {n} && {'bf' if kind == 'bf16' else '!bf'}"
            out.append(f"  if constexpr ({test})\n  " + instruction(n, kind, a_in_registers).lstrip().replace("\n", "\n  ").rstrip() + "\n")
    out.append("  static_assert(" + " || ".join(f"N == {n}" for n in SHAPES) + ', "add the shape to make_wgmma_shapes.py");\n')
    out.append("#endif\n}\n")
    return "".join(out)

print("// Written by make_wgmma_shapes.py.\n#pragma once\n\nnamespace GPU_NAMESPACE {\n#if GPU_EMULATED\n#define GPU_SITE_ARG , emu::Site site\n"
      "#else\n#define GPU_SITE_ARG\n#endif\n")
print(function(False))
print(function(True))
print("}  // namespace GPU_NAMESPACE")
