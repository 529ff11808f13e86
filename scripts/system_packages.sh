#!/usr/bin/env bash
# System packages, in groups (the first two, where no argument names one): `tests`, what our own tests need; `tools`, what
# the tests of many projects call; `cluster`, what a node of the Kubernetes test bed needs. Installed when we are root on a Debian-like machine; otherwise one line says what to
# run. Nothing is done when all are there.
set -euo pipefail
groups=${*:-tests tools}
missing=()
libraries=$(ldconfig -p 2>/dev/null || true)
command_of() { command -v "$1" >/dev/null || missing+=("$2"); }
library_of() { [[ $libraries == *"$1 "* ]] || missing+=("$2"); }
if [[ " $groups " == *" tests "* ]]; then
  command_of git git
  command_of chromium chromium
  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql)
fi
if [[ " $groups " == *" cluster "* ]]; then
  command_of ip iproute2
  command_of runc runc
  command_of iptables iptables
  command_of busybox busybox-static
  [ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
fi
if [[ " $groups " == *" tools "* ]]; then
  command_of git git
  command_of gs ghostscript
  command_of dot graphviz
  command_of gcc gcc
  command_of g++ g++
  command_of make make
  command_of gpg gnupg
  command_of ssh openssh-client
  command_of zip zip
  command_of unzip unzip
  command_of pdftotext poppler-utils
  library_of libmagic.so.1 libmagic1
  library_of libpq.so.5 libpq5
  library_of libodbc.so.2 unixodbc
  library_of libsndfile.so.1 libsndfile1
  library_of libGL.so.1 libgl1
  library_of libcairo.so.2 libcairo2
  library_of libpangoft2-1.0.so.0 libpangoft2-1.0-0
  library_of libenchant-2.so.2 libenchant-2-2
fi
[ ${#missing[@]} -eq 0 ] && exit 0
line="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "installing system packages: ${missing[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # One package that this release does not know must not cost the others.
  $line -qq >/dev/null || for package in "${missing[@]}"; do
    apt-get install -y --no-install-recommends "$package" -qq >/dev/null || echo "not to be had here: $package" >&2
  done
else
  echo "System packages are missing; tests that need them will be skipped or fail. To install them run: sudo $line" >&2
fi
