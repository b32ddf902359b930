#!/bin/bash
# get-parts.sh DEST: puts what this machine lacks of QEMU, the firmware, the boot loaders, a kernel and the file system tools
# under DEST/root, from the Debian packages that it would install. Nothing is installed.
set -euo pipefail
dest=$(realpath -m "$1")
packages=(linux-image-cloud-amd64 busybox-static qemu-system-x86 seabios ovmf grub-common grub2-common grub-pc-bin
    grub-efi-amd64-bin systemd-boot systemd-boot-efi systemd libsystemd-shared fdisk mtools dosfstools e2fsprogs
    gdisk udev cloud-guest-utils)
# What is there may be of an earlier list.
[ "$(cat "$dest/complete" 2>/dev/null)" = "${packages[*]}" ] && exit 0
for tool in apt-get dpkg-deb; do
    command -v "$tool" >/dev/null || { echo "get-parts.sh needs $tool" >&2; exit 1; }
done
echo "getting QEMU, boot loaders and a kernel from Debian's packages, once: some seconds"
rm -rf "$dest"
mkdir -p "$dest/root" "$dest/debs" "$dest/apt/lists/partial" "$dest/apt/cache/archives/partial"
options=(-qq -o APT::Install-Recommends=false -o Acquire::Languages=none -o APT::Sandbox::User=root
    -o "Dir::Cache=$dest/apt/cache")
missing() { apt-get "${options[@]}" --simulate install "${packages[@]}" | awk '$1 == "Inst" { print $2 }'; }
if ! list=$(missing 2>/dev/null); then
    # The machine's own lists are empty or old: ours, from the same mirrors.
    options+=(-o "Dir::State::lists=$dest/apt/lists")
    apt-get "${options[@]}" update
    list=$(missing)
fi
cd "$dest/debs"
# Of packages that are installed, and as recent as can be, nothing is needed; the kernel is no program.
# shellcheck disable=SC2086 # a list of words
apt-get "${options[@]}" download $list linux-image-cloud-amd64 busybox-static
for package in *.deb; do dpkg-deb -x "$package" "$dest/root"; done
cd "$dest"
rm -rf debs apt
echo "${packages[*]}" >complete
