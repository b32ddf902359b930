# Builds a node's system on the temporary server, and installs it on that server's own disk. `fabrik seed` puts this into the
# rescue system, behind nixos/partition.sh, and has it do one step after the other; each may be done again.
#
# The rescue system lives in memory. So all that takes room is on the disk: the store where the system will have it, and
# beside it what is removed in the end.
disk=/dev/sda
root=/mnt/fabrik
work=$root/fabrik-build
# Of which image the disk is, when all is done.
finished=/run/fabrik-build.finished
export XDG_CACHE_HOME="$work/cache" TMPDIR="$work/tmp" PATH="$work/nix/bin:$PATH"
# What a system was built by is not to be kept for its sake.
export NIX_CONFIG="experimental-features = nix-command flakes
build-users-group =
keep-derivations = false"

# What a connection that was cut off has left at work ends first.
former=$(cat /run/fabrik-build.group 2>/dev/null || :)
group=$(cut -d' ' -f5 /proc/self/stat)
if [ "$former" ] && [ "$former" != "$group" ]; then
  while kill -TERM -- "-$former" 2>/dev/null; do sleep 1; done
fi
echo "$group" >/run/fabrik-build.group

leave() {
  swapoff "$work/swap" 2>/dev/null || :
  umount /nix 2>/dev/null || :
  umount -R "$root" 2>/dev/null || :
  if mountpoint -q "$root"; then
    echo "$root is still in use" >&2
    exit 1
  fi
}

if [ "$1" = prepare ] && [ "$(cat "$finished" 2>/dev/null)" != "$2" ]; then rm -f "$finished"; fi
if [ -e "$finished" ]; then exit; fi

case $1 in
  # prepare DIGEST: partitions, of another image or of none before.
  prepare)
    if [ "$(cat "$work/image" 2>/dev/null)" = "$2" ]; then exit; fi
    leave
    mkdir -p "$root"
    partition "$disk" "$root"
    mkdir -p "$root/nix" "$work/tmp" /nix
    mount --bind "$root/nix" /nix
    # Evaluating takes more memory than the smallest servers have beside the rescue system.
    fallocate -l 4G "$work/swap"
    chmod 600 "$work/swap"
    mkswap "$work/swap"
    swapon "$work/swap"
    echo "$2" >"$work/image"
    ;;
  # nix URL SHA256: Nix' own binary tarball, and what its installer does of it for one user.
  nix)
    if [ -e "$work/nix" ]; then exit; fi
    curl -fsSL --retry 3 -o "$work/nix.tar.xz" "$2"
    echo "$3  $work/nix.tar.xz" | sha256sum --check --quiet
    rm -rf "$work/unpacked"
    mkdir "$work/unpacked"
    tar -xJf "$work/nix.tar.xz" -C "$work/unpacked" --strip-components=1
    mkdir -p /nix/store
    cp -a "$work/unpacked/store/." /nix/store/
    nix=$(sed -n 's/^nix="\(.*\)"$/\1/p' "$work/unpacked/install")
    "$nix/bin/nix-store" --load-db <"$work/unpacked/.reginfo"
    ln -s "$nix" "$work/nix"
    ;;
  # source: the commit's files, as a tar on standard input.
  source)
    rm -rf "$work/source"
    mkdir "$work/source"
    tar -xf - -C "$work/source"
    ;;
  # build POOL: nothing that the lock file does not name.
  build)
    nix build --no-update-lock-file --out-link "$work/install" \
      "path:$work/source#nixosConfigurations.$2.config.system.build.fabrikInstall"
    ;;
  install)
    "$work/install/bin/fabrik-install" "$disk" "$root"
    ;;
  # finish: nothing but the system is left, and all of it is read from the disk once more, and compared with its hashes.
  finish)
    image=$(cat "$work/image")
    swapoff "$work/swap"
    rm -rf "$work"
    store() { chroot "$root" /nix/var/nix/profiles/system/sw/bin/nix-store "$@"; }
    store --gc
    fstrim "$root" || echo "this disk keeps what was removed: the snapshot will be larger" >&2
    sync
    sysctl -q vm.drop_caches=3
    store --verify --check-contents
    leave
    echo "$image" >"$finished"
    ;;
esac
