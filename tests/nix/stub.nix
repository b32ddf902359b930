# A STUB of nixpkgs' lib and pkgs, so that the modules of nixos/ can be evaluated where no nixpkgs is. It applies defaults
# and refuses a key that has no option; it knows nothing of types. The flake's own checks use the real ones.
let
  lib = {
    types = {
      str = "str";
      package = "package";
      nullOr = type: if builtins.isAttrs type then type else "null or ${type}";
      listOf = type: "list of ${type}";
      addCheck = type: _: { name = type; __toString = self: self.name; };
      submodule = module: { inherit (module) options; __toString = _: "submodule"; };
    };
    hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
    mkOption = option: option // { isOption = true; };
    mkEnableOption = description: lib.mkOption { inherit description; type = "bool"; default = false; };
    mkDefault = value: value;
    mkIf = condition: content: if condition then content else { };
    unique = builtins.foldl' (seen: item: if builtins.elem item seen then seen else seen ++ [ item ]) [ ];
    getExe = package: "${package}/bin/fabrik";
    filterAttrsRecursive =
      keep: set:
      builtins.listToAttrs (
        builtins.concatMap (
          name:
          let
            value = set.${name};
          in
          if !keep name value then
            [ ]
          else
            [
              {
                inherit name;
                value = if builtins.isAttrs value then lib.filterAttrsRecursive keep value else value;
              }
            ]
        ) (builtins.attrNames set)
      );
  };

  pkgs = {
    stdenv.hostPlatform.system = "stub";
    coreutils = "coreutils";
    git = "git";
    grub2 = "grub2";
    openssh = "openssh";
    sops = "sops";
    util-linux = "util-linux";
    formats.toml = _: { generate = name: settings: "/stub/${name}?${builtins.toJSON settings}"; };
  };

  # Values of options: what is given, else the default, else an error that names the option.
  fill =
    path: options: given:
    let
      unknown = builtins.filter (name: !(options ? ${name})) (builtins.attrNames given);
      one =
        name: option:
        let
          here = "${path}.${name}";
          value = given.${name} or option.default or (throw "the option ${here} has no value");
        in
        if !(option.isOption or false) then
          fill here option (given.${name} or { })
        else if value != null && builtins.isAttrs (option.type or null) && option.type ? options then
          fill here option.type.options value
        else
          value;
    in
    if unknown != [ ] then
      throw "the option ${path}.${builtins.head unknown} does not exist"
    else
      builtins.mapAttrs one options;

  evaluate =
    example:
    let
      module = import ../../nixos/fabrik.nix { packages.stub.default = "/stub/fabrik"; } {
        inherit lib pkgs;
        config = {
          services.k3s.package = "k3s";
          systemd.package = "systemd";
          services.fabrik = fill "services.fabrik" module.options.services.fabrik example.services.fabrik;
        };
      };
    in
    module.config;

  # What is right for fabrik, and not what NixOS has by default.
  machine = {
    boot.loader = {
      grub = { enable = true; default = "0"; mirroredBoots = [ { path = "/boot"; } ]; };
      systemd-boot.bootCounting.enable = false;
    };
    fileSystems."/boot".fsType = "vfat";
  };

  agent =
    machine:
    let
      module = import ../../nixos/agent.nix { packages.stub.default = "/stub/fabrik"; } {
        inherit lib pkgs;
        config = machine // {
          nix.package = "nix";
          system.build.nixos-rebuild = "nixos-rebuild";
          systemd.package = "systemd";
          services.fabrik-agent = fill "services.fabrik-agent" module.options.services.fabrik-agent example.services.fabrik-agent;
        };
      };
    in
    module.config;

  # What an agent's machine is refused for.
  faults = machine: map (a: a.message) (builtins.filter (a: !a.assertion) (agent machine).assertions);
  withGrub = grub: machine // { boot.loader = machine.boot.loader // { grub = machine.boot.loader.grub // grub; }; };

  example = import ./example.nix;
in
{
  agentUnit = (agent machine).systemd.services.fabrik-agent;
  kernelParams = (agent machine).boot.kernelParams;
  goodMachine = faults machine;
  badMachines = map (machine: builtins.length (faults machine)) [
    (machine // { fileSystems."/boot".fsType = "ext4"; })
    (machine // { fileSystems = { }; })
    (machine // { fileSystems."/boot" = { fsType = "vfat"; noCheck = true; }; })
    (withGrub { default = "saved"; })
    (withGrub { mirroredBoots = [ 1 2 ]; })
    (machine // { boot.loader = machine.boot.loader // { systemd-boot.bootCounting.enable = true; }; })
  ];
  systemdBoot = faults (machine // { boot.loader = { grub.enable = false; systemd-boot.enable = true; }; });
  unit = (evaluate example).systemd.services.fabrik;
  refusesUnknownKey =
    !(builtins.tryEval (
      builtins.deepSeq (evaluate {
        services.fabrik = example.services.fabrik // {
          settings = example.services.fabrik.settings // { nodes = "typo"; };
        };
      }) true
    )).success;
  refusesMissingKey =
    !(builtins.tryEval (
      builtins.deepSeq (evaluate {
        services.fabrik = example.services.fabrik // {
          settings = builtins.removeAttrs example.services.fabrik.settings [ "node" ];
        };
      }) true
    )).success;
}
