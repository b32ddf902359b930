#!/bin/sh
# A stand-in for systemctl: reboot, and is-active for the units of systemd-run's stand-in.
set -eu
case $1 in
    reboot) : >ROOT/run/reboot ;;
    is-active) if [ -e "ROOT/run/units/$2" ]; then echo active; else echo inactive; exit 3; fi ;;
    stop) ;;
    *) exit 1 ;;
esac
