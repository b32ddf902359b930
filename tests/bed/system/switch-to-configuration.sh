#!/bin/sh
# A stand-in for NixOS' program of this name. It is run below the folder that a machine of the bed has for its root.
set -eu
root=${0%/nix/store/*}
system=${0#"$root"}
system=${system%/bin/switch-to-configuration}

# As systemd-boot-builder.py: an entry for each generation, and this system as the default.
install() {
    loader=$root/boot/loader default=
    rm -f "$loader"/entries/*.conf
    for link in "$root"/nix/var/nix/profiles/system-*-link; do
        number=${link##*/system-}
        number=${number%-link}
        of=$(readlink "$link")
        printf 'title NixOS\nversion Generation %s NixOS 25.11 (test bed)\noptions init=%s/init\n' "$number" "$of" \
            >"$loader/entries/nixos-generation-$number.conf"
        [ "$of" != "$system" ] || [ "${default:-0}" -gt "$number" ] || default=$number
    done
    [ -n "$default" ] || { echo "$system is no generation of the profile" >&2; exit 1; }
    echo "default nixos-generation-$default.conf" >"$loader/loader.conf.new"
    mv "$loader/loader.conf.new" "$loader/loader.conf"
}

# The services whose triggers are others than those of the system that runs.
restarted() {
    sort "$root$(readlink "$root/run/current-system")/restarts" "$root$system/restarts" | uniq -u | cut -d ' ' -f 1 | sort -u
}

# The machine watches the link, restarts what has changed, and says when that is done. What services found that are started
# again is noted here.
activate() {
    services=$(restarted)
    ln -sfn "$system" "$root/run/current-system.new"
    mv -T "$root/run/current-system.new" "$root/run/current-system"
    until [ "$(cat "$root/run/obeyed" 2>/dev/null)" = "$system" ]; do sleep 0.1; done
    for service in $services; do
        echo "$service: $(ls --inode "$root/run/fabrik/secrets")" >>"$root/run/restarted"
    done
}

case $1 in
    boot) install ;;
    test) activate ;;
    switch) install; activate ;;
    check | dry-activate) ;;
    *) echo "unknown action $1" >&2; exit 1 ;;
esac
