"""Words and phrases in names and descriptions, and what they say about an image.

It follows the habits of scanners (Siemens, GE, Philips), of programs (FSL, SPM, CAT12, ANTs,
FreeSurfer, dcm2niix) and of public datasets (BraTS, HCP, UK Biobank, ADNI, fastMRI, IXI), in
English, German, French, Spanish and Italian. All patterns are for text as
`mrbridge.io.contrast.normalised` returns it.
"""

from __future__ import annotations

import re

GLUED = frozenset(
    """
    t1 t1w t1wi t1n t1c t2 t2w t2wi t2f pd pdw pdwi flair dark fluid star weighted
    ax axi axial sag sagittal cor coronal tra trans transversal 2d 3d iso high res hires fs fatsat
    se tse fse frfse ffe tfe gre spgr fspgr mprage memprage bravo flash vibe space spc cube tirm tir
    blade propeller haste turbo spin echo epi mpr orig raw crop cropped
    pre post after before native nativ plain no non without wo with w mit ohne nach vor sans avec
    apres avant sin con tras senza dopo
    gd gad gado gadolinium contrast contraste contrasto kontrast ce km mdc enhanced enh injection
    contrastenhanced enhancement agent bolus
    map maps mapping rho relax ir ratio swi hemo haemo mag magnitude phase real imag imaginary
    brain head skull skullstripped stripped bet mask masks masked label labels seg segs
    segmentation dseg lesion lesions filled roi prob pve csf gm wm tissue first subcort warp inverse
    warped field bias corr corrected biascorr grad r1 r2 r2s jac jacobian affine template to mni reg
    registered
    coreg aligned b0 b1 fmap fieldmap tof mra angio mip inv uni den image images loc localizer
    localiser scout survey perf perfusion dyn dynamic cal calibration ref mt on off dir q
    """.split()  # noqa: SIM905
)
"""Words that are often written together, as in AXT1POST, t1ce, T2FLAIR or brainmask."""


def _words(pattern: str) -> re.Pattern[str]:
    """A pattern of whole words; it may be written on several lines."""
    return re.compile(rf"\b(?:{''.join(line.strip() for line in pattern.splitlines())})\b")


_T1 = r"(?:t1|t1w|t1wi)"
_T2 = r"(?:t2|t2w|t2wi)"
_SURE_AGENT = (
    r"gd|gad|gado[a-z]*|gadavist|magnevist|dotarem|prohance|multihance|omniscan|clariscan|"
    r"primovist|eovist|vueway|elucirem|artirem|contrast[a-z]*|kontrast[a-z]*|km|mdc|pdc|civ|"
    r"inj|inject[a-z]*|injekt[a-z]*|iniezione|inyeccion|ce|enhanced|enhancement|enh"
)
_AGENT = (
    rf"(?:{_SURE_AGENT}|mezzo di contrasto|medio de contraste|produit de contraste|produit|agent|"
    r"bolus|iv)"
)
_ARTICLE = r"(?:(?:de|del|di|il|la|l|el|the|any|iv) )*"
WITHOUT = _words(
    rf"""(?:pre|non|no|not|without|wo|w o|before|ohne|vor|kein|keine|nativ|native|sans|avant|sin|
    antes|senza|prima) {_ARTICLE}{_AGENT}(?: {_AGENT})*|(?:{_AGENT}) (?:none|nein|non|no)|
    multi contrast|contrast \d+"""
)
BOTH = _words(r"with (?:and )?without|without (?:and )?with|pre (?:and |und |et |e |y )?post")
AFTER = _words(
    rf"{_SURE_AGENT}|t1c|"
    rf"(?:with|post|after|mit|nach|avec|apres|con|tras|dopo|despues) {_ARTICLE}(?:{_AGENT}|cm|c)|"
    rf"(?:{_T1}|{_T2}|mprage|bravo|spgr|fspgr|flair|vibe|space) c|"
    r"post(?! (?:op|surg|treat|tx|rt|rx|radi|chemo|ther|proc|mort|nat|part|stroke|acute|train|"
    r"exerc|les|ict|resec|reg|n4|bias|interv|drug|dose)[a-z]*)|"
    rf"(?:{_T1}|mprage|se|tse)(?: [a-z0-9]+)* (?:apres|avec|dopo|despues|nach)(?: \d+)?$"
)


def _others(*rows: tuple[str, str, str]) -> tuple[tuple[re.Pattern[str], str, str], ...]:
    """Pattern, kind and reason of each kind of image that is not one of the contrasts."""
    return tuple((_words(pattern), kind, reason) for kind, reason, pattern in rows)


OTHERS = _others(
    ("mask", "is a mask, a segmentation or a label map", r"""
        [a-z]*(?:mask|masks|masque|maske|maschera|mascara)|(?:a|d|f|pve|prob|synth|sam|spm)?seg|segs|segm|
        segment(?:s|ation|ations|ed|ierung|azione|acion)?|labels?|labelmap|
        (?:[a-z]*parc|parcellations?|ribbon)|rois?|vois?|contours?|annotations?|ground truth|
        groundtruth|truth$|tissues?|pve|mixeltype|posteriors?|lesions?(?! filled)|
        lasion(?:en)?|prob|probability
        """),
    ("mask", "is a mask, a segmentation or a label map",
        r"(?:gm|wm|csf|gt|tumou?r|o?edema|necrosis)(?: (?:prob|p?\d+))*$"),
    ("transformation", "is a spatial transformation", r"""
        (?:inv|inverse)?(?<!grad )(?:warp|warps|warpfield|warpcoef|deformation|displacement)|
        [a-z]*coeffs?|[a-z]*coefs?|nonlin field|def ?field|ddf|dvf|svf|xfm|affine(?: \d+)?$|
        generic affine|transform|jac|jacobian|logjacobian|velocity|flow(?! comp)|disp|warp field
        """),
    ("calibration", "is a field map, a bias field or a calibration scan", r"""
        bias(?! corr| n4| free)(?: field)?|bias 32ch|bias bc|b1(?! corr)(?: plus)?(?: map)?|
        b0|rf map|rfmap|afi|tfl b1|coil sens[a-z]*|coilsens|sens[a-z]* (?:map|ref)|ref ?scan|
        (?:asset|pure|speeder) cal|cal head|cal body|calibration|prescan|shim[a-z]*|setter|
        vnav|navigator|field ?map(?:s|ping)?|fieldmap|fmap|gre fm|gre field|fm2d[0-9a-z]*|
        epse2d[0-9a-z]*
        """),
    ("localizer", "is a localizer", r"""
        loc|locali[sz]er|lokalizer|lokali[sz]er|localizador|localizzatore|reperage|centraggio|
        centrage|scout|aascout|aahscout|aahead|survey|smart ?brain|
        (?:3|three) ?(?:pl|plane|planes)|topogram
        """),
    ("phase", "is a phase, real or imaginary image, not a magnitude image", r"""
        (?<!in )(?<!opp )(?<!opposed )(?<!out of )(?<!multi )phase
        (?! (?:enc[a-z]*|dir[a-z]*|ap|pa|sensitive|array|[0-9ivx]+))|
        pha|phs|imaginary|phasemap|(?:ph|real|imag)(?: e?\d+[a-z]?)?$
        """),
    ("derived map", "is a quantitative map", rf"""
        {_T1} ?(?:map|maps|mapping|rho|relax[a-z]*|images)|t1rho|
        {_T2} (?:map|maps|mapping|relax[a-z]*)|t2 star map|pd map|quant[a-z]*|
        q(?:{_T1}|{_T2}|pd)|(?:r1|r2|r2s|r2 star)|relaxometry|mt ?sat|mtr|mtv|mwf|mwi|
        myelin(?: map)?|qsm|qmap|adc|eadc|cbf|cbv|mtt|ttp|tmax|m0|[a-z]*divided ?by|ratio|
        thickness|snr|residuals?|uncertainty|g ?factor
        """),
    ("derived map", "is a statistical map", r"""
        (?:t|z|f|zf)stat ?\d*|[tzp] ?map|stat ?maps?|tfce|corrp|(?:var)?cope ?\d*|
        spm ?[tf] ?\d{4}|beta \d{4}
        """),
    ("diffusion", "is a diffusion image", r"""
        (?:c?fa|md|rd|ad|tensor|colfa)(?: map)?$|trace ?w?|tensor|dwi|dki|diffusion|ep2d diff|
        b ?\d{3,4}
        """),
    ("derived map", "is one of the scans of a quantitative map",
        r"vfa[0-9]*|magi ?c|sy ?mri|mdme|qalas|despot[0-9]?|mpm|variable flip[a-z]*"),
    ("functional", "is a functional image", r"bold|fmri|resting|sbref"),
    ("dynamic", "is a perfusion or dynamic series",
        r"perf|perfusion|p?c?asl|pasl|dsc|dce|dyn|dynamics?|dynamique|dynamisch|dinamic[ao]"),
    ("angiography", "is an angiography", r"""
        tof|mra|mrv|angio[a-z]*|venogra[a-z]*|cow|willis|carotid[a-z]*|inflow|pca|pcmra|
        [a-z]*mip|mips|time of flight|phase contrast|flq|qflow
        """),
    ("T2*", "is weighted by T2*", rf"""
        swi[a-z]*|swan|suscept[a-z]*|ven ?bold|{_T2}(?: [a-z0-9]+)? star|star$|hemo|haemo|
        ha?emorrh[a-z]*|t2s|{_T2} (?:gre|ge|ffe|fl2d|fl3d|fe|s|me2d)|
        (?:gre|ffe|fl2d|me2d) {_T2}|medic|me2d[0-9a-z]*|merge|megre|t2starw?|t2 star
        """),
    ("steady state", "is a steady-state sequence (bright fluid)", r"""
        fiesta|ciss|ci3d[0-9a-z]*|true ?fisp|trufi[0-9a-z]*|b ?ffe|balanced|b?ssfp|cosmic|
        dess|de3d[0-9a-z]*|psif[0-9a-z]*|tfi[23]d[0-9a-z]*
        """),
    ("MT", "is weighted by magnetization transfer", r"""
        mt (?:on|off|pulse)|mtc|mt ?w|mt$|(?:gre|ffe|spgr|flash|fl3d|fl2d|t1|t1w) mt|mt gre|
        mt fl3d|magneti[sz]ation transfer
        """),
    ("DIR", "is a double inversion recovery",
        r"dir(?! (?:ap|pa|lr|rl|is|si))|double inversion"),
    ("STIR", "is a STIR (fat is nulled)", r"stir|fat null[a-z]*"),
    ("MP2RAGE", "is one inversion of an MP2RAGE", r"inv ?[12]"),
    ("MP2RAGE", "is the uniform image of an MP2RAGE, whose background is noise",
        r"(?:mp ?2 ?rage|t1|t1w)(?: [a-z0-9]+)*? uni(?! den)|uni images?|unit1"),
    ("derived map", "is a difference of two images",
        r"(?:pre|post|gd|contrast|dyn) sub|sub$|subtr[a-z]*|sustraccion|difference"),
    ("fat", "is a fat or opposed-phase image", r"""
        (?:dixon|mdixon|ideal|lava|flex)(?: [a-z0-9]+)* (?:f|fat|ff|opp|opposed|out)|fat only
        """),
    ("other modality", "is spectroscopy", r"mrs|csi|svs|spectro[a-z]*"),
    ("other modality", "is of another modality", r"fdg|pet|spect|fluoro"),
    ("screen save", "is a screenshot or a report", r"screen ?(?:save|shot)|report"),
)  # fmt: skip
ELSEWHERE = _words(
    r"abdom[a-z]*|ankle|aorta|arm|bladder|breasts?|[clt]? ?spine|chest|elbow|extremity|femur|"
    r"finger|foot|forearm|hand|heart|hips?|humerus|kidneys?|knees?|knie|genou|rodilla|ginocchio|"
    r"legs?|liver|lung|neck|pancreas|pelvis|prostate|shoulder|spleen|thigh|thorax|toe|uterus|wrist"
)
"""Parts of the body other than the head (PS3.16, annex L)."""
SYNTHETIC = _words(
    r"synth(?! (?:strip|seg|morph|rad)\b)|synthetic|synthetique|synthetisch[a-z]*|sintetic[ao]|"
    r"synthesi[sz]ed|synthsr|fake"
)
# The same where no word says a contrast: CT_T1 may be the T1w scan of a control.
WEAK_OTHERS = _others(
    ("derived map", "is a statistical map",
        r"[a-z]*stat ?\d*|cope ?\d*|varcope ?\d*|spm ?[tf] ?\d*|pval[a-z]*|con \d{4}"),
    ("echo-planar", "is an echo-planar or diffusion image", r"dti|diff|ep2d[a-z]*|epi"),
    ("other modality", "is of another modality", r"ct|cta|xray|us"),
    ("STIR", "is an inversion recovery (STIR or FLAIR)", r"tirm|tir"),
)  # fmt: skip
CONTRASTS: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    # contrast, whether it is written in full or as a bare letter and number, words
    ("FLAIR", "full", _words(
        r"flair[a-z]*|t2f|dark ?fluid|da fl|fluid attenuated|spcir[0-9a-z]*|flr")),
    ("T1w", "full", _words(
        r"t1w|t1wi|t1n|t1 weighted|m?e?mp ?rage|memprage|mp ?2 ?rage|bravo|f?spgr|mdeft|"
        r"tfl[0-9a-z]*|mpr(?: \w+)* (?:grad ?warp|n3|scaled|br raw)|"
        r"mt1(?: \w+)* (?:grad ?warp|n3m?)")),
    ("T1w", "bare", _words(r"t1")),
    ("T2w", "full", _words(r"t2w|t2wi|t2 weighted")),
    ("T2w", "bare", _words(r"t2")),
    ("PDw", "full", _words(r"pdw|pdwi|proton ?dens[a-z]*|dens[a-z]*|proton")),
    ("PDw", "bare", _words(r"pd|dp")),
)  # fmt: skip
# The space that an image was brought into is not what it shows: T1_reg_to_T2, T1_space-T2w.
SPACE = re.compile(
    r"\b(?:(?:reg[a-z]*|coreg[a-z]*|aligned|resl[a-z]*|resampled|warped|moved|flirt|norm[a-z]*) "
    r"(?:(?:to|2|in|into|on|onto|space|nach|auf|vers|dans|en|su|al) )?|"
    r"(?:to|2|in|into|on|onto|space|nach|auf|vers|dans|en|su|al) )"
    r"(?:t1|t1w|t2|t2w|pd|pdw|flair|mprage|mni\w*)(?: space)?\b"
)
