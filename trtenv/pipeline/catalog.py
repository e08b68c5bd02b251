"""The catalogue as it really is here: declared facts, overlaid with what the lock says was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from trtenv.catalog.load import Catalog, default_catalog
from trtenv.catalog.lock import LockEntry, read_lock
from trtenv.catalog.model import Environment


def catalog_with_lock(lock: Path) -> Catalog:
    """Every environment by name. Measured beats declared."""
    catalog = default_catalog()
    return catalog.replaced(
        overlay(catalog[name], entry) for name, entry in read_lock(lock).items() if name in catalog
    )


def overlay(environment: Environment, entry: LockEntry) -> Environment:
    measured: Mapping[str, str] = entry.measured
    return replace(
        environment,
        tensorrt=measured.get(environment.flavour) or environment.tensorrt,
        torch=measured.get("torch") or environment.torch,
    )
