# `services.fabrik-agent`: runs `fabrik agent` on a node, and sets what a machine needs to come back by itself from a system
# that does not boot. One system serves all nodes of a pool, so what is different from node to node (its name, above all)
# is in a file that the node writes at its first boot from its user data; docs/agent.md says how it looks.
fabrik:
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  cfg = config.services.fabrik-agent;
  inherit (config.boot.loader) grub;
  boot = config.fileSystems."/boot" or null;
  # Before NixOS 25.11 its settings had options of their own.
  hasManager = options.systemd ? settings;
  # What it takes to keep secrets, and to place them by owner.
  secrets = {
    StateDirectory = "fabrik-agent";
    StateDirectoryMode = "0700";
    RuntimeDirectory = "fabrik/secrets";
    RuntimeDirectoryMode = "0711";
    # Units go on reading them whatever becomes of this one.
    RuntimeDirectoryPreserve = true;
    CapabilityBoundingSet = "CAP_CHOWN";
    SystemCallFilter = [
      "@system-service"
      "~@privileged @mount @reboot"
      "@chown"
    ];
  };
in
{
  options.services.fabrik-agent = {
    enable = lib.mkEnableOption "fabrik's agent, which brings the systems of the repository to this node";

    package = lib.mkOption {
      type = lib.types.package;
      default = fabrik.packages.${pkgs.stdenv.hostPlatform.system}.default;
      defaultText = lib.literalExpression "fabrik.packages.\${system}.default";
      description = "The fabrik to run.";
    };

    configFile = lib.mkOption {
      type = lib.types.str;
      default = "/etc/fabrik/agent.toml";
      description = "The agent's configuration, a file of this machine and not of the store. It holds no secret.";
    };
  };

  config = lib.mkIf cfg.enable {
    systemd.services.fabrik-agent = {
      description = "fabrik's agent: this node follows the cluster's repository";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      # Stopped first and started last, it would be gone while an activation runs that it has to end.
      stopIfChanged = false;
      unitConfig = {
        ConditionPathExists = cfg.configFile;
        # One that is not started any more leaves a try without an end.
        StartLimitIntervalSec = 0;
      };
      # What it runs itself, and what its transient units run. They get its PATH.
      path = [
        config.nix.package
        config.system.build.nixos-rebuild
        config.systemd.package
        pkgs.coreutils
        pkgs.grub2
        pkgs.util-linux
      ];
      environment = {
        # Nix' daemon does what needs to write to the store.
        NIX_REMOTE = "daemon";
        HOME = "/var/lib/fabrik-agent";
      };
      serviceConfig = import ./hardening.nix // secrets // {
        ExecStart = "${lib.getExe cfg.package} --log-format json agent --config ${cfg.configFile}";
        Restart = "always";
        RestartSec = "2s";
        # It has nothing to hand over: what it has begun is in units of its own.
        TimeoutStopSec = "5s";
        MemoryMax = "512M";
        # Pods come first.
        Nice = 10;
        CPUWeight = 20;
        IOWeight = 20;
      };
    };

    # What was given to this node before, for units that come after it: also where no API server answers yet.
    systemd.services.fabrik-secrets = {
      description = "the secrets that fabrik gave this node";
      wantedBy = [ "multi-user.target" ];
      before = [ "fabrik-agent.service" ];
      unitConfig.ConditionPathExists = cfg.configFile;
      serviceConfig = import ./hardening.nix // secrets // {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "${lib.getExe cfg.package} --log-format json agent --config ${cfg.configFile} --place-secrets";
      };
    };

    # docs/boot.md, "What the machine must have".
    boot.kernelParams = [
      "panic=10"
      "oops=panic"
      "boot.panic_on_fail"
    ];
    boot.kernelModules = [ "softdog" ];
    boot.initrd.systemd.emergencyAccess = lib.mkDefault false;
    systemd.enableEmergencyMode = lib.mkDefault false;
    systemd.${if hasManager then "settings" else "watchdog"} =
      if hasManager then
        {
          Manager = {
            RuntimeWatchdogSec = lib.mkDefault "30s";
            RebootWatchdogSec = lib.mkDefault "10min";
          };
        }
      else
        {
          runtimeTime = lib.mkDefault "30s";
          rebootTime = lib.mkDefault "10min";
        };
    # Each system that takes a reboot leaves a kernel on the boot partition, and a generation that keeps it from being collected.
    boot.loader.grub.configurationLimit = lib.mkDefault 5;
    boot.loader.systemd-boot.configurationLimit = lib.mkDefault 5;
    nix.gc = {
      automatic = lib.mkDefault true;
      dates = lib.mkDefault "weekly";
      # Not on all servers at once.
      randomizedDelaySec = lib.mkDefault "6h";
      options = lib.mkDefault "--delete-older-than 30d";
    };
    # It works on the store itself, not by Nix' daemon.
    systemd.services.nix-gc.serviceConfig.IOSchedulingClass = lib.mkDefault "idle";
    # That is fabrik's to do.
    system.autoUpgrade.enable = lib.mkDefault false;

    assertions = [
      {
        assertion = !grub.enable || (boot != null && boot.fsType == "vfat");
        message = "fabrik-agent: with GRUB, /boot has to be a FAT partition: elsewhere a power cut can leave no menu (docs/boot.md)";
      }
      {
        assertion = boot == null || !(boot.noCheck or false);
        message = "fabrik-agent: /boot has to be checked at boot (no noCheck): a power cut can leave two names of one file";
      }
      {
        assertion = !grub.enable || toString grub.default == "0";
        message = "fabrik-agent: boot.loader.grub.default has to be 0: fabrik chooses what boots";
      }
      {
        assertion = !grub.enable || builtins.length grub.mirroredBoots == 1;
        message = "fabrik-agent: boot.loader.grub.mirroredBoots has to have one entry: a system is tried by one /boot only";
      }
      {
        assertion = !(config.boot.loader.systemd-boot.bootCounting.enable or false);
        message = "fabrik-agent: boot.loader.systemd-boot.bootCounting chooses a default of its own";
      }
    ];
  };
}
