"""How sure a metric is: bootstrap intervals, paired comparisons, DeLong's test."""
