#!/bin/bash
# Parses every .nix file and evaluates the NixOS modules with real Nix, as far as that goes without nixpkgs.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v nix-instantiate >/dev/null; then
    tests/nix/get-nix.sh target/nix
    PATH=$PWD/target/nix/bin:$PATH
fi
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
export NIX_CONFIG="build-users-group ="
export NIX_STORE_DIR=$state/store NIX_STATE_DIR=$state/var NIX_LOG_DIR=$state/log NIX_CONF_DIR=$state/conf HOME=$state

git ls-files -co --exclude-standard '*.nix' | while read -r file; do
    nix-instantiate --parse "$file" >/dev/null && echo "parses: $file"
done

evaluate() { nix-instantiate --eval --strict --json tests/nix/stub.nix -A "$1"; }
unit=$(evaluate unit)
expect() { grep -qF -- "$1" <<<"$unit" || { echo "the unit lacks $1: $unit" >&2; exit 1; }; }
expect '"ExecStart":"/stub/fabrik/bin/fabrik --log-format json run --config /stub/fabrik.toml?'
expect '\"etcd\":{\"ca-file\":\"/var/lib/rancher/k3s/server/tls/etcd/server-ca.crt\"'
expect '"path":["git","openssh","sops","k3s","systemd"]'
expect '"CapabilityBoundingSet":""'
expect '"ReadWritePaths":["/var/lib/fabrik","/etc/fabrik"]'
[ "$(evaluate refusesUnknownKey)" = true ]
[ "$(evaluate refusesMissingKey)" = true ]
unit=$(evaluate agentUnit)
expect '"ExecStart":"/stub/fabrik/bin/fabrik --log-format json agent --config /etc/fabrik/agent.toml"'
expect '"path":["nix","nixos-rebuild","systemd",'
expect '"CapabilityBoundingSet":""'
if grep -q 'token' <<<"$unit"; then echo "the agent's unit knows of a token: $unit" >&2; exit 1; fi
expect '"stopIfChanged":false'
[ "$(evaluate goodMachine)" = '[]' ]
[ "$(evaluate systemdBoot)" = '[]' ]
[ "$(evaluate badMachines)" = '[1,1,1,1,1,1]' ]
[ "$(evaluate kernelParams)" = '["panic=10","oops=panic","boot.panic_on_fail"]' ]
echo 'evaluates: nixos/fabrik.nix, nixos/agent.nix (with a stub of nixpkgs)'
echo 'left out: the types of options and the build of the package, which need nixpkgs: `nix flake check` does both'
