"""Tests with a real Prometheus server, where one is installed."""
