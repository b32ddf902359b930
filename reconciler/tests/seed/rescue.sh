#!/bin/sh
# The rescue system: a disk that is a file, and otherwise the shell that Hetzner's has.
# $1 is the folder of the machines.
dir=$1
case $SSH_ORIGINAL_COMMAND in
*of=/dev/sda*)
    if [ -e "$dir/slow" ]; then
        touch "$dir/writing"
        while [ -e "$dir/slow" ]; do sleep 0.1; done
        exit 1
    fi
    ;;
esac
sh -c "$(printf %s "$SSH_ORIGINAL_COMMAND" | sed "s,/dev/sda,$dir/sda,g")" || exit
case $SSH_ORIGINAL_COMMAND in
*of=/dev/sda*)
    [ -e "$dir/corrupt" ] && printf x | dd of="$dir/sda" bs=1 seek=7 conv=notrunc 2>/dev/null
    ;;
esac
exit 0
