"""The verbs train, export and info."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mrbridge.console import answer
from mrbridge.errors import SettingsError, StoreError, must_be_here, must_exist
from mrbridge.models import SHIPPED, locate
from mrbridge.options import (
    Assignments,
    Config,
    Device,
    OverwriteAll,
    OverwriteFiles,
    layered,
    verb,
)
from mrbridge.place_options import place_argument
from mrbridge.quick_imports import quick_imports


@verb()
def train(
    store: Annotated[Path, place_argument("STORE", help="A prepared store, by path or URL.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The run's folder.")],
    preset: Annotated[
        str | None,
        typer.Option(
            help="Networks, losses and weights: bridge, unet, resunet or resnet [default: bridge]."
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Initial weights: shipped, scratch (random), a run or a bundle [default: shipped "
            "if it has the preset's networks and the store's contrasts, otherwise scratch].",
        ),
    ] = None,
    config: Config = None,
    assignments: Assignments = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume a run that was stopped.")
    ] = False,
    device: Device = "auto",
    overwrite: OverwriteAll = False,
    devices: Annotated[
        int,
        typer.Option(
            min=1, help="Number of processes that train together, each on its own device."
        ),
    ] = 1,
) -> None:
    """Train a translation model.

    RUN/bundle can be used from the first validation on.
    """
    from mrbridge.training.folder import check_replaceable, check_unused, is_follower, refuse_url
    from mrbridge.training.settings import preset as find_preset
    from mrbridge.training.settings import resolve

    refuse_url(out)
    must_exist(store, StoreError, "Run mrbridge prepare first.")
    if resume and overwrite:
        raise SettingsError(
            "a run is either resumed or overwritten",
            path=out,
            remedy="Leave out --resume or --overwrite.",
        )
    if resume and start is not None:
        raise SettingsError(
            "a resumed run has weights already", path=out, remedy="Leave out --from or --resume."
        )
    if start not in (None, "auto", "scratch"):
        locate(start, "Say auto, shipped or scratch, or name a run or a bundle.")
    changes = layered(config, assignments, {})
    if preset is not None:
        find_preset(preset)
        changes["preset"] = preset
    if not resume and not is_follower():
        (check_replaceable if overwrite else check_unused)(out)
    with quick_imports():
        from mrbridge.dataset.store import Store

    opened = Store.open(store)
    with quick_imports():
        from mrbridge.hardware import keep_memory
        from mrbridge.training.distributed import launch
        from mrbridge.training.run import check_simulated
        from mrbridge.training.run import train as run

    if changes.get("simulated_weight"):
        prepared = opened.manifest.settings
        check_simulated(prepared.source, prepared.target, opened.path)
    settings = changes if resume else resolve(None, changes)
    options: dict[str, Any] = {"resume": resume, "device": device, "overwrite": overwrite}
    options |= {} if start is None else {"start": start}
    keep_memory()
    if devices > 1:
        result = launch(devices, run, opened.path, out, settings, **options)
    else:
        result = run(opened, out, settings, **options)
    last = result.rows[-1] if result.rows else {}
    summary = f"{out}: {int(last.get('epoch', 0))} epochs; the model is in {out / 'bundle'}"
    fields = {"path": str(out), "bundle": str(out / "bundle"), "last": last}
    answer(fields | {"kept_beginning": result.kept_beginning}, summary)


@verb()
def export(
    model: Annotated[Path, typer.Option("-m", "--model", help="A run, a bundle or shipped.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder of the files.")],
    to: Annotated[Literal["onnx"], typer.Option(help="Format.")] = "onnx",
    overwrite: OverwriteFiles = False,
) -> None:
    """Write both generators for other runtimes."""
    locate(model)
    with quick_imports():
        from mrbridge.inference.export import export as run

    outputs = [str(path) for path in run(model, out, to=to)]
    answer({"outputs": outputs}, f"written: {' and '.join(outputs)}")


@verb()
def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|PRESET", help="A run, a bundle, shipped or a preset.")
    ] = SHIPPED,
) -> None:
    """Show the card of a model, or a preset."""
    from mrbridge.training.settings import PRESETS
    from mrbridge.training.settings import preset as find_preset

    must_be_here(model, "Copy the model to this machine first.")
    if model in PRESETS or not (model == SHIPPED or Path(model).exists()):
        settings = find_preset(model)
        import yaml

        with quick_imports():
            fields = {"preset": model} | settings.networks.describe()
        counts = [f"{name} {fields[name]:,}" for name in ("generator", "critic", "total")]
        numbers = f"parameters: {', '.join(counts)} (two of each)"
        text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
        answer(fields | {"settings": settings.model_dump(mode="json")}, f"{text}# {numbers}")
        return
    with quick_imports():
        from mrbridge.bundle import card, read_manifest

    manifest = read_manifest(model)
    answer(manifest.model_dump(mode="json") | manifest.networks.describe(), card(manifest))
