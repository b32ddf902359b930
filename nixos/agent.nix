# `services.fabrik-agent`: runs `fabrik agent` on a node, and sets what a machine needs to come back by itself from a system
# that does not boot. One system serves all nodes of a pool, so what is different from node to node (its name, above all)
# is in a file that the node writes at its first boot from its user data; docs/agent.md says how it looks.
fabrik:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.fabrik-agent;
in
{
  options.services.fabrik-agent = {
    enable = lib.mkEnableOption "fabrik's agent, which brings the systems of the repository to this node";

    package = lib.mkOption {
      type = lib.types.package;
      default = fabrik.packages.${pkgs.stdenv.hostPlatform.system}.default;
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
      serviceConfig = import ./hardening.nix // {
        ExecStart = "${lib.getExe cfg.package} --log-format json agent --config ${cfg.configFile}";
        Restart = "always";
        RestartSec = "2s";
        # It has nothing to hand over: what it has begun is in units of its own.
        TimeoutStopSec = "5s";
        StateDirectory = "fabrik-agent";
        StateDirectoryMode = "0700";
        MemoryMax = "512M";
        # Pods come first.
        Nice = 10;
        CPUWeight = 20;
        IOWeight = 20;
        SystemCallFilter = [
          "@system-service"
          "~@privileged @mount @reboot"
        ];
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
    systemd.settings.Manager = {
      RuntimeWatchdogSec = lib.mkDefault "30s";
      RebootWatchdogSec = lib.mkDefault "10min";
    };
    # Both are fabrik's to do.
    system.autoUpgrade.enable = lib.mkDefault false;
  };
}
