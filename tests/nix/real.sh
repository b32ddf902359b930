#!/bin/bash
# real.sh TREE [REPOSITORY…]: evaluates each system of these clusters' repositories (of the table's good specs, where none is named)
# to a derivation with the nixpkgs at TREE (its `lib`, `nixos` and default.nix), and says what that took. check.sh has set the
# store.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
tree=$(realpath "$1")
shift
if [ $# = 0 ]; then
    for folder in "$here"/specs/*; do
        [[ $folder == */wrong-* ]] || set -- "$@" "$folder"
    done
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for repository in "$@"; do
    begin=$(date +%s%N)
    NIX_SHOW_STATS=1 NIX_SHOW_STATS_PATH=$out/stats nix-instantiate --eval --strict --json "$here/real.nix" \
        --arg tree "$tree" --arg src "$(realpath "$repository")" -A systems >"$out/systems" 2>"$out/log" || { cat "$out/log" >&2; exit 1; }
    end=$(date +%s%N)
    bytes=$(grep -o '"totalBytes": *[0-9]*' "$out/stats" | grep -o '[0-9]*')
    echo "nixpkgs: $(basename "$repository"): $(grep -o '\.drv"' "$out/systems" | wc -l) systems in $(((end - begin) / 1000000)) ms, $((bytes / 1048576)) MiB allocated"
done
