"""What all tests share: real servers, whether there is a cluster, and modules that are compiled once."""

import os
import sys

pytest_plugins = ["tests.servers.fixtures", "tests.e2e.selection"]

# Where a machine sets this, as images of containers do, each of the thousand processes that the tests start would
# compile all that it imports: half of the time that a service takes to start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
