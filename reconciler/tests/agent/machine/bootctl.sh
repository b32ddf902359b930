#!/bin/sh
# A stand-in for bootctl --esp-path=… set-oneshot ENTRY: the variable as efivarfs shows it.
set -eu
[ "$2" = set-oneshot ]
file=ROOT/sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
if [ -z "$3" ]; then rm -f "$file"; else { printf '\7\0\0\0'; printf %s "$3" | sed 's/./&\x00/g'; printf '\0\0'; } >"$file"; fi
