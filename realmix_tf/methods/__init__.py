"""Methods: one file each. ``base.py`` is the contract; ``get_method`` finds one by name.

``mixing.py``, ``targets.py``, ``masks.py``, ``annealing.py``, ``distances.py``, ``alignment.py``,
``rotation.py``, ``heads.py`` and ``metrics.py`` are pure functions that methods share;
``consistency.py`` and ``weak_strong.py`` are what the older baselines, and FixMatch and its
successors, have in common. To add a method, write its file, decorate its class with
``@register("name")`` and list the file in ``registry.py``; docs/methods.md has a worked example.
"""
