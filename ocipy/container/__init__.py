"""The life of a container: one module per verb, and :class:`Container` over them."""
