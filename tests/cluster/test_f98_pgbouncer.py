"""A cluster behind PgBouncer in transaction mode, with a direct URL for its listeners.

That a replica without one refuses to start, and why, is in `tests/postgres/test_f75_degraded.py`.
"""

from __future__ import annotations

from examples.cluster import run_cluster
from tests.cluster.conftest import APP, Files, fetch, http_client
from tests.cluster.promises import promised, watching
from tests.cluster.under_load import loaded
from tests.postgres.conftest import pooler_url  # noqa: F401 (a fixture)

OURS = "datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'mcpsession%'"


async def test_f98_two_replicas_behind_a_transaction_pooler_keep_their_promises_also_when_it_loses_its_connections(
    pooler_url: str,  # noqa: F811
    database_url: str,
    files: Files,
) -> None:
    env = {
        "CLUSTER_FILES": str(files.root),
        "MCPSESSION_LISTEN_URL": database_url,
        "MCPSESSION_PREPARED_STATEMENTS": "false",
    }
    async with (
        run_cluster(APP, replicas=2, database_url=pooler_url, env=env) as cluster,
        http_client(cluster.url) as http,
        promised(cluster, http, files) as promises,
        watching(cluster) as watch,
        loaded(cluster, http, ticks={0.2: 15}) as load,
    ):
        await watch.until("ok", within=5)
        cut = await fetch(database_url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}")
        assert cut
        promises.go_on()
        await watch.until("ok", within=10)
        await promises.kept()
        await load.proven()
        assert [] == [replica.name for replica in cluster.replicas if "Traceback" in replica.log]
    assert watch.slowest < 1
