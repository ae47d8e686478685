#!/usr/bin/env python3
"""Train: python realmix.py --method=realmix --dataset=<name>.<seed>@<labels>-<valid>."""

import sys

from realmix_tf.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
