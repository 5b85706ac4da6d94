"""Writes vfl.json, a board for Grafana: python deploy/grafana/make.py

The board is kept as a file, to be imported as it is; this is where it is changed.
"""

import json
from pathlib import Path

BOARD = Path(__file__).with_name("vfl.json")
SOURCE = {"type": "prometheus", "uid": "${source}"}
OF = '{job=~"$job", instance=~"$instance"}'


def per_second(by: str, counter: str) -> str:
    """How fast a counter grows, by labels."""
    return f"sum by ({by}) (rate({counter}{OF}[$__rate_interval]))"


# Title, kind of panel, unit, width of 24, queries by what their lines are called.
Panel = tuple[str, str, str, int, dict[str, str]]
ROWS: dict[str, list[Panel]] = {
    "At a glance": [
        ("Jobs under way", "stat", "short", 4, {"": f"sum(vfl_serve_jobs_running{OF})"}),
        (
            "Jobs that failed, 24 h",
            "stat",
            "short",
            4,
            {
                "": 'sum(increase(vfl_serve_jobs_total{job=~"$job", instance=~"$instance", '
                'outcome!~"done|refused|interrupted"}[24h]))'
            },
        ),
        ("Refused, 24 h", "stat", "short", 4, {"": f"sum(increase(vfl_serve_refused_total{OF}[24h]))"}),
        (
            "Days to the next certificate's end",
            "stat",
            "short",
            6,
            {"": f"min(vfl_serve_certificate_days{OF})"},
        ),
        ("Largest shift (PSI)", "stat", "short", 6, {"": f"max(vfl_serve_drift_psi{OF})"}),
    ],
    "Jobs": [
        (
            "Jobs ended an hour",
            "timeseries",
            "short",
            12,
            {"{{task}} {{outcome}}": f"sum by (task, outcome) (increase(vfl_serve_jobs_total{OF}[1h]))"},
        ),
        (
            "Where the time goes",
            "timeseries",
            "percentunit",
            12,
            {"{{task}} {{phase}}": per_second("task, phase", "vfl_serve_job_seconds_total")},
        ),
        (
            "Rows of jobs an hour",
            "timeseries",
            "short",
            12,
            {"{{task}}": f"sum by (task) (increase(vfl_serve_rows_total{OF}[1h]))"},
        ),
        (
            "Refused, by rule of [policy]",
            "timeseries",
            "short",
            12,
            {"{{rule}}": f"sum by (rule) (increase(vfl_serve_refused_total{OF}[1h]))"},
        ),
    ],
    "Peers": [
        (
            "Bytes a second",
            "timeseries",
            "Bps",
            12,
            {"{{peer}} {{direction}}": per_second("peer, direction", "vfl_serve_bytes_total")},
        ),
        (
            "Bytes by kind of message, 24 h",
            "bargauge",
            "bytes",
            12,
            {"{{message}}": f"topk(10, sum by (message) (increase(vfl_serve_bytes_total{OF}[24h])))"},
        ),
        (
            "Messages a second",
            "timeseries",
            "short",
            12,
            {"{{peer}} {{direction}}": per_second("peer, direction", "vfl_serve_messages_total")},
        ),
        (
            "Days until certificates end",
            "bargauge",
            "short",
            12,
            {"{{party}}": f"min by (party) (vfl_serve_certificate_days{OF})"},
        ),
        (
            "Used up today, of what the policy allows",
            "bargauge",
            "percentunit",
            12,
            {
                "{{peer}} {{rule}}": f"max by (peer, rule) (vfl_serve_budget_used{OF}) / on (rule) "
                f"group_left () max by (rule) (vfl_serve_budget_limit{OF})"
            },
        ),
        (
            "Shift since training (PSI)",
            "timeseries",
            "short",
            12,
            {"{{model}}": f"max by (model) (vfl_serve_drift_psi{OF})"},
        ),
    ],
    "vfl online": [
        (
            "Requests a second",
            "timeseries",
            "reqps",
            8,
            {"{{path}} {{status}}": per_second("path, status", "vfl_online_requests_total")},
        ),
        (
            "Seconds, 99 %",
            "timeseries",
            "s",
            8,
            {
                "{{path}}": "histogram_quantile(0.99, sum by (path, le) "
                f"(rate(vfl_online_seconds_bucket{OF}[$__rate_interval])))"
            },
        ),
        (
            "Hosts that answer",
            "bargauge",
            "short",
            8,
            {"{{model}} {{host}}": f"min by (model, host) (vfl_online_host_here{OF})"},
        ),
    ],
}
LIMITS = {
    "Days to the next certificate's end": [("red", None), ("orange", 14), ("green", 30)],
    "Days until certificates end": [("red", None), ("orange", 14), ("green", 30)],
    "Largest shift (PSI)": [("green", None), ("orange", 0.1), ("red", 0.25)],
    "Jobs that failed, 24 h": [("green", None), ("red", 1)],
    "Hosts that answer": [("red", None), ("green", 1)],
    "Used up today, of what the policy allows": [("green", None), ("orange", 0.8), ("red", 1)],
}
HEIGHT = {"stat": 4, "row": 1}


def panel(number: int, one: Panel, x: int, y: int) -> dict[str, object]:
    """A panel at its place."""
    title, kind, unit, width, queries = one
    steps = [{"color": color, "value": value} for color, value in LIMITS.get(title, [("green", None)])]
    defaults = {"unit": unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    return {
        "id": number,
        "type": kind,
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": width, "h": HEIGHT.get(kind, 8)},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": kind != "timeseries",
            }
            for at, (legend, query) in enumerate(queries.items())
        ],
    }


def variable(name: str, label: str, query: str) -> dict[str, object]:
    """A choice at the top of the board."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "refresh": 2,
    }


def board() -> dict[str, object]:
    """The whole board."""
    panels: list[dict[str, object]] = []
    y = 0
    for heading, row in ROWS.items():
        place = {"x": 0, "y": y, "w": 24, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": heading, "gridPos": place})
        x, y = 0, y + 1
        for one in row:
            if x + one[3] > 24:
                x, y = 0, y + HEIGHT.get(row[0][1], 8)
            panels.append(panel(len(panels) + 1, one, x, y))
            x += one[3]
        y += HEIGHT.get(row[0][1], 8)
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": "vfl",
        "title": "vfl",
        "tags": ["vfl"],
        "schemaVersion": 39,
        "editable": True,
        "time": {"from": "now-24h", "to": "now"},
        "refresh": "1m",
        "templating": {
            "list": [
                source,
                variable("job", "Job", 'label_values({__name__=~"vfl_(serve|online)_info"}, job)'),
                variable(
                    "instance",
                    "Instance",
                    'label_values({__name__=~"vfl_(serve|online)_info", job=~"$job"}, instance)',
                ),
            ]
        },
        "panels": panels,
    }


if __name__ == "__main__":
    BOARD.write_text(json.dumps(board(), indent=1) + "\n")
