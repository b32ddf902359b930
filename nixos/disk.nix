# The disk, one layout for the image, for installing and for what runs: GPT with a BIOS boot partition (1 MiB, EF02), an
# EFI system partition (512 MiB, FAT, at /boot) and the root (ext4, last, so that it can grow). GRUB is installed for both
# firmwares, and as removable: Hetzner's differ with the type of a server and its age. docs/boot.md says why /boot is FAT.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.fabrik.disk;
  isX86 = pkgs.stdenv.hostPlatform.isx86_64;
in
{
  options.fabrik.disk = {
    device = lib.mkOption {
      type = lib.types.str;
      default = "/dev/sda";
      description = "The disk that GRUB is installed on for BIOS. Hetzner's servers have theirs here.";
    };
    data = lib.mkOption {
      type = lib.types.nullOr (
        lib.types.submodule {
          options = {
            device = lib.mkOption {
              type = lib.types.str;
              example = "/dev/sdb";
              description = "The disk or partition. All nodes of the pool have it under this name.";
            };
            mountPoint = lib.mkOption {
              type = lib.types.str;
              default = "/var/lib/data";
              description = "Where it is mounted.";
            };
            fsType = lib.mkOption {
              type = lib.types.enum [ "ext4" "xfs" ];
              default = "ext4";
              description = "What it is formatted with, where it is empty.";
            };
          };
        }
      );
      default = null;
      description = "A second disk for data. It is formatted where it is empty, grows with its disk, and a node boots without it.";
    };
  };

  config = {
    boot = {
      loader = {
        timeout = lib.mkDefault 2;
        grub = {
          enable = lib.mkDefault true;
          device = lib.mkDefault (if isX86 then cfg.device else "nodev");
          efiSupport = lib.mkDefault true;
          efiInstallAsRemovable = lib.mkDefault true;
        };
      };
      # Hetzner's are virtio; `sd_mod` and the rest are for machines elsewhere.
      initrd.availableKernelModules = [
        "virtio_pci"
        "virtio_scsi"
        "virtio_blk"
        "virtio_net"
        "sd_mod"
        "nvme"
        "ahci"
        "xhci_pci"
      ];
      kernelParams = [
        (if isX86 then "console=ttyS0" else "console=ttyAMA0")
        # The last one is where messages go: Hetzner's console shows it.
        "console=tty0"
      ];
      growPartition = lib.mkDefault true;
    };

    fileSystems = {
      "/" = {
        device = lib.mkDefault "/dev/disk/by-label/nixos";
        fsType = lib.mkDefault "ext4";
        autoResize = lib.mkDefault true;
      };
      "/boot" = {
        device = lib.mkDefault "/dev/disk/by-label/ESP";
        fsType = lib.mkDefault "vfat";
        options = lib.mkDefault [ "umask=0077" ];
      };
    }
    // lib.optionalAttrs (cfg.data != null) {
      ${cfg.data.mountPoint} = {
        inherit (cfg.data) device fsType;
        autoFormat = true;
        autoResize = true;
        # It is the kubelet's or a storage's to miss it; the machine is to boot.
        options = [
          "nofail"
          "x-systemd.device-timeout=30s"
        ];
      };
    };
  };
}
