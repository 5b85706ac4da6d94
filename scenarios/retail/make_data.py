"""Make tables of households and weeks, held by a brand, an e-shop, a retailer and a social platform.

The brand (the guest) knows which household bought its goods in the week after a week, and of households
no more than its coupons. The e-shop sells the brand's goods, the retailer everything, and the social
platform knows who lives in a third of the households. All know a household by the number of its loyalty
card, which each writes in its own way; a row is a household in a week. No row is of a real household:
weeks are played one after the other by a few rules, and columns are sums over the weeks before, as in
the data that retailers publish for study.

`python scenarios/retail/make_data.py --out DIR` writes them, byte for byte the same each time.
"""

from pathlib import Path

import click
import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FIRST = 9  # week of the first row: columns need the eight weeks before
BEFORE = 20  # weeks that are played before the first one, so that habits have settled

AGES = ["19-24", "25-34", "35-44", "45-54", "55-64", "65+"]
INCOMES = ["under 25K", "25-49K", "50-74K", "75-99K", "100K and more"]
AISLES = {"grocery": 0.50, "drug_gm": 0.13, "produce": 0.08, "meat": 0.08, "deli": 0.04, "pastry": 0.02}
"""What households spend on, and the share of their baskets."""


def draw_people(households: int, rng: Generator) -> pd.DataFrame:
    """Who lives in each household: what the social platform knows."""
    age = rng.choice(6, households, p=[0.06, 0.18, 0.24, 0.26, 0.12, 0.14])
    couple = rng.random(households) < np.array([0.35, 0.6, 0.7, 0.7, 0.65, 0.5])[age]
    fertile = np.array([0.25, 0.5, 0.55, 0.35, 0.1, 0.03])[age] * np.where(couple, 1.0, 0.35)
    kids = np.where(rng.random(households) < fertile, 1 + rng.binomial(2, 0.4, households), 0)
    income = np.clip(rng.normal(1.6 + 0.25 * np.minimum(age, 3) + 0.5 * couple, 1.1, households), 0, 4)
    owner = rng.random(households) < np.clip(0.2 + 0.12 * age + 0.08 * income, 0, 0.95)
    adults = 1 + couple
    size = adults + kids
    composed = np.where(
        kids > 0,
        np.where(couple, "2 Adults Kids", "1 Adult Kids"),
        np.where(couple, "2 Adults No Kids", "1 Adult No Kids"),
    )
    return pd.DataFrame(
        {
            "age": np.array(AGES)[age],
            "income": np.array(INCOMES)[np.round(income).astype(int)],
            "home_ownership": np.where(owner, "Homeowner", "Renter"),
            "marital_status": np.where(couple, "Married", "Unmarried"),
            "household_size": np.where(size >= 5, "5+", size.astype(str)),
            "household_comp": composed,
            "kids_count": np.where(kids >= 3, "3+", kids.astype(str)),
        }
    )


class Play:
    """Weeks of all households, each of shape (households,), from the first that is played."""

    def __init__(self, people: pd.DataFrame, rng: Generator) -> None:
        households = len(people)
        self._rng = rng
        kids = people["kids_count"].str[0].astype(int).to_numpy()
        age = people["age"].map({name: place for place, name in enumerate(AGES)}).to_numpy()
        income = people["income"].map({name: place for place, name in enumerate(INCOMES)}).to_numpy()
        adults = np.where(people["marital_status"] == "Married", 2, 1)
        # Trips a week, money a trip, liking of the brand: the household's own, and by who lives there.
        self._trips = rng.gamma(2.2, 0.5, households) * (0.7 + 0.15 * kids + 0.2 * (age >= 4))
        self._basket = np.exp(rng.normal(2.9, 0.5, households) + 0.12 * income + 0.1 * (adults + kids))
        self._taste = rng.normal(0, 0.8, households) + 0.7 * kids - 0.4 * np.abs(age - 2) + 0.2 * income
        self._thrift = rng.beta(1.3, 2.5, households) + 0.06 * (income < 2)
        self._habit = np.zeros(households)
        self.bought: list[NDArray[np.bool_]] = []
        self.own: list[Floats] = []  # spent on the brand
        self.coupon: list[Floats] = []  # of it by coupons
        self.spent: list[Floats] = []
        self.trips: list[Floats] = []
        self.discount: list[Floats] = []
        self.aisles: dict[str, list[Floats]] = {name: [] for name in AISLES}
        self.redeemed: list[Floats] = []
        self.campaigns: list[Floats] = []

    def week(self) -> None:
        """Play one week more."""
        rng, households = self._rng, len(self._taste)
        number = len(self.bought)
        season = 0.3 * np.sin(2 * np.pi * number / 26) + 0.012 * max(0, number - BEFORE)
        campaign = rng.binomial(2, np.where(number % 6 < 3, 0.35, 0.08), households).astype(float)
        trips = rng.poisson(self._trips * (1 + 0.25 * season)).astype(float)
        spent = trips * self._basket * np.exp(rng.normal(0, 0.35, households))
        prone = campaign * (0.3 + 1.2 * self._thrift)
        chance = -2.7 + self._taste + 1.5 * self._habit + 0.6 * np.log1p(trips) + 0.8 * prone + season
        chance += 0.25 * (trips > 0) - 1.5 * (trips == 0)
        bought = rng.random(households) < 1 / (1 + np.exp(-chance))
        own = np.where(bought, np.round(np.exp(rng.normal(1.5, 0.6, households)), 2), 0.0)
        redeems = bought & (campaign > 0) & (rng.random(households) < 0.15 + 0.6 * self._thrift)
        self._habit = 0.72 * self._habit + 0.28 * bought
        spent = np.where(bought & (trips == 0), self._basket, spent) + own
        self.bought.append(bought)
        self.own.append(own)
        self.coupon.append(np.where(redeems, np.round(0.4 * own, 2), 0.0))
        self.spent.append(np.round(spent, 2))
        self.trips.append(np.where(bought, np.maximum(trips, 1), trips))
        self.discount.append(np.round(spent * np.clip(self._thrift * 0.4, 0, 0.6), 2))
        self.redeemed.append(redeems.astype(float))
        self.campaigns.append(campaign)
        for name, share in AISLES.items():
            part = share * np.exp(
                rng.normal(0, 0.4, households) + 0.3 * (name == "pastry") * self._taste
            )
            self.aisles[name].append(np.round(spent * part, 2))


def _sum(weeks: list[Floats], number: int, last: int) -> Floats:
    """Of the last weeks up to this one."""
    return np.round(np.sum(weeks[number - last + 1 : number + 1], axis=0), 2)


def card(numbers: NDArray[np.int64], between: str) -> list[str]:
    """Numbers of loyalty cards, as a party writes them: in two groups of digits."""
    return [f"{number // 10_000:04d}{between}{number % 10_000:04d}" for number in numbers.tolist()]


def make_tables(households: int, weeks: int, seed: int) -> dict[str, pd.DataFrame]:
    """The tables of all parties, by file name; after the last of `weeks` comes one without a label."""
    people_rng, play_rng, ids_rng, known_rng = np.random.default_rng(seed).spawn(4)
    people = draw_people(households, people_rng)
    play = Play(people, play_rng)
    for _ in range(BEFORE + weeks + 2):
        play.week()
    numbers = ids_rng.choice(90_000_000, households, replace=False) + 10_000_000
    known = known_rng.permutation(households)[: households // 3]
    tables: dict[str, list[pd.DataFrame]] = {"brand": [], "eshop": [], "retailer": [], "social": []}
    for place in range(weeks + 1):
        at, week = BEFORE + place, FIRST + place
        of_brand = {
            "buys": play.bought[at + 1].astype(int),
            "campaigns_running": play.campaigns[at + 1].astype(int),
            "redeemed_12w": _sum(play.redeemed, at, 12).astype(int),
        }
        of_eshop = {f"own_{n}w": _sum(play.own, at, n) for n in (1, 4, 8)}
        of_eshop["coupon_8w"] = _sum(play.coupon, at, 8)
        of_retailer = {
            "spent_1w": _sum(play.spent, at, 1),
            "spent_8w": _sum(play.spent, at, 8),
            "baskets_4w": _sum(play.trips, at, 4).astype(int),
            "discount_8w": _sum(play.discount, at, 8),
            **{f"{name}_8w": _sum(play.aisles[name], at, 8) for name in AISLES},
        }
        for party, columns, between in (
            ("brand", of_brand, " "),
            ("eshop", of_eshop, "-"),
            ("retailer", of_retailer, "/"),
        ):
            own = pd.DataFrame({"household": card(numbers, between), "week": week, **columns})
            tables[party].append(own)
        own = people.iloc[known].reset_index(drop=True)
        own.insert(0, "week", week)
        own.insert(0, "household", card(numbers[known], ""))
        tables["social"].append(own)
    made = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    last = made["brand"]["week"] == FIRST + weeks
    mixed = {
        name: made[name].sample(frac=1, random_state=seed) for name in ("eshop", "retailer", "social")
    }
    return {
        "brand/weeks.csv": made["brand"][~last],
        "brand/next_week.csv": made["brand"][last].drop(columns="buys"),
        "eshop/orders.csv": mixed["eshop"],
        "retailer/baskets.csv": mixed["retailer"],
        "social/people.csv": mixed["social"],
    }


def write_tables(out: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Write tables as files of a folder."""
    for name, table in tables.items():
        file = out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(file, index=False, lineterminator="\n", encoding="utf-8")


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="where to write"
)
@click.option("--households", type=click.IntRange(min=10), default=360, show_default=True)
@click.option("--weeks", type=click.IntRange(min=2), default=18, show_default=True, help="with a label")
@click.option("--seed", type=click.IntRange(min=0), default=2027, show_default=True)
def main(out: Path, households: int, weeks: int, seed: int) -> None:
    tables = make_tables(households, weeks, seed)
    write_tables(out, tables)
    for name, table in tables.items():
        click.echo(f"{out / name}: {len(table):,} rows")


if __name__ == "__main__":
    main()
