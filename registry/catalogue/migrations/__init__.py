"""Schema migrations, one file a revision in versions/.

In:  an engine and a revision.  Out: the schema at that revision.
The file of a released revision is never edited: tests read a database of every released schema
with today's code.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Engine


def upgrade(engine: Engine, revision: str) -> None:
    """Bring the schema up to the revision in one transaction.

    Of several processes that open a new registry at once, one makes the schema and the others wait.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('btx event chain'))")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
