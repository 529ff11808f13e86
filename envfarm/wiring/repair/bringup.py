"""``envfarm train bringup``: packages of the registry -> corpus -> tokenizer, trunk, heads -> a checkpoint."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from envfarm_builders.repos.pypi import latest_sdist
from envfarm_rl.repair.corpus import write_examples
from envfarm_rl.repair.recipe import BringupRecipe, CorpusSection

from envfarm.core.archive import unpack
from envfarm.core.durable import write_file
from envfarm.core.errors import BuilderError, Reason

from .corpus import examples, function_digest, product_functions

MANIFEST = "manifest.json"


def bring_up(
    recipe: BringupRecipe, work: Path, checkpoint: Path, *, workers: int, device: str, say: Callable[[str], None]
) -> None:
    """Everything; begun again with the same ``work`` it goes on. The checkpoint gets the recipe, the manifest of what
    was read, the curve on held-out pages, and a digest of its weights. A trainer on a GPU has its batches made by the
    ``workers`` that built the corpus: one process alone feeds it too slowly.

    Raises ``BuilderError`` where the registry cannot be reached, ``TrainerError`` and ``ConfigError`` as training does.
    """
    from envfarm_rl.repair.train import Bringup

    corpus = work / "corpus"
    build_corpus(recipe.corpus, corpus, work / "cache", workers=workers, say=say)
    files = {split: corpus_files(corpus, split, names) for split, names in _splits(recipe.corpus)}
    run = Bringup(
        recipe, files["train"], files["held_out"], work / "bringup", device=device,
        workers=workers if device != "cpu" else 0, say=say,
    )  # fmt: skip
    run.run()
    run.export(checkpoint)
    (checkpoint / "recipe.json").write_text(recipe.model_dump_json(indent=1))
    for name, source in ((MANIFEST, corpus / MANIFEST), ("curve.jsonl", work / "bringup" / "curve.jsonl")):
        (checkpoint / name).write_text(source.read_text("utf-8"), "utf-8")
    write_digests(checkpoint)


def write_digests(checkpoint: Path) -> None:
    """``SHA256SUMS`` of all files of a checkpoint, in the form that ``sha256sum --check`` reads."""
    names = sorted(path.name for path in checkpoint.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (checkpoint / "SHA256SUMS").write_text("".join(lines))


def corpus_files(corpus: Path, split: str, names: Sequence[str]) -> list[Path]:
    """Files of the packages of a split, those that have any."""
    return [path for name in names if (path := corpus / split / f"{name}.zst").exists()]


def build_corpus(
    section: CorpusSection, folder: Path, cache: Path, *, workers: int, say: Callable[[str], None]
) -> None:
    """One file for each package, held-out ones first, since their functions are dropped from the others. Packages that
    are there already, by the manifest, are kept. A package without a source archive is told of and left out."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MANIFEST
    manifest: dict[str, dict[str, object]] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    dropped: set[str] = set()
    # fresh processes: this one may have threads, which a fork would not take along
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for split, names in _splits(section):
            running: list[tuple[str, Future[dict[str, object]]]] = []
            for name in names:
                if name in manifest:
                    continue
                try:
                    version, _, tree = latest_sdist(name, cache)
                except BuilderError as error:  # the boundary of one package
                    if error.reason is Reason.index_unreachable:
                        raise
                    say(f"{name} is left out: {error}")
                    continue
                kept = frozenset() if split == "held_out" else frozenset(dropped)
                target = folder / split / f"{name}.zst"
                running.append((name, pool.submit(package_corpus, name, version, tree, target, section, kept)))
            for name, future in running:
                manifest[name] = {"split": split, **future.result()}
                say(f"{name}: {manifest[name]['examples']} examples of {manifest[name]['functions']} functions")
                write_file(path, json.dumps(manifest, indent=0, sort_keys=True).encode())
            if split == "held_out":
                dropped = {digest for entry in manifest.values() for digest in entry.get("digests", ())}  # type: ignore


def package_corpus(
    name: str, version: str, tree: bytes, target: Path, section: CorpusSection, dropped: frozenset[str]
) -> dict[str, object]:
    """Write a package's file; what the manifest says of it. Functions whose digest is in ``dropped`` are left out."""
    found = list(product_functions(unpack(tree)))
    random.Random(f"{section.seed} {name}").shuffle(found)
    seen: set[str] = set()
    written, functions = [], 0
    for path, unit in found:
        digest = function_digest(unit)
        if digest in seen or digest in dropped:
            continue
        seen.add(digest)
        made = list(examples(path, unit, count=section.examples, seed=section.seed))
        written += made
        functions += bool(made)
        if functions >= section.functions:
            break
    count = write_examples(target, written)
    digests = {} if dropped else {"digests": sorted(seen)}
    return {"version": version, "functions": functions, "examples": count, **digests}


def _splits(section: CorpusSection) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ("held_out", section.held_out), ("train", section.train)
