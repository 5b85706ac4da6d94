"""What a monitor reads of the service (Prometheus): latencies, counts, hosts; no id and no value."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vfl.online.served import Outcome, ServedModel
from vfl.version import __version__

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """All figures of one service."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "vfl_online_requests",
            "Requests by what was asked and how it ended.",
            ("path", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "vfl_online_seconds",
            "Seconds until a request was answered.",
            ("path",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._rows = Counter(
            "vfl_online_rows",
            "Rows by model and outcome: scored, without a prediction.",
            ("model", "outcome"),
            registry=registry,
        )
        self._unknown = Counter(
            "vfl_online_unknown_rows",
            "Rows that a host does not know.",
            ("model", "host"),
            registry=registry,
        )
        self._away = Counter(
            "vfl_online_away_rows",
            "Rows scored without a host that did not answer.",
            ("model", "host"),
            registry=registry,
        )
        self._strange = Counter(
            "vfl_online_unknown_level_rows",
            "Rows with a level that was not in training.",
            ("model",),
            registry=registry,
        )
        self._refused = Counter(
            "vfl_online_refused",
            "Requests that were refused for their token.",
            ("reason",),
            registry=registry,
        )
        Gauge("vfl_online_info", "The version.", ("version",), registry=registry).labels(
            __version__
        ).set(1)
        self._hosts = _Hosts()
        registry.register(self._hosts)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def count_rows(self, model: str, outcome: Outcome) -> None:
        self._rows.labels(model, "scored").inc(outcome.rows - outcome.without)
        if outcome.without:
            self._rows.labels(model, "without").inc(outcome.without)
        if outcome.strange:
            self._strange.labels(model).inc(outcome.strange)
        for host, rows in outcome.unknown.items():
            self._unknown.labels(model, host).inc(rows)
        for host in outcome.away:
            self._away.labels(model, host).inc(outcome.rows)

    def show(self, models: Mapping[str, ServedModel]) -> bytes:
        """All figures, with the hosts' states as they are now."""
        self._hosts.models = models
        return generate_latest(self._registry)


class _Hosts(Collector):
    """The state of each host of each model, at the moment when it is asked for."""

    models: Mapping[str, ServedModel] = {}

    def collect(self) -> Iterable[Metric]:
        here = GaugeMetricFamily(
            "vfl_online_host_here",
            "1 where the host answers, as far as is known.",
            labels=("model", "host"),
        )
        age = GaugeMetricFamily(
            "vfl_online_directory_age_seconds",
            "Seconds since the host made its directory.",
            labels=("model", "host"),
        )
        for name, model in self.models.items():
            for host, served in model.hosts.items():
                here.add_metric([name, host], float(served.lookups.away is None))
                age.add_metric([name, host], served.age)
        yield here
        yield age
