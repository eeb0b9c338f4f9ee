"""`tuili` on the command line: `main` parses and runs, `command` is what all commands share."""
