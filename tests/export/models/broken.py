# ruff: noqa: F401
import a_library_that_is_not_here
