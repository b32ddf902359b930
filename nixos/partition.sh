# partition DISK ROOT: erases DISK, makes the partitions of ./disk.nix on it, and mounts the system's at ROOT.
partition() {
  wipefs --all --force "$1"
  sgdisk --zap-all \
    --new=1:0:+1M --typecode=1:EF02 --change-name=1:bios \
    --new=2:0:+512M --typecode=2:EF00 --change-name=2:ESP \
    --new=3:0:0 --typecode=3:8300 --change-name=3:nixos "$1"
  udevadm settle
  # What the kernel calls the disk, and then its partitions: `sda2`, `nvme0n1p2`.
  # shellcheck disable=SC2046
  set -- "$2" $(lsblk --noheadings --list --paths --output NAME "$1")
  mkfs.vfat -F 32 -n ESP "$4"
  mkfs.ext4 -q -F -L nixos "$5"

  mount "$5" "$1"
  mkdir "$1/boot"
  mount -o umask=0077 "$4" "$1/boot"
}
