"""What the tests of the library and of the template share: real servers, and whether there is a cluster."""

pytest_plugins = ["tests.servers.fixtures", "tests.e2e.selection"]
