"""The mathematics: pure functions of arrays, with the Array API namespace passed in as ``xp``.

One letter per axis: ``n`` examples, ``i`` inputs of a layer, ``o`` outputs of a layer, ``k`` outputs
of the network. A layer maps ``(n, i)`` to ``(n, o)`` by a weight matrix of shape ``(i, o)``; the
literature's ``w_ij`` (to unit i from unit j) is its transpose.
"""
