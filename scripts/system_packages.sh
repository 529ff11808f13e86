#!/usr/bin/env bash
# System packages that the tests need: Debian's git, postgresql and chromium. Installed when we are root on a
# Debian-like machine; otherwise one line says what to run. Nothing is done when all are there.
set -euo pipefail
missing=()
command -v git >/dev/null || missing+=(git)
command -v chromium >/dev/null || missing+=(chromium)
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql)
[ ${#missing[@]} -eq 0 ] && exit 0
line="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "installing system packages: ${missing[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  $line -qq >/dev/null
else
  echo "System packages are missing; tests that need them will be skipped. To install them run: sudo $line" >&2
fi
