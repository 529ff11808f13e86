#!/usr/bin/env bash
# Builds the in-box agent: a static binary, standard library only. Argument: where to put it.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out="$root/$1"
mkdir -p "$(dirname "$out")"
bash "$root/scripts/go.sh" build -trimpath -ldflags "-s -w" -o "$out.tmp" ./cmd/envfarm-agent
mv "$out.tmp" "$out"
