"""Commands: flags in, exit code out. Nothing below this folder reads a flag."""
