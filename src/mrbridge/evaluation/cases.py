"""The cases to score: real scans, synthetic images and masks, matched by their names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mrbridge.errors import InputError, warn
from mrbridge.evaluation.partners import files_below, partner, words_of
from mrbridge.io.atomic import stem_of
from mrbridge.io.bids import find_scans, told_apart
from mrbridge.io.bids_name import parse_name
from mrbridge.io.contrast import guess_contrast, of_path
from mrbridge.io.formats import is_2d
from mrbridge.io.names import guess_subject, series_name, slice_number
from mrbridge.io.remote import not_fetched
from mrbridge.io.scans import Scan
from mrbridge.volume import CONTRASTS

_SYNTHETIC = "desc-synth"
_ITSELF = "is the real scan itself"
_NO_MATCH = "matches no real scan, or more than one"
_BY_NAME = (
    "2D images were paired by their names, assuming that images with the same name show the same "
    "slice of the same subject."
)


@dataclass(frozen=True)
class Direction:
    """Source and target contrast; the source is None if only the synthetic image is known."""

    source: str | None
    target: str

    @property
    def key(self) -> str:
        """In file names and JSON: `T1w_to_T2w`."""
        return f"to_{self.target}" if self.source is None else f"{self.source}_to_{self.target}"

    @property
    def label(self) -> str:
        """In titles: `T1w → T2w`."""
        return f"{self.source} → {self.target}" if self.source else f"synthetic {self.target}"


@dataclass(frozen=True)
class Case:
    """One subject in one session, or one 2D image.

    Attributes:
        name: in figures and tables: the subject's identifier, with the session.
        subject: cases of one subject are never used for each other's baseline.
        images: real scans by contrast.
        synthetic: a synthetic image of the only real scan; None if a model makes it.
        source: the scan that the synthetic image was made from, if that is known.
        mask, lesions, uncertainty: files of its masks and of the synthetic image's uncertainty map.
    """

    name: str
    subject: str
    images: dict[str, Path]
    synthetic: Path | None = None
    mask: Path | None = None
    source: Path | None = None
    lesions: Path | None = None
    uncertainty: Path | None = None

    @property
    def scored(self) -> list[Path]:
        """The files of the real scans, then that of the synthetic image, if there is one."""
        return [*self.images.values(), *([self.synthetic] if self.synthetic else [])]

    @property
    def source_contrast(self) -> str | None:
        """Of a known source: its contrast, or `source` if its name does not say it."""
        return None if self.source is None else guess_contrast(self.source) or "source"


@dataclass(frozen=True)
class MatchedCases:
    """Cases to score, cases of one contrast, files left out (with the reason), and assumptions."""

    cases: list[Case]
    singles: list[Case] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def find_pairs(
    pairs: str | Path | Sequence[str | Path], source: str, target: str, *, force: bool = False
) -> MatchedCases:
    """The pairs of a dataset: scans of both contrasts of one subject and session.

    2D images of one subject, or without a subject, are paired by the rest of their names. Brain
    masks of BIDS derivatives (`derivatives/*/sub-*/…_desc-brain_mask.nii.gz`) are included.

    Args:
        pairs: any source of `find_scans`.

    Raises:
        InputError: there is no usable scan.
    """
    root = Path(pairs) if isinstance(pairs, str | Path) else None
    found = find_scans(pairs, (source, target), force=force)
    left_out = [(path.name, reason) for path, reason in found.ignored]
    if not found.scans:
        raise InputError(
            f"holds no {source} and no {target} scan",
            path=root,
            remedy="Name a BIDS dataset, a folder or a table with scans of these contrasts.",
        )
    series = next((scan for scan in found.scans if scan.series is not None), None)
    if series is not None:
        raise InputError(
            "is DICOM, and evaluate compares files",
            path=series.path,
            remedy="Convert both contrasts to NIfTI first.",
        )
    masks = {} if root is None else _brain_masks(root)
    cases: list[Case] = []
    singles: list[Case] = []
    by_name, by_table = False, root is not None and root.is_file()
    for group in _groups(found.scans).values():
        pairs_of_group = list(_in_pairs(group, source, target, by_table=by_table))
        paired = {scan.path for scans in pairs_of_group for scan in scans}
        left_out += [
            (scan.path.name, "another scan of its subject and contrast makes the pair")
            for scan in group
            if scan.path not in paired
        ]
        for scans in pairs_of_group:
            images = {scan.contrast: scan.path for scan in scans}
            case = _case_of(scans[0], images, masks)
            (cases if len(images) == 2 else singles).append(case)
            by_name |= len(images) == 2 and scans[0].subject is None
    remarks = [_BY_NAME] if by_name else []
    return MatchedCases(_uniquely_named(cases), _uniquely_named(singles), left_out, remarks)


def find_synthetic(real: str | Path, synthetic: str | Path, *, force: bool = False) -> MatchedCases:
    """Real scans and their synthetic images, matched by path, file name or BIDS entities without
    `desc`.

    Args:
        real: a file, or a folder of files.
        synthetic: a file or folder; each file needs its real scan, but not the other way round. Of
            the same folder, the files with `desc-synth` in their names are the synthetic ones.
        force: also use files whose names say that they are something else, such as masks.

    Raises:
        InputError: a path does not exist, is something else by its name, or nothing matches.
    """
    real, synthetic = Path(real), Path(synthetic)
    left_out: list[tuple[str, str]] = []
    images = _scans(synthetic, left_out, force=force)
    if real.resolve() == synthetic.resolve() and not real.is_file():
        images = [one for one in images if _SYNTHETIC in one[0].name]
    inside = {path.resolve() for path, _ in images}
    reals = [
        (path, relative)
        for path, relative in _scans(real, [], force=force, acquired=True)
        if real.is_file() or (path.resolve() not in inside and _SYNTHETIC not in path.name)
    ]
    are_files = real.is_file() and synthetic.is_file()
    cases: list[Case] = []
    for path, relative in images:
        match = reals[0] if are_files else partner(relative, reals)
        if match is None:
            left_out.append((path.name, _NO_MATCH))
            continue
        file, below = match
        if file.resolve() == path.resolve():
            if are_files:
                raise InputError(_ITSELF, path=path, remedy="Name its synthetic image.")
            left_out.append((path.name, _ITSELF))
            continue
        name = _name_of_file(below, file)
        contrast = guess_contrast(Path(file.parent.name, file.name)) or guess_contrast(path)
        subject = guess_subject(below, is_2d=is_2d(file))[0] or name
        cases.append(Case(name, subject, {contrast or "scan": file}, synthetic=path))
    if not are_files:
        cases = _of_equal_folders(cases, dict(images) | dict(reals), left_out)
    if not cases:
        raise InputError(
            "contains no synthetic image that matches a real scan",
            path=synthetic,
            remedy="Use equal file names, BIDS names, or one file each.",
        )
    # Subject 1 of one site is not subject 1 of another.
    scans = [
        Scan(file, case.subject, None, "", file.name)
        for case in cases
        for file in case.images.values()
    ]
    apart = zip(cases, told_apart(scans, real), strict=True)
    cases = [replace(case, subject=str(scan.subject)) for case, scan in apart]
    return MatchedCases(_uniquely_named(cases), [], left_out)


def _of_equal_folders(
    cases: Sequence[Case], relative: Mapping[Path, Path], left_out: list[tuple[str, str]]
) -> list[Case]:
    """The cases without those whose real scan has a synthetic image in the same folder of its tree:
    `b/001.nii.gz` is that of `b/001.nii.gz`, not of `a/001.nii.gz`. The others go into `left_out`;
    `relative` is the path of every file in its tree.
    """

    def is_of_folder(case: Case) -> bool:
        assert case.synthetic is not None
        (real,) = case.images.values()
        return relative[case.synthetic].parent == relative[real].parent

    taken = {path for case in cases if is_of_folder(case) for path in case.images.values()}
    kept = [c for c in cases if is_of_folder(c) or taken.isdisjoint(c.images.values())]
    left_out += [(c.synthetic.name, _NO_MATCH) for c in cases if c not in kept and c.synthetic]
    return kept


def _groups(scans: Sequence[Scan]) -> dict[tuple[str, ...], list[Scan]]:
    """Scans of one subject and session; 2D images without a subject: of one name."""
    groups: dict[tuple[str, ...], list[Scan]] = defaultdict(list)
    for scan in scans:
        if scan.subject is None:
            groups["", "", series_name(scan.name)].append(scan)
        else:
            groups[scan.subject, scan.session or ""].append(scan)
    return groups


def _in_pairs(
    group: Sequence[Scan], source: str, target: str, *, by_table: bool
) -> Iterator[list[Scan]]:
    """Split a group into pairs, by names if it has several scans of one contrast.

    Two 2D images of one subject whose names have different slice numbers are not a pair, unless a
    table says so.
    """
    if max(Counter(scan.contrast for scan in group).values()) == 1:
        numbers = {slice_number(scan.name) for scan in group if is_2d(scan.path)} - {None}
        yield from [list(group)] if by_table or len(numbers) < 2 else ([scan] for scan in group)
        return
    by_name: dict[str, list[Scan]] = defaultdict(list)
    for scan in group:
        by_name[series_name(scan.name)].append(scan)
    wanted = sorted((source, target))
    complete = [s for s in by_name.values() if sorted(scan.contrast for scan in s) == wanted]
    if complete:
        yield from complete
        return
    firsts = {scan.contrast: scan for scan in reversed(group)}
    if len(firsts) == 2 and not is_2d(group[0].path):
        yield [firsts[source], firsts[target]]  # repeated runs of one session
        return
    yield from ([scan] for scan in group)


def _case_of(scan: Scan, images: dict[str, Path], masks: dict[tuple[str, str], Path]) -> Case:
    if scan.subject is None:
        name = series_name(scan.name)
        return Case(name, name, images)
    bids = parse_name(scan.path) is not None
    parts = [f"sub-{scan.subject}" if bids else scan.subject]
    if scan.session:
        parts.append(f"ses-{scan.session}" if bids else scan.session)
    mask = masks.get((scan.subject, scan.session or ""))
    return Case("_".join(parts), parts[0], images, mask=mask)


def _brain_masks(root: Path) -> dict[tuple[str, str], Path]:
    """Brain masks of BIDS derivatives by subject and session: anatomical, in the scan's own space.

    Tools such as fMRIPrep also write masks in a template's space and of functional scans.
    """
    masks: dict[tuple[str, str], Path] = {}
    for path in sorted(root.glob("derivatives/*/sub-*/**/*_desc-brain_mask.nii.gz")):
        name = parse_name(path)
        is_anatomical = path.parent.name == "anat" or path.parent.name[:4] in ("sub-", "ses-")
        if not is_anatomical or (name and name.entities.get("space", "T1w") not in CONTRASTS):
            continue
        missing = not_fetched(path)
        if missing is not None:
            warn(f"{missing} Without it, this mask is not used.")
        elif name is not None:
            masks.setdefault((name.entities["sub"], name.entities.get("ses", "")), path)
    return masks


def _scans(
    root: Path, left_out: list[tuple[str, str]], *, force: bool, acquired: bool = False
) -> list[tuple[Path, Path]]:
    """Readable files whose names do not say that they are something else, or, if they must be
    `acquired`, synthetic."""
    kept = []
    for path, relative in files_below(root):
        identity = of_path(relative)
        reason = identity.objection if identity.is_other or acquired else None
        if reason and not force:
            if root.is_file():
                raise InputError(reason, path=path, remedy="Name another scan, or use --force.")
            left_out.append((path.name, reason))
        else:
            kept.append((path, relative))
    return kept


def _name_of_file(relative: Path, path: Path) -> str:
    name = parse_name(path)
    if name is not None:
        keys = [key for key in ("sub", "ses") if key in name.entities]
        return "_".join(f"{key}-{name.entities[key]}" for key in keys)
    if not words_of(relative):  # `patient07/T2.nii.gz`
        return relative.parent.name or path.parent.name
    return stem_of(relative)


def _uniquely_named(cases: Sequence[Case]) -> list[Case]:
    """The cases; of those with one name, the name of each gets what tells them apart: the subject,
    the name of the real scan, or the folder of the synthetic image."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.name].append(case)
    names: dict[int, str] = {}
    for name, group in groups.items():
        if len(group) == 1:
            continue
        stems = [stem_of(next(iter(case.images.values()))) for case in group]
        folders = [case.synthetic.parent.name if case.synthetic else "" for case in group]
        ways = [case.subject for case in group], stems, folders
        labels = next((way for way in ways if len(set(way)) == len(group)), stems)
        names |= {id(c): f"{name}_{label}" for c, label in zip(group, labels, strict=True)}
    result, seen = [], set()
    for case in cases:
        name = names.get(id(case), case.name)
        while name in seen:
            name += "_again"
        seen.add(name)
        result.append(replace(case, name=name))
    return result
