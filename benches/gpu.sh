#!/usr/bin/env bash
# benches/gpu.sh bundle FILE: pack the program, the Vulkan loader and these scripts into FILE (.tar.xz), for a machine without a toolchain.
# benches/gpu.sh run FOLDER: measure Thorax on the GPU of this machine, and PyTorch where python3 has it. The most valuable figures come
# first, and each is in FOLDER/gpu.csv as soon as it is there. Ends after BUDGET seconds (460 by default); needs no network.
#
# Variables: THORAX (program; default: next to this script or on the PATH), THORAX_DEVICE (default vulkan:0), BUDGET, and the sizes:
# PREDICT ("SIDE:BATCHES …"), TRAIN ("SIDE:BATCH …"), RECIPE_IMAGES (0: none), RUNS; for a slow device also ARCHITECTURE, RECIPE and
# PLAN (overrides of its plan, as JSON).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

bundle() {
  local file=$1 program loader folder
  program=$(command -v "${THORAX:-thorax}")
  loader=$(ldconfig -p | sed -n 's/.*libvulkan\.so\.1 .*x86-64.* => //p' | head -n 1)
  folder=$(mktemp -d)
  mkdir "$folder/thorax-gpu"
  cp "$here/gpu.sh" "$here/gpu_torch.py" "$here/network.py" "$folder/thorax-gpu/"
  cp --dereference "${loader:?no libvulkan.so.1: install libvulkan1}" "$folder/thorax-gpu/libvulkan.so.1"
  strip -o "$folder/thorax-gpu/thorax" "$program"
  tar --create --xz --file "$file" --directory "$folder" thorax-gpu
  rm -rf "$folder"
  printf '%s: %d bytes\n' "$file" "$(stat --format %s "$file")"
}

# left: seconds of the budget that are left.
left() { echo $((BUDGET - SECONDS)); }

# within SECONDS COMMAND...: runs the command if that much time is left, and says so if it is not, ends late or fails.
within() {
  local needed=$1 code=0
  shift
  if [ "$(left)" -lt "$needed" ]; then
    echo "not measured, $(left) s are left: $*" | tee -a "$folder/log"
    return 0
  fi
  timeout "$(left)" "$@" 2>> "$folder/log" || code=$?
  [ "$code" -eq 0 ] || echo "failed with exit code $code: $*" | tee -a "$folder/log"
}

# field NAME: its number in a line of JSON.
field() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" <<< "$line"; }

# bench CASE SIDE BATCHES: rows of `thorax bench`.
bench() {
  local line peak
  within 15 "$thorax" bench --case "$1" --architecture "$ARCHITECTURE" --image-size "$2" --batch "$3" --runs "$RUNS" --json | while read -r line; do
    peak=$(field peak_memory_bytes)
    printf 'Thorax,%s,%s,%s,%s,%s,%s,%.1f,%s\n' "$1" "$2" "$(field batch)" "$(field median_ms)" "$(field p99_ms)" \
      "$(field images_per_second)" "$(awk "BEGIN { print $(field warm_up_ms) / 1000 }")" "${peak:+$((peak >> 20))}"
  done | tee -a "$csv"
}

# torch CASE:SIDE:BATCH...: rows of PyTorch.
torch() {
  "$has_torch" || return 0
  within 15 python3 "$here/gpu_torch.py" --device "$torch_device" --runs "$RUNS" "$@" | tee -a "$csv"
}

# A whole run of the recipe on drawn images, from random weights by default, with the seconds of each stage and step.
recipe() {
  local data="$folder/data" began seconds
  [ "$RECIPE_IMAGES" -gt 0 ] || return 0
  rm -rf "$data" "$folder/phantoms"
  within 60 "$thorax" phantoms --out "$folder/phantoms" --count "$RECIPE_IMAGES" --seed 1
  within 60 "$thorax" import --data-dir "$data" --dataset phantoms "$folder/phantoms"
  began=$SECONDS
  echo "$PLAN" | within 60 "$thorax" train --data-dir "$data" --dataset phantoms --recipe "$RECIPE" --plan - |
    tee "$folder/recipe.txt"
  seconds=$((SECONDS - began))
  # A run that failed or was cut short is no measurement.
  grep -q '^status *succeeded' "$folder/recipe.txt" || return 0
  printf 'Thorax,%s on %s images,,,,,,%s,\n' "$RECIPE" "$RECIPE_IMAGES" "$seconds" | tee -a "$csv"
}

# Where the time of training steps goes: calls and milliseconds by kernel, from time stamps of the device, in kernels.csv. The steps are
# measured before, so that this process tunes nothing.
profile() {
  local case=${TRAIN%% *} log="$folder/kernels.log"
  CUBECL_DEBUG_LOG="$log" CUBECL_DEBUG_OPTION=profile within 30 "$thorax" bench --case train --architecture "$ARCHITECTURE" \
    --image-size "${case%:*}" --batch "${case#*:}" --runs 5
  [ -e "$log" ] || return 0
  awk -F ' *[|] ' '
    $2 ~ /^[0-9.]+(ns|µs|ms|s)$/ {
      unit = $2; sub(/[0-9.]+/, "", unit)
      time = $2 * (unit == "s" ? 1000 : unit == "ms" ? 1 : unit == "µs" ? 0.001 : 0.000001)
      name = $3; sub(/_[0-9a-f]+ *$/, "", name); if (NF > 3) name = $3 " " $NF; sub(/_[0-9a-f]+ *$/, "", name)
      calls[name]++; total[name] += time
    }
    END { for (name in calls) printf "%s,%d,%.3f\n", name, calls[name], total[name] }' "$log" |
    sort --field-separator , --key 3 --reverse --numeric-sort | sed '1ikernel,calls,total_ms' > "$folder/kernels.csv"
  rm "$log"
  head -n 6 "$folder/kernels.csv"
}

run() {
  folder=$(mkdir -p "$1" && cd "$1" && pwd)
  csv="$folder/gpu.csv"
  : "${BUDGET:=460}" "${RUNS:=30}" "${ARCHITECTURE:=resnet50}" "${RECIPE:=covid-resnet}"
  : "${PLAN:={\"initial_weights\": \"random\"\}}" "${RECIPE_IMAGES:=2000}" "${PREDICT:=224:1,8 224:32,128}" "${TRAIN:=128:32 224:32 229:32 224:128}"
  export THORAX_DEVICE="${THORAX_DEVICE:-vulkan:0}"
  thorax=${THORAX:-$([ -x "$here/thorax" ] && echo "$here/thorax" || command -v thorax)}
  # The loader of the bundle, where the machine has a driver without one.
  [ ! -e "$here/libvulkan.so.1" ] || export LD_LIBRARY_PATH="$here${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
  has_torch=false torch_device=cuda
  if python3 -c 'import numpy, torch; assert torch.cuda.is_available()' 2> /dev/null; then has_torch=true; fi
  {
    date --iso-8601=seconds
    "$thorax" --version
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2> /dev/null || true
  } | tee "$folder/machine.txt"
  echo "program,case,image_size,batch,median_ms,p99_ms,images_per_second,warm_up_s,peak_mib" | tee "$csv"
  within 10 "$thorax" probe | tee -a "$folder/machine.txt"

  local predict=() train=() case
  read -r -a predict <<< "$PREDICT"
  read -r -a train <<< "$TRAIN"
  bench predict "${predict[0]%:*}" "${predict[0]#*:}"
  for case in "${train[@]:0:2}"; do bench train "${case%:*}" "${case#*:}"; done
  torch "predict:${predict[0]%:*}:1" "predict:${predict[0]%:*}:8" "${train[@]/#/train:}"
  for case in "${predict[@]:1}"; do bench predict "${case%:*}" "${case#*:}"; done
  recipe
  for case in "${train[@]:2}"; do bench train "${case%:*}" "${case#*:}"; done
  extrapolate | tee -a "$folder/machine.txt"
  profile
  ratios
  echo "$csv: $(($(wc -l < "$csv") - 1)) rows in $SECONDS s"
}

# The recipe covid-resnet on COVIDx V7A, from the measured steps: 15 of its 21 epochs train the whole network, 5 at each image size, on 13,540
# images in batches of 32. The other 6 train the head on cached features, and 1,546 images are evaluated after each epoch: one pass over
# the training images of stages 1 and 2 and 21 over the others, at the speed of predictions.
extrapolate() {
  awk -F, '$1 == "Thorax" && $2 == "train" && $4 == 32 { step[$3] = $5 } $1 == "Thorax" && $2 == "predict" && $4 == 32 { rate = $7 }
    END {
      if (!(128 in step && 224 in step && 229 in step && rate)) exit
      steps = 5 * 424 * (step[128] + step[224] + step[229]) / 1000
      passes = (2 * 13540 + 21 * 1546) / rate
      printf "covid-resnet on 15,086 images, extrapolated: %.0f s (%.0f s of steps, %.0f s of passes); 1,453 s in the report\n", steps + passes, steps, passes
    }' "$csv"
}

# Thorax's median as a part of PyTorch's fastest one, by case.
ratios() {
  awk -F, 'NR > 1 && $5 != "" { key = $2 "," $3 "," $4
      if ($1 == "Thorax") own[key] = $5; else if (!(key in best) || $5 < best[key]) { best[key] = $5; form[key] = $1 } }
    END { for (key in own) if (key in best) printf "%s: %.2f of %s\n", key, own[key] / best[key], form[key] }' "$csv"
}

case "${1:-}" in
  bundle) bundle "${2:?usage: gpu.sh bundle FILE}" ;;
  run) run "${2:?usage: gpu.sh run FOLDER}" ;;
  *) sed -n '2,9s/^# //p' "$0"; exit 2 ;;
esac
