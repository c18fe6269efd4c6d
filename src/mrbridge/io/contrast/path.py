"""Which image a file is, by its BIDS name, else by the words in its name, else by its folders."""

from __future__ import annotations

import re
from pathlib import Path

from mrbridge.io.bids_name import BidsName, parse_name, stem_of
from mrbridge.io.contrast.identity import Identity, something_else
from mrbridge.io.contrast.words import agent_in, normalised, of_text, says_no_agent
from mrbridge.volume import CONTRASTS

# SPM and CAT12 put what an image is before its name: c1, rc2, mwp1 are tissues, y_ a deformation.
_TISSUE = re.compile(r"(?!mp2rage)[ms]*0?r?[mw]*[cp][0-6](?=[A-Za-z]{2}|[tT][12])")
_DEFORMATION = re.compile(r"(?:iy|y|u|j|wj|iu)_")
_NO_AGENT = re.compile(r"none|no|n|0|false|native?|without|nocontrast|pre", re.IGNORECASE)
_SUFFIXES = frozenset(
    """
    UNIT1 T2starw T2star FLASH PDT2 inplaneT1 inplaneT2 angio defacemask T1map T2map T2starmap R1map
    R2map R2starmap PDmap MTRmap MTsat MTVmap MTR MTS MPM MWFmap T1rho S0map M0map Chimap TB1map
    RB1map TB1DAM TB1EPI TB1AFI TB1TFL TB1RFM TB1SRGE RB1COR VFA IRT1 MP2RAGE MESE MEGRE mask dseg
    probseg bold cbv phase sbref dwi ADC FA epi asl m0scan phasediff phase1 phase2 magnitude
    magnitude1 magnitude2 fieldmap pet svs mrsi unloc mrsref swi
    """.split()  # noqa: SIM905
)
"""Suffixes of the standard for other images (bids-specification, `src/schema/objects/suffixes`)."""
_LABELS = ("acq", "rec", "desc", "proc", "label", "run", "mod")


def of_path(path: str | Path) -> Identity:
    """What a path says of a file, from its name, then from the nearest folder that says anything.

    Args:
        path: relative to what the user named, so that folders above say nothing.

    Returns:
        The answer of the BIDS name, where it is one; else of the words in the file's name; else of
        the folders, `TrainT1` or `masks`, the nearest first. A folder of masks further up makes
        masks of all below it.
    """
    path = Path(path)
    stem = stem_of(path)
    name = parse_name(path)
    found = Identity() if name is None else of_bids_name(name)
    if found.is_unknown:
        found = _of_stem(stem if name is None else _without_people(name, stem))
    if not found.is_unknown:
        return found
    for folder in path.parents:
        named = _of_folder(folder.name)
        if named.is_other and len(normalised(folder.name).split()) > 3:
            continue  # "ms_lesion_study_2020" holds more than lesions
        if found.is_unknown and not named.is_unknown:
            found = named
        elif named.kind == "mask":
            return named
    return found


def of_bids_name(name: BidsName) -> Identity:
    """What a BIDS name says: its suffix, the contrast agent, the part of a complex image, and the
    words in its labels.

    Source: BIDS 1.10, magnetic resonance imaging, "Anatomy imaging data".
    """
    agent = name.entities.get("ce")
    if agent is not None and not _NO_AGENT.fullmatch(agent):
        return something_else("agent", "was taken after a contrast agent")
    part = name.entities.get("part", "mag")
    if part != "mag":
        return something_else("phase", f"is the {part} part of a complex image")
    if "inv" in name.entities:
        return something_else("MP2RAGE", "is one inversion of an MP2RAGE")
    if name.entities.get("mt") == "on":
        return something_else("MT", "is weighted by magnetization transfer")
    if name.suffix in _SUFFIXES:
        return something_else("suffix", f"has the BIDS suffix {name.suffix}")
    if name.suffix not in CONTRASTS:
        return Identity(reason=f"has the suffix {name.suffix}, which is not a contrast")
    for entity in _LABELS:
        label = name.entities.get(entity, "")
        if agent is None and (word := agent_in(label)) and not says_no_agent(label):
            return something_else(
                "agent", f"was taken after a contrast agent, by '{word}' in its name"
            )
        named = of_text(label)
        if named.is_other and named.kind != "agent":
            return named
    return Identity(name.suffix, "by its BIDS suffix")


def guess_contrast(path: str | Path) -> str | None:
    """The contrast that a path says; None where it is something else or not known."""
    return of_path(path).contrast


def _of_stem(stem: str) -> Identity:
    if _DEFORMATION.match(stem):
        return something_else(
            "transformation", "is a spatial transformation, by the start of its name"
        )
    if _TISSUE.match(stem):
        return something_else("mask", "is a tissue map of SPM or CAT12, by the start of its name")
    return of_text(stem)


def _of_folder(folder: str) -> Identity:
    """`real` next to `synthetic` holds acquired scans, not the real part of complex images."""
    named = of_text(folder)
    return Identity() if named.is_other and normalised(folder) in ("real", "ph") else named


def _without_people(name: BidsName, stem: str) -> str:
    """A name without the labels of subjects and sessions: `sub-PD01_T1`."""
    return re.sub(r"(?:^|_)(?:sub|ses)-[a-zA-Z0-9+]+", "", stem) if name.entities else stem
