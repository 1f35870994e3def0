"""Count what a service does, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one service, in a registry of its own: routes, runs and tasks, and nothing of a request."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "hft_requests", "Requests that were answered.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "hft_request_seconds", "Time to the end of an answer.", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.open = Gauge("hft_open_requests", "Requests that are being answered.", registry=self.registry)
        self.waiting = Gauge("hft_waiting_rows", "Rows that wait for the model.", registry=self.registry)
        self.batch_rows = Histogram("hft_batch_rows", "Rows of a batch.", buckets=ROWS, registry=self.registry)
        self.batch_requests = Histogram(
            "hft_batch_requests", "Requests of a batch.", buckets=ROWS, registry=self.registry
        )
        self.rows = Counter("hft_rows", "Rows that were answered.", ["run", "task"], registry=self.registry)

    def observe_batch(self, requests: int, rows: int) -> None:
        """Count a batch."""
        self.batch_requests.observe(requests)
        self.batch_rows.observe(rows)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
