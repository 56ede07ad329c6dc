"""A prepare stage as a process of its own, to be killed: python -m tests.text.run_prepare STORE RAW SETTINGS"""

import json
import sys

from pipeline.text import prepare
from tests.text.stages import stages

if __name__ == "__main__":
    store_url, raw, settings = sys.argv[1:]
    stage = stages(store_url, raw, prepare=json.loads(settings))["prepare"]
    prepare.UNIT_BYTES = 3_000
    stage.stop.listen()
    prepare.run(stage)
