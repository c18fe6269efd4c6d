"""Model cards: for bundles, and in the layout of Hugging Face."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from mrbridge.extensions import code_in
from mrbridge.reports import render

if TYPE_CHECKING:
    from mrbridge.manifest import BundleManifest


def card(manifest: BundleManifest, *, allow_code: bool = False) -> str:
    """The model card, in Markdown.

    Args:
        allow_code: whether code that it names may be imported, to count its parameters.
    """
    is_known = allow_code or not code_in(manifest.networks)
    parameters = manifest.networks.describe() if is_known else None
    return render("card.md.j2", model=manifest, parameters=parameters)


def huggingface_card(manifest: BundleManifest, library: str = "mrbridge") -> str:
    """The model card with the front matter of Hugging Face's model cards.

    Source: https://huggingface.co/docs/hub/model-cards
    """
    source, target = manifest.source, manifest.target
    metrics = [
        {"type": name, "value": round(value, 6)} for name, value in sorted(manifest.scores.items())
    ]
    front = {
        "library_name": library,
        "pipeline_tag": "image-to-image",
        "tags": ["medical", "mri", "brain", "image-synthesis", source, target, "mrbridge"],
        "model-index": [
            {
                "name": f"{source}-{target}-{manifest.weights_sha256[:12]}",
                "results": [
                    {
                        "task": {
                            "type": "image-to-image",
                            "name": f"{source} to {target} and back",
                        },
                        "dataset": {"type": "validation", "name": "validation slices"},
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }
    if not metrics:
        del front["model-index"]
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n\n{card(manifest, allow_code=True)}"
