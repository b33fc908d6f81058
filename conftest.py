"""What the tests of the library and of the template share: real servers, and modules that are compiled once."""

import os
import sys

pytest_plugins = ["tests.servers.fixtures"]

# Where a machine sets this, as images of containers do, each of the thousand processes that the tests start would
# compile all that it imports: half of the time that a service takes to start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
