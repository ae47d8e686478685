"""Image operations as stateless functions of (images, uniform numbers), and policies made of them.

``ops.py`` holds single operations, ``policies.py`` names the weak policies; the numbers come from
``realmix_tf.randomness``. Operations take and return uint8 batches, so a view can be stored as well
as trained on.
"""
