#!/bin/sh
# Stands in for a machine of the user's own: some Linux, whose name is in $1/attic-os, and whose disk is the folder $1/attic.
# $1 is the folder of the machines.
dir=$1
root=$dir/attic
printf '%s\n' "$SSH_ORIGINAL_COMMAND" >>"$dir/asked"
case $SSH_ORIGINAL_COMMAND in
true) ;;
*os-release*)
    printf 'os=%s\narch=x86_64\nuser=0\nmemory=16303420\n' "$(cat "$dir/attic-os")"
    echo "identity=$(LC_ALL=C cat "$root/var/lib/fabrik-identity/identity.json" 2>&1 | tr -d '\n')"
    echo "from=$(cat "$dir/from" 2>/dev/null || echo "${SSH_CONNECTION%% *}")"
    echo disk=
    echo '{"blockdevices": [{"name": "sda", "type": "disk", "size": 1000000000000, "model": null, "fstype": "ext4"}]}'
    ;;
*authorized_keys* | *identity.json*)
    # What it is told goes to its disk, and its systemd is none. Where `deaf` is, its sshd reads another file.
    line=$(printf %s "$SSH_ORIGINAL_COMMAND" | sed "s#/root#$root/root#g; s#/var/lib#$root/var/lib#g; s#systemctl#true#")
    [ -e "$dir/deaf" ] && line=$(printf %s "$line" | sed 's#authorized_keys#other_keys#g')
    sh -c "$line"
    ;;
*switch-to-configuration*) ;;
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
