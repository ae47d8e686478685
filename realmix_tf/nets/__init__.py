"""Networks, described by one ``NetworkSpec`` and built by ``build_network``.

``spec.py`` is the description (no TensorFlow), ``layers.py`` and ``fused.py`` are what the networks
share, then one file a family. ``keras_model.py`` makes networks of Keras models: those of
keras.applications and a user's own, known by ``register_network``. A network maps float32 images in
[−1, 1], N×H×W×C, to ``Output(logits, features, feature_map)``.
"""

from realmix_tf.nets.registry import register_network

__all__ = ["register_network"]
