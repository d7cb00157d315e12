"""The number of ranks may differ from what the stage says, and between attempts: the clips of a step do not."""

import copy
from collections.abc import Mapping
from typing import Any

from osplan.domain.errors import UserError
from osplan.domain.global_batch import clips_per_pass, global_batch
from osplan.domain.stage import decode_stage
from osplan.parallel.world import World


def as_trained_by(stage_json: Mapping[str, Any], world: World) -> dict[str, Any]:
    """The stage with the ranks that are there, and the accumulation that keeps its global batch on them.

    Raises UserError GLOBAL_BATCH where no whole number of passes does.
    """
    stage = decode_stage(stage_json)
    clips, each = global_batch(stage), clips_per_pass(stage)
    if clips % (each * world.replicas):
        fitting = [str(ranks) for ranks in range(1, clips // each + 1) if (clips // each) % ranks == 0]
        raise UserError(
            "GLOBAL_BATCH",
            f"parallel: expected ranks that share a global batch of {clips} clips in passes of {each}, got {world.replicas} of them",
            f"start {', '.join(fitting)} times {stage.parallel.sequence} ranks" if stage.parallel.sequence > 1
            else f"start {', '.join(fitting)} ranks",
        )  # fmt: skip
    kept = copy.deepcopy(dict(stage_json))
    kept["batch"] = {**kept["batch"], "perDevice": each, "accumulate": clips // (each * world.replicas)}
    kept["parallel"] = {**kept["parallel"], "nodes": 1, "processes": world.size, "sequenceBatch": 1}
    return kept
