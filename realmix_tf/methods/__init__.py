"""Methods: one file each. ``base.py`` is the contract; ``get_method`` finds one by name.

``mixing.py``, ``targets.py``, ``masks.py`` and ``annealing.py`` are pure functions that methods
share. To add a method, write its file, decorate its class with ``@register("name")`` and list the
file in ``registry.py``.
"""
