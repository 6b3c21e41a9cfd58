# SPDX-License-Identifier: BSD-3-Clause
"""The cards of simulated cubes: keywords of VAMPIRES with plausible values.

Two sources, as on the instrument: the telescope's and the bench's keywords, which a header writer
has rounded to their formats, and the camera's own, which the frame grabber leaves at full
precision. What changes in the night follows from the time alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nightjar.times import NS_PER_DAY, NS_PER_S, iso, mjd

Keywords = dict[str, tuple[Any, str]]

LOCAL_OFFSET_NS = -10 * 3600 * NS_PER_S
LATITUDE_DEG, LONGITUDE_DEG = 19.8255, -155.4760
PIXEL_MM = 0.0046
FIELDS = ("F720", "F610", "F670", "F760")  # of the multi-band imager, one set of WCS cards each
_SCALE_DEG = 5.9e-3 / 3600
_SIDEREAL = 1.00273790935
# A J2000 place for each name; others get one from their letters.
_PLACES = {"HD 163296": (269.0887, -21.9562), "AB Aur": (73.9410, 30.5512)}


@dataclass(frozen=True)
class Setup:
    """How the instrument stands: what a header says of a segment.

    Attributes
    ----------
    data_type, target
        DATA-TYP and OBJECT.
    exposure_s
        EXPTIME.
    rows, columns
        Of the crop that PRD-RNG tells (small simulated frames pretend to be it).
    mode
        ``Fast`` or ``Slow``: U_DETMOD.
    is_triggered, flc
        EXTTRIG, and whether the trigger drives the modulator.
    half_width_us
        U_TRIGJT.
    filter1, filter2
        FILTER01 and FILTER02.
    angle_deg
        Of the half-wave plate: RET-ANG1.
    """

    data_type: str = "OBJECT"
    target: str = "HD 163296"
    exposure_s: float = 0.001
    rows: int = 536
    columns: int = 536
    mode: str = "Fast"
    is_triggered: bool = True
    flc: bool = True
    half_width_us: float = 500.0
    filter1: str = "Open"
    filter2: str = "Open"
    angle_deg: float = 0.0


def sky_keywords(setup: Setup, time_ns: int) -> Keywords:
    """Return telescope, weather and adaptive optics at a time, rounded to their formats."""
    ra, dec = place(setup.target)
    lst_deg = _sidereal_deg(time_ns)
    altitude, azimuth = _horizontal(lst_deg - ra, dec)
    wave = math.sin(2 * math.pi * (time_ns % (3 * 3600 * NS_PER_S)) / (3 * 3600 * NS_PER_S))
    rotator = (0.5 * (altitude + 39.0) + 90 * wave) % 360
    zenith = 90 - altitude
    return {
        "AIRMASS": (round(1 / max(0.05, math.cos(math.radians(zenith))), 3), "airmass"),
        "ALTITUDE": (round(altitude, 5), "[degree] telescope altitude"),
        "AZIMUTH": (round(azimuth, 5), "[degree] telescope azimuth, north 0, east 90"),
        "DEC": (_sexagesimal(dec, True), "declination of pointing"),
        "DOM-HUM": (round(18.4 + wave, 1), "[%] humidity in the dome"),
        "DOM-PRS": (round(617.2 + 0.3 * wave, 2), "[hPa] pressure in the dome"),
        "DOM-TMP": (round(274.1 + wave, 2), "[K] temperature in the dome"),
        "DOM-WND": (round(0.6 + 0.2 * wave, 2), "[m/s] wind in the dome"),
        "D_IMRANG": (round(rotator, 3), "[degree] angle of the image rotator"),
        "D_IMRPAD": (round((rotator * 2) % 360, 3), "[degree] position angle, derotator"),
        "D_IMRPAP": (round(39.0 + 0.01 * wave, 3), "[degree] position angle of the pupil"),
        "D_IMRMOD": ("ADI", "mode of the image rotator"),
        "EQUINOX": (2000.0, "standard equinox"),
        "LST": (_sexagesimal(lst_deg, False), "local sidereal time"),
        "M2-POS1": (round(1.203 + 0.01 * wave, 3), "[mm] secondary in x"),
        "M2-POS2": (round(-2.121, 3), "[mm] secondary in y"),
        "M2-POS3": (round(3.482 + 0.004 * wave, 3), "[mm] secondary in z"),
        "OUT-HUM": (round(21.0 + 2 * wave, 1), "[%] humidity outside"),
        "OUT-PRS": (round(617.1 + 0.3 * wave, 2), "[hPa] pressure outside"),
        "OUT-TMP": (round(273.4 + wave, 2), "[K] temperature outside"),
        "OUT-WND": (round(3.9 + wave, 2), "[m/s] wind outside"),
        "RA": (_sexagesimal(ra, False), "right ascension of pointing"),
        "RADESYS": ("FK5", "celestial reference system"),
        "RET-ANG1": (round(setup.angle_deg, 2), "[degree] position angle of retarder plate 1"),
        "RET-ANG2": (0.0, "[degree] position angle of retarder plate 2"),
        "RET-MOD1": ("ASYNC_FIX" if setup.flc else "STATIC", "rotation of retarder plate 1"),
        "RET-MOD2": ("STATIC", "rotation of retarder plate 2"),
        "RET-PLT1": ("HWP", "retarder plate 1"),
        "RET-PLT2": ("NONE", "retarder plate 2"),
        "RET-POS1": (56.0, "[mm] stage of retarder plate 1"),
        "RET-POS2": (90.0, "[mm] stage of retarder plate 2"),
        "SEEING": (round(0.55 + 0.1 * wave, 2), "[arcsec] seeing"),
        "WEATHER": ("Fine", "weather condition"),
        "X_DMOPT": ("OUT", "probe behind the deformable mirror"),
        "X_FINTMP": (round(281.0 + 0.2 * wave, 3), "[K] temperature of the bench"),
        "X_IRCFLT": ("H", "filter of the infrared camera"),
        "X_POLAR": ("OUT", "polariser wheel"),
        "X_PYWFRQ": (2000.0, "[Hz] loop of the pyramid sensor"),
        "X_PYWLOP": ("ON", "pyramid loop"),
        "ZD": (round(zenith, 5), "[degree] zenith distance"),
    }


def bench_keywords(setup: Setup, camera: int) -> Keywords:
    """Return what the header writer knows of the observation and of the optics."""
    is_mbi = setup.columns >= 1888
    ra, dec = place(setup.target)
    keys: Keywords = {
        "BUNIT": ("ADU", "unit of the original values"),
        "DATA-TYP": (setup.data_type, "type of data"),
        "EXP-ID": ("", "ID of the exposure"),
        "FRAMEID": ("", "ID of the image, sequential"),
        "INSTRUME": ("VAMPIRES", "instrument"),
        "OBJECT": (setup.target, "target"),
        "OBS-ALOC": ("Observation", "allocation"),
        "OBS-MOD": ("IPOL_MBI" if is_mbi else "IPOL", "observing mode"),
        "OBSERVAT": ("SIMULATED", "observatory"),
        "OBSERVER": ("nightjar simulate night", "observers"),
        "PROP-ID": ("o25000", "proposal"),
        "TELESCOP": ("Simulated", "telescope"),
        "TIMESYS": ("UTC", "time system"),
        "U_BS": ("PBS", "beam splitter"),
        "U_BSTH": (15.4, "[degree] angle of the beam splitter"),
        "U_DIFFL1": ("Open", "differential filter, camera 1"),
        "U_DIFFL2": ("Open", "differential filter, camera 2"),
        "U_FCS": ("standard", "focus of the cameras"),
        "U_FILTER": (setup.filter1, "filter"),
        "U_FLDSTP": ("Fieldstop", "field stop"),
        "U_FLCST": ("IN" if setup.flc else "OUT", "stage of the modulator"),
        "U_MASK": ("Open", "pupil mask"),
        "U_MBI": ("Dichroics" if is_mbi else "Open", "multi-band wheel"),
        "U_PUPST": ("OUT", "pupil lens"),
        "U_QWP1": (83.2, "[degree] quarter-wave plate 1"),
        "U_QWP1TH": (0.0, "[degree] offset of quarter-wave plate 1"),
        "U_QWP2": (21.7, "[degree] quarter-wave plate 2"),
        "U_QWP2TH": (0.0, "[degree] offset of quarter-wave plate 2"),
        "U_QWPMOD": ("FILTER", "tracking of the quarter-wave plates"),
    }
    for number, field in enumerate(FIELDS if is_mbi else FIELDS[:1]):
        keys |= _wcs("BCD"[number - 1] if number else "", field, ra, dec, setup, camera)
    return keys


def camera_keywords(setup: Setup, camera: int, rate_hz: float, time_ns: int) -> Keywords:
    """Return the keywords of the stream: numbers at the full precision of a double."""
    row0, column0 = (2304 - setup.rows) // 2, (4096 - setup.columns) // 2
    swing = math.sin(time_ns % (600 * NS_PER_S) / (600 * NS_PER_S) * 2 * math.pi)
    return {
        "BIN-FCT1": (1, "[pixel] binning in X"),
        "BIN-FCT2": (1, "[pixel] binning in Y"),
        "CROPPED": (True, "partial readout or cropped"),
        "DET-NSMP": (1, "non-destructive reads"),
        "DET-TMP": (-44.9 + 0.0312345678 * swing, "[degC] detector temperature"),
        "DETECTOR": (f"VCAM{camera} - OrcaQ", "name of the detector"),
        "DETPXSZ1": (PIXEL_MM, "[mm] size of a pixel in X"),
        "DETPXSZ2": (PIXEL_MM, "[mm] size of a pixel in Y"),
        "EXPTIME": (setup.exposure_s * (1 + 2e-16), "[s] exposure time of a frame"),
        "EXTTRIG": (setup.is_triggered, "exposure of the detector by external trigger"),
        "F-RATIO": (21.3, "focal ratio"),
        "FILTER01": (setup.filter1, "primary filter"),
        "FILTER02": (setup.filter2, "secondary filter"),
        "FRATE": (rate_hz, "[Hz] frame rate of the settings"),
        "GAIN": (0.103 + 1e-3 * (camera - 1) / 3, "[e-/ADU] conversion factor"),
        "BIAS": (200.0, "[ADU] bias"),
        "INST-PA": (-38.90000000000001, "[degree] position angle of the instrument"),
        "MFRATE": (rate_hz * (1 + 1.2345678e-4 * swing), "[Hz] measured frame rate"),
        "PRD-MIN1": (column0, "[pixel] first column read"),
        "PRD-MIN2": (row0, "[pixel] first row read"),
        "PRD-RNG1": (setup.columns, "[pixel] columns read"),
        "PRD-RNG2": (setup.rows, "[pixel] rows read"),
        "U_CAMERA": (camera, "number of the camera"),
        "U_DETMOD": (setup.mode, "readout mode of the detector"),
        "U_FLC": (None, "state of the modulator"),
        "U_FLCEN": (setup.flc and setup.is_triggered, "the trigger drives the modulator"),
        "U_TRIGEN": (setup.is_triggered, "the trigger runs"),
        "U_TRIGJT": (round(setup.half_width_us) if setup.flc else 0,
                     "[us] half width of the trigger's jitter"),
        "U_TRIGOF": (20, "[us] delay of the pulse after the modulator"),
        "U_TRIGPW": (10, "[us] width of the pulse"),
    }  # fmt: skip


def time_keywords(first_ns: int, last_ns: int) -> Keywords:
    """Return the nine cards of times that the logger adds, of the first and last logging time."""
    times = (("", (first_ns + last_ns) // 2), ("-STR", first_ns), ("-END", last_ns))
    what = {"": "typical", "-STR": "start", "-END": "end"}
    keys: Keywords = {}
    for suffix, time_ns in times:
        text = f"{what[suffix]} of the cube"
        keys[f"UT{suffix}"] = (_clock(time_ns), f"[HH:MM:SS.SS] UTC, {text}")
        keys[f"MJD{suffix}"] = (mjd(time_ns), f"[d] modified Julian date, {text}")
        keys[f"HST{suffix}"] = (_clock(time_ns + LOCAL_OFFSET_NS), f"[HH:MM:SS.SS] HST, {text}")
    return keys


def place(target: str) -> tuple[float, float]:
    """Return right ascension and declination of a target, degrees."""
    if target in _PLACES:
        return _PLACES[target]
    letters = sum(ord(letter) * (index + 1) for index, letter in enumerate(target))
    return letters * 7.31 % 360, letters * 3.7 % 60 - 15


def _clock(time_ns: int) -> str:
    """Return HH:MM:SS.SS, cut and never 60.00."""
    return iso(time_ns, 2)[11:]


def _sidereal_deg(time_ns: int) -> float:
    days = (time_ns - 946_728_000 * NS_PER_S) / NS_PER_DAY  # since J2000.0
    return (280.46062 + 360 * _SIDEREAL * days + LONGITUDE_DEG) % 360


def _horizontal(hour_angle_deg: float, dec_deg: float) -> tuple[float, float]:
    hour, dec = math.radians(hour_angle_deg), math.radians(dec_deg)
    latitude = math.radians(LATITUDE_DEG)
    sine = math.sin(latitude) * math.sin(dec) + math.cos(latitude) * math.cos(dec) * math.cos(hour)
    altitude = math.asin(max(-1.0, min(1.0, sine)))
    azimuth = math.atan2(
        -math.cos(dec) * math.sin(hour),
        math.sin(dec) * math.cos(latitude) - math.cos(dec) * math.sin(latitude) * math.cos(hour),
    )
    # A simulated telescope does not point into the ground.
    return max(20.0, math.degrees(altitude)), math.degrees(azimuth) % 360


def _sexagesimal(degrees: float, is_signed: bool) -> str:
    value = abs(degrees) if is_signed else degrees % 360 / 15
    digits = 2 if is_signed else 3
    units = round(value * 3600 * 10**digits)
    seconds, rest = divmod(units, 10**digits)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:0{digits}d}"
    return ("-" if degrees < 0 else "+") + text if is_signed else text


def _wcs(
    suffix: str, field: str, ra: float, dec: float, setup: Setup, camera: int
) -> Keywords:
    keys: Keywords = {f"WCSNAME{suffix}": (field, "field of this set")}
    turn = math.radians(-38.9 + 180 * (camera - 1))
    for axis, kind, value, size in (
        (1, "RA---TAN", ra, setup.columns), (2, "DEC--TAN", dec, setup.rows),
    ):  # fmt: skip
        keys |= {
            f"CRPIX{axis}{suffix}": (round(size / 2 + 0.5, 1), "[pixel] reference"),
            f"CRVAL{axis}{suffix}": (round(value, 8), "[degree] sky coordinate of the reference"),
            f"CDELT{axis}{suffix}": (round(_SCALE_DEG, 8), "[degree/pixel] scale"),
            f"CTYPE{axis}{suffix}": (kind, "projection"),
            f"CUNIT{axis}{suffix}": ("degree", "unit of CRVAL and CDELT"),
        }
    for row, column, value in (
        (1, 1, -math.cos(turn)), (1, 2, math.sin(turn)), (2, 1, math.sin(turn)),
        (2, 2, math.cos(turn)),
    ):  # fmt: skip
        keys[f"CD{row}_{column}{suffix}"] = (
            round(_SCALE_DEG * value, 8), "[degree/pixel] rotation and scale"
        )  # fmt: skip
    return keys
