import pytest


@pytest.fixture(autouse=True)
def own_folders() -> None:
    """GPU tests use this machine's own environments: they are large and take a while to make."""
