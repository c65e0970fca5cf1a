"""What every test directory can use."""

pytest_plugins = [
    "tests.support.peers",
    "tests.support.engines",
    "tests.support.topologies",
    "tests.support.proxy",
    "tests.support.gateways",
    "tests.support.postgres",
]
