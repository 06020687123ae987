#!/usr/bin/env bash
# Everything that only a GPU can tell, in one command and within nine minutes:
#     bench/gpu.sh [RESULTS.json]
# builds for the GPU of this machine, runs every op case and the golden networks on it, a part of them under
# compute-sanitizer, times the published networks beside PyTorch, and, where .gpu/env.sh brings Node, samples end to end.
# Needs CMake, nvcc and a C++20 compiler; python3 with torch for the peer. The results go to
# bench/results/DEVICE.json, a list with one entry per step; what failed or found no time is an entry that says so.
set -u
cd "$(dirname "$0")/.."
export PATH="${CUDA_HOME:-/usr/local/cuda}/bin:$PATH"
begin=$(date +%s)
total=${IF_GPU_SECONDS:-540}
build=build/gpu
export scratch; scratch=$(mktemp -d)
lines=$scratch/lines
: > "$lines"
trap 'rm -rf "$scratch"' EXIT

left() { echo $((total - $(date +%s) + begin)); }
quote() { python3 -c 'import json,sys; print(json.dumps(sys.stdin.read().strip()[-1500:]))' 2>/dev/null || printf '"%s"' "$(tr -d '"\\' | tr '\n\t' '  ' | tail -c 1500)"; }
# step NAME LIMIT COMMAND…: under a limit and the time that is left; its time and last line are kept
step() {
  local name=$1 limit=$2 rc=0 start seconds
  shift 2
  [ "$limit" -le "$(left)" ] || limit=$(left)
  if [ "$limit" -lt 3 ]; then
    echo "{\"step\":\"$name\",\"status\":\"no time left\"}" >> "$lines"
    echo "== $name: no time left"
    return 1
  fi
  start=$(date +%s.%N)
  timeout -k 2 "$limit" "$@" > "$lines.out" 2>&1 || rc=$?
  seconds=$(echo "$(date +%s.%N) $start" | awk '{printf "%.1f", $1 - $2}')
  local status=ok
  [ $rc -eq 0 ] || status=failed
  [ $rc -ne 124 ] || status="longer than $limit s"
  echo "{\"step\":\"$name\",\"status\":\"$status\",\"seconds\":$seconds,\"output\":$(tail -n 12 "$lines.out" | quote)}" >> "$lines"
  echo "== $name: $status, $seconds s"
  [ $rc -eq 0 ] || tail -n 25 "$lines.out"
  return $rc
}
# measure LIMIT COMMAND…: the command prints a JSON object, which becomes an entry
measure() {
  local limit=$1
  shift
  [ "$limit" -le "$(left)" ] || limit=$(left)
  if [ "$limit" -ge 3 ] && timeout -k 2 "$limit" "$@" > "$lines.out" 2> "$lines.err" && grep -q '^{' "$lines.out"; then
    grep '^{' "$lines.out" | tail -n 1 | tee -a "$lines"
  else
    echo "{\"step\":$(echo "$*" | quote),\"status\":\"failed\",\"output\":$(tail -n 3 "$lines.err" 2>/dev/null | quote)}" | tee -a "$lines"
  fi
  rm -f "$lines.err"
}
finish() {
  mkdir -p "$(dirname "$results")"
  { echo '['; sed '$!s/$/,/' "$lines"; echo ']'; } > "$results"
  echo "$results, $(($(date +%s) - begin)) s"
}

name=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
results=${1:-bench/results/$(echo "${name:-no-gpu}" | tr 'A-Z ' 'a-z-').json}

configure() {
  local generator=()
  ! command -v ninja > /dev/null || generator=(-G Ninja)
  IF_CUDA=AUTO cmake -S . -B $build "${generator[@]}" -DCMAKE_BUILD_TYPE=Release && cmake --build $build --target if_tests if_bench -j "$(nproc)"
}
export -f configure; export build
step build 180 bash -c configure || { finish; exit 1; }
measure 30 $build/if_bench device
if ! $build/if_bench device | grep -q '"refusal":""'; then
  finish
  exit 1
fi

# correctness: all ops on all their cases and schedules of strides, then networks, gradients, optimizer steps, replicas and
# sampling, with each choice of kernels
cases() {
  local rc=0 kernels
  for kernels in plain mma wgmma; do
    IF_CUDA_KERNELS=$kernels $build/if_tests isa=cuda:0 > "$scratch/cases-$kernels" 2>&1 &
  done
  for kernels in plain mma wgmma; do wait -n || rc=1; done
  for kernels in plain mma wgmma; do
    echo "$kernels:"
    grep -A1 '^FAIL' "$scratch/cases-$kernels" | head -n 40
    tail -n 2 "$scratch/cases-$kernels"
  done
  return $rc
}
export -f cases
step "op and network cases" 150 bash -c cases
if command -v compute-sanitizer > /dev/null; then
  # every fortieth case; racecheck does not follow TMA and mbarriers
  mapfile -t some < <($build/if_tests --list | grep 'isa=cuda:0$' | awk 'NR % 40 == 1')
  sanitize=(compute-sanitizer --error-exitcode 9)
  step memcheck 45 env IF_CUDA_KERNELS=wgmma "${sanitize[@]}" --tool memcheck $build/if_tests "${some[@]}" "device copies"
  step racecheck 40 env IF_CUDA_KERNELS=mma "${sanitize[@]}" --tool racecheck $build/if_tests "${some[@]}"
  step initcheck 30 env IF_CUDA_KERNELS=mma "${sanitize[@]}" --tool initcheck $build/if_tests "t5_tiny gradients on a device f32 isa=cuda:0"
fi

# speed: the fast kernels on everything, the plain ones on one layer only
ours=(--device cuda:0 --dtype bf16)
half=(--batch 2 --runs 10 --dtype f16)
for kernels in wgmma mma; do
  measure 50 env IF_CUDA_KERNELS=$kernels $build/if_bench unet --config IF-I-XL --batch 2 --size 64 --runs 10 "${ours[@]}"
  measure 40 env IF_CUDA_KERNELS=$kernels $build/if_bench unet --config IF-II-L --batch 2 --size 256 --runs 10 "${ours[@]}"
  measure 50 env IF_CUDA_KERNELS=$kernels $build/if_bench training --config IF-I-L --batch 16 --size 64 --runs 5 "${ours[@]}"
  measure 20 env IF_CUDA_KERNELS=$kernels $build/if_bench linear --shape 8192,8192,8192 --runs 20 "${ours[@]}"
done
for kernels in wgmma mma plain; do
  measure 20 env IF_CUDA_KERNELS=$kernels $build/if_bench conv --shape 2,64,704,704 --runs 20 "${ours[@]}"
done
measure 30 env IF_CUDA_KERNELS=wgmma $build/if_bench unet --config IF-I-XL --size 64 --device cuda:0 "${half[@]}"
if python3 -c 'import torch' 2> /dev/null; then
  measure 60 python3 bench/peer/unet_step.py IF-I-XL --device cuda --dtype bf16 --batch 2 --runs 10
  measure 45 python3 bench/peer/unet_step.py IF-II-L --device cuda --dtype bf16 --batch 2 --runs 10
  measure 60 python3 bench/peer/train_step.py IF-I-L --device cuda --dtype bf16 --batch 16 --runs 5
  measure 45 python3 bench/peer/unet_step.py IF-I-XL --device cuda "${half[@]}"
else
  echo '{"step":"peer","status":"not run: python3 has no torch"}' >> "$lines"
fi

# end to end
if [ -f .gpu/env.sh ]; then
  sample() {
    . .gpu/env.sh && for run in cpu:f32 cuda:f32 cuda:f16; do
      node dist/cli/if-sample.js "a red apple" --seed 0 --stage1 models/if-emoji --stage2 models/if-emoji/stage2 --dtype ${run#*:} --exact --no-cache \
        --device ${run%:*} --out "$scratch/$run.safetensors" || return 1
    done
    node -e '
      const { readFileSync } = require("fs");
      const read = (run) => { const b = readFileSync(`${process.env.scratch}/${run}.safetensors`); const n = Number(b.readBigUInt64LE(0)); return new Float32Array(b.buffer.slice(b.byteOffset + 8 + n)); };
      const a = read("cpu:f32");
      const difference = (run) => {
        const b = read(run);
        let error = 0, size = 0;
        for (let i = 0; i < a.length; i++) { error += (a[i] - b[i]) ** 2; size += a[i] ** 2; }
        console.log(`${run} and cpu:f32 differ by ${Math.sqrt(error / size)}`);
        return Math.sqrt(error / size);
      };
      // float16: its text is bfloat16, whose rounding twelve steps carry along
      const [single, half] = [difference("cuda:f32"), difference("cuda:f16")];
      process.exit(single <= 1e-3 && half <= 0.1 ? 0 : 1);'
  }
  export -f sample
  step "if-sample" 90 bash -c sample
fi
finish
! grep -q '"status":"failed"' "$lines"
