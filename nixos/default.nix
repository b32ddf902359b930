# The flake's modules, by what they are for. `disabledModules = [ fabrik.nixosModules.NAME ]` takes one away, where no other
# one is made of it: docs/nixos.md, "How to change it".
flake:
let
  # They bring the flake's own program.
  own = name: files: {
    key = "fabrik#nixosModules.${name}";
    _file = "fabrik#nixosModules.${name}";
    imports = map (file: import file flake) files;
  };

  modules = {
    base = ./base.nix;
    network = ./network.nix;
    firewall = ./firewall.nix;
    disk = ./disk.nix;
    image = ./image.nix;
    storage = ./storage.nix;
    k3s = ./k3s.nix;
    server = ./server.nix;
    agent = ./worker.nix;
    identity = own "identity" [ ./identity.nix ];
    # `services.fabrik` and `services.fabrik-agent`.
    fabrik = own "fabrik" [
      ./fabrik.nix
      ./agent.nix
    ];
  };
in
modules
// {
  # A node of a cluster: all of it. `fabrik.role` says which role it has.
  default = {
    key = "fabrik#nixosModules.default";
    _file = "fabrik#nixosModules.default";
    imports = [
      modules.base
      modules.network
      modules.firewall
      modules.disk
      modules.image
      modules.storage
      modules.k3s
      modules.server
      modules.agent
      modules.identity
      modules.fabrik
      ({ lib, ... }: { services.fabrik-agent.enable = lib.mkDefault true; })
    ];
  };
}
