"""A guest's month with Apache Airflow (2.10 or later, or 3): align new rows, train, score every night.

Lay it into Airflow's folder of DAGs on a worker that has vfl and the party's folder, and set the three
names below. Exit codes decide (docs/operations.md): 7 and 8, a peer that is away, are tried again; all
others need a person, so the task fails at once. One run of each at a time.
"""

import subprocess
import tempfile
from datetime import datetime, timedelta

try:
    from airflow.sdk import DAG, task
    from airflow.sdk.exceptions import AirflowException, AirflowFailException
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task
    from airflow.exceptions import AirflowException, AirflowFailException

VFL = "/opt/vfl/bin/vfl"
FOLDER = "/srv/vfl"
PARTY = "insurer.toml"

COMMANDS = {
    "align": ["align", PARTY, "--extend", "--wait", "600", "--json", "--log", "json"],
    "train": ["train", PARTY, "claim-probability.toml", "--wait", "600", "--json", "--log", "json"],
    "score": [
        *["score", PARTY, "--model", "claim-probability", "--data", "new_policies.csv"],
        *["--out", "scores.csv", "--wait", "600", "--json", "--log", "json"],
    ],
}
AGAIN = {7, 8}  # a peer cannot be reached, or was lost: the same command goes on where it was


def run(name: str) -> str:
    """Run a command; its result, one JSON object. Its log goes to the task's."""
    with (
        tempfile.TemporaryFile("w+") as result,  # a pipe would be full while the log is read
        subprocess.Popen(
            [VFL, *COMMANDS[name]], cwd=FOLDER, stdout=result, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        for line in process.stderr or ():
            print(line, end="")
        code = process.wait()
        result.seek(0)
        told = result.read()
    if code == 0:
        return told
    why = f"vfl {COMMANDS[name][0]} ended with exit code {code}"
    raise (AirflowException if code in AGAIN else AirflowFailException)(why)


DEFAULTS = {"retries": 5, "retry_delay": timedelta(minutes=10), "execution_timeout": timedelta(hours=12)}

with DAG(
    "vfl_train",
    schedule="0 2 1 * *",
    start_date=datetime(2027, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    tags=["vfl"],
):

    @task(task_id="align")
    def align() -> str:
        """Match rows that are new since the last alignment."""
        return run("align")

    @task(task_id="train")
    def train(aligned: str) -> str:
        """Train on the latest alignment."""
        return run("train")

    train(align())

with DAG(
    "vfl_score",
    schedule="15 3 * * *",
    start_date=datetime(2027, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    tags=["vfl"],
):

    @task(task_id="score")
    def score() -> str:
        """Score the day's policies with the newest model of the job."""
        return run("score")

    score()
