"""What the pipeline costs, as ratios inside one run: `understudy bench`, described in docs/performance.md."""
