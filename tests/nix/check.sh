#!/bin/bash
# check.sh [--update]: parses every .nix file and evaluates `lib.mkCluster` and the NixOS modules with real Nix, as far as that
# goes without nixpkgs; with a real one where FABRIK_TEST_NIXPKGS points to its tree. --update writes what is generated anew.
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

# So that each fault of a run is seen: the last line decides.
faults=0
fail() { printf '%s\n' "$@" >&2; faults=$((faults + 1)); }

mapfile -t files < <(git ls-files -co --exclude-standard '*.nix')
for file in "${files[@]}"; do
    nix-instantiate --parse "$file" >/dev/null || fail "does not parse: $file"
    if grep -nP '\t| +$' "$file" /dev/null; then fail "$file: tabs or blanks at the end of a line"; fi
done
echo "parses: ${#files[@]} files"

evaluate() { nix-instantiate --eval --strict --json "${2:-tests/nix/stub.nix}" -A "$1"; }
text() { nix --extra-experimental-features nix-command eval --raw --file "$1" ${2:+"$2"}; }

# The units, from the modules alone.
unit=$(evaluate unit)
expect() { grep -qF -- "$1" <<<"$unit" || fail "the unit lacks $1: $unit"; }
expect '"ExecStart":"/stub/fabrik/bin/fabrik --log-format json run --config /stub/fabrik.toml?'
expect '\"etcd\":{\"ca-file\":\"/var/lib/rancher/k3s/server/tls/etcd/server-ca.crt\"'
expect '"path":["git","openssh","sops","k3s","systemd"]'
expect '"CapabilityBoundingSet":""'
expect '"ReadWritePaths":["/var/lib/fabrik","/etc/fabrik"]'
unit=$(evaluate agentUnit)
expect '"ExecStart":"/stub/fabrik/bin/fabrik --log-format json agent --config /etc/fabrik/agent.toml"'
expect '"path":["nix","nixos-rebuild","systemd",'
expect '"CapabilityBoundingSet":"CAP_CHOWN"'
if grep -q 'token' <<<"$unit"; then fail "the agent's unit knows of a token: $unit"; fi
expect '"stopIfChanged":false'
is() { [ "$(evaluate "$1")" = "$2" ] || fail "$1 is not $2"; }
is refusesUnknownKey true
is refusesMissingKey true
is refusesWrongType true
is goodMachine '[]'
is systemdBoot '[]'
is badMachines '[1,1,1,1,1,1]'
is kernelParams '["panic=10","oops=panic","boot.panic_on_fail"]'

# k3s starts where there is something that it may be, and founds nothing by itself.
machine=$state/machine
ask() { bash <(text tests/nix/stub.nix "${1}Guard" | sed "s#/etc/rancher#$machine&#g; s#/var/lib/rancher#$machine&#g") 2>"$state/said"; }
guard() { # ROLE WANTED FILE… : the guard's answer on a machine with these; `emptied` is what was there before, without its data
    local role=$1 wanted=$2 is=no
    local dropins=$machine/etc/rancher/k3s/config.yaml.d
    rm -rf "$machine" && mkdir -p "$dropins"
    shift 2
    for file in "$@"; do
        case $file in
        member/wal) mkdir -p "$machine/var/lib/rancher/k3s/server/db/etcd/$file" ;;
        emptied)
            ask "$role" || true
            rm -rf "$machine/var"
            ;;
        holds-k3s)
            mkdir -p "$machine/var/lib/rancher/k3s/server/db/fabrik-restore"
            touch "$machine/var/lib/rancher/k3s/server/db/fabrik-restore/$file"
            ;;
        tombstone) touch "$machine/var/lib/rancher/k3s/server/db/etcd/$file" ;;
        *) echo "$file" >>"$dropins/50-fabrik.yaml" ;;
        esac
    done
    ask "$role" && is=yes
    [ "$is" = "$wanted" ] || fail "k3s on a new $role with '$*': started is $is"
}
guard server no
guard server no 'node-name: server-2'
guard server yes 'server: https://10.0.1.1:6443'
guard server yes 'cluster-init: true'
guard server yes member/wal
# Removed from the cluster: k3s puts its data aside and would begin anew.
guard server no member/wal tombstone
guard server yes member/wal tombstone 'server: https://10.0.1.1:6443'
# The same where it is still told to found, and where its data are gone.
guard server no member/wal tombstone 'cluster-init: true'
grep -q 'remove .*/etc/rancher/k3s/fabrik-had-data$' "$state/said" || fail "the guard names no way out: $(<"$state/said")"
guard server no member/wal emptied 'cluster-init: true'
guard server no 'cluster-init: true' member/wal emptied
guard server yes 'cluster-init: true' emptied
guard server yes member/wal emptied 'server: https://10.0.1.1:6443'
guard server yes member/wal emptied member/wal 'cluster-init: true'
rm -r "$machine/etc/rancher/k3s/fabrik-had-data" "$machine/var"
ask server || fail 'k3s does not start on a server whose mark was removed'
# Nothing is written to what `fabrik restore` is about to replace.
guard server no member/wal holds-k3s
guard server no holds-k3s 'server: https://10.0.1.1:6443'
# k3s would found on SQLite, or by itself.
guard server no 'cluster-init: false'
guard server no 'cluster-init:'
guard server no 'server: ""'
guard server no 'server:' '#cluster-init: true'
guard server no 'cluster-init: true' 'cluster-init: false'
guard server yes 'server: "https://10.0.1.1:6443"'
guard server yes '"cluster-init": true'
guard agent no
guard agent no 'server: ""'
guard agent no 'cluster-init: true'
guard agent no member/wal
guard agent yes 'server: https://10.0.1.1:6443'
echo 'evaluates: fabrik.service, fabrik-agent.service, the guard of k3s'

# The table of specs.
differences=$(text tests/nix/table.nix differences)
[ -z "$differences" ] || fail "$differences"
steps=$(evaluate steps tests/nix/table.nix)
[ "$steps" = '[["1.35.6+k3s1","1.36.3+k3s1"],[]]' ] || fail "the two steps of the servers are $steps"
says() { # ATTRIBUTE TEXT : evaluating it fails with that
    local said
    if said=$(evaluate "$1" tests/nix/table.nix 2>&1); then fail "$1 evaluates"; fi
    grep -qF -- "$2" <<<"$said" || fail "$1 does not say '$2', but: $said"
}
says wrong 'cluster.toml: [pools.none] `server-types` is empty'
says wrong 'cluster.toml: [network] `pods` must be a string in quotes, and is a whole number'
says broken 'while reading cluster.toml'
overridden=$(evaluate overridden tests/nix/table.nix)
[ "$overridden" = '[false,[{"device":"/swap"}],10,{"autoResize":true,"device":"/dev/disk/by-label/nixos","fsType":"xfs"},false,"no firewall",false,false]' ] ||
    fail "a user's module does not have its way: $overridden"
mtu=$(evaluate mtu tests/nix/table.nix)
[ "$mtu" = '{"arm":true,"servers":true,"workers":true}' ] || fail "interfaces take the announced MTU: $mtu"
loopback=$(evaluate loopback tests/nix/table.nix)
[ "$loopback" = '{"arm":[],"servers":["2001:db8:5::1/128"],"workers":[]}' ] || fail "the floating IP is at $loopback"
restarts=$(evaluate restarts tests/nix/table.nix)
[ "$restarts" = '{"arm":0,"servers":0,"workers":1}' ] || fail "the secret of wg0 restarts it in $restarts"
own=$(evaluate own tests/nix/table.nix)
[ "$own" = '{"disks":{"attic":"/stub/fabrik-disk","board":"/stub/fabrik-disk","desktop":"/stub/fabrik-disk","nas":"/stub/fabrik-disk"},"grub":["/dev/disk/by-id/mmc-three","nodev","/dev/sda"],'\
'"ssh":[[[22,2222],"ip saddr { 192.168.1.0/24 } tcp dport { 22, 2222 } accept"],'\
'[[22],"ip saddr { 192.168.1.0/24 } tcp dport { 22 } accept"],[[22],"ip saddr { 192.168.1.0/24 } tcp dport { 22 } accept"]],"told":[2,2,0]}' ] ||
    fail "machines of the user's own are $own"
images=$(evaluate images tests/nix/table.nix)
[ "$images" = '{"aarch64-linux":["image-arm"],"x86_64-linux":["image","image-amd","image-intel","image-servers"]}' ] || fail "the images are $images"
echo "evaluates: mkCluster, $(evaluate count tests/nix/table.nix) specs"

# What is generated, and looked at when it changes.
generated() { # EXPRESSION FILE
    text "$1" >"$state/generated"
    if [ "${update:-}" ]; then cp "$state/generated" "$2"; fi
    diff -u "$2" "$state/generated" || fail "$2 is not up to date: tests/nix/check.sh --update"
}
[ "${1:-}" != --update ] || update=1
generated tests/nix/units.nix tests/nix/units.txt
generated tests/nix/options.nix docs/nixos-options.md
echo 'up to date: docs/nixos-options.md, tests/nix/units.txt'

if unshare --net --mount nft add table ip probe 2>/dev/null && unshare --net --mount ip link add probe type bridge 2>/dev/null; then
    for pool in servers workers; do text tests/nix/table.nix "firewall.$pool" >"$state/$pool.nft"; done
    unshare --net --mount tests/nix/firewall.sh "$state" || fail 'the firewall does not do what it is to'
else
    echo 'left out: the firewall in a kernel (it takes root, and ip and nft)'
fi
if [ "${FABRIK_TEST_NIXPKGS:-}" ]; then
    tests/nix/real.sh "$FABRIK_TEST_NIXPKGS" || fail 'systems do not evaluate with nixpkgs'
else
    echo 'left out: systems with the real options of NixOS (FABRIK_TEST_NIXPKGS), and what `nix flake check` builds of nixpkgs: the package, images, virtual machines'
fi
exit $((faults > 0))
