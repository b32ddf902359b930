# Builds a system of the bed: the files of a NixOS toplevel that fabrik reads.
set -eu
[ "$builds" = yes ] || { echo "error: package web-$package: hash mismatch" >&2; exit 1; }
mkdir -p "$out/bin"
ln -s "$kernel" "$out/kernel"
ln -s "$initrd" "$out/initrd"
ln -s "$modules" "$out/kernel-modules"
ln -s "$systemd" "$out/systemd"
ln -s /run/sw "$out/sw"
echo 'panic=10' >"$out/kernel-params"
echo '25.11 (test bed)' >"$out/nixos-version"
echo '#!/bin/sh' >"$out/init"
echo "$package" >"$out/package"
echo "$k3s" >"$out/k3s-version"
echo "$fabrik" >"$out/fabrik-build"
printf %s "$restarts" >"$out/restarts"
for fault in $faults; do echo "$fault" >"$out/$fault"; done
cat "$switch" >"$out/bin/switch-to-configuration"
chmod +x "$out/init" "$out/bin/switch-to-configuration"
