#!/bin/sh
# A root of its own for the rescue system, in which /mnt, /nix and /run are empty. $1 is the folder of the machines.
set -eu
dir=$1 new=$1/root
rm -f "$dir/rescue-pid"
mkdir -p "$new"
mount -t tmpfs -o mode=755 root "$new"
mount --make-unbindable "$new"
for entry in /*; do
    at=$new$entry
    case $entry in
    /mnt | /nix | /run) ;;
    *)
        if [ -L "$entry" ]; then cp -P "$entry" "$at"
        elif [ -d "$entry" ]; then mkdir "$at"; mount --rbind "$entry" "$at"
        fi ;;
    esac
done
mkdir "$new/mnt" "$new/nix" "$new/run" "$new/.old"
cd "$new"
pivot_root . .old
# shellcheck disable=SC2016 # the inner shell expands it
exec chroot . sh -c 'umount --lazy /.old && echo $$ >"$1/rescue-pid" && exec sleep infinity' init "$dir"
