#!/bin/sh
# A stand-in for nix-env: --profile PROFILE --set | --switch-generation | --delete-generations.
set -eu
profile=$2
case $3 in
    --set)
        n=1
        while [ -L "$profile-$n-link" ] && [ "$(readlink "$profile-$n-link")" != "$4" ]; do n=$((n + 1)); done
        ln -sfn "$4" "$profile-$n-link"
        ln -sfn "system-$n-link" "$profile" ;;
    --switch-generation) ln -sfn "system-$4-link" "$profile" ;;
    --delete-generations) rm "$profile-$4-link" ;;
esac
