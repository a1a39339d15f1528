"""Tests with a real PostgreSQL server, where one is installed."""
