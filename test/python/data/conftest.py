"""Small real clips and complete stages for the data tests."""

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osplan.data.synthetic import write_data_set
from osplan.domain.stage import Stage, decode_stage

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def defaults() -> dict[str, Any]:
    """The default stage, as TypeScript writes it to stage.json."""
    script = "import { defaultStage } from './src/domain/stage/fields.ts'; console.log(JSON.stringify(defaultStage('tiny')))"
    command = ["node", "--import", "tsx", "--input-type=module", "-e", script]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.fixture
def stage_with(defaults: dict[str, Any]) -> Callable[..., Stage]:
    """A stage of 17 frames of 64 × 64 at 16 frames a second; keyword arguments change whole sections, `data={"flip": 0.5}`."""

    def build(**sections: Any) -> Stage:
        stage = copy.deepcopy(defaults)
        stage["shape"] |= {"frames": 17, "height": 64, "width": 64}
        stage["data"] |= {"fps": 16, "workers": 0}
        for name, change in sections.items():
            stage[name] = stage[name] | change if isinstance(change, dict) else change
        return decode_stage(stage)

    return build


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nine short clips and their list file."""
    folder = tmp_path_factory.mktemp("clips")
    write_data_set(folder, 9, 3)
    return folder


@pytest.fixture
def annotated(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as an annotation."""

    def write(rows: Any, name: str = "annotation.json") -> Path:
        path = tmp_path / name
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
        return path

    return write
