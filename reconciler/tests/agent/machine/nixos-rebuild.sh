#!/bin/sh
# A stand-in for nixos-rebuild: ACTION --store-path SYSTEM [--no-reexec].
set -eu
[ "$2" = --store-path ]
if [ "$1" = boot ]; then 'ROOT/sw/nix-env' --profile 'ROOT/nix/var/nix/profiles/system' --set "$3"; fi
exec "ROOT$3/bin/switch-to-configuration" "$1"
