"""Project files, and the jobs that hosts get of them."""

import re
from pathlib import Path

import pytest

from vfl.errors import ConfigError
from vfl.party.config import Job, JobSection, load_job
from vfl.party.project_file import Project, load_project
from vfl.party.sections import DataSection

PROJECT = """
[project]
name = "motor"
purpose = "a test"
counts = "count"
amounts = "paid"

[frequency]
model = "glm"

[severity]
model = "secureboost"
secureboost = {trees = 3}
"""


def project(tmp_path: Path, text: str = PROJECT) -> Project:
    path = tmp_path / "motor.toml"
    path.write_text(text)
    return load_project(path)


def test_a_projects_jobs_name_all_its_models(tmp_path):
    made = project(tmp_path, PROJECT + '[tweedie]\nmodel = "glm"\n')
    names = ("motor-frequency", "motor-severity", "motor-tweedie")
    jobs = [made.job(part) for part in made.parts]
    assert [job.name for job in jobs] == [*names]
    assert [job.objective for job in jobs] == ["poisson", "gamma", "tweedie"]
    assert all(job.job.project == names for job in jobs)
    assert jobs[1].secureboost.trees == 3
    assert [job.job.offset for job in jobs] == [None, False, False]
    for job in jobs:
        assert Job.from_canonical(job.canonical) == job
        assert b"count" not in job.canonical
    # A job of no project says nothing of any.
    assert "project" not in jobs[0].model_copy(update={"job": JOB_ALONE}).settings["job"]


JOB_ALONE = JobSection(name="alone", purpose="a test", model="glm", family="poisson")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('amounts = "paid"', "", "counts and amounts belong together"),
        ('amounts = "paid"', 'amounts = "count"', "must be different columns"),
        ("[frequency]", "[claims]\npath = 'c.csv'\namount = 'x'\n[frequency]", "one of both"),
        ('counts = "count"\namounts = "paid"', "", "name counts and amounts"),
        ("[frequency]", 'load_by = "line"\n[frequency]', "load_by is of losses above a cap"),
        ("{trees = 3}", "{seed = 3}", "a seed, which is that of [project]"),
        ("{trees = 3}", "{goss_top = 0.1, goss_other = 0.1}", "which are those with claims"),
        ('model = "glm"', 'model = "glm"\nsecureboost = {}', 'not for model = "glm"'),
        ("secureboost = {trees = 3}", 'family = "poisson"', "family is for"),
        ('"motor"', '"a-name-that-is-longer-than-thirty-letters"', "30 characters at most"),
    ],
)
def test_what_a_project_cannot_be(tmp_path, old, new, why):
    assert old in PROJECT
    with pytest.raises(ConfigError, match=re.escape(why)) as refused:
        project(tmp_path, PROJECT.replace(old, new, 1))
    assert str(refused.value).startswith("motor.toml: ")


def test_a_project_file_is_no_job_file(tmp_path):
    project(tmp_path)
    with pytest.raises(ConfigError, match=r"motor\.toml is a project file, where a job file is due"):
        load_job(tmp_path / "motor.toml")


def test_columns_of_claims_have_no_other_use(tmp_path):
    made = project(tmp_path)
    data = DataSection(path=tmp_path / "p.csv", id=("plate",), label="claim", exposure="years")
    read = made.data(data)
    assert (read.label, read.exposure) == ("count", "years")
    assert read.ignore == ("claim", "paid", "years")
    with pytest.raises(ConfigError, match=r"\[data\] categorical has 'paid', which \[project\] names"):
        made.data(data.model_copy(update={"categorical": ("paid",)}))
