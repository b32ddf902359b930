#!/bin/sh
# A stand-in for systemd-run: a unit of its own process group, which outlives who starts it.
set -eu
for argument; do
    case $argument in --unit=*) unit=${argument#--unit=} ;; esac
done
while [ "$1" != -E ]; do shift; done
shift 2
mkdir -p ROOT/run/units
setsid sh -c 'file=$1; shift; echo $$ >"$file"; "$@"; rm -f "$file"' unit "ROOT/run/units/$unit" "$@" \
    </dev/null >>ROOT/units.log 2>&1 &
until [ -e "ROOT/run/units/$unit" ] || ! kill -0 $! 2>/dev/null; do sleep 0.01; done
