# Builds a system: the files of a NixOS toplevel that fabrik reads.
set -eu
mkdir -p "$out/bin"
ln -s "$kernel" "$out/kernel"
ln -s "$kernel" "$out/initrd"
echo 'panic=10' >"$out/kernel-params"
echo "$package" >"$out/package"
for fault in $faults; do : >"$out/$fault"; done
cat "$switch" >"$out/bin/switch-to-configuration"
chmod +x "$out/bin/switch-to-configuration"
