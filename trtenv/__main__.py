"""`python -m trtenv` is `trtenv`."""

from trtenv.cli import main

main()
