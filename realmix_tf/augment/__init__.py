"""Image operations as stateless functions of (images, uniform numbers), and policies made of them.

``names.py`` and ``codes.py`` say what users may type, without TensorFlow. The weak policies
(``policies.py``) are made of ``ops.py`` and return uint8 batches, so a view can be stored as well
as trained on. The strong ones (``randaugment.py``, ``autoaugment.py``, ``ctaugment.py``) draw
chains of Pillow's operations: ``pillow_color.py``, ``pillow_filters.py`` and ``pillow_geometry.py``
have them byte for byte, ``chain.py`` gives every image of a batch its own. They return views
(``views.py``), which know which pixels show nothing. ``slots.py`` puts a weak and a strong policy
together. The uniform numbers come from ``realmix_tf.randomness``.

Everything here is for CPUs, in the input pipeline or beside it: exact bytes rest on exact products
of float32 matrices, which accelerators may round.
"""
