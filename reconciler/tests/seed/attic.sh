#!/bin/sh
# Stands in for a machine of the user's own: some Linux, and NixOS with fabrik once something was put on its disk, which is
# the folder $1/attic. $1 is the folder of the machines.
dir=$1
root=$dir/attic
printf '%s\n' "$SSH_ORIGINAL_COMMAND" >>"$dir/asked"
case $SSH_ORIGINAL_COMMAND in
true) ;;
*os-release*)
    echo os=debian
    [ -e "$dir/has-fabrik" ] && echo fabrik=yes
    [ -e "$root/var/lib/fabrik-identity/identity.json" ] && echo cluster=yes
    printf 'disk=yes\n\nNAME SIZE TYPE FSTYPE\nsda  1T   disk\nsda1 1T   part ext4\n'
    ;;
*"tar -C / -x"*) mkdir -p "$root" && tar -C "$root" -x ;;
"fabrik receive identity") cat >"$dir/bundle.json" ;;
"fabrik receive done") : >"$root/root/.ssh/authorized_keys" ;;
"fabrik status "*) echo "1 of 1 servers" ;;
"fabrik wait "*) sleep 1 ;;
"fabrik kubeconfig --kubeconfig /etc/rancher/k3s/k3s.yaml --else-server "*)
    server=${SSH_ORIGINAL_COMMAND#*--else-server }
    echo "server: ${server%% *}"
    ;;
*)
    echo "what is $SSH_ORIGINAL_COMMAND?" >&2
    exit 127
    ;;
esac
