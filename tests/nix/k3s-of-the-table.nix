# The releases of k3s that the specs of the table name, as versions of whichever k3s a nixpkgs has: that one changes, and is
# not what is checked.
packages:
let
  as = version: packages.k3s // { inherit version; };
in
{
  k3s_1_35 = as "1.35.6+k3s1";
  k3s_1_36 = as "1.36.3+k3s1";
}
