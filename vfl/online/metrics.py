"""What a monitor reads of the service (Prometheus): latencies, counts, hosts; no id and no value."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vfl.online.served import Outcome, ServedModel
from vfl.version import __version__

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_SECONDS, _INFO = "vfl_online_seconds", "vfl_online_info"

FIGURES = {
    "vfl_online_requests_total": ("requests by what was asked and how it ended", ("path", "status")),
    _SECONDS: ("seconds until a request was answered, as a histogram", ("path",)),
    "vfl_online_rows_total": ("rows: `scored`, or `without` a prediction", ("model", "outcome")),
    "vfl_online_unknown_rows_total": ("rows that a host does not know", ("model", "host")),
    "vfl_online_away_rows_total": (
        "rows that were scored without a host that did not answer",
        ("model", "host"),
    ),
    "vfl_online_unknown_level_rows_total": ("rows with a level that was not in training", ("model",)),
    "vfl_online_refused_total": ("requests that were refused for their token", ("reason",)),
    "vfl_online_host_here": ("1 where the host answers, as far as is known", ("model", "host")),
    "vfl_online_directory_age_seconds": (
        "seconds since the host made its directory",
        ("model", "host"),
    ),
    _INFO: ("1", ("version",)),
}
"""By name what a figure is, and its labels."""


def _counter(name: str, registry: CollectorRegistry) -> Counter:
    return Counter(name, *FIGURES[name], registry=registry)


def _family(name: str) -> GaugeMetricFamily:
    text, labels = FIGURES[name]
    return GaugeMetricFamily(name, text, labels=labels)


class Metrics:
    """All figures of one service."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = _counter("vfl_online_requests_total", registry)
        self._seconds = Histogram(_SECONDS, *FIGURES[_SECONDS], buckets=_BUCKETS, registry=registry)
        self._rows = _counter("vfl_online_rows_total", registry)
        self._unknown = _counter("vfl_online_unknown_rows_total", registry)
        self._away = _counter("vfl_online_away_rows_total", registry)
        self._strange = _counter("vfl_online_unknown_level_rows_total", registry)
        self._refused = _counter("vfl_online_refused_total", registry)
        Gauge(_INFO, *FIGURES[_INFO], registry=registry).labels(__version__).set(1)
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
        here = _family("vfl_online_host_here")
        age = _family("vfl_online_directory_age_seconds")
        for name, model in self.models.items():
            for host, served in model.hosts.items():
                here.add_metric([name, host], float(served.lookups.away is None))
                age.add_metric([name, host], served.age)
        yield here
        yield age
