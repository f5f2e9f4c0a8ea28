"""An Airflow DAG that encrypts the orders each night. What is encrypted is left to the configuration."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime

from airflow.exceptions import AirflowException, AirflowFailException
from airflow.sdk import dag, task

COMMAND = ["pipecrypt", "run", "/etc/pipecrypt/orders.yaml", "--resume", "--json", "--log-format", "json"]
WORTH_A_RETRY = 1


@dag(schedule="@daily", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, max_active_runs=1)
def encrypt_orders() -> None:
    """Encrypt what is new."""

    @task(retries=2)
    def encrypt() -> None:
        code = subprocess.run(COMMAND, check=False).returncode  # noqa: S603 - fixed above
        if code == WORTH_A_RETRY:
            raise AirflowException("pipecrypt failed; it is tried again")
        if code != 0:
            raise AirflowFailException(f"pipecrypt ended with exit code {code}: a person must look")

    encrypt()


encrypt_orders()
