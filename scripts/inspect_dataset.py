#!/usr/bin/env python3
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from realmix_tf.cli.inspect_dataset import main

sys.exit(main())
