"""What is made of predictions: numbers, pictures, pages and files.

``metrics`` (numbers, no TensorFlow), ``classifier`` (the one way to predict, and exported models),
``accuracy`` (statistics over a run), ``inference`` (users' folders), ``plots`` and ``report``.
"""
