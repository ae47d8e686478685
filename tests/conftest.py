"""Set before anything imports TensorFlow, and before any command is started."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A shell lets its background jobs ignore Ctrl-C, and commands started by these tests would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
