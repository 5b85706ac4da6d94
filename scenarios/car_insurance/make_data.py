"""Make a synthetic motor third-party liability portfolio, held by three companies.

An insurer (the guest) knows its policies and which of them had a claim; a vehicle registry and a
claims bureau (the hosts) know vehicles and drivers. All three know a car by its number plate, and
each writes the plate its own way. No row is taken from a real portfolio: the shapes of the columns
follow published ones, mostly freMTPL2 (Dutang and Charpentier, R package CASdatasets).

Claims follow the usual frequency model: a policy with yearly claim rate r, in force for `exposure`
years, has at least one claim with probability 1 - exp(-exposure * r). The logarithm of r is the sum
of what each company's columns say and of what only two companies' columns say together.

`python scenarios/car_insurance/make_data.py` rewrites `data_samples/`, byte for byte.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DATA_SAMPLES = Path(__file__).resolve().parents[2] / "data_samples"

# French plates since 2009 leave out I, O and U and the pairs SS and WW, and are issued in order
# from AA-001-AA. The series from P on are years away, so that no plate here is on a real car.
PLATE_LETTERS = list("ABCDEFGHJKLMNPQRSTVWXYZ")
UNISSUED_FIRST_LETTERS = list("PQRTVXYZ")

# How many cars that the insurer does not insure exist, as a multiple of those it does, and which
# share each host knows of the insured and of the other cars.
OTHER_CARS = 0.45
REGISTRY_KNOWS = {"insured": 0.92, "other": 0.66}
BUREAU_KNOWS = {"insured": 0.89, "other": 0.60}

# freMTPL2 names an area A..F by its inhabitants per km2; these are the bounds seen in its rows.
AREA_BOUNDS = [50, 100, 500, 2000, 10000]
MAX_DENSITY = 27000  # Paris, and the largest value in freMTPL2

# Regions: their share of the policies, mean log density and effect on the log rate.
REGIONS = pd.DataFrame.from_dict(
    {
        "Alpine": (0.11, 5.3, -0.20),
        "Atlantic": (0.13, 5.6, -0.15),
        "Capital": (0.14, 7.9, 0.25),
        "Central": (0.16, 5.2, -0.25),
        "Eastern": (0.08, 5.7, 0.00),
        "Islands": (0.03, 5.9, 0.45),
        "Mediterranean": (0.13, 6.5, 0.35),
        "Northern": (0.10, 6.4, 0.10),
        "Riverlands": (0.07, 5.1, -0.10),
        "Southwest": (0.05, 5.4, 0.05),
    },
    orient="index",
    columns=["share", "log_density", "effect"],
)

# Brands (invented): their share of the cars, factor on power and price, effect on the log rate.
BRANDS = pd.DataFrame.from_dict(
    {
        "Aldera": (0.23, 0.92, -0.05),
        "Brivon": (0.21, 0.95, -0.20),
        "Cadoro": (0.16, 0.97, 0.10),
        "Delvane": (0.10, 1.05, -0.10),
        "Estrel": (0.08, 0.85, 0.30),
        "Fornix": (0.06, 1.45, 0.40),
        "Gallio": (0.05, 1.35, 0.15),
        "Hedera": (0.04, 0.88, -0.30),
        "Jorvik": (0.03, 1.20, -0.40),
        "Kestra": (0.03, 1.60, 0.50),
        "Lumaro": (0.01, 1.10, 0.00),
    },
    orient="index",
    columns=["share", "power", "effect"],
)

# Fuels: their share of the cars, extra weight in kg and effect on the log rate.
FUELS = pd.DataFrame.from_dict(
    {
        "petrol": (0.50, 0, -0.10),
        "diesel": (0.43, 130, 0.20),
        "hybrid": (0.05, 150, -0.15),
        "electric": (0.02, 300, -0.30),
    },
    orient="index",
    columns=["share", "extra_kg", "effect"],
)

# Occupations: their share of the drivers and effect on the log rate.
OCCUPATIONS = pd.DataFrame.from_dict(
    {
        "employee": (0.36, 0.00),
        "manager": (0.15, -0.20),
        "public service": (0.14, -0.35),
        "retired": (0.12, -0.10),
        "self-employed": (0.09, 0.30),
        "student": (0.05, 0.15),
        "delivery and transport": (0.04, 0.75),
        "not working": (0.05, 0.20),
    },
    orient="index",
    columns=["share", "effect"],
)

# The bonus-malus scale of the French Code des assurances, annex to article A121-1: start at 100,
# 5 % off for a year without a claim, 25 % on for each claim, the fraction cut off, within 50..350;
# never above 100 after two years without a claim; the first claim after three years at 50 is free.
BONUS, MALUS = 0.95, 1.25
BONUS_MALUS_START, BONUS_MALUS_MIN, BONUS_MALUS_MAX = 100, 50, 350

# Sets the share of policies with a claim to about 7.5 %: more than freMTPL2 (3.7 % with an amount
# paid, 5 % in all) and dataCar (6.8 %), so that 8,000 policies hold enough claims to learn from.
BASE_LOG_RATE = -3.50

# Shares of missing values.
MISSING_POLICY = {"region": 0.01, "density": 0.02, "sum_insured": 0.04}
MISSING_VEHICLE = {"power_kw": 0.02, "weight_kg": 0.03, "fuel": 0.01, "last_inspection_defects": 0.06}
MISSING_DRIVER = {"licence_years": 0.05, "claims_past_5y": 0.03, "occupation": 0.08}


def draw_plates(count: int, rng: Generator) -> list[str]:
    """`count` different plates, normalised: `PB123CD`."""
    first, letters = UNISSUED_FIRST_LETTERS, PLATE_LETTERS
    shape = (len(first), len(letters), 999, len(letters), len(letters))
    serials = rng.choice(int(np.prod(shape)), size=count, replace=False)
    return [
        f"{first[a]}{letters[b]}{number + 1:03d}{letters[c]}{letters[d]}"
        for a, b, number, c, d in zip(*np.unravel_index(serials, shape), strict=True)
    ]


def draw_category(table: pd.DataFrame, count: int, rng: Generator) -> pd.Series:
    """`count` names from the index of `table`, drawn by its column `share`."""
    shares = table["share"] / table["share"].sum()
    return pd.Series(rng.choice(table.index.to_list(), size=count, p=shares))


def whole(values: Floats) -> Ints:
    return np.floor(values).astype(np.int64)


def draw_drivers(count: int, rng: Generator) -> pd.DataFrame:
    """What the claims bureau knows of `count` drivers."""
    # Age in freMTPL2: quartiles 34, 44 and 55, 5 % under 25, 1 % above 80.
    age = whole(18 + 82 * rng.beta(2.2, 4.4, count))
    licence_years = whole(np.maximum(age - 18 - rng.exponential(2.5, count), 0))
    bonus_malus, claims_past_5y = draw_claim_history(licence_years, rng)
    occupation = draw_category(OCCUPATIONS, count, rng)
    occupation = occupation.mask(age >= 64, "retired")
    occupation = occupation.mask((age < 55) & (occupation == "retired"), "employee")
    occupation = occupation.mask((age < 24) & (rng.random(count) < 0.45), "student")
    return pd.DataFrame(
        {
            "driver_age": age,
            "bonus_malus": bonus_malus,
            "licence_years": licence_years,
            "claims_past_5y": claims_past_5y,
            "occupation": occupation,
        }
    )


def draw_claim_history(licence_years: Ints, rng: Generator) -> tuple[Ints, Ints]:
    """Bonus-malus and the claims of the last five years, after years on the French scale.

    A driver's own claim rate is gamma distributed, and higher in the first years at the wheel.
    """
    count = len(licence_years)
    own_rate = rng.gamma(1.2, 0.050 / 1.2, count)
    coefficient = np.full(count, BONUS_MALUS_START)
    clean_years = np.zeros(count, dtype=np.int64)
    years_at_minimum = np.zeros(count, dtype=np.int64)
    claims_past_5y = np.zeros(count, dtype=np.int64)
    for years_ago in range(licence_years.max(), 0, -1):
        at_wheel = licence_years >= years_ago
        novice = 1 + 1.5 * np.exp(-(licence_years - years_ago) / 3)
        claims = rng.poisson(np.where(at_wheel, own_rate * novice, 0))
        clean_years = np.where(claims == 0, clean_years + at_wheel, 0)
        penalised = np.maximum(claims - (years_at_minimum >= 3), 0)
        moved = np.where(claims == 0, coefficient * BONUS, coefficient * MALUS**penalised)
        # The small number keeps 60 * 0.95 at 57 when it is rounded to just below.
        moved = np.clip(whole(moved + 1e-9), BONUS_MALUS_MIN, BONUS_MALUS_MAX)
        moved = np.where(clean_years >= 2, np.minimum(moved, BONUS_MALUS_START), moved)
        coefficient = np.where(at_wheel, moved, coefficient)
        at_minimum = at_wheel & (coefficient == BONUS_MALUS_MIN)
        years_at_minimum = np.where(at_minimum & (claims == 0), years_at_minimum + 1, 0)
        if years_ago <= 5:
            claims_past_5y += claims
    return coefficient, claims_past_5y


def draw_vehicles(driver_age: Ints, rng: Generator) -> pd.DataFrame:
    """What the vehicle registry knows of the cars of drivers of these ages."""
    count = len(driver_age)
    # Age in freMTPL2: quartiles 2, 6 and 11, 1 % above 21. The young drive older and smaller cars.
    young = driver_age < 26
    age = np.clip(whole(rng.gamma(1.5, 4.7, count) + 2.0 * young), 0, 40)
    brand = draw_category(BRANDS, count, rng)
    fuel = draw_category(FUELS, count, rng)
    fuel = fuel.mask((age > 10) & fuel.isin(["hybrid", "electric"]), "petrol")
    size = brand.map(BRANDS["power"]) * np.where(young, 0.9, 1.0) * rng.lognormal(0, 0.24, count)
    power = (82 * size).round().clip(33, 350)
    weight = 640 + 6.5 * power + fuel.map(FUELS["extra_kg"]) + rng.normal(0, 90, count)
    # French cars are inspected first at four years; the wear of a car differs from its neighbour's.
    wear = np.maximum(age - 3, 0) * rng.gamma(1.2, 0.16 / 1.2, count)
    return pd.DataFrame(
        {
            "vehicle_age": age,
            "power_kw": power.astype(np.int64),
            "weight_kg": (weight.clip(700, 2800) / 5).round().astype(np.int64) * 5,
            "fuel": fuel,
            "brand": brand,
            "last_inspection_defects": np.minimum(rng.poisson(wear), 12),
        }
    )


def draw_policies(vehicles: pd.DataFrame, new: NDArray[np.bool_], rng: Generator) -> pd.DataFrame:
    """What the insurer knows of the policies on `vehicles`, save the label."""
    count = len(vehicles)
    # freMTPL2 has a quarter of its policies at one year and the rest spread over it; a larger
    # share here, because a policy in force for days teaches little.
    part = np.clip(np.round(rng.beta(1.3, 0.9, count), 2), 0.01, 1)
    exposure = np.where(rng.random(count) < 0.40, 1.0, part)
    region = draw_category(REGIONS, count, rng)
    # log density in freMTPL2: mean 6.0, standard deviation 1.9
    log_density = region.map(REGIONS["log_density"]) + rng.normal(0, 1.65, count)
    density = np.clip(np.round(np.exp(log_density)), 1, MAX_DENSITY).astype(np.int64)
    policy_age = np.where(new, 0, np.minimum(rng.geometric(0.22, count) - 1, 30))
    price = (4000 + 230 * vehicles["power_kw"]) * vehicles["brand"].map(BRANDS["power"]) ** 0.5
    value = price * 0.88 ** vehicles["vehicle_age"] * rng.lognormal(0, 0.25, count)
    return pd.DataFrame(
        {
            "exposure": exposure,
            "area": np.array(list("ABCDEF"))[np.searchsorted(AREA_BOUNDS, density, side="right")],
            "region": region,
            "density": density,
            "policy_age": policy_age,
            "sum_insured": (value.clip(lower=500) / 100).round().astype(np.int64) * 100,
        }
    )


def policy_effect(policies: pd.DataFrame) -> pd.Series:
    """What the insurer's own columns add to the log rate: dense areas, regions, new customers."""
    return (
        0.10 * (np.log(policies["density"]) - 6.0)
        + policies["region"].map(REGIONS["effect"])
        + 0.40 * np.exp(-policies["policy_age"] / 2)
    )


def vehicle_effect(vehicles: pd.DataFrame) -> pd.Series:
    """What the registry's columns add: wear, power to weight, nine-year-olds, brand, fuel."""
    kw_per_tonne = 1000 * vehicles["power_kw"] / vehicles["weight_kg"]
    return (
        0.35 * np.minimum(vehicles["last_inspection_defects"], 4)
        + 0.012 * (kw_per_tonne - 65)
        + 0.35 * np.exp(-(((vehicles["vehicle_age"] - 9) / 4) ** 2))
        + vehicles["brand"].map(BRANDS["effect"])
        + vehicles["fuel"].map(FUELS["effect"])
    )


def driver_effect(drivers: pd.DataFrame) -> pd.Series:
    """What the bureau's columns add: the claims record, and an age effect shaped like a U."""
    age = drivers["driver_age"]
    return (
        0.015 * (drivers["bonus_malus"] - 50)
        + 0.35 * np.minimum(drivers["claims_past_5y"], 3)
        + 0.50 * np.exp(-(age - 18) / 5)
        + 0.030 * np.maximum(age - 68, 0)
        + 0.20 * np.exp(-drivers["licence_years"] / 3)
        + drivers["occupation"].map(OCCUPATIONS["effect"])
    )


def joint_effect(policies: pd.DataFrame, vehicles: pd.DataFrame, drivers: pd.DataFrame) -> pd.Series:
    """What no company sees alone: the young in strong cars, bad records in towns, worn city cars."""
    youth = 1 / (1 + np.exp((drivers["driver_age"] - 27) / 2))
    town = policies["density"] >= 2000
    return (
        0.7 * youth * (vehicles["power_kw"] - 70) / 40
        + 0.35 * town * (drivers["claims_past_5y"] > 0)
        + 0.15 * town * np.minimum(vehicles["last_inspection_defects"], 4)
    )


def draw_claims(
    policies: pd.DataFrame, vehicles: pd.DataFrame, drivers: pd.DataFrame, rng: Generator
) -> pd.Series:
    """1 where a policy had at least one claim while it was in force."""
    log_rate = (
        BASE_LOG_RATE
        + policy_effect(policies)
        + vehicle_effect(vehicles)
        + driver_effect(drivers)
        + joint_effect(policies, vehicles, drivers)
    )
    # A yearly rate of 2 is beyond the worst classes of a tariff.
    probability = 1 - np.exp(-policies["exposure"] * np.minimum(np.exp(log_rate), 2.0))
    return (probability > rng.random(len(policies))).astype(np.int64)


def insurer_plate(plate: str) -> str:
    return f"{plate[:2]}-{plate[2:5]}-{plate[5:]}"


def registry_plate(plate: str) -> str:
    return f"{plate[:2]} {plate[2:5]} {plate[5:]}".lower()


def with_gaps(table: pd.DataFrame, missing: dict[str, float], rng: Generator) -> pd.DataFrame:
    """`table` with the given share of each column lost at random; counts stay whole numbers."""
    table = table.copy()
    for name, share in missing.items():
        if pd.api.types.is_integer_dtype(table[name]):
            table[name] = table[name].astype("Int64")
        table[name] = table[name].mask(rng.random(len(table)) < share)
    return table


def known(insured: NDArray[np.bool_], shares: dict[str, float], rng: Generator) -> Ints:
    """The cars that a host knows, in the host's own order."""
    chance = np.where(insured, shares["insured"], shares["other"])
    return rng.permutation(np.flatnonzero(rng.random(len(insured)) < chance))


def make_portfolio(policies: int, new: int, seed: int) -> dict[str, pd.DataFrame]:
    """The tables of the three companies, by file name; each draws from a stream of its own."""
    ids, bureau, registry, insurer, claims = np.random.default_rng(seed).spawn(5)
    insured = policies + new
    cars = insured + round(OTHER_CARS * insured)
    is_insured = np.arange(cars) < insured

    plates = pd.Series(draw_plates(cars, ids))
    drivers = draw_drivers(cars, bureau)
    vehicles = draw_vehicles(drivers["driver_age"].to_numpy(), registry)
    contracts = draw_policies(vehicles[:insured], np.arange(insured) >= policies, insurer)
    label = draw_claims(contracts, vehicles[:insured], drivers[:insured], claims)

    contracts = with_gaps(contracts, MISSING_POLICY, insurer)
    contracts.insert(0, "plate", plates[:insured].map(insurer_plate))
    vehicles = with_gaps(vehicles, MISSING_VEHICLE, registry)
    vehicles.insert(0, "registration", plates.map(registry_plate))
    drivers = with_gaps(drivers, MISSING_DRIVER, bureau)
    drivers.insert(0, "plate_no", plates)

    return {
        "insurer/policies.csv": contracts.assign(claim=label)[:policies],
        "insurer/new_policies.csv": contracts[policies:],
        "registry/vehicles.csv": vehicles.iloc[known(is_insured, REGISTRY_KNOWS, registry)],
        "bureau/drivers.csv": drivers.iloc[known(is_insured, BUREAU_KNOWS, bureau)],
    }


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=DATA_SAMPLES,
    metavar="DIR",
    help="where to write  [default: data_samples/ of this repository]",
)
@click.option(
    "--policies",
    type=click.IntRange(min=1),
    default=8000,
    show_default=True,
    help="policies with a label",
)
@click.option(
    "--new", type=click.IntRange(min=1), default=1000, show_default=True, help="policies without one"
)
@click.option("--seed", type=click.IntRange(min=0), default=2027, show_default=True)
def main(out: Path, policies: int, new: int, seed: int) -> None:
    for name, table in make_portfolio(policies, new, seed).items():
        file = out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(file, index=False, lineterminator="\n", encoding="utf-8")
        click.echo(f"{file}: {len(table)} rows")


if __name__ == "__main__":
    main()
