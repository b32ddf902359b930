# What a commit's flake is, before any of its outputs is evaluated.
{ url, rev }:
let
  source = builtins.fetchTree { type = "git"; inherit url rev; allRefs = true; };
  file = source.outPath + "/flake.nix";
  lockFile = source.outPath + "/flake.lock";
  present = builtins.pathExists file;
  flake = import file;

  # An argument of `outputs` is an input as well, also where `inputs` does not name it.
  outputs = flake.outputs or null;
  arguments = if builtins.isFunction outputs then builtins.functionArgs outputs else { };
  inputs = builtins.attrNames (removeAttrs (arguments // flake.inputs or { }) [ "self" ]);

  lock = builtins.fromJSON (builtins.readFile lockFile);
  locked = if builtins.pathExists lockFile then lock.nodes.${lock.root}.inputs or { } else { };
in
{
  source = source.outPath;
  inherit present;
  nixConfig = present && flake ? nixConfig;
  unlocked = if present then builtins.filter (name: !(locked ? ${name})) inputs else [ ];
}
