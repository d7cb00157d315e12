"""How many clips a step takes, and how many ranks share the weights."""

from osplan.domain.stage import Stage


def clips_per_pass(stage: Stage) -> int:
    """Clips of one forward pass of the ranks that share them; a rank that shares none takes its own."""
    return stage.batch.per_device * (stage.parallel.sequence_batch if stage.parallel.sequence > 1 else 1)


def global_batch(stage: Stage) -> int:
    """Clips of one optimizer step over all the ranks the stage asks for."""
    parallel = stage.parallel
    return clips_per_pass(stage) * stage.batch.accumulate * (parallel.nodes * parallel.processes // parallel.sequence)


def shards(stage: Stage) -> int:
    """Ranks each weight is spread over: all, those of a machine, or 1 where every rank has all weights."""
    parallel = stage.parallel
    return {"ddp": 1, "hsdp": parallel.processes}.get(parallel.strategy, parallel.nodes * parallel.processes)
