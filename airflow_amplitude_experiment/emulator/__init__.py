"""A local server that speaks Amplitude's Experiment Management API."""
