"""What training reads: the record format, manifests, dataset names, decoding of users' images.

Nothing here imports TensorFlow except the sampler, so data tools and ``--help`` stay quick.
"""
