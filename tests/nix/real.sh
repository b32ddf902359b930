#!/bin/bash
# real.sh TREE: evaluates each system of the table's good specs to a derivation with the nixpkgs at TREE (its `lib`, `nixos`
# and default.nix), and says what that took. check.sh has set the store.
set -euo pipefail
cd "$(dirname "$0")"
tree=$(realpath "$1")

evaluate() { nix-instantiate --eval --strict --json real.nix --arg tree "$tree" --argstr spec "$1" -A "$2" 2>"$log"; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for folder in specs/*; do
    spec=${folder#specs/}
    case $spec in wrong-*) continue ;; esac
    begin=$(date +%s%N)
    NIX_SHOW_STATS=1 NIX_SHOW_STATS_PATH=$log.stats evaluate "$spec" systems >"$log.systems" || { cat "$log" >&2; exit 1; }
    end=$(date +%s%N)
    memory=$(grep -o '"totalBytes": *[0-9]*' "$log.stats" | grep -o '[0-9]*' | sort -n | tail -1)
    echo "nixpkgs: $spec: $(grep -o '\.drv"' "$log.systems" | wc -l) systems in $(((end - begin) / 1000000)) ms, $((memory / 1048576)) MiB allocated"
done
