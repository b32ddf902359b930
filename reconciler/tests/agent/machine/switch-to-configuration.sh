#!/bin/sh
# A stand-in for NixOS' program of this name, below a folder that looks like a machine's root.
set -eu
root=${0%/nix/store/*}
system=${0#"$root"}
system=${system%/bin/switch-to-configuration}
echo "$1 $system" >>"$root/switched"
case $1 in
    boot)
        # As systemd-boot's: an entry for each generation, and this system as the default.
        loader=$root/boot/loader
        rm -f "$loader"/entries/*.conf
        for link in "$root"/nix/var/nix/profiles/system-*-link; do
            number=${link##*/system-}
            number=${number%-link}
            of=$(readlink "$link")
            printf 'title NixOS\nversion Generation %s NixOS 25.11\noptions init=%s/init\n' "$number" "$of" \
                >"$loader/entries/nixos-generation-$number.conf"
            if [ "$of" = "$system" ]; then echo "default nixos-generation-$number.conf" >"$loader/loader.conf"; fi
        done ;;
    test)
        ln -sfn "$system" "$root/run/current-system"
        if [ -e "$root$system/blocks" ]; then
            until [ -e "$root/run/go-on" ]; do sleep 0.05; done
        fi
        # Whichever system a unit is of, its failure is told.
        if [ -e "$root$system/fails" ] || [ -e "$root/crash-loop" ]; then echo 'warning: the following units failed: web.service' >&2; exit 4; fi ;;
    *) exit 1 ;;
esac
