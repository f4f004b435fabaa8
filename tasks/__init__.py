"""One unit of work each: ask a model, judge, rank, count, record."""
