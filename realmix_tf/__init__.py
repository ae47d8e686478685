"""Semi-supervised image classification for few labels and messy unlabelled pictures.

Importing this package is cheap: TensorFlow is loaded by the modules that compute, not here.
"""

from realmix_tf.version import __version__

__all__ = ["__version__"]
