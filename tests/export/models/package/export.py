# Written as users write, for torch 1.4 and Python 3.6.
# ruff: noqa: ANN201, TID252
"""A file of a package that is called like a job script, and has a sibling called like another."""

from .models import Layer


def model():
    return Layer()
