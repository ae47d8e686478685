#!/usr/bin/env python3
"""The supervised baseline with MixUp on the labelled images alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from realmix_tf.cli.train import main_fs_mixup

if __name__ == "__main__":
    sys.exit(main_fs_mixup())
