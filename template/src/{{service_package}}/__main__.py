from marty_lib import main

from .app import create_app
from .config import Settings

main(Settings, create_app)
