"""What a party keeps about an id, on stdout."""

from typing import TYPE_CHECKING

from vfl.terminal.streams import stdout
from vfl.text import counted, in_words

if TYPE_CHECKING:
    from vfl.jobs.person import InRun, PersonFound


def put_person(found: "PersonFound") -> None:
    """Alignments, trainings, batches, and what cannot be known. The id is not shown."""
    looked = (
        f"in {counted(len(found.alignments), 'alignment')} of {found.looked_at:,} that were looked at"
    )
    stdout.put(f"the id is {looked}")
    for one in found.alignments:
        rows = f", in {counted(one.rows, 'row')}" if one.rows > 1 else ""
        known = (
            "" if one.known_to == one.peers else f"; known to {in_words(one.known_to) or 'none of them'}"
        )
        made = f", made {one.made}" if one.made else ""
        stdout.put(f"  {one.alignment}{made}, with {in_words(one.peers)}{rows}{known}")
    for run in found.runs:
        _put_run(run)
    for batch in found.scorings:
        model = f" by model {batch.model}" if batch.model else ""
        many = counted(batch.jobs, "scoring")
        stdout.put(
            f"{many} begun with {in_words(batch.peers)}{model}, {batch.first} to {batch.last}: whether "
            "the id was in them is not kept"
        )
    for file in found.batches:
        stdout.put(f"{file.file}: in {counted(file.rows, 'row')}")
    stdout.put("not known:")
    for text in found.not_known:
        stdout.put(f"  {text}")


def _put_run(run: "InRun") -> None:
    purpose = f", for {run.purpose}" if run.purpose else ""
    when = f", ended {run.ended}" if run.ended else ""
    stdout.put(f"training {run.run}{purpose}, with {in_words(run.peers)}{when}: {run.part} ({run.why})")
    if run.columns:
        stdout.put(f"  columns of this party that entered it: {', '.join(run.columns)}")
        stdout.put(f"  columns of this party that the model uses: {', '.join(run.used) or 'none'}")
