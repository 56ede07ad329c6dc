"""The command line and one thin module per kind: parse, load, call `pipeline`, map errors to exit codes. No logic."""
