"""The mathematics: pure functions of arrays, with the Array API namespace passed in as ``xp``.

One letter per axis: ``n`` examples, ``i`` inputs of a layer, ``o`` outputs of a layer, ``k`` outputs
of the network. A layer maps ``(n, i)`` to ``(n, o)`` by a weight matrix of shape ``(i, o)``; the
literature's ``w_ij`` (to unit i from unit j) is its transpose.

Axes may lead all of these: ``(m, n, i)`` and ``(m, i, o)`` are m networks, each with its own rows, in
one call. ``axis=-2`` runs over examples and ``axis=-1`` over units; a number such as a rate is one
for all networks, or an array of shape ``(m,)`` with one for each.
"""
