# Which of `names` are among k3s' flags, as often as they are there; `extraFlags` is written in any of the ways it takes.
lib: extraFlags: names:
let
  words = lib.concatMap (flag: lib.splitString " " flag) (lib.flatten [ extraFlags ]);
in
builtins.filter (name: builtins.elem name names) (map (word: builtins.head (lib.splitString "=" word)) words)
