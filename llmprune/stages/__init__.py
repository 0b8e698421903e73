"""One public function a command: read artifacts, run algorithms, write artifacts, return a report."""
