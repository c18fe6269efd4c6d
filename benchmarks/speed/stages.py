"""Where a whole `mrbridge translate` spends its seconds, stage by stage.

    python -m benchmarks.speed.stages [--preset unet] [--model RUN] [--planes axial] [--repeats 5]
        [--out FILE]

Prints one JSON line. The scan and the model are those of `translate_volume.py`. Every command runs
in a fresh process; seconds are medians over the commands:

- `imports`: from the start of the process to the begin of the work (the checksum of the weights is
  measured at the same time);
- `opening` the model and its network; `reading`, `checking` the input, `preprocessing`, `writing`;
- `network`: the slices, padded and computed, several batches at a time;
- `leaving`: from the end of the work to the end of the process;
- `others`: the rest of `whole`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import in_turn, options, read, report, run_command
from benchmarks.speed.translate_volume import head_and_model, model_options, translate_arguments

_PROBE = """
import json, sys, time

out, began, arguments = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
stages = "opening reading checking preprocessing network writing".split()
seconds = dict.fromkeys(stages, 0.0)
ready = began


def measured(owner, name, stage_of):
    call = getattr(owner, name)

    def wrapper(*given, **named):
        start = time.time()
        try:
            return call(*given, **named)
        finally:
            seconds[stage_of(*given, **named)] += time.time() - start

    setattr(owner, name, wrapper)


def begin(*given):
    # The verb asks this once, when all is imported, right before the work.
    global ready
    from mrbridge.inference import output, slices, synthesis, translator

    measured(translator.Translator, "__init__", lambda *_: "opening")
    measured(translator.Translator, "_network", lambda *_: "opening")
    measured(synthesis, "read", lambda *_, **__: "reading")
    measured(synthesis, "check", lambda *_, **__: "checking")
    measured(translator, "preprocess", lambda *_, **__: "preprocessing")
    measured(slices.SliceTranslator, "__call__", lambda *_, **__: "network")
    measured(output, "write", lambda *_, **__: "writing")
    ready = time.time()
    return as_far_as_done(*given)


from mrbridge import cli, verbs

as_far_as_done, verbs.as_far_as_done = verbs.as_far_as_done, begin
try:
    cli.main(arguments)
finally:
    result = {**seconds, "imports": ready - began, "end": time.time()}
    with open(out, "w") as file:
        json.dump(result, file)
"""


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options(__doc__, repeats=5)
    model_options(parser)
    given = read(parser, arguments, repeats=1, warm_up=0)
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), given)
    report("stages", given, figures)


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """All figures; models and scans are kept in `folder`."""
    model, head = head_and_model(folder, given)

    def once() -> dict[str, float]:
        result = folder / "seconds.json"
        command = translate_arguments(model, folder, given)
        began = time.time()
        run_command([sys.executable, "-c", _PROBE, result, str(began), *command])
        ended = time.time()
        seconds: dict[str, float] = json.loads(result.read_text())
        seconds["leaving"] = ended - seconds.pop("end")
        seconds["whole"] = ended - began
        return seconds

    runs = in_turn({"command": once}, given.repeats, given.warm_up)["command"][given.warm_up :]
    medians = {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}
    summed = sum(seconds for stage, seconds in medians.items() if stage != "whole")
    others = medians["whole"] - summed
    return {"shape": list(head.voxels.shape), "seconds": medians | {"others": others}}


if __name__ == "__main__":
    main()
