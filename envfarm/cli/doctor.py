"""``envfarm doctor``: what this machine can and cannot do, and what to do about it."""

from __future__ import annotations

import typer

from envfarm.core.config import LocalProviderConfig

from .common import ConfigFile, Home, Json, configuration, note, plain, print_json, print_table, run_async

app = typer.Typer(help="Say what this machine can and cannot do, and why.")


@app.command()
def doctor(as_json: Json = False, config: ConfigFile = None, home: Home = None) -> int:
    """Try everything that boxes and builds need. Exits with 1 if something required is missing."""
    from envfarm.sandbox.probes import run_probes

    resolved = configuration(config, home)
    settings = resolved.provider if isinstance(resolved.provider, LocalProviderConfig) else LocalProviderConfig()
    probes = run_async(run_probes(resolved.home_path, settings))
    missing = [probe.name for probe in probes if probe.required and not probe.ok]
    if as_json:
        print_json({"ok": not missing, "probes": [plain(probe) for probe in probes]})
        return 1 if missing else 0
    rows = [
        (probe.name, "ok" if probe.ok else "MISSING" if probe.required else "no", probe.detail, probe.remedy)
        for probe in probes
    ]
    print_table(("what", "state", "finding", "remedy"), rows)
    note(f"Required and missing: {', '.join(missing)}." if missing else "Everything required is here.")
    return 1 if missing else 0
