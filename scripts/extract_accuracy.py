#!/usr/bin/env python3
"""Summarises the test accuracy of training runs; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from realmix_tf.cli.extract_accuracy import main

if __name__ == "__main__":
    sys.exit(main())
