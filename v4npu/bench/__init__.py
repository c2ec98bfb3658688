"""`v4npu bench`: what operators, a layer and a whole model take here, files of that, and two such files side by side.

A file holds one JSON object a line. Its first has "kind": "environment" (`record.environment`); the others are
measurements made there, with "kind" "ops", "block" or "model" and a "status": a row has a time only if that is "ok",
which it is only if the same run has found the timed call right. `seconds` is the median of `repeats` calls, beside
`best`, `p5` and `p95`; `limit` the share of the roofline: the time that `bytes`, each row that is needed read once, or
`flops` would take at the peaks of the environment, over `seconds`. Files may be appended to one another.
"""
