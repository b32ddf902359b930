# Three ways to bring ./disk.nix' layout about: `system.build.fabrikImage`, a raw disk for a snapshot, which nixpkgs' builder
# makes in a virtual machine; and `system.build.fabrikInstall`, a program that puts the system on a disk of the machine that it
# runs on, where there is no KVM to build the image with (a temporary server, a rescue system); and
# `system.build.fabrikDisk`, which makes the partitions of `fabrik.disk.device` and mounts them at /mnt, for nixos-anywhere.
{
  config,
  lib,
  pkgs,
  modulesPath,
  ...
}:
let
  isX86 = pkgs.stdenv.hostPlatform.isx86_64;
  inherit (config.system) build;
  tools = [
    pkgs.coreutils
    pkgs.dosfstools
    pkgs.e2fsprogs
    pkgs.gptfdisk
    pkgs.util-linux
    config.systemd.package
  ];
in
{
  system.build.fabrikImage = import (modulesPath + "/../lib/make-disk-image.nix") {
    inherit config lib pkgs;
    name = "fabrik-image-${config.fabrik.cluster.name}-${config.fabrik.pool}";
    # A BIOS boot partition, an ESP and the root; it has the BIOS' one on aarch64 too, where nothing is in it.
    partitionTableType = "hybrid";
    # Where the ESP ends, in units of 1000: it begins at 8 MiB and has 512 MiB.
    bootSize = "546M";
    format = "raw";
    copyChannel = false;
    # It grows at its first boot. What is not there has not to be uploaded.
    additionalSpace = "256M";
    postVM = ''
      ${pkgs.zstd}/bin/zstd --rm -T0 -10 "$diskImage"
    '';
  };

  system.build.fabrikInstall = pkgs.writeShellApplication {
    name = "fabrik-install";
    runtimeInputs = tools ++ [ pkgs.nixos-install-tools ];
    text = ''
      # fabrik-install DISK [ROOT]: erases DISK and puts the system of pool ${config.fabrik.pool} on it. With ROOT the partitions of
      # DISK are made already and mounted there, and nothing is erased.
      ${builtins.readFile ./partition.sh}
      disk=''${1:?which disk is to be erased}
      ${lib.optionalString isX86 ''
        if [ "$disk" != ${config.boot.loader.grub.device} ]; then
          echo "this system has GRUB on ${config.boot.loader.grub.device}, not on $disk: set fabrik.disk.device" >&2
          exit 1
        fi
      ''}
      root=''${2-}
      if [ -z "$root" ]; then
        root=$(mktemp -d)
        trap 'umount -R "$root" 2>/dev/null || true; rmdir "$root"' EXIT
        partition "$disk" "$root"
      fi
      nixos-install --root "$root" --system ${build.toplevel} --no-root-passwd --no-channel-copy
    '';
  };

  # What nixos-anywhere runs in its installer in the place of disko's script (nixos-anywhere, `--store-paths`).
  system.build.fabrikDisk = pkgs.writeShellScript "fabrik-disk" ''
    set -eu
    ${builtins.readFile ./partition.sh}
    export PATH=${builtins.concatStringsSep ":" (map (tool: "${tool}/bin") tools)}:$PATH
    disk=${config.fabrik.disk.device}
    root=/mnt
    umount -R "$root" 2>/dev/null || true
    mkdir -p "$root"
    partition "$disk" "$root"
  '';
}
