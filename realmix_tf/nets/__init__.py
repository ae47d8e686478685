"""Networks, described by one ``NetworkSpec`` and built by ``build_network``.

``spec.py`` is the description (no TensorFlow), ``layers.py`` the shared layers, then one file a
family. A network maps float32 images in [−1, 1], N×H×W×C, to ``Output(logits, features)``.
"""
