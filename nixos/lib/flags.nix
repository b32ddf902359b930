# Those of k3s' flags that are among `names` or begin with one of `prefixes`, as often as they are there; `extraFlags` is
# written in any of the ways it takes.
lib: extraFlags: { names ? [ ], prefixes ? [ ] }:
let
  words = lib.concatMap (flag: lib.splitString " " flag) (lib.flatten [ extraFlags ]);
  flags = map (word: builtins.head (lib.splitString "=" word)) words;
in
builtins.filter (flag: builtins.elem flag names || builtins.any (prefix: lib.hasPrefix prefix flag) prefixes) flags
