"""Speed and memory against peers, in one run each; see docs/performance.md."""
