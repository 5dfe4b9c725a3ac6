#!/usr/bin/env bash
# The runs of docs/equilibrium.md, one after the other on a CPU, and launcher compare over them. A run that is there already is
# gone on with, so an interrupted study continues.
set -euo pipefail
out=${1:?"usage: study.sh OUT"}
bin=$(cd "$(dirname "$0")/../../bin" && pwd)
mkdir -p "$out"
data=$out/faces-32
[ -f "$data/manifest.json" ] || "$bin/trainer" prepare synthetic:faces --out "$data" --size 32 --count 6000 --seed 1

# run NAME GAMMA FILTERS LATENT RATE STEPS LOOKS
run() {
  if [ -f "$out/$1/run.toml" ]; then
    "$bin/launcher" resume "$out/$1" --device cpu --set run.steps="$6" --quiet
  else
    "$bin/launcher" train --nodes 1 --gpus 1 --device cpu --data "$data" --run "$out/$1" --quiet \
      --set model.size=32 --set run.batch=16 --set objective.carry_steps=0 --set objective.gamma="$2" --set model.filters="$3" \
      --set model.latent="$4" --set optimizer.rate="$5" --set run.steps="$6" --set run.sample_every="$7" \
      --set run.checkpoint_every=1000 --set run.digest_every=500
  fi
}
for gamma in 0.3 0.5 0.7 1.0; do
  run "gamma-$gamma" "$gamma" 16 16 3e-4 1000 125
done
run fifth 0.5 24 64 2e-4 2600 250
if [ -f "$out/healthy/run.toml" ]; then
  "$bin/launcher" resume "$out/healthy" --device cpu --set run.steps=4000 --quiet
else
  "$bin/launcher" train --nodes 1 --gpus 1 --device cpu --data "$data" --run "$out/healthy" --preset demo --set run.steps=4000 --quiet
fi

runs=("$out"/gamma-0.3 "$out"/gamma-0.5 "$out"/gamma-0.7 "$out"/gamma-1.0 "$out"/fifth "$out"/healthy)
"$bin/launcher" compare "${runs[@]}" --out "$out/compare.html"
for run in "${runs[@]}"; do
  "$bin/launcher" diagnose "$run" --out "$run.html" > "$run.txt"
done
echo "study: the table is in $out/compare.html, a report beside each run"
