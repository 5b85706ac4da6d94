"""The page of a host: what it was asked, and which of its columns were used."""

from vfl.report import figures, words
from vfl.report.blocks import Gallery, PageSection, Pair, TableCell
from vfl.report.factor_tables import table_blocks
from vfl.report.sections import MOST_BARS, Page, cells, figure_of
from vfl.text import counted


class HostPage(Page):
    def sections(self) -> list[PageSection]:
        one = self.evidence
        lead = (
            f"This party, {one.party}, was asked by {one.parties[0]} to train {one.job['job']['name']} "
            f"with it, for {one.job['job']['purpose']}. {self.cost}"
        )
        return self.framed(lead, self._columns(), *self._tables())

    def _tables(self) -> list[PageSection]:
        tables = self.evidence.tables
        if not tables:
            return []
        lead = (
            f"What happened and what the model expected on the rows held out, by columns of "
            f"{self.evidence.party}, as {self.evidence.parties[0]} has shared it."
        )
        blocks = table_blocks(self, tables, words.RateWords.of(self.evidence))
        return [PageSection("tables", "By this party's factors", [lead], blocks)]

    def _columns(self) -> PageSection:
        one, title = self.evidence, "Which columns were used"
        if one.kind.has_relativities:
            lead = f"Relativities of the columns of {one.party}; no other party has them."
            return PageSection("columns", title, [lead], self.relativity_blocks())
        if not one.splits:
            return PageSection("columns", title, [f"The model uses no column of {one.party}."], [])
        ordered = sorted(one.splits.items(), key=lambda item: (-item[1], item[0]))
        sheet = self.sheet("splits", ("column", "splits"), ordered)
        total = sum(one.splits.values())
        most, own = ordered[0], counted(total, "split")
        message = f"{most[0]} has {most[1]:,} of this party's {own}, the most."
        svg = figures.bars([(name, count) for name, count in ordered[:MOST_BARS]], "splits", message)
        parts = words.shares([count for _, count in ordered], 1)
        rows: list[list[TableCell]] = [
            [name, f"{count:,}", part] for (name, count), part in zip(ordered, parts, strict=True)
        ]
        table = cells("Splits of all columns", ["column", "splits", "of all"], rows)
        lead = (
            f"The model splits {counted(total, 'time')} on columns of {one.party}. Thresholds and "
            "categories stay with this party."
        )
        pair = Pair([Gallery([figure_of("Splits by column", message, svg, sheet)]), table])
        return PageSection("columns", title, [lead], [pair])
