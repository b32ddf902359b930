{ pkgs, ... }: { services.k3s.package = pkgs.k3s_1_35; }
