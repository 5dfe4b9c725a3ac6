#!/usr/bin/env bash
# Prints every case of the file `cases` into its folder, with the launcher that is named. Nothing of the environment is taken
# for a flag.
set -euo pipefail
launcher=$(realpath "${1:?the launcher to print with}")
cd "$(dirname "$0")"
for variable in "${!BEGAN_@}"; do unset "$variable"; done
while read -r name flags; do
  [[ -z $name || $name == \#* ]] && continue
  mkdir -p "$name"
  # The flags are words.
  # shellcheck disable=SC2086
  "$launcher" kubernetes $flags > "$name/began.yaml.new"
  mv "$name/began.yaml.new" "$name/began.yaml"
  printf 'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- began.yaml\n' > "$name/kustomization.yaml"
done < cases
