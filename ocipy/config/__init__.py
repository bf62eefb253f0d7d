"""The bundle's config.json: loading and judging it, and the schemas it is judged by.

``load`` and what it imports (``check``, ``rules``) are on the path of every create, so they import
nothing but C modules; ``validate`` names every fault of a config that is known to be wrong, by jsonschema.
"""
