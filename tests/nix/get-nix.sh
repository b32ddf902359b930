#!/bin/bash
# get-nix.sh DEST: makes Debian's Nix runnable under DEST without installing it, from the mirror this machine uses.
set -euo pipefail
dest=$(realpath -m "$1")
suite=trixie
# Tests may ask for it at the same time.
mkdir -p "$dest"
exec 9>"$dest/lock"
flock 9
[ -x "$dest/bin/nix-store" ] && "$dest/bin/nix-store" --version >/dev/null 2>&1 && exit 0

for tool in apt-get dpkg-deb patchelf; do
    command -v "$tool" >/dev/null || { echo "get-nix.sh needs $tool (or put nix into PATH)" >&2; exit 1; }
done
echo "getting Nix from Debian $suite, once: some seconds"
apt=$dest/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$dest/root" "$dest/bin"
: >"$apt/status"
# shellcheck disable=SC2016 # apt expands it
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/$')
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"
opts=(-qq -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status"
    -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::Cache=$apt/cache"
    -o APT::Sandbox::User=root -o APT::Install-Recommends=false -o Acquire::Languages=none)
apt-get "${opts[@]}" update
apt-get "${opts[@]}" install -y --download-only nix-bin
for package in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$package" "$dest/root"; done
cp "$dest/root/usr/bin/nix" "$dest/bin/nix"
loader=$(find "$dest/root" -name 'ld-linux-*.so.*' | head -1)
libraries=$(dirname "$(find "$dest/root/usr/lib" -name 'libgc.so.1' | head -1)")
patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$dest/bin/nix"
ln -sf nix "$dest/bin/nix-instantiate"
ln -sf nix "$dest/bin/nix-store"
"$dest/bin/nix-instantiate" --version
