#!/bin/sh
# A stand-in for nixos-rebuild: ACTION --store-path SYSTEM --no-reexec. Like the real one it leaves the activation to a
# unit of its own, which does not end with it.
set -eu
[ "$2 $4" = "--store-path --no-reexec" ]
if [ "$1" = boot ]; then 'ROOT/sw/nix-env' --profile 'ROOT/nix/var/nix/profiles/system' --set "$3"; fi
mkdir -p ROOT/run/units
setsid sh -c 'unit=$1; shift; echo $$ >"$unit"; "$@"; code=$?; rm -f "$unit"; exit $code' \
    unit ROOT/run/units/nixos-rebuild-switch-to-configuration.service "ROOT$3/bin/switch-to-configuration" "$1"
