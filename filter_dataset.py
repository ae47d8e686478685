#!/usr/bin/env python3
"""Keep some classes: python filter_dataset.py --class_filter=… --filter_dataset=… --save_name=…."""

import sys

from realmix_tf.cli.filter_dataset import main

if __name__ == "__main__":
    sys.exit(main())
