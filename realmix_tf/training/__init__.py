"""The engine: one loop that trains every method, and what a run leaves on the disk.

``settings.py`` is what a run is, ``engine.py`` the update and its state, ``input.py`` what it
reads, ``checkpoint.py`` how it is saved, ``loop.py`` the run from start to end, ``logs.py`` what it
says meanwhile.
"""
