# SPDX-License-Identifier: BSD-3-Clause
"""The global attributes of a merged file, by the CF and ACDD conventions."""

from __future__ import annotations

from typing import Any

from nightjar import __version__
from nightjar.clock import NS_PER_S
from nightjar.das.naming import day_of
from nightjar.times import iso
from nightjard.merged.config import MergedConfig

_COMMENT = (
    "bolometers and other voltages are the counts of the ADC, unchanged; times by the DAS's clock "
    "are in time, what leads to true time is in das_offset; pointing is interpolated at time + "
    "das_offset without the skew of the channels; see each variable's comment and quality"
)


def of_file(config: MergedConfig, hour_ns: int, now_ns: int) -> dict[str, Any]:
    """Return the global attributes of a new file.

    Parameters
    ----------
    config
        The configuration.
    hour_ns
        Start of the hour, ns UTC.
    now_ns
        When it is made, ns UTC.
    """
    site, output = config.site, config.output
    made = f"{iso(now_ns, 0)}Z"
    identity = f"{day_of(hour_ns)}_{hour_ns // (3600 * NS_PER_S) % 24:02d}"
    period_s = 1 / config.rate_hz
    return {
        "Conventions": "CF-1.10, ACDD-1.3",
        "title": output.title,
        "summary": f"Bolometers, telescope pointing, rotator and housekeeping of one UT hour, "
        f"{config.rate_hz} Hz, merged minute by minute",
        "keywords": "bolometer, time stream, millimetre astronomy, telescope pointing",
        "id": f"{output.instrument.replace(' ', '_')}_{identity}",
        "naming_authority": "nightjar",
        "institution": output.institution,
        "source": f"nightjar {__version__}; erfa, netCDF",
        "history": f"{made} made by nightjar {__version__}, all fill",
        "comment": _COMMENT,
        "references": "docs of nightjar, page merge",
        "processing_level": "merged",
        "license": "as the observatory rules",
        "acknowledgement": output.institution,
        "standard_name_vocabulary": "CF Standard Name Table v85",
        "date_created": made,
        "date_modified": made,
        "creator_name": output.institution,
        "creator_type": "institution",
        "publisher_name": output.institution,
        "publisher_type": "institution",
        "project": output.instrument,
        "time_coverage_start": f"{iso(hour_ns, 0)}Z",
        "time_coverage_end": f"{iso(hour_ns + 3600 * NS_PER_S, 0)}Z",
        "time_coverage_duration": "PT1H",
        "time_coverage_resolution": f"PT{period_s:g}S",
        "geospatial_lat_min": site.latitude_deg,
        "geospatial_lat_max": site.latitude_deg,
        "geospatial_lat_units": "degrees_north",
        "geospatial_lon_min": site.longitude_deg,
        "geospatial_lon_max": site.longitude_deg,
        "geospatial_lon_units": "degrees_east",
        "geospatial_vertical_min": site.height_m,
        "geospatial_vertical_max": site.height_m,
        "geospatial_vertical_units": "m",
        "geospatial_vertical_positive": "up",
        "geospatial_bounds": f"POINT ({site.latitude_deg} {site.longitude_deg})",
        "geospatial_bounds_crs": "EPSG:4326",
        "observatory": site.observatory,
        "telescope": output.telescope,
        "instrument": output.instrument,
        "config_sha256": config.digest,
        "channel_map_sha256": config.channels.digest,
        "merge_format": config.file_format,
        "alignment": config.alignment.align,
        "iers_version": "UT1-UTC of the telescope's record; polar motion of the configuration",
        "input_files": "the variables input_raw, input_pointing and input_housekeeping",
        "simulated": "unknown",
    }
