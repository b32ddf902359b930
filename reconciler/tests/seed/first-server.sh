#!/bin/sh
# Stands in for NixOS on the first server, and for fabrik there: it does with host keys and authorized keys what `fabrik
# receive` promises, keeps what it is handed, and says of the commit what it is told to.
# $1 is the folder of the machines. The host key `used` is what sshd has.
dir=$1
printf '%s\n' "$SSH_ORIGINAL_COMMAND" >>"$dir/asked"
case $SSH_ORIGINAL_COMMAND in
true) ;;
"fabrik receive host-key")
    [ -e "$dir/own" ] || ssh-keygen -q -t ed25519 -N '' -C root@demo -f "$dir/own"
    cat "$dir/own.pub"
    ;;
"fabrik receive host-key --use") touch "$dir/use-own" ;;
"fabrik receive identity")
    if ! [ -e "$dir/use-own" ]; then
        echo "still has the host key of its user data" >&2
        exit 1
    fi
    echo "k3s starts" >&2
    cat >"$dir/bundle.json"
    ;;
"fabrik receive done") : >"$dir/authorized-first" ;;
"fabrik status "*) echo "1 of 3 servers" ;;
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
