# A pool's system. With a version: the one that the flake offers as the first of two steps, which has the k3s of that
# minor and is like the other one else.
{ flake, pool, version, minor }:
let
  outputs = builtins.getFlake flake;
  systems = outputs.nixosConfigurations or { };
  first = outputs.fabrik.first or { };
  describe = system: {
    derivation = system.config.system.build.toplevel.drvPath;
    output = system.config.system.build.toplevel.outPath;
    kubernetes = system.config.services.k3s.package.version;
  };
in
{
  known = builtins.attrNames systems;
  offersFirst = first ? ${pool};
  system =
    if version != "" then
      describe (first.${pool} { inherit version minor; })
    else if systems ? ${pool} then
      describe systems.${pool}
    else
      null;
}
