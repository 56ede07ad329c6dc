"""`python -m jobs` is `hanforge`."""

from jobs.cli import main

main()
