# STUBS of nixpkgs' packages and of what NixOS declares, so that the modules of nixos/ can be evaluated where no nixpkgs is,
# by ./modules.nix. Where FABRIK_TEST_NIXPKGS points to a real one, ./real.nix evaluates the same; so do the flake's checks.
let
  lib = import ./modules.nix;

  # Each package is its name; each script is its text.
  pkgsOf = system: {
    stdenv.hostPlatform = {
      inherit system;
      isx86_64 = system != "aarch64-linux";
    };
    coreutils = "coreutils";
    cryptsetup = "cryptsetup";
    git = "git";
    gnugrep = "/stub/gnugrep";
    grub2 = "grub2";
    iproute2 = "/stub/iproute2";
    nfs-utils = "nfs-utils";
    openssh = "openssh";
    sops = "sops";
    util-linux = "util-linux";
    formats.toml = _: { generate = name: settings: "/stub/${name}?${builtins.toJSON settings}"; };
    dosfstools = "dosfstools";
    e2fsprogs = "e2fsprogs";
    gptfdisk = "gptfdisk";
    nixos-install-tools = "nixos-install-tools";
    zstd = "/stub/zstd";
    writeShellScript = name: _: "/stub/${name}";
    writeShellApplication = application: application;
    # What is in no nixpkgs any more.
    k3s_1_30 = throw "k3s_1_30 was removed";
    k3s_1_35 = k3s "1.35.6+k3s1";
    k3s_1_36 = k3s "1.36.3+k3s1";
  };
  k3s = version: {
    type = "derivation";
    name = "k3s-${version}";
    outPath = "/stub/k3s-${version}";
    inherit version;
  };

  # What NixOS has where nobody says otherwise, as far as it is looked at.
  nixos = pkgs: {
    _file = "nixos";
    options = {
      services.journald.settings = lib.mkOption { type = lib.types.anything; default = { }; };
      services.k3s.disable = lib.mkOption { type = lib.types.listOf lib.types.str; default = [ ]; };
      systemd.settings = lib.mkOption { type = lib.types.anything; default = { }; };
    };
    config = {
      boot.loader.grub = {
        enable = lib.mkOptionDefault true;
        default = lib.mkOptionDefault "0";
        mirroredBoots = lib.mkOptionDefault [ { path = "/boot"; } ];
      };
      services.k3s = {
        package = lib.mkOptionDefault "k3s";
        clusterInit = lib.mkOptionDefault false;
        extraFlags = lib.mkOptionDefault [ ];
      };
      system.build.nixos-rebuild = "nixos-rebuild";
      nix.package = "nix";
      systemd.package = "systemd";
    };
  };

  flake = {
    packages = builtins.listToAttrs (
      map (name: { inherit name; value.default = "/stub/fabrik"; }) [ "stub" "x86_64-linux" "aarch64-linux" ]
    );
    nixosModules = import ../../nixos flake;
    inputs = { inherit nixpkgs; };
  };
  nixpkgs = {
    lib.nixosSystem =
      { modules, specialArgs }:
      let
        system = evaluated.config.nixpkgs.hostPlatform;
        evaluated = lib.evalModules {
          modules = [ (nixos (pkgsOf system)) ] ++ modules;
          specialArgs = specialArgs // { pkgs = pkgsOf system; modulesPath = ./nixos/modules; };
        };
      in
      evaluated;
    legacyPackages = builtins.mapAttrs (system: _: pkgsOf system) { x86_64-linux = null; aarch64-linux = null; };
  };

  # The text of what may keep k3s from starting, with programs by their names alone.
  guard =
    role:
    let
      pkgs = pkgsOf "stub" // {
        gnugrep = "";
        iproute2 = "";
        writeShellScript = _: text: builtins.replaceStrings [ "/bin/grep" "/bin/ip" ] [ "grep" "ip" ] text;
      };
    in
    lib.concatStringsSep "\n" (evaluateWith pkgs [
      flake.nixosModules.k3s
      {
        fabrik = {
          inherit role;
          cni = "none";
          pool = "workers";
          cluster = {
            kubernetes.version = "1.36";
            network.range = "10.0.0.0/16";
          };
        };
      }
    ]).systemd.services.k3s.serviceConfig.ExecCondition;

  evaluate = evaluateWith (pkgsOf "stub");
  evaluateWith =
    pkgs: modules:
    (lib.evalModules {
      modules = [ (nixos pkgs) ] ++ modules;
      specialArgs.pkgs = pkgs;
    }).config;
  identity =
    pkgs:
    (evaluateWith pkgs [
      flake.nixosModules.identity
      { fabrik.role = "agent"; }
    ]).systemd.services.fabrik-identity;

  example = import ./example.nix;
  # What is right for fabrik, and not what NixOS has by default.
  machine = {
    fileSystems."/boot".fsType = "vfat";
  };
  server = change: evaluate [ flake.nixosModules.fabrik machine example change ];

  # What an agent's machine is refused for.
  faults = change: map (a: a.message) (builtins.filter (a: !a.assertion) (server change).assertions);
  refuses = change: !(builtins.tryEval (builtins.deepSeq (server change).systemd.services.fabrik true)).success;
in
{
  inherit
    flake
    lib
    nixos
    nixpkgs
    pkgsOf
    ;

  unit = (server { }).systemd.services.fabrik;
  agentUnit = (server { }).systemd.services.fabrik-agent;
  secretsUnit = (server { }).systemd.services.fabrik-secrets;
  inherit ((server { }).boot) kernelParams;
  identityUnit = identity (pkgsOf "stub");
  # Its scripts by their texts.
  hostnameScript = builtins.head (identity (pkgsOf "stub" // { writeShellScript = _: text: text; })).serviceConfig.ExecStartPost;

  serverGuard = guard "server";
  agentGuard = guard "agent";

  goodMachine = faults { };
  systemdBoot = faults {
    boot.loader.grub.enable = false;
    boot.loader.systemd-boot.enable = true;
    fileSystems."/boot".fsType = lib.mkForce "vfat";
  };
  badMachines = map (change: builtins.length (faults change)) [
    { fileSystems."/boot".fsType = lib.mkForce "ext4"; }
    { fileSystems = lib.mkForce { "/".fsType = "ext4"; }; }
    { fileSystems."/boot".noCheck = true; }
    { boot.loader.grub.default = "saved"; }
    { boot.loader.grub.mirroredBoots = [ 1 2 ]; }
    { boot.loader.systemd-boot.bootCounting.enable = true; }
  ];

  refusesUnknownKey = refuses { services.fabrik.settings.nodes = "typo"; };
  refusesWrongType = refuses { services.fabrik.settings.node = lib.mkForce 1; };
  refusesMissingKey = refuses { services.fabrik.settings.secrets = lib.mkForce { }; };
}
