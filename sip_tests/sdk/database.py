"""Takes the sessions away from a running server, so that it fails, and gives them back.

    database.py away|back FILE
"""

import contextlib
import sqlite3
import sys

RENAMED = {"away": "sessions RENAME TO sessions_away", "back": "sessions_away RENAME TO sessions"}


def turn(where, file):
    # The server writes in between: its transactions are short.
    with contextlib.closing(sqlite3.connect(file, timeout=20, isolation_level=None)) as connection:
        connection.execute(f"ALTER TABLE {RENAMED[where]}")


@contextlib.contextmanager
def without_sessions(file):
    turn("away", file)
    try:
        yield
    finally:
        turn("back", file)


if __name__ == "__main__":
    turn(*sys.argv[1:])
