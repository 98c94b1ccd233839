"""A package, so that tests may import ``tests.servers`` and no other package called tests gets in the way."""
