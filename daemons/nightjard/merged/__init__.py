# SPDX-License-Identifier: BSD-3-Clause
"""The merge: raw, pointing and housekeeping minutes into one netCDF file a UT hour.

What others call, all with plain arguments:

``config``
    ``MergedConfig`` (the one configuration), its ``text`` (what tasks take) and ``digest``;
    ``config_of(text)``.
``minute``
    ``merge_minute(config, start_ns, alignment=None, is_late=False)``: the task, pure and
    idempotent; makes the hour's file where there is none. Bad inputs never raise: they give fill,
    quality bits and a reason in the result's ``minutes``. ``again`` of the result names other
    minutes to be merged again (left by a crash, or their file was damaged and made anew).
``edges``, ``alignment``
    ``find_edges(config, start_ns)``: the task that returns a minute's edges as JSON;
    ``fit(edges, minutes, config.alignment, config.levels)`` -> ``Alignment``; ``as_json`` makes the
    argument of ``merge_minute`` of it. Live: keep the edges of the last ``alignment.window_s``,
    add each new minute's (and a late one's again), fit for the minute, merge it. Offline: all edges
    first, then fit, then merge.
``hour``
    ``merge_hour(config, hour_ns, minutes=None, alignment=None, is_late=False)``: the task that does
    an hour in one go; ``merge_hours(config, hours, executor, ...)``: a night through an executor
    in both passes; ``TASKS``: the functions that an executor must allow.
``netcdf``
    ``hour_path``, ``hour_of``, ``hour_lock``, ``create``, ``opened`` -> ``HourFile`` with
    ``statuses``, ``clear``, ``note``.
``quality``
    ``BITS`` and ``STATUS`` by name.
``variables``
    names, types, dimensions and attributes of a file.

Below them: ``raw_minutes`` and ``reading`` (files to arrays), ``calibration`` (volts to
quantities), ``interpolation``, ``sky`` (apparent place and ICRS), ``columns`` (what is read, sample
by sample), ``placing`` (pointing and rotator at the samples), ``pairing`` and ``clusters`` (edges
to the difference of the clocks), ``attributes``, ``bolometers``.
"""
