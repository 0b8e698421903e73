"""The report page of a run: what its artifacts say, as charts, tables and one HTML page. No files, no models."""
