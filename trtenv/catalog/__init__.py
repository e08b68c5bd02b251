"""Environments: what they are, and the folders of TOML that name them."""

from trtenv.catalog.load import Catalog, default_catalog, load_catalog
from trtenv.catalog.model import Environment, Fact

__all__ = ["Catalog", "Environment", "Fact", "default_catalog", "load_catalog"]
