"""What the tests of the library and of the template share: real servers."""

pytest_plugins = ["tests.servers.fixtures"]
