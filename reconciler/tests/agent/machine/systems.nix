# The systems of the tests, made by real Nix without nixpkgs.
{
  name,
  kernel,
  faults,
}:
derivation {
  name = "nixos-system-${name}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ ./toplevel.sh ];
  PATH = "/bin";
  package = name;
  switch = ./switch-to-configuration.sh;
  kernel = builtins.toFile "linux-${kernel}" kernel;
  inherit faults;
}
