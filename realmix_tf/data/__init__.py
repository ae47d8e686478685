"""What training reads: the record format, manifests, dataset names, decoding of users' images.

TensorFlow is imported by ``sampling``, ``stores`` and ``training_data``, which only training and
evaluation use. The other modules do without, so data tools and ``--help`` stay quick.
"""
