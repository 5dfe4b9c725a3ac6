#!/usr/bin/env bash
# The runs of docs/equilibrium.md, one after the other on a CPU, and launcher compare over them. A run that is there already is
# gone on with, so an interrupted study continues.
set -euo pipefail
out=${1:?"usage: study.sh OUT"}
bin=$(cd "$(dirname "$0")/../../bin" && pwd)
mkdir -p "$out"
data=$out/faces-32
[ -f "$data/manifest.json" ] || "$bin/trainer" prepare synthetic:faces --out "$data" --size 32 --count 6000 --seed 1

runs=()
# run NAME STEPS and what the run is: flags of launcher train
run() {
  local run=$out/$1 steps=$2
  shift 2
  if [ -f "$run/run.toml" ]; then
    "$bin/launcher" resume "$run" --device cpu --set run.steps="$steps" --quiet
  else
    "$bin/launcher" train --nodes 1 --gpus 1 --device cpu --data "$data" --run "$run" --set run.steps="$steps" --quiet "$@"
  fi
  runs+=("$run")
}
common=(--set model.size=32 --set run.batch=16 --set objective.carry_steps=0 --set run.checkpoint_every=1000 --set run.digest_every=500)
for gamma in 0.3 0.5 0.7 1.0; do
  run "gamma-$gamma" 1000 "${common[@]}" --set objective.gamma="$gamma" --set model.filters=16 --set model.latent=16 \
    --set optimizer.rate=3e-4 --set run.sample_every=125
done
run fifth 2600 "${common[@]}" --set objective.gamma=0.5 --set model.filters=24 --set model.latent=64 \
  --set optimizer.rate=2e-4 --set run.sample_every=250
run healthy 4000 --preset demo

"$bin/launcher" compare "${runs[@]}" --out "$out/compare.html"
for run in "${runs[@]}"; do
  "$bin/launcher" diagnose "$run" --out "$run.html" > "$run.txt"
done
echo "study: the table is in $out/compare.html, a report beside each run"
