# What a commit's flake is, before any of its outputs is evaluated.
{ url, rev }:
let
  source = builtins.fetchTree { type = "git"; inherit url rev; allRefs = true; };
  file = source.outPath + "/flake.nix";
  present = builtins.pathExists file;
in
{
  source = source.outPath;
  inherit present;
  nixConfig = present && (import file) ? nixConfig;
}
