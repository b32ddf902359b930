#!/bin/sh
# A stand-in for systemctl: reboot, and is-active and stop for the units of the other stand-ins.
set -eu
if [ -e ROOT/run/deaf ]; then
    : >ROOT/run/asked
    echo 'Failed to connect to bus' >&2
    exit 1
fi
case $1 in
    reboot) : >ROOT/run/reboot ;;
    is-active) if [ -e "ROOT/run/units/$2" ]; then echo active; else echo inactive; exit 3; fi ;;
    stop)
        if group=$(cat "ROOT/run/units/$2" 2>/dev/null); then
            env kill -KILL -- "-$group"
            rm -f "ROOT/run/units/$2"
        fi ;;
    *) exit 1 ;;
esac
